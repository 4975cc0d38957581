"""Heads against baselines: constructed corpora and attention with known answers; real text."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp.core.errors import CorpusError, ResultsError
from interp.core.sampling import stats
from interp.core.tables.scores import COLUMNS, Scores
from interp.datasets.corpus import Corpus, Document, Mention, Sentence, Word
from interp.datasets.words.alignment import Alignment
from interp.datasets.words.links import First, begins_row
from interp.heads.looking.attended import Attended, _taker, attended, reach_of_mentions
from interp.heads.looking.relations import choose_heads, compare_heads, relations
from interp.heads.looking.words import Words

LAYERS, HEADS = 3, 5
TO, BY = "dependent -> head", "head -> dependent"


def alignment_of(corpus: Corpus) -> Alignment:
    """A token for each word, a row for each document."""
    places = [
        (s, w, row)
        for row, document in enumerate(corpus.documents)
        for s, sentence in enumerate(corpus.sentences)
        if corpus.clusters[s] == document.id
        for w in range(len(sentence))
    ]
    sentence, word, row = np.array(places).T
    start = np.concatenate([np.arange(n) for n in np.bincount(row)])
    rows = tuple(tuple(range(n)) for n in np.bincount(row).tolist())
    return Alignment(rows, sentence, word, row, start, start + 1, (), (), "")


def attending(
    corpus: Corpus, *, causal: bool = False, first: First = "keep", **distances: np.ndarray
) -> Attended:
    """Heads that attend as told; elsewhere to nothing."""
    alignment = alignment_of(corpus)
    mentions = distances.pop("mentions", np.arange(0))
    counts = {"to": len(alignment), "by": len(alignment), "antecedent": len(mentions)}
    shape = distances["to"].shape[:2] if "to" in distances else (LAYERS, HEADS)
    arrays = {
        name: distances.get(name, np.zeros((*shape, n))).astype(np.int16)
        for name, n in counts.items()
    }
    rests = distances.get("rests", np.zeros(arrays["to"].shape, dtype=bool))
    note = {"corpus": corpus.name, "text": corpus.fingerprint, "model": "by hand"}
    told = {"mentions": mentions, "rests": rests, "causal": causal, "first": first}
    return Attended(alignment, provenance=note, **told, **arrays)


def parsed(*words: tuple[int, str | None]) -> Sentence:
    """Words by their head and relation."""
    made = tuple(
        Word("w", (2 * i, 2 * i + 1), head=head, relation=relation)
        for i, (head, relation) in enumerate(words)
    )
    return Sentence("s", " ".join("w" for _ in made), made)


def treebank(*documents: list[Sentence]) -> Corpus:
    made = tuple(Document(f"d{i}", tuple(s)) for i, s in enumerate(documents))
    return Corpus("trees", made, frozenset({"head", "relation"}))


@pytest.fixture(scope="module")
def trees() -> Corpus:
    """40 documents of three sentences; det at +1 or +2, obj anywhere, one mark a document."""
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(40):
        sentences = []
        for n in range(3):
            words: list[tuple[int, str | None]] = [(-1, "root")]
            for i in range(1, 9):
                if i in (2, 5):
                    words.append((i + int(rng.integers(1, 3)), "det"))
                elif i == 8:
                    words.append((0, "punct"))
                elif i == 7 and n == 0:
                    words.append((int(rng.integers(0, 7)), "mark"))
                else:
                    words.append((int(rng.choice([j for j in range(9) if j != i])), "obj"))
            sentences.append(parsed(*words))
        documents.append(sentences)
    return treebank(*documents)


def truth(corpus: Corpus) -> np.ndarray:
    """Distance from each word to its head."""
    return np.array(
        [0 if w.head < 0 else w.head - i for s in corpus.sentences for i, w in enumerate(s.words)]
    )


def asked(scores: Scores, task: str, probe: str, subset: str, site: str = "") -> pd.DataFrame:
    frame = scores.frame
    rows = frame[(frame["task"] == task) & (frame["probe"] == probe) & (frame["subset"] == subset)]
    return rows[rows["site"] == site].reset_index(drop=True)


def test_the_table(trees):
    found = relations(attending(trees), trees, minimum=30)
    frame = found.frame
    assert list(frame.drop(columns="depth").columns) == COLUMNS
    assert set(frame["task"]) == {
        f"{r}: {d}" for r in ("all", "obj", "det", "mark") for d in (TO, BY)
    }
    assert set(frame["probe"]) == {
        "attention",
        "asked",
        "skipped",
        "sink",
        "first word",
        *(f"offset {o:+d}" for o in (-3, -2, -1, 1, 2)),
    }
    assert set(frame["subset"]) == {"choose", "report"}
    heads = frame[frame["probe"] == "attention"]
    assert heads["site"].nunique() == LAYERS * HEADS
    assert (heads["site"] == heads["layer"].astype(str) + "." + heads["head"].astype(str)).all()
    assert set(heads["model"]) == {"trained"} and set(heads["metric"]) == {"accuracy"}
    rest = frame[~frame["probe"].isin(["attention", "sink"])]
    assert rest[["layer", "head"]].isna().all(axis=None) and set(rest["model"]) == {"none"}
    summary = found.query("task == 'det: dependent -> head' and subset == 'report'").summary()
    assert (summary["n"] == 120).all() and (summary["clusters"] == 20).all()
    assert (summary.loc[summary["probe"] == "attention", "value"] == 0).all()
    assert found.provenance["model"] == "by hand" and found.provenance["minimum"] == 30


def test_relations_with_too_few_links_punctuation_and_roots_are_left_out(trees):
    tasks = relations(attending(trees), trees, minimum=41).frame["task"].unique()
    assert set(tasks) == {f"{r}: {d}" for r in ("all", "obj", "det") for d in (TO, BY)}
    everything = relations(attending(trees), trees, minimum=30).query(
        "task == 'all: dependent -> head'"
    )
    n = sum(w.relation not in ("punct", "root") for s in trees.sentences for w in s.words)
    assert everything.query("probe == 'asked'").frame["n"].sum() == n


def test_a_relation_of_one_document_cannot_be_chosen_and_reported():
    """It has links enough, but none in the other half."""
    rare = [parsed((1, "vocative"), (-1, "root"), (1, "obj"))] * 5
    common = [parsed((1, "obj"), (-1, "root"), (1, "obj"))] * 5
    corpus = treebank(rare, common, common, common)
    tasks = relations(attending(corpus), corpus, minimum=5).frame["task"].unique()
    assert set(tasks) == {f"{r}: {d}" for r in ("all", "obj") for d in (TO, BY)}


def test_a_head_that_looks_one_to_the_left_is_the_offset(trees):
    """In every relation, direction and document."""
    found = relations(
        attending(trees, to=np.full((LAYERS, HEADS, len(truth(trees))), -1)), trees, minimum=30
    )
    for task in ("all", "obj", "det", "mark"):
        for subset in ("choose", "report"):
            head = asked(found, f"{task}: {TO}", "attention", subset, "1.3")
            offset = asked(found, f"{task}: {TO}", "offset -1", subset)
            pd.testing.assert_frame_equal(
                head[["cluster", "total", "n"]], offset[["cluster", "total", "n"]]
            )
            assert asked(found, f"{task}: {BY}", "attention", subset, "1.3")["total"].sum() == 0
    compared = compare_heads(found).query("task == 'obj: dependent -> head'")
    if (compared["baseline"] == "offset -1").all():
        assert (compared["difference"] == 0).all()


def test_accuracies_against_counting(trees):
    """Distances at random: every total by a loop over the words."""
    rng = np.random.default_rng(1)
    right, n = truth(trees), len(truth(trees))
    to = rng.integers(-3, 4, (LAYERS, HEADS, n))
    by = np.where(rng.random((LAYERS, HEADS, n)) < 0.4, right, 0)
    found = relations(attending(trees, to=to, by=by), trees, minimum=30, offsets=[1, 4])
    words = [w for s in trees.sentences for w in s.words]
    document = [c for c, s in zip(trees.clusters, trees.sentences, strict=True) for _ in s.words]
    for relation in ("det", "obj", "mark"):
        for direction, given in ((TO, to), (BY, by)):
            part = found.query(f"task == '{relation}: {direction}' and metric == 'accuracy'").frame
            for name, answers in [("2.1", given[2, 1]), ("0.4", given[0, 4]), (1, None), (4, None)]:
                counted: dict[str, list[int]] = {}
                for i, word in enumerate(words):
                    if word.relation == relation:
                        answer = name if answers is None else answers[i]
                        entry = counted.setdefault(document[i], [0, 0])
                        entry[0] += int(answer == right[i])
                        entry[1] += 1
                ours = part[(part["site"] == name) | (part["probe"] == f"offset +{name}")]
                rows = ours[["cluster", "total", "n"]].itertuples(index=False)
                assert {c: [int(t), n] for c, t, n in rows} == counted


def test_documents_are_split_once_by_seed(trees):
    def halves(seed: int) -> tuple[set[str], set[str]]:
        frame = relations(attending(trees), trees, minimum=30, seed=seed).frame
        groups = frame.groupby("subset", observed=True)["cluster"].unique()
        return set(groups["choose"]), set(groups["report"])

    choose, report = halves(0)
    assert len(choose) == len(report) == 20 and not choose & report
    assert halves(0) == (choose, report)
    assert halves(1) != (choose, report)


@pytest.mark.plain
def test_heads_are_chosen_on_one_half_and_reported_on_the_other(trees):
    """0.1 is right on the first half alone, 2.3 in nine of ten cases everywhere."""
    rng = np.random.default_rng(2)
    choosing = set(
        relations(attending(trees), trees, minimum=30).query("subset == 'choose'").frame["cluster"]
    )
    lengths = list(map(len, trees.sentences))
    first = np.repeat([c in choosing for c in trees.clusters], lengths)
    right = truth(trees)
    to = np.zeros((LAYERS, HEADS, len(right)))
    to[0, 1] = np.where(first, right, 0)
    to[2, 3] = np.where(rng.random(len(right)) < 0.9, right, 0)
    chosen = choose_heads(relations(attending(trees, to=to), trees, minimum=30))
    of_to = chosen[chosen["direction"] == TO]
    assert set(of_to["site"]) == {"0.1"}
    assert (of_to["choosing"] == 1).all() and (of_to["value"] == 0).all()
    to[0, 1] = 0
    chosen = choose_heads(relations(attending(trees, to=to), trees, minimum=30))
    of_to = chosen[chosen["direction"] == TO]
    assert set(of_to["site"]) == {"2.3"}
    assert of_to["value"].between(0.8, 1).all()
    assert ((of_to["low"] <= of_to["value"]) & (of_to["value"] <= of_to["high"])).all()


def test_a_planted_head_is_found_and_the_others_are_not(trees):
    """1.2 knows det to the head, 2.0 obj from it; the others guess as well as the offset does."""
    rng = np.random.default_rng(3)
    right = truth(trees)
    relation = np.array([w.relation for s in trees.sentences for w in s.words])
    guess = rng.integers(1, 3, (LAYERS, HEADS, len(right)))
    to, by = guess, rng.permuted(guess, axis=-1)
    to[1, 2] = np.where((relation == "det") & (rng.random(len(right)) < 0.9), right, to[1, 2])
    by[2, 0] = np.where((relation == "obj") & (rng.random(len(right)) < 0.6), right, by[2, 0])
    compared = compare_heads(relations(attending(trees, to=to, by=by), trees, minimum=100))
    better = compared[(compared["q"] < 0.05) & (compared["difference"] > 0)]
    found = {(row.relation, row.direction, row.site) for row in better.itertuples()}
    planted = {("det", TO, "1.2"), ("obj", BY, "2.0")}
    assert planted <= found
    assert {f for f in found if f[0] != "all"} == planted
    chosen = compared[compared["chosen"]]
    assert {(r.relation, r.direction, r.site) for r in chosen.itertuples()} >= planted
    assert len(chosen) == 6 and len(compared) == 6 * LAYERS * HEADS


def test_what_is_compared_is_what_scores_says(trees):
    rng = np.random.default_rng(4)
    right = truth(trees)
    to = np.where(rng.random((LAYERS, HEADS, len(right))) < 0.3, right, 1)
    scores = relations(attending(trees, to=to), trees, minimum=100)
    compared = compare_heads(scores, seed=5)
    best = compared[compared["chosen"]]
    assert np.array_equal(best["q"], stats.fdr(best["p"].to_numpy()))
    assert compared.loc[~compared["chosen"], "q"].isna().all() and compared["p"].notna().all()
    task = scores.query("task == 'det: dependent -> head' and metric == 'accuracy'")
    ours = compared[compared["task"] == "det: dependent -> head"].reset_index(drop=True)
    means = task.query("subset == 'choose' and site == ''").summary().set_index("probe")["value"]
    best = means.idxmax()
    assert set(ours["baseline"]) == {best} and best in ("offset +1", "offset +2")
    reported = task.query("subset == 'report' and site != ''")
    baseline = task.query(f"subset == 'report' and probe == '{best}'")
    differences = reported.minus(baseline, alternative="greater", seed=5)
    summary, below = reported.summary(seed=5), baseline.summary(seed=5).iloc[0]
    for column in ("value", "n", "clusters"):
        assert np.array_equal(ours[column], summary[column])
    assert np.array_equal(ours["p"], differences["p"])
    assert np.allclose(ours["difference"], differences["value"], atol=1e-15)
    assert (ours["baseline_value"] == below["value"]).all()
    chosen = ours[ours["chosen"]].iloc[0]
    place = ours["chosen"].argmax()
    for end in ("low", "high"):
        assert chosen[end] == summary[end].iloc[place]
        assert chosen[f"baseline_{end}"] == below[end]
        assert chosen[f"difference_{end}"] == differences[end].iloc[place]
        assert ours.loc[~ours["chosen"], end].isna().all()
    choosing = task.query("subset == 'choose' and site != ''").summary()["value"]
    assert np.array_equal(ours["choosing"], choosing)
    assert list(ours["chosen"]) == [i == choosing.argmax() for i in range(LAYERS * HEADS)]
    assert (compared["coverage"] == 1).all()


def scored(chance: np.ndarray, *, tasks: int, documents: int, seed: int = 0) -> Scores:
    """Heads that are right so often, the last of them a baseline, in tasks of their own."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{task}: to", i, subset, f"{subset} {d}")
        for task in range(tasks)
        for i in range(len(chance))
        for subset in ("choose", "report")
        for d in range(documents)
    ]
    frame = pd.DataFrame(rows, columns=["task", "head", "subset", "cluster"])
    is_head = frame["head"] < len(chance) - 1
    n = rng.integers(8, 16, (tasks, 1, 2, documents)) * np.ones((1, len(chance), 1, 1), dtype=int)
    frame = frame.assign(
        site=np.where(is_head, "0." + frame["head"].astype(str), ""),
        layer=0,
        probe=np.where(is_head, "attention", "offset -1"),
        model="trained",
        labels="real",
        metric="accuracy",
        n=n.ravel(),
        total=rng.binomial(n, chance[:, None, None]).ravel().astype(float),
    )
    return Scores(frame, {})


