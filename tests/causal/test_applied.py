"""Interventions on a model that others run: Hugging Face's `generate`, TransformerLens' own."""

from collections.abc import Callable

import pytest
import torch
from conftest import hooks_on

import interp
from interp import Model
from interp.core.errors import InterpError, SiteError, Unsupported
from interp.engine.interventions import Add, Freeze, Intervention, Scale, Set, Zero

At = Intervention
IDS = torch.tensor([[3, 4, 5, 6, 2], [7, 8, 2, 3, 9]])
N = 5


def sets(model: Model) -> dict[str, list[Intervention]]:
    d = model.facts.d_model
    vector = 3 * torch.randn(d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "from end": [At("1.resid_post", Add(vector), "from end")],
        "generated": [At("0.mlp", Scale(-4.0), "generated")],
        "prompt": [At("1.1", Zero(), "prompt"), At("0.attn", Scale(3.0), 2)],
        "end": [At("0.resid_post", Set(vector), "end")],
        "all": [At("1.1.q", Scale(4.0)), At("1.mlp[3]", Scale(9.0), "after first")],
        "from 6": [At("2.resid_mid", Add(-vector), "from 6")],
    }


def on_module(model: Model) -> tuple[int, dict[str, int]]:
    hf = model.bridge.original_model
    return len(hf._forward_pre_hooks), hooks_on(model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2-window"])
def test_whatever_runs_the_model_says_what_generate_says(
    tiny_model: Callable[..., Model], family: str
) -> None:
    model = tiny_model(family)
    before = on_module(model)
    texts = interp.generate(model, IDS, sets(model), n=N, stop=[])
    for name, made in sets(model).items():
        rows = texts.frame[texts.frame["intervention"] == name]["tokens"]
        right = torch.tensor([*rows])
        with interp.applied(model, made), torch.no_grad():
            hf = model.bridge.original_model
            asked = {"max_new_tokens": N, "do_sample": False, "eos_token_id": None}
            asked |= {"attention_mask": torch.ones_like(IDS), "pad_token_id": 0}
            said = hf.generate(IDS, **asked)
            assert (said[:, IDS.shape[1] :] == right).all(), name
            if name in ("all", "from 6"):  # anew at each step the whole text is a prompt
                said = hf.generate(IDS, use_cache=False, **asked)
                assert (said[:, IDS.shape[1] :] == right).all(), name
            said = model.bridge.generate(
                IDS,
                max_new_tokens=N,
                do_sample=False,
                stop_at_eos=False,
                verbose=False,
                return_type="tokens",
            )
            assert (said[:, IDS.shape[1] :] == right).all(), name
        assert on_module(model) == before
    assert len({str([*part]) for _, part in texts.frame.groupby("intervention")["tokens"]}) > 3


def test_a_forward_is_that_of_the_engine(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("llama")
    made = sets(model)["from end"]
    plain = model.bridge(IDS)
    with interp.applied(model, made):
        changed = model.bridge(IDS)
        assert torch.equal(changed, model.bridge.original_model(IDS).logits)
    assert torch.equal(model.bridge(IDS), plain)
    texts = interp.generate(model, IDS, {"it": made}, n=1, stop=[])
    said = texts.frame[texts.frame["intervention"] == "it"]
    log_probs = changed[:, -1].log_softmax(-1)
    for row, (ids, found) in enumerate(zip(said["tokens"], said["log_prob"], strict=True)):
        assert log_probs[row, ids[0]].item() == pytest.approx(found, abs=1e-9)


def test_nothing_is_left_after_an_error(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("gpt2")
    before = on_module(model)
    with pytest.raises(ZeroDivisionError), interp.applied(model, sets(model)["all"]):
        model.bridge(IDS)
        assert on_module(model) != before
        _ = 1 / 0
    assert on_module(model) == before


def test_refusals(tiny_model: Callable[..., Model]) -> None:
    model = tiny_model("gpt2")
    for made, error, says in (
        ([], SiteError, "no interventions were given"),
        ([At("1.0.pattern", Zero())], Unsupported, "writes a pattern, which takes forwards of its"),
        ([At("1.0", Zero(), readers="2.mlp")], Unsupported, "is of single readers"),
        ([At("1.0", Freeze())], Unsupported, "takes its value from runs of other prompts"),
        ([At("1.0", Zero(), "mid")], Unsupported, "position mid is of pairs.*'from 3'"),
        ([At("1.0", Zero(), [[1], [2]])], Unsupported, "position per row is of pairs"),
        ([At("1.mlp", Add(torch.zeros(2, 12)))], SiteError, r"has shape \(2, 12\), and it takes"),
        ([At("9.mlp", Zero())], SiteError, "9.mlp"),
    ):
        with pytest.raises(error, match=says):
            interp.applied(model, made)
    with pytest.raises(Unsupported, match="transformers of one stack"):
        interp.applied(tiny_model("t5"), [At("enc.0.mlp", Zero())])
    with pytest.raises(InterpError, match="are padded"), interp.applied(model, sets(model)["all"]):
        model.bridge.original_model(IDS, attention_mask=torch.tensor([[0, 1, 1, 1, 1]] * 2))
