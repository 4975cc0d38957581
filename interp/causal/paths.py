"""Path patching: along which edges does a part act? (Wang et al. 2022, App. B, Algorithm 1)"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from interp.causal.patching import RUNS, Direction
from interp.causal.targets import Sites, targets
from interp.core.door.door import door
from interp.core.errors import SiteError, Unsupported
from interp.core.metrics import Metrics, resolve_metrics
from interp.core.parts.edges import read_in, readers
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.core.prompts.places import Given, Positions, place_of
from interp.core.tables.results import Results
from interp.engine.interventions import LN, Hop, Resample, Through
from interp.engine.sweep.run import run
from interp.engine.sweep.sweep import Running, Sweep
from interp.models.model import Model

Receivers = str | Site | Sequence[str | Site]
SELECTORS = ("heads", "mlps", "attn", "neurons", "resid_pre")


@door
def path_patch(
    model: Model,
    pairs: Pairs,
    *,
    senders: Sites,
    receivers: Receivers = "logits",
    via: Sequence[Receivers] = (),
    through: Through = "mlps",
    ln: LN = "recompute",
    sender_positions: Positions = "all",
    receiver_positions: Given = "all",
    direction: Direction = "noise",
    metric: Metrics = "logit_diff",
    **running: Unpack[Running],
) -> Results:
    """Let each sender's value from the other run reach the receivers alone.

    Attention heads between sender and receiver keep the base run's output; the receivers take the
    input that results, jointly; everything after them is recomputed. Along a path of several hops
    the same is done from each set of receivers to the next: `senders="20.1", via=["23.3.q"]` is
    20.1 -> 23.3.q -> logits.

    Args:
        senders: heads, MLPs, attention layers, neurons, `"embed"`; one path each. Those of a
            selector (`"heads"`) that come after the receivers have no path and no row. A mapping
            from names to selections sends each selection together. Of an encoder-decoder what
            enters a stack, too (`"enc.0.resid_pre"`); out of the encoder a path goes through keys
            and values of cross-attention (`"dec.0.cross.3.k"`).
        receivers: `"logits"`, or queries, keys, values of heads (`"23.3.q"`; the key as that query
            head reads it `"23.3.k"`, of its whole group `"23.kv1.k"`) and MLPs (`"12.mlp"`). A head
            (`"23.3"`) stands for its q, k and v, `"12.attn"` for those of all its heads.
        via: sets of receivers on the way, in order.
        through: `"mlps"` recomputes MLPs on the way (the paper's definition), `"direct"` freezes
            them too: the residual edge alone; `"all"` freezes nothing between the ends.
        ln: `"recompute"` the norms on the way, or `"freeze"` their scale at the base run's (which
            makes a direct path linear).
        sender_positions: where the sender is changed.
        receiver_positions: where the receivers take their new input; the logits are read at the
            metric's position only.
        direction: `"noise"`: corrupt value into the clean run; `"denoise"`: the reverse.

    Returns:
        One row for each sender and example; `receiver` and `through` say which path.

    Raises:
        SiteError: a site that the model has not, that cannot send or receive, or no path at all.
        PositionError, MetricError, Unsupported: as their names say, before any run.
    """
    base, other = RUNS[direction]
    if model.facts.recurrent:
        raise Unsupported(
            f"what an {model.facts.architecture} reads is no sum of what was written, so no path "
            "through it can be patched. Patch its states: interp.patch(model, pairs, 'units')."
        )
    place = place_of(receiver_positions)
    hops = tuple(Hop(_ends(model, chosen), through, place, ln) for chosen in (*via, receivers))
    found = list(targets(model, pairs, senders, sender_positions))
    if isinstance(senders, str) and senders in SELECTORS:
        found = [t for t in found if t.site and _reaches(t.site, _open(hops, t.site)[0])]
        if not found:
            raise SiteError(
                f"none of {senders!r} is computed before {hops[0]}, so there is no path to patch; "
                "choose a later receiver."
            )
    cells = [target.cell(Resample(other), hops=_open(hops, target.parts[0][0])) for target in found]
    return run(
        Sweep(
            model=model,
            pairs=pairs,
            cells=cells,
            method="path_patch",
            base=base,
            metrics=resolve_metrics(metric),
            **running,
        )
    )


def _reaches(sender: Site, hop: Hop) -> bool:
    """May a path go from here into a hop's receivers?"""
    if not sender < max(hop.receivers):
        return False
    reads = read_in(hop.receivers[0])
    # from an encoder into the decoder's stream it is a way through attention
    return sender.stack in (None, reads) or (sender.stack == "enc" and hop.through == "all")


def _open(hops: Sequence[Hop], sender: Site) -> tuple[Hop, ...]:
    """The hops with those receivers that are on the way, where they read two stacks: of a head of
    cross-attention the query from the decoder, the key and the value from the encoder.
    """
    if sender.stack is None:
        return tuple(hops)
    found, stack = list[Hop](), sender.stack
    for hop in hops:
        ways = {read_in(site) for site in hop.receivers}
        if len(ways) > 1 and stack in ways and not (stack == "enc" and hop.through == "all"):
            hop = replace(hop, receivers=[r for r in hop.receivers if read_in(r) == stack])
        found.append(hop)
        stack = hop.receivers[0].stack
    return tuple(found)


def _ends(model: Model, chosen: Receivers) -> tuple[Site, ...]:
    """The inputs that receivers stand for, in order of computation."""
    sites = resolve(chosen, model.facts)
    return tuple(sorted({end for site in sites for end in readers(site, model.facts)}))
