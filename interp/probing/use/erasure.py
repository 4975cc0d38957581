"""Taking a property away from activations, beside controls that are as strong, and what is left.

One call, `erasers`, gives LEACE (Belrose et al. 2023) of the property, several draws of each
control, and a table of how much of the variance each moves and what a fresh probe still reads on
words that it was not fitted to. An erasure is put into a running model as an intervention:
`interp.probing.amnesic`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed
from interp.core.errors import ProbeError, nearest
from interp.core.parts.sites import Site
from interp.core.tables.scores import Scores
from interp.engine.interventions import Erase
from interp.probing.ask.controls import control_task
from interp.probing.read.given import (
    BySite,
    by_site,
    one_by_one,
    require_finite,
    require_no_sinks,
    sinks,
)
from interp.probing.use.directions import (
    Spread,
    any_directions,
    covariance,
    moved,
    overlap,
    probe_directions,
    random_directions,
    same_variance,
)
from interp.probing.use.leace import leace, of_labellings
from interp.probing.use.still_read import AFTER, BEFORE, HeldOut, still_read

EMBEDDING = ("embed", "0.resid_pre")

__all__ = [
    "Erasers",
    "HeldOut",
    "erasers",
    "leace",
    "probe_directions",
    "random_directions",
    "same_variance",
    "sinks",
    "still_read",
]

LEACE, PROBE = "leace", "probe"
RANDOM, VARIANCE, TASK = "random", "same variance", "control task"
CONTROLS = (RANDOM, VARIANCE, TASK)
DRAWS = 8
"""Of each control. Eight make an interval 2.5 standard deviations of the draws wide on either side,
four 3.6, sixteen 2.2, and any number 2."""
TRIES = 20
Sites = dict[Site, Erase]


class UnknownErasure(ProbeError, KeyError):
    """A kind of erasure that was not made."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0])


