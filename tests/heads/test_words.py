"""Word-level attention: Clark et al.'s protocol by hand, by loops, and on whole models."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.core.errors import InterpError, Unsupported
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word
from interp.datasets.words.alignment import Alignment, align
from interp.datasets.words.links import begins_row, numbered, placed
from interp.heads.looking.attended import attended
from interp.heads.looking.words import Words


def words_of(*ranges: tuple[int, int], sentence: list[int] | None = None) -> Words:
    """The words of one row by their tokens; the row's words are 10, 11, ... of the alignment."""
    start, end = (torch.tensor([r]) for r in zip(*ranges, strict=True))
    ids = 10 + torch.arange(len(ranges))[None]
    of = torch.tensor([sentence or [0] * len(ranges)])
    return Words(ids, of, start, end)


# [CLS] w0 w1a w1b w2 [SEP]; most attention goes to [SEP]
RANGES = ((1, 2), (2, 4), (4, 5))
PATTERN = torch.tensor(
    [
        [0.1, 0.1, 0.1, 0.1, 0.1, 0.5],
        [0.0, 0.3, 0.1, 0.05, 0.1, 0.45],  # w0: itself, then w1 (0.15 in two pieces)
        [0.0, 0.1, 0.2, 0.1, 0.0, 0.6],
        [0.0, 0.0, 0.1, 0.1, 0.3, 0.5],
        [0.2, 0.18, 0.1, 0.09, 0.03, 0.4],  # w2: w1 in sum (0.19), though w0 has the largest piece
        [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
    ]
)[None, :, None]


def test_to_a_word_is_a_sum_and_from_a_word_a_mean():
    found = words_of(*RANGES).attention(PATTERN)
    assert found.shape == (1, 1, 3, 3)
    by_hand = [[0.3, 0.15, 0.1], [0.05, 0.25, 0.15], [0.18, 0.19, 0.03]]
    torch.testing.assert_close(found[0, 0], torch.tensor(by_hand))


def test_specials_and_the_word_itself_are_no_answers():
    """By hand: w0 -> w1, w1 -> w2, w2 -> w1; and attended to most by: w2, w2, w1."""
    words = words_of(*RANGES)
    attention = words.attention(PATTERN)
    apart = words.apart(causal=False)
    assert words.distance(attention, apart, ask="target").tolist() == [[1, 1, -1]]
    assert words.distance(attention, apart, ask="source").tolist() == [[2, 1, -1]]


def test_under_a_causal_mask_words_look_left_and_are_looked_at_from_the_right():
    words = words_of(*RANGES)
    attention = words.attention(PATTERN)
    apart = words.apart(causal=True)
    assert apart[0].int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert words.distance(attention, apart, ask="target").tolist() == [[0, -1, -1]]
    assert words.distance(attention, apart, ask="source").tolist() == [[2, 1, 0]]


def test_words_that_share_a_token_do_not_attend_to_each_other():
    """ "don't" as don|'t: "do" has don, "n't" has both."""
    words = words_of((1, 2), (1, 3), (3, 4))
    assert words.apart(causal=False)[0].int().tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    assert words.apart(causal=True)[0].int().tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]]


def test_words_attend_within_their_sentence():
    words = words_of((0, 1), (1, 2), (2, 3), (3, 4), sentence=[0, 0, 1, 1])
    together = words.together()[0].int().tolist()
    assert together == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    attention = torch.tensor(
        [[0.0, 0.1, 0.9, 0], [0.2, 0, 0.7, 0.1], [0.9, 0, 0, 0.1], [1, 0, 0, 0]]
    )
    near = words.apart(causal=False) & words.together()
    found = words.distance(attention[None, None], near, ask="target")
    assert found.tolist() == [[1, -1, 1, 0]]  # the last one gives nothing to its sentence


