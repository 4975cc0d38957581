"""What every head looks at most, over a corpus: of each pattern one word for each word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Int16, Integer
from numpy import ndarray
from torch import Tensor
from tqdm.auto import tqdm

from interp.circuits.words import Words
from interp.core.door import door
from interp.core.errors import Unsupported
from interp.core.facts import Facts
from interp.core.taken import Count
from interp.datasets.alignment import Alignment, align
from interp.datasets.corpus import Corpus, Mention
from interp.engine.collect.prompts import prompts
from interp.engine.collect.taps import rows_at_once
from interp.engine.engines import EngineName, accept, choose
from interp.engine.explain import proceed
from interp.engine.memory import by_rows
from interp.engine.plan import blocks, forward_plan
from interp.engine.provenance import provenance
from interp.engine.trace import See
from interp.models.model import Model
from interp.models.tokens import Bos


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
        causal: words attend to their left only.
    """

    alignment: Alignment
    to: Int16[ndarray, "layer head word"]
    by: Int16[ndarray, "layer head word"]
    mentions: Integer[ndarray, " mention"]
    antecedent: Int16[ndarray, "layer head mention"]
    causal: bool
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        layers, heads, words = self.to.shape
        of_mentions = f"{len(self.mentions)} of them heads of mentions"
        return f"Attended: {layers} layers x {heads} heads, {words} words, {of_mentions}"


@door
@torch.inference_mode()
def attended(
    model: Model,
    corpus: Corpus,
    *,
    context: Count | None = None,
    bos: Bos = "model",
    engine: EngineName = "auto",
) -> Attended:
    """Run the model over a corpus, and keep of every pattern the most-attended words.

    Args:
        context: None for a row for each sentence; or tokens, and then sentences of a document that
            follow each other share a row of at most that many. Words are asked about the words of
            their sentence, and mentions about the earlier mentions of their row.
        bos: "model" adds the special tokens that the tokenizer adds by itself.

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
    kept = sum(distances.nbytes for distances in found)
    forwards = [
        same[i : i + size]
        for same in blocks(pairs.lengths, len(pairs))
        for length in [int(pairs.lengths[same[0]])]
        for size in [rows_at_once(facts, length, itemsize, kept, model.device)]
        for i in range(0, len(same), size)
    ]
    plan = partial(forward_plan, facts, pairs.lengths, rows=max(map(len, forwards)))
    proceed(plan(runs=1, itemsize=itemsize, engine=served.name, kept=kept))

    def some(rows: list[int]) -> None:
        those = Words.of(alignment, [words[row] for row in rows], model.device)
        see = _taker(those, begins, ends, found, facts)
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
    return Attended(alignment, found[0], found[1], mentions, found[2], facts.causal, note)


def _taker(
    words: Words,
    begins: Integer[ndarray, " word"],
    ends: Integer[ndarray, " word"],
    found: Sequence[ndarray],
    facts: Facts,
) -> See:
    """What fills the distances in from the patterns of one forward."""
    to, by, antecedent = found
    apart, earlier = words.apart(causal=facts.causal), words.apart(causal=True)
    near = apart & words.together()
    begin, end = (torch.as_tensor(x, device=words.ids.device)[words.ids] for x in (begins, ends))
    before = (end[:, None, :] >= 0) & (end[:, None, :] <= begin[:, :, None])
    between_mentions = earlier & before
    ids, of_mention = (x[words.known].cpu().numpy() for x in (words.ids, begin >= 0))
    places = np.searchsorted(np.flatnonzero(begins >= 0), ids[of_mention])

    def see(shelf: str, layer: int, pattern: Tensor) -> None:
        if shelf != "pattern":
            return
        attention = words.attention(pattern)
        to[layer][:, ids] = words.distance(attention, near, ask="target")
        by[layer][:, ids] = words.distance(attention, near, ask="source")
        if len(places):
            distance = words.distance(attention, between_mentions, ask="target")
            antecedent[layer][:, places] = distance[:, of_mention]

    return see


def numbered(corpus: Corpus, alignment: Alignment) -> Integer[ndarray, " corpus_word"]:
    """The index in the alignment of every word of the corpus; -1 where it has no tokens."""
    at = np.full(corpus.n_words, -1)
    at[_firsts(corpus)[alignment.sentence] + alignment.word] = np.arange(len(alignment))
    return at


def _firsts(corpus: Corpus) -> Integer[ndarray, " sentence"]:
    """How many words stand before each sentence."""
    return np.cumsum([0, *map(len, corpus.sentences)])[:-1]


def heads_of_mentions(corpus: Corpus, alignment: Alignment) -> Integer[ndarray, " mention"]:
    """The word of the alignment that heads each mention, in the order of the corpus.

    -1 where it has no tokens. Of a mention whose head the corpus does not tell it is the last word.
    """
    at, first = numbered(corpus, alignment), _firsts(corpus)
    before = np.cumsum([0, *(len(document.sentences) for document in corpus.documents)])
    return np.array(
        [
            at[first[before[i] + mention.sentence] + _head(mention)]
            for i, document in enumerate(corpus.documents)
            for mention in document.mentions
        ],
        dtype=int,
    )


def spans_of_mentions(corpus: Corpus) -> Integer[ndarray, "mention 2"]:
    """The words [start, end) of each mention, counted over the corpus, in its order."""
    first = _firsts(corpus)
    before = np.cumsum([0, *(len(document.sentences) for document in corpus.documents)])
    spans = [
        first[before[i] + mention.sentence] + np.array(mention.words)
        for i, document in enumerate(corpus.documents)
        for mention in document.mentions
    ]
    return np.array(spans, dtype=int).reshape(-1, 2)


def reach_of_mentions(
    corpus: Corpus, alignment: Alignment
) -> tuple[Integer[ndarray, " word"], Integer[ndarray, " word"]]:
    """Where the mentions that a word heads begin, and where they end: the first of each.

    Returns:
        For each word of the alignment, in words counted over the corpus; -1 of one that heads none.
    """
    heads, spans = heads_of_mentions(corpus, alignment), spans_of_mentions(corpus)
    known = heads >= 0
    found = np.full((2, len(alignment)), corpus.n_words + 1)
    for reach, ends in zip(found, spans[known].T, strict=True):
        np.minimum.at(reach, heads[known], ends)
    begins, ends = np.where(found > corpus.n_words, -1, found)
    return begins, ends


def _head(mention: Mention) -> int:
    return mention.words[1] - 1 if mention.head is None else mention.head
