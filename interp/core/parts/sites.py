"""Sites: the addresses of activations.

| text | site |
| --- | --- |
| `"23.3"` | z, the output of head 3 in layer 23 before W_O |
| `"23.3.q"`, `"23.3.k"`, `"23.3.v"` | query, key, value of that head, *as this head reads them* |
| `"23.kv1.k"`, `"23.kv1.v"` | key and value of a whole group (grouped-query attention) |
| `"23.3.pattern"` | attention probabilities of that head, of tokens (a sink has the rest, if any) |
| `"12.attn"`, `"12.mlp"` | what the attention, the MLP writes into the residual stream |
| `"12.mlp[307]"` | activation of MLP neuron 307 |
| `"12.router"` | of a mixture of experts: the weight of each expert, 0 if it was not chosen |
| `"12.expert[5]"` | ... what expert 5 adds to its output: weighted, 0 if it was not chosen |
| `"12.resid_pre"` | residual stream before the layer |
| `"12.resid_mid"`, `"12.resid_post"` | ... between its attention and its MLP, after the layer |
| `"embed"`, `"logits"` | token (and learned position) embedding; the output |
| `"2.h"`, `"2.c"` | of a recurrent model: hidden state, cell state of a layer |
| `"2.h[41]"`, `"2.c[41]"` | ... of one unit |
| `"enc.0.3"`, `"dec.1.3.q"`, `"dec.1.cross.3"` | of an encoder-decoder: the stack comes first |

An edge names who reads: `"20.1 -> 23.3.q"` is the output of head 20.1 as 23.3's query reads it.
Between two stacks there are edges from what an encoder writes to the keys and values of
cross-attention: `"enc.0.3 -> dec.1.cross.3.k"`.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial, total_ordering
from typing import Literal, cast, get_args

import numpy as np
from torch import Tensor

from interp.core.door.taken import UNLISTED, shown
from interp.core.errors import SiteError, nearest
from interp.core.parts.facts import Facts

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
    "router",
    "mlp_act",
    "expert",
    "mlp_out",
    "resid_post",
    "c",
    "h",
    "logits",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order of computation within a layer."""

Stack = Literal["enc", "dec"]
HEAD_KINDS = ("q", "k", "v", "pattern", "z")
STATES: tuple[Kind, ...] = ("c", "h")
"""Of a recurrent layer: what its cells hold, and what they show, which is made of it."""
ROUTED: tuple[Kind, ...] = ("router", "expert")
"""Of a mixture of experts: their weights, and what each of them adds to its output."""
_WHOLE: dict[str, Kind] = {
    "attn": "attn_out",
    "mlp": "mlp_out",
    "router": "router",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
}
_SHORT = {kind: word for word, kind in _WHOLE.items()} | {kind: kind for kind in STATES}
_TEXT = re.compile(
    r"(?:(?P<stack>enc|dec)\.)?(?P<layer>\d+)\.(?:(?P<cross>cross)\.)?"
    r"(?:(?P<head>\d+)(?:\.(?P<head_kind>q|k|v|pattern|z))?"
    r"|kv(?P<group>\d+)\.(?P<group_kind>k|v)"
    r"|mlp\[(?P<neuron>\d+)\]"
    r"|expert\[(?P<expert>\d+)\]"
    r"|(?P<state>c|h)(?:\[(?P<unit>\d+)\])?"
    r"|(?P<whole>attn|mlp|router|resid_pre|resid_mid|resid_post))"
)
_EXAMPLES = ("23.3", "23.3.q", "23.kv1.k", "12.mlp", "12.attn", "12.resid_pre", "12.mlp[307]")
_SELECTORS: dict[str, Kind] = {
    "heads": "z",
    "mlps": "mlp_out",
    "attn": "attn_out",
    "layers": "resid_post",
    "neurons": "mlp_act",
    "routers": "router",
    "experts": "expert",
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "units": "h",
    "h": "h",
    "c": "c",
}


