"""Captures against traces and the oracle: what is kept, what is not, and on which machine state."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import interp
from interp.core.errors import (
    InterpError,
    PairsError,
    PositionError,
    ResultsError,
    SiteError,
    Unsupported,
)
from interp.core.files.sealed import read_note, write_note
from interp.core.parts.sites import Site, resolve
from interp.core.prompts.pairs import Pairs
from interp.engine.engines.choose import choose
from interp.engine.engines.replay.engine import Replay
from interp.engine.limits import PROCESSOR
from interp.engine.network.trace import KEPT, Trace
from interp.engine.plain.captures import capture as capturing
from interp.engine.plain.captures.capture import Captured, capture, load
from interp.engine.plain.means.means import MeanReference
from interp.engine.plain.taps import FEWEST, Layout, rows_at_once
from interp.models.model import Model

ENGINES = ("replay", "hooks")
KINDS = ["heads", "attn", "mlps", "resid_pre", "layers", "neurons", "embed", "1.2.pattern"]
KINDS += ["1.1.q", "0.5.k", "2.kv0.v", "1.resid_mid"]
TOLERANCE = 1e-12


@pytest.fixture
def llama(tiny_model: Callable[..., Model]) -> Model:
    """3 layers, 6 query heads, 2 key-value groups."""
    return tiny_model("llama")


def ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(tiny.VOCAB, (rows, length), generator=generator)


def lists(tokens: torch.Tensor, lengths: Iterable[int]) -> list[list[int]]:
    """Rows without their padding on the right."""
    return [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]


def traces(model: Model, pairs: Pairs) -> list[Trace]:
    """Of each row by itself."""
    kinds = (*KEPT, "pattern", "mlp_act")
    rows = [torch.tensor([row]) for row in lists(pairs.clean, pairs.lengths)]
    return [choose(model, "hooks").trace(row, keep=kinds) for row in rows]


def says(error: type[Exception], call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(error) as caught:
        call()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# what is captured


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_is_that_of_a_trace(llama, pairs, engine):
    with torch.inference_mode():
        found, alone = capture(llama, pairs, KINDS, engine=engine), traces(llama, pairs)
    for site in found:
        for row, run in zip(found.rows(site), alone, strict=True):
            truth = run.at(site)[0]
            assert row.shape == truth.shape
            assert (row - truth).abs().max() < TOLERANCE, site


@pytest.mark.parametrize("family", ["gpt2", "neox", "gemma2", "bert"])
def test_families_on_both_engines(tiny_model, family):
    model, tokens = tiny_model(family), ids(3, 6)
    sites = ["heads", "mlps", "layers", "embed", "0.1.q", "1.mlp[3]", "2.0.pattern"]
    one, two = (capture(model, tokens, sites, engine=e) for e in ("auto", "hooks"))
    assert one.sites == two.sites == resolve(sites, model.facts)
    for site in one:
        assert (one[site] - two[site]).abs().max() < 1e-10, site


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2-window", "cohere"])
def test_logits(tiny_model, family, engine):
    """Those of Hugging Face, of every position or of some, in rows of several lengths."""
    model, rows = tiny_model(family), [[3, 4, 5, 6], [7, 8], [9, 3, 2, 2]]
    found = capture(model, rows, ["logits", "1.mlp"], engine=engine)
    ends = capture(model, rows, "logits", positions="end", engine=engine)
    for row, of in enumerate(rows):
        truth = model.truth.run(torch.tensor([of]).to(model.device)).output[0]
        ours = found.rows("logits")[row]
        assert ours.shape == truth.shape
        assert (ours - truth).abs().max() < TOLERANCE
        assert (ends["logits"][row, 0] - truth[-1]).abs().max() < TOLERANCE
    alone = capture(model, rows, "1.mlp", engine=engine)
    assert (alone.rows("1.mlp")[1] - found.rows("1.mlp")[1]).abs().max() < TOLERANCE


def test_logits_that_are_no_activation(tiny_model, pairs):
    says(
        Unsupported,
        lambda: MeanReference.fit(tiny_model("gpt2"), pairs, "logits"),
        *("'logits' are no activation that a mean could be set at", "interp.capture(model, pairs"),
    )
    says(
        Unsupported,
        lambda: capture(tiny_model("t5"), pairs, ["logits"]),
        *("'logits' are no activation that this keeps of two stacks", "interp.evaluate"),
    )


def test_two_stacks(tiny_model, pairs):
    model = tiny_model("t5")
    same = Pairs.from_tokens(clean=ids(3, 6), corrupt=ids(3, 6), decoder=(4, 7))
    sites = ["enc.1.2", "dec.1.2", "dec.0.cross.3.pattern", "dec.0.cross.1.k", "dec.1.resid_post"]
    found = capture(model, same, sites)
    assert found["enc.1.2"].shape == (3, 6, 5)
    assert found["dec.1.2"].shape == (3, 3, 5)
    assert found["dec.0.cross.3.pattern"].shape == (3, 3, 6)
    assert found["dec.0.cross.1.k"].shape == (3, 6, 5)
    assert (found["dec.0.cross.3.pattern"].sum(-1) - 1).abs().max() < 1e-12
    assert capture(model, same, "enc.1.2", positions="end")["enc.1.2"].shape == (3, 1, 5)
    assert capture(model, same, ["enc.1.2", "dec.1.2"], positions=2)["dec.1.2"].shape[1] == 1
    last = capture(model, same, "dec.1.2", positions="end")["dec.1.2"][:, 0]
    assert torch.equal(last, found["dec.1.2"][:, 2])
    says(
        PositionError,
        lambda: capture(model, same, "dec.1.2", positions="mid"),
        *("'mid'", "decoder", "which has 3", "'all' or an index", "target_positions="),
    )


def test_positions_are_those_asked_for_in_that_order(llama, pairs):
    whole = capture(llama, pairs, ["1.2", "1.2.pattern", "2.mlp[3]", "2.mlp[9]"])
    some = capture(llama, pairs, whole.sites, positions=["end", "mid", 1])
    assert some.positions == ("end", "mid", 1)
    for site in whole:
        for n, (part, row) in enumerate(zip(some.rows(site), whole.rows(site), strict=True)):
            at = [int(pairs.at("end")[n]), int(pairs.at("mid")[n]), 1]
            assert torch.equal(part, row[at])
    assert some["1.2"].shape == (5, 3, 4)
    assert some["2.mlp[9]"].shape == (5, 3)


def test_a_side_of_pairs(llama, pairs):
    for side in ("clean", "corrupt"):
        found = capture(llama, pairs, "1.mlp", side=side).rows("1.mlp")
        tokens = lists(getattr(pairs, side), pairs.lengths)
        for a, b in zip(found, capture(llama, tokens, "1.mlp").rows("1.mlp"), strict=True):
            assert torch.equal(a, b)


def test_padding_on_either_side_is_no_padding(llama):
    tokens, lengths = ids(4, 8), torch.tensor([8, 5, 8, 3])
    left, right = torch.full((4, 11), 17), torch.full((4, 11), 23)
    for n, length in enumerate(lengths.tolist()):
        left[n, 11 - length :] = tokens[n, :length]
        right[n, :length] = tokens[n, :length]
    place = torch.arange(11)
    masks = (place >= 11 - lengths[:, None], place < lengths[:, None])
    truth = capture(llama, lists(tokens, lengths), "heads")
    for padded, mask in zip((left, right), masks, strict=True):
        for kind in (mask, mask.long()):
            found = capture(llama, padded, "heads", mask=kind)
            for site in truth:
                for a, b in zip(found.rows(site), truth.rows(site), strict=True):
                    assert torch.equal(a, b)
            ends = capture(llama, padded, "2.mlp", mask=kind, positions="end")["2.mlp"]
            rows = capture(llama, padded, "2.mlp", mask=kind).rows("2.mlp")
            last = torch.stack([row[-1:] for row in rows])
            assert torch.equal(ends, last)


@pytest.mark.plain
@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    batch=st.none() | st.integers(1, 4),
    positions=st.sampled_from(["all", "end", 0]),
)
def test_the_rows_do_not_depend_on_how_they_run(llama, tmp_path_factory, lengths, batch, positions):
    rows = [ids(1, n, seed)[0].tolist() for seed, n in enumerate(lengths)]
    sites = ["1.0", "1.3", "1.4.v", "0.mlp", "2.1.pattern"]
    folder = tmp_path_factory.mktemp("shards")
    options = {"positions": positions, "batch": batch}
    stored = capture(llama, rows, sites, folder=folder / "x", **options)
    found = capture(llama, rows, sites, **options)
    each = [capture(llama, [row], sites, positions=positions) for row in rows]
    for site in sites:
        single = [one.rows(site)[0] for one in each]
        for a, b, c in zip(found.rows(site), single, stored.rows(site), strict=True):
            assert (a - b).abs().max() < TOLERANCE
            assert torch.equal(a, c)
        if len({row.shape for row in single}) == 1:
            assert torch.equal(found[site], torch.stack(found.rows(site)))
            assert torch.equal(found[site], stored[site])


# what is kept


def test_only_what_is_asked_for_stays_in_memory(llama):
    tokens = ids(4, 9)
    for sites, positions, numbers in (
        ("1.3", "all", 4 * 9 * 4),
        ("1.3", "end", 4 * 4),
        ("2.resid_post", [0, 2], 4 * 2 * 30),
        ("1.mlp[7]", "all", 4 * 9),
        (["1.0", "1.5"], "all", 2 * 4 * 9 * 4),
        (["1.0.k", "1.1.k", "1.2.k", "1.kv0.k"], "all", 4 * 9 * 4),  # one key, four names
    ):
        found = capture(llama, tokens, sites, positions=positions)
        for site in found:
            assert found[site].untyped_storage().nbytes() == 8 * numbers
        assert found.bytes == 8 * numbers


def test_all_heads_of_a_layer_are_one_tensor(llama):
    found = capture(llama, ids(4, 9), "heads")
    bases = {found[site].untyped_storage().data_ptr() for site in found}
    assert len(bases) == llama.facts.n_layers
    assert found["1.0"].untyped_storage().nbytes() == 8 * 6 * 4 * 9 * 4
    assert all(found[site].is_contiguous() for site in found)


def test_nothing_that_runs_later_changes_what_was_captured(llama, pairs):
    found = capture(llama, pairs, KINDS)
    before = {site: [row.clone() for row in found.rows(site)] for site in found}
    interp.ablate(llama, pairs, ["heads", "mlps"], method="zero")
    interp.patch(llama, pairs, "mlps", engine="hooks")
    capture(llama, pairs, KINDS, side="corrupt", engine="hooks")
    for site, rows in before.items():
        for a, b in zip(found.rows(site), rows, strict=True):
            assert torch.equal(a, b)


def test_probes_can_be_trained_on_it(llama):
    """A tensor of inference mode could not be saved for the backward pass."""
    with torch.inference_mode():
        found = capture(llama, ids(4, 9), "1.mlp", positions="end")
    probe = torch.nn.Linear(30, 1, dtype=torch.float64)
    probe(found["1.mlp"]).sum().backward()
    assert probe.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(llama, tmp_path, dtype):
    tokens = ids(3, 5)
    exact = capture(llama, tokens, "heads")
    assert exact["0.1"].dtype == torch.float64
    for folder in (None, tmp_path / "shards"):
        found = capture(llama, tokens, "heads", dtype=dtype, folder=folder)
        assert torch.equal(found["1.2"], exact["1.2"].to(dtype))
        assert found.bytes == exact.bytes * dtype.itemsize // 8


def test_layers_above_the_last_site_do_not_run(llama, monkeypatch):
    asked = []
    walk = Replay.walk

    def counting(self, tokens, see, *, shelves, layers=None, written=None):
        asked.append((tuple(tokens.shape), layers, tuple(shelves)))
        walk(self, tokens, see, shelves=shelves, layers=layers)

    monkeypatch.setattr(Replay, "walk", counting)
    for site, layers in (("embed", 1), ("0.1", 1), ("1.resid_post", 2), ("2.mlp", 3)):
        capture(llama, ids(4, 6), site, batch=4)
        assert asked.pop()[:2] == ((4, 6), layers)
        assert not asked
    capture(llama, ids(5, 6), ["1.1", "1.mlp"], batch=2)
    assert [shape for shape, *_ in asked] == [(2, 6), (2, 6), (1, 6)]
    assert asked[0][1:] == (2, ("z", "mlp_out"))


def test_rows_in_a_forward_hold_little_beside_what_is_kept(llama):
    cpu = torch.device("cpu")
    assert rows_at_once(llama.facts, 1, 8, 1, cpu) == FEWEST
    assert rows_at_once(llama.facts, 1, 8, 1 << 40, cpu) == PROCESSOR.tokens
    assert rows_at_once(llama.facts, 5000, 8, 1 << 40, cpu) == 1
    assert rows_at_once(llama.facts, 64, 8, 1, torch.device("cuda")) > PROCESSOR.tokens // 64


# the noun


def test_a_capture_says_what_it_is(llama, pairs):
    found = capture(llama, pairs, ["heads", "1.mlp"])
    text = repr(found)
    for part in (
        "19 sites",
        "5 prompts",
        "float64",
        "MB",
        "z: 18 sites (0.0 to 2.5)",
        "7 to 9 x 4",
    ):
        assert part in text
    assert "1.mlp" in found and Site.parse("2.5") in found and "2.mlp" not in found
    assert len(found) == 19
    note = found.provenance
    assert note["weights"] == llama.weight_hash
    assert note["pairs"] == pairs.fingerprint
    assert (note["dtype"], note["kept"], note["side"], note["engine"], note["prompts"]) == (
        *("float64", "float64", "clean", "replay"),
        5,
    )
    assert note["versions"]["torch"] == torch.__version__
    other = capture(llama, pairs, "1.mlp", side="corrupt").provenance
    assert other["tokens"] != note["tokens"]
    wider = Pairs.from_tokens(clean=pairs.clean[:2], corrupt=pairs.corrupt[:2], mask=pairs.mask[:2])
    unpadded = lists(pairs.clean[:2], (7, 9))
    one, two = (capture(llama, tokens, "1.mlp").provenance for tokens in (wider, unpadded))
    assert one["tokens"] == two["tokens"]


# refusals


def test_what_is_refused(llama, pairs):
    tokens = ids(2, 6)
    found = capture(llama, pairs, ["1.mlp", "1.3"])
    cases = [
        (
            PairsError,
            lambda: found["1.3"],
            ["'1.3'", "7 to 9 x 4", "captured.rows('1.3')", "'end'"],
        ),
        (SiteError, lambda: found["2.mlp"], ["'2.mlp'", "2 sites", "'1.mlp'", "Capture it"]),
        (SiteError, lambda: capture(llama, tokens, "7.1"), ["layer 7", "nearest site"]),
        (PositionError, lambda: capture(llama, tokens, "1.1", positions="mid"), ["'mid'", "'end'"]),
        (PositionError, lambda: capture(llama, tokens, "1.1", positions=-1), ["-1", "'end'"]),
        (PositionError, lambda: capture(llama, tokens, "1.1", positions=6), ["6", "row 0"]),
        (PositionError, lambda: capture(llama, pairs, "1.1", positions=[8]), ["8", "row 0", "7"]),
        (PositionError, lambda: capture(llama, tokens, "1.1", positions=[]), ["no position"]),
        (PositionError, lambda: capture(llama, tokens, "1.1", positions=["all", 1]), ["by itself"]),
        (PairsError, lambda: capture(llama, tokens + 29, "1.1"), ["vocabulary", "28"]),
        (PairsError, lambda: capture(llama, [[1], []], "1.1"), ["row 1 is empty"]),
        (PairsError, lambda: capture(llama, [], "1.1"), ["there are none"]),
        (PairsError, lambda: capture(llama, [[1]], "1.1", mask=tokens > 99), ["no padding"]),
        (PairsError, lambda: capture(llama, pairs, "1.1", mask=tokens > 99), ["mask="]),
        (PairsError, lambda: capture(llama, tokens, "1.1", mask=tokens > 99), ["is empty"]),
        (
            PairsError,
            lambda: capture(llama, tokens, "1.1", mask=torch.tensor([[1, 1, 0, 1, 0, 0]] * 2)),
            ["row 0", "hole"],
        ),
        (InterpError, lambda: capture(llama, tokens, "1.1", batch=0), ["batch=0"]),
        (InterpError, lambda: capture(llama, tokens, "1.1", memory=0), ["memory=0"]),
        (Unsupported, lambda: capture(llama, tokens, "1.1", dtype=torch.int8), ["int8"]),
    ]
    for error, call, parts in cases:
        says(error, call, *parts)


def test_the_budget_is_held_before_anything_runs(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(Replay, "walk", lambda *_, **__: pytest.fail("it ran"))
    sites, tokens = ["neurons", "1.1", "layers"], ids(50, 16)
    size = 50 * 16 * 8 * (3 * 14 + 4 + 3 * 30)
    says(
        InterpError,
        lambda: capture(llama, tokens, sites, memory=size - 1),
        *(f"{size} bytes", "budget", "resid_post (0.6 MB)", "42 of mlp_act", "50 prompts"),
        *("fewer sites", "positions='end'", "folder=", "dtype=torch.bfloat16", "memory="),
    )
    says(
        InterpError,
        lambda: capture(llama, tokens, sites, memory=100, folder=tmp_path / "x"),
        *("one row", "budget"),
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_that_are_not_finite(tiny_model, engine):
    """The first bad site in order of computation, and its row; nothing else is to blame."""
    model, tokens = tiny_model("llama"), ids(4, 6)
    tokens[tokens == 11] = 12
    tokens[2, 3] = 11
    weight = model.bridge.original_model.get_input_embeddings().weight
    before = weight[11].detach().clone()
    try:
        weight.data[11, 0] = float("nan")
        says(
            InterpError,
            lambda: capture(model, tokens, ["1.3", "layers"], engine="hooks"),
            *("'0.resid_post'", "row 2", "float64", "torch.float32"),
        )
        weight.data[11] = before * 1e30
        says(
            InterpError,
            lambda: capture(model, tokens, "embed", engine=engine, dtype=torch.float16),
            *("'embed'", "row 2", "position 3", "torch.float16 holds", "torch.bfloat16"),
        )
    finally:
        weight.data[11] = before


# on disk


def test_shards_are_plain_safetensors(llama, pairs, tmp_path):
    found = capture(llama, pairs, ["1.mlp", "0.3"], folder=tmp_path, batch=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["index.json", *(f"shard-{n:05d}.safetensors" for n in range(3))]
    index = json.loads((tmp_path / "index.json").read_text())
    assert [part["rows"] for part in index["shards"]] == [[0, 2], [4], [1, 3]]
    assert index["lengths"] == [7, 9, 7, 9, 7]
    with safe_open(tmp_path / "shard-00002.safetensors", "pt") as shard:
        assert sorted(shard.keys()) == ["0.3", "1.mlp"]
        assert torch.equal(shard.get_tensor("0.3"), torch.stack(found.rows("0.3")[1::2]))
    assert found.bytes == index["bytes"]
    again, held = load(tmp_path), capture(llama, pairs, ["1.mlp", "0.3"])
    assert again.sites == found.sites == held.sites
    assert again.provenance == found.provenance
    assert repr(again) == repr(found)
    for site in held:
        for a, b in zip(again.rows(site), held.rows(site), strict=True):
            assert (a - b).abs().max() < TOLERANCE
            assert a.untyped_storage().nbytes() <= 2 * 8 * b.numel()  # not the mapped file
    says(PairsError, lambda: again["0.3"], "captured.rows('0.3')")


def test_a_run_that_was_killed_goes_on(llama, pairs, tmp_path, monkeypatch):
    truth = capture(llama, pairs, "heads", folder=tmp_path / "truth", batch=1)
    fill, runs = capturing._fill, []

    def failing(kept, model, engine, rows, *rest):
        if len(runs) == 3:
            raise KeyboardInterrupt
        runs.append(rows)
        fill(kept, model, engine, rows, *rest)

    folder = tmp_path / "killed"
    monkeypatch.setattr(capturing, "_fill", failing)
    with pytest.raises(KeyboardInterrupt):
        capture(llama, pairs, "heads", folder=folder, batch=1)
    says(ResultsError, lambda: load(folder), "2 of 5 shards", "same folder=", "goes on")
    (folder / "shard-00003.safetensors.part").write_bytes(b"half")  # killed while it wrote
    written = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert len(written) == 3
    runs.clear()
    found = capture(llama, pairs, "heads", folder=folder)  # another batch: the plan there holds
    assert len(runs) == 2
    assert written.items() <= {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}.items()
    for site in truth:
        for a, b in zip(found.rows(site), truth.rows(site), strict=True):
            assert torch.equal(a, b)
    runs.clear()
    capture(llama, pairs, "heads", folder=folder)
    assert runs == []
    (folder / "shard-00001.safetensors").unlink()
    assert len(capture(llama, pairs, "heads", folder=folder).rows("1.1")) == 5
    assert runs == [[2]]


def test_a_folder_of_something_else(llama, tiny_model, pairs, tmp_path):
    sites = ["1.mlp", "0.3"]
    options = {"folder": tmp_path, "positions": "mid"}
    capture(llama, pairs, sites, **options)
    moved = Pairs.from_tokens(
        clean=lists(pairs.clean, pairs.lengths),
        corrupt=lists(pairs.corrupt, pairs.lengths),
        positions={"mid": [1, 1, 1, 1, 1]},
    )
    for call, name in (
        (lambda: capture(tiny_model("llama-mha"), pairs, sites, **options), "weights"),
        (lambda: capture(llama, pairs, sites, side="corrupt", **options), "tokens"),
        (lambda: capture(llama, pairs, [*sites, "2.1"], **options), "sites"),
        (lambda: capture(llama, pairs, sites, **{**options, "positions": "late"}), "positions"),
        (lambda: capture(llama, moved, sites, **options), "indices of the positions"),
        (lambda: capture(llama, pairs, sites, dtype=torch.bfloat16, **options), "kept"),
    ):
        says(ResultsError, call, str(tmp_path), f"{name} (", "another folder=", "there", "here")
    capture(llama, pairs, sites, engine="hooks", **options)  # the engine changes no number


def test_folders_that_cannot_be_read_or_written(llama, tmp_path):
    tokens = ids(2, 5)
    taken = tmp_path / "taken"
    taken.write_text("")
    says(
        ResultsError,
        lambda: capture(llama, tokens, "1.1", folder=taken / "inside"),
        *("cannot write", "may write to"),
    )
    says(ResultsError, lambda: Captured.load(tmp_path), "no capture", "index.json")
    lost = tmp_path / "lost"
    capture(llama, tokens, "1.1", folder=lost)
    index = lost / "index.json"
    text = index.read_text()
    write_note(index, {**read_note(index, remedy=""), "version": 9})
    says(ResultsError, lambda: load(lost), "version 9", "reads version 1")
    index.write_text(text.replace('"version": 1', '"version": 9'))
    says(ResultsError, lambda: load(lost), "not as it was written", "interp.capture")
    index.write_text("{")
    says(ResultsError, lambda: load(lost), "carries no checksum", "interp.capture")
    index.unlink()
    says(
        ResultsError, lambda: capture(llama, tokens, "1.1", folder=lost), "no index.json", "shards"
    )
    index.write_text(text)
    (lost / "shard-00000.safetensors").write_bytes(b"nonsense")
    says(
        ResultsError,
        lambda: load(lost)["1.1"],
        "carries no checksum",
        "shard-00000",
        "Delete that file",
    )


def test_shards_are_cut_to_what_may_be_lost(llama, monkeypatch, tmp_path):
    from interp.engine.plain.captures import shards

    monkeypatch.setattr(shards, "SHARD_TOKENS", 12)
    found = capture(llama, ids(5, 6), "1.1", folder=tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert [part["rows"] for part in index["shards"]] == [[0, 1], [2, 3], [4]]
    assert (found["1.1"] - capture(llama, ids(5, 6), "1.1")["1.1"]).abs().max() < TOLERANCE


def test_nothing_is_printed_when_no_one_watches(llama, tmp_path: Path, capfd):
    capture(llama, ids(5, 6), "heads", folder=tmp_path)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_sites_that_share_numbers_share_a_place(llama):
    texts = ["0.0.k", "0.1.k", "0.3.k", "0.kv1.k", "embed", "0.resid_pre"]
    layout = Layout.of(resolve(texts, llama.facts), llama.facts.group_size)
    at = {str(site): place for site, place in layout.where.items()}
    assert at["0.0.k"] == at["0.1.k"] != at["0.3.k"] == at["0.kv1.k"]
    assert at["0.1.k"][0].indices == (0, 1)
    assert at["embed"] == at["0.resid_pre"]
    assert sorted(layout.names.values()) == ["0.0.k", "0.kv1.k", "embed"]
