"""The model from one reader on: what changes when other edges into it are cut.

Where edges are cut from the logits backward, all that is computed before the reader at hand is the
clean run, and all that is after it reads with cuts that stand already. So of each later reader the
part of its input that no cut into this one can change is held, and a test of one more edge adds to
it what the writers after the reader change. Many sets of cuts into one reader go up together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.engine.circuits.passes import Passes
from interp.engine.circuits.wiring import Wiring
from interp.engine.network import forward
from interp.engine.network.linear import Map
from interp.engine.network.trace import take
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class View:
    """Some positions of all rows, flattened.

    Attributes:
        index: which tokens; None is all.
        shape: rows and positions of each.
        place: where they stand.
        kinds: of each class of positions the tokens that are of it.
        changes: what each writer writes in the clean run less what it is cut to.
    """

    index: Int[Tensor, " token"] | None
    shape: tuple[int, int]
    place: Int[Tensor, "batch pos"]
    kinds: tuple[Int[Tensor, " _"], ...]
    changes: Float[Tensor, "writer token d_model"]

    def of(self, x: Float[Tensor, "*axes token d"]) -> Float[Tensor, "*axes some d"]:
        """These of all tokens."""
        return x if self.index is None else x.index_select(-2, self.index.to(x.device))

    def sums(
        self, mask: Bool[ndarray, "sum class writer"], held: Float[Tensor, "writer *axes token d"]
    ) -> Float[Tensor, "sum *axes token d"]:
        """Of each mask the sum of what the writers that it has at a token's class hold there."""
        weight = torch.from_numpy(mask).to(held)
        if len(self.kinds) == 1:
            return (weight[:, 0] @ held.flatten(1)).unflatten(1, held.shape[1:])
        found = held.new_empty(len(mask), *held.shape[1:])
        for kind, index in enumerate(self.kinds):
            part = held.index_select(-2, index)
            product = (weight[:, kind] @ part.flatten(1)).unflatten(1, part.shape[1:])
            found.index_copy_(found.ndim - 2, index, product)
        return found


