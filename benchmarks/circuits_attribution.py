"""The cases `eap` and `eap-ig`: attribution of all edges, its cost and what it finds.

`eap`: ours is the whole call, of IOI prompts of two or more lengths; a plain forward and backward
is Hugging Face's own on the same rows, logits and all, back to the embeddings (the weights need no
gradient in either). Both are timed in turns, and medians compared. The peer is TransformerLens'
`attribution_patch` on a small random GPT-2 of 12 layers with 12 heads: it takes one pair at a time
and its gradients on the second run, so ours is given the pairs the other way round.

`eap-ig`: attribution on one half of the templates, faithfulness of nested circuits on the other,
for several halves; CMD of EAP, of EAP-IG and of random rankings, with the band of these.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import capture
import numpy as np
import torch
from transformer_lens.tools.analysis import EdgeAttributionConfig, attribution_patch
from transformer_lens.tools.analysis.attribution_patching import Node
from transformers import GPT2Config, GPT2LMHeadModel

import interp
from interp.causal.ranking.attribution import attribute
from interp.circuits.proof.curves import faithfulness_curve

SMALL = GPT2Config(n_layer=12, n_head=12, n_embd=96, vocab_size=101, n_positions=32)
POS = 15


def eap(
    name: str, *, threads: int, repeats: int, prompts: int = 16, peers: int = 4
) -> dict[str, Any]:
    """Cost of EAP in plain forwards and backwards, its memory, and TransformerLens beside it.

    Args:
        peers: pairs of the small model.
    """
    torch.set_num_threads(threads)
    model = interp.load(name, device="cpu")
    pairs = interp.datasets.ioi(model, n=prompts, seed=0)
    _ = model.weight_hash  # taken once for a model, with whatever is measured first
    calls = {"ours": lambda: attribute(model, pairs), "plain": lambda: _plain(model, pairs)}
    ours, plain = _medians(calls, repeats)
    found = attribute(model, pairs)
    return {
        "case": "eap",
        "model": name,
        "prompts": prompts,
        "edges": len(found),
        "ours_s": ours,
        "forward_backward_s": plain,
        "forwards_and_backwards": ours / plain,
        "peak_mb": capture.peak_bytes(lambda: attribute(model, pairs)) / 1e6,
        "peak_mb_of_a_quarter": capture.peak_bytes(
            lambda: attribute(model, pairs, memory=_quarter(model, pairs))
        )
        / 1e6,
        "memory_of_a_quarter_mb": _quarter(model, pairs) / 1e6,
        **_beside_transformer_lens(peers, repeats),
    }


def _quarter(model: interp.Model, pairs: interp.Pairs) -> int:
    """Bytes in which a quarter of the prompts fit, as the refusal of one counts them."""
    try:
        attribute(model, pairs, memory=1)
    except interp.InterpError as refusal:
        least = str(refusal).split("Give memory=")[1].split()[0]
        return int(least) * len(pairs) // 4
    raise AssertionError("a single byte holds no prompt")


def _medians(calls: dict[str, Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each call, in turns, so that all meet the same machine."""
    times: dict[str, list[float]] = {call: [] for call in calls}
    for repeat in range(repeats + 1):
        for call, run in calls.items():
            start = time.perf_counter()
            run()
            if repeat:  # the first warms up: engines are verified, pages are read
                times[call].append(time.perf_counter() - start)
    return [statistics.median(times[call]) for call in calls]


def _plain(model: interp.Model, pairs: interp.Pairs) -> None:
    """One forward and backward of every row, rows of one length together."""
    module = model.bridge.original_model
    for length in sorted(set(pairs.lengths.tolist())):
        rows = (pairs.lengths == length).nonzero().flatten()
        ids = pairs.clean[rows, :length]
        embedded = module.get_input_embeddings()(ids).detach().requires_grad_()
        last = module(inputs_embeds=embedded, use_cache=False).logits[:, -1]
        right, wrong = (last.gather(1, of[rows, None]) for of in (pairs.correct, pairs.wrong))
        (right - wrong).sum().backward()


