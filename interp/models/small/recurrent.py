"""LSTM language models behind the same `Model`: what transformers are compared with.

Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000, as `torch.nn.LSTM` has it:

    i, f, g, o = W_in x + W_back h + b
    c <- sigmoid(f) c + sigmoid(i) tanh(g)
    h <- sigmoid(o) tanh(c)

x is the embedding of a token, or the h of the layer below; logits are read from the last h. A
`RecurrentShape` says everything but the weights; `build_recurrent` makes the model, random or from
a state, and `save` writes a folder that `interp.load` reads.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from interp.core.door.door import door
from interp.core.door.taken import Count, NotEmpty, Seed, Told
from interp.core.errors import ModelError
from interp.core.files.atomic import require_writable
from interp.core.parts.facts import Facts
from interp.models.finding import stored
from interp.models.finding.place import Device, Dtype, device_of, dtype_of
from interp.models.finding.stored import State
from interp.models.model import Model
from interp.models.now.live import Live
from interp.models.now.truth import Itself
from interp.models.now.watch import Watch

SHAPE_FILE = "recurrent.json"


@door
@dataclass(frozen=True)
class RecurrentShape:
    """An LSTM language model without its weights; embedding and readout are as wide as its layers.

    Attributes:
        n_layers: stacked LSTM layers.
        d_model: units of each layer.
        d_vocab: tokens.
        n_ctx: the longest row that it is made for; nothing in an LSTM limits it.
    """

    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int

    def __post_init__(self) -> None:
        for name, least in (("n_layers", 1), ("d_model", 1), ("d_vocab", 2), ("n_ctx", 1)):
            if getattr(self, name) < least:
                raise ModelError(
                    f"{name}={getattr(self, name)} makes no model; it must be at least {least}."
                )

    @property
    def parameters(self) -> int:
        """How many numbers are learned: four gates with two biases a layer, and two tables."""
        layer = 8 * self.d_model * (self.d_model + 1)
        return self.n_layers * layer + 2 * self.d_vocab * self.d_model

    @property
    def facts(self) -> Facts:
        """What the methods need to know of it."""
        return Facts(
            architecture="LSTM",
            n_layers=self.n_layers,
            n_heads=0,
            n_kv_heads=0,
            d_model=self.d_model,
            d_head=0,
            d_mlp=0,
            d_vocab=self.d_vocab,
            n_ctx=self.n_ctx,
            norm="none",
            positions="none",
            block="pre",
            parallel=False,
            gated=False,
            causal=True,
            language_model=True,
            recurrent=True,
        )


@door
def width_for(parameters: Count, *, n_layers: Count, d_vocab: Count) -> int:
    """The d_model at which an LSTM has as many parameters as possible to this number.

    Args:
        parameters: how many numbers it may learn.
        n_layers, d_vocab: of the LSTM.

    Raises:
        ModelError: one unit a layer has more than twice as many.
    """

    def at(width: int) -> int:
        return RecurrentShape(n_layers, width, d_vocab, n_ctx=1).parameters

    if at(1) > 2 * parameters:
        raise ModelError(
            f"{n_layers} layers of a single unit over {d_vocab} tokens have {at(1)} parameters, "
            f"and {parameters} were asked for. Take fewer layers or a smaller vocabulary."
        )
    square, line = 8 * n_layers, 8 * n_layers + 2 * d_vocab
    root = (math.sqrt(line**2 + 4 * square * parameters) - line) / (2 * square)
    return min((max(1, math.floor(root)), math.ceil(root)), key=lambda d: abs(at(d) - parameters))


class LSTM(HookedRootModule):
    """A recurrent model of a shape that speaks as Hugging Face's do: logits in an output.

    It has no hook points: a hook on what a layer gives would stand outside the recurrence.
    """

    def __init__(self, shape: RecurrentShape, *, seed: int) -> None:
        super().__init__()
        self.shape = shape
        self.config = SimpleNamespace(is_encoder_decoder=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(shape.d_vocab, shape.d_model)
            self.lstm = nn.LSTM(shape.d_model, shape.d_model, shape.n_layers, batch_first=True)
            self.unembed = nn.Linear(shape.d_model, shape.d_vocab, bias=False)
        self.setup()

    @property
    def original_model(self) -> "LSTM":
        """Itself: nothing wraps it."""
        return self

    def forward(self, input_ids: Int[Tensor, "batch pos"]) -> CausalLMOutput:
        """Logits, as an output."""
        return CausalLMOutput(logits=self.unembed(self.lstm(self.embed(input_ids))[0]))


@door
def build_recurrent(
    shape: RecurrentShape,
    *,
    name: Annotated[str, NotEmpty()],
    seed: Seed = 0,
    state: State | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: Dtype = torch.float32,
    device: Device = "cpu",
) -> Model:
    """An LSTM as a `Model`, in evaluation mode; `model.bridge` is the `LSTM` module itself.

    Args:
        name: what the model is called in results.
        seed: of random weights, drawn as torch draws them: U(-1/sqrt(d_model), 1/sqrt(d_model)),
            embeddings N(0, 1).
        state: the weights instead, by name, as `state_of` gives them; they are copied.
        tokenizer: for texts; without one the model reads ids alone.
        dtype, device: as of `interp.load`.

    Raises:
        ModelError: the state is not one of this shape, or the device is not there.
    """
    where = device_of(device)
    dtype = dtype_of(dtype, where)
    module = LSTM(shape, seed=seed)
    if state is not None:
        stored.fill(module, state, name=name, shape=shape)
    module = module.to(device=where, dtype=dtype).eval().requires_grad_(False)
    return Model(
        bridge=module,
        name=name,
        facts=shape.facts,
        tokenizer=tokenizer,
        truth=Itself(module),
        live=Live(Watch(module, module), ()),
    )


@door
def shape_of(model: Model) -> RecurrentShape:
    """The shape of a recurrent model.

    Raises:
        ModelError: it is none.
    """
    return _module(model).shape


@door
def state_of(model: Model) -> dict[str, Tensor]:
    """The parameters of a recurrent model by name, sharing its storage.

    Raises:
        ModelError: it is none.
    """
    return {name: p.detach() for name, p in _module(model).named_parameters()}


@door
def save(model: Model, folder: Annotated[Path, Told(require_writable)]) -> Path:
    """Write a recurrent model as a folder that `interp.load` reads: safetensors and its shape.

    Raises:
        ModelError: not a recurrent model.
        ResultsError: the folder cannot be written.
    """
    stored.write(folder, SHAPE_FILE, shape_of(model), state_of(model))
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    return folder


def _module(model: Model) -> LSTM:
    if not isinstance(model.bridge, LSTM):
        raise ModelError(
            f"{model.name} is a {model.facts.architecture}, not a recurrent model. Make one with "
            "interp.models.small.recurrent.build_recurrent."
        )
    return model.bridge
