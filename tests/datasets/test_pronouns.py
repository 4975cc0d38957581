"""Pronouns and their antecedents: the corpus, and prompts that mean one or the other."""

import re
from collections import Counter
from importlib import import_module
from itertools import product

import pytest
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from interp.core.door.door import ArgumentError
from interp.core.errors import PairsError
from interp.datasets.corpus import require_disjoint
from interp.datasets.made.pronouns import PRONOUN, pronouns
from interp.datasets.made.templates import lists
from interp.datasets.tasks.pronoun_pairs import pronoun_pairs, wordings
from interp.models.bridge import tokens

module = import_module("interp.datasets.made.pronouns")  # the package has a function of that name
SPLITS = ("train", "dev", "test")
KINDS = ("gender", "number", "causality")
ANSWERS = ("pronoun", "antecedent")
GENDER = {
    word: ("feminine", "masculine")[i % 2 == 0]
    for couple in lists("pronouns", "words")["couples"]
    for i, word in enumerate(couple[:2])
}
GENDER |= {name: g for g, names in lists("ioi", "words")["names"].items() for name in names}
PLURALS = {word for couple in lists("pronouns", "words")["couples"] for word in couple[2:]}
BIAS = {
    verb: bias
    for *couple, _ in lists("pronouns", "words")["verbs"]
    for verb, bias in zip(couple, ("first", "second"), strict=True)
}


def form(word):
    return "plural" if word in PLURALS else GENDER[word]


class Reader:
    """What the pairs need of a model: a tokenizer of whole words."""

    name = "tiny"

    def __init__(self, words):
        vocab = {"<unk>": 0} | {word: i for i, word in enumerate(dict.fromkeys(words), start=1)}
        backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend)

    def encode_with_offsets(self, text, *, bos="model"):
        return tokens.encode_with_offsets(self.tokenizer, text, bos=bos)

    def show(self, ids):
        return tokens.show(self.tokenizer, ids)

    def __call__(self, i):
        return self.tokenizer.convert_ids_to_tokens(int(i))


def every_word():
    def texts(part):
        if isinstance(part, str):
            return [part]
        return [t for p in (part.values() if isinstance(part, dict) else part) for t in texts(p)]

    parts = [lists("pronouns", "words"), lists("pronouns", "templates"), lists("ioi", "words")]
    found = [w for text in texts(parts) for w in re.findall(r"\w+|[^\w\s]", text)]
    return [*found, "he", "she", "they", "to", "The", "the"]


@pytest.fixture(scope="module")
def model():
    return Reader(every_word())


def at(model, pairs, side, position):
    rows = zip(getattr(pairs, side), pairs.at(position), strict=True)
    return [model(row[i]) for row, i in rows]


# The corpus


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_large_and_balanced(kind):
    for split in ("all", *SPLITS):
        corpus = pronouns(kind=kind, split=split)
        cells = Counter((d.facts["antecedent"], d.facts["form"]) for d in corpus.documents)
        assert len(corpus.documents) >= (500 if split == "all" else 100)
        for shown in PRONOUN:
            assert cells["first", shown] == cells["second", shown]
        assert cells["first", "feminine"] == cells["first", "masculine"] > 0
        if kind == "number":
            assert cells["first", "plural"] == 2 * cells["first", "feminine"]
        else:
            assert cells["first", "plural"] == 0


