"""Words and tokens against a brute-force account of characters, over many kinds of tokenizers."""

import logging
import os
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import transformers as hf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from interp.core.errors import CorpusError, ModelError, PairsError
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.datasets.named.registry import corpus as find
from interp.datasets.words.alignment import Alignment, _ranges, align
from interp.datasets.words.plain import split
from interp.models.bridge.tokens import Offsets
from interp.models.finding import shipped
from interp.models.model import Model

TEXT = [
    "The dogs don't see naïve cats, nor 12 cafés.",
    "It gave the dog's owner a cat; they don't.",
    "Cats see dogs, and an ice-cream in the café.",
]
SPECIAL = ["[CLS]", "[SEP]", "[UNK]"]


def byte_bpe(*, prefix: bool, trim: bool) -> hf.PreTrainedTokenizerFast:
    """GPT-2's kind: a token begins with its space; `trim` takes the space out of its span."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend)


def llama_bpe() -> hf.PreTrainedTokenizerFast:
    """Llama's first kind: merges know no words, so a token may hold parts of two."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", *bytes_], show_progress=False),
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def unigram(scheme: str) -> hf.PreTrainedTokenizerFast:
    """T5's kind, which changes characters (NFKC) and may put a space before the text."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace()
    options = {"special_tokens": ["<unk>"], "unk_token": "<unk>", "show_progress": False}
    backend.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=70, **options))
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def wordpiece() -> hf.PreTrainedTokenizerFast:
    """BERT's kind: lower case, no accents, between [CLS] and [SEP]."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def shipped_tokenizer(name: str) -> hf.PreTrainedTokenizerFast:
    return hf.AutoTokenizer.from_pretrained(shipped.folder(name))


TOKENIZERS = {
    "words": lambda: tiny.word_tokenizer(adds_bos=True),
    "byte-bpe": lambda: byte_bpe(prefix=False, trim=False),
    "byte-bpe-trimmed": lambda: byte_bpe(prefix=False, trim=True),
    "byte-bpe-prefix": lambda: byte_bpe(prefix=True, trim=False),
    "byte-bpe-prefix-trimmed": lambda: byte_bpe(prefix=True, trim=True),
    "llama-bpe": llama_bpe,
    "unigram": lambda: unigram("always"),
    "unigram-never": lambda: unigram("never"),
    "wordpiece": wordpiece,
}
REAL = [
    pytest.param(name, marks=pytest.mark.real)
    for name in ("smollm2-135m", "minilm-l6")  # byte-level BPE, WordPiece
]


@pytest.fixture(scope="session")
def speaking(tiny_model) -> Callable[..., Model]:
    """A tiny model that has another tokenizer, and room for long rows."""

    @cache
    def make(name: str, n_ctx: int = 512) -> Model:
        model = tiny_model("llama")
        tokenizer = TOKENIZERS[name]() if name in TOKENIZERS else shipped_tokenizer(name)
        return replace(model, tokenizer=tokenizer, facts=replace(model.facts, n_ctx=n_ctx))

    return make


PARTS = [["The"], ["dogs"], ["do", "n't"], ["café"], ["🐶"], ["中文", "字"], ["ice", "-", "cream"]]
PARTS += [["12"], ["12", "%"], ["a", "."], ["ﬁne"], ["x²"], ["\u200b"], ["e\u0301t"], ["Mary"]]


def sentence(parts: list[tuple[list[str], int]], name: str = "s") -> Sentence:
    """Words that stand together in a part, and spaces before each part but the first."""
    text, words = "", []
    for n, (part, spaces) in enumerate(parts):
        text += " " * (spaces if n else 0)
        for form in part:
            words.append(Word(form, (len(text), len(text) + len(form))))
            text += form
    return Sentence(name, text, tuple(words))


def plain(text: str, name: str = "s") -> Sentence:
    """Words between spaces."""
    return sentence([([form], 1) for form in text.split()], name)


def made(*documents: list[Sentence]) -> Corpus:
    found = tuple(Document(str(n), tuple(sentences)) for n, sentences in enumerate(documents))
    return Corpus("made", found, frozenset())


SENTENCES = st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 2)), max_size=6).map(
    lambda parts: sentence([*parts, (["a"], 1)])
)  # no tokenizer drops an "a"


def characters(text: str, start: int, end: int) -> set[int]:
    return {i for i in range(start, end) if not text[i].isspace()}


def folded(text: str) -> str:
    """Without what tokenizers take away: spaces, case, accents, ligatures."""
    text = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in text if not c.isspace() and not unicodedata.combining(c))


