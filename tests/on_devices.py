"""Public calls on the processor and on a device that is pretended; run in a process of its own.

    python tests/on_devices.py OUT.json

writes, of each call, the largest difference of its numbers from the processor's, or the error, with
the model on one device and shared out over two; and what three sweeps of a model of SmolLM2's depth
launch.
"""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pretended  # first: it stands in for inference_mode
import tiny
import torch
import transformers

import interp
from interp.causal import Comparison, attribute, exact, knock_out
from interp.circuits import acdc, faithfulness, fit_optimal, run_circuits
from interp.circuits.discovery.acdc import Discovered
from interp.circuits.proof.faithfulness import Faithfulness
from interp.circuits.proof.optimal import Fit
from interp.core.parts.circuit import Circuit
from interp.engine.interventions import Add, Erase, Scale
from interp.heads import (
    composition,
    copying_scores,
    detect,
    direct_logit_attribution,
    logit_lens,
    offset_curve,
    qk_tokens,
)
from interp.heads.types.detectors import DETECTORS

SHARED = {
    **dict.fromkeys(["model.embed_tokens", "model.rotary_emb", "model.layers.0"], "cuda:0"),
    **dict.fromkeys(["model.layers.1", "model.layers.2", "model.norm", "lm_head"], 1),
}
"""The tiny model's parts on two devices."""
SMOLLM2 = tiny.LLAMA | {
    "hidden_size": 18,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 2,
    "num_hidden_layers": 30,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
"""As many layers and heads as SmolLM2, and next to no width: what is launched is the same."""


def saved(folder: Path, hf: transformers.PreTrainedModel) -> Path:
    hf.to(torch.float64).save_pretrained(folder)
    tiny.word_tokenizer(adds_bos=False).save_pretrained(folder)
    return folder


def prompts(n: int, length: int, *, seed: int = 0) -> interp.Pairs:
    generator = torch.Generator().manual_seed(seed)

    def rows() -> list[list[int]]:
        return torch.randint(1, tiny.VOCAB, (n, length), generator=generator).tolist()

    return interp.Pairs.from_tokens(
        clean=rows(),
        corrupt=rows(),
        correct=[1 + i % 7 for i in range(n)],
        wrong=[8 + i % 5 for i in range(n)],
        positions={"mid": [1 + i % 3 for i in range(n)]},
        template=["a", "b"] * (n // 2),
    )


def calls(model: interp.Model, pairs: interp.Pairs) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Of each public call that runs a model one, by name."""
    width = model.facts.d_model
    eye = torch.eye(width)
    mean = interp.MeanReference
    yield "evaluate", lambda: interp.evaluate(model, pairs, metric=["logit_diff", "kl"])
    for method in ("zero", "mean", "resample"):
        yield f"ablate {method}", lambda m=method: interp.ablate(model, pairs, "heads", method=m)
    yield "ablate end", lambda: interp.ablate(model, pairs, "heads", positions="end")
    yield "ablate neurons", lambda: interp.ablate(model, pairs, ["1.mlp[3]", "0.mlp[2]"])
    yield "ablate edge", lambda: interp.ablate(model, pairs, ["0.1 -> 2.3.q", "0.mlp -> logits"])
    yield "ablate hooks", lambda: interp.ablate(model, pairs, ["1.2"], engine="hooks")
    yield "patch", lambda: interp.patch(model, pairs, "heads", positions="each")
    yield "patch kinds", lambda: interp.patch(model, pairs, ["1.2.pattern", "1.2.q", "1.1.v"])
    yield "patch logits of all", lambda: interp.patch(model, pairs, ["1.2"], metric="kl")
    yield (
        "path to logits",
        lambda: interp.path_patch(model, pairs, senders="heads", receivers="logits"),
    )
    yield (
        "path to a query",
        lambda: interp.path_patch(
            model,
            pairs,
            senders=["0.1", "0.2"],
            receivers="2.3.q",
            through="all",
            receiver_positions="end",
        ),
    )
    at = interp.interventions.Intervention
    cells = {
        "add": [at("1.resid_post", Add(torch.ones(width)), "mid")],
        "scale": [at("1.2", Scale(2.0))],
        "erase": [at("0.resid_post", Erase(eye[:, :2], eye[:2], torch.zeros(width)))],
    }
    yield "intervene", lambda: interp.intervene(model, pairs, cells)
    yield "compare", lambda: interp.compare(model, model, lambda m: interp.patch(m, pairs, "heads"))
    yield "capture", lambda: interp.capture(model, pairs, ["1.resid_post", "1.2", "0.1.pattern"])
    yield "capture logits", lambda: interp.capture(model, pairs, "logits", positions="end")
    said = {
        "add": [at("1.resid_post", Add(torch.ones(width)), "from mid")],
        "key": [at("1.1.k", Scale(2.0), "generated"), at("0.mlp", Scale(0.5), "prompt")],
        "edge": [at("0.1", Scale(3.0), "all", readers=("2.3.k", "2.mlp", "logits"))],
    }
    for name, how in {
        "greedily": {"by_step": "kl"},
        "by draws": {"temperature": 1.0, "top_p": 0.9},
        "by beams": {"beams": 2},
    }.items():
        yield (
            f"generate {name}",
            lambda how=how: interp.generate(model, pairs, said, n=3, stop=[], **how),
        )
    few = {"add": said["add"]}
    yield "generate hooks", lambda: interp.generate(model, pairs, few, n=2, engine="hooks")
    yield "means", lambda: mean.fit(model, pairs, ["1.2", "0.resid_post"], side="corrupt")
    yield "exact edges", lambda: exact(model, pairs, "edges")
    yield "acdc", lambda: acdc(model, pairs, threshold=1e-5)
    parts = ["embed -> 1.2.q", "1.2 -> 2.mlp", "2.mlp -> logits"]
    some = Circuit.of(parts, model=model.weight_hash)
    best = replace(some, ablation="optimal")
    yield "circuits", lambda: run_circuits(model, pairs, {"some": some})
    yield "knock out", lambda: knock_out(model, pairs, {"two": ["1.2", "0.1"]}, draws=3)
    yield "logit lens", lambda: logit_lens(model, pairs)
    yield "attention", lambda: interp.attention(model, pairs)
    yield "detect", lambda: detect(model, pairs, detectors=DETECTORS[:1], null="sources")
    for method in ("eap", "eap-ig-activations", "atp*"):
        yield f"attribute {method}", lambda m=method: attribute(model, pairs, method=m, steps=2)
    yield "attribute nodes", lambda: attribute(model, pairs, "nodes", positions="mid")
    yield "faithfulness", lambda: faithfulness(model, pairs, {"some": some})
    yield "optimal constants", lambda: fit_optimal(model, pairs, best, steps=2)
    yield "direct attribution", lambda: direct_logit_attribution(model, pairs)
    yield "composition", lambda: composition(model)
    yield "copying", lambda: copying_scores(model)
    yield "scores by offset", lambda: offset_curve(model, ["1.2"], contents=[3, 4, 5])
    yield "tokens of a head", lambda: qk_tokens(model, "1.2", query=3)


def numbers(found: Any) -> np.ndarray:
    """All the numbers of a result."""
    if isinstance(found, Faithfulness):
        found = found.runs
    if isinstance(found, Comparison):
        found = found.absolute
    if isinstance(found, Discovered):
        found = found.ranking
    if isinstance(found, Fit):
        held = found.constants
        return torch.cat([held.embed, held.z.flatten(), held.mlp_out.flatten()]).numpy(force=True)
    if isinstance(found, interp.Captured):
        return np.concatenate([found[site].double().numpy().ravel() for site in found])
    if isinstance(found, interp.MeanReference):
        held = [mean for means in found.means.values() for mean in means.values()]
        return torch.cat([mean.double().flatten() for mean in held]).numpy()
    return found.frame.select_dtypes("number").to_numpy(dtype=float)


def here(folder: Path) -> dict[str, np.ndarray]:
    """The processor's numbers."""
    model = interp.load(folder, dtype=torch.float64)
    return {name: numbers(call()) for name, call in calls(model, prompts(4, 7))}


def compared(folder: Path, here: dict[str, np.ndarray], **where: Any) -> dict[str, float | str]:
    """Of each call the largest difference from the processor's numbers, as a share of the largest,
    or why there is none.
    """
    told: dict[str, float | str] = {}
    with pretended.pretend(2):
        model = interp.load(folder, dtype=torch.float64, **where)
        places = {str(p.device) for p in model.bridge.parameters()}
        assert places == ({where["device"]} if "device" in where else {"cuda:0", "cuda:1"})
        assert {*interp.explain(interp.evaluate, model, prompts(4, 7)).bytes} == places
        for name, call in calls(model, prompts(4, 7)):
            try:
                there = numbers(call())
                gap = np.nanmax(np.abs(there - here[name]))
                told[name] = float(gap / np.nanmax(np.abs(here[name])))
            except Exception as error:
                told[name] = f"{type(error).__name__}: {error}"
    return told


def counted(folder: Path) -> dict[str, dict[str, Any]]:
    """What three sweeps over 270 heads launch and wait for, of 16 prompts of 19 tokens, and what
    their plans say of that.
    """
    with pretended.pretend() as seen:
        model = interp.load(folder, device="cuda:0")
        interp.evaluate(model, prompts(16, 19))  # which verifies the engine
        sweeps = {
            "ablate": partial(interp.ablate, sites="heads", method="zero"),
            "ablate-end": partial(interp.ablate, sites="heads", method="zero", positions="end"),
            "path-logits": partial(interp.path_patch, senders="heads", receivers="logits"),
        }
        told = {}
        for seed, (name, sweep) in enumerate(sweeps.items(), 1):
            pairs = prompts(16, 19, seed=seed)  # which Hugging Face's model has not run yet
            plan = interp.explain(sweep.func, model, pairs, **sweep.keywords)
            launched, waits = seen.launched, seen.waits.total()
            with spelt_out(seen) as more:
                sweep(model, pairs)
            told[name] = {
                "launched": seen.launched - launched,
                "spelt": sum(more),
                "waits": seen.waits.total() - waits,
                "predicted": plan.launches,
                "waits predicted": plan.waits,
            }
    return told


@contextmanager
def spelt_out(seen: pretended.Seen) -> Iterator[list[int]]:
    """Of each norm inside of the block, how many operations it is more than the one of a GPU."""
    own, more = torch.nn.functional.rms_norm, list[int]()

    def norm(*args: Any, **kwargs: Any) -> torch.Tensor:
        before = seen.launched
        made = own(*args, **kwargs)
        more.append(max(0, seen.launched - before - 1))
        return made

    torch.nn.functional.rms_norm = norm
    try:
        yield more
    finally:
        torch.nn.functional.rms_norm = own


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        make, config = transformers.LlamaForCausalLM, transformers.LlamaConfig
        small = saved(Path(name) / "small", make(config(**tiny.LLAMA)))
        deep = saved(Path(name) / "deep", make(config(**SMOLLM2)))
        right = here(small)
        told = {
            "compared": compared(small, right, device="cuda:1"),
            "shared out": compared(small, right, device_map=SHARED),
            "counted": counted(deep),
        }
    Path(sys.argv[1]).write_text(json.dumps(told, indent=1))