@pytest.mark.plain
def test_mentions_are_where_and_what_is_said():
    for document in pronouns().documents:
        (sentence,), facts = document.sentences, document.facts
        (first, second), pronoun = document.mentions[:2], document.mentions[2]
        assert first.words[1] <= second.words[0] < second.words[1] <= pronoun.words[0]
        assert pronoun.words == (int(facts["target"]), int(facts["target"]) + 1)
        assert pronoun.chain == "antecedent" and pronoun.kind == "pronoun"
        assert document.text(pronoun) == PRONOUN[facts["form"]]
        chosen, other = (first, second) if facts["antecedent"] == "first" else (second, first)
        assert (chosen.chain, other.chain) == ("antecedent", "competitor")
        heads = [sentence.words[m.head].form for m in (chosen, other)]
        assert form(heads[0]) == facts["form"]
        assert heads[0] != heads[1]
        named = facts["kind"] == "causality"
        assert (form(heads[1]) == facts["form"]) == named
        for mention, head in zip((chosen, other), heads, strict=True):
            assert document.text(mention).lower() == (head if named else f"the {head}").lower()
            assert mention.kind == ("proper" if named else "nominal")
        if named:
            verbs = [BIAS[w.form] for w in sentence.words if w.form in BIAS]
            assert verbs == [facts["antecedent"]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_item_has_a_twin_that_means_the_other(kind):
    cue = BIAS if kind == "causality" else PRONOUN.values()
    twins = Counter(
        (d.id, *("_" if word.form in cue else word.form for word in d.sentences[0].words))
        for d in pronouns(kind=kind).documents
    )
    assert set(twins.values()) == {2}


def test_no_couple_name_or_item_is_in_two_splits():
    corpora = {split: pronouns(split=split) for split in SPLITS}
    require_disjoint(corpora)
    words = [
        {d.sentences[0].words[m.head].form for d in c.documents for m in d.mentions[:2]}
        | {w.form for s in c.sentences for w in s.words if w.form in BIAS}
        for c in corpora.values()
    ]
    assert len(set.union(*words)) == sum(map(len, words))
    everything = pronouns()
    assert len({s.text for s in everything.sentences}) == len(everything.sentences)
    assert len({s.id for s in everything.sentences}) == len(everything.sentences)
    assert len(everything.sentences) == sum(len(c.sentences) for c in corpora.values())


@pytest.mark.plain
def test_pronouns_are_the_same_every_time():
    first = pronouns(kind="causality")
    assert tuple(module._documents_of_verbs()) == first.documents


def test_unknown_kinds_and_splits_are_refused():
    with pytest.raises(ArgumentError, match="pronouns: kind='genders'; did you mean 'gender'"):
        pronouns(kind="genders")
    with pytest.raises(ArgumentError, match="pronouns: split='tran'; did you mean 'train'"):
        pronouns(split="tran")


# The pairs


@pytest.mark.parametrize(("kind", "answer"), product(KINDS, ANSWERS))
def test_a_pair_differs_in_its_cue_alone(model, kind, answer):
    pairs = pronoun_pairs(model, n=64, kind=kind, answer=answer)
    for row, (a, b) in enumerate(zip(pairs.clean, pairs.corrupt, strict=True)):
        assert (a != b).nonzero().flatten().tolist() == [int(pairs.at("cue")[row])]
    assert 0 not in pairs.clean[pairs.mask]  # no unknown words
    assert pairs.at("end").tolist() == (pairs.lengths - 1).tolist()


@pytest.mark.parametrize(("kind", "answer"), product(KINDS, ANSWERS))
def test_the_clean_prompt_means_the_antecedent_and_the_corrupt_one_the_competitor(
    model, kind, answer
):
    pairs = pronoun_pairs(model, n=64, kind=kind, answer=answer, seed=2)
    means = {side: at(model, pairs, side, name) for side, name in SIDES.items()}
    first = (pairs.at("antecedent") < pairs.at("competitor")).tolist()
    for row, said in enumerate(zip(pairs.correct, pairs.wrong, strict=True)):
        for side, asked in zip(SIDES, said, strict=True):
            meant = means[side][row]
            expected = meant if answer == "antecedent" else PRONOUN[form(meant)]
            assert model(asked) == expected
            cue = at(model, pairs, side, "cue")[row]
            if kind == "causality":
                assert BIAS[cue] == ("first" if first[row] == (side == "clean") else "second")
            else:
                assert cue == (meant if answer == "pronoun" else PRONOUN[form(meant)])
    assert (pairs.correct != pairs.wrong).all()


SIDES = {"clean": "antecedent", "corrupt": "competitor"}


@pytest.mark.parametrize(("kind", "answer"), product(KINDS, ANSWERS))
@pytest.mark.parametrize("n", [8, 50, 320])
def test_pairs_are_balanced(model, kind, answer, n):
    pairs = pronoun_pairs(model, n=n, kind=kind, answer=answer)
    first = (pairs.at("antecedent") < pairs.at("competitor")).tolist()
    meant = at(model, pairs, "clean", "antecedent")
    others = at(model, pairs, "clean", "competitor")
    rows = Counter(
        (order, form(a), form(b)) for order, a, b in zip(first, meant, others, strict=True)
    )
    assert len(rows) == (8 if kind == "number" else 4)
    for found in (rows, Counter(pairs.cluster)):
        assert max(found.values()) - min(found.values()) <= 1
    assert len(set(pairs.cluster)) == min(n, 20 if kind == "causality" else 32)


def test_only_words_that_the_model_has_are_used():
    missing = {"kings", "queen", "annoyed", "Mary"}
    model = Reader([word for word in every_word() if word not in missing])
    gender = pronoun_pairs(model, n=200)
    assert "king/queen" not in gender.cluster
    assert "king/queen" not in pronoun_pairs(model, n=200, kind="number").cluster
    verbs = pronoun_pairs(model, n=200, kind="causality", answer="antecedent")
    assert "annoyed/hated" not in verbs.cluster
    assert "Mary" not in {model(i) for i in verbs.clean.flatten()}
    assert 0 not in verbs.correct


def test_pairs_of_a_split_are_of_its_couples(model):
    for kind in KINDS:
        of = {d.id: d.facts["split"] for d in pronouns(kind=kind).documents}
        for split in SPLITS:
            pairs = pronoun_pairs(model, n=80, kind=kind, split=split)
            assert {of[cluster] for cluster in pairs.cluster} == {split}


@pytest.mark.parametrize(("kind", "answer"), product(KINDS, ANSWERS))
def test_pairs_of_some_wordings(model, kind, answer):
    """Prompts of other wordings have nothing in common but their words for people."""
    names = wordings(kind, answer)
    texts = []
    for chosen in (names[:2], names[2:]):
        pairs = pronoun_pairs(model, n=64, kind=kind, answer=answer, templates=chosen)
        assert len(set(pairs.cluster)) == (20 if kind == "causality" else 32)
        first = pairs.clean.clone()
        for name in ("antecedent", "competitor", "cue"):
            first[range(len(first)), pairs.at(name)] = -1
        texts.append({str(row[row != 0].tolist()) for row in first})
    assert not texts[0] & texts[1]
    if kind != "causality":  # whose reasons are drawn too
        assert [len(found) for found in texts] == [2, len(names) - 2]
    everything = pronoun_pairs(model, n=64, kind=kind, answer=answer, templates=names)
    usual = pronoun_pairs(model, n=64, kind=kind, answer=answer)
    assert everything.fingerprint == usual.fingerprint


def test_unknown_wordings_are_refused(model):
    with pytest.raises(PairsError, match="no template 'gardn' of kind 'gender'.*'garden'"):
        pronoun_pairs(model, templates=["talk", "gardn"])
    with pytest.raises(PairsError, match=r"no template 'templates=\[\]'"):
        pronoun_pairs(model, templates=[])


def test_the_seed_decides(model):
    assert pronoun_pairs(model, seed=5).fingerprint == pronoun_pairs(model, seed=5).fingerprint
    assert len({pronoun_pairs(model, seed=seed).fingerprint for seed in range(4)}) == 4


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (4, -1)])
def test_impossible_numbers_are_refused(model, n, seed):
    with pytest.raises(ArgumentError, match="takes a whole number of at least"):
        pronoun_pairs(model, n=n, seed=seed)


