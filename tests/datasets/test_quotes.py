"""Straight single quotes: by hand, and over novels, the marks that punctuation alone decides."""

import lzma
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.datasets.words.plain import join
from interp.datasets.words.quotes import opening


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("I said ' Good night , '", "I said 'Good night,'"),
        ("I said ' Good night , ' and left", "I said 'Good night,' and left"),
        ("calling me ' Sir John '", "calling me 'Sir John'"),
        ("calling me ' Sir John ' these days", "calling me 'Sir John' these days"),
        ("' Yes , ' says he , ' not half . '", "'Yes,' says he, 'not half.'"),
        ("he says ' Good night , ' and left", "he says 'Good night,' and left"),
        ("The ' G ' with the small ' t ' stands", "The 'G' with the small 't' stands"),
        ("our ' Co. ' ' P , ' of course", "our 'Co.' 'P,' of course"),
        ("call me ' boy ' ?", "call me 'boy'?"),
        ("\" ' Death , ' said he . \"", "\"'Death,' said he.\""),
        # quotations that begin or end in another sentence
        ("he said , ' And he left .", "he said, 'And he left."),
        ("' And so it was .", "'And so it was."),
        ("And so it was . '", "And so it was.'"),
        ("And so , ' he said .", "And so,' he said."),
        # apostrophes
        ("James ' hat", "James' hat"),
        ("the boys ' room and the girls ' room", "the boys' room and the girls' room"),
        ("' I like James ' hat , ' he said .", "'I like James' hat,' he said."),
        ("I like James ' hat , ' he said .", "I like James' hat,' he said."),
        ("the boys ' own ' book '", "the boys' own 'book'"),
        ("goin ' home an ' eatin ' , he said", "goin' home an' eatin', he said"),
        ("I did n't want ' em to see", "I didn't want 'em to see"),
        ("one ' s and he 's", "one' s and he's"),  # taken apart; the clitic is one
        ("it ' ll do", "it 'll do"),
        ("for ' tis true", "for 'tis true"),
        ("off to ' Frisco", "off to 'Frisco"),
    ],
)
def test_by_hand(tokens, text):
    assert join(tokens.split())[0] == text


WORDS = st.sampled_from(
    ["James", "boys", "said", "me", "Sir", "goin", "an", "3", ",", ".", "--", '"']
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.just("'"), WORDS), max_size=12))
def test_each_mark_stands_beside_one_word(forms):
    """It belongs to the word after it or to the one before, whatever stands around it."""
    forms = [*forms, "end"]
    found = opening(forms)
    assert all(forms[i] == "'" for i in found)
    text, spans = join(forms)
    for i in (i for i, form in enumerate(forms) if form == "'"):
        start, end = spans[i]
        if i in found:
            assert text[end] != " "
        elif i:
            assert text[start - 1] != " "


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["Good", "night", "Ann", "left"]), min_size=1, max_size=4))
def test_a_quotation_after_a_comma_is_one_wherever_it_stands(words):
    said = ["He", "wrote", ",", "'", *words, ",", "'", "and", "left", "."]
    assert opening(said) == {3}


def test_the_novels_of_litbank():
    """Before a capital after a comma or colon, or first in a sentence: it opens. At the end after
    a stop: it closes. After "s" with nothing else in the sentence: an apostrophe."""
    path = Path(os.environ.get("INTERP_DATA", "nowhere"), "litbank", "litbank-coref-80.conll.xz")
    if not path.is_file():
        pytest.skip(f"needs {path} ($INTERP_DATA)")
    right = total = 0
    for block in re.split(r"\n\n|\n#.*", lzma.decompress(path.read_bytes()).decode()):
        forms = [line.split("\t")[3] for line in block.split("\n") if line.count("\t") == 12]
        places = [i for i, form in enumerate(forms) if form == "'"]
        found = opening(forms) if places else frozenset()
        for i in places:
            before = forms[i - 1] if i else ""
            after = forms[i + 1] if i + 1 < len(forms) else ""
            opens = before in ("", ",", ":") and re.match("[A-Z]", after) is not None
            closes = before in (".", "!", "?") and after in ("", '"', "”")
            apostrophe = before.endswith("s") and len(places) == 1 and after.isalpha()
            if opens or closes or apostrophe:
                total += 1
                right += (i in found) == opens
    assert right == total > 100
