"""The numbers of `translation`: by hand, and theorems on a translator that was never trained."""

from collections import Counter

import numpy as np
import pytest
import torch
import transformers as hf

import interp
from experiments.translation import agreeing, aligning, holding, ordering, using
from experiments.translation.setting import IDS, exchanged, nouns_of
from interp.models.translator.grammar import NOUNS, Clause, Phrase, clauses, translation, vocabulary
from interp.models.translator.tokens import tokenizer
from interp.models.translator.training import Size, untrained_translator

CLAUSE = Clause(
    subject=Phrase("queen", plural=True, adjectives=("rich",)),
    verb="saw",
    object=Phrase("dog", adjectives=("red", "old")),
    adverb="finally",
    first=True,
)
FOUND = translation(CLAUSE)
TWINS = {name: nouns_of(name, 30, seed=1) for name in ("gender", "number")}


@pytest.fixture(scope="module")
def module() -> hf.MarianMTModel:
    module = untrained_translator("sinusoidal", Size(2), seed=1).double().eval()
    generator = torch.Generator().manual_seed(0)
    for name, p in module.named_parameters():
        if "embed_positions" not in name:
            p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return module


@pytest.fixture(scope="module")
def model(module) -> interp.Model:
    return interp.load(module, tokenizer=tokenizer())


def crossing(module: hf.MarianMTModel, read: list[str], written: list[str]) -> tuple:
    """Attention to the source by layer, as transformers has it."""
    module.set_attn_implementation("eager")
    with torch.no_grad():
        out = module(
            input_ids=torch.tensor([[*(IDS[w] for w in read), 1]]),
            decoder_input_ids=torch.tensor([[0, *(IDS[w] for w in written)]]),
            output_attentions=True,
        )
    return out.cross_attentions


def test_the_clause_that_is_counted_by_hand():
    assert FOUND.english == "finally the rich queens saw the red old dog"
    assert FOUND.other == "las reinas ricas el perro viejo rojo por fin vieron"


def test_errors_by_hand():
    """Two sentences, one in each half; a head that knows, and one that always looks one ahead."""
    both = [FOUND, FOUND]
    knows = [np.array([*FOUND.aligned, 99])] * 2
    behind = [np.array([99, *FOUND.aligned])] * 2  # of the word written last
    ahead = [np.arange(11) + 1] * 2
    links = {"dec.0.cross.0": knows, "dec.0.cross.1": behind, "offset +1": ahead}
    scores = aligning.errors(links, both, {})
    table = scores.summary().set_index(["task", "probe", "site", "subset"])["value"]
    head = ("attention", "dec.0.cross.0")
    assert table[(aligning.NEXT, *head, "report")] == 0
    other = ("attention", "dec.0.cross.1")
    assert table[(aligning.LAST, *other, "report")] == 0
    assert table[(aligning.NEXT, *other, "report")] > 0.5
    # aligned: 1 3 2 5 8 7 6 0 0 4; one ahead is right at the first word alone, of ten
    assert FOUND.aligned == (1, 3, 2, 5, 8, 7, 6, 0, 0, 4)
    assert table[(aligning.NEXT, "offset +1", "", "choose")] == pytest.approx(0.9)
    assert table[(aligning.NEXT, "offset +1", "", "determiner")] == pytest.approx(0.5)
    assert aligning.chosen(scores, aligning.NEXT, heads=True) == "dec.0.cross.0"
    assert aligning.chosen(scores, aligning.LAST, heads=True) == "dec.0.cross.1"
    assert aligning.chosen(scores, aligning.NEXT, heads=False) == "offset +1"


def test_links_are_where_the_model_looks_most(model, module):
    some = clauses(4, split="test", seed=2)
    scores, wrong, n = aligning.aligned(model, some), 0, 0
    for clause in some[1::2]:
        said = translation(clause)
        most = crossing(module, said.source, said.target)[1][0, 3].argmax(-1)[:-1].tolist()
        wrong += sum(a != b for a, b in zip(most, said.aligned, strict=True))
        n += len(most)
    asked = f"site == 'dec.1.cross.3' and task == '{aligning.NEXT}' and subset == 'report'"
    row = scores.query(asked).summary().iloc[0]
    assert row["value"] == pytest.approx(wrong / n)
    assert row["n"] == n


