"""The case `pos`: UPOS of UD EWT read off the residual stream, 60,000 training words.

The layer is chosen on the development documents, of a big model among the embedding and every
other layer of the middle (experiments/pos has them all). A causal model sees no word to the
right, which decides many tags ("that", "have"); so beside the probe of the word's own position
stands one that reads the next word's position too. The bidirectional model has both as well. The
causal model has no BOS token, so words that begin a row are attention sinks and left out.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import interp
from interp.datasets import corpus
from interp.models import untrained
from interp.probing.ask.tagging import Split, tagging
from interp.probing.read.collect import collect

WORDS = {"train": 60_000, "dev": 8_000, "test": 30_000}


def measure(name: str) -> dict[str, Any]:
    """Accuracy of the best layer, with its interval and baselines."""
    model = interp.load(name)
    control = untrained(model)
    context = 256 if model.facts.causal else None
    layers = range(model.facts.n_layers)
    middle = layers[7:20:2] or layers
    sites = ["0.resid_pre", *(f"{layer}.resid_post" for layer in middle)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as kept:
        splits = {}
        for split, size in WORDS.items():
            text = corpus("ud-ewt", split=split).sample(size)
            found = [
                collect(
                    m,
                    text,
                    sites=sites if m is model else sites[:1],
                    context=context,
                    folder=Path(kept, f"{split}-{i}"),
                )
                for i, m in enumerate((model, control))
            ]
            words = Split.of(text, *found, "upos")
            splits[split] = words.after_first() if model.facts.causal else words
        scores = {
            ahead: tagging(*splits.values(), task="upos", rare="drop", l2=(0.003,), ahead=ahead)
            for ahead in (0, 1)
        }
    row: dict[str, Any] = {"case": f"pos {name}", "ours_s": time.perf_counter() - start}
    for ahead, found in scores.items():
        chosen = found.dev.query("model == 'trained' and labels == 'real'").best()["site"]
        table = found.scores.summary()
        at = table.query(f"site == '{chosen}' and model == 'trained' and labels == 'real'")
        for subset, part in at.set_index("subset").iterrows():
            row[f"{subset}, ahead {ahead}"] = [chosen, part["value"], part["low"], part["high"]]
        for subset in ("all", "unseen"):
            level = table.query(f"probe == 'word type' and subset == '{subset}'")["value"]
            row[f"word type, {subset}"] = float(level.iloc[0])
    return row