def test_unknown_choices_are_refused(model):
    with pytest.raises(ArgumentError, match="kind='numbers'; did you mean 'number'"):
        pronoun_pairs(model, kind="numbers")
    with pytest.raises(ArgumentError, match="answer='noun'; did you mean 'pronoun'"):
        pronoun_pairs(model, answer="noun")
    with pytest.raises(ArgumentError, match="split='tset'; did you mean 'test'"):
        pronoun_pairs(model, split="tset")


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_words_are_refused(kind):
    with pytest.raises(PairsError, match=rf"only 0 couples .* {kind!r} \(split 'all'\).*\(none\)"):
        pronoun_pairs(Reader(["The", "to", "he", "she"]), kind=kind)


def test_a_word_that_is_another_token_in_its_prompt_is_refused(model):
    class Shifted(Reader):
        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            return [i + (len(ids) > 5) for i in ids], offsets

    with pytest.raises(PairsError, match=r"is one token after .to. but not in .*of tiny"):
        pronoun_pairs(Shifted(every_word()))


def test_prompts_that_do_not_align_are_refused():
    class Stutters(Reader):
        prompts = 0

        def encode_with_offsets(self, text, *, bos="model"):
            ids, offsets = super().encode_with_offsets(text, bos=bos)
            self.prompts += len(ids) > 5
            extra = self.prompts % 2
            return [1] * extra + ids, [(0, 0)] * extra + offsets

    with pytest.raises(PairsError, match=r"the words of .* stand at .* and at .*merges words"):
        pronoun_pairs(Stutters(every_word()))
