"""Words of text and text of words: the characters of a word are its form, whatever the text."""

from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.datasets.made.pronouns import Form
from interp.datasets.made.templates import lists
from interp.datasets.readers.gap import COLUMNS, read_gap
from interp.datasets.readers.winobias import LISTS, read_winobias
from interp.datasets.words.naming import GENDER, PRONOUNS, Gender, head_of, kind_of
from interp.datasets.words.plain import join, split

ROW = ["t-1", "Ann saw Bob. She", "She", "13", "Ann", "0", "TRUE", "Bob", "8", "FALSE", "http"]
GAP = "\n".join("\t".join(line) for line in (COLUMNS, ROW))
TOKENS = st.sampled_from(
    [*"\"'`().,[]%$-_Ié“”‘’", "''", "``", "...", "--", "n't", "'s", "’ve", "word", "Mr.", "12"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TOKENS, max_size=9))
def test_joined_words_stand_where_their_characters_are(forms):
    text, spans = join(forms)
    assert [text[slice(*span)] for span in spans] == forms
    assert all(a[1] <= b[0] <= a[1] + 1 for a, b in pairwise(spans))
    assert text.replace(" ", "") == "".join(forms) and text == text.strip()


@settings(max_examples=150, deadline=None)
@given(st.text("ab1 é.'-`\n(’", max_size=25), st.data())
def test_split_words_cover_all_but_spaces_and_cross_no_cut(text, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=3))
    words = split(text, cuts)
    assert all(text[slice(*w.span)] == w.form for w in words)
    covered = [i for w in words for i in range(*w.span)]
    assert covered == [i for i, c in enumerate(text) if not c.isspace()]
    assert not any(w.span[0] < cut < w.span[1] for w in words for cut in cuts)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("Do n't , he said ( twice ) .", "Don't, he said (twice)."),
        ("Walter 's house -- we 'll see ;", "Walter's house -- we'll see;"),
        ('" No , " said he . " Go ! "', '"No," said he. "Go!"'),
        ('he goes on . "', 'he goes on."'),  # opened in a sentence before
        ("“ Oh ” and ‘ ah ’ , o’clock", "“Oh” and ‘ah’, o’clock"),
        ("`` So '' 40 % of $ 3", "``So'' 40% of $3"),
        ("' Oh ' , I say", "'Oh', I say"),
        ("", ""),
    ],
)
def test_spaces_of_ordinary_english(tokens, text):
    assert join(tokens.split())[0] == text


@pytest.mark.parametrize(
    ("mention", "head"),
    [
        ("the house of Elliot", "house"),
        ("his wife -- who , after all", "wife"),
        ("the hole where Powell camped", "hole"),
        ("the unctuous , anxious stranger", "stranger"),
        ("a little man , with a white face", "man"),
        ("Silas Marner , the weaver", "Marner"),
        ("Mrs. Carey 's brother-in-law", "brother-in-law"),
        ("Sir Walter 's", "Walter"),
        ("of which", "which"),
        ("men ,", "men"),
        ("him", "him"),
        ("--", "--"),
    ],
)
def test_the_head_is_before_what_follows_a_head(mention, head):
    forms = mention.split()
    assert forms[head_of(forms)] == head


def test_kinds_of_mentions():
    def kind(mention: str, **facts) -> str:
        forms = mention.split()
        return kind_of(forms, head_of(forms), **({"starts": False, "names": ()} | facts))

    assert [kind(m) for m in ("He", "herself", "whose")] == ["pronoun"] * 3
    assert [kind(m) for m in ("her father", "the Prince of dogs", "Mary")] == [
        "nominal",
        "proper",
        "proper",
    ]
    assert kind("Dogs", starts=True) == "nominal"
    assert kind("Dogs", starts=True, names={"Dogs"}) == "proper"
    assert kind("The Dogs", starts=True) == "proper"  # the capital is not the sentence's


def test_one_vocabulary_of_gender():
    genders = set(get_args(Gender))
    assert set(GENDER.values()) == genders == set(lists("ioi", "words")["names"])
    assert set(get_args(Form)) == genders | {"plural"} and GENDER.keys() <= PRONOUNS
    gap = read_gap(GAP, name="gap").documents[0].facts["gender"]
    lists_ = dict(zip(LISTS, ("nurse", "CEO"), strict=True))
    sentences = {"pro_stereotyped_type1.txt.dev": "1 [The nurse] met the CEO as [she] left."}
    bias = read_winobias(lists_ | sentences, name="bias").documents[0].facts["gender"]
    assert gap == bias == "feminine"


@pytest.mark.plain
def test_the_head_rule_agrees_with_syntax(published):
    """On noun phrases of UD EWT: a rule of thumb that is right about nine times in ten."""
    right = total = 0
    for sentence in published("ud-ewt", "dev").sentences:
        dependents: dict[int, list[int]] = {}
        for i, word in enumerate(sentence.words):
            dependents.setdefault(word.head, []).append(i)
        for i, word in enumerate(sentence.words):
            if word.upos not in ("NOUN", "PROPN") or word.relation not in ("nsubj", "obj", "obl"):
                continue
            members, left = {i}, [i]
            while left:
                for child in dependents.get(left.pop(), ()):
                    relation = sentence.words[child].relation
                    if child not in members and relation not in ("case", "punct", "cc", "conj"):
                        members.add(child)
                        left.append(child)
            start, end = min(members), max(members) + 1
            if end - start == len(members) > 1:
                forms = [w.form for w in sentence.words[start:end]]
                right += head_of(forms) == i - start
                total += 1
    assert total > 1_000
    assert right / total > 0.85
