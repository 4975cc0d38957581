"""Sweeps over SmolLM2-135M: interp against TransformerLens, one forward a cell.

Both sides get the same bridge, prompts and metric in one process. The peer is what its users write
(benchmarks/peers.py); where TransformerLens refuses it is our own hooks engine. It is timed on a
sample of cells spread over the layers and scaled to all of them; ours is the whole call, traces
and table included.

    python benchmarks/sweeps.py --json benchmarks/sweeps.json
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro
from peers import RECEIVER, Peer, pairs_of_length, spread
from torch import Tensor, nn
from tqdm import tqdm

import interp
from interp.core.parts.edges import edges as all_edges
from interp.engine.engines.choose import weights_of
from interp.engine.plan.batches import Plan
from interp.models.now.watch import Watch

KEY = "23.kv1.k"
"""The key that the heads of the receiver's group share."""


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    model: str = "smollm2-135m"
    prompts: int = 16
    threads: int = 2
    sample: int = 10
    """Cells on which the peer is timed."""
    repeats: int = 1
    only: tuple[str, ...] = ()
    """Cases to run; all by default."""


@dataclass(frozen=True)
class Row:
    """One line of the table. Efficiency: planned FLOPs over seconds x the matmul peak."""

    case: str
    ours_s: float
    peer_s: float
    ratio: float
    max_abs_diff: float
    cells: int
    peer_cells: int
    gflop: float
    efficiency: float


@dataclass(frozen=True)
class Case:
    """A sweep of ours, and the peer's answer for one of its cells."""

    name: str
    call: Callable[..., interp.Results]
    peer: Callable[[tuple[str, str]], Tensor]
    share: float = 1.0
    """The part of the cells that ours runs; both times are scaled to all of them."""


def cases(model: interp.Model, pairs: interp.Pairs) -> Iterator[Case]:
    peer, site = Peer.cached(model, pairs), interp.Site.parse
    call = {"model": model, "pairs": pairs}
    yield Case(
        "ablate",
        partial(interp.ablate, **call, sites="heads", method="zero"),
        lambda cell: peer.ablate(site(cell[0]), at=slice(None)),
    )
    yield Case(
        "ablate-end",
        partial(interp.ablate, **call, sites="heads", method="zero", positions="end"),
        lambda cell: peer.ablate(site(cell[0]), at=slice(-1, None)),
    )
    yield Case(
        "path-logits",
        partial(interp.path_patch, **call, senders="heads", receivers="logits"),
        lambda cell: peer.path_logits(site(cell[0])),
    )
    yield Case(
        "path-q-end",
        partial(
            interp.path_patch,
            **call,
            senders="heads",
            receivers=RECEIVER,
            receiver_positions="end",
        ),
        lambda cell: peer.path_query(site(cell[0])),
    )
    heads = range(model.facts.n_heads)
    layers = spread(range(model.facts.n_layers), 6)
    yield Case(
        "patch-grid",
        partial(
            interp.patch,
            **call,
            sites=[f"{layer}.{head}" for layer in layers for head in heads],
            positions="each",
            direction="denoise",
        ),
        lambda cell: peer.grid(site(cell[0]), int(cell[1])),
        share=len(layers) / model.facts.n_layers,
    )


def values_of(results: interp.Results) -> Tensor:
    """Of one cell."""
    return torch.tensor(results.frame["value"].to_numpy())


@torch.inference_mode()
def measure(case: Case, options: Options, peak: float) -> Row:
    """Time our whole sweep and a sample of the peer's cells, and compare the numbers."""
    plan: Plan = interp.explain(case.call)
    times, results = [], None
    for _ in range(options.repeats):
        start = time.perf_counter()
        results = case.call()
        times.append(time.perf_counter() - start)
    assert results is not None
    values = results.frame.pivot(index=["site", "position"], columns="example", values="value")
    cells = list(results.frame.groupby(["site", "position"], sort=False).groups)
    chosen = spread(cells, options.sample)
    case.peer(chosen[0])
    peer_times, difference = [], 0.0
    for cell in tqdm(chosen, desc=f"{case.name}: peer", disable=None):
        start = time.perf_counter()
        found = case.peer(cell)
        peer_times.append(time.perf_counter() - start)
        expected = torch.tensor(values.loc[cell].to_numpy())
        difference = max(difference, (found - expected).abs().max().item())
    ours = statistics.median(times)
    peer = statistics.median(peer_times) * len(cells)
    return Row(
        case.name,
        ours / case.share,
        peer / case.share,
        peer / ours,
        difference,
        round(len(cells) / case.share),
        len(chosen),
        plan.flops / 1e9 / case.share,
        plan.flops / ours / peak,
    )


