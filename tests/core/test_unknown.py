"""What a vocabulary has not is found in the text, whichever tokenizer reads it."""

import transformers as hf
from tiny import word_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from interp.core.prompts.unknown import unknown


def read(tokenizer, text: str) -> str | None:
    return unknown(tokenizer, text, tokenizer(text)["input_ids"])


def test_the_first_word_that_is_not_in_the_vocabulary():
    for adds_bos in (False, True):
        words = word_tokenizer(adds_bos=adds_bos)
        assert read(words, "The Mary gave it") is None
        assert read(words, "The Zoe gave Ada") == "Zoe"
        assert read(words, "Zoe") == "Zoe"


def test_the_unknown_token_spelt_out_is_what_was_meant():
    words = word_tokenizer(adds_bos=False)
    assert words("The<unk> gave")["input_ids"] == [2, 1, 5]
    assert read(words, "The<unk> gave") is None
    assert read(words, "The<unk> Zoe") == "Zoe"


def test_a_byte_level_end_mark_that_is_called_the_unknown_token():
    """As GPT-2 has it: the token is in the row because it was typed, or put in front."""
    vocab = {"<end>": 0, "a": 1, "b": 2}
    backend = Tokenizer(models.BPE(vocab, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<end>", bos_token="<end>", eos_token="<end>"
    )
    assert spelling("<end>ab")["input_ids"] == [0, 1, 2]
    assert read(spelling, "<end>ab") is None
    assert unknown(spelling, "ab", [0, 1, 2]) is None


def test_without_an_unknown_token_nothing_is_unknown():
    words = word_tokenizer(adds_bos=False)
    words.unk_token = None
    assert unknown(words, "The Zoe", [2, 1]) is None


class Slow:
    """A tokenizer in plain Python, which cannot say which characters a token covers."""

    unk_token, unk_token_id, is_fast = "<unk>", 1, False
    known = ("The", "Mary")

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        spaced = text.replace("<unk>", " <unk> ").split()
        return {"input_ids": [self.known.index(w) + 2 if w in self.known else 1 for w in spaced]}


def test_a_slow_tokenizer():
    assert read(Slow(), "The Mary") is None
    assert read(Slow(), "The Zoe Mary") == "Zoe"
    assert read(Slow(), "The <unk> Mary") is None
    assert read(Slow(), "The <unk> Zoe") == "Zoe"
