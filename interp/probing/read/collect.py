"""Collecting: the activations of every word of a corpus, pooled as the forwards run.

Rows go by their length, so that forwards are full, and each forward is pooled to words at once: no
token's activation outlives it.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import InterpError, SiteError, Unsupported
from interp.core.parts.sites import Site, resolve
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import align
from interp.engine.checkpoint import kept_of
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import Engine, EngineName
from interp.engine.limits import Limits
from interp.engine.plain.captures import folder as folders
from interp.engine.plain.captures.folder import Folder
from interp.engine.plain.captures.shards import SHARD_BYTES, SHARD_TOKENS
from interp.engine.plain.taps import Layout, refuse_logits
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import HOST, KEEP, budget
from interp.engine.plan.memory import Memory as Bytes
from interp.models.bridge.tokens import Bos
from interp.models.model import Model
from interp.probing.read.features import FEATURES, Features
from interp.probing.read.job import Forward, Job
from interp.probing.read.pooling import Pool
from interp.probing.read.stores import Memory

log = logging.getLogger("interp")
Selection = str | Site | Iterable[str | Site]


@door
def collect(
    model: Model,
    corpus: Corpus,
    *,
    sites: Selection = "resid",
    pool: Pool = "last",
    context: Count | None = None,
    folder: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    memory: Bytes = None,
    engine: EngineName = "auto",
    bos: Bos = "model",
) -> Features:
    """Run the model on a corpus and keep the activations of its words at some sites.

    Words are found by their characters (`interp.datasets.words.alignment`). Those that no token
    covers are in `Features.missing`, and said through the logger `interp`.

    Args:
        sites: "resid", the residual stream before the first layer and after each (of a recurrent
            model the embedding and each layer's h); or what `interp.capture` takes: "heads" (every
            head's output z), "mlps", a site, a list.
        pool: the first or the last of a word's tokens, or the mean of all.
        context: None runs each sentence by itself; a number lets sentences of one document that
            follow each other share a row of at most so many tokens.
        folder: write shards there, hold a shard's words at a time, and go on with a run that was
            killed. Finished ones are opened without running anything.
        dtype: to keep the activations in.
        memory: bytes that may be held; 2 GiB by default, or a quarter of what there is.
        engine: what runs the model; "auto" takes replay where it serves.
        bos: "model" adds the special tokens that the tokenizer adds by itself, "none" none.

    Raises:
        CorpusError, PairsError, ModelError: words cannot be aligned; see `align`.
        SiteError: sites that the model does not have, or that do not stand at words.
        Unsupported: logits, attention patterns, or what the model does not compute.
        InterpError: more bytes than `memory`, also in the shards that an interrupted run laid out;
            an activation that is not finite.
        ResultsError: the folder holds another collection, or cannot be written.
    """
    if not dtype.is_floating_point:
        raise Unsupported(f"activations cannot be kept as {dtype}; give a floating dtype.")
    layout = _layout(model, sites)
    aligned = align(model, corpus, context=context, bos=bos)
    longest = max((len(row) for row in aligned.rows), default=1)
    served = choose(model, engine, longest=longest)
    job = Job(model, aligned, layout, pool, dtype, Limits.of(model.device).tokens)
    room = budget(memory, HOST, KEEP)
    _explain(job, served, room)
    _require_room(job, corpus, room, in_memory=folder is None)
    plan = job.forwards(np.flatnonzero(job.counts).tolist(), room)
    for rows in plan:
        accept(model, job.pairs(rows), None)
    note = _provenance(job, corpus, served, context, bos)
    log.info("collect: %d sites of %d words, %.1f MB", len(layout.sites), len(aligned), job.mb)
    with tqdm(total=len(aligned), desc="collect", unit="word", delay=2, disable=None) as bar:
        if folder is None:
            kept = job.run(served, np.arange(len(aligned)), room, bar)
            held = Memory(layout, dtype, kept.tensors)
            places = (aligned.sentence, aligned.word, aligned.row)
            return Features(layout.sites, *places, aligned.missing, pool, note, held)
        folder = Path(folder)
        members = [job.words(rows).tolist() for rows in _shards(job, plan, min(room, SHARD_BYTES))]
        known, rest = _identity(job, corpus), _index(job, note)
        made = folders.prepare(folder, FEATURES, known, rest, members)
        missing = made.missing()
        _require_room_for_shards(job, made, room)
        bar.update(sum(map(len, members)) - sum(len(words) for _, words in missing))
        for file, words in missing:
            # not by a name, which would keep one shard while the next is made
            made.write(file, words, job.run(served, np.array(words), room, bar).named())
    return Features.load(folder)


def _layout(model: Model, sites: Selection) -> Layout:
    """The sites, which must stand at words."""
    facts = model.facts
    stack = "enc" if facts.n_encoder_layers else None
    layers = range(facts.n_encoder_layers or facts.n_layers)
    stream = [Site("resid_pre", 0, stack=stack)]
    stream += [Site("resid_post", layer, stack=stack) for layer in layers]
    if facts.recurrent:
        stream = [Site("embed"), *(Site("h", layer) for layer in layers)]
    parts = [sites] if isinstance(sites, str | Site) else list(sites)
    asked = [site for part in parts for site in (stream if part == "resid" else [part])]
    found = resolve(asked, facts)
    refuse_logits(found, "a word has")
    layout = Layout.of(found, facts.group_size)
    for slab in layout.slabs:
        if slab.kind == "pattern":
            raise Unsupported(
                "attention patterns have a number for each key, so no word has a vector of them. "
                "interp.capture keeps them, and interp.attention reads named positions."
            )
        if slab.decoder:
            raise SiteError(
                f"'{layout.names[slab, 0]}' stands at what the decoder writes, and a corpus's "
                "words are the encoder's. Name sites of the encoder ('resid', 'enc.0.3')."
            )
    return layout


def _explain(job: Job, engine: Engine, room: int) -> None:
    model = job.model
    proceed(
        forward_plan(
            *(model.facts, torch.from_numpy(job.lengths[job.counts > 0])),
            rows=64,
            runs=1,
            itemsize=model.dtype.itemsize,
            limits=Limits.of(model.device),
            engine=engine.name,
            budget=room,
            kept=job.bytes,
            layers=job.layout.layers,
        )
    )


def _require_room(job: Job, corpus: Corpus, room: int, *, in_memory: bool) -> None:
    """All words fit, or those of any row."""
    largest = int(job.counts.max()) * job.word_bytes
    if in_memory and job.bytes > room:
        raise InterpError(
            f"the activations of {len(job.aligned)} words of {corpus.name} at "
            f"{len(job.layout.sites)} sites take {job.mb:.1f} MB ({job.bytes} bytes, "
            f"{job.word_bytes} a word), and the budget is {room / 1e6:.1f} MB. Give folder= to "
            "write them to disk, fewer sites or words (corpus.head(n)), dtype=torch.float16, or "
            "more memory=."
        )
    if largest > room:
        raise InterpError(
            f"the words of one row take {largest / 1e6:.1f} MB ({largest} bytes, "
            f"{job.word_bytes} a word), and the budget is {room / 1e6:.1f} MB. Take fewer sites, a "
            "smaller context=, dtype=torch.float16, or more memory=."
        )


def _require_room_for_shards(job: Job, made: Folder, room: int) -> None:
    """Those that are left fit: an interrupted run goes on with the shards that it laid out."""
    words = max((len(words) for _, words in made.missing()), default=0)
    if (largest := words * job.word_bytes) > room:
        raise InterpError(
            f"a shard that is still missing in {made.path} has {words} words, which take "
            f"{largest / 1e6:.1f} MB ({largest} bytes, {job.word_bytes} a word), and the budget is "
            f"{room / 1e6:.1f} MB: the run that began the folder had more. Give memory={largest} "
            "or more, or another folder=."
        )


def _shards(job: Job, plan: Sequence[Forward], room: int) -> list[list[int]]:
    """The rows of each shard: as many forwards as fit, one at least, however many its tokens."""
    shards: list[list[int]] = []
    words = tokens = 0
    for forward in plan:
        here = int(job.counts[list(forward)].sum())
        length = int(job.lengths[list(forward)].sum())
        too_many = (words + here) * job.word_bytes > room or tokens + length > SHARD_TOKENS
        if not shards or too_many:
            shards.append([])
            words = tokens = 0
        shards[-1] += forward
        words, tokens = words + here, tokens + length
    return shards


def _identity(job: Job, corpus: Corpus) -> dict[str, Any]:
    """Everything that the numbers in a folder depend on."""
    return {
        **kept_of(job.model),
        "corpus text": corpus.fingerprint,
        "words and tokens": job.aligned.fingerprint,
        "sites": [str(site) for site in job.layout.sites],
        "pool": job.pool,
        "kept": str(job.dtype).removeprefix("torch."),
    }


def _index(job: Job, note: dict[str, Any]) -> dict[str, Any]:
    """What else is needed to open a folder without the model."""
    aligned = job.aligned
    words = {name: getattr(aligned, name).tolist() for name in ("sentence", "word", "row")}
    words["missing"] = [list(place) for place in aligned.missing]
    return {"provenance": note, "group_size": job.layout.group_size, "words": words}


def _provenance(
    job: Job, corpus: Corpus, engine: Engine, context: int | None, bos: Bos
) -> dict[str, Any]:
    model, aligned = job.model, job.aligned
    return {
        **model.identity(),
        "corpus": corpus.name,
        "corpus text": corpus.fingerprint,
        "source": dict(corpus.source),
        "words": len(aligned),
        "tokens": aligned.n_tokens,
        "alignment": aligned.fingerprint,
        "note": aligned.note,
        "context": context,
        "bos": bos,
        "engine": engine.name,
        "bytes": job.bytes,
    }
