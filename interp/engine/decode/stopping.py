"""Where a text ends before its last token: at a token, or once a string is said."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.models.model import Model


@dataclass(frozen=True)
class Stop:
    """What ends a text; the token that does, or that ends the string, is its last.

    Attributes:
        ids: tokens.
        strings: in the text of what was said.
    """

    model: Model
    ids: tuple[int, ...] = ()
    strings: tuple[str, ...] = ()

    def __call__(self, said: Int[Tensor, "*texts said"]) -> Bool[Tensor, "*texts"]:
        """Does the last token end each text?"""
        ids = torch.tensor(self.ids, dtype=said.dtype, device=said.device)
        ends = (said[..., -1, None] == ids).any(-1)
        if not self.strings:
            return ends
        flat = said.flatten(0, -2).tolist()
        decoded = [text_of(self.model, ids) for ids in flat]
        found = [any(string in text for string in self.strings) for text in decoded]
        return ends | torch.tensor(found, device=said.device).view(ends.shape)


def stop_of(model: Model, given: Sequence[int | str] | None) -> Stop:
    """What a caller gives: tokens and strings; None for what the model itself ends at.

    Raises:
        InterpError: an empty string, or a token that there is not.
    """
    if given is None:
        return Stop(model, ends_of(model))
    ids = [x for x in given if not isinstance(x, str)]
    strings = [x for x in given if isinstance(x, str)]
    if bad := [i for i in ids if not 0 <= i < model.facts.d_vocab]:
        raise InterpError(
            f"stop= has token {bad[0]}, and the model's vocabulary ends at "
            f"{model.facts.d_vocab - 1}. To stop at a text give it as text."
        )
    if "" in strings:
        raise InterpError("stop= has an empty string, which every text holds; leave it out.")
    if strings and model.tokenizer is None:
        raise InterpError(
            f"stop={strings[0]!r} is text, and {model.name} has no tokenizer. Give token ids."
        )
    return Stop(model, tuple(ids), tuple(strings))


def ends_of(model: Model) -> tuple[int, ...]:
    """The tokens at which Hugging Face's `generate` ends a text of this model."""
    config = getattr(model.bridge.original_model, "generation_config", None)
    config = config or getattr(model.bridge.original_model, "config", None)
    found = getattr(config, "eos_token_id", None)
    if found is None:
        return ()
    given = found if isinstance(found, list | tuple) else [found]
    return tuple(int(i) for i in given if 0 <= int(i) < model.facts.d_vocab)


def text_of(model: Model, ids: Sequence[int]) -> str:
    """The text of some tokens; without a tokenizer their numbers."""
    if model.tokenizer is None:
        return " ".join(map(str, ids))
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=False))