def test_twins_differ_in_the_noun_alone():
    for wanted, twins in TWINS.items():
        assert Counter(t.cluster for t in twins).most_common()[0][1] == 2
        for twin in twins:
            clean, corrupt = translation(twin.clean), translation(twin.corrupt)
            differs = [
                role
                for a, b, role in zip(clean.source, corrupt.source, clean.roles, strict=True)
                if a != b
            ]
            assert differs == ["subject noun"]
            one, other = twin.clean.subject, twin.corrupt.subject
            same = NOUNS[one.noun].gender == NOUNS[other.noun].gender
            assert (same, one.plural == other.plural) == (wanted == "number", wanted == "gender")
            changed = {
                role.split()[-1 if role == "verb" else 1]
                for a, b, role in zip(clean.target, corrupt.target, clean.target_roles, strict=True)
                if a != b
            }
            assert changed == {"determiner", "noun", "adjective"} | (
                {"verb"} if wanted == "number" else set()
            )


def test_exchanged_words_change_their_own_translation():
    twins = exchanged(20, seed=3)
    assert Counter(twin.kind for twin in twins) == dict.fromkeys(
        ("verb", "adverb", "preposition", "adjective", "noun"), 4
    )
    for twin in twins:
        clean, corrupt = translation(twin.clean), translation(twin.corrupt)
        assert sum(a != b for a, b in zip(clean.source, corrupt.source, strict=True)) == 1
        changed = [
            role
            for a, b, role in zip(clean.target, corrupt.target, clean.target_roles, strict=True)
            if a != b
        ]
        assert set(changed) == {twin.role}
        assert len(changed) == 1 + (twin.kind == "adverb")


def test_what_is_asked_for(model):
    words, twin = vocabulary(), TWINS["number"][0]
    pairs = agreeing.asked([twin], "verb", "both")
    clean, corrupt = translation(twin.clean), translation(twin.corrupt)
    shown = [words[i] for i in pairs.clean[0].tolist()]
    assert shown == [*clean.source, "</s>"]
    assert [words[i] for i in pairs.target.clean[0].tolist()] == [*clean.target[:-1]]
    assert [words[i] for i in pairs.target.corrupt[0].tolist()] == [*corrupt.target[:-1]]
    assert words[pairs.correct[0]] == clean.target[-1]
    assert words[pairs.wrong[0]] == corrupt.target[-1]
    assert shown[pairs.at("noun")[0]] == clean.source[clean.roles.index("subject noun")]
    assert shown[pairs.at("verb")[0]] == twin.clean.verb
    first = agreeing.asked([twin], "determiner")
    assert first.target.lengths.tolist() == [0]
    assert words[first.correct[0]] in ("el", "la", "los", "las")


@pytest.mark.plain
def test_shares_of_what_is_read_and_what_was_written(model, tmp_path):
    """The noun is all that differs, so its embedding is all that is read; and both make up both."""
    moved = agreeing.resolved(model, "adjective", TWINS["gender"], tmp_path)
    whence = agreeing.sources(model, "adjective", TWINS["gender"])
    change = agreeing.changes(whence)
    frame = moved.frame.query("method == 'patch' and site == 'enc.0.resid_pre'")
    for place in ("noun", "all"):
        effect = frame[frame["position"] == place].sort_values("example")["effect"].to_numpy()
        assert np.abs(effect - change["source"].to_numpy()).max() < 1e-9
    assert frame[frame["position"] == "verb"]["effect"].abs().max() < 1e-9
    table = agreeing.told(moved, whence)
    by = table.set_index("method")["value"]
    whole = change["both"].mean()
    assert by["source"] == pytest.approx(change["source"].mean() / whole)
    assert by["written"] == pytest.approx(change["written"].mean() / whole)
    at = table.set_index(["site", "position", "receiver"])["value"]
    assert at[("enc.0.resid_pre", "noun", "")] == pytest.approx(by["source"])
    seen = moved.query("method == 'attention'").frame
    assert len(seen) == 8 * 30
    column, first, second = agreeing.strongest(moved, "path_patch", "resid_pre")
    assert column.startswith("dec.")
    assert not set(first.frame["cluster"]) & set(second.frame["cluster"])


