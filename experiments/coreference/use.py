"""What a model does with whom a pronoun means: what it says, and what interventions change.

Everything is measured on wordings that nothing was fitted to. Each control is not one draw but
several, each on all pairs: directions drawn at random or labels drawn for the nouns, and other
heads of the layer. `interp.probing.beyond` tells what is more than draws differ from one another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

import interp
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.core.tables.scores import Scores
from interp.datasets.tasks.pronoun_pairs import Answer, pronoun_pairs, wordings
from interp.probing import HeldOut, amnesic, erasers
from interp.probing import still_read as read_held_out
from interp.probing.use.erasure import leace

NOUN, END = "cue", "end"
PLACES = {NOUN: "the noun", END: "the end"}
FITTED = 5 / 8
"""Of the wordings: what erasures are fitted to."""
OTHERS = 5
"""Heads of the layer that stand beside one."""


@dataclass(frozen=True)
class Minimal:
    """How many minimal pairs: to fit to, and to report on."""

    fitting: int
    pairs: int
    seed: int


def split_wordings(answer: Answer, *, seed: int) -> tuple[list[str], list[str]]:
    """Names of the wordings to fit to, and of those to report on."""
    names = wordings("gender", answer)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    cut = round(FITTED * len(names))
    return order[:cut], order[cut:]


def halves(model: interp.Model, n: Minimal, answer: Answer = "pronoun") -> tuple[Pairs, Pairs]:
    """Pairs to fit to and pairs to report on: all couples of nouns in both, no wording in both.

    A direction of gender that is fitted to some couples is not that of others (LEACE fitted to
    half of the couples leaves 0.7 of the distance between the classes of the other half), so to
    hold out couples would leave the gender in place.
    """
    fit, report = split_wordings(answer, seed=n.seed)
    return (
        pronoun_pairs(model, n=n.fitting, seed=n.seed, answer=answer, templates=fit),
        pronoun_pairs(model, n=n.pairs, seed=n.seed + 1, answer=answer, templates=report),
    )


def others_of(model: interp.Model, n: Minimal, answer: Answer) -> Pairs:
    """Other prompts of the wordings that are reported: a mean is of the prompt's own wording."""
    report = split_wordings(answer, seed=n.seed)[1]
    return pronoun_pairs(model, n=n.fitting, seed=n.seed + 2, answer=answer, templates=report)


def behaviour(model: interp.Model, n: Minimal) -> Results:
    """Whom the model means, on both sides, with the answers as pronouns and as nouns."""
    parts = []
    for answer in ("pronoun", "antecedent"):
        done = interp.evaluate(model, halves(model, n, answer)[1])
        parts.append(Results(done.frame.assign(method=f"say {answer}"), done.provenance))
    return Results.concat(parts)


@dataclass(frozen=True, eq=False)
class Gendered:
    """Activations at the noun that is meant and at the end, of both sides of some pairs.

    Attributes:
        x: by place, then by site.
        gender: 0 or 1.
        cluster: the couple.
        wording: as a number.
        types: the token of the noun that is meant.
    """

    x: Mapping[str, Mapping[Site, Float[Tensor, "word d"]]]
    gender: Int[Tensor, " word"]
    cluster: tuple[str, ...]
    wording: Int[ndarray, " word"]
    types: tuple[str, ...]

    @classmethod
    def of(cls, model: interp.Model, pairs: Pairs, sites: Sequence[Site]) -> "Gendered":
        names = [str(site) for site in sites]
        sides = [
            interp.capture(model, pairs, names, positions=[NOUN, END], side=side)
            for side in ("clean", "corrupt")
        ]
        x = {
            place: {
                site: torch.cat([side[site][:, i] for side in sides])
                for site in sites
                # before the first layer the end is the same whoever is meant: nothing to erase
                if place == NOUN or site.kind != "resid_pre"
            }
            for i, place in enumerate(PLACES)
        }
        gender = torch.cat([pairs.correct, pairs.wrong]).unique(return_inverse=True)[1]
        wording = np.unique(by_template(pairs).cluster, return_inverse=True)[1]
        rows, noun = torch.arange(len(pairs)), pairs.at(NOUN)
        nouns = torch.cat([pairs.clean[rows, noun], pairs.corrupt[rows, noun]]).tolist()
        return cls(x, gender, pairs.cluster * 2, np.tile(wording, 2), tuple(map(str, nouns)))


def erasing(
    model: interp.Model, n: Minimal, fit: Callable[[], Gendered], checkpoint: Path
) -> Results:
    """Gender taken away after some layers: at the noun that is meant, and at the end."""
    report, given = halves(model, n)[1], fit()
    return Results.concat(
        [
            amnesic(
                model,
                report,
                erasers(x, given.gender, types=given.types, seed=n.seed),
                positions=place,
                metric="logit_diff",
                checkpoint=checkpoint / place,
            )
            for place, x in given.x.items()
        ]
    )


