"""The same sweeps as others run them: TransformerLens' hooks and patching functions."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO

import pandas as pd
import torch
from torch import Tensor
from transformer_lens import ActivationCache, patching

import interp

RECEIVER = interp.Site.parse("23.3.q")
"""Query of the head with the largest direct effect on the logits."""


@dataclass(frozen=True)
class Peer:
    """What users of TransformerLens write, one forward (or two) a cell."""

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

    def grid(self, site: interp.Site, position: int) -> Tensor:
        """One cell of `get_act_patch_attn_head_out_by_pos`: the same call, told which cell."""
        with redirect_stderr(StringIO()):  # it draws a progress bar for its one cell
            found = patching.generic_activation_patch(
                self.model.bridge,
                self.pairs.corrupt,
                ActivationCache(self.clean, self.model.bridge),
                self.logit_diff,
                patching.layer_pos_head_vector_patch_setter,
                "z",
                index_df=pd.DataFrame([[site.layer, position, site.head]]),
                reduce="none",
            )
        return found.values[0]  # noqa: PD011  no DataFrame

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


def pairs_of_length(model: interp.Model, n: int) -> interp.Pairs:
    """n IOI prompts of one length, so that the peer needs no padding."""
    pairs = interp.datasets.ioi(model, n=20 * n, seed=0)
    lengths = pairs.lengths.tolist()
    common = max(set(lengths), key=lengths.count)
    rows = [i for i, found in enumerate(lengths) if found == common][:n]
    return interp.Pairs.from_tokens(
        clean=pairs.clean[rows, :common],
        corrupt=pairs.corrupt[rows, :common],
        correct=pairs.correct[rows],
        wrong=pairs.wrong[rows],
        cluster=[pairs.cluster[i] for i in rows],
    )


def random_pairs(model: interp.Model, n: int, length: int) -> interp.Pairs:
    """Random tokens: for times, which do not depend on what the prompts say."""
    generator = torch.Generator().manual_seed(0)
    size = model.facts.d_vocab
    clean, corrupt = torch.randint(size, (2, n, length), generator=generator)
    correct, wrong = torch.randint(size, (2, n), generator=generator)
    return interp.Pairs.from_tokens(clean=clean, corrupt=corrupt, correct=correct, wrong=wrong)


def spread(items: Sequence, sample: int) -> list:
    """Some items, evenly from the first to the last."""
    if sample >= len(items):
        return list(items)
    return [items[i * (len(items) - 1) // (sample - 1)] for i in range(sample)]
