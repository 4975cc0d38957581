"""Path patching from end to end, against the four passes of the paper's algorithm."""

import pytest
from oracle import HopSpec, setting

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import PositionError, SiteError, Unsupported
from interp.engine.interventions import Hop
from interp.engine.plan.positions import places


@pytest.mark.sampled(8)
@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize(("direction", "through"), [("noise", "mlps"), ("denoise", "direct")])
@pytest.mark.parametrize("receivers", [["logits"], ["2.1.q", "1.mlp"]])
def test_against_the_algorithm(model, family, oracle, pairs, engine, direction, through, receivers):
    pairs = pairs.select([1, 2])
    found = interp.path_patch(
        model,
        pairs,
        senders=["0.1", "0.mlp", "embed"],
        receivers=receivers,
        through=through,
        sender_positions=["late", "all"],
        receiver_positions="all" if receivers == ["logits"] else "late",
        direction=direction,
        engine=engine,
    ).frame
    assert list(found["site"][::2]) == ["embed", "0.1", "0.mlp"] * 2
    assert list(found["position"][::6]) == ["late", "all"]
    assert set(found["receiver"]) == {"logits" if receivers == ["logits"] else "1.mlp+2.1.q"}
    assert set(found["through"]) == {through}
    for line in found.itertuples():
        row, n = line.example, int(pairs.lengths[line.example])
        sides = [pairs.clean[row : row + 1, :n], pairs.corrupt[row : row + 1, :n]]
        base, other = sides if direction == "noise" else sides[::-1]
        judge = oracle(family)
        _, new = judge.forward(other)
        sender = setting({line.site: new[line.site]}, places(pairs, line.position, [row]))
        hop = HopSpec(tuple(receivers), places(pairs, "late", [row]), through)
        logits = judge.run_cell(base, sender, [hop])
        truth = (logits[0, -1, pairs.correct[row]] - logits[0, -1, pairs.wrong[row]]).item()
        assert abs(line.value - truth) < 1e-9
    assert (found["effect"].abs() > 1e-7).any()


@pytest.mark.plain
def test_selectors_leave_out_senders_after_the_receiver(tiny_model, pairs):
    """They have no path, so no row: absent, not 0."""
    model = tiny_model("llama")

    def senders(receivers, selector="heads"):
        found = interp.path_patch(model, pairs, senders=selector, receivers=receivers).frame
        return sorted(set(found["site"]))

    first = [f"0.{h}" for h in range(6)]
    assert senders("1.0.q") == first
    assert senders("1.kv1.v") == first
    assert senders("1.mlp") == first + [f"1.{h}" for h in range(6)]
    assert senders(["1.0.q", "0.mlp"]) == first
    assert len(senders("logits")) == 18
    assert senders("1.mlp", "mlps") == ["0.mlp"]
    assert senders("2.0.k", "mlps") == ["0.mlp", "1.mlp"]
    grid = interp.path_patch(model, pairs, senders="heads", receivers="1.0.q").grid()
    assert grid.shape == (1, 6)


def test_the_key_of_a_group_and_of_one_query_head(tiny_model, pairs):
    model = tiny_model("llama")
    values = {
        receivers: interp.path_patch(model, pairs, senders="0.mlp", receivers=receivers.split())
        for receivers in ("1.kv1.k", "1.3.k 1.4.k 1.5.k", "1.3.k")
    }
    group, members, one = (found.frame["value"] for found in values.values())
    assert (group - members).abs().max() < 1e-9
    assert (group - one).abs().max() > 1e-7
    with pytest.raises(Unsupported, match=r"'1.3.k'.*engine='replay'.*'1.kv1.k'"):
        interp.path_patch(model, pairs, senders="0.mlp", receivers="1.3.k", engine="hooks")


def test_bad_input(tiny_model, pairs):
    model = tiny_model("llama")
    with pytest.raises(SiteError, match=r"2\.0 -> 1\.0\.q.*after its receiver.*Exchange"):
        interp.path_patch(model, pairs, senders="2.0", receivers="1.0.q")
    with pytest.raises(SiteError, match=r"2\.0 -> 1\.0\.q"):  # one that was named is not dropped
        interp.path_patch(model, pairs, senders=["0.0", "2.0"], receivers="1.0.q")
    with pytest.raises(SiteError, match=r"none of 'heads' is computed before 0.0.q"):
        interp.path_patch(model, pairs, senders="heads", receivers="0.0.q")
    with pytest.raises(SiteError, match=r"'logits' cannot be patched together.*two path patches"):
        interp.path_patch(model, pairs, senders="heads", receivers=["logits", "1.0.q"])
    with pytest.raises(SiteError, match=r"'1\.resid_pre' cannot receive.*'23\.3\.q'.*'logits'"):
        interp.path_patch(model, pairs, senders="0.0", receivers="1.resid_pre")
    with pytest.raises(SiteError, match=r"the path 1\.0\.q -> 0\.mlp does not exist"):
        interp.path_patch(model, pairs, senders="0.0", via=["1.0.q"], receivers="0.mlp")
    with pytest.raises(SiteError, match=r"'0\.resid_post' cannot send.*'embed'"):
        interp.path_patch(model, pairs, senders="layers")
    with pytest.raises(PositionError, match=r"'s2'; known: 'end', 'mid', 'late'"):
        interp.path_patch(model, pairs, senders="heads", receivers="1.0.q", receiver_positions="s2")


def test_unknown_words(tiny_model, pairs):
    with pytest.raises(ArgumentError, match=r"through='heads'; .*'direct'"):
        Hop("logits", through="heads")
    with pytest.raises(ArgumentError, match=r"'denoised'; did you mean 'denoise'"):
        interp.patch(tiny_model("gpt2"), pairs, "heads", direction="denoised")
