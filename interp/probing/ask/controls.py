"""What a probe's score is compared with: no representation at all, or labels without meaning.

Majority and most-frequent-tag-per-word-type look at no activation; the control task (Hewitt &
Liang 2019, sec. 2) gives each word type a label drawn once, so that only memory can be right.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from interp.core.errors import ProbeError
from interp.core.parts.sites import Site
from interp.probing.ask.split import Split

log = logging.getLogger("interp")
Rare = Literal["refuse", "drop"]


@dataclass(frozen=True)
class Classes:
    """The labels that there are, numbered.

    Attributes:
        names: in alphabetical order.
        dropped: labels with a single training example, which nothing can be learned from, and how
            many words of all splits have them.
    """

    names: tuple[str, ...]
    dropped: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, train: Sequence[str], *others: Sequence[str], rare: Rare = "refuse") -> "Classes":
        """The labels of the training words.

        Args:
            others: labels of other splits; one that training has not is refused or dropped too.
            rare: what becomes of a label with fewer than two training examples.

        Raises:
            ProbeError: fewer than two labels, or a rare one.
        """
        counts = Counter(train)
        few = sorted(
            name for name in {*train, *(n for other in others for n in other)} if counts[name] < 2
        )
        if few and rare == "refuse":
            shown = ", ".join(f"{name!r} ({counts[name]})" for name in few[:5])
            raise ProbeError(
                f"{len(few)} labels have fewer than two training examples: {shown}. A probe cannot "
                "learn them: take more words, join labels, or leave their words out with "
                "rare='drop'."
            )
        names = tuple(sorted(name for name, n in counts.items() if n > 1))
        if len(names) < 2:
            raise ProbeError(
                f"the {len(train)} training words have {len(names)} labels with two examples or "
                f"more ({', '.join(names) or 'none'}); at least two are needed to tell apart."
            )
        lost = Counter(n for split in (train, *others) for n in split)
        return cls(names, tuple((name, lost[name]) for name in few))

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, labels: Sequence[str]) -> Int[ndarray, " word"]:
        """Numbers of labels; -1 for one that was dropped."""
        number = {name: i for i, name in enumerate(self.names)}
        return np.asarray([number.get(label, -1) for label in labels], dtype=np.int64)


def control_task(
    types: Sequence[str], y: Int[ndarray, " train"], *, splits: Sequence[Sequence[str]], seed: int
) -> list[Int[ndarray, " word"]]:
    """Labels of the words of some splits, the same for every occurrence of a word type.

    Drawn from the distribution of the training labels over occurrences (Hewitt & Liang 2019,
    fn. 2), not uniformly.

    Args:
        types: word type of each training word.
        y: its label.
        splits: word types of the words that labels are wanted for.
        seed: of the draw.
    """
    return [drawn[0] for drawn in _draw(types, y, splits, seed, 1)]


def control_tasks(
    types: Sequence[Sequence[str]] | None, y: Int[ndarray, " train"], *, seed: int, draws: int
) -> tuple[list[Int[ndarray, "draw word"]], str]:
    """Several draws of the control task, the first that of `control_task`; or why there is none.

    Draws in which all training words have one label are left out: no probe can be fitted to them.

    Args:
        types: word types of each split, the training words' first; None where words have none.
        y: labels of the training words.

    Returns:
        Labels of each split, and an empty text; or nothing, and the reason.
    """
    if types is None:
        return [], "the words have no types that labels could be drawn for"
    known = set(types[0])
    if len(known) == 1:
        return [], f"all {len(y)} training words are of one type, {next(iter(known))!r}"
    if len(known) == len(y):
        return [], f"each of the {len(y)} training words has a type of its own: nothing recurs"
    drawn = _draw(types[0], y, types, seed, draws)
    fit = [len(set(labels.tolist())) > 1 for labels in drawn[0]]
    if not any(fit):
        return [], f"all {len(known)} types of the training words drew the same label"
    return [labels[fit] for labels in drawn], ""


def _draw(
    types: Sequence[str],
    y: Int[ndarray, " train"],
    splits: Sequence[Sequence[str]],
    seed: int,
    draws: int,
) -> list[Int[ndarray, "draw word"]]:
    rng = np.random.default_rng([seed, len(types)])
    names = sorted({*types, *(t for split in splits for t in split)})
    drawn = y[rng.integers(len(y), size=(draws, len(names)))].astype(np.int64)
    place = {name: i for i, name in enumerate(names)}
    return [drawn[:, [place[t] for t in split]] for split in splits]


def majority(y: Int[ndarray, " train"], words: int) -> Int[ndarray, " word"]:
    """The most frequent training label, for every word."""
    return np.full(words, np.bincount(y).argmax())


def type_majority(
    types: Sequence[str], y: Int[ndarray, " train"], asked: Sequence[str]
) -> Int[ndarray, " word"]:
    """The most frequent label of each word's type in training; of an unseen type, of all words."""
    names, code = np.unique(np.asarray(types), return_inverse=True)
    table = np.zeros((len(names), int(y.max()) + 1), dtype=np.int64)
    np.add.at(table, (code, y), 1)
    best = dict(zip(names.tolist(), table.argmax(1).tolist(), strict=True))
    common = int(np.bincount(y).argmax())
    return np.asarray([best.get(t, common) for t in asked], dtype=np.int64)


def unseen(types: Sequence[str], asked: Sequence[str]) -> Bool[ndarray, " word"]:
    """Words whose type does not occur in training."""
    known = set(types)
    return np.asarray([t not in known for t in asked], dtype=bool)


def no_random(splits: Sequence[Split], sites: Sequence[Site] | None) -> str:
    """Why the untrained model is not in a table; empty where it is.

    Args:
        sites: that are asked about; None for all that were collected.
    """
    held = [split.random for split in splits if split.random is not None]
    if not held:
        return "no features of one were given (random=)"
    if len(held) < len(splits):
        return f"features of one were given for {len(held)} of {len(splits)} splits only"
    if sites is not None and not any(site in held[0] for site in sites):
        return f"it was collected at none of {', '.join(map(str, sites[:5]))}"
    return ""


def left_out(task: str, reasons: Mapping[str, str]) -> dict[str, str]:
    """The controls that cannot be had, and why: for the provenance, and said in the log."""
    found = {name: why for name, why in reasons.items() if why}
    for name, why in found.items():
        log.warning("%s: no %s: %s", task, name, why)
    return found