class Onward:
    """Rows of one length, and the cuts that stand in them; at first there are none."""

    def __init__(self, rows: Passes) -> None:
        self.rows, self.w, self.wiring = rows, rows.w, rows.masks.wiring
        self.graph = self.wiring.graph
        self.last = self.w.facts.n_layers - 1
        self.turn = forward.rotations(self.w, rows.length)
        keep = ("resid_pre", "resid_mid", "z", "mlp_out")
        self.clean = rows.engine.trace(rows.tokens, keep=keep)
        read = rows.readout.read
        whole = torch.arange(rows.length, device=read.device).expand(len(read), -1)
        at = (torch.arange(len(read), device=read.device)[:, None] * rows.length + read).flatten()
        changes = self._changes()
        self.all = self._view(None, whole, changes)
        self.end = self._view(at, read, changes)
        shape = (rows.which.shape[1], *self.graph.feeds.shape)
        self.kept = np.broadcast_to(self.graph.feeds, shape).copy()
        self.base = [self._stream(row) for row in range(len(self.graph.readers))]

    @staticmethod
    def bytes_of(model: Model, pairs: Pairs, wiring: Wiring) -> int:
        """What one cell holds at most: the change of every writer, and the scores of a layer."""
        facts, tokens = model.facts, int(pairs.lengths.sum())
        wide = (len(wiring.graph.writers) + 3 * facts.n_heads + 8) * facts.d_model
        wide += 4 * facts.d_mlp + 4 * facts.n_heads * int(pairs.lengths.max())
        return wide * tokens * model.dtype.itemsize

    @staticmethod
    def held_by(model: Model, pairs: Pairs, wiring: Wiring) -> int:
        """Bytes of all rows: what writers write, readers read, and the traces."""
        facts, graph = model.facts, wiring.graph
        vectors = len(graph.writers) + len(graph.readers) + 8 * facts.n_layers
        return int(pairs.lengths.sum()) * vectors * facts.d_model * model.dtype.itemsize

    def moves(self) -> Bool[ndarray, "place writer"]:
        """At which places does cutting a writer change anything?"""
        changed = (self.all.changes != 0).any(-1)
        kinds = torch.stack([changed[:, index].any(1) for index in self.all.kinds])
        return (self.rows.which.numpy()[:, :, None] & kinds.cpu().numpy()).any(1)

    def classed(
        self, kept: Bool[ndarray, "cell place writer"]
    ) -> Bool[ndarray, "cell class writer"]:
        """An edge is kept at a class of positions if it is at any place that names them."""
        return (kept[:, :, None] & self.rows.which.numpy()[:, :, None]).any(1)

    def _view(self, index: Tensor | None, place: Int[Tensor, "batch pos"], changes: Tensor) -> View:
        kinds = self.rows.kinds.gather(1, place).flatten()
        which = tuple((kinds == kind).nonzero()[:, 0] for kind in range(self.rows.which.shape[1]))
        shape = (place.shape[0], place.shape[1])
        held = changes if index is None else changes.index_select(1, index)
        return View(index, shape, place, which, held)

    def _changes(self) -> Float[Tensor, "writer token d_model"]:
        """Of each writer, what it writes in the clean run less what it is cut to."""
        kept, ablated = self.clean.kept, self.rows.ablated
        found = self.clean.final.new_empty(len(self.graph.writers), *self.clean.final.shape)
        found[0] = kept["resid_pre"][0] - ablated.embed
        for layer, columns in enumerate(self.wiring.heads):
            z = kept["z"][layer]
            change, heads = z - ablated.z[layer].to(z.device), np.arange(len(columns))
            found[columns[0] : columns[-1] + 1] = self._written(layer, heads, change[None])[:, 0]
            if self.wiring.mlps:
                column = self.wiring.mlps[layer][1]
                wrote = kept["mlp_out"][layer]
                found[column] = wrote - ablated.mlp_out[layer].to(wrote.device)
        return found.flatten(1, 2)

    def _view_of(self, site: Site) -> View:
        """The positions at which it matters what a reader reads."""
        late = site.layer == self.last and site.kind in ("q", "mlp_out")
        return self.end if late or site.layer is None else self.all

    def _stream(self, row: int) -> Float[Tensor, "token d_model"]:
        """What a reader reads where nothing is cut."""
        site, kept = self.graph.readers[row], self.clean.kept
        if site.layer is None:
            stream = self.clean.final
        else:
            early = site.kind != "mlp_out" or self.w.facts.parallel
            stream = kept["resid_pre" if early else "resid_mid"][site.layer]
        return self._view_of(site).of(stream.to(self.clean.final.device).flatten(0, 1))

    def _cut(
        self, row: int, kept: Bool[ndarray, "cell place writer"]
    ) -> Float[Tensor, "cell token d_model"]:
        """What a reader reads if only these edges into it are kept."""
        cut = self.graph.feeds[row] & ~self.classed(kept)
        used = cut.any((0, 1))
        view = self._view_of(self.graph.readers[row])
        held = view.changes[torch.from_numpy(used).to(view.changes.device)]
        return self._stream(row) - view.sums(cut[:, :, used], held)

    def settle(self, row: int, kept: Bool[ndarray, "place writer"]) -> None:
        """From now on, only these edges into a reader are kept."""
        self.base[row] = self._cut(row, kept[None])[0]
        self.kept[:, row] = self.graph.feeds[row] & self.classed(kept[None])[0]

    @torch.inference_mode()
    def run(
        self,
        row: int,
        kept: Bool[ndarray, "cell place writer"],
        heard: Bool[ndarray, " writer"],
    ) -> Float[ndarray, "cell batch"]:
        """The metric where only these edges into a reader are kept, for each set of them.

        Args:
            row: the reader; every later one is settled.
            heard: the writers from which kept edges lead to the logits.
        """
        return _Wave(self, row, self._cut(row, kept), heard).values()

    def _written(
        self,
        layer: int,
        heads: Int[ndarray, " head"],
        z: Float[Tensor, "cell batch pos head d_head"],
    ) -> Float[Tensor, "head cell batch pos d_model"]:
        """Through each head's own part of the output projection."""
        o = self.w.blocks[layer].attention.o.summands().unflatten(1, (-1, self.w.facts.d_head))
        o = o.index_select(1, torch.from_numpy(heads).to(z.device)).permute(1, 2, 0)
        by_head = z.permute(3, 0, 1, 2, 4)
        return torch.bmm(by_head.flatten(1, 3), o).unflatten(1, by_head.shape[1:4])


