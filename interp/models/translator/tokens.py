"""The translator's tokens: the words of both languages, and the end of a sentence."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from interp.core.prompts.sequences import UNSCORED
from interp.models.translator.grammar import SPECIAL, Translation, vocabulary

PAD, END, UNKNOWN = range(len(SPECIAL))
"""Ids. The decoder starts with PAD, as Marian's do."""


def tokenizer() -> PreTrainedTokenizerFast:
    """Splits at spaces, and puts the end after the words."""
    pad, end, unknown = SPECIAL
    words = {word: i for i, word in enumerate(vocabulary())}
    backend = Tokenizer(models.WordLevel(words, unk_token=unknown))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=pad, eos_token=end, unk_token=unknown
    )


def rows_of(
    found: Sequence[Translation],
) -> tuple[Int[Tensor, "batch source"], Int[Tensor, "batch target"]]:
    """Ids of both sides with their ends; PAD after the source, and after the target no label."""
    ids = {word: i for i, word in enumerate(vocabulary())}
    sides = [
        [torch.tensor([*map(ids.__getitem__, words), END]) for words in side]
        for side in ([t.source for t in found], [t.target for t in found])
    ]
    source, target = (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
        for rows, value in zip(sides, (PAD, UNSCORED), strict=True)
    )
    return source, target
