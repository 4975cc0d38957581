"""What must hold in an encoder-decoder whatever its weights, and what is refused in words."""

import pytest
import torch

import interp
from interp.core.errors import PairsError, PositionError, SiteError, Unsupported
from interp.core.parts.edges import edges, feeds
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose, weights_of
from interp.engine.engines.hooked.engine import Hooks
from interp.engine.engines.replay.two import ReplayOfTwo
from interp.engine.interventions import Cell, Freeze, Hop, Intervention, Resample
from interp.models.model import Model

FAMILIES = ["t5", "t5-gated", "bart", "mbart", "marian", "m2m100"]
PREFIX = (4, 7, 2)


@pytest.fixture(params=FAMILIES)
def model(tiny_model, request: pytest.FixtureRequest) -> Model:
    return tiny_model(request.param)


@pytest.fixture
def both(pairs: Pairs) -> Pairs:
    """The pairs of every test, with a decoder that has written something."""
    rows = {
        side: [row[:n] for row, n in zip(ids.tolist(), pairs.lengths.tolist(), strict=True)]
        for side, ids in (("clean", pairs.clean), ("corrupt", pairs.corrupt))
    }
    named = {name: pairs.positions[name] for name in ("mid", "late")}
    answers = {"correct": pairs.correct, "wrong": pairs.wrong}
    return Pairs.from_tokens(
        **rows, **answers, positions=named, decoder=PREFIX, template=pairs.template
    )


def values(model: Model, pairs: Pairs) -> dict[str, torch.Tensor]:
    """The metric of both sides, row by row."""
    found = interp.evaluate(model, pairs, metric="logit_diff").frame
    return {
        side: torch.tensor(part["value"].to_numpy()) for side, part in found.groupby("position")
    }


def patched(model: Model, pairs: Pairs, sites: object, **how: object) -> torch.Tensor:
    found = interp.patch(model, pairs, sites, direction="noise", **how)
    assert set(found.frame["engine"]) == {"replay"}
    return torch.tensor(found.frame["value"].to_numpy())


def crossing(model: Model) -> list[str]:
    """Everything that the decoder reads of the encoder."""
    facts = model.facts
    return [
        f"dec.{layer}.cross.kv{head}.{kind}"
        for layer in range(facts.n_layers)
        for head in range(facts.n_heads)
        for kind in "kv"
    ]


@pytest.mark.plain
def test_all_that_the_decoder_reads_of_the_encoder_is_the_other_run_s_encoder(model, both):
    """As keys and values, as the encoder's last stream, as its parts, and edge by edge."""
    facts = model.facts
    parts = [s for s in resolve(["heads", "mlps"], facts) if s.stack == "enc"]
    writers = ["enc.0.resid_pre", *map(str, parts)]
    last = f"enc.{facts.n_encoder_layers - 1}.resid_post"
    ways: dict[str, list[str]] = {
        "keys and values": crossing(model),
        "the last stream": [last],
        "the first stream": ["enc.0.resid_pre"],
        "its parts": writers,
        "its edges across": [f"{w} -> {r}" for w in writers for r in crossing(model)],
    }
    truth = values(model, both)
    found = patched(model, both, ways).view(len(ways), -1)
    # the decoder of both runs reads the same
    assert (found - truth["corrupt"]).abs().max() < 1e-9
    assert (truth["corrupt"] - truth["clean"]).abs().min() > 1e-4


@pytest.mark.plain
def test_every_edge_is_the_other_run(model, both):
    """With all edges exchanged every reader reads the other run."""
    found = patched(model, both, {"all": "edges"})
    assert (found - values(model, both)["corrupt"]).abs().max() < 1e-9


@pytest.mark.plain
def test_a_path_across_is_a_key_that_is_set(model, both):
    """All that writes into the encoder, on the way into one value, is that value's other self."""
    reader = f"dec.{model.facts.n_layers - 1}.cross.2.v"
    parts = [s for s in resolve(["heads", "mlps"], model.facts) if s.stack == "enc"]
    writers = {"encoder": ["enc.0.resid_pre", *map(str, parts)]}
    path = interp.path_patch(model, both, senders=writers, receivers=reader, through="direct")
    value = patched(model, both, reader)
    assert (torch.tensor(path.frame["value"].to_numpy()) - value).abs().max() < 1e-9
    on = interp.path_patch(model, both, senders=writers, via=[reader], through="direct")
    head = interp.path_patch(
        model, both, senders=reader.removesuffix(".v"), receivers="logits", through="direct"
    )
    moved = on.frame["effect"].abs().max()
    assert 0 < moved < head.frame["effect"].abs().max() * 100


