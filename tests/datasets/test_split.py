"""Words of plain text in any script: Unicode's own boundaries are the oracle, and cases by hand."""

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.datasets.words.plain import is_edge, join, split

WHOLE = [
    "e\u0301te\u0301",  # combining marks
    "a\u0323\u0307b",
    "नमस्ते",
    "क्षत्रिय",
    "বাংলা",
    "ਪੰਜਾਬੀ",
    "ગુજરાતી",
    "தமிழ்",
    "తెలుగు",
    "ಕನ್ನಡ",
    "മലയാളം",
    "සිංහල",
    "ภาษาไทย",
    "ລາວ",
    "ខ្មែរ",
    "မြန်မာ",
    "السَّلَامُ",
    "می\u200cخواهم",  # a joiner that keeps letters apart
    "שָׁלוֹם",
    "צה״ל",
    "한국어",
    "\u1112\u1161\u11ab",  # Hangul in its parts
    "👩\u200d🔬",
    "👨\u200d👩\u200d👧\u200d👦",
    "👍🏽",
    "🇩🇪",
    "1\ufe0f\u20e3",
    "#\ufe0f\u20e3",
    "❤\ufe0f\u200d🔥",
    "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
    "3.14",
    "10,000",
    "1,234.56",
    "10’000",
    "U.S.",
    "J.R.R.",
    "Ph.D.",
    "p.m.",
    "www.example.co.uk",
    "rock'n'roll",
    "O’Neil",
    "l·l",
    "co\u00adoperate",  # a soft hyphen
    "x_1",
    "H₂O",
    "½",
    "``",
    "''",
    "...",
]


@pytest.mark.parametrize("word", WHOLE)
def test_one_word(word):
    assert [w.form for w in split(word)] == [word]
    assert [w.form for w in split(f"a {word}, {word} b")] == ["a", word, ",", word, "b"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("don't can't WON’T isn't", "do n't ca n't WO N’T is n't"),
        ("Ann's I'd've O'Neil's they’ll", "Ann 's I 'd 've O'Neil 's they ’ll"),
        ("the clerk 's car does n't", "the clerk 's car does n't"),
        ("the boys' room", "the boys ' room"),
        ("'Hello,' he said", "' Hello , ' he said"),
        ("it costs $3.50.", "it costs $ 3.50 ."),
        ("in the U.S.A.'s", "in the U.S.A. 's"),
        ("Mr. Smith... left..", "Mr . Smith ... left .."),
        ("he said.She left", "he said . She left"),
        ("1999.He 3:16 a:b 1/2", "1999 . He 3 : 16 a : b 1 / 2"),
        ("Ann-Marie, C++ & 5%", "Ann - Marie , C + + & 5 %"),
        ("🇩🇪🇫🇷 👍👍🏽!", "🇩🇪 🇫🇷 👍 👍🏽 !"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया ।"),
        ("彼女は東京へ。", "彼女は東京へ 。"),
        ("l'homme", "l'homme"),
        ("", ""),
    ],
)
def test_words_by_hand(text, words):
    assert [w.form for w in split(text)] == words.split()


NASTY = st.sampled_from(
    [
        *"ab1é.,'’-\u0301\u0323नमी\u094dกุع\u064e👩👍🏽🇩🇪🔬\u200d\u200c\ufe0f\u20e3\u00ad_½㎏ \n(`",
        "...",
        "n't",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(NASTY, max_size=12).map("".join))
def test_no_word_cuts_what_a_reader_sees_as_one_character(text):
    edges = {edge for word in split(text) for edge in word.span}
    for cluster in regex.finditer(r"\X", text):
        start, end = cluster.span()
        if not text[start].isspace():  # a mark after a space has no letter of its own
            assert not edges & set(range(start + 1, end)), (text, cluster)


OTHER = st.sampled_from(
    [
        *"abé1 \n,-()!नमД_;",
        "e\u0301",
        "नम\u094d",
        "ع\u064e",
        "👍🏽",
        "👩\u200d🔬",
        "b\u00ad",
        "\u0645\u200c",
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(OTHER, max_size=20).map("".join))
def test_elsewhere_than_said_words_are_those_of_unicode(text):
    """Without apostrophes, stops and colons, or scripts that write no spaces."""
    oracle, at = [], 0
    for piece in regex.split(r"\b", text, flags=regex.V1 | regex.WORD):
        if piece.strip():
            oracle.append((at, at + len(piece)))
        at += len(piece)
    assert [w.span for w in split(text)] == oracle


@pytest.mark.parametrize(
    ("text", "edges"),
    [
        ("mother", [0, 6]),
        ("Ann's dog", [0, 3, 4, 5, 6, 9]),
        ("O'Neil", [0, 1, 2, 6]),
        ("e\u0301a", [0, 3]),
        ("her_dog", [0, 7]),
        ("👩\u200d🔬", [0, 3]),
        ("東京", [0, 1, 2]),
        ("नमस्ते", [0, 6]),
        ("a-b", [0, 1, 2, 3]),
    ],
)
def test_where_a_word_may_begin_or_end(text, edges):
    assert [i for i in range(len(text) + 1) if is_edge(text, i)] == edges


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["Ann", "does", "n't", "3.14", "U.S.", "👩\u200d🔬", "नमस्ते", ","])))
def test_what_is_joined_is_split_again(forms):
    text, spans = join(forms)
    assert [w.span for w in split(text, [edge for span in spans for edge in span])] == list(spans)
