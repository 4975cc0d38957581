"""Prompts that a model can read, and answers that follow them."""

import warnings
from collections.abc import Sequence

import pandas as pd
import pytest
import transformers as hf
from tiny import word_tokenizer
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

from interp.core.errors import PairsError
from interp.core.prompts.pairs import Pairs
from interp.models.bridge import tokens


class Reads:
    """A model as far as its tokenizer goes."""

    def __init__(self, tokenizer: hf.PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    target = False

    def encode(self, text: str, *, bos: str = "model", target: bool = False) -> list[int]:
        return tokens.encode(self.tokenizer, text, bos=bos, target=target)

    def token_id(self, text: str) -> int:
        return tokens.token_id(self.tokenizer, text, target=self.target)

    def show(self, ids: Sequence[int]) -> list[str]:
        return tokens.show(self.tokenizer, ids)


def framed(frame: str) -> Reads:
    """Words, each with the space before it or without; a frame of marks around every text."""
    words = ["The", " Mary", " John", " gave", " it", " to", "Mary", "John", ".", " 4", "4", "7"]
    marks = ["<s>", "</s>", "<unk>", "[MASK]"]
    vocab = {word: i for i, word in enumerate([*marks, *words])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d|\."), "isolated")
    backend.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return Reads(
        hf.PreTrainedTokenizerFast(
            tokenizer_object=backend, unk_token="<unk>", mask_token="[MASK]", eos_token="</s>"
        )
    )


def metaspace() -> Reads:
    """SentencePiece's way: a space before the text, so that both spellings are one token."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "▁The": 1, "▁Mary": 2, "▁John": 3}))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    return Reads(hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>"))


ONE = {"corrupt": ["The John gave it to"], "correct": [" Mary"], "wrong": [" John"]}


@pytest.mark.parametrize(
    ("frame", "end", "length"),
    [("$A", 4, 5), ("<s> $A", 5, 6), ("$A </s>", 4, 6), ("<s> $A </s>", 5, 7)],
)
def test_the_end_is_the_last_token_of_the_text(frame, end, length):
    """Whatever stands after it, an end mark or [SEP], is not what logits are read after."""
    model = framed(frame)
    pairs = Pairs.from_text(model, clean=["The Mary gave it to"], **ONE)
    assert pairs.lengths.tolist() == [length]
    assert pairs.at("end").tolist() == [end]
    assert model.show([int(pairs.clean[0, end])]) == ["␣to"]
    bare = Pairs.from_text(model, clean=["The Mary gave it to"], **ONE, bos="none")
    assert (bare.lengths.tolist(), bare.at("end").tolist()) == ([5], [4])


def test_the_end_of_rows_of_several_lengths_and_of_ones_own():
    model = framed("$A </s>")
    text = {
        "clean": ["The Mary gave it to", "The Mary gave"],
        "corrupt": ["The John gave it to", "The John gave"],
    }
    assert Pairs.from_text(model, **text).at("end").tolist() == [4, 2]
    own = Pairs.from_text(model, **text, positions={"end": [5, 3], "name": [1, 1]})
    assert own.at("end").tolist() == [5, 3]
    assert own.at("name").tolist() == [1, 1]


def test_the_end_of_a_text_that_spells_marks_out():
    """What was typed is text, also if it is a mark; of no text, the marks are all there is."""
    model = framed("<s> $A </s>")
    found = Pairs.from_text(model, clean=["The[MASK]"], corrupt=["Mary[MASK]"])
    assert model.show(found.clean[0, found.at("end")].tolist()) == ["[MASK]"]
    typed = Pairs.from_text(model, clean=["The</s>"], corrupt=["Mary</s>"])
    assert typed.at("end").tolist() == [2]
    assert Pairs.from_text(model, clean=[""], corrupt=[""]).at("end").tolist() == [1]


def test_a_word_without_a_token_is_refused_with_its_row():
    model, clean, corrupt = Reads(word_tokenizer(adds_bos=True)), "The Zoe gave", "The Mary gave"
    message = (
        r"no token for 'Zoe' in row 1 of clean \('The Zoe gave'\).*would read '<unk>' in its place"
    )
    with pytest.raises(PairsError, match=message):
        Pairs.from_text(model, clean=[corrupt, clean], corrupt=[corrupt, corrupt])
    with pytest.raises(PairsError, match="no token for 'Zoe' in row 0 of corrupt"):
        Pairs.from_text(model, clean=[corrupt], corrupt=[clean])
    meant = Pairs.from_text(model, clean=["The<unk> gave"], corrupt=["The Mary gave"])
    assert meant.clean.tolist() == [[0, 2, 1, 5]]


def test_an_answer_without_a_token_is_refused_with_its_row():
    """Before, both became the unknown token and their difference was 0."""
    model = Reads(word_tokenizer(adds_bos=True))
    text = {"clean": ["The Mary gave"] * 2, "corrupt": ["The John gave"] * 2}
    message = r"row 1 of correct: the tokenizer has no token for 'Zoe'.*'<unk>'.*Choose a word"
    with pytest.raises(PairsError, match=message):
        Pairs.from_text(model, **text, correct=[" it", " Zoe"], wrong=[" to", " Ada"])
    with pytest.raises(PairsError, match="row 0 of wrong: ' gave it' is 2 tokens"):
        Pairs.from_text(model, **text, correct=[" it", " it"], wrong=[" gave it", " to"])


def test_answers_that_are_one_token_are_refused_with_their_texts():
    same = {"correct": ["Mary", "Mary"], "wrong": ["John", " Mary"]}
    message = r"row 1: correct 'Mary' and wrong ' Mary' are the same token, 2 \(␣Mary\).*is 0"
    with pytest.raises(PairsError, match=message):
        Pairs.from_text(metaspace(), clean=["The Mary"] * 2, corrupt=["The John"] * 2, **same)


def warned(model: Reads, prompt: str, correct: str, wrong: str) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = {"clean": [prompt] * 2, "corrupt": [prompt] * 2}
        Pairs.from_text(model, **rows, correct=[correct] * 2, wrong=[wrong] * 2)
    assert all(w.category is UserWarning for w in said)
    return [str(w.message) for w in said]


def test_a_missing_space_is_pointed_out_once():
    model = framed("$A")
    (said,) = warned(model, "The Mary gave it to", "Mary", "John")
    assert said.startswith("4 of 4 answers begin without the space that their prompt wants")
    assert "correct 'Mary' of row 0 is token 10, and ' Mary', which a model says after" in said
    assert "'The Mary gave it to', is token 5." in said
    assert model.tokenizer.convert_ids_to_tokens([10, 5]) == ["Mary", " Mary"]
    (said,) = warned(model, "The Mary gave it to", " Mary", "John")
    assert said.startswith("2 of 4 answers")
    (said,) = warned(model, "The Mary.", "Mary", "John")
    assert "'The Mary.'" in said


def test_where_no_space_is_missing_nothing_is_said():
    model = framed("$A")
    for prompt, correct, wrong in (
        ("The Mary gave it to", " Mary", " John"),
        ("The Mary 4", "4", "7"),  # a number that goes on
        ("The Mary gave it to", ".", " it"),  # a mark takes no space
        ("The Mary gave it to", "7", " it"),  # there is no " 7"
    ):
        assert warned(model, prompt, correct, wrong) == []
    assert warned(metaspace(), "The Mary", "Mary", "John") == []
    assert len(warned(model, "The Mary gave it to", "4", " it")) == 1


def test_a_table_of_prompts():
    table = pd.DataFrame(
        {
            "clean": ["The Mary gave it to", "The John gave it to"],
            "corrupt": ["The John gave it to", "The Mary gave it to"],
            "correct": [" Mary", " John"],
            "wrong": [" John", " Mary"],
            "name": [1.0, 1.0],
            "group": [7, 8],
        },
        index=[12, 40],
    )
    model = framed("$A")
    columns = ("clean", "corrupt", "correct", "wrong")
    read = Pairs.from_text(
        model,
        **{name: table[name] for name in columns},
        positions={"name": table["name"]},
        cluster=table["group"],
    )
    listed = Pairs.from_text(
        model,
        **{name: table[name].tolist() for name in columns},
        positions={"name": [1, 1]},
        cluster=["7", "8"],
    )
    assert read.fingerprint == listed.fingerprint
    gone = table.assign(clean=[None, "The"])
    with pytest.raises(PairsError, match="clean is .* in row 0, not a text"):
        Pairs.from_text(model, clean=gone["clean"], corrupt=gone["corrupt"])


def test_counts_are_compared_before_anything_is_read():
    with pytest.raises(PairsError, match="2 clean prompts but 1 of corrupt, 1 of correct"):
        Pairs.from_text(
            framed("$A"),
            clean=["The Zoe", "The Ada"],
            corrupt=["The"],
            correct=["x"],
            wrong=["y", "z"],
        )


class Translates(hf.PreTrainedTokenizerFast):
    """Reads the target language with marks of its own, as those of NLLB and Marian do."""

    def _switch_to_input_mode(self) -> None:
        self._marked("$A </s>")

    def _switch_to_target_mode(self) -> None:
        self._marked("<es> $A </s>")

    def _marked(self, frame: str) -> None:
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=frame, special_tokens=[("<es>", 2), ("</s>", 1)]
        )


def translating() -> Reads:
    words = ["<unk>", "</s>", "<es>", "the", "red", "house", "blue", "la", "casa", "roja", "azul"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = Reads(Translates(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))
    found.target = True
    return found


SOURCE = {"clean": ["the red house"], "corrupt": ["the blue house"]}


def test_targets_are_read_in_the_language_that_they_are_written_in():
    pairs = Pairs.from_text(
        translating(),
        **SOURCE,
        target=["la casa"],
        correct=["roja"],
        wrong=["azul"],
        positions={"noun": [2]},
        target_positions={"noun": [3]},
    )
    assert pairs.clean.tolist() == [[3, 4, 5, 1]]
    assert pairs.target.clean.tolist() == pairs.target.corrupt.tolist() == [[2, 7, 8, 1]]
    assert pairs.correct.tolist() == [9]
    # "end" is the text's last token, before what the tokenizer appends; the start token is 0
    assert {name: at.tolist() for name, at in pairs.target.positions.items()} == {
        "end": [3],
        "noun": [3],
    }
    assert pairs.positions["end"].tolist() == [2]
    assert pairs.target.strings == ((("<es>", "la", "casa", "</s>"),) * 2,)
    assert "  target  <es> la casa </s>" in repr(pairs)
    bare = Pairs.from_text(translating(), **SOURCE, target=["la casa"], bos="none")
    assert bare.target.clean.tolist() == [[7, 8]]
    assert bare.target.positions["end"].tolist() == [2]


def test_both_sides_may_have_a_target_of_their_own():
    targets = {"target": ["la casa roja"], "corrupt_target": ["la casa azul"]}
    pairs = Pairs.from_text(translating(), **SOURCE, **targets)
    assert pairs.target.corrupt.tolist() == [[2, 7, 8, 10, 1]]
    with pytest.raises(PairsError, match=r"row 0: the target has 5 tokens and corrupt_target 4"):
        Pairs.from_text(translating(), **SOURCE, **targets | {"corrupt_target": ["la azul"]})
    with pytest.raises(PairsError, match=r"no token for 'verde' in row 0 of target"):
        Pairs.from_text(translating(), **SOURCE, target=["la casa verde"])
    with pytest.raises(PairsError, match="corrupt_target without target="):
        Pairs.from_text(translating(), **SOURCE, corrupt_target=["la casa"])