@pytest.mark.plain
@pytest.mark.parametrize("through", ["direct", "mlps", "all"])
def test_null_paths_and_edges_move_nothing(model, both, through):
    """The run's own values, along a path across and along its edges."""
    same = Pairs.from_tokens(
        clean=both.clean[[0, 2, 4], :7],
        corrupt=both.clean[[0, 2, 4], :7],
        correct=[3, 5, 7],
        wrong=[4, 6, 8],
        decoder=PREFIX,
    )
    found = interp.path_patch(
        model,
        same,
        senders=["enc.0.1", "enc.1.mlp"],
        via=["dec.0.cross.3.k", "dec.1.2.q"],
        through=through,
    )
    assert found.frame["effect"].abs().max() < 1e-12
    named = interp.patch(model, same, ["enc.0.1 -> dec.1.cross.3", "dec.0.cross.2 -> logits"])
    assert named.frame["effect"].abs().max() < 1e-12


@pytest.mark.plain
def test_a_batch_is_the_loop(model, both):
    """Cells of both stacks, alone and together, in rows that run together and apart."""
    sites = ["enc.0.1", "enc.2.mlp", "dec.0.3", "dec.1.cross.2", "dec.1.cross.4.v", "enc.1.2.k"]
    cells = [*sites, "enc.0.mlp -> dec.0.cross.1.k", "enc.0.2 -> enc.1.3.v", "dec.0.mlp -> logits"]
    named = {cell: [cell] for cell in cells}  # in this order
    together = patched(model, both, named).view(len(cells), -1)
    alone = torch.stack([patched(model, both, cell) for cell in cells])
    assert (together - alone).abs().max() < 1e-12
    rows = torch.stack([patched(model, both.select([i]), named) for i in range(5)], 1)
    assert (together - rows).abs().max() < 1e-12


@pytest.mark.plain
@pytest.mark.parametrize("family", FAMILIES)
def test_captures_of_both_engines_are_the_same(tiny_model, both, family):
    model = tiny_model(family)
    sites = [*resolve(["heads", "mlps", "attn", "resid_pre", "resid_mid", "layers"], model.facts)]
    sites += [
        Site.parse(f"{at}.2.{kind}")
        for at in ("enc.1", "dec.1", "dec.0.cross")
        for kind in ("q", "k", "v", "pattern")
    ]
    sites += [Site.parse("enc.2.mlp[3]"), Site.parse("dec.1.mlp[7]")]
    both = both.select([0, 2, 4])  # of one length
    one, two = (interp.capture(model, both, sites, engine=name) for name in ("replay", "hooks"))
    assert one.provenance["engine"] == "replay"
    for site in sites:
        assert (one[site] - two[site]).abs().max() < 1e-11, site
        assert site.neuron is not None or one[site].abs().max() > 0  # one may be shut by ReLU
    early = interp.capture(model, both, "enc.0.mlp", engine="replay")
    assert torch.equal(early["enc.0.mlp"], one["enc.0.mlp"])


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_means_and_each_position(model, both):
    reference = interp.MeanReference.fit(model, both, ["enc.0.1", "dec.1.cross.2"], by="position")
    sites = ["enc.0.1", "dec.1.cross.2"]
    found = [
        interp.ablate(model, both, sites, method="mean", reference=reference, engine=engine)
        for engine in ("replay", "hooks")
    ]
    one, two = (torch.tensor(f.frame["value"].to_numpy()) for f in found)
    assert (one - two).abs().max() < 1e-10
    each = interp.ablate(model, both, "dec.1.mlp", method="zero", positions="each")
    assert sorted(set(each.frame["position"])) == ["0", "1", "2", "3"]


