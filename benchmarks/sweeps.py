"""Sweeps over all heads of SmolLM2-135M: interp against TransformerLens, one forward a cell.

Both sides get the same bridge, prompts and metric in one process. The peer is what its users write:
`run_with_hooks` once for each cell (for a path into a query: once frozen, up to the receiver's
layer, and once with the query set). It is timed on a sample of cells spread over the layers and
scaled to all of them; ours is the whole call, traces and table included, median of `--repeats`.

    python benchmarks/sweeps.py --json out.json
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
import tyro
from torch import Tensor
from tqdm import tqdm

import interp
from interp.engine.weights import weights_of

RECEIVER = interp.Site.parse("23.3.q")
"""Query of the head with the largest direct effect on the logits."""


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    model: str = "smollm2-135m"
    prompts: int = 16
    threads: int = 2
    sample: int = 10
    """Cells on which the peer is timed."""
    repeats: int = 3


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    ours_s: float
    peer_s: float
    ratio: float
    max_abs_diff: float
    cells: int
    peer_cells: int


@dataclass(frozen=True)
class Peer:
    """The same sweeps through TransformerLens' hooks."""

    model: interp.Model
    pairs: interp.Pairs
    clean: dict[str, Tensor]
    corrupt: dict[str, Tensor]

    @classmethod
    def cached(cls, model: interp.Model, pairs: interp.Pairs) -> "Peer":
        """Caches of both runs, as a path-patching script makes them."""
        clean, corrupt = (
            model.bridge.run_with_cache(
                tokens, names_filter=lambda n: n.endswith("hook_z"), return_cache_object=False
            )[1]
            for tokens in (pairs.clean, pairs.corrupt)
        )
        return cls(model, pairs, clean, corrupt)

    def logit_diff(self, logits: Tensor) -> Tensor:
        rows = torch.arange(len(self.pairs))
        end = logits[:, -1]
        return end[rows, self.pairs.correct] - end[rows, self.pairs.wrong]

    def ablate(self, site: interp.Site, *, at: slice) -> Tensor:
        def zero(z: Tensor, hook: object) -> Tensor:
            z[:, at, site.head] = 0
            return z

        name = f"blocks.{site.layer}.attn.hook_z"
        return self.logit_diff(
            self.model.bridge.run_with_hooks(self.pairs.clean, fwd_hooks=[(name, zero)])
        )

    def frozen(self, site: interp.Site) -> list[tuple[str, Callable[..., Tensor]]]:
        """Every head keeps its clean output, but the sender gets its corrupt one."""

        def hook_for(layer: int) -> Callable[..., Tensor]:
            name = f"blocks.{layer}.attn.hook_z"

            def freeze(z: Tensor, hook: object) -> Tensor:
                z[:] = self.clean[name]
                if layer == site.layer:
                    z[:, :, site.head] = self.corrupt[name][:, :, site.head]
                return z

            return freeze

        layers = range(self.model.facts.n_layers)
        return [(f"blocks.{layer}.attn.hook_z", hook_for(layer)) for layer in layers]

    def path_logits(self, site: interp.Site) -> Tensor:
        return self.logit_diff(
            self.model.bridge.run_with_hooks(self.pairs.clean, fwd_hooks=self.frozen(site))
        )

    def path_query(self, site: interp.Site) -> Tensor:
        name, head = f"blocks.{RECEIVER.layer}.attn.hook_q", RECEIVER.head
        noted: list[Tensor] = []

        def note(q: Tensor, hook: object) -> Tensor:
            noted.append(q[:, -1, head].clone())
            return q

        def put(q: Tensor, hook: object) -> Tensor:
            q[:, -1, head] = noted[0]
            return q

        bridge, tokens = self.model.bridge, self.pairs.clean
        hooks = [h for h in self.frozen(site) if int(h[0].split(".")[1]) <= RECEIVER.layer]
        bridge.run_with_hooks(
            tokens, fwd_hooks=[*hooks, (name, note)], stop_at_layer=RECEIVER.layer + 1
        )
        return self.logit_diff(bridge.run_with_hooks(tokens, fwd_hooks=[(name, put)]))


def same_length(model: interp.Model, n: int) -> interp.Pairs:
    """n prompts of one length, so that the peer needs no padding."""
    pairs = interp.datasets.ioi(model, n=20 * n, seed=0)
    lengths = pairs.lengths.tolist()
    common = max(set(lengths), key=lengths.count)
    return trimmed(pairs.select([i for i, length in enumerate(lengths) if length == common][:n]))


