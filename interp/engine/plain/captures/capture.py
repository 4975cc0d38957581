"""Capture: the activations of plain runs, for probes, dictionaries and looking at them."""

import logging
from collections.abc import Iterable

import torch
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import InterpError, Unsupported
from interp.core.files.atomic import Checkpoint
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Side
from interp.core.prompts.places import Positions, listed
from interp.engine.checkpoint import kept_of
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.limits import Limits
from interp.engine.plain.captures import shards
from interp.engine.plain.captures.captured import Captured
from interp.engine.plain.captures.kept import Kept, Wanted
from interp.engine.plain.prompts import Mask, Tokens, prompts, tokens_hash
from interp.engine.plain.taps import Layout, read, refuse_logits, rows_at_once
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import HOST, KEEP, Memory, budget, by_rows
from interp.engine.plan.positions import blocks, lengths_in, longest_in
from interp.engine.provenance import provenance
from interp.models.model import Model

log = logging.getLogger("interp")
Selection = str | Site | Iterable[str | Site]


load = Captured.load


@door
def capture(
    model: Model,
    tokens: Tokens,
    sites: Selection,
    *,
    positions: Positions = "all",
    side: Side = "clean",
    mask: Mask | None = None,
    dtype: torch.dtype | None = None,
    memory: Memory = None,
    folder: Checkpoint = None,
    batch: Count | None = None,
    engine: EngineName = "auto",
) -> Captured:
    """Run the model plainly and keep the activations at some sites: those, and nothing else.

    Rows of one length run together, so nothing depends on padding; layers above the last site do
    not run (replay engine). What will be kept is held against `memory` before; `interp.explain`
    tells it without running.

    Args:
        tokens: pairs, of which `side` runs; ids, `batch pos`, with `mask` where they are padded
            (on either side); or lists of ids.
        sites: a selector ("heads", "layers"), a site ("12.mlp", "3.1.pattern", "embed"), a list of
            them; or "logits", which are as wide as the vocabulary: name positions ("end").
        positions: `"all"`, or a name, an index, one index for each row (an array), as many of each
            row (a list of lists, a mask), or a list of names and indices or a mapping from names to
            any of these: the second axis then has those, in that order. Tokens without pairs have
            the name `"end"`, the last token of each row. Of a pattern: the queries.
        dtype: to keep them in; the model's own by default.
        memory: bytes that may be kept; 2 GiB by default, or a quarter of what there is.
        folder: write shards there, keep nothing in memory, and go on with a run that was killed.
        batch: rows in one forward, and in one shard; by default so many that a forward holds little
            beside what is kept.

    Raises:
        SiteError, PositionError, PairsError: what the model or the prompts do not have.
        Unsupported: logits of an encoder-decoder.
        InterpError: more bytes than `memory`; an activation that is not finite.
        ResultsError: the folder holds another capture, or cannot be written.
    """
    wanted = _wanted(model, tokens, sites, positions, side, mask, dtype)
    served = choose(model, engine, longest=wanted.pairs.longest)
    asked, room = wanted.bytes(), budget(memory, HOST, KEEP)
    proceed(
        forward_plan(
            model.facts,
            lengths_in(model.facts, wanted.pairs),
            rows=batch or 64,
            runs=1,
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=served.name,
            budget=room,
            kept=asked,
            layers=wanted.layout.layers,
        )
    )
    rows = range(len(wanted.pairs))
    _refuse_large(wanted, asked if folder is None else _largest_row(wanted), room, folder)
    size = asked / 1e6
    log.info("capture: %d sites of %d prompts, %.1f MB", len(wanted.layout.sites), len(rows), size)
    note = provenance(
        model,
        wanted.pairs,
        engine=served.name,
        side=side,
        tokens=tokens_hash(wanted.pairs, side),
        kept=str(wanted.dtype).removeprefix("torch."),
    )
    with tqdm(total=len(rows), desc="capture", unit="prompt", delay=2, disable=None) as bar:
        if folder is None:
            kept = Kept(wanted, rows)
            _fill(kept, model, served, list(rows), batch, bar)
            return Captured(wanted.layout.sites, wanted.positions, asked, note, kept)
        known = shards.identity(wanted, kept_of(model), note["tokens"])
        rest = {"bytes": asked, "lengths": wanted.pairs.lengths.tolist(), "provenance": note}
        rest["group_size"] = model.facts.group_size
        plan = shards.plan(wanted, batch, room)
        made = shards.prepare(folder, known, rest, plan)
        bar.update(len(rows) - sum(len(members) for _, members in made.missing()))
        for file, members in made.missing():
            kept = Kept(wanted, members)
            _fill(kept, model, served, list(members), batch, bar)
            made.write(file, members, shards.named(kept))
            del kept  # before the next is made
    return Captured.load(folder)


