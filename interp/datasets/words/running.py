"""Running text as pairs: what a model does on real sentences, token by token."""

import logging

import numpy as np

from interp.core.door.door import door
from interp.core.door.taken import Count
from interp.core.errors import CorpusError
from interp.core.prompts.pairs import Pairs
from interp.datasets.corpus import Corpus
from interp.datasets.words.alignment import align
from interp.models.bridge.tokens import Bos
from interp.models.model import Model

log = logging.getLogger("interp")


@door
def running_text(
    model: Model, corpus: Corpus, *, context: Count | None = None, bos: Bos = "model"
) -> Pairs:
    """The text of a corpus, without answers: for metrics such as "next_token_loss".

    Args:
        context: None for a row for each sentence, or the tokens that a row may have at most: then
            sentences of one document that follow each other share a row, as in `align`.
        bos: "model" adds the special tokens that the tokenizer adds by itself, "none" none.

    Returns:
        Rows whose clean and corrupt side are the same; the cluster is the document, and no two
        rows fill one template. Rows of a
        single token, and those in which no word has a token, are left out, and counted through
        the logger `interp`.

    Raises:
        CorpusError: no row is left, or what `align` refuses.
    """
    aligned = align(model, corpus, context=context, bos=bos)
    rows, first = np.unique(aligned.row, return_index=True)
    document = [corpus.clusters[sentence] for sentence in aligned.sentence[first]]
    kept = [
        (aligned.rows[row], name)
        for row, name in zip(rows, document, strict=True)
        if len(aligned.rows[row]) > 1
    ]
    if not kept:
        raise CorpusError(
            f"no sentence of {corpus.name} has two tokens, so in none does a token follow another. "
            "Let sentences of a document share a row (context=64)."
        )
    if lost := len(aligned.rows) - len(kept):
        log.warning("%s: %d of %d rows hold no two tokens", corpus.name, lost, len(aligned.rows))
    tokens = [ids for ids, _ in kept]
    return Pairs.from_tokens(
        clean=tokens,
        corrupt=tokens,
        cluster=[name for _, name in kept],
        template=range(len(kept)),
        strings=[(tuple(model.show(list(ids))),) * 2 for ids in tokens],
        bos=bos,
    )
