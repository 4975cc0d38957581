"""Targets of each row: what Hugging Face says of the translation, at any of its positions."""

import numpy as np
import pytest
import tiny
import torch
from torch import nn

import interp
from interp import MeanReference
from interp.core.errors import PairsError, PositionError
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.plain.captures.capture import capture
from interp.models.bridge.precision import exact
from interp.models.model import Model

FAMILIES = ["t5", "bart", "marian", "m2m100"]
CLEAN = [[3, 4, 5, 6], [7, 8, 9], [3, 9, 5, 6], [6, 8, 3]]
CORRUPT = [[3, 11, 5, 6], [7, 12, 9], [3, 14, 5, 6], [6, 15, 3]]
TARGET = [[5, 7, 2], [8, 6], [9, 3], [4, 7, 8, 2]]
OTHER = [[5, 9, 2], [8, 4], [9, 12], [4, 6, 8, 2]]
NOUN, VERB = [2, 1, 2, 2], [1, 2, 0, 3]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs.from_tokens(
        clean=CLEAN,
        corrupt=CORRUPT,
        target=TARGET,
        corrupt_target=OTHER,
        correct=[5, 6, 7, 8],
        wrong=[9, 10, 11, 12],
        positions={"noun": [1] * 4, "start": [0] * 4},
        target_positions={"noun": NOUN, "verb": VERB},
        template=["a", "b", "a", "b"],
    )


def of(model: Model, family: str) -> nn.Module:
    kind = type(tiny.build(family))
    found = kind.from_pretrained(model.name, dtype=torch.float64, attn_implementation="eager")
    exact(found)
    return found.eval()


@torch.no_grad()
def said(hf: nn.Module, tokens: list[int], written: list[int]) -> torch.Tensor:
    start = hf.config.decoder_start_token_id
    ids = torch.tensor([[start, *written]])
    return hf(input_ids=torch.tensor([tokens]), decoder_input_ids=ids).logits[0]


def value(model: Model, pairs: Pairs, metric: str, side: str = "clean", **how) -> np.ndarray:
    frame = interp.evaluate(model, pairs, metric=metric, **how).frame
    return frame[frame["position"] == side].sort_values("example")["value"].to_numpy()


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_logits_are_read_at_any_position_of_a_target(tiny_model, pairs, engine):
    for family in FAMILIES if engine == "replay" else FAMILIES[:1]:
        model = tiny_model(family)
        hf = of(model, family)
        for side, rows, written in (("clean", CLEAN, TARGET), ("corrupt", CORRUPT, OTHER)):
            logits = [said(hf, *row) for row in zip(rows, written, strict=True)]
            for name, at in (
                ("logit_diff", [len(row) for row in TARGET]),
                ("logit_diff@noun", NOUN),
                ("logit_diff@verb", VERB),
                ("logit_diff@1", [1] * 4),
            ):
                found = value(model, pairs, name, side, engine=engine)
                for row, place in enumerate(at):
                    right, wrong = int(pairs.correct[row]), int(pairs.wrong[row])
                    truth = logits[row][place, right] - logits[row][place, wrong]
                    assert abs(found[row] - float(truth)) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_running_loss_is_that_of_the_translation(tiny_model, pairs, family):
    """Hugging Face's loss with the clean target as labels; on the corrupt side of its own ids."""
    model = tiny_model(family)
    hf = of(model, family)
    start = hf.config.decoder_start_token_id
    found = value(model, pairs, "next_token_loss")
    other = value(model, pairs, "next_token_loss", "corrupt")
    right = value(model, pairs, "next_token_accuracy")
    for row, (tokens, written) in enumerate(zip(CLEAN, TARGET, strict=True)):
        ids, labels = torch.tensor([[start, *written[:-1]]]), torch.tensor([written])
        out = hf(input_ids=torch.tensor([tokens]), decoder_input_ids=ids, labels=labels)
        assert abs(found[row] - float(out.loss)) < 1e-9
        assert abs(right[row] - float((out.logits[0].argmax(-1) == labels[0]).double().mean())) == 0
        logits = said(hf, CORRUPT[row], OTHER[row])[:-1]
        loss = nn.functional.cross_entropy(logits, labels[0])
        assert abs(other[row] - float(loss)) < 1e-9


