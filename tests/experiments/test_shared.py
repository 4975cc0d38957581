"""What every experiment shares: sizes, steps, pooled scores, runs that are kept, and words."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from experiments._shared import Sized, Words, brief, experiment, pooled, steps, streams
from interp.core.tables.scores import Scores
from interp.runs import Run


@dataclass(frozen=True, kw_only=True)
class Config(Sized):
    sizes: ClassVar = {"smoke": {"words": 3}, "default": {"words": 70}}
    words: int | None = None


def test_a_number_given_by_hand_wins():
    assert (Config().words, Config(size="smoke").words, Config(words=5).words) == (70, 3, 5)


def test_steps_are_equal_and_end_at_the_last():
    assert steps(29, 6) == [5, 10, 14, 19, 24, 29]
    assert steps(30, 5) == [6, 12, 18, 24, 30]
    assert steps(3, 9) == [1, 2, 3] and steps(0, 6) == [0]
    assert [str(site) for site in streams([1, 3])] == [
        "0.resid_pre",
        "1.resid_post",
        "3.resid_post",
    ]


def scores(total: int, **columns: object) -> Scores:
    values = (np.arange(4) < total).astype(float)
    return Scores.of(values, ["a", "a", "b", "b"], provenance={}, task="t", probe="p", **columns)


def test_heads_are_pooled_as_one():
    both = Scores.concat([scores(4, site="1.0"), scores(1, site="1.2"), scores(3, site="2.0")])
    table = pooled(both, ["site", "head"]).summary()
    assert table["layer"].tolist() == [1, 2] and table["n"].tolist() == [8, 4]
    assert table["value"].tolist() == [5 / 8, 3 / 4]
    seeds = Scores.concat([scores(4, subset="seed 0"), scores(2, subset="seed 1")])
    assert pooled(seeds, ["subset"]).summary()[["subset", "value"]].to_numpy().tolist() == [
        ["all", 0.75]
    ]


def test_a_finished_run_is_loaded_and_its_activations_go(tmp_path):
    asked = []

    @experiment("counted")
    def run(folder: Run, config: Config) -> tuple[Scores, str]:
        asked.append(config.words)
        (folder.folder / "activations").mkdir()
        return scores(3), "# It counts"

    config = Config(out=tmp_path)
    first, again = run(config), run(config)
    assert asked == [70] and first.frame.equals(again.frame)
    (folder,) = (tmp_path / "counted").iterdir()
    assert (folder / "summary.md").read_text() == "# It counts\n"
    assert not (folder / "activations").exists()


@pytest.fixture
def words(tmp_path) -> Words:
    (tmp_path / "report.md").write_text(
        "[title]\n# Of {name}\n\n[lost, at the end]\nlost\n{row:effect .2f} of {row[n]},\n"
        "not {row}\n\n"
        "[differs]\n{row:difference .1f}\n"
    )
    return Words(str(tmp_path / "x.py"))


def test_sections_are_filled_with_rows(words):
    row = pd.Series({"value": 0.5, "effect": -1.0, "low": 0.25, "high": 0.75, "n": "3"})
    assert words("title", name="x") == "# Of x"
    said = words("lost, at the end", row=row)
    assert said == "lost -1.00 [0.25, 0.75] of 3, not 0.500 [0.250, 0.750]"
    row = pd.Series({"difference": 2.0, "difference_low": 1.0, "difference_high": 3.0, "low": 9})
    assert (
        words.each("differs", pd.DataFrame([row, row]), by="; ") == "2.0 [1.0, 3.0]; 2.0 [1.0, 3.0]"
    )


def test_a_number_without_an_interval_stands_alone():
    assert brief({"value": 0.5, "low": 0.5, "high": 0.5}) == "0.50"
    assert brief({"value": 0.5, "low": np.nan, "high": np.nan}, ".1f") == "0.5"
    assert brief({"value": 3e-5, "low": 1e-5, "high": 1.0}, ".2g") == "3e-05 [1e-05, 1]"
