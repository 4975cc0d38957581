"""Which links are asked and which heads are reported: the pure parts of `relations`."""

import numpy as np
import pandas as pd

from experiments.relations.asked import ADJECTIVE, target_only, with_he
from experiments.relations.report import is_better, of_chosen, say_sink
from interp.core.tables.scores import Scores
from interp.datasets.corpus import Document, Mention, Sentence, Word
from interp.heads.looking.links import ALL


def document(**facts: str) -> Document:
    forms, words, start = "He saw Ann", [], 0
    for form in forms.split():
        words.append(
            Word(
                form, (start, start + len(form)), head=1 if form != "saw" else -1, relation="nsubj"
            )
        )
        start += len(form) + 1
    mentions = tuple(Mention(0, (at, at + 1), chain="e", kind="PER") for at in (0, 2))
    sentence = Sentence("s", forms, tuple(words))
    return Document("d", (sentence,), mentions=mentions, facts=facts)


def test_he_is_a_kind_of_mention():
    assert [mention.kind for mention in with_he(document()).mentions] == ["he", "PER"]


def test_the_adjective_alone_is_asked():
    (sentence,) = target_only(document(target="2"), ADJECTIVE).sentences
    assert [word.relation for word in sentence.words] == [None, None, ADJECTIVE]
    assert [word.head for word in sentence.words] == [1, -1, 1]


def score(task: str, **columns: object) -> Scores:
    values = np.array([1.0, 0.0])
    return Scores.of(values, ["a", "b"], provenance={}, task=task, **columns)


def test_scores_of_chosen_heads_and_their_baselines_are_kept():
    head = {"probe": "attention", "model": "trained"}
    scores = Scores.concat(
        [
            *(score(task, site=site, **head) for task in "xy" for site in ("0.0", "0.1")),
            *(score(task, probe="offset -1") for task in "xyz"),
        ]
    )
    table = pd.DataFrame(
        {"task": ["x", "y"], "site": ["0.1", "0.0"], "chosen": [True, False], "model": "trained"}
    )
    kept = of_chosen(scores, table).frame
    assert set(zip(kept["task"], kept["site"], strict=True)) == {("x", "0.1"), ("x", "")}
    random = of_chosen(scores, table.assign(model="random")).frame
    assert set(random["site"]) == {"0.1"}


def test_a_head_is_better_only_if_it_is_so_surely():
    table = pd.DataFrame({"q": [0.01, 0.01, 0.2], "difference": [0.1, -0.1, 0.5]})
    assert is_better(table).tolist() == [True, False, False]


def test_the_sink_is_weighted_by_links_and_said_by_direction():
    table = pd.DataFrame(
        {
            "relation": [ALL, ALL, "nsubj", "amod"],
            "sink": [0.9, 0.9, 0.2, 0.5],
            "n": [9, 9, 30, 10],
            "skipped": [0.05, 0.1, 0.3, 0.3],
        }
    )
    both = say_sink(table, causal=True)
    assert "leaves out 15% of all links; of the looks of chosen heads 28% go to" in both
    assert "leaves out 10% of all links" in say_sink(table, causal=False)
    none = say_sink(table.assign(skipped=0.0), causal=True)
    assert none.startswith("A special token stands before the first word, so no word is skipped;")