@pytest.mark.plain
def test_heads_that_are_worse_do_not_make_others_look_better():
    """In 24 tasks 100 heads are far below the baseline and 20 as good: none is better."""
    chance = np.repeat([0.1, 0.5, 0.5], [100, 20, 1])
    table = compare_heads(scored(chance, tasks=24, documents=10))
    assert not (table["q"] < 0.05).any()
    assert set(table.loc[table["chosen"], "site"]) <= {f"0.{i}" for i in range(100, 120)}


def test_what_was_not_chosen_does_not_count():
    """A head that is always right, against a coin, in one of six tasks: 7 reported documents can
    say no more than 1/128; that it stands among 200 heads takes nothing from it."""
    chance = np.repeat([0.3, 1.0, 0.5], [199, 1, 1])
    nothing = scored(np.repeat([0.5, 0.5], [200, 1]), tasks=6, documents=7, seed=1).frame
    one = scored(chance, tasks=1, documents=7).frame.assign(task="right: to")
    chosen = choose_heads(Scores(pd.concat([one, nothing], ignore_index=True), {}))
    row = chosen.set_index("task").loc["right: to"]
    assert row["site"] == "0.199" and row["p"] == 2**-7
    assert row["q"] == pytest.approx(7 * 2**-7) and len(chosen) == 7
    alone = choose_heads(Scores(one, {})).iloc[0]
    assert alone["q"] == alone["p"]


