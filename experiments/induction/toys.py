"""When induction forms: small models of attention alone, checkpoint by checkpoint.

They model rows of random tokens that repeat, every next token of them. The **in-context score** is
the loss late in a row less the loss early in it, in nats, so more negative is better (Olsson et al.
2022 sign it so): late are tokens that have been followed by their successor before, early those of
which nothing is known yet. The prefix-matching score is that of the model's strongest head, chosen
at the last checkpoint on half of the rows and reported on the other half.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from scipy.stats import spearmanr
from torch import Tensor

import interp
from experiments.induction.names import Twice, twice
from experiments.induction.setting import Size, of_seeds
from interp.core.prompts.pairs import Pairs
from interp.core.tables.scores import Scores
from interp.datasets.tasks.repeated import repeated_pairs
from interp.engine.engines.protocol import EngineName
from interp.heads.types.detectors import INDUCTION
from interp.models.now.versions import versions
from interp.models.small.training import answers
from interp.models.toy import Toy, train

TRAINED_ON = 20_000
ICL, PREFIX, ACCURACY = "in-context score", "prefix matching", "accuracy"
PHASE, REMOVED, RANKS = "phase change", "ablation", "composition"
STRONGEST, RANDOM = "strongest first", "random sets"
EXCESS, PATH = "excess", "path effect"
READERS = ("q", "k", "v")


def in_context(
    loss: Float[Tensor, "batch pos"], repeated: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " batch"]:
    """Mean loss where the next token has been seen after this one, less that before any has.

    The last token before the repetition is in neither: what follows it is new after it, but not
    new. Negative where context helps.

    Args:
        repeated: True from the second time that a row's block is read.
    """
    place = torch.arange(loss.shape[1])
    new = place < repeated.int().argmax(-1, keepdim=True) - 1
    late, early = (loss.masked_fill(~kept, torch.nan).nanmean(-1) for kept in (repeated, new))
    return late - early


def toys(size: Size, folder: Path, seed: int) -> Iterator[tuple[str, int, Toy]]:
    """Train every toy with every seed, or find them trained in the folder."""
    sequences = size.toys.following(TRAINED_ON, seed=seed)
    held_out = size.toys.following(size.held_out, seed=seed + 1)
    for number in range(seed, seed + size.seeds):
        for name, shape in size.shapes.items():
            where = name.replace(",", "").replace(" ", "-")
            yield (
                name,
                number,
                train(
                    shape,
                    sequences,
                    held_out=held_out,
                    steps=size.steps,
                    folder=folder / f"{where}-{number}",
                    seed=number,
                    data_seed=number,
                    recipe=size.recipe,
                    checkpoints=size.checkpoints,
                ),
            )


def measure(size: Size, folder: Path, seed: int) -> Scores:
    """Everything that is asked of toys; the seed is the cluster."""
    rows: list[dict[str, Any]] = []
    note: dict[str, Any] = {"versions": versions(), "weights": {}, "strongest": {}}
    for name, number, toy in toys(size, folder, seed):
        at = {"subset": name, "seed": number}
        # the other engine reads weights, and not smeared ones
        engine: EngineName = "hooks" if size.shapes[name].smear else "auto"
        heads, found = phase_change(toy, size, seed, engine)
        rows += [at | {"task": PHASE} | row for row in found]
        without = ablation(toy.model, heads, size, seed, engine)
        rows += [at | {"task": REMOVED} | row for row in without]
        if size.shapes[name].n_layers == 2:
            rows += [{"task": RANKS, "seed": number} | row for row in ranks(toy.model, size, seed)]
        note["strongest"][f"{name}, seed {number}"] = heads[0]
        note["weights"][f"{name}, seed {number}"] = toy.model.weight_hash
    return of_seeds(rows, note)


def phase_change(
    toy: Toy, size: Size, seed: int, engine: EngineName
) -> tuple[list[str], list[dict[str, Any]]]:
    """The heads, strongest first, and the scores of every checkpoint."""
    held_out = size.toys.sequences(size.held_out, seed=seed + 2)
    choosing, reporting = held_out.tokens.chunk(2)

    def matching(model: interp.Model, tokens: Tensor) -> Any:
        found = interp.heads.detect(model, tokens, detectors=[INDUCTION], engine=engine)
        return found.frame.groupby(["metric", "site"], sort=False)[["value", "base"]].mean()

    chosen = matching(toy.model, choosing).loc[INDUCTION.name]["value"]
    heads = chosen.sort_values(ascending=False, kind="stable").index.astype(str).tolist()
    rows = []
    for step in toy.steps:
        model = toy.at(step)
        said = answers(
            model.bridge.original_model, size.toys.following(size.held_out, seed=seed + 2)
        )
        at_head = matching(model, reporting).loc[(INDUCTION.name, heads[0])]
        found = {
            ICL: in_context(said.loss, held_out.scored).mean().item(),
            ACCURACY: said.correct[held_out.scored].double().mean().item(),
            PREFIX: at_head["value"],
            f"{PREFIX}, null": at_head["base"],
        }
        rows += [{"metric": m, "value": v, "probe": f"step {step}"} for m, v in found.items()]
    return heads, rows


def prompts(size: Size, seed: int) -> tuple[Pairs, Twice]:
    """`A B ... A`, and the same rows up to each A."""
    rows, n = size.toys, size.held_out
    pairs = repeated_pairs(
        n, vocabulary=rows.vocabulary, block=rows.block, before=rows.before, seed=seed
    )
    whole = [
        [*row[:length].tolist(), int(answer)]
        for row, length, answer in zip(pairs.clean, pairs.lengths, pairs.correct, strict=True)
    ]
    places = zip(pairs.at("first").tolist(), pairs.at("end").tolist(), strict=True)
    reference = rows.sequences(n, seed=seed + 1).tokens
    return pairs, twice(whole, list(places), pairs.cluster, reference)


def ablation(
    model: interp.Model, heads: list[str], size: Size, seed: int, engine: EngineName
) -> Iterator[dict[str, Any]]:
    """The in-context score without the last layer's heads, strongest first, beside random ones.

    No attention comes after the last layer, so that patterns kept or recomputed are the same.
    """
    _, asked = prompts(size, seed + 3)
    last = [head for head in heads if head.startswith(f"{model.facts.n_layers - 1}.")]
    sets = {str(n): last[:n] for n in range(1, len(last))}  # of all of them there is no random set
    loss = []
    for pairs in (asked.again, asked.first):
        found = interp.causal.knock_out(
            model,
            pairs,
            sets,
            patterns=["kept"],
            reference=asked.reference,
            metric="loss",
            draws=99,
            engine=engine,
        )
        loss.append(found.frame.groupby("site", sort=False)[["value", "base"]].mean())
    score = loss[0] - loss[1]
    for which in (STRONGEST, RANDOM):
        yield {"metric": ICL, "probe": f"0, {which}", "value": score["base"].iloc[0]}
        for n in sets:
            others = score.index.str.startswith(f"{n}, random")
            of_it = score["value"][others if which == RANDOM else score.index == n]
            yield {"metric": ICL, "probe": f"{n}, {which}", "value": of_it.mean()}


def ranks(model: interp.Model, size: Size, seed: int) -> Iterator[dict[str, Any]]:
    """Composition of each pair of heads beside the exact effect of the path, by input and prompt.

    A norm has no sign, so it is the size of the effect that is ranked.
    """
    pairs, _ = prompts(size, seed + 4)
    composed = interp.heads.composition(model).frame
    excess = composed.set_index(["site", "other"])["excess"].dropna()
    for corruption, corrupted in corruptions(pairs, size.toys.vocabulary, seed=seed).items():
        effects = path_effects(model, corrupted, composed["other"].unique())
        for (site, receiver), effect in effects.items():
            layer, head = map(int, site.split("."))
            place = {"site": site, "layer": layer, "head": head}
            place |= {"probe": receiver, "subset": corruption}
            yield place | {"metric": EXCESS, "value": excess.get((site, receiver))}
            yield place | {"metric": PATH, "value": effect}
        for reader in READERS:
            pair = [key for key in effects if key in excess and key[1].endswith(f".{reader}")]
            found = spearmanr([excess[key] for key in pair], [abs(effects[key]) for key in pair])
            place = {"probe": reader, "subset": corruption}
            yield place | {"metric": "rank correlation", "value": float(found.statistic)}


def corruptions(pairs: Pairs, vocabulary: int, *, seed: int) -> dict[str, Pairs]:
    """The same prompts beside two kinds of corrupt ones.

    With the first A exchanged for a token that stands nowhere else, the key of B no longer holds
    that A stood before it, and little else differs. With all tokens exchanged, each for another of
    its row's, a path carries whatever it can carry; what repeats still does.
    """
    first = pairs.clean.clone()
    first[torch.arange(len(pairs)), pairs.at("first")] = pairs.wrong
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(1, vocabulary, (len(pairs), 1), generator=generator)
    every = (pairs.clean + shift) % vocabulary
    corrupt = {"the first A": first, "all tokens": every.where(pairs.mask, pairs.clean)}
    return {name: replace(pairs, corrupt=c, strings=()) for name, c in corrupt.items()}


def path_effects(
    model: interp.Model, pairs: Pairs, receivers: Iterable[str]
) -> dict[tuple[str, str], float]:
    """Mean change in loss when an earlier head's corrupt output reaches one input of one head."""
    effects = {}
    for receiver in receivers:
        paths = interp.path_patch(
            model, pairs, senders="heads", receivers=receiver, through="direct", metric="loss"
        )
        for site, effect in paths.frame.groupby("site", sort=False)["effect"].mean().items():
            effects[str(site), receiver] = float(effect)
    return effects
