"""What trained probes are asked: examples, and those that are refused."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.door.door import door
from interp.core.errors import ProbeError
from interp.probing.fit.nets.nets import Net


@door
@dataclass(frozen=True, eq=False)
class Examples:
    """What a probe is asked, and the answers.

    Attributes:
        x: activations of words.
        rows: of each example, the word numbers that the network's `columns` name.
        y: labels 0, 1, ... of each problem.
    """

    x: Float[Tensor, "site word d"]
    rows: Int[Tensor, "example column"]
    y: Int[Tensor, "problem label"]

    @classmethod
    @door
    def of_words(
        cls, x: Float[Tensor, "site word d"], y: Int[Tensor, "problem label"]
    ) -> "Examples":
        """Every word is an example."""
        return cls(x, torch.arange(x.shape[1])[:, None], y)


def require_examples(
    net: Net,
    training: Examples,
    dev: Examples,
    sites: Sequence[str],
    labels: Sequence[str],
    classes: int | None,
) -> int:
    """The number of classes of a fit that can be made.

    Raises:
        ProbeError: splits that do not fit together or to the network, and all that follows here.
    """
    if not training.x.numel() or not len(training.y):
        raise ProbeError(
            f"the training examples have activations of shape {tuple(training.x.shape)} (site, "
            f"word, d) and labels of {len(training.y)} problems; give at least one of each."
        )
    require_names(sites, "sites", len(training.x))
    require_names(labels, "problems", len(training.y))
    here, there = training.x, dev.x
    if (len(here), here.shape[2], len(training.y)) != (len(there), there.shape[2], len(dev.y)):
        raise ProbeError(
            f"training examples are of {len(here)} sites, {here.shape[2]} dimensions and "
            f"{len(training.y)} problems, development examples of {len(there)}, {there.shape[2]} "
            f"and {len(dev.y)}; give both of the same."
        )
    for split, examples in (("training", training), ("development", dev)):
        if len(examples.rows) != examples.y.shape[1] or not len(examples.rows):
            raise ProbeError(
                f"the {split} split has {len(examples.rows)} examples and {examples.y.shape[1]} "
                "labels; give a label for each, in the same order. Probes are trained on one "
                "split and stopped early on the other, so both must be labelled."
            )
        require_rows(examples.rows, net.columns, examples.x.shape[1])
        require_finite(examples.x, net.words(examples.rows).unique(), sites)
    classes = int(training.y.max()) + 1 if classes is None else classes
    require_labels(training.y, labels, classes)
    require_range(dev.y, classes, "development")
    return classes


def require_labels(y: Int[Tensor, "problem label"], names: Sequence[str], classes: int) -> None:
    """Refuse training labels that nothing can be learned from.

    Raises:
        ProbeError: a label out of range, a problem with one class, a class with one example (but
            of the problem "control", whose labels are drawn).
    """
    require_range(y, classes, "training")
    for name, row in zip(names, y, strict=True):
        counts = row.bincount(minlength=classes)
        there = counts.nonzero().flatten().tolist()
        if len(there) < 2:
            raise ProbeError(
                f"problem {name!r} has one class only (label {there[0]}) among {len(row)} "
                "training examples, so there is nothing to tell apart. Take more examples, or "
                "another label."
            )
        drawn = name == "control"  # its classes are of word types, and memory is what it measures
        if not drawn and (single := (counts == 1).nonzero().flatten().tolist()):
            raise ProbeError(
                f"class {single[0]} of problem {name!r} has a single training example of "
                f"{len(row)}; a probe can only memorise it. Take more examples, or leave out "
                "or merge rare classes."
            )


def require_range(y: Int[Tensor, "problem label"], classes: int, split: str) -> None:
    """Refuse labels that are no class.

    Raises:
        ProbeError: with the range found.
    """
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ProbeError(
            f"{split} labels run from {low} to {high}; {classes} classes are labelled 0 to "
            f"{classes - 1}. Give classes=, or number the labels of all splits by one list."
        )


def require_rows(rows: Int[Tensor, "example column"], columns: Sequence[str], words: int) -> None:
    """Refuse rows that a network cannot read.

    Raises:
        ProbeError: another number of columns, words that there are not, an empty span.
    """
    if rows.shape[1] != len(columns):
        raise ProbeError(
            f"rows have {rows.shape[1]} columns, and this network reads {len(columns)}: "
            f"{', '.join(columns)}."
        )
    for column, name in enumerate(columns):
        beyond = words if name.startswith("end") else words - 1
        found = rows[:, column]
        if bad := ((found < 0) | (found > beyond)).nonzero().flatten().tolist():
            raise ProbeError(
                f"example {bad[0]} has {name} {int(found[bad[0]])}, and there are activations of "
                f"{words} words (0 to {words - 1}). Rows number the words of x, not of a sentence."
            )
        if name.startswith("end"):
            start = rows[:, column - 1]
            if bad := (found <= start).nonzero().flatten().tolist():
                raise ProbeError(
                    f"the span of example {bad[0]} is empty: [{int(start[bad[0]])}, "
                    f"{int(found[bad[0]])}). Spans are [start, end) and have a word at least; "
                    "leave out mentions of which no word was collected."
                )


def require_rows_of(rows: Int[ndarray, " chosen"], count: int, what: str) -> None:
    """Refuse numbers of what there is not.

    Raises:
        ProbeError: naming the first.
    """
    if bad := rows[(rows < 0) | (rows >= count)].tolist():
        raise ProbeError(f"there is no number {bad[0]} among the {count} {what}, counted from 0.")


def require_finite(
    x: Float[Tensor, "site word d"], words: Int[Tensor, " read"], sites: Sequence[str]
) -> None:
    """Refuse NaN and infinity.

    Raises:
        ProbeError: naming the site and the first word.
    """
    for name, part in zip(sites, x, strict=True):
        finite = part[words].isfinite().all(1)
        if not bool(finite.all()):
            bad = (~finite).nonzero().flatten()
            raise ProbeError(
                f"the activations of site {name} hold NaN or infinity at {len(bad)} of "
                f"{len(words)} words (the first is {int(words[bad[0]])}); likely they were kept "
                "in float16: collect them with dtype=torch.float32."
            )


def require_names(names: Sequence[str], what: str, count: int) -> None:
    """Refuse names that do not tell apart what they name.

    Raises:
        ProbeError: too few, too many, or one twice.
    """
    if len(names) != count:
        raise ProbeError(f"{len(names)} names for {count} {what}; give one for each, in order.")
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ProbeError(
            f"{what} {twice[0]!r} is named twice; initial parameters are drawn by name, and "
            "results are found by it."
        )