def test_the_same_task_twice_is_one_test(trees):
    """ "all" of a treebank with one relation, whose rows may stand in another order."""
    rng = np.random.default_rng(6)
    right = truth(trees)
    only = replace(
        trees,
        documents=tuple(
            replace(
                d,
                sentences=tuple(
                    replace(
                        s,
                        words=tuple(
                            replace(w, relation="obj" if w.relation == "obj" else "punct")
                            for w in s.words
                        ),
                    )
                    for s in d.sentences
                ),
            )
            for d in trees.documents
        ),
    )
    to = np.where(rng.random((LAYERS, HEADS, len(right))) < 0.25, right, 1)
    scores = relations(attending(only, to=to), only, minimum=100)
    chosen = choose_heads(scores)
    assert set(chosen["relation"]) == {"all", "obj"} and len(chosen) == 4
    apart = chosen[chosen["relation"] == "obj"]
    assert np.array_equal(apart["q"], stats.fdr(apart["p"].to_numpy()))
    assert np.array_equal(chosen.loc[chosen["relation"] == "all", "q"], apart["q"])
    mixed = scores.frame.sample(frac=1, random_state=0).reset_index(drop=True)
    again = choose_heads(Scores(mixed, scores.provenance)).set_index("task")["q"]
    pd.testing.assert_series_equal(
        again.sort_index(), chosen.set_index("task")["q"].sort_index(), check_index_type=False
    )