_AXES: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(KINDS, (("layer",),)),
    **dict.fromkeys(("embed", "logits"), ((),)),
    **dict.fromkeys(STATES, (("layer",), ("layer", "neuron"))),
    **dict.fromkeys(HEAD_KINDS, (("layer", "head"),)),
    **dict.fromkeys(("k", "v"), (("layer", "head"), ("layer", "group"))),
    "mlp_act": (("layer", "neuron"),),
    "expert": (("layer", "expert"),),
}
"""The indices that an address of a kind has; keys, values and states have two forms."""


@total_ordering
@dataclass(frozen=True)
class Site:
    """One activation of a model. Hashable, ordered by the time of its computation, prints as text.

    Attributes:
        kind: what the activation is.
        layer: 0-based; None for `embed` and `logits`.
        head: query head of a `q k v pattern z` site.
        group: key-value group of a `k` or `v` site that stands for the whole group.
        neuron: index into the MLP's hidden layer, or a unit of a recurrent layer's state.
        stack: of an encoder-decoder, which of the two.
        cross: the decoder's attention to the encoder, not to itself.
        expert: of a mixture.
    """

    kind: Kind
    layer: int | None = None
    head: int | None = None
    group: int | None = None
    neuron: int | None = None
    stack: Stack | None = None
    cross: bool = False
    expert: int | None = None

    def __post_init__(self) -> None:
        kind, axes = self.kind, ("layer", "head", "group", "neuron", "expert")
        forms = _AXES.get(kind) if isinstance(kind, str) else None
        if forms is None:
            raise SiteError(_no_kind(kind))
        given = tuple(axis for axis in axes if getattr(self, axis) is not None)
        for axis in given:
            if type(index := getattr(self, axis)) is not int and not _is_index(index):
                raise SiteError(
                    f"the {axis} of a site is a whole number, not {shown(index)}. Text is read by "
                    "Site.parse('23.3')."
                )
        stack = self.stack
        if stack is not None and (not isinstance(stack, str) or stack not in ("enc", "dec")):
            raise SiteError(
                f"a site's stack is 'enc' or 'dec', or None where a model has but one, not "
                f"{shown(stack)}."
            )
        if given not in forms:
            needed = " or ".join(" and ".join(form) or "nothing" for form in forms)
            raise SiteError(
                f"a {self.kind!r} site is addressed by {needed}, not by "
                f"{' and '.join(given) or 'nothing'}."
            )
        if self.layer is None and self.stack is not None:
            raise SiteError(f"{self.kind!r} belongs to no stack; 'enc.0.resid_pre' is what enters.")
        if self.cross is not False and self.cross is not True:
            raise SiteError(
                f"cross is True for a decoder's attention to the encoder, or False, not "
                f"{shown(self.cross)}."
            )
        if self.cross and (self.stack != "dec" or self.kind not in (*HEAD_KINDS, "attn_out")):
            raise SiteError(
                f"cross-attention is the decoder's, with heads and an output: 'dec.1.cross.3', "
                f"'dec.1.cross.attn'; not a {self.kind!r} of stack {self.stack!r}."
            )

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read the text form.

        Raises:
            SiteError: not a site; names the nearest text that is one.
        """
        if isinstance(text, Site):
            return text
        if not isinstance(text, str):  # no door: sites are read by the ten thousand
            raise SiteError(f"a site is text such as '23.3', or a Site, not {shown(text)}.")
        word = text.strip()
        if word in ("embed", "logits"):
            return cls(word)
        found = _TEXT.fullmatch(word)
        if found is None:
            raise SiteError(f"{text!r} is not a site; {_hint(word)}")
        layer = int(found["layer"])
        make = partial(cls, stack=cast(Stack | None, found["stack"]), cross=bool(found["cross"]))
        if found["head"] is not None:
            return make(cast(Kind, found["head_kind"] or "z"), layer, head=int(found["head"]))
        if found["group"] is not None:
            return make(cast(Kind, found["group_kind"]), layer, group=int(found["group"]))
        if found["neuron"] is not None:
            return make("mlp_act", layer, neuron=int(found["neuron"]))
        if found["expert"] is not None:
            return make("expert", layer, expert=int(found["expert"]))
        if found["state"] is not None:
            unit = None if found["unit"] is None else int(found["unit"])
            return make(cast(Kind, found["state"]), layer, neuron=unit)
        return make(_WHOLE[found["whole"]], layer)

    def __str__(self) -> str:
        if self.layer is None:
            return self.kind
        layer = ".".join(
            part
            for part in (self.stack, str(self.layer), "cross" if self.cross else None)
            if part is not None
        )
        if self.head is not None:
            return f"{layer}.{self.head}" + ("" if self.kind == "z" else f".{self.kind}")
        if self.group is not None:
            return f"{layer}.kv{self.group}.{self.kind}"
        if self.neuron is not None:
            return f"{layer}.{self.kind if self.kind in STATES else 'mlp'}[{self.neuron}]"
        if self.expert is not None:
            return f"{layer}.expert[{self.expert}]"
        return f"{layer}.{_SHORT[self.kind]}"

    @property
    def order(self) -> tuple[int, ...]:
        """Sort key: stack, layer, place in the layer, then head, group, neuron or expert."""
        indices = self.head, self.group, self.neuron, self.expert
        inner = (-1 if i is None else i for i in indices)
        layer, late = self.layer, self.stack == "dec"
        if layer is None:
            late = self.kind == "logits"
            layer = sys.maxsize if late else -1
        kind = KINDS.index(self.kind)
        # a decoder's cross-attention stands between its resid_mid and its MLP
        step = 1 if self.cross else 2 * (kind > KINDS.index("resid_mid"))
        return (int(late), layer, step, kind, *inner)

    def __lt__(self, other: "Site") -> bool:
        if not isinstance(other, Site):
            return NotImplemented
        return self.order < other.order

    @property
    def depth(self) -> int | None:
        """Layers that what stands here has behind it: 0 of the embedding, 4 of "3.resid_post" and
        of an LSTM's "3.h", 3 of head "3.1" and of all else in layer 3; None of the logits.
        """
        if self.layer is None:
            return 0 if self.kind == "embed" else None
        return self.layer + 1 if self.kind in ("resid_post", *STATES) else self.layer

    def check(self, facts: Facts) -> "Site":
        """Return the site if a model of these facts has it.

        Raises:
            SiteError: it has not; gives the nearest site that it has and the model's shape.
        """
        require_facts(facts)
        if reason := absent(self.kind, facts):
            raise SiteError(f"there is no site '{self}': {reason}. It is {facts}.")
        if self.kind in ("mlp_out", "mlp_act", "resid_mid") and facts.d_mlp == 0:
            raise SiteError(f"there is no site '{self}': the model has no MLPs. It is {facts}.")
        if self.kind in ROUTED and not facts.n_experts:
            raise SiteError(
                f"there is no site '{self}': the model is dense: no router chooses among experts, "
                f"and a layer's MLP is '{replace(self, kind='mlp_out', expert=None)}'. It is "
                f"{facts}."
            )
        if self.kind == "logits" and not facts.language_model:
            raise SiteError(
                f"there is no site 'logits': the model has no unembedding. It is {facts}."
            )
        if self.layer is not None and (self.stack is None) == bool(facts.n_encoder_layers):
            raise SiteError(
                f"there is no site '{self}': the model "
                + (
                    "has an encoder and a decoder, so say which: 'enc.0.3', 'dec.0.3', "
                    "'dec.0.cross.3'"
                    if facts.n_encoder_layers
                    else "is one stack of layers, so sites have no 'enc.' or 'dec.' before them"
                )
                + f". It is {facts}."
            )
        if self.kind == "embed" and facts.n_encoder_layers:
            raise SiteError(
                "there is no site 'embed': the model has an encoder and a decoder; give "
                "'enc.0.resid_pre' or 'dec.0.resid_pre'."
            )
        limits = {
            "layer": facts.n_encoder_layers if self.stack == "enc" else facts.n_layers,
            "head": facts.n_heads,
            "group": facts.n_kv_heads,
            "neuron": facts.d_model if self.kind in STATES else facts.d_mlp,
            "expert": facts.n_experts,
        }
        fixed, wrong = self, []
        for axis, limit in limits.items():
            index = getattr(self, axis)
            if index is not None and not 0 <= index < limit:
                name = "key-value group" if axis == "group" else axis
                name = "unit" if axis == "neuron" and self.kind in STATES else name
                wrong.append(f"{name} {index} is outside 0 to {limit - 1}")
                fixed = replace(fixed, **{axis: min(max(index, 0), limit - 1)})
        if self.kind == "resid_mid" and facts.parallel:
            fixed = replace(fixed, kind="resid_pre")
            wrong.append(
                "attention and MLP run in parallel, so no residual stream stands between them"
            )
        if wrong:
            raise SiteError(
                f"there is no site '{self}': {' and '.join(wrong)}. "
                f"The nearest site is '{fixed}'. The model is {facts}."
            )
        return self


def depth_of(site: str) -> int | None:
    """The depth of a site that is given as text; of a set of sites there is none."""
    try:
        return Site.parse(site).depth
    except SiteError:
        return None


def resolve(selector: "str | Site | Iterable[str | Site]", facts: Facts) -> tuple[Site, ...]:
    """The sites that a selector names, checked against the model, in order of computation.

    A selector is `"heads"`, `"mlps"`, `"attn"`, `"layers"` (resid_post), `"neurons"`,
    `"resid_pre"`, `"resid_mid"`, `"resid_post"`, `"experts"` and `"routers"` of a mixture, one
    site, or a list of sites and selectors. Of a recurrent model `"layers"` (h), `"h"`, `"c"` and
    `"units"` (h of each unit).

    Raises:
        SiteError: unknown text, a site that the model has not, or an empty selection.
    """
    require_facts(facts)
    sites = sorted(set(_expand(selector, facts)))
    if not sites:
        raise SiteError(f"the selection {selector!r} names no site; give at least one. ({facts})")
    return tuple(site.check(facts) for site in sites)


def _expand(selector: object, facts: Facts) -> Sequence[Site]:
    if isinstance(selector, Site):
        return [selector]
    if not isinstance(selector, str):
        odd = isinstance(selector, (*UNLISTED, Tensor))
        if odd or not isinstance(selector, Iterable):
            raise SiteError(
                f"{shown(selector)} names no site; give text such as '23.3' or 'heads', a Site, or "
                "a list of these."
            )
        return [site for part in selector for site in _expand(part, facts)]
    kind = _SELECTORS.get(selector)
    if kind is None:
        return [Site.parse(selector)]
    if selector == "layers" and facts.recurrent:
        kind = "h"
    if reason := absent(kind, facts):
        raise SiteError(f"{selector!r} selects nothing: {reason}. ({facts})")
    if kind in ROUTED and not facts.n_experts:
        raise SiteError(f"{selector!r} selects nothing: the model has no experts. ({facts})")
    if selector == "units":
        return [
            Site(kind, at, neuron=i) for at in range(facts.n_layers) for i in range(facts.d_model)
        ]
    return [site for make in _layers(facts, kind) for site in _in_layer(make, kind, facts)]


def require_facts(facts: object) -> None:
    """Refuse what is no shape of a model.

    Raises:
        SiteError: saying where it is found.
    """
    if not isinstance(facts, Facts):
        raise SiteError(
            f"sites are looked for in a model's facts, model.facts, not {shown(facts)}."
        )


def _is_index(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _no_kind(kind: object) -> str:
    """What to say of a site of a kind that there is not."""
    if isinstance(kind, str) and _TEXT.fullmatch(kind.strip()):
        return f"{kind!r} is a site as text, which Site.parse({kind!r}) reads."
    hint = nearest(kind, KINDS) if isinstance(kind, str) else f"kinds are {', '.join(KINDS)}."
    return f"there is no kind of site {shown(kind)}; {hint} Text is read by Site.parse('23.3')."


def absent(kind: Kind, facts: Facts) -> str | None:
    """Why a recurrent model has no such site, or one that is not recurrent; None if it may."""
    if facts.recurrent == (kind in STATES) or kind in ("embed", "logits"):
        return None
    if not facts.recurrent:
        return "the model is not recurrent, so no state is handed from position to position"
    part = "heads" if kind in HEAD_KINDS else "attention" if kind == "attn_out" else "MLPs"
    part = "residual stream" if kind.startswith("resid") else part
    return (
        f"an {facts.architecture} has no {part}; sites of it are '0.h' and '0.c' (the hidden and "
        "the cell state of layer 0), '0.h[3]' and '0.c[3]' (of one unit) and 'embed'"
    )


def _layers(facts: Facts, kind: Kind) -> Iterator[Callable[..., Site]]:
    """What makes a site of each layer, given the rest of its address."""
    if not facts.n_encoder_layers:
        yield from (partial(Site, layer=layer) for layer in range(facts.n_layers))
        return
    for layer in range(facts.n_encoder_layers):
        yield partial(Site, layer=layer, stack="enc")
    for layer in range(facts.n_layers):
        yield partial(Site, layer=layer, stack="dec")
        if kind in ("z", "attn_out"):
            yield partial(Site, layer=layer, stack="dec", cross=True)


def _in_layer(make: Callable[..., Site], kind: Kind, facts: Facts) -> Iterator[Site]:
    if kind == "z":
        return (make(kind, head=h) for h in range(facts.n_heads))
    if kind == "mlp_act":
        return (make(kind, neuron=i) for i in range(facts.d_mlp))
    if kind == "expert":
        return (make(kind, expert=i) for i in range(facts.n_experts))
    return iter([make(kind)])


def _hint(word: str) -> str:
    """What may have been meant by a text that is not a site."""
    if "->" in word:
        return "it is an edge: writer, then reader; Edge.parse reads it, and ablate and patch do."
    if re.search(r"(?<!\d)-\d", word):
        return "layers, heads and neurons are counted from 0, and none from the end."
    # names of TransformerLens: blocks.5.hook_mlp_out, blocks.5.attn.hook_q
    word = re.sub(r"^blocks\.|(attn\.)?hook_", "", word)
    if found := re.fullmatch(r"[Ll]?(\d+)[.,:\s]*[.,:\sHh](\d+)(.*)", word):
        head = f"{int(found[1])}.{int(found[2])}"
        if not found[3]:
            return f"did you mean '{head}'?"
        parts = ", ".join(f"'{head}.{kind}'" for kind in HEAD_KINDS if kind != "z")
        return f"head {found[2]} of layer {found[1]} has {parts}, and '{head}', its output."
    if found := re.match(r"[Ll]?(\d+)\.?(kv|mlp|expert|c|h)\D?(\d+)", word):
        layer, form, index = found.groups()
        if form != "kv":
            return f"did you mean '{layer}.{form}[{index}]'?"
        group = f"{layer}.kv{index}"
        return f"a key-value group has a key, '{group}.k', and a value, '{group}.v'."
    if found := re.fullmatch(r"[Ll]?(\d+)\.?(.*)", word):
        layer, rest = found.groups()
        if rest in HEAD_KINDS:
            return (
                f"{rest!r} belongs to a head: '{Site(rest, int(layer), head=0)}' is that of head 0."
            )
        near = [rest] if rest in _WHOLE else get_close_matches(rest, _WHOLE, n=3, cutoff=0.5)
        if near:
            return "did you mean " + " or ".join(f"'{layer}.{form}'" for form in near) + "?"
        forms = ", ".join(f"'{layer}.{form}'" for form in _WHOLE)
        return f"layer {layer} has heads, '{layer}.0', neurons, '{layer}.mlp[0]', and {forms}."
    meant = nearest(word, [*_SELECTORS, "embed", "logits"])
    if word in _SELECTORS:
        meant = "it selects many."
    return f"{meant} Sites are written like {', '.join(_EXAMPLES)}."