def _wanted(
    model: Model,
    tokens: Tokens,
    sites: Selection,
    positions: Positions,
    side: Side,
    mask: Mask | None,
    dtype: torch.dtype | None,
) -> Wanted:
    kept = model.dtype if dtype is None else dtype
    if not kept.is_floating_point:
        raise Unsupported(f"activations cannot be kept as {kept}; give a floating dtype, or none.")
    found = resolve(sites, model.facts)
    if model.facts.n_encoder_layers:
        refuse_logits(found, "this keeps of two stacks")
    layout = Layout.of(found, model.facts.group_size)
    pairs = prompts(tokens, mask)
    accept(model, pairs, None)
    at = tuple(listed(positions, pairs.positions))
    wanted = Wanted(model.facts, pairs, side, layout, at, kept)
    _ = wanted.places  # refuses what there is not
    return wanted


@torch.inference_mode()
def _fill(
    kept: Kept, model: Model, engine: Engine, rows: list[int], batch: int | None, bar: tqdm
) -> None:
    """Run rows and keep what is wanted of them."""
    wanted, total = kept.wanted, kept.wanted.bytes(rows)

    def some(rows: list[int]) -> None:
        take = kept.taker(rows)
        read(engine, wanted.pairs, wanted.side, kept.layout, rows, model.device, take)

    extents = wanted.pairs.extents
    for same in blocks([extents[row] for row in rows], len(rows)):
        length = longest_in(model.facts, wanted.pairs, [rows[same[0]]])
        size = batch or rows_at_once(model.facts, length, model.dtype.itemsize, total, model.device)
        for i in range(0, len(same), size):
            members = [rows[n] for n in same[i : i + size]]
            by_rows(some, members, "a plain run")
            bar.update(len(members))


def _largest_row(wanted: Wanted) -> int:
    """What has to be held at least, where all is written to a folder."""
    rows = {extent: row for row, extent in enumerate(wanted.pairs.extents)}
    return max(wanted.bytes([row]) for row in rows.values())


def _refuse_large(wanted: Wanted, needed: int, room: int, folder: object) -> None:
    if needed <= room:
        return
    shelves: dict[str, list[int]] = {}
    sizes = {slab: wanted.size(slab) for slab in wanted.layout.slabs}
    for slab, size in sizes.items():
        entry = shelves.setdefault(slab.shelf, [0, 0])
        entry[0] += len(slab)
        entry[1] += size
    largest = sorted(shelves.items(), key=lambda item: -item[1][1])[:3]
    shown = ", ".join(f"{n} of {name} ({size / 1e6:.1f} MB)" for name, (n, size) in largest)
    what = "the capture keeps" if folder is None else "one row of the capture takes"
    remedy = "folder= to write it to disk, " if folder is None else ""
    raise InterpError(
        f"{what} {needed / 1e6:.1f} MB ({needed} bytes), and the budget is {room / 1e6:.1f} MB. "
        f"The biggest sites of {len(wanted.pairs)} prompts: {shown}. Take fewer sites or positions "
        f"(positions='end'), {remedy}dtype=torch.bfloat16, or more memory=."
    )
