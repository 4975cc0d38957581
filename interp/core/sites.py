"""Sites: the addresses of activations.

| text | site |
| --- | --- |
| `"23.3"` | z, the output of head 3 in layer 23 before W_O |
| `"23.3.q"`, `"23.3.k"`, `"23.3.v"` | query, key, value of that head; key and value *as this query head reads them* |
| `"23.kv1.k"`, `"23.kv1.v"` | key and value of a whole group (grouped-query attention) |
| `"23.3.pattern"` | attention probabilities of that head |
| `"12.attn"`, `"12.mlp"` | what the attention, the MLP writes into the residual stream |
| `"12.mlp[307]"` | activation of MLP neuron 307 |
| `"12.resid_pre"`, `"12.resid_mid"`, `"12.resid_post"` | residual stream before the layer, between its halves, after it |
| `"embed"`, `"logits"` | token (and learned position) embedding; the output |
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import total_ordering
from typing import Literal, get_args

from interp.core.errors import SiteError, nearest
from interp.core.facts import Facts

Kind = Literal[
    "embed",
    "resid_pre",
    "q",
    "k",
    "v",
    "pattern",
    "z",
    "attn_out",
    "resid_mid",
    "mlp_act",
    "mlp_out",
    "resid_post",
    "logits",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order of computation within a layer."""

HEAD_KINDS = ("q", "k", "v", "pattern", "z")
_WHOLE = {"attn": "attn_out", "mlp": "mlp_out"} | {
    k: k for k in ("resid_pre", "resid_mid", "resid_post")
}
_SHORT = {"attn_out": "attn", "mlp_out": "mlp"}
_TEXT = re.compile(
    r"(?P<layer>\d+)\."
    r"(?:(?P<head>\d+)(?:\.(?P<head_kind>q|k|v|pattern|z))?"
    r"|kv(?P<group>\d+)\.(?P<group_kind>k|v)"
    r"|mlp\[(?P<neuron>\d+)\]"
    r"|(?P<whole>attn|mlp|resid_pre|resid_mid|resid_post))"
)
_SELECTORS: dict[str, Kind] = {
    "heads": "z",
    "mlps": "mlp_out",
    "attn": "attn_out",
    "layers": "resid_post",
    "neurons": "mlp_act",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
}