def check(model: Model, rows: list[list[Sentence]], aligned: Alignment) -> None:
    """Brute force over characters, and over the text that the tokens of a word spell."""
    places = zip(aligned.sentence.tolist(), aligned.word.tolist(), strict=True)
    index = {place: n for n, place in enumerate(places)}
    s = 0
    for row, sentences in enumerate(rows):
        text, shift = " ".join(found.text for found in sentences), 0
        ids, offsets = model.encode_with_offsets(text)
        assert aligned.rows[row] == tuple(ids)
        covered = covered_by(model, text, ids, offsets)
        for found in sentences:
            for w, word in enumerate(found.words):
                mine = characters(text, shift + word.span[0], shift + word.span[1])
                tokens = [i for i, theirs in enumerate(covered) if theirs & mine]
                if not tokens:
                    assert (s, w) in aligned.missing
                    continue
                n = index[s, w]
                start, end = int(aligned.start[n]), int(aligned.end[n])
                assert int(aligned.row[n]) == row
                assert (start, end) == (tokens[0], tokens[-1] + 1)
                if model.tokenizer.unk_token_id in ids[start:end]:
                    continue
                spelled = folded(model.tokenizer.decode(ids[start:end])).removeprefix("##")
                form = folded(word.form)  # WordPiece says so that a word goes on
                if set().union(*covered[start:end]) == mine:
                    assert spelled == form
                else:
                    assert form in spelled
            s, shift = s + 1, shift + len(found.text) + 1


def covered_by(model: Model, text: str, ids: list[int], offsets: Offsets) -> list[set[int]]:
    """The characters of each token; none of the space that a tokenizer puts before the text."""
    covered = [characters(text, *span) for span in offsets]
    pieces = model.tokenizer.convert_ids_to_tokens(ids)
    for i in range(len(ids) - 1):
        if covered[i] & covered[i + 1] and not pieces[i].strip("▁Ġ"):
            covered[i] = set()
    return covered


@pytest.mark.parametrize("name", [*TOKENIZERS, *REAL])
@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sentences=st.lists(SENTENCES, min_size=1, max_size=3))
def test_the_tokens_of_a_word_spell_it(speaking, name, sentences):
    model, corpus = speaking(name), made(sentences)
    aligned = align(model, corpus)
    check(model, [[s] for s in sentences], aligned)
    assert len(aligned) + len(aligned.missing) == corpus.n_words
    assert bool(aligned.note) == bool(aligned.missing)


@pytest.mark.parametrize("name", [*TOKENIZERS, *REAL])
@settings(
    deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    documents=st.lists(st.lists(SENTENCES, min_size=1, max_size=4), min_size=1, max_size=3),
    most=st.integers(1, 40),
)
def test_sentences_share_rows_as_long_as_they_fit(speaking, name, documents, most):
    model, corpus = speaking(name), made(*documents)
    longest = max(len(model.encode(s.text)) for s in corpus.sentences)
    most = max(most, longest)
    aligned = align(model, corpus, context=most)
    rows: list[list[Sentence]] = []
    for document in documents:
        rows.append([])
        for found in document:
            text = " ".join(s.text for s in [*rows[-1], found])
            if rows[-1] and len(model.encode(text)) > most:
                rows.append([])
            rows[-1].append(found)
    assert len(aligned.rows) == len(rows)
    assert max(map(len, aligned.rows)) <= most
    assert not aligned.cut
    check(model, rows, aligned)


@pytest.mark.parametrize("name", ["words", "byte-bpe", "llama-bpe", "wordpiece"])
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sentences=st.lists(SENTENCES, min_size=1, max_size=3), most=st.integers(3, 9))
def test_long_sentences_lose_their_first_tokens(speaking, name, sentences, most):
    model, corpus = speaking(name), made(*([s] for s in sentences))
    whole, aligned = align(model, corpus), align(model, corpus, context=most)
    kept = {(s, w): (a, b) for s, w, a, b in words(aligned)}
    front = int(model.encode("")[:1] == [0])  # <s> or [CLS]
    for s, w, start, end in words(whole):
        long, short = whole.rows[s], aligned.rows[s]
        lost = len(long) - len(short)
        assert len(short) == min(len(long), most)
        assert (s in aligned.cut) == (lost > 0)
        assert short == long[:front] + long[front + lost :]
        if start < front + lost:
            assert (s, w) in aligned.missing
        else:
            assert kept[s, w] == (start - lost, end - lost)
    everything = [(s, w) for s, found in enumerate(corpus.sentences) for w in range(len(found))]
    assert sorted([*kept, *aligned.missing]) == everything


