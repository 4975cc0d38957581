import inspect
from pathlib import Path
from unicodedata import category

import matplotlib
import pytest
import torch
import transformers as hf
from matplotlib.ft2font import FT2Font
from tokenizers import Tokenizer, models, pre_tokenizers

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.models.bridge import tokens


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


def test_what_is_not_in_the_vocabulary_is_refused(tokenizer):
    """It reads as the unknown token, one token like any other."""
    assert tokenizer(" Zoe", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    message = r"no token for 'Zoe': it reads '<unk>' in its place.*Choose a word that is a single"
    with pytest.raises(PairsError, match=message):
        tokens.token_id(tokenizer, " Zoe")
    with pytest.raises(PairsError, match=r"no token for 'Zoe' \(in ' Zoe gave'\)"):
        tokens.token_id(tokenizer, " Zoe gave")
    assert tokens.token_id(tokenizer, "<unk>") == 1  # spelt out, it is meant


def test_the_space_too_many_is_pointed_out(tokenizer):
    backend = Tokenizer(models.WordLevel({"<unk>": 0, " ": 1, "Jim": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    split = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(PairsError, match=r"' Jim' is 2 tokens.*'Jim', without the space, is one"):
        tokens.token_id(split, " Jim")


def test_a_policy_that_is_none(tokenizer):
    for read in (tokens.encode, tokens.encode_with_offsets):
        plain = inspect.unwrap(read)
        with pytest.raises(PairsError, match=r"bos='Model' is no policy; did you mean 'model'"):
            plain(tokenizer, "The", bos="Model")
        with pytest.raises(PairsError, match=r"None is no text; one text becomes token ids"):
            plain(tokenizer, None, bos="model")


def padding(tokenizer, token: str) -> hf.PreTrainedTokenizerFast:
    """A tokenizer that pads with a token: 0 "<s>", 1 "<unk>", 7 " to"."""
    tokenizer.eos_token, tokenizer.pad_token = "Ġto", token
    return tokenizer


def pads(tokenizer, rows: list[list[int]], other: list[list[int]] | None = None) -> str | None:
    """What is said against rows."""
    try:
        tokens.require_text(Pairs.from_tokens(clean=rows, corrupt=other or rows), tokenizer)
    except PairsError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([2, 3, 1], "row 1 of clean ends with 1 of the tokenizer's pad token '<unk>' (id 1)"),
        ([2, 1, 1], "row 1 of clean ends with 2 "),
        ([1, 2, 3], "row 1 of clean begins with 1 "),
        ([1, 1, 1], "row 1 of clean begins with 3 "),
        ([2, 1, 3], None),  # inside it is text
        ([2, 3, 4], None),
    ],
)
def test_a_pad_token_of_its_own_never_ends_a_row(tokenizer, row, said):
    found = pads(padding(tokenizer, "<unk>"), [[2, 3, 4], row])
    assert found is None if said is None else found.startswith(said)


def test_what_is_said_of_padding(tokenizer):
    found = pads(padding(tokenizer, "<unk>"), [[2, 3, 4]], [[2, 3, 1]])
    assert found.startswith("row 0 of corrupt ends with 1")
    for part in ("read as text", "mask=", "lists without padding", "tokenizer.pad_token = None"):
        assert part in found


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        ([[2, 3, 7], [2, 5, 7]], None),  # all were given an end mark
        ([[2, 3, 7]], None),
        ([[2, 3, 7, 7], [2, 3, 4, 5]], "row 0 of clean ends with 2"),
        ([[7, 7, 2], [2, 3, 4]], "row 0 of clean begins with 2"),
        ([[2, 3, 7], [2, 3, 4]], "row 0 of clean ends with 1"),  # some, and inside of none
        ([[2, 3, 4], [7, 3, 4]], "row 1 of clean begins with 1"),
        ([[2, 3, 7], [2, 7, 4]], None),  # packed text has such marks inside
        ([[7, 3, 7], [7, 5, 7]], None),  # begun and ended by one mark, as GPT-2's may be
        ([[7, 3, 4, 7], [7, 5, 2, 3]], "row 0 of clean ends with 1"),
        ([[2, 3, 7], [2, 7]], None),
    ],
)
def test_a_mark_that_pads_may_stand_once(tokenizer, rows, refused):
    """ "Ġto" ends texts and pads them: `tokenizer.pad_token = tokenizer.eos_token`."""
    found = pads(padding(tokenizer, "Ġto"), rows)
    assert found is None if refused is None else found.startswith(refused)


def test_padding_that_the_tokenizer_makes_is_refused_without_its_mask(tokenizer):
    """The ids of a padded batch, and the same ids with their mask, on either side."""
    tokenizer = padding(tokenizer, "<s>")
    texts = ["The Mary gave it", "The Mary", "The Mary gave"]
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(texts, padding=True, return_tensors="pt", add_special_tokens=False)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert mask.sum(1).tolist() == [4, 2, 3]
        assert "with 2 of the tokenizer's pad token '<s>'" in pads(tokenizer, ids.tolist())
        masked = Pairs.from_tokens(clean=ids, corrupt=ids, mask=mask)
        tokens.require_text(masked, tokenizer)
        assert masked.lengths.tolist() == [4, 2, 3]


def test_where_nothing_is_known_of_padding_nothing_is_refused(tokenizer):
    assert tokenizer.pad_token_id is None
    assert pads(tokenizer, [[1, 1, 2, 0, 0]]) is None
    assert pads(None, [[1, 1, 2, 0, 0]]) is None
    rows = Pairs.from_tokens(clean=torch.tensor([[2, 3, 1]]), corrupt=torch.tensor([[2, 3, 1]]))
    tokenizer.pad_token = "<unk>"
    with pytest.raises(PairsError):
        tokens.require_text(rows, tokenizer)
    tokenizer.pad_token = None
    tokens.require_text(rows, tokenizer)


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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\t", "⇥"),
        ("\r\n", "⏎↵"),
        ("\u00a0", "⍽"),
        ("\u3000", "<U+3000>"),
        ("\u200b", "<U+200B>"),
        ("\ufeffa", "<U+FEFF>a"),
        ("\x00\x7f\x85", "<U+0000><U+007F><U+0085>"),
        ("\u2028\u2029", "<U+2028><U+2029>"),
        ("a\u00adb", "a<U+00AD>b"),
        ("👩\u200d🔬", "👩<U+200D>🔬"),
        ("❤\ufe0f", "❤<U+FE0F>"),
        ("e\u0301é中🐶", "e\u0301é中🐶"),
    ],
)
def test_show_makes_everything_visible(text, shown):
    backend = Tokenizer(models.WordLevel({text: 0, "<unk>": 1}, unk_token="<unk>"))
    spoken = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    assert tokens.show(spoken, [0]) == [shown]


def test_tokens_that_differ_in_what_is_not_seen_look_different():
    unseen = [chr(i) for i in range(0x3200) if category(chr(i)) in ("Cc", "Cf", "Zs", "Zl", "Zp")]
    unseen += ["\u034f", "\u2800", "\u3164", "\ufe0f", "\U000e0067"]  # no ink, by other properties
    vocabulary = {f"a{c}": i for i, c in enumerate(unseen)} | {"a": len(unseen)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    spoken = hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="a")
    shown = tokens.show(spoken, list(vocabulary.values()))
    assert len(set(shown)) == len(shown)
    assert all(text.isprintable() and " " not in text for text in shown)


def test_the_signs_have_glyphs_in_the_font_of_figures():
    font = FT2Font(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")))
    assert {ord(sign) for sign in tokens.VISIBLE.values()} <= set(font.get_charmap())


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