def test_of_equals_the_first_and_of_nothing_none():
    words = words_of((0, 1), (1, 2), (2, 3))
    apart = words.apart(causal=False)
    assert words.distance(torch.ones(1, 1, 3, 3), apart, ask="target").tolist() == [[1, -1, -2]]
    assert words.distance(torch.zeros(1, 1, 3, 3), apart, ask="target").tolist() == [[0, 0, 0]]


def test_rows_with_fewer_words_are_padded():
    alignment = Alignment(
        rows=((5, 6, 7), (5, 6, 7)),
        sentence=np.array([0, 0, 0, 1]),
        word=np.array([0, 1, 2, 0]),
        row=np.array([0, 0, 0, 1]),
        start=np.array([0, 1, 2, 1]),
        end=np.array([1, 2, 3, 3]),
        missing=(),
        cut=(),
        note="",
    )
    words = Words.of(alignment, [np.array([0, 1, 2]), np.array([3])], torch.device("cpu"))
    assert words.ids.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert not words.apart(causal=False)[1].any()
    pattern = torch.full((2, 3, 4, 3), 1 / 3)
    found = words.distance(words.attention(pattern), words.apart(causal=False), ask="target")
    assert found.tolist() == [[1, -1, -2, 0]] * 4
    assert found.dtype == np.int16


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_against_loops(data):
    """Any ranges in order, with gaps and shared tokens; any sentences; either mask."""
    length, heads = data.draw(st.integers(2, 7)), 3
    spans = st.tuples(st.integers(0, length - 1), st.integers(1, 3))
    drawn = sorted(
        (a, min(a + n, length)) for a, n in data.draw(st.lists(spans, min_size=1, max_size=6))
    )
    sentence = sorted(
        data.draw(st.lists(st.integers(0, 1), min_size=len(drawn), max_size=len(drawn)))
    )
    causal = data.draw(st.booleans())
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    pattern = rng.integers(100, size=(length, heads, length)).astype(float)  # equals stay equal
    words = words_of(*drawn, sentence=sentence)
    attention = words.attention(torch.tensor(pattern[None]))
    near = words.apart(causal=causal) & words.together()
    to = words.distance(attention, near, ask="target")
    by = words.distance(attention, near, ask="source")
    for head in range(heads):
        table = slow_attention(pattern[:, head], drawn)
        np.testing.assert_allclose(attention[0, head].numpy(), table, atol=1e-12)
        assert to[head].tolist() == slow_distances(table, drawn, sentence, causal, "target")
        assert by[head].tolist() == slow_distances(table, drawn, sentence, causal, "source")


def slow_attention(pattern: np.ndarray, ranges) -> list[list[float]]:
    """Query x key tokens to source x target words, one number at a time."""
    table = []
    for a, b in ranges:
        row = []
        for c, d in ranges:
            rows = [sum(pattern[q][k] for k in range(c, d)) for q in range(a, b)]
            row.append(sum(rows) / len(rows))
        table.append(row)
    return table


def slow_rests(table, ranges, sentence, causal: bool) -> list[bool]:
    """Whether a word looks at the first one, which holds the first token, more than at others."""
    found = []
    for i, (start, end) in enumerate(ranges):
        others = [
            table[i][j]
            for j, (a, b) in enumerate(ranges)
            if j and sentence[i] == sentence[j] and (b <= start or (a >= end and not causal))
        ]
        found.append(i > 0 and table[i][0] > max(others, default=0))
    return found


def slow_distances(
    table, ranges, sentence, causal: bool, ask: str, skipped=frozenset()
) -> list[int]:
    """How far the best partner of each word stands, by trying all."""
    found = []
    for i in range(len(ranges)):
        best, distance = 0.0, 0
        for j in range(len(ranges)):
            source, target = (i, j) if ask == "target" else (j, i)
            if sentence[i] != sentence[j] or set(range(*ranges[i])) & set(range(*ranges[j])):
                continue
            if not skipped.isdisjoint((i, j)):
                continue
            if causal and max(range(*ranges[target])) > min(range(*ranges[source])):
                continue
            if table[source][target] > best:
                best, distance = table[source][target], j - i
        found.append(distance)
    return found


