from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import SiteError
from interp.core.parts.facts import Facts
from interp.core.parts.sites import HEAD_KINDS, KINDS, STATES, Site, resolve

FACTS = Facts(
    architecture="TinyForCausalLM",
    n_layers=5,
    n_heads=6,
    n_kv_heads=2,
    d_model=12,
    d_head=4,
    d_mlp=7,
    d_vocab=19,
    n_ctx=32,
    norm="rms",
    positions="rotary",
    block="pre",
    parallel=False,
    gated=True,
    causal=True,
    language_model=True,
)

MIXTURE = replace(FACTS, n_experts=3)
LSTM = replace(
    replace(FACTS, architecture="LSTM", n_heads=0, n_kv_heads=0, d_head=0, d_mlp=0),
    norm="none",
    positions="none",
    gated=False,
    recurrent=True,
)

index = st.integers(0, 10**6)
small = st.integers(0, 9)
WHOLE = [k for k in KINDS if k not in (*HEAD_KINDS, "mlp_act", "expert", "embed", "logits")]


def sites(index: st.SearchStrategy[int]) -> st.SearchStrategy[Site]:
    return st.one_of(
        st.sampled_from([Site("embed"), Site("logits")]),
        st.builds(Site, st.sampled_from(WHOLE), layer=index),
        st.builds(Site, st.sampled_from(HEAD_KINDS), layer=index, head=index),
        st.builds(Site, st.sampled_from(["k", "v"]), layer=index, group=index),
        st.builds(Site, st.just("mlp_act"), layer=index, neuron=index),
        st.builds(Site, st.just("expert"), layer=index, expert=index),
        st.builds(Site, st.sampled_from(STATES), layer=index, neuron=index),
    )


@given(sites(index))
def test_text_form_round_trips(site):
    assert Site.parse(str(site)) == site
    assert Site.parse(f" {site}\n") == site
    assert Site.parse(site) is site


def test_every_kind_has_a_text_form():
    every = [Site("embed"), Site("logits"), Site("mlp_act", 1, neuron=2), Site("k", 1, group=2)]
    every += [Site("expert", 1, expert=2)]
    every += [Site(k, 1) for k in WHOLE] + [Site(k, 1, head=2) for k in HEAD_KINDS]
    assert {s.kind for s in every} == set(KINDS)
    assert len({str(s) for s in every}) == len(every)


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("23.3", Site("z", 23, head=3)),
        ("23.3.q", Site("q", 23, head=3)),
        ("23.3.pattern", Site("pattern", 23, head=3)),
        ("23.kv1.k", Site("k", 23, group=1)),
        ("12.mlp", Site("mlp_out", 12)),
        ("12.attn", Site("attn_out", 12)),
        ("12.resid_pre", Site("resid_pre", 12)),
        ("12.mlp[307]", Site("mlp_act", 12, neuron=307)),
        ("12.router", Site("router", 12)),
        ("12.expert[5]", Site("expert", 12, expert=5)),
        ("embed", Site("embed")),
        ("2.h", Site("h", 2)),
        ("2.c[41]", Site("c", 2, neuron=41)),
    ],
)
def test_documented_forms(text, site):
    assert Site.parse(text) == site
    assert str(site) == text


@given(sites(small), sites(small), sites(small))
def test_order_is_total(a, b, c):
    assert (a < b) + (b < a) + (a == b) == 1
    assert not (a < b and b < c) or a < c
    assert (a <= b) == (a < b or a == b)


def test_order_is_that_of_computation():
    layer = "{0}.resid_pre {0}.1.q {0}.kv0.k {0}.0.k {0}.1.k {0}.1.v {0}.1.pattern {0}.0 {0}.1"
    layer += " {0}.attn {0}.resid_mid {0}.mlp[2] {0}.mlp[10] {0}.mlp {0}.resid_post"
    text = " ".join(["embed", layer.format(0), layer.format(2), layer.format(10), "logits"])
    state = "{0}.c {0}.c[2] {0}.c[10] {0}.h {0}.h[0]"
    for words in (text, f"embed {state.format(0)} {state.format(1)} logits"):
        expected = [Site.parse(word) for word in words.split()]
        shuffled = sorted(expected, key=lambda site: str(site)[::-1])
        assert shuffled != expected
        assert sorted(shuffled) == expected


