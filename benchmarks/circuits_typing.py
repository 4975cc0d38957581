"""The case `typing`: the types of all heads, against plain forwards and `detect_head`.

Ours is the whole call: the forward, eight detectors, entropy and copying with their nulls,
intervals, tests and the table. A plain forward is Hugging Face's own on the same tokens, logits and
all. Both are timed in turns, and medians compared.

TransformerLens' `head_detector.detect_head` takes strings, one prompt at a time, and has three
patterns and no null. It is timed on some prompts, as it would be called for all heads (a call for
each pattern), and for one head a call, on sampled heads; the times are scaled to all prompts, three
patterns and, of the latter, all heads. Its prompts are ours, decoded: text that is read back as
other tokens is cut to as many, so that its forwards are as long.
"""

import statistics
import time
from typing import Any

import numpy as np
import torch
from transformer_lens.head_detector import HEAD_NAMES, detect_head
from transformers import AutoModelForCausalLM

import interp
from interp.heads.types.head_types import head_types
from interp.heads.types.repeats import repeated_tokens
from interp.models.finding import shipped


@torch.inference_mode()
def measure(name: str, *, rows: int, threads: int, repeats: int, prompts: int) -> dict[str, Any]:
    """Seconds of ours, of plain forwards and of the peer.

    Args:
        prompts: how many the peer is timed on.
    """
    torch.set_num_threads(threads)
    model = interp.load(name, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(shipped.folder(name)).eval()
    tokens = repeated_tokens(model, rows)
    calls = {
        "ours": lambda: head_types(model, tokens),
        "plain": lambda: plain(tokens, use_cache=False).logits,
    }
    calls["ours"]()  # the engine is verified at its first call, the weights are hashed
    times: dict[str, list[float]] = {call: [] for call in calls}
    for _ in range(repeats):  # in turns, so that both meet the same machine
        for call, run in calls.items():
            start = time.perf_counter()
            run()
            times[call].append(time.perf_counter() - start)
    ours, forward = (statistics.median(times[call]) for call in ("ours", "plain"))
    texts = _texts(model, tokens[:prompts])
    heads = model.facts.n_layers * model.facts.n_heads
    together = _seconds(model, texts, None) * rows / prompts * len(HEAD_NAMES)
    sampled = [(layer, layer % model.facts.n_heads) for layer in (4, 14, 24)]
    each = [_seconds(model, texts[:1], [head]) for head in sampled]
    alone = statistics.median(each) * rows * len(HEAD_NAMES) * heads
    return {
        "case": "typing",
        "ours_s": ours,
        "plain_s": forward,
        "forwards": ours / forward,
        "peer_s": together,
        "ratio": together / ours,
        "peer_one_head_a_call_s": alone,
        "ratio_one_head_a_call": alone / ours,
        "tokens": list(tokens.shape),
    }


def _seconds(model: interp.Model, texts: list[str], heads: list[tuple[int, int]] | None) -> float:
    """One pattern on some prompts."""
    start = time.perf_counter()
    detect_head(model.bridge, texts, "induction_head", heads=heads)
    return time.perf_counter() - start


def _texts(model: interp.Model, tokens: torch.Tensor) -> list[str]:
    """Strings that TransformerLens reads as so many tokens."""
    texts = []
    for row in tokens.tolist():
        text = model.tokenizer.decode(row)
        ids = model.bridge.to_tokens(text)[0].tolist()
        while len(ids) > len(row):
            text = text[: -max(1, (len(ids) - len(row)) // 2)]
            ids = model.bridge.to_tokens(text)[0].tolist()
        texts.append(text)
    lengths = [model.bridge.to_tokens(text).shape[1] for text in texts]
    assert np.mean(lengths) > 0.9 * tokens.shape[1]
    return texts
