"""Where a head stands, for what is read off weights: whose words ask, and whose are asked."""

from dataclasses import dataclass

from interp.core.errors import Unsupported
from interp.core.parts.heads import one_head
from interp.core.parts.sites import Site
from interp.engine.engines.choose import stacks_of
from interp.engine.network.stacks import Stacks
from interp.engine.network.weights import Attention, Norm, Weights
from interp.heads.weights.factors import Factors, factors, require_logits, require_sum
from interp.heads.weights.vocabulary import Vocabulary
from interp.models.model import Model


@dataclass(frozen=True, eq=False)
class Placed:
    """A head, its factors, and the words at both ends of them.

    Attributes:
        head: its number in its layer.
        w: of the stack that it stands in.
        asks: the words that its queries read, and whose logits its writes move.
        source: those that its keys and values read: of cross-attention the encoder's.
        norm: through which they do.
    """

    site: Site
    layer: int
    head: int
    w: Weights
    p: Attention
    f: Factors
    asks: Vocabulary
    source: Vocabulary
    norm: Norm | None

    @classmethod
    def of(cls, model: Model, head: str | Site, what: str, *, logits: bool = False) -> "Placed":
        """One head, where its stream is a sum of writes; `logits`: if they are read off it.

        Raises:
            SiteError, Unsupported: not one head; a post-norm model, or one that replay cannot read;
                an encoder's head where logits are read.
        """
        (require_logits if logits else require_sum)(model, what, decoders=True)
        site, found = one_head(head, model.facts), stacks_of(model)
        assert site.layer is not None
        assert site.head is not None
        if not isinstance(found, Stacks):
            return cls._in(found, site, Vocabulary(found))
        if site.stack == "dec":
            source = Vocabulary(found.encoder) if site.cross else None
            return cls._in(found.decoder, site, source, found.norm)
        if logits:
            raise Unsupported(
                f"{what} reads the vocabulary off the stream that a head writes into, and '{site}' "
                "writes into the encoder's, which no unembedding reads. Take a head of the "
                "decoder, such as one of cross-attention ('dec.0.cross.3')."
            )
        return cls._in(found.encoder, site)

    @classmethod
    def _in(
        cls, w: Weights, site: Site, source: Vocabulary | None = None, memory: Norm | None = None
    ) -> "Placed":
        assert site.layer is not None
        assert site.head is not None
        block, asks = w.blocks[site.layer], Vocabulary(w)
        p = block.cross if site.cross else block.attention
        assert p is not None
        norm = memory if site.cross else p.ends.read
        f = factors(w, site.layer, cross=site.cross, memory=memory)
        return cls(site, site.layer, site.head, w, p, f, asks, source or asks, norm)