@total_ordering
@dataclass(frozen=True)
class Site:
    """One activation of a model. Hashable, ordered by the time of its computation, prints as text.

    Attributes:
        kind: what the activation is.
        layer: 0-based; None for `embed` and `logits`.
        head: query head of a `q k v pattern z` site.
        group: key-value group of a `k` or `v` site that stands for the whole group.
        neuron: index into the MLP's hidden layer.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    group: int | None = None
    neuron: int | None = None

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read the text form.

        Raises:
            SiteError: not a site; names the nearest text that is one.
        """
        if isinstance(text, Site):
            return text
        word = text.strip()
        if word in ("embed", "logits"):
            return cls(word)
        found = _TEXT.fullmatch(word)
        if found is None:
            raise SiteError(f"{text!r} is not a site; {_hint(word)}")
        layer = int(found["layer"])
        if found["head"] is not None:
            return cls(found["head_kind"] or "z", layer, head=int(found["head"]))
        if found["group"] is not None:
            return cls(found["group_kind"], layer, group=int(found["group"]))
        if found["neuron"] is not None:
            return cls("mlp_act", layer, neuron=int(found["neuron"]))
        return cls(_WHOLE[found["whole"]], layer)

    def __str__(self) -> str:
        if self.layer is None:
            return self.kind
        if self.head is not None:
            return f"{self.layer}.{self.head}" + ("" if self.kind == "z" else f".{self.kind}")
        if self.group is not None:
            return f"{self.layer}.kv{self.group}.{self.kind}"
        if self.neuron is not None:
            return f"{self.layer}.mlp[{self.neuron}]"
        return f"{self.layer}.{_SHORT.get(self.kind, self.kind)}"

    @property
    def order(self) -> tuple[float, ...]:
        """Sort key: layer, place in the layer, then head, group or neuron."""
        layer = {"embed": -1.0, "logits": float("inf")}.get(self.kind, self.layer)
        inner = (-1 if i is None else i for i in (self.head, self.group, self.neuron))
        return (-1.0 if layer is None else layer, KINDS.index(self.kind), *inner)

    def __lt__(self, other: "Site") -> bool:
        return self.order < other.order

    def check(self, facts: Facts) -> "Site":
        """Return the site if a model of these facts has it.

        Raises:
            SiteError: it has not; gives the nearest site that it has and the model's shape.
        """
        limits = {
            "layer": facts.n_layers,
            "head": facts.n_heads,
            "group": facts.n_kv_heads,
            "neuron": facts.d_mlp,
        }
        fixed, wrong = self, []
        for axis, limit in limits.items():
            index = getattr(self, axis)
            if index is not None and index >= limit:
                name = "key-value group" if axis == "group" else axis
                wrong.append(
                    f"{name} {index} is outside 0 to {limit - 1}" if limit else f"it has no {name}s"
                )
                fixed = replace(fixed, **{axis: max(limit - 1, 0)})
        if self.kind in ("mlp_out", "mlp_act", "resid_mid") and facts.d_mlp == 0:
            raise SiteError(f"site '{self}': the model has no MLPs ({facts})")
        if self.kind == "resid_mid" and facts.parallel:
            raise SiteError(
                f"site '{self}': attention and MLP run in parallel in this model, so there is no "
                f"residual stream between them; use '{self.layer}.resid_pre'. ({facts})"
            )
        if self.kind == "logits" and not facts.language_model:
            raise SiteError(f"site 'logits': the model has no unembedding ({facts})")
        if wrong:
            raise SiteError(
                f"the model has no site '{self}': {' and '.join(wrong)}. "
                f"The nearest site is '{fixed}'. The model is {facts}."
            )
        return self


def resolve(selector: "str | Site | Iterable[str | Site]", facts: Facts) -> tuple[Site, ...]:
    """The sites that a selector names, checked against the model, in order of computation.

    A selector is `"heads"`, `"mlps"`, `"attn"`, `"layers"` (resid_post), `"neurons"`,
    `"resid_pre"`, `"resid_mid"`, `"resid_post"`, one site, or a list of sites and selectors.

    Raises:
        SiteError: unknown text, a site that the model has not, or an empty selection.
    """
    sites = sorted(set(_expand(selector, facts)))
    if not sites:
        raise SiteError(f"the selection {selector!r} names no site; give at least one")
    return tuple(site.check(facts) for site in sites)


def _expand(selector: "str | Site | Iterable[str | Site]", facts: Facts) -> Sequence[Site]:
    if isinstance(selector, Site):
        return [selector]
    if not isinstance(selector, str):
        return [site for part in selector for site in _expand(part, facts)]
    kind = _SELECTORS.get(selector)
    if kind is None:
        return [Site.parse(selector)]
    layers = range(facts.n_layers)
    if kind == "z":
        return [Site(kind, layer, head=h) for layer in layers for h in range(facts.n_heads)]
    if kind == "mlp_act":
        return [Site(kind, layer, neuron=i) for layer in layers for i in range(facts.d_mlp)]
    return [Site(kind, layer) for layer in layers]


def _hint(word: str) -> str:
    examples = ["23.3", "23.3.q", "23.kv1.k", "12.mlp", "12.attn", "12.resid_pre", "12.mlp[307]"]
    digits = re.match(r"[Ll]?(\d+)[.Hh]+(\d+)", word)
    if digits:
        return f"did you mean '{digits[1]}.{digits[2]}'?"
    layer = re.match(r"(\d+)\.(.+)", word)
    if layer:
        forms = [*_WHOLE, "0", "0.q", "0.k", "0.v", "kv0.k", "kv0.v", "mlp[0]"]
        return nearest(layer[2], forms).replace("'", f"'{layer[1]}.", 1)
    return nearest(word, [*_SELECTORS, "embed", "logits"]) + (
        " Sites are written like " + ", ".join(examples) + "."
    )