def test_a_site_needs_its_own_indices():
    for bad in (
        {"kind": "z", "layer": 3},
        {"kind": "embed", "layer": 0},
        {"kind": "mlp_out", "layer": 1, "head": 0},
        {"kind": "q", "layer": 1, "group": 0},
        {"kind": "k", "layer": 1, "head": 0, "group": 0},
        {"kind": "mlp_act", "layer": 1},
        {"kind": "resid_pre"},
    ):
        with pytest.raises(SiteError, match="is addressed by"):
            Site(**bad)
    with pytest.raises(SiteError, match="'k' site is addressed by layer and head or layer and gro"):
        Site("k", 1)


@pytest.mark.parametrize(
    ("selector", "count", "first", "last"),
    [
        ("heads", 30, "0.0", "4.5"),
        ("mlps", 5, "0.mlp", "4.mlp"),
        ("attn", 5, "0.attn", "4.attn"),
        ("layers", 5, "0.resid_post", "4.resid_post"),
        ("neurons", 35, "0.mlp[0]", "4.mlp[6]"),
        ("resid_pre", 5, "0.resid_pre", "4.resid_pre"),
        ("resid_mid", 5, "0.resid_mid", "4.resid_mid"),
        ("logits", 1, "logits", "logits"),
        ("3.kv1.v", 1, "3.kv1.v", "3.kv1.v"),
    ],
)
def test_selectors(selector, count, first, last):
    found = resolve(selector, FACTS)
    assert (len(found), str(found[0]), str(found[-1])) == (count, first, last)


@pytest.mark.parametrize(
    ("selector", "count", "first", "last"),
    [
        ("units", 60, "0.h[0]", "4.h[11]"),
        ("layers", 5, "0.h", "4.h"),
        ("h", 5, "0.h", "4.h"),
        ("c", 5, "0.c", "4.c"),
        ("4.c[11]", 1, "4.c[11]", "4.c[11]"),
    ],
)
def test_selectors_of_a_recurrent_model(selector, count, first, last):
    found = resolve(selector, LSTM)
    assert (len(found), str(found[0]), str(found[-1])) == (count, first, last)


@pytest.mark.parametrize(
    ("asked", "lacks"),
    [
        *(("heads", "heads"), ("0.0.pattern", "heads"), ("attn", "attention")),
        *(("mlps", "MLPs"), ("0.mlp[1]", "MLPs"), ("resid_pre", "residual stream")),
    ],
)
def test_a_recurrent_model_says_what_it_has_instead(asked, lacks):
    with pytest.raises(SiteError) as caught:
        resolve(asked, LSTM)
    assert f"'{asked}'" in str(caught.value)
    assert (
        f"an LSTM has no {lacks}; sites of it are '0.h' and '0.c' (the hidden and the cell state "
        "of layer 0), '0.h[3]' and '0.c[3]' (of one unit) and 'embed'"
    ) in str(caught.value)
    assert "LSTM: 5 layers, d_model 12, vocabulary 19" in str(caught.value)


@pytest.mark.parametrize("asked", ["units", "h", "c", "0.h", "0.c[1]"])
def test_states_are_of_recurrent_models_alone(asked):
    with pytest.raises(SiteError, match="not recurrent, so no state is handed from position to"):
        resolve(asked, FACTS)


def test_a_unit_that_there_is_not():
    with pytest.raises(
        SiteError, match=r"unit 12 is outside 0 to 11. The nearest site is '3.c\[11"
    ):
        resolve("3.c[12]", LSTM)


def test_lists_mix_are_sorted_and_have_no_doubles():
    parts = ["heads", "4.5", Site("embed"), "mlps", "4.mlp"]
    expected = tuple(sorted({*resolve("heads", FACTS), *resolve("mlps", FACTS), Site("embed")}))
    for order in permutations(parts):
        assert resolve(list(order), FACTS) == expected
    assert resolve((s for s in parts), FACTS) == expected


@given(sites(st.integers(0, 8)))
def test_resolve_takes_what_the_model_has_and_names_what_is_nearest(site):
    state = site.kind in STATES
    facts, limits = (LSTM, (5, 0, 0, 12, 0)) if state else (MIXTURE, (5, 6, 2, 7, 3))
    indices = site.layer, site.head, site.group, site.neuron, site.expert
    inside = all(i is None or i < limit for i, limit in zip(indices, limits, strict=True))
    if inside:
        assert resolve(site, facts) == (site,)
        return
    with pytest.raises(SiteError) as caught:
        resolve(str(site), facts)
    nearest = str(caught.value).split("The nearest site is '")[1].split("'")[0]
    assert resolve(nearest, facts)[0].kind == site.kind
    assert str(facts) in str(caught.value)


