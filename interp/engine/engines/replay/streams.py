"""What named readers see: the residual stream with some writes exchanged for them alone.

A `Ledger` belongs to one cell. As the wave goes up the layers it notes what each writer wrote, and
for a reader it rebuilds the stream from those writes. Where the stream is a plain sum, that is the
stream plus the changes of the writes; where a write is normed, the layer's write is made again;
where the sum is normed (BERT), the whole stream is.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.parts.sites import Site
from interp.engine.engines.replay import within
from interp.engine.network import forward
from interp.engine.network.trace import BETWEEN, Trace, take
from interp.engine.network.weights import MLP, Attention, Block, Weights
from interp.engine.plan.edits import STEPS, Edit, part_of

ATTENTION = ("z", "attn_out")
PARTS = ("z", "mlp_act", "expert")
"""What a write is made of: a head belongs to attn_out, a neuron or an expert to mlp_out."""


class Ledger:
    """The writes of one cell that some readers see otherwise.

    Args:
        edits: those with readers.
        inner: those of neurons, experts and routers for everyone.
        entry: layer and step at which the cell joins; before it the base run's writes hold.
        window: the positions that are computed, `batch window`.
    """

    def __init__(
        self,
        w: Weights,
        base: Trace,
        edits: Sequence[Edit],
        inner: Sequence[Edit],
        entry: tuple[int, int],
        window: Int[Tensor, "batch window"],
    ) -> None:
        self.w, self.base, self.window = w, base, window
        self.edits = sorted(edits, key=lambda edit: edit.site)
        self.inner = inner
        self.readers: dict[tuple[int, str], list[Site]] = defaultdict(list)
        self.of: dict[Site, list[int]] = defaultdict(list)
        for i, edit in enumerate(self.edits):
            for reader in edit.readers or ():
                self.of[reader].append(i)
        for reader in sorted(self.of):
            self.readers[reader.layer or 0, part_of(reader)].append(reader)
        self.groups: dict[tuple[int, str], list[int]] = defaultdict(list)
        for i, edit in enumerate(self.edits):
            self.groups[edit.site.layer or 0, _part(edit.site)].append(i)
        self.folds = w.blocks[0].attention.ends.sum is not None
        self.written: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}
        self.summed = self._splits()
        self.changes = base.final.new_zeros(
            len(self.edits) if self.summed else 0, *window.shape, w.facts.d_model
        )
        for layer in range(w.facts.n_layers):
            parts = _parts(w.blocks[layer])
            for part in ("embed", *parts) if layer == 0 else parts:
                if (layer, STEPS[part]) < entry:
                    self._from_base(layer, part)

    def _splits(self) -> bool:
        """Does every edit change the stream by itself, whatever the others do?"""
        attentions = [a for b in self.w.blocks for a in (b.attention, b.cross) if a is not None]
        ends = [part.ends for part in (*attentions, *(b.mlp for b in self.w.blocks))]
        if any(e.write is not None or e.sum is not None for e in ends):
            return False
        maps = [*(a.o for a in attentions), *(b.mlp.down for b in self.w.blocks)]
        if not all(map_.additive for map_ in maps):
            return False
        changed = any(edit.site.kind == "mlp_act" for edit in self.inner)
        if changed and any(edit.site.kind == "expert" for edit in self.edits):
            return False  # an expert is made of its neurons
        return all(
            len({self.edits[i].site.kind for i in group}) == 1 for group in self.groups.values()
        )

    def _from_base(self, layer: int, part: str) -> None:
        if not self.folds and (layer, part) not in self.groups:
            return
        read = "resid_mid" if self.w.blocks[layer].cross is None else BETWEEN
        kinds = {
            "embed": ("resid_pre", "resid_pre"),
            "attn_out": ("z", "attn_out"),
            "cross.attn_out": ("cross.z", "cross.attn_out"),
            "mlp_out": ("resid_pre" if self.w.facts.parallel else read, "mlp_out"),
        }
        inside, written = (self.base.part(kind, layer, self.window) for kind in kinds[part])
        self.note(layer, part, inside, written)

    def note(
        self,
        layer: int,
        part: str,
        inside: Float[Tensor, "batch window *axes"],
        written: Float[Tensor, "batch window d_model"],
    ) -> None:
        """A part has written; `inside` is z for attention, what was read for an MLP."""
        group = self.groups.get((layer, part), ())
        if self.folds or (group and not self.summed):
            self.written[layer, part] = inside, written
        if not self.summed:
            return
        for i in group:
            self.changes[i] = self._change(self.edits[i], inside, written)

    def move(self, device: torch.device) -> None:
        """Go on where the next layer lies."""
        self.window, self.changes = self.window.to(device), self.changes.to(device)
        self.written = {
            key: (inside.to(device), written.to(device))
            for key, (inside, written) in self.written.items()
        }

    def narrow(self, chosen: Int[Tensor, "batch chosen"]) -> None:
        """Go on with fewer positions."""
        index = (chosen - self.window[:, :1])[None, ..., None]
        self.changes = self.changes.gather(
            2, index.expand(len(self.changes), -1, -1, self.changes.shape[-1])
        )
        local = index[0, ..., 0]
        self.written = {
            key: (take(inside, local), take(written, local))
            for key, (inside, written) in self.written.items()
        }
        self.window = chosen

    def streams(
        self, readers: Sequence[Site], resid: Float[Tensor, "batch window d_model"]
    ) -> Float[Tensor, "readers batch window d_model"]:
        """The residual stream as each of these readers of one place sees it; resid: as all do."""
        if self.summed:
            before = 1 + max(self.of[reader][-1] for reader in readers)  # edits stand in order
            use = torch.zeros(len(readers), before)
            for row, reader in enumerate(readers):
                use[row, self.of[reader]] = 1
            return resid + torch.einsum("re,ebpd->rbpd", use.to(resid), self.changes[:before])
        rebuilt = self._fold if self.folds else self._resum
        return torch.stack([rebuilt(reader, resid) for reader in readers])

    def _change(self, edit: Edit, inside: Tensor, written: Tensor) -> Tensor:
        """By how much one edit alone moves the stream."""
        site, here = edit.site, written.device
        if site.kind not in PARTS:
            return edit(written, self.window) - written
        block = self.w.blocks[site.layer or 0]
        inside, window = inside.to(block.device), self.window.to(block.device)
        if site.kind == "z":
            z = inside[:, :, site.head]
            width = self.w.facts.d_head
            start = (site.head or 0) * width
            o = _attention(block, part_of(site)).o.summands()[:, start : start + width]
            return ((edit(z, window) - z) @ o.T).to(here)
        weights = within.weights(inside, block.mlp, self._inner(site.layer), window)
        change = within.change(inside, block.mlp, [edit], window, weights=weights)
        assert change is not None
        return change.to(here)

    def _inner(self, layer: int | None) -> list[Edit]:
        return [edit for edit in self.inner if edit.site.layer == layer]

    def _rewrite(self, layer: int, part: str, chosen: Sequence[int]) -> Tensor:
        """What a part writes when these edits are made."""
        inside, written = self.written[layer, part]
        block, here = self.w.blocks[layer], written.device
        inside, written = inside.to(block.device), written.to(block.device)
        named = [self.edits[i] for i in chosen if self.edits[i].site.kind in PARTS]
        if named and part.endswith("attn_out"):
            z = inside.clone()
            for edit in named:
                head = edit.site.head
                z[:, :, head] = edit(z[:, :, head], self.window.to(z.device))
            written = forward.attention_write(z, _attention(block, part))
        elif named:
            written = self._rewrite_mlp(block.mlp, inside, [*self._inner(layer), *named])
        for i in chosen:
            if self.edits[i].site.kind not in PARTS:
                written = self.edits[i](written, self.window.to(written.device))
        return written.to(here)

    def _rewrite_mlp(self, p: MLP, x: Tensor, edits: Sequence[Edit]) -> Tensor:
        window = self.window.to(x.device)
        if p.mixture is None:
            act = within.neurons(x, p, edits, window)
            return forward.norm(p.down(act), p.ends.write)
        weights = within.weights(x, p, edits, window)
        made = forward.made(x, p, weights=weights)
        change = within.change(x, p, edits, window, weights=weights)
        return forward.norm(made if change is None else made + change, p.ends.write)

    def _resum(self, reader: Site, resid: Tensor) -> Tensor:
        """The stream plus the changes of each layer's writes."""
        seen = set(self.of[reader])
        for (layer, part), group in self.groups.items():
            if chosen := [i for i in group if i in seen]:
                written = self.written[layer, part][1]
                # what is written anyway changes nothing, to the bit: a module may round in steps
                resid = resid + (self._rewrite(layer, part, chosen) - written)
        return resid

    def _fold(self, reader: Site, resid: Tensor) -> Tensor:
        """The stream from the embedding on: every write added and normed again."""
        seen = set(self.of[reader])

        def write(layer: int, part: str) -> Tensor:
            chosen = [i for i in self.groups.get((layer, part), ()) if i in seen]
            return self._rewrite(layer, part, chosen) if chosen else self.written[layer, part][1]

        stream = write(0, "embed")
        # what reads an encoder from the decoder reads its end
        ends = reader.layer is None or reader.stack != self.w.stack
        last = self.w.facts.n_layers if ends else reader.layer or 0
        for layer, block in enumerate(self.w.blocks[: last + 1]):
            if layer == last and reader.kind != "mlp_out" and not reader.cross:
                break
            here = block.device
            wrote = write(layer, "attn_out").to(here)
            stream = forward.add(stream.to(here), wrote, block.attention.ends)
            if layer == last and reader.cross:
                break
            if block.cross is not None:
                wrote = write(layer, "cross.attn_out").to(here)
                stream = forward.add(stream, wrote, block.cross.ends)
            if layer == last:
                break
            stream = forward.add(stream, write(layer, "mlp_out").to(here), block.mlp.ends)
        return stream.to(resid.device)


def _part(site: Site) -> str:
    """The write that an edit is of."""
    if site.kind in ATTENTION:
        return "cross.attn_out" if site.cross else "attn_out"
    return "mlp_out" if site.kind in (*within.INSIDE, "mlp_out") else "embed"


def _parts(block: Block) -> tuple[str, ...]:
    """What writes in a layer, in its order."""
    return ("attn_out", *(("cross.attn_out",) if block.cross else ()), "mlp_out")


def _attention(block: Block, part: str) -> Attention:
    """The attention of a layer that writes a part."""
    found = block.cross if part.startswith("cross.") else block.attention
    assert found is not None
    return found