def test_under_a_causal_mask_each_direction_has_the_pairs_in_its_order(trees):
    found = relations(attending(trees, causal=True), trees, minimum=1)
    right = truth(trees)
    relation = np.array([w.relation for s in trees.sentences for w in s.words])
    coverage = (
        found.query("metric == 'coverage'")
        .frame.groupby("task", observed=True)[["total", "n"]]
        .sum()
    )
    for name, direction, there in (
        ("obj", TO, right < 0),
        ("obj", BY, right > 0),
        ("mark", TO, right < 0),
        ("det", BY, right > 0),
    ):
        row = coverage.loc[f"{name}: {direction}"]
        assert row["total"] == (there & (relation == name)).sum()
        assert row["n"] == (relation == name).sum()
    never = {
        f"det: {TO}",
        f"mark: {BY}",
    }  # here heads of det stand to the right, of mark to the left
    assert not never & set(coverage.index)
    asked = found.query(
        "metric == 'accuracy' and site == '1.1' and task == 'obj: dependent -> head'"
    )
    assert asked.frame["n"].sum() == coverage.loc[f"obj: {TO}", "total"]
    compared = compare_heads(found).query("task == 'obj: dependent -> head'")
    assert 0 < compared["coverage"].iloc[0] < 1


def test_words_without_tokens_or_with_shared_ones_are_not_asked():
    """Four words, the last one cut off; the middle ones share a token."""
    corpus = treebank(*[[parsed((1, "det"), (-1, "root"), (1, "obj"), (1, "amod"))]] * 4)
    given = attending(corpus)
    kept = given.alignment.word < 3
    fields = {
        f: getattr(given.alignment, f)[kept] for f in ("sentence", "word", "row", "start", "end")
    }
    fields["start"] = np.where(fields["word"] == 2, 1, fields["start"])
    fields["end"] = np.where(fields["word"] == 2, 2, fields["end"])
    missing = tuple((s, 3) for s in range(4))
    alignment = replace(given.alignment, **fields, missing=missing)
    to = np.zeros((LAYERS, HEADS, kept.sum()))
    to[0, 0] = np.where(fields["word"] == 0, 1, 0)
    arrays = {"to": to.astype(np.int16), "by": 0 * to.astype(np.int16), "rests": to > 9}
    found = relations(replace(given, alignment=alignment, **arrays), corpus, minimum=1)
    assert set(found.frame["task"]) == {f"{r}: {d}" for r in ("all", "det") for d in (TO, BY)}
    coverage = found.query("metric == 'coverage'").summary().set_index(["task", "subset"])["value"]
    assert coverage[f"all: {TO}", "report"] == pytest.approx(1 / 3)
    assert coverage[f"det: {TO}", "report"] == 1
    assert asked(found, f"det: {TO}", "attention", "report", "0.0")["total"].sum() == 2