@pytest.mark.plain
@pytest.mark.parametrize("family", ["t5", "marian"])
def test_a_target_longer_than_its_source_in_little_memory(tiny_model, family):
    """Batches are cut by the longer of both; every one of them gives the same numbers."""
    model = tiny_model(family)
    generator = torch.Generator().manual_seed(3)
    clean, corrupt = torch.randint(3, 29, (2, 4, 3), generator=generator).tolist()
    pairs = Pairs.from_tokens(
        clean=clean, corrupt=corrupt, correct=[3] * 4, wrong=[4] * 4, decoder=[5, 9, 8, 7] * 3
    )
    sites = ["heads", "mlps", "enc.0.1 -> dec.1.cross.2.v"]
    call = (interp.patch, model, pairs, sites)
    wide, small = interp.explain(*call), interp.explain(*call, memory=interp.explain(*call).least)
    assert len(small.batches) > len(wide.batches)
    assert wide.batches[0].layers[1] == model.facts.n_encoder_layers + model.facts.n_layers - 1
    found = [
        interp.patch(model, pairs, sites, **how).frame["value"].to_numpy()
        for how in ({}, {"memory": small.budget})
    ]
    assert abs(found[0] - found[1]).max() < 1e-12
    hooks = interp.patch(model, pairs, sites[:2], engine="hooks").frame["value"].to_numpy()
    assert abs(found[0][: len(hooks)] - hooks).max() < 1e-9


@pytest.mark.plain
def test_the_engine_that_serves(model, both):
    assert isinstance(choose(model), ReplayOfTwo)
    assert isinstance(choose(model, "hooks"), Hooks)
    plan = interp.explain(interp.ablate, model, both, "heads", method="zero")
    assert plan.engine == "replay"


def test_edges_are_what_feeds_whom(tiny_model):
    """Within a stack what was written before; across, all of the encoder and nothing back."""
    facts = tiny_model("t5").facts
    every = list(edges("edges", facts))
    assert len(every) == len(set(every))
    across = [e for e in every if e.writer.stack == "enc" and e.reader.stack == "dec"]
    # what enters, 18 heads and 3 MLPs; 6 keys and 6 values in each of 2 layers
    assert len(across) == 22 * 24
    assert all(e.reader.cross and e.reader.kind in "kv" for e in across)
    assert not any(e.writer.stack == "dec" and e.reader.stack == "enc" for e in every)
    heads, within = range(6), [e for e in every if e.writer.stack == e.reader.stack == "enc"]
    # readers of a layer: 6 queries, 6 keys, 6 values, and the MLP after 6 heads
    assert len(within) == sum(18 * (1 + 7 * n) + 1 + 7 * n + 6 for n in range(3))
    into = [e for e in every if e.writer.stack == "dec"]
    # of a decoder: 18 inputs of its own heads, 6 queries across after 6 heads, the MLP after 12
    own = sum(18 * (1 + 13 * n) + 6 * (1 + 13 * n + 6) + 1 + 13 * n + 12 for n in range(2))
    assert len(into) == own + 1 + 13 * 2
    assert all(e.check(facts) == e for e in every)
    assert not feeds(Site.parse("dec.1.cross.2"), Site.parse("dec.1.cross.3.q"), facts)
    assert feeds(Site.parse("dec.1.2"), Site.parse("dec.1.cross.3.q"), facts)
    assert len(heads) == facts.n_heads


@pytest.mark.parametrize(
    "edge, words",
    [
        ("dec.0.1 -> enc.1.2.q", "no path from 'dec.0.1' to 'enc.1.2.q': the encoder is computed"),
        ("dec.0.1 -> dec.1.cross.2.k", "'dec.1.cross.2.k' reads the encoder's last residual"),
        ("enc.0.1 -> dec.1.2.q", "reads the decoder's residual stream: what an encoder writes"),
        ("enc.0.1 -> logits", "keys and values of cross-attention"),
        ("dec.1.cross.2 -> dec.1.3.q", "not computed before its reader"),
        ("0.1 -> 1.2.q", "has an encoder and a decoder, so say which"),
        ("embed -> dec.1.2.q", "give 'enc.0.resid_pre' or 'dec.0.resid_pre'"),
    ],
)
def test_edges_that_there_are_not(tiny_model, both, edge, words):
    with pytest.raises(SiteError, match=words):
        interp.patch(tiny_model("t5"), both, edge)


@pytest.mark.parametrize(
    "path, words",
    [
        ({"senders": "dec.0.1", "receivers": "enc.1.2.q"}, "the sender is computed after"),
        ({"senders": "dec.0.1", "receivers": "dec.1.cross.2.k"}, "no path from 'dec.0.1' to"),
        ({"senders": "enc.0.1"}, "no path from 'enc.0.1' to logits passes through MLPs alone"),
        (
            {"senders": {"two": ["enc.0.1", "dec.0.2"]}, "receivers": "dec.1.cross.2.k"},
            "no path from 'dec.0.2'",
        ),
        (
            {"senders": "enc.0.1", "receivers": "dec.1.cross.2", "through": "all"},
            "read the streams of two stacks",
        ),
        ({"senders": "0.1"}, "has an encoder and a decoder, so say which"),
        ({"senders": "enc.0.1", "receivers": "1.2.q"}, "has an encoder and a decoder, so say"),
    ],
)
def test_paths_that_there_are_not(tiny_model, both, path, words):
    with pytest.raises(SiteError, match=words):
        interp.path_patch(tiny_model("t5"), both, **path)