def beside_hooks(
    name: str,
    whole: Callable[..., interp.Results],
    some: Callable[..., interp.Results],
    one: Callable[..., interp.Results],
    cells: tuple[int, int],
    options: Options,
    peak: float,
) -> Row:
    """Against our own hooks engine, where nobody else answers.

    Its time for `some` less its time for `one` is what the others of some took: traces, the null
    control and the table are counted once. `cells`: how many there are in all, and in some.
    """
    plan = interp.explain(whole)
    times = [timed(whole)[0] for _ in range(options.repeats)]
    fixed, _ = timed(partial(one, engine="hooks"))
    took, by_hooks = timed(partial(some, engine="hooks"))
    each = (took - fixed) / (cells[1] - 1)
    difference = (values_of(by_hooks) - values_of(some())).abs().max().item()
    ours, peer = statistics.median(times), fixed + each * (cells[0] - 1)
    return Row(
        *(name, ours, peer, peer / ours, difference, *cells),
        plan.flops / 1e9,
        plan.flops / ours / peak,
    )


def timed(call: Callable[[], interp.Results]) -> tuple[float, interp.Results]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def path_key(model: interp.Model, pairs: interp.Pairs, options: Options, peak: float) -> Row:
    """Each earlier head into the key of a late group, at all positions."""
    call = partial(interp.path_patch, model, pairs, receivers=KEY)
    layers = interp.Site.parse(KEY).layer or 0
    senders = [f"{layer}.{head}" for layer in range(layers) for head in range(model.facts.n_heads)]
    some = spread(senders, options.sample)
    return beside_hooks(
        "path-k",
        partial(call, senders="heads"),
        partial(call, senders=some),
        partial(call, senders=some[:1]),
        (len(senders), len(some)),
        options,
        peak,
    )


def edges(model: interp.Model, pairs: interp.Pairs, options: Options, peak: float) -> Row:
    """One run with a random half of all edges; the hooks take one forward for each reader."""
    found = list(all_edges("edges", model.facts))
    half = np.random.default_rng(0).permutation(len(found))[: len(found) // 2]
    chosen = [found[i] for i in sorted(half)]
    readers = sorted({edge.reader for edge in chosen})
    some = spread(readers, options.sample)
    part = [edge for edge in chosen if edge.reader in some]
    print(f"edges: {len(chosen)} of {len(found)} edges into {len(readers)} readers")
    patch = partial(interp.patch, model, pairs, direction="noise")
    return beside_hooks(
        "edges",
        partial(patch, sites={"half": chosen}),
        partial(patch, sites={"some": part}),
        partial(patch, sites={"one": part[:1]}),
        (len(readers), len(some)),
        options,
        peak,
    )


def matmul_peak() -> float:
    """FLOP/s of large float32 products: the median of ten."""
    a, b = torch.randn(2, 2048, 2048)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2048**3 / statistics.median(times)


def memory(model: interp.Model) -> None:
    """What the replay copy of the weights costs."""
    process = psutil.Process()
    before = process.memory_info().rss
    weights = weights_of(model)
    after = process.memory_info().rss
    print(f"resident memory {before / 1e6:.0f} MB, with replay's weights {after / 1e6:.0f} MB")
    assert weights.blocks


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = "| case | ours (s) | peer (s, scaled) | ratio | largest difference | efficiency |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{r.case}` | {r.ours_s:.2f} | {r.peer_s:.1f} ({r.peer_cells} of {r.cells} cells) "
        f"| {r.ratio:.1f} | {r.max_abs_diff:.1e} | {r.efficiency:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def stamps(model: interp.Model) -> None:
    """What it costs, at each call, to see that a model is as it was."""
    many = nn.ModuleList(nn.Linear(2, 2) for _ in range(1000))
    watch = Watch(many, many)
    tensors = len([*model.bridge.parameters()])
    for what, look in (
        (f"stamp of {tensors} parameters of {model.name}", model.now),
        ("stamp of 2,000 parameters", watch.stamp),
        ("sample of 2,000 parameters", watch.sample),
    ):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            look()
            times.append(time.perf_counter() - start)
        print(f"the {what}: {1000 * statistics.median(times):.2f} ms")


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
    pairs = pairs_of_length(model, options.prompts)
    peak = matmul_peak()
    print(f"{len(pairs)} prompts of {int(pairs.lengths[0])} tokens, {options.threads} threads")
    print(f"matrix products at {peak / 1e9:.0f} GFLOP/s")
    rows = []
    for case in cases(model, pairs):
        if not options.only or case.name in options.only:
            rows.append(measure(case, options, peak))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    for name, run in (("path-k", path_key), ("edges", edges)):
        if not options.only or name in options.only:
            rows.append(run(model, pairs, options, peak))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else []
        new = {row.case: asdict(row) for row in rows}
        kept = [new.pop(row["case"], row) for row in known]
        options.json.write_text(json.dumps([*kept, *new.values()], indent=1) + "\n")
        print(f"wrote {options.json}")
    memory(model)
    stamps(model)


if __name__ == "__main__":
    main(tyro.cli(Options))