@dataclass(frozen=True, eq=False, repr=False)
class Erasers(Mapping[str, Sites | tuple[Sites, ...]]):
    """Erasures by what they take away: `erasers["leace"][site]`, `erasers["random"][draw][site]`.

    Attributes:
        erased: "leace", and "probe" where weights were given; each by site.
        controls: "random", "same variance", "control task"; several draws of each, by site.
        report: one row for each of these and site: `erased`, `site`, `layer`, `depth`, `draws`,
            `rank` (directions), `variance` (share moved, of the words fitted to; mean of the
            draws), `overlap` (with LEACE's directions, 0 to 1, mean of the draws: a control of the
            same directions is no opponent), `words` (fitted to); with held-out words also `before`
            and `after` (accuracy of a fresh probe there; of several draws the first is asked),
            `low`, `high` (95 % interval of `after` over documents), `majority`, `n`, `clusters`.
        read: the scores that this is from; None without held-out words.
        notes: what could not be had, and why.
    """

    erased: Mapping[str, Sites]
    controls: Mapping[str, tuple[Sites, ...]]
    report: pd.DataFrame
    read: Scores | None
    notes: tuple[str, ...]

    def __getitem__(self, kind: str) -> Sites | tuple[Sites, ...]:
        known = {**self.erased, **self.controls}
        if kind not in known:
            raise UnknownErasure(
                f"these erasers have no {kind!r}; {nearest(str(kind), known)} "
                + " ".join(self.notes or ("'probe' needs weights=, 'control task' types=.",))
            )
        return known[kind]

    def __iter__(self) -> Iterator[str]:
        return iter([*self.erased, *self.controls])

    def __len__(self) -> int:
        return len(self.erased) + len(self.controls)

    def __repr__(self) -> str:
        table = self.report.to_string(index=False, float_format="{:.3f}".format)
        return "\n".join(["Erasers", table, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{note}</p>" for note in self.notes)
        return self.report.to_html(index=False, float_format="{:.3g}".format) + notes


@door
def erasers(
    x: Annotated[BySite[Float[Tensor, "word _"]], NotEmpty()],
    labels: Int[Tensor, " labelled"],
    *,
    types: Sequence[str] | None = None,
    weights: BySite[Float[Tensor, "_ class"]] | None = None,
    held_out: HeldOut | None = None,
    draws: Count = DRAWS,
    seed: Seed = 0,
) -> Erasers:
    """Erasures of a property at some sites, several draws of each control, and what is left.

    LEACE of a label moves several times as much of the variance as random directions of the same
    number, and any push of that size costs a model something. So there are three controls:

    - "random": as many random directions (Elazar et al. 2021, sec. 3.3).
    - "same variance": as many, that also have the share of the variance that LEACE moves
      (`same_variance`).
    - "control task": LEACE of labels without meaning, the same for all words of a type, drawn from
      the distribution of the real ones (Hewitt & Liang 2019).

    An erasure that changes little says little while the property is still read: `held_out` asks.

    The first token of a row is an attention sink in many models, with an activation a hundred
    times as long as the others'. Among the words it would decide alone what is erased, and put into
    the model that would throw every other word far off. Words that have most of the variance so
    are refused: leave out the first of each row (`features.word > 0`) and what `sinks` still finds,
    and the first position when the model runs (`positions="after first"`).

    Args:
        x: activations of words, by site. LEACE's promise holds at tokens like these: activations
            of the last token of words say nothing of the others (`amnesic(positions=...)`).
        labels: the property of each word, as numbers.
        types: of each word (its form in lower case), for the control task.
        weights: of probes; the directions that they read are erased too, under "probe".
        held_out: words of other documents, of which a fresh probe is asked.
        draws: of each control. `beyond` takes three at least.
        seed: of the draws. Each has a stream of its own, and so has each site.

    Raises:
        ProbeError: attention sinks among the words, held-out words of which half were fitted to,
            and as `leace`, `probe_directions` and `still_read`.
    """
    read = by_site(x)
    again = () if held_out is None else _fitted_too(read, held_out)
    drawn, notes = _labels_of_types(labels, types, draws, seed)
    notes = (*notes, *again)
    found: Sites = {}
    controls: dict[str, list[Sites]] = {kind: [{} for _ in range(draws)] for kind in CONTROLS}
    sigma: dict[Site, Tensor] = {}
    for site, here in read.items():
        require_finite(here)
        require_no_sinks(site, here)
        found[site], *of_types = of_labellings(here, [labels, *drawn])
        rank, mean = found[site].rank, found[site].mean
        if not rank:
            raise ProbeError(
                f"the activations at '{site}' tell nothing of the labels, so there is nothing to "
                "erase there. Likely they are the same for all words; leave the site out."
            )
        sigma[site] = covariance(here, mean)
        spread, share = Spread.of(sigma[site]), moved(found[site], sigma[site])
        for i in range(draws):
            free, bound = (_stream(seed, kind, str(site), i) for kind in (RANDOM, VARIANCE))
            controls[RANDOM][i][site] = any_directions(mean, rank, free)
            controls[VARIANCE][i][site] = spread.directions(mean, rank, share, bound)
        for i, erase in enumerate(of_types):
            controls[TASK][i][site] = erase
    erased = {LEACE: found}
    if weights is not None:
        probes = by_site(weights)
        if missing := [site for site in read if site not in probes]:
            raise ProbeError(f"weights= has no probe of '{missing[0]}'; give one for each site.")
        erased[PROBE] = {site: probe_directions(read[site], probes[site]) for site in read}
    kept = {kind: tuple(of) for kind, of in controls.items() if kind != TASK or drawn}
    left = None if held_out is None else still_read({**erased, **kept}, held_out, seed=seed)
    if left is None:
        notes = (*notes, "What is left on other words was not asked: held_out= was not given.")
    report = _report({**erased, **kept}, sigma, len(labels), left)
    return Erasers(erased, kept, report, left, notes)


def _stream(seed: int, *names: str | int) -> np.random.Generator:
    """Random numbers of one draw of one control, whatever else is drawn."""
    return np.random.default_rng([seed, *"/".join(map(str, names)).encode()])


def _labels_of_types(
    labels: Int[Tensor, " labelled"], types: Sequence[str] | None, draws: int, seed: int
) -> tuple[list[Int[Tensor, " labelled"]], tuple[str, ...]]:
    """Labels of the control task, and why there are none."""
    if types is None:
        return [], ("No control task: types= was not given.",)
    if len(types) != len(labels):
        raise ProbeError(f"{len(labels)} words have labels and {len(types)} have types; give both.")
    y, found = labels.cpu().numpy(), []
    for i in range(draws):
        stream = _stream(seed, TASK, i)
        for _ in range(TRIES):
            (drawn,) = control_task(types, y, splits=[types], seed=int(stream.integers(2**31)))
            if len(np.unique(drawn)) > 1:
                found.append(torch.from_numpy(drawn).to(labels))
                break
    if len(found) < draws:
        n = len(set(types))
        return [], (f"No control task: {n} word types get the same label almost always.",)
    return found, ()


def _fitted_too(x: Mapping[Site, Tensor], held_out: HeldOut) -> tuple[str, ...]:
    """What to say of held-out words that were fitted to as well, where LEACE leaves nothing.

    A word is the same if it is at every site to the bit. Some may be: sentences written twice. The
    embedding is not asked, where all words of one token are the same.

    Raises:
        ProbeError: half of them are.
    """
    other = by_site(held_out.x)
    common = [site for site in other if site in x and str(site) not in EMBEDDING]
    if not common:
        return ()
    known, asked = (
        [*zip(*(_rows(of[site]) for site in common), strict=False)] for of in (x, other)
    )
    again = sum(map(set(known).__contains__, asked))
    if 2 * again >= len(asked):
        raise ProbeError(
            f"{again} of the {len(asked)} held-out words are among those that the erasures are "
            f"fitted to (the same activations at '{common[-1]}'), and of these nothing can be "
            "left. Give words of other documents."
        )
    return (f"{again} of {len(asked)} held-out words were fitted to as well.",) if again else ()


def _rows(x: Float[Tensor, "word d"]) -> list[bytes]:
    return [row.tobytes() for row in x.detach().cpu().contiguous().view(torch.uint8).numpy()]


def _report(
    kinds: Mapping[str, Any], sigma: Mapping[Site, Tensor], words: int, left: Scores | None
) -> pd.DataFrame:
    rows, taken = [], kinds["leace"]
    ones = one_by_one(kinds)
    for kind in kinds:
        of = [one.of for one in ones if one.kind == kind]
        for site in sigma:
            rows.append(
                {
                    "erased": kind,
                    "site": str(site),
                    "layer": site.layer,
                    "depth": site.depth,
                    "draws": len(of) if isinstance(kinds[kind], tuple) else None,
                    "rank": max(at[site].rank for at in of),
                    "variance": float(np.mean([moved(at[site], sigma[site]) for at in of])),
                    "overlap": float(np.mean([overlap(at[site], taken[site]) for at in of])),
                    "words": words,
                }
            )
    table = pd.DataFrame(rows).astype({"layer": "Int16", "depth": "Int16", "draws": "Int16"})
    if left is None:
        return table
    scores = left.summary()
    majority = float(scores.loc[scores["probe"] == "majority", "value"].iloc[0])
    by = scores.set_index(["site", "subset"])
    before = [by.loc[(site, BEFORE), "value"] for site in table["site"]]
    first = {one.kind: one.name for one in ones if one.draw in (None, 1)}
    names = [f"{AFTER} {first[kind]}" for kind in table["erased"]]
    after = by.loc[list(zip(table["site"], names, strict=True))].reset_index(drop=True)
    columns = {"value": "after", "low": "low", "high": "high", "n": "n", "clusters": "clusters"}
    asked = after[list(columns)].rename(columns=columns).assign(majority=majority)
    asked.insert(0, "before", before)
    return pd.concat([table, asked], axis=1)