SWEEPS = {
    "ablate": (interp.ablate, {"sites": ["enc.1.2", "dec.1.cross.3"], "method": "zero"}),
    "patch": (interp.patch, {"sites": ["enc.1.2", "dec.0.cross.1.k", "dec.1.4"]}),
    "a name of both stacks": (interp.patch, {"sites": "layers", "positions": ["noun"]}),
    "a name of the decoder": (interp.patch, {"sites": "dec.0.mlp", "positions": "verb"}),
    "a path across": (
        interp.path_patch,
        {"senders": "enc.0.1", "receivers": "dec.1.cross.2.v", "through": "all"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SWEEPS)
def test_a_batch_is_the_loop_over_its_rows(tiny_model, pairs, name):
    """Rows of three extents, in one sweep and one by one; and hooks say the same."""
    model = tiny_model("bart")
    method, how = SWEEPS[name]
    asked = {"metric": ["logit_diff", "next_token_loss", "logit_diff@verb"], **how}
    whole = method(model, pairs, **asked).frame
    effects = whole["effect"].to_numpy().reshape(-1, len(pairs))
    for row in range(len(pairs)):
        alone = method(model, pairs.select([row]), **asked).frame
        assert np.abs(alone["effect"].to_numpy() - effects[:, row]).max() < 1e-12
    assert (np.abs(effects).max(1) > 1e-9).mean() > 0.9
    if "path" not in name:
        hooked = method(model, pairs, engine="hooks", **asked).frame
        assert np.abs(hooked["effect"].to_numpy() - whole["effect"].to_numpy()).max() < 1e-9


def test_the_other_encoder_and_the_other_target_are_the_other_run(tiny_model, pairs):
    model = tiny_model("marian")
    sites = ["enc.2.resid_post", "dec.0.resid_pre"]
    metric = ["logit_diff@noun", "next_token_loss"]
    for direction, ran in (("noise", "corrupt"), ("denoise", "clean")):
        asked = {"metric": metric, "direction": direction}
        found = interp.patch(model, pairs, {"all": sites}, **asked).frame
        for name in metric:
            mine = found[found["metric"] == name].sort_values("example")["value"]
            assert np.abs(mine - value(model, pairs, name, ran)).max() < 1e-9


def test_a_capture_has_each_target_s_positions(tiny_model, pairs):
    model = tiny_model("t5")
    sites = ["enc.1.2", "dec.1.2", "dec.1.cross.3.k", "dec.0.cross.1.pattern", "dec.1.0.pattern"]
    for side in ("clean", "corrupt"):
        found = capture(model, pairs, sites, side=side)
        for row, (tokens, written) in enumerate(zip(CLEAN, TARGET, strict=True)):
            n, m = len(tokens), 1 + len(written)
            alone = capture(model, pairs.select([row]), sites, side=side)
            for site, shape in zip(sites, [(n,), (m,), (n,), (m, n), (m, m)], strict=True):
                mine = found.rows(site)[row]
                assert tuple(mine.shape)[: len(shape)] == shape
                assert (mine - alone[site][0]).abs().max() < 1e-12
    named = capture(model, pairs, ["enc.1.2", "dec.1.2"], positions=["noun", "end"])
    every = capture(model, pairs, ["enc.1.2", "dec.1.2"])
    for site, noun in (("enc.1.2", [1] * 4), ("dec.1.2", NOUN)):
        for row, at in enumerate(noun):
            assert torch.equal(named[site][row, 0], every.rows(site)[row][at])
            assert torch.equal(named[site][row, 1], every.rows(site)[row][-1])


def test_means_are_of_targets_of_one_length(tiny_model, pairs):
    model = tiny_model("t5")
    twice = pairs.select([0, 2, 0, 2, 0, 2])
    with pytest.warns(UserWarning, match="has 3 prompts"):
        found = MeanReference.fit(model, twice, ["dec.1.mlp"])
    assert set(found.sizes) == {("a", 4, 4), ("a", 4, 3)}
    for group, row in ((("a", 4, 4), 0), (("a", 4, 3), 2)):
        mean = found.at(Site.parse("dec.1.mlp"), [group])[0]
        own = capture(model, pairs.select([row]), ["dec.1.mlp"], side="corrupt")["dec.1.mlp"][0]
        assert (mean - own).abs().max() < 1e-12
    with pytest.raises(PairsError, match=r"one prompt of template 'a' with 4 tokens and 3 in its"):
        interp.ablate(model, pairs, "dec.1.mlp", method="mean")


def test_what_has_no_place_is_refused(tiny_model, pairs):
    model = tiny_model("bart")
    with pytest.raises(PositionError, match=r"'start' is one of the encoder's tokens, and 'dec\.1"):
        interp.patch(model, pairs, "dec.1.2", positions="start")
    with pytest.raises(PositionError, match=r"'start' is one of.*target_positions="):
        interp.evaluate(model, pairs, metric="logit_diff@start")
    with pytest.raises(PositionError, match="no position 'verb'"):
        interp.patch(model, pairs, "enc.1.2", positions="verb")
    with pytest.raises(PositionError, match="no position 3 in row 1"):
        interp.evaluate(model, pairs, metric="logit_diff@3")
    with pytest.raises(PairsError, match="needs targets of one length"):
        interp.patch(model, pairs, "dec.1.2", positions="each")
    bare = Pairs.from_tokens(clean=CLEAN, corrupt=CORRUPT, correct=[1] * 4, wrong=[2] * 4)
    with pytest.raises(PairsError, match="row 0 has no target, so there is nothing"):
        interp.evaluate(model, bare, metric="next_token_loss")


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("given", [{"target": TARGET}, {"decoder": (4, 7)}], ids=str)
def test_a_target_of_one_stack_is_refused(tiny_model, given, family):
    pairs, model = Pairs.from_tokens(clean=CLEAN, corrupt=CORRUPT, **given), tiny_model(family)
    for ask in (
        lambda: interp.evaluate(model, pairs, metric="kl"),
        lambda: interp.ablate(model, pairs, "1.mlp", method="zero", metric="kl"),
        lambda: capture(model, pairs, "1.mlp"),
    ):
        with pytest.raises(PairsError, match=r"have a target .*one stack of layers"):
            ask()
