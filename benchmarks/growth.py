"""How time grows with the prompt's length and with their number, and memory with the length.

Time: zero-ablating heads at END and at every position, on a sample of heads that both run, ours and
TransformerLens. Ours never grows faster than the peer. Memory: what calls hold beside the weights
with one pair of prompts (`benchmarks/long.py`), and MB a further 1,000 tokens.

    python benchmarks/growth.py --json benchmarks/growth.json --figure docs/growth.pdf
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import seaborn as sns
import torch
import tyro
from long import grown
from peers import Peer, random_pairs, spread
from tqdm import tqdm

import interp
from interp.figures.drawing.style import context


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    figure: Path | None = None
    model: str = "smollm2-135m"
    threads: int = 2
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    prompts: tuple[int, ...] = (8, 32, 128)
    memory: tuple[int, ...] = (64, 256, 1024, 2048, 4096)
    """Lengths at which memory is measured; none is none."""
    heads: int = 9
    """Heads that ours ablates, spread over the layers; the peer runs a third of them."""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def points(model: interp.Model, options: Options) -> Iterator[dict]:
    """Seconds a head, of each side, at each length (8 prompts) and number (of 16 tokens)."""
    facts = model.facts
    every = [f"{layer}.{head}" for layer in range(facts.n_layers) for head in range(facts.n_heads)]
    heads = spread(every, options.heads)
    some = [interp.Site.parse(head) for head in heads[1::3]]
    sizes = [("tokens", n, 8) for n in options.lengths] + [
        ("prompts", 16, n) for n in options.prompts
    ]
    for axis, tokens, prompts in tqdm(sizes, desc="growth", disable=None):
        pairs = random_pairs(model, prompts, tokens)
        peer = Peer(model, pairs, {}, {})
        for positions, at in (("all", slice(None)), ("end", slice(-1, None))):

            def ours(chosen: list, positions: str = positions, pairs: interp.Pairs = pairs) -> None:
                interp.ablate(model, pairs, chosen, method="zero", positions=positions)

            def theirs(at: slice = at, peer: Peer = peer) -> None:
                for site in some:
                    peer.ablate(site, at=at)

            seconds = {"interp": timed(lambda: ours(heads)) / len(heads)}
            seconds["TransformerLens"] = timed(theirs) / len(some)
            for side, found in seconds.items():
                yield {
                    "axis": axis,
                    "size": tokens if axis == "tokens" else prompts,
                    "positions": positions,
                    "side": side,
                    "seconds a head": found,
                }


def draw(table: pd.DataFrame) -> sns.FacetGrid:
    """Log-log: parallel lines grow alike, a flatter one grows more slowly."""
    words = {"all": "at all positions", "end": "at END"}
    table = table.assign(positions=table["positions"].map(words))
    with context():
        grid = sns.relplot(
            table,
            x="size",
            y="seconds a head",
            hue="side",
            style="positions",
            col="axis",
            kind="line",
            markers=True,
            height=2.6,
            aspect=1.0,
            facet_kws={"sharex": False},
        )
        grid.set(xscale="log", yscale="log")
        for axis, name in zip(grid.axes.flat, grid.col_names, strict=True):
            sizes = sorted(table.loc[table["axis"] == name, "size"].unique())
            axis.set_xticks(sizes, labels=[str(n) for n in sizes])
            axis.minorticks_off()
            axis.set_title("8 prompts" if name == "tokens" else "16 tokens")
            axis.set_xlabel("tokens in a prompt" if name == "tokens" else "prompts")
    return grid


@torch.inference_mode()
def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
    warm = random_pairs(model, 8, 16)
    interp.ablate(model, warm, "0.0", method="zero")
    table = pd.DataFrame(points(model, options))
    wide = table.pivot(index=["axis", "size", "positions"], columns="side", values="seconds a head")
    wide["ratio"] = wide["TransformerLens"] / wide["interp"]
    print(wide.round(4).to_string())
    ends = wide.groupby(["axis", "positions"])[["interp", "TransformerLens"]]
    print("\ntimes from the smallest size to the largest")
    print((ends.last() / ends.first()).round(1).to_string())
    held = [*grown(model, options.memory)] if options.memory else []
    if held:
        sizes = pd.DataFrame(held).pivot(index="call", columns="size", values="tensors MB")
        first, last = sizes.columns[-2:]
        sizes["a further 1,000"] = (sizes[last] - sizes[first]) / (last - first) * 1000
        print("\nMB of tensors beside the weights, one pair of prompts")
        print(sizes.round(0).to_string())
    if options.json:
        records = [*table.to_dict("records"), *held]
        options.json.write_text(json.dumps(records, indent=1) + "\n")
    if options.figure:
        grid = draw(table)
        for suffix in (".pdf", ".png"):
            grid.savefig(options.figure.with_suffix(suffix), dpi=200)


if __name__ == "__main__":
    main(tyro.cli(Options))