TEXTS = (
    ("Mary gave it's Johnny", "Mary", "gave", "it", "'s", "Johnny"),
    ("The Mary", "The", "Mary"),
    ("John to it", "John", "to", "it"),
    ("it", "it"),
    ("gave-to Mary John it", "gave-to", "Mary", "John", "it"),
)


def made(text: str, *forms: str) -> Sentence:
    words, at = [], 0
    for form in forms:
        at = text.index(form, at)
        words.append(Word(form, (at, at + len(form))))
        at += len(form)
    return Sentence(text, text, tuple(words))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Five sentences in two documents; mentions at words of several kinds."""
    sentences = [made(*text) for text in TEXTS]
    first = (
        Mention(0, (0, 1), "m", 0),
        Mention(0, (3, 5), "j", None),  # no head is told: its last word, "Johnny"
        Mention(1, (0, 2), "m", 1),
        Mention(2, (2, 3), "j", 2),
    )
    second = (
        Mention(1, (1, 2), "m", 1),
        Mention(1, (0, 3), "x", 2),  # "Mary" is inside of it, and no candidate
        Mention(1, (2, 3), "y", 2),  # headed by the same word
        Mention(1, (3, 4), "m", 3),
    )
    documents = (
        Document("a", tuple(sentences[:3]), first),
        Document("b", tuple(sentences[3:]), second),
    )
    return Corpus("five", documents, frozenset({"mentions"}))


def test_heads_of_mentions_are_words_of_the_alignment(corpus, tiny_model):
    alignment = align(tiny_model("llama"), corpus)
    mentions = [m for of in placed(corpus, alignment, read="head") for m in of]
    heads = numbered(corpus, alignment)[[m.head for m in mentions]]
    assert [m.row for m in mentions] == alignment.row[heads].tolist()
    found = [(alignment.sentence[i], alignment.word[i]) for i in heads]
    assert found == [(0, 0), (0, 4), (1, 1), (2, 2), (4, 1), (4, 2), (4, 2), (4, 3)]


@pytest.mark.parametrize("family", ["bert", "llama", "mistral-window"])
@pytest.mark.parametrize("context", [None, 9])
@pytest.mark.parametrize(("engine", "first"), [("auto", "keep"), ("hooks", "skip")])
def test_a_model_against_the_bridge_and_loops(tiny_model, corpus, family, context, engine, first):
    """Patterns of the bridge's cache, row by row; words and mentions by loops."""
    model = tiny_model(family)
    found = attended(model, corpus, context=context, engine=engine, first=first)
    assert found.first == found.provenance["first"] == first
    facts, alignment = model.facts, found.alignment
    assert facts.causal == found.causal == (family != "bert")
    assert found.to.shape == found.by.shape == (facts.n_layers, facts.n_heads, corpus.n_words)
    assert found.mentions.tolist() == [0, 4, 6, 9, 12, 13, 14]
    begins = {0: 0, 4: 3, 6: 5, 9: 9, 12: 12, 13: 11, 14: 14}
    ends = {0: 1, 4: 5, 6: 7, 9: 10, 12: 13, 13: 14, 14: 15}
    assert [len(row) for row in alignment.rows] == (
        [5, 2, 3, 1, 6] if context is None else [7, 3, 7]
    )
    if context is None and first == "keep":
        assert not found.antecedent[..., [0, 2, 3, 4, 5]].any()  # none before them in their row
        assert family == "mistral-window" or found.antecedent[..., 6].all()
    for row, tokens in enumerate(alignment.rows):
        members = np.flatnonzero(alignment.row == row)
        ranges = [(int(alignment.start[i]), int(alignment.end[i])) for i in members]
        sentence = alignment.sentence[members]
        holds = {i for i, (start, _) in enumerate(ranges) if start == 0}
        assert holds == {0}  # these tokenizers put nothing before the text
        skipped = holds if first == "skip" else set()
        cache = model.bridge.run_with_cache(torch.tensor([tokens]))[1]
        mentioned = [i for i, word in enumerate(members) if word in found.mentions]
        for layer in range(facts.n_layers):
            patterns = cache[f"blocks.{layer}.attn.hook_pattern"][0].numpy()
            for head in range(facts.n_heads):
                table = slow_attention(patterns[head], ranges)
                for ask, ours in (("target", found.to), ("source", found.by)):
                    slow = slow_distances(table, ranges, sentence, found.causal, ask, skipped)
                    assert ours[layer, head, members].tolist() == slow
                resting = slow_rests(table, ranges, sentence, found.causal)
                assert found.rests[layer, head, members].tolist() == resting
                far = []
                for i in mentioned:
                    before = [j for j in mentioned if ends[members[j]] <= begins[members[i]]]
                    allowed = [j for j in before if table[i][j] > 0]  # a window hides some
                    allowed = [j for j in allowed if skipped.isdisjoint((i, j))]
                    best = max(allowed, key=lambda j: table[i][j], default=i)
                    far.append(int(members[best] - members[i]))
                place = np.searchsorted(found.mentions, members[mentioned])
                assert found.antecedent[layer, head, place].tolist() == far


