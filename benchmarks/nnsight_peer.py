"""Zero-ablating heads with nnsight, one trace each: an optional peer in an environment of its own.

nnsight pins packages that this project does not, so it is installed apart, and told where the
weights, the prompts and our time are:

    python benchmarks/nnsight_peer.py prepare --folder peer-data
    python -m venv peer && peer/bin/pip install nnsight torch==2.13.0 transformers
    peer/bin/python benchmarks/nnsight_peer.py run --folder peer-data

`prepare` needs interp, `run` needs nnsight alone. Both print seconds for each head.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch


def prepare(folder: Path, heads: int) -> None:
    """Write the prompts and how long ours took for all heads."""
    from peers import pairs_of_length

    import interp
    from interp.models.finding import shipped

    model = interp.load("smollm2-135m", device="cpu")
    pairs = pairs_of_length(model, 16)
    interp.ablate(model, pairs, "0.0", method="zero")
    start = time.perf_counter()
    found = interp.ablate(model, pairs, "heads", method="zero")
    seconds = time.perf_counter() - start
    values = found.frame.pivot(index="site", columns="example", values="value")
    folder.mkdir(parents=True, exist_ok=True)
    note = {
        "weights": str(shipped.folder("smollm2-135m")),
        "tokens": pairs.clean.tolist(),
        "correct": pairs.correct.tolist(),
        "wrong": pairs.wrong.tolist(),
        "seconds": seconds,
        "heads": len(values),
        "values": {site: row.tolist() for site, row in values.iterrows()},
        "sample": list(values.index[:: max(1, len(values) // heads)]),
    }
    (folder / "prepared.json").write_text(json.dumps(note))
    print(f"ours: {seconds:.1f} s for {len(values)} heads")


def run(folder: Path) -> None:
    """One trace for each head of the sample."""
    from nnsight import LanguageModel

    note = json.loads((folder / "prepared.json").read_text())
    model = LanguageModel(note["weights"], dispatch=True, dtype=torch.float32)
    tokens = torch.tensor(note["tokens"])
    rows, width = torch.arange(len(tokens)), model.config.head_dim
    times, difference = [], 0.0
    for site in [note["sample"][0], *note["sample"]]:
        layer, head = map(int, site.split("."))
        part = slice(head * width, (head + 1) * width)
        start = time.perf_counter()
        with torch.no_grad(), model.trace(tokens):
            model.model.layers[layer].self_attn.o_proj.input[:, :, part] = 0
            end = model.lm_head.output[:, -1].save()
        times.append(time.perf_counter() - start)
        found = end[rows, note["correct"]] - end[rows, note["wrong"]]
        difference = max(
            difference, (found - torch.tensor(note["values"][site])).abs().max().item()
        )
    peer = statistics.median(times[1:]) * note["heads"]
    row = {
        "case": "nnsight",
        "ours_s": note["seconds"],
        "peer_s": peer,
        "ratio": peer / note["seconds"],
        "max_abs_diff": difference,
        "cells": note["heads"],
        "peer_cells": len(times) - 1,
    }
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["prepare", "run"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--heads", type=int, default=10)
    given = parser.parse_args()
    if given.step == "prepare":
        torch.set_num_threads(2)
        prepare(given.folder, given.heads)
    else:
        torch.set_num_threads(2)
        run(given.folder)
