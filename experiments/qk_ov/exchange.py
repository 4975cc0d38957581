"""A head's output at END, made of one pattern and other values, and what that does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import interp
from experiments.qk_ov.prompts import Written, rewritten
from interp.core.errors import InterpError, ResultsError, Unsupported
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.engines.choose import weights_of
from interp.engine.interventions import Add, Hop, Intervention
from interp.engine.network.weights import Weights
from interp.heads.weights.factors import factors

PARTS = ("pattern", "values", "both")
CLOSE = 1e-4
"""Of the largest number: how near pattern times values must come to the head's z."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What heads read at END, in one run.

    Attributes:
        pattern, values: by head; zeros behind the end of a row.
    """

    pattern: Mapping[Site, Float[Tensor, "batch key"]]
    values: Mapping[Site, Float[Tensor, "batch key d_head"]]

    def z(self, head: Site, values: "tuple[Seen, Site] | None" = None) -> Float[Tensor, "batch d"]:
        """A head's pattern times its values, or those of another head or run."""
        of, other = (self, head) if values is None else values
        return torch.einsum("bk,bkd->bd", self.pattern[head], of.values[other])


def see(model: interp.Model, pairs: Pairs, heads: Sequence[Site], side: str) -> Seen:
    """The patterns of heads at END and their values, in a plain run.

    Raises:
        InterpError: pattern times values is not what the head puts out.
    """
    sites = {head: (head, replace(head, kind="pattern"), replace(head, kind="v")) for head in heads}
    wanted = [site for three in sites.values() for site in three]
    taken, ends = interp.capture(model, pairs, wanted, side=side), pairs.at("end").tolist()

    def at_end(site: Site) -> list[Tensor]:
        return [row[end] for row, end in zip(taken.rows(site), ends, strict=True)]

    found = Seen(
        {head: pad_sequence(at_end(p), batch_first=True) for head, (_, p, _) in sites.items()},
        {
            head: pad_sequence(list(taken.rows(v)), batch_first=True)
            for head, (_, _, v) in sites.items()
        },
    )
    for head in heads:
        z = torch.stack(at_end(head))
        apart, largest = (found.z(head) - z).abs().max(), z.abs().max()
        if apart > CLOSE * largest:
            raise InterpError(
                f"the pattern of head {head} times its values is {apart:.1e} away from its z, "
                f"which goes up to {largest:.1e}: pattern and values are not all that it is made "
                "of, so they cannot be exchanged one by one."
            )
    return found


def separate_writes(model: interp.Model) -> Weights:
    """The weights of a model in which every head writes for itself.

    Raises:
        Unsupported: the output of attention is normed, or replay cannot read the model.
    """
    w = weights_of(model)
    if any(block.attention.ends.write is not None for block in w.blocks):
        raise Unsupported(
            f"{model.name} norms the output of its attention, so that what a head writes depends "
            f"on the other heads. Choose a model without norms there. ({model.facts})"
        )
    return w


Change = tuple[Site, Float[Tensor, "batch d_head"], Site]
"""A head, and the z that is written in its place, through W_O of a head that may be another."""


class Writer:
    """Turns what heads shall put out at END into interventions on the direct path to the logits."""

    def __init__(self, model: interp.Model, pairs: Pairs, clean: Seen) -> None:
        self.model, self.pairs, self.clean = model, pairs, clean
        self.weights = separate_writes(model)

    def interventions(self, changes: Sequence[Change]) -> list[Intervention]:
        """What the changes of several heads add to the output of their layers, at END."""
        added: dict[int, Tensor] = {}
        for head, z, through in changes:
            layer = head.layer or 0
            delta = self._out(z, through) - self._out(self.clean.z(head), head)
            added[layer] = added.get(layer, torch.zeros(())) + delta
        rows, ends = torch.arange(len(self.pairs)), self.pairs.at("end")
        made = []
        for layer, delta in added.items():
            source = delta.new_zeros(*self.pairs.clean.shape, delta.shape[-1])
            source[rows, ends] = delta
            made.append(Intervention(Site("attn_out", layer), Add(source), "end"))
        return made

    def _out(self, z: Tensor, head: Site) -> Float[Tensor, "batch d_model"]:
        return z @ factors(self.weights, head.layer or 0).o[head.head].to(z)

    def measure(self, cells: Mapping[tuple[str, str, str], Sequence[Change]]) -> Results:
        """The effect of each (method, direction, site) by way of MLPs alone, in logits."""
        names = dict(zip(map("{:04d}".format, range(len(cells))), cells, strict=True))
        made = {name: self.interventions(cells[key]) for name, key in names.items()}
        hops = [Hop((Site("logits"),), through="mlps")]
        found = interp.intervene(self.model, self.pairs, made, hops=hops)
        keys = [names[name] for name in found.frame["site"].astype(str)]
        method, direction, site = zip(*keys, strict=True)
        frame = found.frame.assign(method=method, direction=direction, site=site, position="end")
        return Results(frame, found.provenance)