def _beside_transformer_lens(peers: int, repeats: int) -> dict[str, Any]:
    """The small model's scores by both, and seconds of both."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        GPT2LMHeadModel(SMALL).eval().save_pretrained(folder)
        model = interp.load(folder, device="cpu")
    ids = torch.randint(SMALL.vocab_size, (2, peers, POS))
    answers = torch.randint(SMALL.vocab_size, (2, peers)).tolist()
    pairs = interp.Pairs.from_tokens(
        clean=ids[1], corrupt=ids[0], correct=answers[0], wrong=answers[1]
    )
    found: dict[str, float] = {}

    def theirs() -> None:
        found.clear()
        for row in range(peers):
            right, wrong = int(pairs.correct[row]), int(pairs.wrong[row])
            scores = attribution_patch(
                model.bridge,
                ids[0][row : row + 1],
                ids[1][row : row + 1],
                lambda x, right=right, wrong=wrong: x[0, -1, right] - x[0, -1, wrong],
                EdgeAttributionConfig(granularity="edge"),
            ).edge_scores
            assert scores is not None
            for (writer, reader), score in scores.items():
                edge = f"{_name(writer)} -> {_name(reader)}"
                found[edge] = found.get(edge, 0.0) + score / peers

    model.bridge.requires_grad_(True)  # theirs needs a graph from the weights on
    peer_s = _medians({"theirs": theirs}, repeats)[0]
    model.bridge.requires_grad_(False)
    ours_s = _medians({"ours": lambda: attribute(model, pairs)}, repeats)[0]
    table = attribute(model, pairs)
    expected = np.array([found[edge] for edge in table.frame["site"]])
    assert len(found) == len(table)
    return {
        "small_prompts": peers,
        "small_edges": len(table),
        "small_ours_s": ours_s,
        "peer_s": peer_s,
        "ratio": peer_s / ours_s,
        "largest_difference": float(np.abs(table.scores - expected).max()),
        "largest_score": float(np.abs(expected).max()),
    }


def _name(node: Node) -> str:
    """One of TransformerLens' nodes as a site of ours; its positions are summed over."""
    match node.kind:
        case "embed" | "logits":
            return node.kind
        case "attn_head_out":
            return f"{node.layer}.{node.head}"
        case "q_input":
            return f"{node.layer}.{node.head}.q"
        case "k_input" | "v_input":
            return f"{node.layer}.kv{node.head}.{node.kind[0]}"
        case _:
            return f"{node.layer}.mlp"


def eap_ig(
    name: str, *, threads: int, prompts: int = 64, steps: int = 5, splits: int = 4, random: int = 4
) -> dict[str, Any]:
    """CMD of EAP, EAP-IG and random rankings on IOI, proved on other templates than chosen on.

    Which templates fall into which half matters, so there are several splits, each with random
    rankings of its own.
    """
    torch.set_num_threads(threads)
    model = interp.load(name, device="cpu")
    pairs = interp.datasets.ioi(model, n=prompts, seed=0)
    took = {"eap": 0.0, "eap-ig": 0.0}
    found = []
    for seed in range(splits):
        chosen, proved = pairs.split(seed=seed)
        rankings = {}
        for label, method in (("eap", "eap"), ("eap-ig", "eap-ig-inputs")):
            start = time.perf_counter()
            rankings[label] = attribute(model, chosen, method=method, steps=steps)
            took[label] += time.perf_counter() - start
        areas = faithfulness_curve(model, proved, rankings, random=random, seed=seed).areas()
        found.append(areas[areas["measure"] == "CMD"].set_index("method"))
    each = {label: [float(areas.loc[label, "value"]) for areas in found] for label in took}
    band = [(areas.loc["random", "low"], areas.loc["random", "high"]) for areas in found]
    return {
        "case": "eap-ig",
        "model": name,
        "prompts": prompts,
        "steps": steps,
        "ours_s": took["eap-ig"],
        "peer_s": took["eap"],
        "ratio": took["eap"] / took["eap-ig"],
        "cmd_eap": statistics.mean(each["eap"]),
        "cmd_eap-ig": statistics.mean(each["eap-ig"]),
        "cmd_eap_each": each["eap"],
        "cmd_eap-ig_each": each["eap-ig"],
        "cmd_random_low": float(min(low for low, _ in band)),
        "cmd_random_high": float(max(high for _, high in band)),
    }
