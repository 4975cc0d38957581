"""What a probe's score is compared with: no representation at all, or labels without meaning.

Majority and most-frequent-tag-per-word-type look at no activation; the control task (Hewitt &
Liang 2019, sec. 2) gives each word type a label drawn once, so that only memory can be right.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from interp.core.errors import ProbeError

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
    rng = np.random.default_rng([seed, len(types)])
    names = sorted({*types, *(t for split in splits for t in split)})
    drawn = dict(zip(names, y[rng.integers(len(y), size=len(names))].tolist(), strict=True))
    return [np.asarray([drawn[t] for t in split], dtype=np.int64) for split in splits]


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
