"""Where an erasure is put into running text, and what is said of its strength."""

import numpy as np
import pandas as pd
import torch

import interp
from experiments._probing import reads, strength
from experiments.pos.use import at_words
from interp.core.tables.results import COLUMNS, Results
from interp.datasets.corpus import Corpus, Document, Sentence, Word
from interp.probing.read.collect import collect

SITE = "1.resid_post"
SENTENCES = (
    ("The", "Mary", "gave", "it-to-it", "John"),
    ("don't", "Mary-John", "it"),
    ("Mary",),
    ("it", "gave", "Mary-John"),
)


def corpus() -> Corpus:
    """Two documents; words of one token and of several."""
    sentences = []
    for n, forms in enumerate(SENTENCES):
        ends = np.cumsum([len(form) + 1 for form in forms]) - 1
        words = [Word(f, (int(e) - len(f), int(e))) for f, e in zip(forms, ends, strict=True)]
        sentences.append(Sentence(f"s{n}", " ".join(forms), tuple(words)))
    documents = Document("a", tuple(sentences[:2])), Document("b", tuple(sentences[2:]))
    return Corpus("made", documents, frozenset())


def test_an_erasure_is_put_in_at_the_very_tokens_that_it_is_fitted_to(tiny_model):
    """The activations there are those of the words that do not begin their row."""
    model, text = tiny_model("llama"), corpus()
    for context in (None, 14):
        pairs, places = at_words(model, text, context=context)
        kept = interp.capture(model, pairs, [SITE]).rows(SITE)
        there = torch.cat([row[list(at)] for row, at in zip(kept, places, strict=True)])
        found = collect(model, text, sites=[SITE], context=context)
        later = np.r_[False, found.row[1:] == found.row[:-1]]
        fitted = found[SITE][torch.from_numpy(later)]
        torch.testing.assert_close(there.to(fitted), fitted, rtol=1e-9, atol=1e-9)
        assert len(there) > 5


def results(after: float, low: float) -> Results:
    row = {"site": SITE, "layer": 2, "rank": 3, "words": 100, "before": 0.9, "majority": 0.2}
    report = [
        {**row, "erased": kind, "variance": share, "after": x, "low": x - 0.02, "high": x + 0.02}
        for kind, share, x in (("leace", 0.2, after), ("random", 0.03, 0.88))
    ]
    report[0]["low"] = low
    return Results(pd.DataFrame(columns=[*COLUMNS, "draw"]), {"erasures": report})


def test_what_is_still_read_makes_the_cost_a_lower_bound():
    left = strength(results(0.4, 0.38), 2, "the tag")
    assert "moves 0.200 of the variance there (0.030 by random directions)" in left
    assert "still reads the tag in 0.400" in left and "before 0.900, majority 0.200" in left
    assert left.endswith("so its cost is a lower bound.")
    gone = strength(results(0.21, 0.19), 2, "the tag")
    assert gone.endswith("not shown to be more than the majority.")
    table = reads(results(0.4, 0.38))
    assert table["erased"].tolist() == ["nothing", "leace", "random"]
    assert table["value"].tolist() == [0.9, 0.4, 0.88]