def words(aligned: Alignment) -> list[tuple[int, int, int, int]]:
    """Sentence, word, start and end."""
    parts = (aligned.sentence, aligned.word, aligned.start, aligned.end)
    return list(zip(*(part.tolist() for part in parts), strict=True))


SCRIPTS = [
    "Ann's aunt didn't pay $10,000.50 in the U.S. for rock'n'roll.",
    "e\u0301te\u0301 नमस्ते दुनिया। ภาษาไทย السَّلَامُ 彼女は東京へ。",
    "👩\u200d🔬 and 👍🏽👍🏽, 🇩🇪🇫🇷 1\ufe0f\u20e3!",
]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_of_plain_text_have_the_tokens_that_spell_them(speaking, name):
    model = speaking(name)
    sentences = [Sentence(f"s{i}", text, split(text)) for i, text in enumerate(SCRIPTS)]
    check(model, [[s] for s in sentences], align(model, made(sentences)))


# by hand


def test_multiword_tokens_share_a_token(speaking):
    """`don|'t` for do + n't: the apostrophe's token is n't's alone, and both have `don`."""
    model = speaking("smollm2-135m")
    text = sentence([(["I"], 1), (["do", "n't"], 1), (["know"], 1)])
    aligned = align(model, made([text]))
    assert model.show(list(aligned.rows[0])) == ["I", "␣don", "'t", "␣know"]
    assert list(zip(aligned.start, aligned.end, strict=True)) == [(0, 1), (1, 2), (1, 3), (3, 4)]


def test_words_with_one_span_have_the_same_tokens(speaking):
    """The two words of a contraction that cannot be told apart in the text."""
    found = Sentence("s", "au café", (Word("à", (0, 2)), Word("le", (0, 2)), Word("café", (3, 7))))
    aligned = align(speaking("byte-bpe"), made([found]))
    assert (aligned.start[0], aligned.end[0]) == (aligned.start[1], aligned.end[1])
    assert aligned.start[2] == aligned.end[1]


def test_spaces_around_a_word_do_not_count(speaking):
    model, text = speaking("byte-bpe"), "The dogs see"
    tight, loose = (
        made([Sentence("s", text, tuple(Word(text[a:b], (a, b)) for a, b in spans))])
        for spans in ([(0, 3), (4, 8), (9, 12)], [(0, 4), (3, 9), (8, 12)])
    )
    assert words(align(model, tight)) == words(align(model, loose))


def test_a_row_takes_what_fits_though_sentences_are_longer_alone(speaking):
    """`d|o|g|s`, but after a space `Ġdog|s`."""
    model, corpus = speaking("byte-bpe"), made([plain("dogs")] * 6)
    together = len(model.encode(" ".join(["dogs"] * 6)))
    assert together < 6 * len(model.encode("dogs"))
    assert len(align(model, corpus, context=together).rows) == 1
    assert len(align(model, corpus, context=together - 1).rows) == 2


@settings(deadline=None, max_examples=50)
@given(
    offsets=st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 3)).map(lambda o: (o[0], o[0] + o[1])),
        max_size=8,
    ),
    span=st.tuples(st.integers(0, 8), st.integers(1, 4)).map(lambda s: (s[0], s[0] + s[1])),
)
def test_whatever_the_offsets_no_token_of_a_word_is_lost(offsets, span):
    found = _ranges("x" * 13, np.array([span]), offsets, frozenset())[0]
    for i, (a, b) in enumerate(offsets):
        if max(a, span[0]) < min(b, span[1]):
            assert found[0] <= i < found[1]


def test_a_space_before_the_text_is_no_word(speaking):
    model = speaking("unigram")
    aligned = align(model, made([plain("xyz dog")]))
    pieces = model.tokenizer.convert_ids_to_tokens(list(aligned.rows[0]))
    assert pieces[0] == "▁" and aligned.start[0] == 1


def test_dropped_characters_are_named(speaking, caplog):
    model = speaking("minilm-l6")
    corpus = made([plain("The \u200b dog", "a")], [plain("cats", "b")])
    with caplog.at_level(logging.WARNING, logger="interp"):
        aligned = align(model, corpus)
    assert aligned.missing == ((0, 1),)
    assert aligned.note == (
        "1 of 4 words have no tokens ('\\u200b' of a): 0 were cut off, 1 the tokenizer drops"
    )
    assert caplog.messages == [f"made: {aligned.note}"]
    assert aligned.note in repr(aligned)