@pytest.mark.plain
def test_keys_and_values_are_all_that_is_read(model, module, monkeypatch):
    """Their share of the whole change is the change between the two prompts."""
    twins = exchanged(20, seed=3)
    found = using.used(model, twins)
    pairs = using.exchanges(twins)
    ends = interp.evaluate(model, pairs, metric="logit_diff").frame
    side = ends.pivot_table(index="example", columns="position", values="value")
    whole = found.query("site == 'keys and values'").frame.sort_values("example")["effect"]
    assert np.abs(whole.to_numpy() - (side["corrupt"] - side["clean"]).to_numpy()).max() < 1e-9
    table = using.by_head(found)
    assert len(table) == 2 * 2 * 4
    row = table.query("reader == 'dec.1.cross.2' and part == 'v'").iloc[0]
    path = found.frame[found.frame["receiver"] == "dec.1.cross.2.v"]["effect"]
    assert row["value"] == pytest.approx(path.sum() / whole.sum())
    idle, n = 0, 0
    for head in table["reader"].unique():
        seen = found.frame.query(f"method == 'attention' and site == '{head}'")["value"]
        moved = found.frame[found.frame["receiver"] == f"{head}.v"]["effect"]
        for look, effect, of in zip(seen, moved, whole, strict=True):
            n += look > 0.2
            idle += look > 0.2 and abs(effect) < 0.01 * abs(of)
    monkeypatch.setattr(using, "LOOKS", 0.2)
    row_of_idle = using.idle(found)
    assert 0 < idle < n
    assert (row_of_idle["value"], row_of_idle["n"]) == (pytest.approx(idle / n), n)
    looks = found.frame.query("method == 'attention' and site == 'dec.1.cross.2'")["value"]
    assert row["attention"] == pytest.approx(looks.mean())
    clean = translation(twins[2].clean)
    at = clean.target_roles.index(twins[2].role)
    pattern = crossing(module, clean.source, clean.target[:at])[1]
    truth = pattern[0, 2, -1, clean.roles.index(twins[2].role)].item()
    assert looks.to_numpy()[2] == pytest.approx(truth, abs=1e-12)


@pytest.mark.parametrize(
    ("said", "sentence", "words", "subject", "attached"),
    [
        (FOUND.other, 1, (10, 10), 1, (3, 3)),
        ("", 0, (0, 10), 0, (0, 0)),
        # the adjectives exchanged, and a word too many
        ("las reinas viejas el perro rico rojo por fin vieron vieron", 0, (8, 11), 1, (1, 1)),
        ("el perro ricas viejo las reinas rojo por fin vieron", 0, (10, 10), 0, (1, 3)),
    ],
)
def test_what_is_right_by_hand(said, sentence, words, subject, attached):
    found = ordering.right(said.split(), FOUND)
    assert found["sentence"] == (sentence, 1)
    assert found["words"] == words
    assert found["subject"] == (subject, 1)
    assert found["attached"] == attached


def test_scores_of_translations():
    said = [FOUND.target, ("el", "perro"), ()]
    table = ordering.scored(said, [CLAUSE] * 3, "mine").summary().set_index("metric")
    assert table.loc["sentence", "value"] == pytest.approx(1 / 3)
    assert table.loc["words", "value"] == pytest.approx(12 / 30)
    assert (table.loc["attached", "value"], table.loc["attached", "n"]) == (1, 3)


def test_labels_by_hand():
    labels = {
        name: [label(CLAUSE, FOUND, i) for i in range(9)] for name, label in holding.TASKS.items()
    }
    no = None
    assert labels["word"] == [no, no, no, "queen", no, no, no, no, "dog"]
    assert labels["role"] == [no, no, no, "subject", no, no, no, no, "object"]
    assert labels["agreement"] == [no, "3", "3", no, no, "0", "0", "0", no]
    assert labels["attribute"] == [no, no, no, "rich", no, no, no, no, no]
    assert labels["agent"] == [no, no, no, no, "queen", no, no, no, no]


def test_probes_are_asked_about_the_words_that_they_read(model):
    some = clauses(6, split="test", seed=4)
    text = holding.corpus_of(some, "six")
    assert [s.text for s in text.sentences] == [translation(c).english for c in some]
    features = interp.probing.collect(model, text)
    split = holding._split(features, features, some, "train", holding.role)
    for i, label, kind in zip(split.words, split.labels, split.types, strict=True):
        sentence, word = features.sentence[i], features.word[i]
        said = translation(some[sentence])
        assert said.roles[word] == f"{label} noun"
        assert said.source[word] == kind
    assert len(split.labels) == sum(2 + (c.oblique is not None) for c in some)