def test_what_is_said_of_a_run(tiny_model, corpus, caplog):
    model = tiny_model("llama")
    with caplog.at_level(logging.WARNING):
        found = attended(model, corpus, context=9, bos="none")
    note = found.provenance
    assert (note["corpus"], note["context"], note["bos"]) == ("five", 9, "none")
    assert (note["words"], note["missing"], note["engine"]) == (15, 0, "replay")
    told = "Attended: 3 layers x 6 heads, 15 words, 7 of them heads of mentions; "
    assert repr(found) == f"{told}{found.rests.mean():.0%} of looks rest at the first token"
    assert (note["first"], note["first words"]) == ("skip", len(found.alignment.rows))
    plan = interp.explain(attended, model, corpus)
    assert sum(len(batch.rows) for batch in plan.batches) == 5


def test_behind_a_bos_no_word_is_skipped(tiny_model, corpus):
    """Its token is the sink, and is no word's: as [CLS] of Clark et al."""
    model = tiny_model("llama")
    alignment = align(model, corpus)
    moved = replace(
        alignment,
        rows=tuple((1, *row) for row in alignment.rows),
        start=alignment.start + 1,
        end=alignment.end + 1,
    )
    assert begins_row(alignment).sum() == len(alignment.rows)
    assert not begins_row(moved).any()
    members = [np.flatnonzero(moved.row == 0)]
    words = Words.of(moved, members, torch.device("cpu"))
    pattern = torch.rand(1, len(moved.rows[0]), 2, len(moved.rows[0]), dtype=torch.float64)
    to_bos = words.to_first(pattern)
    for place, (start, end) in enumerate(
        zip(moved.start[members[0]], moved.end[members[0]], strict=True)
    ):
        torch.testing.assert_close(to_bos[0, :, place], pattern[0, start:end, :, 0].mean(0))


def test_attention_to_a_first_word_of_two_tokens_is_the_sum():
    words = words_of((0, 2), (2, 3), (3, 5))
    pattern = torch.rand(1, 5, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(words.to_first(pattern), words.attention(pattern)[..., 0])


def test_two_stacks_are_refused(tiny_model, corpus):
    with pytest.raises(Unsupported, match=r"an encoder and a decoder.*enc\.0\.1\.pattern"):
        attended(tiny_model("t5"), corpus)


def test_attention_that_is_not_finite_is_refused():
    pattern = PATTERN.clone()
    pattern[0, 3, 0, 4] = torch.nan
    with pytest.raises(InterpError, match=r"NaN or infinity.*no word is the most attended"):
        words_of(*RANGES).attention(pattern)
    pattern = PATTERN.clone()
    pattern[0, 5, 0, 0] = torch.nan  # from [SEP], which is no word's
    with pytest.raises(InterpError, match="NaN or infinity"):
        words_of(*RANGES).attention(pattern)