def test_cut_sentences_are_named(speaking, caplog):
    model = speaking("words")
    corpus = made([plain("The Mary gave it to John", "first"), plain("The Mary", "second")])
    with caplog.at_level(logging.WARNING, logger="interp"):
        aligned = align(model, corpus, context=4)
    bos, *body = model.encode("The Mary gave it to John")
    assert aligned.rows == ((bos, *body[-3:]), tuple(model.encode("The Mary")))
    assert aligned.cut == (0,)
    assert aligned.missing == ((0, 0), (0, 1), (0, 2))
    assert aligned.sentence.tolist() == [0, 0, 0, 1, 1]
    assert aligned.start.tolist() == [1, 2, 3, 1, 2]
    for part in ("3 of 8 words", "'The' of first", "3 were cut off", "1 sentences", "4 tokens"):
        assert part in aligned.note and part in caplog.text


def test_the_models_own_context_is_never_exceeded(speaking):
    model = speaking("words", 4)
    assert align(model, made([plain("The Mary gave it to John")])).cut == (0,)
    with pytest.raises(CorpusError, match=r"context=5 tokens: a row of .* has 1 to 4"):
        align(model, made([plain("The")]), context=5)


def test_without_special_tokens(speaking):
    model, corpus = speaking("wordpiece"), made([plain("The dogs")])
    with_, without = align(model, corpus), align(model, corpus, bos="none")
    assert with_.rows[0][1:-1] == without.rows[0]
    assert np.array_equal(with_.start - 1, without.start)


def test_sentences_without_words_are_empty_rows(speaking):
    model = speaking("byte-bpe")
    aligned = align(model, made([Sentence("e", "", ()), plain("The dogs")]))
    assert aligned.rows[0] == () and set(aligned.row) == {1}


def test_the_fingerprint_knows_tokens_and_words(speaking):
    corpus = made([plain("The Mary gave it"), plain("The Mary")])
    model = speaking("words")
    one = align(model, corpus)
    assert one.fingerprint == align(model, corpus).fingerprint
    fewer = made([replace(s, words=s.words[1:]) for s in corpus.sentences])
    blank = Word(" ", (3, 4))  # has no token
    more = made([replace(s, words=(*s.words, blank)) for s in corpus.sentences])
    others = [
        align(model, corpus, context=9),
        align(model, corpus, bos="none"),
        align(speaking("byte-bpe"), corpus),
        align(model, fewer),
        align(model, more),
    ]
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_what_is_refused(speaking):
    model, corpus = speaking("words"), made([plain("The Mary")])
    with pytest.raises(CorpusError, match="made has no words"):
        align(model, made([Sentence("e", "text", ())]))
    with pytest.raises(CorpusError, match="context=0 tokens"):
        align(model, corpus, context=0)
    with pytest.raises(CorpusError, match=r"row of 2 tokens has no room.*adds 2 special.*bos="):
        align(speaking("wordpiece"), corpus, context=2)
    with pytest.raises(CorpusError, match=r"no word of made has a token: 1 of 1.*tokenizer drops"):
        align(speaking("wordpiece"), made([plain("\u200b")]))
    with pytest.raises(ModelError, match="no tokenizer"):
        align(replace(model, tokenizer=None), corpus)
    with pytest.raises(PairsError, match="CanineTokenizer cannot say which characters"):
        align(replace(model, tokenizer=hf.CanineTokenizer()), corpus)


# on real text


@pytest.mark.real
@pytest.mark.parametrize("name", ["smollm2-135m", "minilm-l6"])
def test_every_word_of_real_text_has_its_tokens(speaking, name):
    folder = Path(os.environ.get("INTERP_DATA", "")) / "ud-ewt"
    if not folder.is_dir():
        pytest.skip("needs ud-ewt in INTERP_DATA")
    corpus, model = find("ud-ewt", split="dev").head(2500), speaking(name)
    for context in (None, 128):
        aligned = align(model, corpus, context=context)
        assert not aligned.missing and len(aligned) == corpus.n_words
        assert (aligned.start < aligned.end).all()
        same = np.diff(aligned.row) == 0
        assert (np.diff(aligned.start)[same] >= 0).all()
        lengths = np.array([len(row) for row in aligned.rows])
        assert (aligned.end <= lengths[aligned.row]).all() and lengths.max() <= 128
    if context is not None:
        documents = [corpus.clusters[s] for s in aligned.sentence]
        for (a, b), moved in zip(pairwise(documents), np.diff(aligned.row), strict=True):
            assert a == b or moved  # no row has two documents
    few = corpus.head(500)
    check(model, [[s] for s in few.sentences], align(model, few))
