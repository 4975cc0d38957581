"""Generation under interventions: all at once, against one `generate` with hooks for each.

The peer is TransformerLens' own `bridge.generate` with a key-value cache, the prompts of one length
in one batch, inside of `bridge.hooks`: what its users write. It is timed on a sample of the
interventions and scaled to all of them. Ours is the whole call: texts, log-probabilities of the
plain model, the table. Both must say the same tokens.

    python benchmarks/generate.py --json benchmarks/generate.json
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
import tyro
from torch import Tensor

import interp
from interp.engine.interventions import Add, Intervention, Zero

PROMPTS = (
    "The old man walked along the",
    "Yesterday my sister told me that",
    "In the middle of the night",
    "The best way to learn is",
    "She opened the door and saw",
    "When the rain stopped, the children",
    "My favourite book is about a",
    "The scientists were surprised to find",
)


@dataclass(frozen=True)
class Options:
    """How to measure."""

    json: Path | None = None
    model: str = "smollm2-135m"
    interventions: int = 32
    prompts: int = 8
    n: int = 40
    sample: int = 4
    """Interventions on which the peer is timed."""
    threads: int = 2


@dataclass(frozen=True)
class Row:
    """What was measured."""

    interventions: int
    prompts: int
    n: int
    ours_s: float
    ours_cpu_s: float
    peer_s: float
    peer_cpu_s: float
    ratio: float
    ratio_cpu: float
    same: bool
    texts: int


def sets_of(model: interp.Model, count: int) -> dict[str, list[Intervention]]:
    """Three quarters of heads cut everywhere, one quarter of random directions added."""
    facts, found = model.facts, dict[str, list[Intervention]]()
    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        layer = (7 * i + 3) % facts.n_layers
        if i % 4 == 3:
            vector = torch.randn(facts.d_model, generator=generator)
            made = Intervention(f"{layer}.resid_post", Add(vector))
        else:
            made = Intervention(f"{layer}.{(5 * i) % facts.n_heads}", Zero())
        found[f"{i}: {made.site}"] = [made]
    return found


def hook_of(made: Intervention) -> tuple[str, Callable[[Tensor, object], Tensor]]:
    """The same as a hook of TransformerLens; at every position, so that steps are alike."""
    site, value = made.site, made.value

    def cut(z: Tensor, hook: object) -> Tensor:
        z[:, :, site.head] = 0
        return z

    def add(resid: Tensor, hook: object) -> Tensor:
        assert isinstance(value, Add)
        return resid + value.source

    if site.kind == "z":
        return f"blocks.{site.layer}.attn.hook_z", cut
    return f"blocks.{site.layer}.hook_resid_post", add


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock, and of the processor."""
    before = time.perf_counter(), psutil.Process().cpu_times().user
    call()
    return time.perf_counter() - before[0], psutil.Process().cpu_times().user - before[1]


@torch.inference_mode()
def theirs(
    model: interp.Model, tokens: Tensor, sets: Mapping[str, list[Intervention]], n: int
) -> dict[str, Tensor]:
    """What the peer says."""
    found = {}
    for name, made in sets.items():
        with model.bridge.hooks(fwd_hooks=[hook_of(one) for one in made]):
            said = model.bridge.generate(
                tokens,
                max_new_tokens=n,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        found[name] = said[:, tokens.shape[1] :]
    return found


def measured(options: Options) -> Row:
    """Ours and theirs on the same prompts, cut to the tokens of the shortest."""
    torch.set_num_threads(options.threads)
    model = interp.load(options.model)
    ids = [model.encode(text) for text in PROMPTS[: options.prompts]]
    length = min(map(len, ids))
    tokens = torch.tensor([row[:length] for row in ids])
    sets = sets_of(model, options.interventions)
    few = dict(list(sets.items())[:: max(1, len(sets) // options.sample)][: options.sample])
    interp.generate(model, tokens[:1], dict(list(sets.items())[:1]), n=2)  # verifies the engine
    theirs(model, tokens[:1], dict(list(few.items())[:1]), 2)
    said: list[interp.Texts] = []
    ours = timed(
        lambda: said.append(
            interp.generate(model, tokens, sets, n=options.n, stop=[], memory="4GB")
        )
    )
    other: list[dict[str, Tensor]] = []
    peer = timed(lambda: other.append(theirs(model, tokens, few, options.n)))
    scale, frame = len(sets) / len(few), said[0].frame
    same = all(
        frame[(frame["intervention"] == name) & (frame["example"] == row)]["tokens"].iloc[0]
        == other[0][name][row].tolist()
        for name in few
        for row in range(len(tokens))
    )
    peer = peer[0] * scale, peer[1] * scale
    return Row(
        *(len(sets), len(tokens), options.n, *ours, *peer),
        *(peer[0] / ours[0], peer[1] / ours[1], same, len(few) * len(tokens)),
    )


if __name__ == "__main__":
    options = tyro.cli(Options)
    row = asdict(measured(options))
    print(json.dumps(row, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(row, indent=2) + "\n")