def test_positions_of_a_hop_are_those_that_its_receivers_read(tiny_model, both):
    model = tiny_model("t5")
    found = interp.path_patch(
        model, both, senders="enc.0.1", receivers="dec.1.cross.2.k", receiver_positions="mid"
    )
    assert found.frame["effect"].abs().max() > 1e-6
    with pytest.raises(PositionError, match=r"'dec\.1\.2\.q' stands in the decoder, which has 4"):
        interp.path_patch(
            model, both, senders="dec.0.1", receivers="dec.1.2.q", receiver_positions="mid"
        )


def test_a_head_across_is_reached_on_the_way_that_there_is(tiny_model, both):
    """By its query from the decoder, by its key and value from the encoder."""
    found = interp.path_patch(
        tiny_model("t5"), both, senders=["enc.0.1", "dec.0.cross.2"], via=["dec.1.cross.3"]
    ).frame
    ways = dict(zip(found["site"], found["receiver"], strict=True))
    assert ways == {
        "enc.0.1": "dec.1.cross.3.k+dec.1.cross.3.v -> logits",
        "dec.0.cross.2": "dec.1.cross.3.q -> logits",
    }


def test_interventions_of_one_s_own(tiny_model, both):
    """A cell with hops is refused as a path is; with readers, as an edge is."""
    with pytest.raises(SiteError, match="no edge from 'enc.0.1' to 'logits'"):
        Intervention("enc.0.1", Resample("corrupt"), readers="logits")
    one = Intervention("dec.0.1", Resample("corrupt"))
    with pytest.raises(SiteError, match="no path from 'dec.0.1' to 'dec.1.cross.0.v'"):
        Cell("mine", "all", (one,), (Hop("dec.1.cross.0.v"),))
    other = Intervention("enc.0.1", Freeze())
    with pytest.raises(SiteError, match="read the streams of two stacks"):
        Cell("mine", "all", (other,), (Hop(["enc.1.0.v", "dec.1.0.v"], "all"),))


def test_hooks_have_no_paths_of_two_stacks(tiny_model, both):
    for ask in (
        lambda **how: interp.patch(tiny_model("bart"), both, "enc.0.1 -> enc.1.2.q", **how),
        lambda **how: interp.path_patch(
            tiny_model("bart"), both, senders="enc.0.1", receivers="dec.1.cross.2.k", **how
        ),
    ):
        with pytest.raises(Unsupported, match="no paths and edges in encoder-decoders"):
            ask(engine="hooks")


@pytest.mark.plain
def test_what_the_decoder_cannot_read(tiny_model, pairs):
    few = {"clean": [[3, 4, 5]], "corrupt": [[3, 6, 5]], "correct": [3], "wrong": [4]}
    long = Pairs.from_tokens(**few, decoder=[3] * 16)
    with pytest.raises(PairsError, match=r"reads 17 tokens in row 0 .*positions for 16"):
        interp.evaluate(tiny_model("bart"), long)
    foreign = Pairs.from_tokens(**few, decoder=[3, 29])
    with pytest.raises(PairsError, match=r"row 0 of the clean target has token 29.*ends at 28"):
        interp.evaluate(tiny_model("bart"), foreign)


def test_what_is_asked_of_weights(tiny_model):
    with pytest.raises(Unsupported, match=r"asked of one stack of layers.*interp\.ablate"):
        weights_of(tiny_model("bart"))


@pytest.mark.plain
@pytest.mark.parametrize(
    "written, words",
    [
        ([[4, 7], [4]], r"these are 2 lists of 1 to 2 ids\. Rows whose targets differ"),
        ([[4, 7], [4, 8]], r"these are 2 lists of 2 ids\. Rows whose targets differ"),
        (torch.tensor([[4, 7, 9]]), r"these are 1 lists of 3 ids"),
    ],
)
def test_targets_of_each_row_are_run_apart(written, words):
    with pytest.raises(PairsError, match=words):
        Pairs.from_tokens(clean=[[3, 4], [5, 6]], corrupt=[[3, 7], [5, 8]], decoder=written)
