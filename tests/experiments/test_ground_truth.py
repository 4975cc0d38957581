"""The known circuits: how true parts act, what stands wrong, what is said of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.ground_truth import Config, cases, recovered, run
from experiments.ground_truth.figures import dots, over_truths
from experiments.ground_truth.report import means, standing, summarise
from experiments.ground_truth.setting import (
    Case,
    Level,
    Ranking,
    node_of,
    of_nodes,
    rankings,
    steepest,
)
from interp.causal.ranking.recovery import Recovery
from interp.core.parts.circuit import Part
from interp.core.parts.graph import Graph
from interp.core.parts.sites import Site
from interp.core.tables.attribution import Attribution
from interp.models import compiled

ZERO = Case("induction", "zero", "first")
FIRST = Case("induction", "resample", "first")


def ranking(
    scores: dict[str, float], *, case: Case = FIRST, level: Level = "edges", method: str = "eap"
) -> Ranking:
    """Of these parts, and a few false ones that score 0."""
    parts = tuple(map(Part.parse, scores))
    true = {str(part) for part in case.truth("all positions")}
    given = np.array(list(scores.values()))
    return Ranking(
        *(case, method, level, "all positions"),
        parts=parts,
        scores=given,
        raw=given,
        true=np.array([str(part) in true for part in parts]),
        slopes={"1.0": 1e-18},
    )


BEST = {"embed -> 0.kv0.v": 3.0, "0.0 -> 1.kv0.k": 2.0, "1.0 -> logits": 1.0}
FALSE = {"embed -> 1.0.q": 0.0, "0.1 -> logits": 0.0, "embed -> 0.2.q": 0.0}


def test_how_parts_act() -> None:
    """The first A is read as what stood before: by a value, then by a key."""
    one = ranking(BEST | FALSE)
    assert [one.way(Part.parse(edge)) for edge in BEST] == ["farther on", "itself", "values"]
    zero = ranking(BEST | FALSE, case=ZERO)
    assert zero.way(Part.parse("embed -> 0.0.q")) == "twice", "0.0 is read by 1.0's key alone"
    assert zero.way(Part.parse("embed -> 1.0.q")) == "itself"
    assert zero.way(Part.parse("embed -> 1.kv0.v")) == "values"
    assert zero.way(Part.parse("0.0")) == "itself", "all its true edges end in a key"
    assert zero.way(Part.parse("1.0")) == "values"
    reverse = replace(one, case=Case("reverse", "zero", "tokens"))
    assert reverse.way(Part.parse("embed -> 0.kv0.v")) == "farther on"


def test_readers_are_of_heads_and_mlps() -> None:
    nodes = {"1.kv2.v": "1.2", "1.2.q": "1.2", "1.mlp": "1.mlp", "logits": "logits"}
    assert {r: str(node_of(Site.parse(r))) for r in nodes} == nodes


@pytest.mark.plain
def test_the_softmax_is_flat_where_the_model_says_so() -> None:
    """Of heads with a true query or key, and of no other."""
    model = compiled.build("induction", dtype=torch.float64)
    pairs = compiled.pairs("induction", corruption="first", n=4)
    found = steepest(model, pairs, FIRST)
    assert found.keys() == {"1.0"}
    p = torch.softmax(torch.tensor([40.0, 0.0], dtype=torch.float64), 0)[1]
    assert 0 < found["1.0"] < 2 * float(p)
    assert steepest(model, pairs, ZERO).keys() == {"0.0", "1.0"}
    assert steepest(model, pairs, Case("induction", "resample", "answer")) == {}


def test_parts_that_stand_wrong() -> None:
    low = {"0.0 -> 1.kv0.k": 0.0, "0.1 -> logits": 1.5}
    table = standing([ranking(BEST | FALSE | low)]).set_index("what")
    # 1.0 -> logits is below 0.1 -> logits, the key ties with the false ones
    assert table.index[table["wrong"]].tolist() == [
        "0.0 -> 1.kv0.k",
        "1.0 -> logits",
        "0.1 -> logits",
    ]
    assert table.loc["1.0 -> logits", "share"] == pytest.approx(1 / 3)
    assert not standing([ranking(BEST | FALSE)])["wrong"].any()


def test_parts_that_lead_nowhere() -> None:
    """Without 1.0 -> logits, what 1.0 reads is of no use."""
    one = ranking(BEST | FALSE | {"1.0 -> logits": 0.0})
    assert {str(site) for site in one.severed} == {"1.0"}
    table = standing([one]).set_index("what")
    assert table.index[table["severed"]].tolist() == ["0.0 -> 1.kv0.k", "embed -> 1.0.q"]


def test_nodes_have_the_best_score_of_their_edges() -> None:
    parts = [
        "embed -> 1.0.q",
        "0.0 -> 1.0.q",
        "0.0 -> logits",
        "0.0 -> logits @ end",
        "1.0 -> logits",
    ]
    each = np.array([[9.0, 9.0], [1.0, 3.0], [-4.0, -2.0], [7.0, 7.0], [0.0, 0.0]])
    edges = Attribution.of(
        *(list(map(Part.parse, parts)), each),
        cluster=["a", "b"],
        method="acdc",
        metric="kl",
        provenance={},
    )
    found = of_nodes(edges)
    assert [str(part) for part in found.parts] == ["0.0", "0.0 @ end", "1.0"]
    assert found.scores.tolist() == [-3.0, 7.0, 0.0]
    assert found.each[0].tolist() == [-4.0, -2.0]


def every(method: str, change: dict[str, float] | None = None) -> list[Ranking]:
    """A method on both levels and two truths: 1 for what is true, but for what is changed."""
    edges = Graph.of(compiled.build("induction").facts).edges
    made = []
    for case in (FIRST, ZERO):
        true = {str(part) for part in case.truth("all positions")}
        scores = {str(edge): float(str(edge) in true) for edge in edges}
        made.append(ranking(scores | (change or {}), case=case, method=method))
        heads = {f"{layer}.{head}": float(head == 0) for layer in (0, 1) for head in range(3)}
        name = "atp" if method == "eap" else method
        one = ranking(heads, case=case, level="nodes", method=name)
        true_heads = np.array([str(part).endswith(".0") for part in one.parts])
        made.append(replace(one, true=true_heads))
    return made


def said(found: list[Ranking]) -> tuple[Recovery, str]:
    results = recovered(found, Config(draws=20))
    return results, summarise(results, means(results), standing(found))


@pytest.mark.plain
def test_what_the_summary_says() -> None:
    silent = {"0.0 -> 1.kv0.k": 0.0, "embed -> 1.2.q": 2.0}
    found = [*every("exact"), *every("eap", silent), *every("eap-ig-inputs")]
    results, text = said(found)
    assert "Exact patching puts every true part above every false one, in all 4." in text
    assert "**`eap-ig-inputs`** misses none of the 10 true parts." in text
    assert "**`eap`** puts 10 of 10 true parts no higher than a false one" in text
    assert "3 of 3 that reach the logits through values and MLPs alone (0 at 0)" in text
    assert "2 at 0 act through a softmax that is flat" in text
    assert "(its slope is 1e-18 at most" in text
    assert "Of the 2 at 0, scored are 2 by `eap-ig-inputs`." in text
    assert "2 false parts stand above a true one, most often induction: embed -> 1.2.q (2)." in text
    _, away = said([*every("exact"), *every("eap"), *every("eap-ig-inputs", silent)])
    assert "they add nothing, though cutting the part turns the attention round" in away
    assert "score 0 by the gradient at the clean prompt (`eap`), so what they score comes" in away
    assert "Without this rule no method's mean AUROC would be another." in text
    frame = results.frame
    assert len(frame) == 12 + 4 * 20
    assert (frame.query("method == 'exact'")["auroc"] == 1).all()
    table = means(results).set_index(["level", "method", "measure"])
    assert table.loc[("edges", "random", "auroc"), "value"] == pytest.approx(0.5, abs=0.1)
    assert table.loc[("edges", "eap", "auroc"), "perfect"] == 0
    exact, eap = table.loc[("edges", "exact", "auroc")], table.loc[("edges", "eap", "auroc")]
    assert exact["above"] == pytest.approx(1 - eap["value"])
    assert exact["above_low"] <= exact["above"] <= exact["above_high"]
    assert eap["above"] == 0


@pytest.mark.plain
def test_why_a_search_cuts_true_parts() -> None:
    """1.0 -> logits raises the metric when it is cut, says exact patching; the rest follows it."""
    exact = every("exact")
    for i, one in enumerate(exact):
        raises = np.array([str(part) == "1.0 -> logits" for part in one.parts])
        exact[i] = replace(one, raw=np.where(raises, 1.0, -one.scores))
    lost = {"1.0 -> logits": 0.0, "0.0 -> 1.kv0.k": 0.0, "embed -> 0.kv0.v": 0.0}
    _, text = said([*exact, *every("eap"), *every("acdc", lost)])
    assert "Of the 6 at 0, 2 raise the logit difference when they are cut by themselves" in text
    assert "by themselves, which makes a right answer surer and is less in KL than any" in text
    assert "4 help but lead only to parts that it has cut before; 0 help, but" in text
    assert "Of the 6 at 0, scored are 6 by `eap`." in text
    _, by_metric = said([*exact, *every("eap"), *every("acdc, logit_diff", lost)])
    assert "by themselves, and what does not make the model worse is not kept; 4" in by_metric


def test_exact_patching_that_fails_is_a_warning() -> None:
    lost = {"1.0 -> logits": 0.0}
    _, text = said([*every("exact", lost), *every("eap")])
    assert "WARNING: exact patching fails on 2 of 4 truths (induction, resample, first" in text


def test_a_hair_above_zero_is_said_to_decide() -> None:
    tiny = every("eap")
    for i, one in enumerate(tiny):
        scores = np.where(one.true, 0.0, one.scores)
        tiny[i] = replace(one, scores=scores)
    _, text = said([*every("exact"), *tiny])
    assert "`eap` of edges 1.00 and not 0.50" in text
    assert "false ones, of which 100% score 0 to the last digit" in text


@pytest.mark.plain
def test_figures_have_a_row_for_each_method() -> None:
    results, _ = said([*every("exact"), *every("eap")])
    for figure in (dots(results), over_truths(means(results))):
        names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert names[:2] == ["exact", "eap"]
    points = [line.get_offsets() for line in dots(results).axes[0].collections]
    assert sorted(np.concatenate(points)[:, 0].tolist()) == [1.0, 1.0]


@pytest.mark.plain
def test_a_run_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(models=("previous",), prompts=4, fine=2, draws=3, out=tmp_path)
    stems = [f"previous-{ablation}-random" for ablation in ("zero", "mean", "resample")]
    assert [case.stem for case in cases(config)] == stems
    monkeypatch.setattr("experiments.ground_truth.ABLATIONS", ("zero",))
    results = run(config)
    asked = ["model", "method", "ablation", "corruption", "granularity"]
    asked += ["auroc", "average_precision", "r_precision"]
    path = next(tmp_path.rglob("results.parquet"))
    assert set(asked) <= set(pd.read_parquet(path))
    exact = results.query("method == 'exact'").frame
    assert (exact[["auroc", "average_precision", "r_precision"]] == 1).all(axis=None)
    assert len(exact) == 4  # edges and nodes, everywhere and by place
    # the clocks' queries and keys: what a gradient does not see
    zero = "method == 'eap' and ablation == 'zero' and granularity == 'all positions'"
    assert results.query(zero).frame["auroc"].tolist() == [0.75]
    figures = {path.name for path in tmp_path.rglob("figures/*.pdf")}
    assert figures == {"auroc.pdf", "means.pdf"}
    stage = Attribution.load(next(tmp_path.rglob("stages/previous-zero-random.parquet")))
    case = Case("previous", "zero", "random")
    assert {r.method for r in rankings(case, stage)} > {"exact", "eap", "atp*", "acdc"}

    monkeypatch.setattr("experiments.ground_truth.measure", None)  # not called again
    assert run(config).frame.equals(results.frame)