def still_read(fit: Gendered, report: Gendered) -> Scores:
    """What the erasure leaves of the gender in the wordings that it was not fitted to.

    "linear" is the accuracy of a probe that is fitted to all of these wordings but one and asked of
    the last, in turn; subset "before" and "after" the erasure. It may fall below chance: where the
    means of all wordings are equal, those of all but one lie the wrong way round. "class means" is
    the distance of the two means after the erasure, as a share of that before.
    """
    found: list[Scores] = []
    for place, x in fit.x.items():
        task, sites = f"gender at {PLACES[place]}", list(x)
        made = {site: leace(x[site], fit.gender) for site in sites}
        wordings = [str(name) for name in report.wording]
        other = HeldOut(report.x[place], report.gender, report.cluster, wordings)
        read = read_held_out({"leace": made}, other, task=task, folds=max(2, len(set(wordings))))
        frame = read.query("probe == 'linear'").frame
        subset = frame["subset"].replace({"after leace": "after"})
        note = {**read.provenance, "words fitted to": len(fit.gender)}
        found.append(Scores(frame.assign(subset=subset), note))
        before = torch.stack([report.x[place][site].double() for site in sites])
        after = torch.stack([made[s].of(here) for s, here in zip(sites, before, strict=True)])
        left = between(after, report.gender) / between(before, report.gender)
        found += [
            Scores.of(
                np.array([share]),
                ["all"],
                task=task,
                probe="class means",
                model="trained",
                metric="distance left",
                site=str(site),
                subset="after",
                provenance={},
            )
            for site, share in zip(sites, left.tolist(), strict=True)
        ]
    return Scores.concat(found)


def between(
    x: Float[Tensor, "site word d"], gender: Int[Tensor, " word"]
) -> Float[Tensor, " site"]:
    """Distance of the means of two classes."""
    return (x[:, gender == 0].mean(1) - x[:, gender == 1].mean(1)).norm(dim=-1)


Act = Callable[[Sequence[Site], Path], Results]


def acting(model: interp.Model, heads: Sequence[str], n: Minimal, checkpoint: Path) -> Results:
    """Each layer's head, and others of its layer: set to its mean, patched, and its path alone.

    Where the model is to name the antecedent, the head is changed at the pronoun: it was chosen for
    where it looks from there. Where it is to say the pronoun there is none before, and the head is
    changed everywhere. "path" is what reaches the logits directly, from the end.
    """
    chosen = [Site.parse(head) for head in heads]
    found = []
    for answer in ("antecedent", "pronoun"):
        report = halves(model, n, answer)[1]
        draws = [not_these(chosen, model, seed=n.seed, draw=i) for i in range(OTHERS)]
        every = list(dict.fromkeys(site for sites in (chosen, *draws) for site in sites))
        for what, act in acts(model, report, chosen, n, answer).items():
            name = f"{what} of {{}}, say {answer}"
            done = act(every, checkpoint / f"{answer}-{what}")
            found.append(called(standing_for(done, chosen, chosen), name.format("best")))
            for i, sites in enumerate(draws, start=1):
                found.append(called(standing_for(done, sites, chosen), name.format("others"), i))
    return Results.concat(found)


def called(done: Results, method: str, draw: int | None = None) -> Results:
    """Under a name, and as one of the draws of a control."""
    name = method if draw is None else f"{method} {draw}"
    draws = pd.array([pd.NA if draw is None else draw] * len(done), dtype="Int16")
    return Results(done.frame.assign(method=name, draw=draws), done.provenance)


def acts(
    model: interp.Model, report: Pairs, chosen: Sequence[Site], n: Minimal, answer: Answer
) -> dict[str, Act]:
    """What is done to heads."""
    layers = sorted({site.layer for site in chosen if site.layer is not None})
    every = [Site("z", layer, head) for layer in layers for head in range(model.facts.n_heads)]
    framed, couples = by_template(report), np.asarray(report.cluster)
    means = interp.MeanReference.fit(model, by_template(others_of(model, n, answer)), every)
    place = NOUN if answer == "antecedent" else "all"

    def mean(sites: Sequence[Site], folder: Path) -> Results:
        done = interp.ablate(
            model, framed, sites, reference=means, positions=place, checkpoint=folder
        )
        frame = done.frame.assign(cluster=couples[done.frame["example"]])
        return Results(frame, done.provenance)

    def patched(sites: Sequence[Site], folder: Path) -> Results:
        return interp.patch(
            model, report, sites, positions=place, direction="noise", checkpoint=folder
        )

    def path(sites: Sequence[Site], folder: Path) -> Results:
        return interp.path_patch(model, report, senders=sites, checkpoint=folder)

    of_pronoun: dict[str, Act] = {"mean": mean, "path": path}
    return of_pronoun if answer == "pronoun" else {"mean": mean, "patch": patched, "path": path}


def not_these(chosen: Sequence[Site], model: interp.Model, *, seed: int, draw: int) -> list[Site]:
    """Of each head another one of its layer: in each draw another."""
    found = []
    for site in chosen:
        rest = [head for head in range(model.facts.n_heads) if head != site.head]
        order = np.random.default_rng([seed, site.layer or 0]).permutation(len(rest))
        found.append(replace(site, head=rest[order[draw % len(rest)]]))
    return found


def standing_for(done: Results, sites: Sequence[Site], chosen: Sequence[Site]) -> Results:
    """The rows of some heads, under the names of those that they are the control of."""
    of = {str(site): str(head) for site, head in zip(sites, chosen, strict=True)}
    frame = done.frame[done.frame["site"].isin(of)].reset_index(drop=True)
    return Results(frame.assign(site=frame["site"].map(of)), done.provenance)


def by_template(pairs: Pairs) -> Pairs:
    """With the template as cluster, within which means are taken: the prompt but for its people."""
    names = [name for name in ("antecedent", "competitor", "cue") if name in pairs.positions]
    tokens = pairs.clean.clone()
    for name in names:
        tokens[torch.arange(len(pairs)), pairs.at(name)] = -1
    cut = zip(tokens.tolist(), pairs.lengths.tolist(), strict=True)
    return replace(pairs, cluster=tuple(str(row[:length]) for row, length in cut))