def test_documents_of_one_id_are_one_cluster(trees):
    """Every fourth has the same name, as the sentences of one noun have in a controlled set."""
    named = tuple(replace(d, id=f"n{i % 4}") for i, d in enumerate(trees.documents))
    corpus = replace(trees, documents=named)
    rng = np.random.default_rng(5)
    to = np.where(rng.random((LAYERS, HEADS, len(truth(trees)))) < 0.5, truth(trees), 0)
    apart = relations(attending(trees, to=to), trees, minimum=30).frame
    together = relations(attending(trees, to=to), corpus, minimum=30).frame
    assert set(together["cluster"]) == {"n0", "n1", "n2", "n3"}
    keys = ["task", "site", "probe", "metric", "cluster"]
    apart = apart.assign(cluster=["n" + str(int(c[1:]) % 4) for c in apart["cluster"]])
    apart, together = (f[f["metric"] != "sink"].copy() for f in (apart, together))
    for frame in (apart, together):  # sinks are told of the reported documents alone
        frame[keys] = frame[keys].astype(str)
    sums = [f.groupby(keys)[["total", "n"]].sum() for f in (apart, together)]
    pd.testing.assert_frame_equal(*sums, check_index_type=False)


def told(*mentions: tuple[int, str, str]) -> Document:
    """Twelve words "w0" to "w11" in two sentences; mentions by word, chain and kind."""
    sentences = []
    for half in (0, 1):
        words = tuple(Word(f"w{6 * half + i}", (3 * i, 3 * i + 2)) for i in range(6))
        sentences.append(Sentence("s", "." * 18, words))
    made = [Mention(w // 6, (w % 6, w % 6 + 1), chain, w % 6, kind) for w, chain, kind in mentions]
    return Document("", tuple(sentences), tuple(made))


def said(document: Document, **forms: str) -> Document:
    """With other forms for some words."""
    sentences = tuple(
        replace(s, words=tuple(replace(w, form=forms.get(w.form, w.form)) for w in s.words))
        for s in document.sentences
    )
    return replace(document, sentences=sentences)


STORY = told(
    (0, "ann", "proper"),
    (2, "bob", "proper"),
    (4, "ann", "pronoun"),  # right: w0; nearest: w2
    (7, "bob", "proper"),  # right: w2; nearest: w4; the same word: w2
    (9, "ann", "pronoun"),  # right: w0, w4; nearest: w7; the same word: w4
    (11, "sea", "nominal"),
)


@pytest.fixture
def story() -> Corpus:
    document = said(STORY, w7="Bob", w2="bob", w4="she", w9="She")
    made = tuple(replace(document, id=f"d{i}") for i in range(4))
    return Corpus("story", made, frozenset({"mentions"}))


def words(corpus: Corpus, *places: int) -> np.ndarray:
    return np.array([12 * d + p for d in range(len(corpus.documents)) for p in places])


def test_antecedents(story):
    mentions = words(story, 0, 2, 4, 7, 9, 11)
    antecedent = np.zeros((LAYERS, HEADS, len(mentions)))
    antecedent[1, 1] = np.tile([0, -2, -4, -5, -5, -2], 4)  # always right
    antecedent[1, 2] = np.tile([0, -2, -2, -3, -2, -2], 4)  # the nearest
    antecedent[1, 3] = np.tile([0, -2, -4, -7, -9, -2], 4)  # always w0
    found = relations(attending(story, mentions=mentions, antecedent=antecedent), story, minimum=4)
    frame = found.query("subset == 'report'")
    assert set(frame.frame["task"]) == {
        "antecedent",
        "antecedent of pronoun",
        "antecedent of proper",
    }
    value = frame.summary().set_index(["task", "site", "probe"])["value"]
    rows = {
        "antecedent": (1, 0, 2 / 3),
        "antecedent of pronoun": (1, 0, 1),
        "antecedent of proper": (1, 0, 0),
    }
    for task, (perfect, near, start) in rows.items():
        assert value[task, "1.1", "attention"] == perfect
        assert value[task, "1.2", "attention"] == near == value[task, "", "nearest mention"]
        assert value[task, "1.3", "attention"] == pytest.approx(start)
        assert value[task, "0.0", "attention"] == 0
    assert value["antecedent", "", "head match"] == pytest.approx(2 / 3)  # not "she" at w4
    assert value["antecedent of proper", "", "head match"] == 1
    chosen = choose_heads(found)
    assert list(chosen["site"]) == ["1.1"] * 3 and list(chosen["direction"]) == [""] * 3
    assert set(chosen["baseline"]) <= {"head match", "first word"}
    assert (chosen["coverage"] == 1).all()


def test_only_earlier_mentions_of_the_row_that_leave_a_choice_are_asked(story):
    """Each sentence a row of its own: then w4 has a right and a wrong candidate, w9 a wrong one."""
    mentions = words(story, 0, 2, 4, 7, 9, 11)
    given = attending(story, mentions=mentions)
    alignment = replace(given.alignment, row=np.arange(48) // 6)
    found = relations(replace(given, alignment=alignment), story, minimum=1)
    coverage = found.query("metric == 'coverage'").summary().set_index(["task", "subset"])
    assert set(coverage.index) == {
        (t, s) for t in ("antecedent", "antecedent of pronoun") for s in ("choose", "report")
    }
    assert coverage.loc[("antecedent", "report"), "value"] == pytest.approx(1 / 3)
    alone = told((0, "ann", "proper"), (4, "ann", "pronoun"))
    corpus = replace(story, documents=tuple(replace(alone, id=f"e{i}") for i in range(2)))
    with pytest.raises(CorpusError, match="no relation of story has 1 links"):
        relations(attending(corpus, mentions=words(corpus, 0, 4)), corpus, minimum=1)


def test_mentions_of_one_head_word_are_one_candidate(story):
    """At w2 stand two mentions; the anaphor is of the chain of one of them."""
    nested = told(
        (0, "x", "proper"), (2, "bob", "proper"), (2, "ann", "proper"), (5, "ann", "pronoun")
    )
    corpus = replace(story, documents=tuple(replace(nested, id=f"n{i}") for i in range(4)))
    mentions = words(corpus, 0, 2, 5)
    antecedent = np.broadcast_to(np.tile([0, -2, -3], 4), (LAYERS, HEADS, 12))
    found = relations(
        attending(corpus, mentions=mentions, antecedent=antecedent), corpus, minimum=4
    )
    value = found.query("subset == 'report'").summary().set_index(["site", "probe"])["value"]
    assert value["0.0", "attention"].tolist() == [1, 1]  # all, and pronouns
    assert value["", "nearest mention"].tolist() == [1, 1]


def test_mentions_that_overlap_the_anaphor_are_no_candidates(story):
    """[w4 [w5]]: w4 stands inside the anaphor that w5 heads, and w7 is inside [w6 .. w8]."""
    sentences = told((0, "x", "proper")).sentences
    mentions = (
        Mention(0, (0, 1), "ann", 0, "proper"),
        Mention(0, (2, 3), "sis", 2, "proper"),
        Mention(0, (4, 5), "ann", 4, "pronoun"),  # right: w0; "his"
        Mention(0, (4, 6), "sis", 5, "nominal"),  # "his sister": right w2, w4 is no candidate
        Mention(1, (0, 3), "house", 0, "nominal"),  # "the house of the king"
        Mention(1, (1, 3), "ann", 2, "nominal"),  # "the king": not w6, of which it is a part
    )
    corpus = replace(
        story, documents=tuple(Document(f"d{i}", sentences, mentions) for i in range(4))
    )
    at = words(corpus, 0, 2, 4, 5, 6, 8)
    antecedent = np.broadcast_to(np.tile([0, 0, -4, -3, 0, -4], 4), (LAYERS, HEADS, len(at)))
    found = relations(
        attending(corpus, mentions=at, antecedent=antecedent), corpus, minimum=4
    ).query("subset == 'report'")
    value = found.summary().set_index(["task", "site", "probe"])["value"]
    assert value["antecedent of nominal", "0.0", "attention"] == 1
    # of w5 the nearest is w2 (right), not w4; of w8 it is w5 (wrong), not w6
    assert value["antecedent of nominal", "", "nearest mention"] == 0.5
    assert value["antecedent of pronoun", "", "nearest mention"] == 0


def test_bad_input(trees, story):
    plain = replace(trees, layers=frozenset({"upos"}))
    with pytest.raises(
        CorpusError, match=r"trees is not annotated with head, relation; it has upos"
    ):
        relations(attending(trees), plain)
    with pytest.raises(
        CorpusError,
        match=r"no relation of trees has 5000 links that can be asked, in both halves of its 40 "
        r"documents; the most has 'all: dependent -> head', 840\. Take more text, or a smaller",
    ):
        relations(attending(trees), trees, minimum=5000)
    with pytest.raises(
        CorpusError, match=r"story has 48 words.*given trees with 1080 .*; give it the same"
    ):
        relations(attending(trees), story)
    document = trees.documents[0]
    words = document.sentences[0].words
    changed = replace(document.sentences[0], words=(replace(words[0], form="other"), *words[1:]))
    sentences = (changed, *document.sentences[1:])
    other = replace(trees, documents=(replace(document, sentences=sentences), *trees.documents[1:]))
    with pytest.raises(CorpusError, match=r"1080 .*given trees with 1080 .*the same corpus"):
        relations(attending(trees), other)
    single = replace(trees, documents=trees.documents[:1])
    with pytest.raises(CorpusError, match=r"trees is a single document \(d0\).*'# newdoc'"):
        relations(attending(single), single)
    scores = relations(attending(trees), trees, minimum=30)
    with pytest.raises(ResultsError, match=r"has 0 heads of 0 models, and 6 baselines"):
        compare_heads(scores.query("probe != 'attention'"))
    with pytest.raises(ResultsError, match=r"no accuracies to compare"):
        compare_heads(scores.query("metric == 'coverage'"))
    halves = [scores.query("subset == 'choose'"), Scores.concat([scores, scores])]
    halves += [scores.query("cluster != 'd3' or site != '0.0'")]  # d3 is one that is reported
    for part in halves:
        with pytest.raises(ResultsError, match="rows were taken out, or two tables put together"):
            compare_heads(part)


def test_saved_and_loaded(trees, tmp_path):
    scores = relations(attending(trees), trees, minimum=100).query(
        "task == 'det: head -> dependent'"
    )
    again = Scores.load(scores.save(tmp_path / "scores.parquet"))
    pd.testing.assert_frame_equal(
        choose_heads(again).drop(columns="task"), choose_heads(scores).drop(columns="task")
    )


def looking(corpus: Corpus, patterns: np.ndarray, *, causal: bool, first: First) -> Attended:
    """What `attended` keeps of patterns over all tokens, a token a word.

    Args:
        patterns: `layer row query head key`.
    """
    alignment = alignment_of(corpus)
    n, layers, heads = len(alignment), patterns.shape[0], patterns.shape[3]
    members = np.split(np.arange(n), np.flatnonzero(np.diff(alignment.row)) + 1)
    words = Words.of(alignment, members, torch.device("cpu"))
    begins, ends = reach_of_mentions(corpus, alignment)
    mentions = np.flatnonzero(begins >= 0)
    found = [np.zeros((layers, heads, k), dtype=np.int16) for k in (n, n, len(mentions))]
    rests = np.zeros((layers, heads, n), dtype=bool)
    sinks = begins_row(alignment)
    see = _taker(words, begins, ends, sinks, found, rests, causal=causal, first=first)
    for layer in range(layers):
        see("pattern", layer, torch.from_numpy(patterns[layer]))
    note = {"corpus": corpus.name, "text": corpus.fingerprint, "model": "by hand"}
    to, by, antecedent = found
    return Attended(alignment, to, by, mentions, antecedent, rests, causal, first, note)


def drawn(rng: np.random.Generator, rows: int, length: int, *, causal: bool) -> np.ndarray:
    """Attention at random."""
    weights = rng.exponential(size=(1, rows, length, 3, length))
    if causal:
        weights *= np.tri(length)[:, None]
    return weights / weights.sum(-1, keepdims=True)


def scattered(
    rng: np.random.Generator, *, documents: int, relations: int, sentences: int = 1, length: int = 9
) -> Corpus:
    """Any other word of the sentence is the head, and no relation differs from another."""
    made = []
    for _ in range(documents):
        made.append([])
        for _ in range(sentences):
            heads = [int(rng.choice([j for j in range(length) if j != i])) for i in range(length)]
            names = [f"r{rng.integers(relations)}" for _ in heads]
            made[-1].append(parsed((-1, "root"), *list(zip(heads, names, strict=True))[1:]))
    return treebank(*made)


@pytest.mark.plain
@pytest.mark.parametrize("causal", [False, True])
def test_a_head_that_rests_at_the_first_word_finds_nothing(causal):
    """Most links lead to the first word, and one head looks at nothing else."""
    rng = np.random.default_rng(8)
    documents = [
        [parsed((-1, "root"), *((0 if rng.random() < 0.6 else 1 + i % 3, "dep") for i in range(8)))]
        for _ in range(30)
    ]
    corpus = treebank(*documents)
    patterns = drawn(rng, 30, 9, causal=causal)
    patterns[0, :, :, 1] = 0.02 * patterns[0, :, :, 1] + 0.98 * (np.arange(9) == 0)
    skipped = looking(corpus, patterns, causal=causal, first="skip")
    scores = relations(skipped, corpus, minimum=5)
    chosen = choose_heads(scores)
    assert not (chosen["q"] < 0.05).any()
    heads = compare_heads(scores).set_index(["task", "site"])
    to = f"dep: {TO}"
    assert heads.loc[(to, "0.1"), "value"] < 0.5 and heads.loc[(to, "0.1"), "sink"] > 0.9
    assert heads.loc[(to, "0.0"), "sink"] < 0.5
    right = truth(corpus)
    place = np.arange(len(right)) % 9
    in_order = (right < 0) if causal else (right != 0)
    counted = scores.query(f"metric == 'skipped' and task == '{to}'").frame
    assert counted["total"].sum() == (in_order & (place + right == 0)).sum()
    # kept, the head seems to find most heads; and so does the baseline
    kept = looking(corpus, patterns, causal=causal, first="keep")
    scores = relations(kept, corpus, minimum=5)
    row = choose_heads(scores).set_index("task").loc[to]
    assert row["site"] == "0.1" and row["baseline"] == "first word"
    assert row["value"] > 0.5 and row["difference"] == 0 and row["p"] == 1
    assert scores.query("metric == 'skipped'").frame["total"].sum() == 0


def test_nothing_is_skipped_where_no_word_holds_the_first_token():
    """As behind a BOS: every token one place on."""
    corpus = scattered(np.random.default_rng(0), documents=6, relations=1)
    given = attending(corpus, first="skip")
    moved = replace(given.alignment, start=given.alignment.start + 1, end=given.alignment.end + 1)
    behind = replace(given, alignment=moved)
    scores = relations(behind, corpus, minimum=1)
    assert scores.query("metric == 'skipped'").frame["total"].sum() == 0
    coverage = scores.query("metric == 'coverage'").summary()["value"]
    assert (coverage == 1).all()
    assert (
        relations(given, corpus, minimum=1).query("metric == 'coverage'").summary()["value"] < 1
    ).all()


def test_words_that_begin_a_row_are_not_asked_and_not_the_answer(trees):
    """Against a loop, over three sentences a row: only the first one has such a word."""
    rng = np.random.default_rng(9)
    patterns = drawn(rng, 40, 27, causal=True)
    found = looking(trees, patterns, causal=True, first="skip")
    at = found.alignment
    for i in range(len(at)):
        for array, sign in ((found.to, -1), (found.by, 1)):
            for distance in array[0, :, i]:
                if at.start[i] == 0:
                    assert distance == 0
                elif distance:
                    assert sign * distance > 0 and at.start[i + distance] > 0
    scores = relations(found, trees, minimum=30)
    words = [w for s in trees.sentences for w in s.words]
    right = truth(trees)
    kept = [
        i
        for i, word in enumerate(words)
        if word.relation == "obj" and right[i] < 0 and i % 27 and (i + right[i]) % 27
    ]
    asked_of = scores.query(f"task == 'obj: {TO}' and probe == 'attention' and site == '0.2'")
    assert asked_of.frame["n"].sum() == len(kept)
    assert asked_of.frame["total"].sum() == (found.to[0, 2, kept] == right[kept]).sum()
    rests = scores.query(f"task == 'obj: {TO}' and metric == 'sink' and site == '0.2'").frame
    half = set(rests["cluster"])
    reported = [i for i in kept if f"d{i // 27}" in half]
    by_hand = [_rests(patterns[0, i // 27, i % 27, 2], i % 27) for i in reported]
    assert (rests["n"].sum(), rests["total"].sum()) == (len(reported), sum(by_hand))


def _rests(attention: np.ndarray, i: int) -> bool:
    """Does a word attend to the first token more than to those of its sentence before it?"""
    others = attention[max(1, i // 9 * 9) : i]
    return attention[0] > others.max(initial=0)


def test_an_anaphor_without_the_first_word_loses_that_candidate(story):
    """w0, "Ann", begins the row: w4 has no antecedent left, w9 has w4, w7 has w2 as before."""
    mentions = words(story, 0, 2, 4, 7, 9, 11)
    antecedent = np.broadcast_to(np.tile([0, 0, -2, -5, -5, -2], 4), (LAYERS, HEADS, 24))
    given = attending(story, mentions=mentions, antecedent=antecedent, first="skip")
    found = relations(given, story, minimum=4)
    sums = found.frame.groupby(["task", "metric", "probe"], observed=True)[["total", "n"]].sum()
    assert sums.loc[("antecedent", "coverage", "asked")].tolist() == [8, 12]
    assert sums.loc[("antecedent", "skipped", "skipped")].tolist() == [4, 12]
    assert sums.loc[("antecedent of pronoun", "coverage", "asked")].tolist() == [4, 8]
    chosen = choose_heads(found).set_index("task")
    assert (chosen["value"] == 1).all() and (chosen["sink"] == 0).all()
    kept = relations(replace(given, first="keep"), story, minimum=4)
    first = kept.query("probe == 'first word' and subset == 'report'").summary()
    value = first.set_index("task")["value"]
    assert value["antecedent of pronoun"] == 1 and value["antecedent of proper"] == 0


@pytest.mark.plain
def test_where_there_is_nothing_one_in_twenty_is_significant():
    """Of four words each other one may be the head and the answer, so that all heads, the word
    before and the first word are right in one of three cases."""
    rng = np.random.default_rng(10)
    corpus = scattered(rng, documents=24, relations=20, sentences=400, length=4)
    place = np.arange(corpus.n_words) % 4
    to, by = ((place + rng.integers(1, 4, (2, 20, len(place)))) % 4 - place for _ in range(2))
    table = compare_heads(relations(attending(corpus, to=to, by=by), corpus, offsets=(-1,)))
    p = table.loc[table["relation"] != "all", "p"]
    assert len(p) == 20 * 2 * 40
    assert 0.03 < (p < 0.05).mean() < 0.07


DATA = Path(os.environ.get("INTERP_DATA", "")) / "ud-ewt"


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="UD English-EWT is not in INTERP_DATA")
def test_minilm_links_objects_to_their_verbs_better_than_any_offset():
    dev = interp.datasets.corpus("ud-ewt", split="dev")
    corpus = dev.where(lambda document: sum(map(len, document.sentences)) < 100).head(5000)
    found = attended(interp.load("minilm-l6"), corpus)
    tasks = [f"det: {TO}", f"obj: {TO}"]
    scores = relations(found, corpus, minimum=40).query(f"task in {tasks}")
    chosen = choose_heads(scores).set_index("task")
    for task in tasks:
        row = chosen.loc[task]
        assert row["value"] > row["baseline_value"] + 0.1
        assert row["low"] > row["baseline_value"]
        assert row["q"] < 0.05
