"""Halves, parts, controls and what an erasure leaves: interventions of the experiment."""

from types import SimpleNamespace

import numpy as np
import pytest
import readers
import torch
import transformers as hf
from made_results import results
from readers import speaking
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from experiments.coreference.decode import asked
from experiments.coreference.use import (
    Gendered,
    Minimal,
    acting,
    acts,
    by_template,
    called,
    halves,
    not_these,
    others_of,
    standing_for,
    still_read,
)
from interp.core.parts.sites import Site
from interp.core.tables.results import Results
from interp.datasets.made.templates import lists
from interp.models.bridge import tokens


class Reader:
    """What pairs need of a model: a tokenizer of whole words."""

    name = "tiny"

    def __init__(self):
        given = lists("pronouns", "words")["couples"]
        texts = [text for group in lists("pronouns", "templates").values() for text in _all(group)]
        words = {w for c in given for w in c} | {"he", "she", "to", ".", ","}
        words |= {w.strip(".,") for text in texts for w in text.split()}
        vocab = {"<unk>": 0} | {word: i for i, word in enumerate(sorted(words), start=1)}
        backend = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        self.tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=backend)

    def encode_with_offsets(self, text, *, bos="model"):
        return tokens.encode_with_offsets(self.tokenizer, text, bos=bos)

    def show(self, ids):
        return tokens.show(self.tokenizer, ids)


def _all(group) -> list[str]:
    if isinstance(group, str):
        return [group]
    return [
        text
        for part in (group.values() if isinstance(group, dict) else group)
        for text in _all(part)
    ]


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader()


@pytest.mark.parametrize("answer", ["pronoun", "antecedent"])
def test_no_wording_is_in_both_halves_and_every_couple_is(reader, answer):
    n = Minimal(fitting=64, pairs=40, seed=0)
    fit, report = halves(reader, n, answer)
    assert (len(fit), len(report)) == (64, 40)
    assert set(fit.cluster) == set(report.cluster) and len(set(fit.cluster)) == 32
    frames = [set(by_template(pairs).cluster) for pairs in (fit, report)]
    assert not frames[0] & frames[1] and [len(f) for f in frames] == [5, 3]
    # means are of the wordings that are reported, of other prompts
    others = others_of(reader, n, answer)
    assert set(by_template(others).cluster) == frames[1]
    assert others.fingerprint != report.fingerprint


@pytest.mark.plain
def test_a_template_is_the_prompt_without_its_people(reader):
    pairs = halves(reader, Minimal(8, 40, 1))[1]
    framed = by_template(pairs)
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            same = [
                row[[k for k in range(len(row)) if k not in people]].tolist()
                for row, people in (
                    (
                        pairs.clean[x],
                        {int(pairs.at(p)[x]) for p in ("antecedent", "competitor", "cue")},
                    )
                    for x in (i, j)
                )
            ]
            alike = same[0] == same[1]
            assert (framed.cluster[i] == framed.cluster[j]) == alike
    assert torch.equal(framed.clean, pairs.clean)