SHAPE = (
    "LlamaForCausalLM: 30 layers, 9 heads (3 key-value groups), d_model 576, d_head 64, "
    "d_mlp 1536, vocabulary 49152"
)
SMOL = replace(
    replace(FACTS, architecture="LlamaForCausalLM", n_layers=30, n_heads=9, n_kv_heads=3),
    d_model=576,
    d_head=64,
    d_mlp=1536,
    d_vocab=49152,
)


@pytest.mark.parametrize(
    ("text", "reason", "nearest"),
    [
        ("30.0", "layer 30 is outside 0 to 29", "29.0"),
        ("5.9", "head 9 is outside 0 to 8", "5.8"),
        ("5.kv3.k", "key-value group 3 is outside 0 to 2", "5.kv2.k"),
        ("5.mlp[1536]", "neuron 1536 is outside 0 to 1535", "5.mlp[1535]"),
        ("31.12.q", "layer 31 is outside 0 to 29 and head 12 is outside 0 to 8", "29.8.q"),
    ],
)
def test_what_the_model_has_not(text, reason, nearest):
    with pytest.raises(SiteError) as caught:
        resolve(["0.0", text], SMOL)
    assert str(caught.value) == (
        f"there is no site '{text}': {reason}. The nearest site is '{nearest}'. "
        f"The model is {SHAPE}."
    )


def test_negative_indices_do_not_count_from_the_end():
    with pytest.raises(SiteError, match=r"layer -1 is outside 0 to 4.*nearest site is '0.2'"):
        resolve(Site("z", -1, head=2), FACTS)


def test_parts_that_an_architecture_lacks():
    bare = replace(FACTS, d_mlp=0)
    for text in ("0.mlp", "0.mlp[0]", "0.resid_mid", "mlps"):
        with pytest.raises(SiteError, match="has no MLPs"):
            resolve(text, bare)
    with pytest.raises(SiteError, match=r"'neurons' names no site.*d_mlp 0"):
        resolve("neurons", bare)
    with pytest.raises(SiteError, match="no unembedding"):
        resolve("logits", replace(FACTS, language_model=False))
    with pytest.raises(SiteError, match=r"run in parallel.*nearest site is '4.resid_pre'"):
        resolve("9.resid_mid", replace(FACTS, parallel=True))


@pytest.mark.parametrize("empty", [[], ()])
def test_an_empty_selection_is_refused(empty):
    with pytest.raises(SiteError, match="names no site; give at least one"):
        resolve(empty, FACTS)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5.mpl", "did you mean '5.mlp'?"),
        ("5.attn_out", "did you mean '5.attn'?"),
        ("11.residpost", "did you mean '11.resid_post'"),
        ("L5H3", "did you mean '5.3'?"),
        ("5.h3", "did you mean '5.3'?"),
        ("5,3", "did you mean '5.3'?"),
        ("5.mlp307", "did you mean '5.mlp[307]'?"),
        ("5.c41", "did you mean '5.c[41]'?"),
        ("heds", "did you mean 'heads'"),
        ("embd", "did you mean 'embed'"),
        ("5.3.w", "head 3 of layer 5 has '5.3.q', '5.3.k', '5.3.v', '5.3.pattern', and '5.3', its"),
        ("5.kv1.q", "a key-value group has a key, '5.kv1.k', and a value, '5.kv1.v'."),
        ("5.q", "'q' belongs to a head: '5.0.q' is that of head 0."),
        ("5", "layer 5 has heads, '5.0', neurons, '5.mlp[0]', and '5.attn', '5.mlp'"),
        ("blocks.5.attn.hook_z", "'z' belongs to a head: '5.0' is that of head 0."),
        ("blocks.5.hook_resid_pre", "did you mean '5.resid_pre'?"),
        ("-1.3", "counted from 0"),
        ("20.1 -> 23.3.q", "Edge.parse"),
        ("", "Sites are written like 23.3, 23.3.q, 23.kv1.k, 12.mlp"),
        ("final", "known: 'heads', 'mlps'"),
    ],
)
def test_typos_get_a_hint(text, hint):
    with pytest.raises(SiteError) as caught:
        resolve(text, FACTS)
    assert str(caught.value).startswith(f"{text!r} is not a site; ")
    assert hint in str(caught.value)


def test_one_site_is_asked_for_and_a_selector_given():
    with pytest.raises(SiteError, match="'heads' is not a site; it selects many"):
        Site.parse("heads")


@given(st.text(st.sampled_from("0123456789.LHhkvqmlpz[]_-> aresidnto"), max_size=12))
def test_any_text_is_a_site_or_gets_a_message(text):
    try:
        site = Site.parse(text)
    except SiteError as error:
        message = str(error)
    else:
        message = repr(text)
        assert Site.parse(str(site)) == site
    assert message.startswith(repr(text))
