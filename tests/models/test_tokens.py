import pytest
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from interp.core.errors import PairsError
from interp.models import tokens


def test_bos_is_what_the_caller_says(tokenizer, plain_tokenizer):
    assert tokens.encode(tokenizer, "The Mary", bos="model") == [0, 2, 3]
    assert tokens.encode(tokenizer, "The Mary", bos="none") == [2, 3]
    assert tokens.encode(plain_tokenizer, "The Mary", bos="model") == [2, 3]


def test_double_bos_with_id_zero_is_refused(tokenizer):
    # 0 is false in Python: SAELens once read a BOS of id 0 as absent.
    message = r"'<s>The Mary' begins with '<s>' twice \(id 0\).*Likely the text holds.*bos='none'"
    with pytest.raises(PairsError, match=message):
        tokens.encode(tokenizer, "<s>The Mary", bos="model")
    with pytest.raises(PairsError, match="twice"):
        tokens.encode_with_offsets(tokenizer, "<s>The Mary", bos="model")
    assert tokens.encode(tokenizer, "<s>The Mary", bos="none") == [0, 2, 3]


def test_single_token(tokenizer):
    assert tokens.token_id(tokenizer, " Mary") == 3
    assert tokens.token_id(tokenizer, "<s>") == 0


def test_several_tokens_are_refused_with_their_pieces(tokenizer):
    message = r"' gave it' is 2 tokens, not one: ␣gave \| ␣it.*Choose a word that is a single token"
    with pytest.raises(PairsError, match=message):
        tokens.token_id(tokenizer, " gave it")


def test_the_missing_space_is_pointed_out():
    vocab = {"<unk>": 0, "J": 1, "im": 2, " Jim": 3, " ": 4}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("J", "isolated")
    split = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    split.add_tokens([" Jim"])
    with pytest.raises(PairsError, match=r"'Jim' is 2 tokens.*' Jim', with a space before it"):
        tokens.token_id(split, "Jim")


def test_no_token_at_all(tokenizer):
    with pytest.raises(PairsError, match="'' is no token at all"):
        tokens.token_id(tokenizer, "")


def test_show_makes_spaces_and_newlines_visible(tokenizer):
    assert tokens.show(tokenizer, [0, 2, 3, 8]) == ["<s>", "The", "␣Mary", "↵"]


def test_show_keeps_the_raw_piece_of_half_a_character(tokenizer):
    assert tokens.show(tokenizer, [10]) == ["é"]  # byte 0xE9 alone is no UTF-8


def test_show_marks_ids_beyond_the_tokenizer(tokenizer):
    assert tokens.show(tokenizer, [28]) == ["<28?>"]


def test_show_sentencepiece_keeps_the_leading_space():
    backend = Tokenizer(models.WordLevel({"▁Mary": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    piece = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokens.show(piece, [0]) == ["␣Mary"]


def test_offsets_find_the_token_of_a_word(tokenizer):
    text = "The Mary gave it"
    ids, offsets = tokens.encode_with_offsets(tokenizer, text, bos="model")
    assert ids == [0, 2, 3, 5, 6]
    assert offsets[0] == (0, 0)
    assert tokens.token_at(offsets, text.index("Mary")) == 2
    assert tokens.token_at(offsets, 0) == 1
    with pytest.raises(PairsError, match="no token covers character 99: the 5 tokens end at.* 16"):
        tokens.token_at(offsets, 99)


def test_slow_tokenizer_cannot_tell_offsets():
    slow = hf.CanineTokenizer()  # pure Python: characters are tokens
    with pytest.raises(PairsError, match="CanineTokenizer cannot say.*not a fast tokenizer.*json"):
        tokens.encode_with_offsets(slow, "mary", bos="none")