TOGETHER = "together"


def parts(
    model: interp.Model, pairs: Pairs, heads: Sequence[Site], task: Mapping[str, Written]
) -> Results:
    """Each head, and all together, with pattern, values or both of each corrupt run.

    Returns:
        Rows of the clean prompts: the part in `method`, the corruption in `direction`.
    """
    clean = see(model, pairs, heads, "clean")
    sets = {**{str(head): [head] for head in heads}, TOGETHER: list(heads)}
    cells: dict[tuple[str, str, str], list[Change]] = {}
    for corruption, written in task.items():
        corrupt = see(model, rewritten(pairs, written), heads, "corrupt")
        made = {
            "pattern": {head: corrupt.z(head, (clean, head)) for head in heads},
            "values": {head: clean.z(head, (corrupt, head)) for head in heads},
            "both": {head: corrupt.z(head) for head in heads},
        }
        for part in PARTS:
            for name, chosen in sets.items():
                cells[part, corruption, name] = [(h, made[part][h], h) for h in chosen]
    return Writer(model, pairs, clean).measure(cells)


def others(
    kin: Sequence[Site], donor: Site, n_heads: int, draws: int, generator: torch.Generator
) -> list[Site]:
    """Random heads of the donor's layer that are none of its kin.

    Raises:
        ResultsError: the layer has no other head.
    """
    free = [head for j in range(n_heads) if (head := Site("z", donor.layer, head=j)) not in kin]
    if not free:
        raise ResultsError(
            f"all heads of layer {donor.layer} are like {donor}, so there is none to compare with; "
            "choose other heads, or a stricter rule."
        )
    return [free[i] for i in torch.randperm(len(free), generator=generator)[:draws].tolist()]


SWAPS = ("QK", "OV")
OUT, CLASS, RANDOM = "knocked out", "of the class", "of random heads"


def swaps(
    model: interp.Model,
    pairs: Pairs,
    heads: Sequence[Site],
    *,
    kin: Sequence[Site],
    means: Pairs,
    draws: int,
    seed: int,
) -> Results:
    """Each head with QK or OV of another head of the class, or of a random head of its layer.

    QK of B: B's pattern on the head's own values. OV of B: the head's own pattern on B's values,
    written by B's W_O. "knocked out" puts the head's mean z of other prompts in its place.

    Args:
        kin: heads of the same kind, whether chosen or not: none of them is a random head.
        means: prompts of the mean.
        draws: random heads for each donor, of its layer.

    Returns:
        Rows of the clean prompts: "QK", "OV" or "knocked out" in `method`, whose in `direction`,
        in `site` "A < B", or "together < ...", where every head gets the next one's.
    """
    generator = torch.Generator().manual_seed(seed)
    n_heads = model.facts.n_heads
    random = {donor: others([*heads, *kin], donor, n_heads, draws, generator) for donor in heads}
    every = sorted({*heads, *(head for drawn in random.values() for head in drawn)})
    clean, usual = see(model, pairs, every, "clean"), see(model, means, heads, "clean")
    mean = {head: usual.z(head).mean(0).expand(len(pairs), -1) for head in heads}

    def swap(which: str, head: Site, donor: Site) -> Change:
        if which == "QK":
            return head, clean.z(donor, (clean, head)), head
        return head, clean.z(head, (clean, donor)), donor

    cells: dict[tuple[str, str, str], list[Change]] = {
        (OUT, OUT, str(head)): [(head, mean[head], head)] for head in heads
    }
    cells[OUT, OUT, TOGETHER] = [(head, mean[head], head) for head in heads]
    following = dict(zip(heads, [*heads[1:], heads[0]], strict=True))
    for which in SWAPS:
        for head in heads:
            for donor in (donor for donor in heads if donor != head):
                cells[which, CLASS, f"{head} < {donor}"] = [swap(which, head, donor)]
                for drawn in random[donor]:
                    site = f"{head} < {drawn} for {donor}"
                    cells[which, RANDOM, site] = [swap(which, head, drawn)]
        made = [swap(which, head, donor) for head, donor in following.items()]
        cells[which, CLASS, f"{TOGETHER} < next"] = made
        for i in range(min(map(len, random.values()))):
            made = [swap(which, head, random[donor][i]) for head, donor in following.items()]
            cells[which, RANDOM, f"{TOGETHER} < random {i}"] = made
    return Writer(model, pairs, clean).measure(cells)
