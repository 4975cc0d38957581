"""Networks that probes are made of: MLP-1 over a word, a bilinear form over two.

A network is stateless: its parameters are a stack with a leading `problem` axis, and what it is
asked are rows of word numbers, of which it reads the activations through a function.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import ProbeError
from interp.probing.fit.nets.adam import Parameters

Read = Callable[[Int[Tensor, " word"]], Tensor]
"""Numbers of words -> `problem word d` activations, standardised."""


@runtime_checkable
class Net(Protocol):
    """What is trained on activations.

    Attributes:
        name: in the `probe` column of scores.
        columns: of a row: what the word numbers of an example mean.
    """

    name: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]: ...

    def start(self, d: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Initial parameters of one problem."""
        ...

    def words(self, rows: Int[Tensor, "example column"]) -> Int[Tensor, " word"]:
        """The words that rows read, with repetitions."""
        ...

    def logits(
        self, parameters: Parameters, read: Read, rows: Int[Tensor, "example column"]
    ) -> Float[Tensor, "problem example class"]: ...


@door
@dataclass(frozen=True)
class Mlp:
    """Linear, ReLU, linear: MLP-1 of Hewitt & Liang 2019. A row is one word.

    Attributes:
        hidden: width; fewer than 1,000 memorise less.
    """

    hidden: Count = 1000

    name: ClassVar[str] = "mlp-1"
    columns: ClassVar[tuple[str, ...]] = ("word",)

    def start(self, d: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
        return layer("in", d, self.hidden, generator) | layer(
            "out", self.hidden, classes, generator
        )

    def words(self, rows: Int[Tensor, "example column"]) -> Int[Tensor, " word"]:
        return rows[:, 0]

    def logits(
        self, parameters: Parameters, read: Read, rows: Int[Tensor, "example column"]
    ) -> Float[Tensor, "problem example class"]:
        return apply("out", parameters, apply("in", parameters, read(rows[:, 0])).relu())


@door
@dataclass(frozen=True)
class Bilinear:
    """log p(1) / p(0) = l' W r / d + u' l + v' r + b, for arcs l -> r. A row is two words.

    Each pair is judged by itself, not against the other candidates of its word, so that mentions
    may have several antecedents, or none. With the linear terms (Dozat & Manning 2017,
    arXiv:1611.01734) it can compute the same functions whatever the mean of the activations. The
    problem is convex and starts at 0; the d makes a step of Adam move the product about as much
    as the linear terms.
    """

    name: ClassVar[str] = "bilinear"
    columns: ClassVar[tuple[str, ...]] = ("left", "right")

    def start(self, d: int, classes: int, generator: torch.Generator) -> dict[str, Tensor]:
        if classes != 2:
            raise ProbeError(
                f"a bilinear probe says whether two words are linked: labels 0 and 1, not "
                f"{classes} classes. For labelled arcs take SpanClassifier(spans=2)."
            )
        linear = {name: torch.zeros(d, 1) for name in ("left", "right")}
        return {"weight": torch.zeros(d, d), **linear, "bias": torch.zeros(1)}

    def words(self, rows: Int[Tensor, "example column"]) -> Int[Tensor, " word"]:
        return rows.flatten()

    def logits(
        self, parameters: Parameters, read: Read, rows: Int[Tensor, "example column"]
    ) -> Float[Tensor, "problem example class"]:
        left, right = read(rows[:, 0]), read(rows[:, 1])
        product = ((left @ parameters["weight"]) * right).sum(-1) / left.shape[-1]
        linear = left @ parameters["left"] + right @ parameters["right"]
        linked = product + linear[..., 0] + parameters["bias"]
        return torch.stack([torch.zeros_like(linked), linked], dim=-1)


def layer(
    name: str, inputs: int, outputs: int, generator: torch.Generator, *, bias: bool = True
) -> dict[str, Tensor]:
    """A linear layer as torch starts it: uniform within 1 / sqrt(inputs)."""
    bound = inputs**-0.5
    found = {f"{name}.weight": torch.empty(inputs, outputs), f"{name}.bias": torch.empty(outputs)}
    if not bias:
        del found[f"{name}.bias"]
    return {key: part.uniform_(-bound, bound, generator=generator) for key, part in found.items()}


def apply(
    name: str, parameters: Parameters, x: Float[Tensor, "problem row inputs"]
) -> Float[Tensor, "problem row outputs"]:
    """A stack of linear layers on the inputs of each."""
    weight, bias = parameters[f"{name}.weight"], parameters.get(f"{name}.bias")
    return x @ weight if bias is None else torch.baddbmm(bias[:, None], x, weight)