def test_controls_stand_under_the_name_of_what_they_control():
    done = results("mean", "1.0", [1.0, 2.0, 3.0, 4.0])
    control = standing_for(done, [Site.parse("1.0")], [Site.parse("1.2")])
    assert set(control.frame["site"]) == {"1.2"}
    both = Results.concat([done, results("mean", "1.1", [5.0, 6.0, 7.0, 8.0])])
    one = standing_for(both, [Site.parse("1.1")], [Site.parse("1.2")]).frame
    assert set(one["site"]) == {"1.2"} and set(one["value"]) == {5.0, 6.0, 7.0, 8.0}
    drawn = called(control, "mean of others", 3).frame
    assert set(drawn["method"]) == {"mean of others 3"} and set(drawn["draw"]) == {3}
    best = called(done, "mean of best").frame
    assert set(best["method"]) == {"mean of best"} and best["draw"].isna().all()


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_heads_and_their_controls_in_one_sweep_are_each_by_itself(tmp_path):
    given = lists("pronouns", "words")["couples"]
    texts = [text for group in lists("pronouns", "templates").values() for text in _all(group)]
    texts += [f" {text}" for text in texts] + [f" {word}" for c in given for word in c]
    texts += [" he", " she"]
    model = speaking(readers.Reader(rf"{readers.WORD}|[^A-Za-z]", texts), tmp_path / "model")
    n, best = Minimal(fitting=8, pairs=6, seed=0), Site.parse("1.2")
    found = acting(model, [str(best)], n, tmp_path / "kept").frame.set_index("method")
    for answer in ("antecedent", "pronoun"):
        report = halves(model, n, answer)[1]
        for what, act in acts(model, report, [best], n, answer).items():
            for draw in (None, 1, 5):
                site = best if draw is None else not_these([best], model, seed=0, draw=draw - 1)[0]
                alone = act([site], tmp_path / f"{answer}-{what}-{draw}").frame
                who = "best" if draw is None else "others"
                name = f"{what} of {who}, say {answer}" + ("" if draw is None else f" {draw}")
                mine = found.loc[name]
                assert set(mine["site"]) == {"1.2"} and set(mine["head"]) == {site.head}
                assert mine["cluster"].tolist() == alone["cluster"].tolist()
                assert np.abs(mine["value"].to_numpy() - alone["value"].to_numpy()).max() < 1e-12
                assert what == "path" or alone["effect"].abs().max() > 1e-6


def test_other_heads_are_others_of_the_layer_and_differ_from_draw_to_draw():
    model = SimpleNamespace(facts=SimpleNamespace(n_heads=6))
    chosen = [Site.parse("0.5"), Site.parse("3.0")]
    drawn = [not_these(chosen, model, seed=1, draw=i) for i in range(5)]
    for i, site in enumerate(chosen):
        heads = {sites[i].head for sites in drawn}
        assert heads == set(range(6)) - {site.head}
        assert {sites[i].layer for sites in drawn} == {site.layer}


def gendered(seed: int, *, gap: float, odd: float) -> Gendered:
    """Gender along axis 0, in wordings 0 to 3; `odd`: a second direction of gender, axis 1."""
    generator = torch.Generator().manual_seed(seed)
    gender = torch.arange(80) % 2
    x = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    x[:, 0] += gap * (2 * gender - 1)
    x[:, 1] += odd * (2 * gender - 1)
    site = Site("resid_post", 1)
    wording = np.repeat(np.arange(4), 20)
    return Gendered(
        {"cue": {site: x}}, gender, tuple(f"c{i % 10}" for i in range(80)), wording, ("nun",) * 80
    )


def test_what_is_left_of_an_erasure_is_measured_where_it_was_not_fitted():
    fit = gendered(0, gap=3, odd=0)
    gone = still_read(fit, gendered(1, gap=3, odd=0)).summary()
    other = still_read(fit, gendered(2, gap=3, odd=3)).summary()
    for table, accuracy, distance in ((gone, (0.3, 0.65), 0.2), (other, (0.95, 1), None)):
        value = table.set_index(["task", "probe", "subset"])["value"]["gender at the noun"]
        assert value["linear", "before"] > 0.95
        assert accuracy[0] <= value["linear", "after"] <= accuracy[1]
        left = value["class means", "after"]
        assert left < distance if distance else left > 0.5
        assert (table["depth"] == 2).all()


def test_the_control_task_has_one_label_for_each_pair_of_forms():
    def some(types: list[str], y: list[int]):
        return SimpleNamespace(types=tuple(types), y=torch.tensor(y))

    splits = {
        "train": some(["she ann", "he bob", "she ann", "he ann"] * 10, [1, 1, 0, 0] * 10),
        "dev": some(["he bob", "it dog"], [1, 0]),
        "test": some(["she ann", "it dog", "he ann"], [0, 0, 1]),
    }
    y = asked(splits, seed=4)
    label: dict[str, int] = {}
    for name, part in splits.items():
        assert y[name][0].tolist() == part.y.tolist()
        for kind, drawn in zip(part.types, y[name][1].tolist(), strict=True):
            assert label.setdefault(kind, drawn) == drawn
    assert any(asked(splits, seed=s)["test"][1].tolist() != y["test"][1].tolist() for s in range(9))