def trimmed(pairs: interp.Pairs) -> interp.Pairs:
    """Without the padding that longer prompts had left."""
    longest = int(pairs.lengths.max())
    return interp.Pairs.from_tokens(
        clean=pairs.clean[:, :longest],
        corrupt=pairs.corrupt[:, :longest],
        correct=pairs.correct,
        wrong=pairs.wrong,
        positions=pairs.positions,
        cluster=pairs.cluster,
    )


@torch.inference_mode()
def measure(
    case: str,
    ours: Callable[[], interp.Results],
    peer: Callable[[interp.Site], Tensor],
    options: Options,
) -> Row:
    """Time our whole sweep and a sample of the peer's cells, and compare the numbers."""
    times, results = [], ours()
    for _ in range(options.repeats):
        start = time.perf_counter()
        results = ours()
        times.append(time.perf_counter() - start)
    values = results.frame.pivot(index="site", columns="example", values="value")
    sites = sorted(interp.Site.parse(s) for s in values.index)
    chosen = [sites[i] for i in spread(len(sites), options.sample)]
    peer(chosen[0])
    peer_times, difference = [], 0.0
    for site in tqdm(chosen, desc=f"{case}: peer", disable=None):
        start = time.perf_counter()
        found = peer(site)
        peer_times.append(time.perf_counter() - start)
        expected = torch.tensor(values.loc[str(site)].to_numpy())
        difference = max(difference, (found - expected).abs().max().item())
    ours_s = statistics.median(times)
    peer_s = statistics.median(peer_times) * len(sites)
    return Row(case, ours_s, peer_s, peer_s / ours_s, difference, len(sites), len(chosen))


def spread(n: int, sample: int) -> Iterator[int]:
    """Indices spread evenly from the first to the last."""
    return (i * (n - 1) // (sample - 1) for i in range(sample))


def cases(model: interp.Model, pairs: interp.Pairs, options: Options) -> Iterator[Row]:
    peer = Peer.cached(model, pairs)
    yield measure(
        "ablate",
        lambda: interp.ablate(model, pairs, "heads", method="zero"),
        lambda site: peer.ablate(site, at=slice(None)),
        options,
    )
    yield measure(
        "ablate-end",
        lambda: interp.ablate(model, pairs, "heads", method="zero", positions="end"),
        lambda site: peer.ablate(site, at=slice(-1, None)),
        options,
    )
    yield measure(
        "path-logits",
        lambda: interp.path_patch(model, pairs, senders="heads", receivers="logits"),
        peer.path_logits,
        options,
    )
    yield measure(
        "path-q-end",
        lambda: interp.path_patch(
            model, pairs, senders="heads", receivers=RECEIVER, receiver_positions="end"
        ),
        peer.path_query,
        options,
    )


def memory(model: interp.Model, pairs: interp.Pairs) -> None:
    """What the replay copy of the weights costs, and a sweep in a tenth of the default budget."""
    process = psutil.Process()
    before = process.memory_info().rss
    weights = weights_of(model)
    after = process.memory_info().rss
    print(f"\nresident memory {before / 1e6:.0f} MB, with replay's weights {after / 1e6:.0f} MB")
    assert weights.blocks
    found = {}
    for name, budget in (("default", None), ("a tenth", (1 << 30) // 10)):
        start = time.perf_counter()
        results = interp.ablate(model, pairs, "heads", method="zero", memory=budget)
        found[name] = time.perf_counter() - start, results.frame["value"].to_numpy()
    difference = abs(found["default"][1] - found["a tenth"][1]).max()
    print(
        f"ablate with the default budget {found['default'][0]:.1f} s, with a tenth of it "
        f"{found['a tenth'][0]:.1f} s, largest difference {difference:.1e}"
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    head = "| case | ours (s) | peer (s, scaled) | ratio | largest difference |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| `{r.case}` | {r.ours_s:.2f} | {r.peer_s:.1f} ({r.peer_cells} of {r.cells} cells) "
        f"| {r.ratio:.1f} | {r.max_abs_diff:.1e} |"
        for r in rows
    ]
    return "\n".join(lines)


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    model = interp.load(options.model, device="cpu")
    pairs = same_length(model, options.prompts)
    print(f"{len(pairs)} prompts of {int(pairs.lengths[0])} tokens, {options.threads} threads")
    rows = list(cases(model, pairs, options))
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        print(f"wrote {options.json}")
    memory(model, pairs)


if __name__ == "__main__":
    main(tyro.cli(Options))
