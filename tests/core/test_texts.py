"""Texts: their numbers by hand, and what is shown of them."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from doors import untyped

from interp import Texts
from interp.core.errors import ResultsError
from interp.core.tables.said import differs, distance, distinct, marked

WORDS = {"plain": ["a b c", "a b b"], "cut": ["a b c", "c b"], "add": ["b b b b", "<i> tea"]}


def made(kl: bool = False) -> Texts:
    """Two prompts under three sets; a token is a word."""
    rows = []
    for name, texts in WORDS.items():
        for example, text in enumerate(texts):
            tokens, plain = text.split(), WORDS["plain"][example].split()
            n = len(tokens)
            rows.append(
                {
                    "model": "tiny",
                    "intervention": name,
                    "control": "",
                    "example": example,
                    "cluster": f"c{example}",
                    "prompt": f"prompt {example} <s>",
                    "text": text,
                    "tokens": [ord(token[0]) for token in tokens],
                    "length": n,
                    "ended": "n",
                    "log_prob": -1.0 * n,
                    "plain_log_prob": -2.0 * n,
                    "log_probs": [-1.0] * n,
                    "plain_log_probs": [-2.0] * n,
                    "differs": differs(tokens, plain),
                    "distance": distance(tokens, plain),
                    **({"kl": [0.5 * i for i in range(n)]} if kl else {}),
                }
            )
    return Texts(pd.DataFrame(rows), {"model": "tiny", "plain": "plain", "engine": "replay"})


def test_numbers_of_sequences_by_hand():
    assert distance("kitten", "sitting") == 3
    assert distance("", "abc") == distance("abc", "") == 3
    assert distance([1, 2, 3], [1, 2, 3]) == 0
    assert differs([1, 2, 3], [1, 4, 3]) == 1
    assert differs([1, 2], [1, 2, 3]) == differs([1, 2, 3], [1, 2]) == 2
    assert math.isnan(differs([1, 2], [1, 2]))
    assert distinct("abab", 1) == 0.5
    assert distinct("abab", 2) == 2 / 3
    assert math.isnan(distinct("a", 2))


def test_scores_beside_the_plain_text():
    found = made().score(["perplexity", "distance", "changed", "length", "log_prob", "distinct_1"])
    frame = found.frame.set_index(["metric", "site", "example"]).sort_index()
    assert set(found.frame["site"]) == {"cut", "add"}
    assert frame.loc[("perplexity", "add", 0), "value"] == pytest.approx(math.exp(2))
    assert frame.loc[("log_prob", "add", 0), "value"] == -1
    assert [*frame.loc[("distance", "cut"), "value"]] == [0, 2]
    assert [*frame.loc[("changed", "cut"), "effect"]] == [0, 1]
    assert [*frame.loc[("length", "add"), "effect"]] == [1, -1]
    assert frame.loc[("distinct_1", "add", 0), "value"] == 0.25
    assert frame.loc[("distinct_1", "add", 0), "base"] == 1
    summary = found.summary().set_index(["metric", "site"]).sort_index()
    assert summary.loc[("distance", "cut"), "effect"] == 1
    assert summary.loc[("distance", "cut"), "clusters"] == 2
    assert summary.loc[("distance", "cut"), "low"] < 1 < summary.loc[("distance", "cut"), "high"]


def test_metrics_of_ones_own():
    asked = {
        "says tea": r"\btea\b",
        "begins": re.compile("^a"),
        "letters": len,
        "long": lambda text: len(text) > 5,
        "far": "distance",
    }
    frame = made().score(asked).frame.set_index(["metric", "site", "example"]).sort_index()
    assert [*frame.loc[("says tea", "add"), "value"]] == [0, 1]
    assert [*frame.loc[("begins", "cut"), "effect"]] == [0, -1]
    assert [*frame.loc[("letters", "cut"), "value"]] == [5, 3]
    assert [*frame.loc[("long", "add"), "value"]] == [1, 1]
    assert [*frame.loc[("far", "cut"), "value"]] == [0, 2]


def test_plain_texts_alone_have_no_effect():
    alone = made().query("intervention == 'plain'").score("length")
    assert [*alone.frame["value"]] == [3, 3]
    assert alone.frame["effect"].isna().all()


def test_by_step_over_the_texts_that_came_so_far():
    found = made(kl=True).by_step("kl").set_index(["intervention", "step"])
    assert found.loc[("cut", 0), "mean"] == 0
    assert found.loc[("cut", 1), "mean"] == 0.5
    assert found.loc[("cut", 1), "n"] == 2
    assert found.loc[("cut", 2), "n"] == found.loc[("cut", 2), "clusters"] == 1
    assert np.isnan(found.loc[("cut", 2), "low"])
    assert ("cut", 3) not in found.index


def test_a_step_is_averaged_with_an_interval():
    found = made().by_step().set_index(["intervention", "step"])
    assert found.loc[("add", 1), "low"] == found.loc[("add", 1), "mean"] == -1


def test_what_differs_is_marked():
    assert marked("a b c", "a b c") == "a b c"
    assert marked("a <b> c", "a c") == "a <mark>&lt;b&gt; </mark>c"
    html = made()._repr_html_()
    assert "prompt 0 &lt;s&gt;" in html
    assert "<mark>&lt;i&gt;</mark> <mark>tea</mark>" in html  # the space stands in both
    assert "<td style='text-align:left'>a b c</td>" in html
    assert "tiny" in html
    assert "3 sets of interventions in 2 prompts" in repr(made())


def test_kept_and_read_again(tmp_path: Path):
    texts = made(kl=True)
    again = Texts.load(texts.save(tmp_path / "texts.parquet"))
    for asked in (["perplexity", "kl", "distinct_1"], {"tea": "tea"}):
        pd.testing.assert_frame_equal(again.score(asked).frame, texts.score(asked).frame)
    assert again.text("add", 1) == "<i> tea"


def test_a_figure_of_a_number():
    assert made().figure({"letters": len}).axes


def test_refusals():
    texts = made()
    for asked, says in (
        ("perplexty", r"no number of a text called 'perplexty'; did you mean 'perplexity'"),
        ({}, r"asks for nothing"),
        ({"odd": "("}, r"'\(' is no regular expression"),
        ({"odd": lambda text: None}, r"'odd' of the text 'a b c' is no number: TypeError"),
        ({"odd": lambda text: 1 / 0}, r"is no number: ZeroDivisionError"),
        ("distinct_3", r"'distinct_3' is NaN for 'cut', prompt 1 \('c b'\): likely the text"),
        ("kl", r"made without divergences; ask for them: interp.generate\(..., by_step='kl'\)"),
    ):
        with untyped(), pytest.raises(ResultsError, match=says):
            texts.score(asked)
    with pytest.raises(ResultsError, match=r"no text of 'at' for prompt 0; sets are \['plain'"):
        texts.text("at")
    with pytest.raises(ResultsError, match=r"made without divergences"):
        texts.by_step("kl")
    with pytest.raises(ResultsError, match=r"'cut' has texts of 1 of the 2 prompts"):
        texts.query("intervention != 'cut' or example == 0").score("length")
