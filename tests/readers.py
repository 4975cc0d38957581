"""A tokenizer by rule: the pieces that a pattern finds are the tokens, if they are known."""

import re
from collections.abc import Iterable
from pathlib import Path

import tiny
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

import interp
from interp.models.bridge import tokens
from interp.models.model import Model

WORD = r" ?[A-Za-z]+"


class Reader:
    """What a task needs of a model."""

    name = "tiny"

    def __init__(self, pattern: str, texts: Iterable[str], *, frame: str = "$A") -> None:
        known = dict.fromkeys(piece for text in texts for piece in re.findall(pattern, text))
        vocab = {"<s>": 0, "</s>": 1, "<unk>": 2} | {piece: i for i, piece in enumerate(known, 3)}
        backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
        backend.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        self.tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")

    def encode(self, text: str, *, bos: tokens.Bos = "model") -> list[int]:
        return tokens.encode(self.tokenizer, text, bos=bos)

    def encode_with_offsets(
        self, text: str, *, bos: tokens.Bos = "model"
    ) -> tuple[list[int], tokens.Offsets]:
        return tokens.encode_with_offsets(self.tokenizer, text, bos=bos)

    def show(self, ids: list[int]) -> list[str]:
        return tokens.show(self.tokenizer, ids)

    def spell(self, i: object) -> str:
        """A token's text, without the space before it."""
        return self.tokenizer.convert_ids_to_tokens(int(i)).strip()


def speaking(reader: Reader, folder: Path) -> Model:
    """A small random model with that tokenizer."""
    size = {"vocab_size": len(reader.tokenizer), "max_position_embeddings": 32}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**tiny.LLAMA, **size})).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.to(torch.float64).save_pretrained(folder)
    reader.tokenizer.save_pretrained(folder)
    return interp.load(folder, dtype=torch.float64)