class _Wave:
    """The cells of one reader on their way to the logits."""

    def __init__(
        self,
        suffix: Onward,
        row: int,
        entering: Float[Tensor, "cell token d_model"],
        heard: Bool[ndarray, " writer"],
    ) -> None:
        self.s, self.w, self.row, self.entering = suffix, suffix.w, row, entering
        self.site, self.heard = suffix.graph.readers[row], heard
        self.view = suffix.all
        self.columns: list[int] = []
        after = heard[int(suffix.graph.feeds[row].sum()) :]
        shape = (int(after.sum()), len(entering), *suffix.all.changes.shape[1:])
        # what each writer after the reader writes less than in the clean run, as far as computed
        self.moved = entering.new_empty(0 if self.site.layer is None else shape)

    def values(self) -> Float[ndarray, "cell batch"]:
        s, final = self.s, self.entering
        if self.site.layer is not None:
            for layer in range(self.site.layer, s.last + 1):
                self.attention(layer)
                self.mlp(layer)
            final = self.reads(np.array([s.wiring.logits]), s.end)[0]
        final = final.unflatten(1, s.end.shape)
        return s.rows.measured(final)[0].double().cpu().numpy()

    def reads(self, rows: Int[ndarray, " row"], view: View) -> Float[Tensor, "row _ token d_model"]:
        """What settled readers read."""
        base = torch.stack([self.s.base[row] for row in rows])[:, None]
        if not self.columns:
            return base
        held = self.moved[: len(self.columns)]
        if view is not self.view:
            held = view.of(held)
        return base + view.sums(self.s.kept[:, rows][:, :, self.columns].swapaxes(0, 1), held)

    def attention(self, layer: int) -> None:
        """The heads that are heard; in the reader's own layer only its own differ by cell."""
        s, first = self.s, layer == self.site.layer
        heads = np.flatnonzero(self.heard[s.wiring.heads[layer]])
        if first and self.site.kind == "mlp_out":
            heads = heads[:0]  # computed before it: the clean run's
        view = s.end if layer == s.last else s.all
        if first and self.site.kind != "mlp_out":
            size = self.w.facts.group_size
            of = (
                heads == self.site.head
                if self.site.kind == "q"
                else heads // size == self.site.group
            )
            made = [
                (heads[of], self.attend(layer, heads[of], view, own=True)),
                (heads[~of], self.attend(layer, heads[~of], view)),
            ]
        else:
            made = [(heads, self.attend(layer, heads, view))]
        if layer == s.last and view is not self.view:
            self.moved = view.of(self.moved)
        self.view = view if layer == s.last else self.view
        for which, written in made:
            self.note(s.wiring.heads[layer][which], written)

    def attend(
        self, layer: int, heads: Int[ndarray, " head"], view: View, *, own: bool = False
    ) -> Float[Tensor, "head _ token d_model"]:
        """What heads write less what they do in the clean run."""
        s, p, facts = self.s, self.w.blocks[layer].attention, self.w.facts
        if not len(heads):
            return self.moved.new_empty(0, 1, *view.changes.shape[1:])
        groups, inverse = np.unique(heads // facts.group_size, return_inverse=True)
        rows = s.wiring.rows[layer]
        parts = {}
        for kind, linear, index, at in (
            ("q", p.q, heads, view),
            ("k", p.k, groups, s.all),
            ("v", p.v, groups, s.all),
        ):
            mine = own and kind == self.site.kind
            x = self.entering[None] if mine else self.reads(rows[kind][index], at)
            x = forward.norm(x.to(p.o.device), p.ends.read)
            parts[kind] = self.project(x, linear, index, at)
        q = forward.head_norm(parts["q"], p.q_norm)
        k = forward.head_norm(parts["k"], p.k_norm)[..., inverse, :]
        v = parts["v"][..., inverse, :]
        cells = max(len(part) for part in (q, k, v))
        q, k, v = (part.expand(cells, *part.shape[1:]) for part in (q, k, v))
        none = k[0, :, :0]
        turn, place = forward.rotation(s.turn, p, heads), view.place.to(q.device)
        keys, values, whole = forward.Keys(none, k), forward.Keys(none, v), view is s.all
        p = forward.of_heads(p, heads)
        z = forward.attend(p, q, keys, values, turn, place, causal=facts.causal, consecutive=whole)
        plain = take(s.clean.kept["z"][layer], place)[:, :, heads]
        return s._written(layer, heads, z - plain).flatten(2, 3).to(self.moved.device)

    def project(
        self,
        x: Float[Tensor, "row cell token d_model"],
        p: Map,
        index: Int[ndarray, " row"],
        view: View,
    ) -> Float[Tensor, "cell batch pos row d_head"]:
        """Each reader's stream through its own part of a projection."""
        chosen = torch.from_numpy(index).to(x.device)
        weight = p.by_head(self.w.facts.d_head).index_select(0, chosen)
        found = torch.bmm(x.flatten(1, 2).to(weight.dtype), weight.transpose(1, 2))
        if p.bias is not None:
            bias = p.bias.unflatten(0, (-1, self.w.facts.d_head)).index_select(0, chosen)
            found = found + bias[:, None]
        return found.unflatten(1, (x.shape[1], *view.shape)).permute(1, 2, 3, 0, 4)

    def mlp(self, layer: int) -> None:
        s = self.s
        if not s.wiring.mlps:
            return
        row, column = s.wiring.mlps[layer]
        if not self.heard[column]:
            return
        view = s.end if layer == s.last else s.all
        x = self.entering if row == self.row else self.reads(np.array([row]), view)[0]
        plain = view.of(s.clean.kept["mlp_out"][layer].flatten(0, 1))
        written = forward.mlp(x.to(plain.device), self.w.blocks[layer].mlp) - plain
        self.note(np.array([column]), written.to(x.device)[None])

    def note(
        self, columns: Sequence[int] | ndarray, written: Float[Tensor, "writer _ token d_model"]
    ) -> None:
        """What writers write less than in the clean run."""
        start = len(self.columns)
        self.moved[start : start + len(columns)] = written
        self.columns += [int(column) for column in columns]
