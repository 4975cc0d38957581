"""The likeliest next tokens, as Hugging Face's own model says them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from interp.core.errors import PairsError, Unsupported
from interp.core.parts.facts import Facts
from interp.models.now.live import Now
from interp.models.now.truth import Itself, Truth


@dataclass(frozen=True, eq=False)
class Asked:
    """A model that is asked what comes next; `config` is Hugging Face's."""

    name: str
    facts: Facts
    truth: Truth | Itself
    now: Now
    tokenizer: PreTrainedTokenizerBase | None
    config: Any

    def logits(self, ids: Sequence[int]) -> Float[Tensor, " d_vocab"]:
        """Of the next token; of a masked model those of its mask.

        Raises:
            Unsupported: no language-model head, no mask in the text, or no start for a decoder.
            PairsError: no tokens, or ids that the vocabulary has not.
        """
        facts, inputs = self.facts, dict[str, Tensor]()
        if not facts.language_model:
            raise Unsupported(
                f"{self.name} has no trained language-model head, so it says no token. Load a "
                f"model with a head. ({facts})"
            )
        if not ids or max(ids) >= facts.d_vocab:
            raise PairsError(
                f"the tokens {[*ids][:8]} are none that the model reads: give one at least, under "
                f"{facts.d_vocab}."
            )
        given = torch.tensor([[*ids]], device=self.now.device)
        if facts.n_encoder_layers:
            start = getattr(self.config, "decoder_start_token_id", None)
            if start is None:
                raise Unsupported(
                    f"the config of {self.name} has no decoder_start_token_id, so it is not known "
                    "what the decoder starts with. Set it in model.bridge.original_model.config."
                )
            inputs["decoder_input_ids"] = torch.tensor([[start]], device=self.now.device)
        at = -1 if facts.causal or facts.recurrent or facts.n_encoder_layers else self._mask(ids)
        with torch.no_grad():
            return self.truth.run(given, foreign=self.now.foreign, **inputs).output[0, at]

    def _mask(self, ids: Sequence[int]) -> int:
        mask = getattr(self.tokenizer, "mask_token_id", None)
        if mask not in ids:
            word = getattr(self.tokenizer, "mask_token", None) or "its mask"
            raise Unsupported(
                f"{self.name} fills masks, and there is none in the text, so no token is asked "
                f"for. Put {word} where one is."
            )
        return [*ids].index(mask)


def likeliest(
    logits: Float[Tensor, " d_vocab"], k: int, show: Callable[[Sequence[int]], list[str]] | None
) -> pd.DataFrame:
    """The k tokens with the largest logits, as a table."""
    found, chosen = logits.double().topk(min(k, len(logits)))
    log_probs, ids = found - logits.double().logsumexp(-1), chosen.tolist()
    shown = list(map(str, ids)) if show is None else show(ids)
    columns = {"rank": range(1, len(ids) + 1), "token": shown, "id": ids}
    numbers = {"probability": log_probs.exp(), "log_prob": log_probs, "logit": found}
    return pd.DataFrame(columns | {name: x.tolist() for name, x in numbers.items()})
