"""Edges: a writer into the residual stream, and who reads it.

`"20.1 -> 23.3.q"` is the output of head 20.1 as the query of head 23.3 reads it. What a reader
reads is the sum of all writes before it (through the norms, where an architecture has them on the
stream), so an edge is one term of one reader's sum.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial, total_ordering

from interp.core.door.taken import shown
from interp.core.errors import SiteError, Unsupported
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site, Stack, require_facts, resolve

WRITERS = ("embed", "z", "attn_out", "mlp_act", "expert", "mlp_out")
READERS = ("q", "k", "v", "mlp_out", "logits")
ARROW = "->"


@total_ordering
@dataclass(frozen=True)
class Edge:
    """One writer as one reader sees it. Hashable, ordered by its reader, prints as text.

    Attributes:
        writer: a head ("20.1"), an attention layer, an MLP, a neuron, an expert or "embed"; of
            an encoder-decoder what enters a stack, too ("enc.0.resid_pre").
        reader: q, k or v of a head ("23.3.q"), k or v of a group ("23.kv1.k"), an MLP ("12.mlp",
            what enters it) or "logits".
    """

    writer: Site
    reader: Site

    def __post_init__(self) -> None:
        if not isinstance(self.writer, Site) or not isinstance(self.reader, Site):
            raise SiteError(
                f"an Edge is made of two Sites, not of {shown(self.writer)} and "
                f"{shown(self.reader)}; text is read by Edge.parse('20.1 -> 23.3.q')."
            )
        if self.writer.kind not in WRITERS and not enters(self.writer):
            raise SiteError(
                f"'{self.writer}' writes nothing of its own into the residual stream, so no edge "
                "begins there; writers are heads ('20.1'), '20.attn', MLPs ('12.mlp'), neurons "
                "('12.mlp[307]'), experts ('12.expert[5]') and 'embed'."
            )
        if self.reader.kind not in READERS:
            raise SiteError(
                f"'{self.reader}' does not read the residual stream, so no edge ends there; "
                "readers are the q, k, v of heads ('23.3.q'), MLPs ('12.mlp') and 'logits'."
            )
        _require_one_stack(self.writer, self.reader)

    @classmethod
    def parse(cls, text: "str | Edge") -> "Edge":
        """Read "writer -> reader".

        Raises:
            SiteError: not two sites, or sites that cannot be the ends of an edge.
        """
        if isinstance(text, Edge):
            return text
        if not isinstance(text, str):  # no door: edges are read by the ten thousand
            raise SiteError(
                f"an edge is text such as '20.1 -> 23.3.q', or an Edge, not {shown(text)}."
            )
        ends = [Site.parse(part) for part in text.split(ARROW)]
        if len(ends) != 2:
            raise SiteError(
                f"{text!r} is no edge: an edge has two ends, 'writer -> reader'. A longer path is "
                "a matter of path_patch: senders=, via= and receivers=."
            )
        return cls(*ends)

    def __str__(self) -> str:
        return f"{self.writer} {ARROW} {self.reader}"

    @property
    def order(self) -> tuple[tuple[int, ...], ...]:
        """Sort key: by reader, then writer."""
        return (self.reader.order, self.writer.order)

    def __lt__(self, other: "Edge") -> bool:
        if not isinstance(other, Edge):
            return NotImplemented
        return self.order < other.order

    def check(self, facts: Facts) -> "Edge":
        """Return the edge if a model of these facts has it.

        Raises:
            SiteError: it has not; says why.
            Unsupported: the model is recurrent.
        """
        require_facts(facts)
        _require_sums(self, facts)
        self.writer.check(facts)
        self.reader.check(facts)
        if not feeds(self.writer, self.reader, facts):
            why = (
                "attention and MLP of a layer run in parallel and read the same residual stream"
                if self.writer.layer == self.reader.layer and facts.parallel
                else "the writer is not computed before its reader"
            )
            raise SiteError(
                f"there is no edge '{self}': {why}. Exchange the ends, or choose a later reader."
            )
        return self


def _require_sums(text: "str | Edge", facts: Facts) -> None:
    if facts.recurrent:
        raise Unsupported(
            f"'{text}': what an {facts.architecture} reads is no sum of what was written, so it "
            "has no edges. Ablate or patch a state for all its readers: '0.c[3]'."
        )


def read_in(reader: Site) -> Stack | None:
    """The stack whose residual stream a reader reads; None where a model has but one.

    Keys and values of a decoder's cross-attention read the encoder's, the logits (of either sort of
    model) that of what comes last.
    """
    if reader.cross and reader.kind in ("k", "v"):
        return "enc"
    return "dec" if reader.kind == "logits" else reader.stack


def enters(site: Site) -> bool:
    """Is this what enters one of two stacks, which writes as "embed" does of a single one?"""
    return site.kind == "resid_pre" and site.layer == 0 and site.stack is not None


def begins(site: Site) -> bool:
    """Is this the embedding, or what enters one of two stacks?"""
    return site.kind == "embed" or enters(site)


def require_forward(writer: Site, reader: Site) -> None:
    """Refuse a way from a decoder into the encoder.

    Raises:
        SiteError: there is none.
    """
    if writer.stack == "dec" and read_in(reader) == "enc":
        raise SiteError(
            f"there is no path from '{writer}' to '{reader}': the encoder is computed before the "
            "decoder, and "
            + (
                f"'{reader}' reads the encoder's last residual stream alone. "
                if reader.cross
                else "nothing of the decoder comes back into it. "
            )
            + "Exchange the ends, or take the query of a cross-attention ('dec.0.cross.3.q'), "
            "which does read the decoder."
        )


def _require_one_stack(writer: Site, reader: Site) -> None:
    require_forward(writer, reader)
    if writer.stack == "enc" and read_in(reader) == "dec":
        raise SiteError(
            f"there is no edge from '{writer}' to '{reader}', which reads the decoder's residual "
            "stream: what an encoder writes is read by the keys and values of cross-attention "
            "('dec.0.cross.3.k'). Take one of these as the reader."
        )


def feeds(writer: Site, reader: Site, facts: Facts) -> bool:
    """Does what this site writes stand in the sum that this reader reads?"""
    if facts.n_encoder_layers and writer.stack != read_in(reader):
        return False
    # of an encoder all that the decoder reads is its end
    beyond = reader.stack != writer.stack
    if reader.kind == "logits" or writer.kind == "embed" or enters(writer) or beyond:
        return True
    assert writer.layer is not None
    assert reader.layer is not None
    if writer.layer != reader.layer:
        return writer.layer < reader.layer
    if reader.cross:
        return writer.kind in ("z", "attn_out") and not writer.cross
    inside = writer.kind in ("z", "attn_out") and reader.kind == "mlp_out"
    return inside and not facts.parallel


def readers(site: Site, facts: Facts) -> tuple[Site, ...]:
    """The inputs that a part has: a head its q, k, v; an attention layer those of all its heads."""
    make = partial(Site, layer=site.layer, stack=site.stack, cross=site.cross)
    if site.kind == "z":
        return tuple(make(kind, head=site.head) for kind in ("q", "k", "v"))
    if site.kind == "attn_out":
        queries = [make("q", head=h) for h in range(facts.n_heads)]
        groups = range(facts.n_kv_heads)
        return (*queries, *(make(kind, group=g) for kind in ("k", "v") for g in groups))
    return (site,)


def edges(text: "str | Edge", facts: Facts) -> Iterator[Edge]:
    """The edges that a text names: `"edges"` for all, else one for each input of the reader.

    All edges: from the embedding, every head and every MLP to every later query, key and value
    (of a whole group, where groups share them), MLP and the logits.
    """
    _require_sums(text, facts)
    if isinstance(text, Edge):
        yield text.check(facts)
    elif text == "edges":
        mlps = ["mlps"] if facts.d_mlp else []
        begin = ["enc.0.resid_pre", "dec.0.resid_pre"] if facts.n_encoder_layers else ["embed"]
        writers = resolve([*begin, "heads", *mlps], facts)
        ends = [r for s in resolve(["attn", *mlps], facts) for r in readers(s, facts)]
        if facts.language_model:
            ends.append(Site("logits"))
        yield from (Edge(w, r) for r in ends for w in writers if feeds(w, r, facts))
    else:
        if not isinstance(text, str) or text.count(ARROW) != 1:
            Edge.parse(text)
        parts = [Site.parse(part) for part in text.split(ARROW)]
        ends = readers(parts[1], facts)
        # of a head of cross-attention the inputs that read what this writes, if some do
        ends = tuple(r for r in ends if read_in(r) == parts[0].stack) or ends
        yield from (Edge(parts[0], r).check(facts) for r in ends)


def in_order(given: Iterable[str | Edge], facts: Facts) -> list[Edge]:
    """The edges that some texts name, checked, each once: by reader, then by writer.

    A circuit names the same sites in tens of thousands of edges; each site is looked at once.

    Raises:
        SiteError, Unsupported: as `Edge.check`.
    """
    ends: dict[Site, tuple[int, ...]] = {}

    def order(site: Site) -> tuple[int, ...]:
        if site not in ends:
            ends[site] = site.check(facts).order
        return ends[site]

    found: dict[Edge, tuple[tuple[int, ...], ...]] = {}
    for one in given:
        if not isinstance(one, Edge):
            found |= {edge: edge.order for edge in edges(one, facts)}
            continue
        _require_sums(one, facts)
        found[one] = order(one.reader), order(one.writer)
        if not feeds(one.writer, one.reader, facts):
            one.check(facts)  # which says why
    return sorted(found, key=found.__getitem__)


def is_edge(text: object) -> bool:
    """Does this name edges, not sites?"""
    return isinstance(text, Edge) or (isinstance(text, str) and (text == "edges" or ARROW in text))
