"""What every head looks at most, over a corpus: of each pattern one word for each word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int16, Integer
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import Unsupported
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import Alignment, align
from interp.datasets.words.links import First, begins_row, numbered, placed
from interp.engine.engines.choose import accept, choose
from interp.engine.engines.protocol import EngineName
from interp.engine.limits import Limits
from interp.engine.network.trace import See
from interp.engine.plain.prompts import prompts
from interp.engine.plain.taps import rows_at_once
from interp.engine.plan.batches import forward_plan
from interp.engine.plan.explain import proceed
from interp.engine.plan.memory import by_rows
from interp.engine.plan.positions import blocks
from interp.engine.provenance import provenance
from interp.heads.looking.words import Words
from interp.models.bridge.tokens import Bos
from interp.models.model import Model


@dataclass(frozen=True, eq=False, repr=False)
class Attended:
    """For each head and word, the word that it attends to most, as a distance.

    Distances count the words of `alignment`, negative to the left; 0 where there is no word to
    look at, or no attention on any.

    Attributes:
        alignment: the words, and their tokens.
        to: from each word to the one of its sentence that it attends to most (under a causal mask
            one to its left).
        by: from each word to the one of its sentence that attends to it most (under a causal mask
            one to its right).
        mentions: the words of `alignment` that are the head of a mention.
        antecedent: from each of these to the earlier one of its row that it attends to most, of
            a mention that ends before its own begins: "his" in "his sister" is no candidate.
        rests: words that attend to the first token of their row (to all tokens of the word that
            holds it) more than to any other word of their sentence that they may look at. The
            word that holds it is none of them.
        causal: words attend to their left only.
        first: were the words that hold the first token of a row kept? Skipped, nothing is asked
            of them and none of them is an answer.
    """

    alignment: Alignment
    to: Int16[ndarray, "layer head word"]
    by: Int16[ndarray, "layer head word"]
    mentions: Integer[ndarray, " mention"]
    antecedent: Int16[ndarray, "layer head mention"]
    rests: Bool[ndarray, "layer head word"]
    causal: bool
    first: First
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        layers, heads, words = self.to.shape
        of_mentions = f"{len(self.mentions)} of them heads of mentions"
        rest = f"{self.rests.mean():.0%} of looks rest at the first token"
        return f"Attended: {layers} layers x {heads} heads, {words} words, {of_mentions}; {rest}"


@door
@torch.inference_mode()
def attended(
    model: Model,
    corpus: Corpus,
    *,
    context: Count | None = None,
    bos: Bos = "model",
    first: First = "skip",
    engine: EngineName = "auto",
) -> Attended:
    """Run the model over a corpus, and keep of every pattern the most-attended words.

    Args:
        context: None for a row for each sentence; or tokens, and then sentences of a document that
            follow each other share a row of at most that many. Words are asked about the words of
            their sentence, and mentions about the earlier mentions of their row.
        bos: "model" adds the special tokens that the tokenizer adds by itself.
        first: "skip" the word that holds the first token of a row, if one does: a head that finds
            nothing rests there, and Clark et al. skip the special tokens ([CLS], BOS) where heads
            of their model rest. Where the tokenizer adds such a token before the text, no word
            holds the first one, and none is skipped. "keep" asks it, and takes it for an answer.

    Raises:
        CorpusError: no word has a token.
        Unsupported: attention patterns that cannot be read.
        InterpError: attention that is not finite.
    """
    facts, itemsize = model.facts, model.dtype.itemsize
    if facts.n_encoder_layers:
        raise Unsupported(
            "attended() reads one stack of layers, and this model has an encoder and a decoder "
            f"({facts}); capture(model, tokens, 'enc.0.1.pattern') gives the patterns."
        )
    alignment = align(model, corpus, context=context, bos=bos)
    words = np.split(np.arange(len(alignment)), np.flatnonzero(np.diff(alignment.row)) + 1)
    pairs = prompts([alignment.rows[alignment.row[members[0]]] for members in words])
    accept(model, pairs, None)
    served = choose(model, engine, longest=pairs.longest)
    begins, ends = reach_of_mentions(corpus, alignment)
    mentions = np.flatnonzero(begins >= 0)
    counts = (len(alignment), len(alignment), len(mentions))
    found = [np.zeros((facts.n_layers, facts.n_heads, n), dtype=np.int16) for n in counts]
    rests = np.zeros(found[0].shape, dtype=bool)
    sinks = begins_row(alignment)
    kept = sum(array.nbytes for array in (*found, rests))
    forwards = [
        same[i : i + size]
        for same in blocks(pairs.extents, len(pairs))
        for length in [int(pairs.lengths[same[0]])]
        for size in [rows_at_once(facts, length, itemsize, kept, model.device)]
        for i in range(0, len(same), size)
    ]
    plan = partial(forward_plan, facts, pairs.lengths, rows=max(map(len, forwards)))
    limits = Limits.of(model.device)
    proceed(plan(runs=1, itemsize=itemsize, engine=served.name, kept=kept, limits=limits))

    def some(rows: list[int]) -> None:
        those = Words.of(alignment, [words[row] for row in rows], model.device)
        see = _taker(those, begins, ends, sinks, found, rests, causal=facts.causal, first=first)
        tokens = pairs.clean[rows, : int(pairs.lengths[rows[0]])]
        served.walk(tokens.to(model.device), see, shelves=("pattern",))

    with tqdm(total=len(pairs), desc="attended", unit="row", delay=2, disable=None) as bar:
        for rows in forwards:
            by_rows(some, rows, "a plain run")
            bar.update(len(rows))
    note = provenance(
        model,
        pairs,
        engine=served.name,
        corpus=corpus.name,
        text=corpus.fingerprint,
        context=context,
    )
    note |= {"bos": bos, "words": len(alignment), "missing": len(alignment.missing)}
    note |= {"first": first, "first words": int(sinks.sum())}
    to, by, antecedent = found
    return Attended(
        alignment, to, by, mentions, antecedent, rests, facts.causal, first, provenance=note
    )


def _taker(
    words: Words,
    begins: Integer[ndarray, " word"],
    ends: Integer[ndarray, " word"],
    sinks: Bool[ndarray, " word"],
    found: Sequence[ndarray],
    rests: Bool[ndarray, "layer head word"],
    *,
    causal: bool,
    first: First,
) -> See:
    """What fills the distances in from the patterns of one forward."""
    to, by, antecedent = found
    apart, earlier = words.apart(causal=causal), words.apart(causal=True)
    near = apart & words.together()
    begin, end, sink = (
        torch.as_tensor(x, device=words.ids.device)[words.ids] for x in (begins, ends, sinks)
    )
    others = near & ~sink[:, None, :]
    before = (end[:, None, :] >= 0) & (end[:, None, :] <= begin[:, :, None])
    between_mentions = earlier & before
    if first == "skip":
        neither = ~(sink[:, None, :] | sink[:, :, None])
        near, between_mentions = near & neither, between_mentions & neither
    ids, of_mention = (x[words.known].cpu().numpy() for x in (words.ids, begin >= 0))
    places = np.searchsorted(np.flatnonzero(begins >= 0), ids[of_mention])

    def see(shelf: str, layer: int, pattern: Tensor) -> None:
        if shelf != "pattern":
            return
        attention = words.attention(pattern)
        most = attention.masked_fill(~others[:, None], 0).amax(-1)
        resting = ((words.to_first(pattern) > most) & ~sink[:, None]).transpose(0, 1)
        rests[layer][:, ids] = resting[:, words.known].cpu().numpy()
        to[layer][:, ids] = words.distance(attention, near, ask="target")
        by[layer][:, ids] = words.distance(attention, near, ask="source")
        if len(places):
            distance = words.distance(attention, between_mentions, ask="target")
            antecedent[layer][:, places] = distance[:, of_mention]

    return see


def reach_of_mentions(
    corpus: Corpus, alignment: Alignment
) -> tuple[Integer[ndarray, " word"], Integer[ndarray, " word"]]:
    """Where the mentions that a word heads begin, and where they end: the first of each.

    Returns:
        For each word of the alignment, in words counted over the corpus; -1 of one that heads none.
    """
    mentions = [m for of in placed(corpus, alignment, read="head") for m in of if m.row >= 0]
    heads = numbered(corpus, alignment)[[m.head for m in mentions]]
    found = np.full((2, len(alignment)), corpus.n_words + 1)
    np.minimum.at(found[0], heads, [m.start for m in mentions])
    np.minimum.at(found[1], heads, [m.end for m in mentions])
    begins, ends = np.where(found > corpus.n_words, -1, found)
    return begins, ends
