"""What is said when something is refused: what happened, the values, and what to do.

Each case names the parts that a reader needs; how they are worded is free.
"""

from collections.abc import Callable
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch

import interp
from interp.core.door.door import ArgumentError
from interp.core.errors import (
    MetricError,
    ModelError,
    PairsError,
    PositionError,
    ResultsError,
    SiteError,
    Unsupported,
)
from interp.core.parts.sites import Site
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.interventions import Cell, Freeze, Hop, Intervention, Zero
from interp.models.model import Model


@pytest.fixture
def llama(tiny_model: Callable[..., Model]) -> Model:
    """3 layers, 6 query heads, 2 key-value groups."""
    return tiny_model("llama")


def refusal(kind: type[Exception], call: Callable, *args, **kwargs) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def says(message: str, *parts: str) -> None:
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


# sites


@pytest.mark.parametrize(
    ("site", "parts"),
    [
        ("30.0", ["'30.0'", "layer 30", "0 to 2", "nearest site is '2.0'", "3 layers"]),
        ("1.9", ["'1.9'", "head 9", "0 to 5", "nearest site is '1.5'", "6 heads"]),
        ("1.kv3.k", ["group 3", "0 to 1", "nearest site is '1.kv1.k'", "2 key-value groups"]),
        ("9.mlp", ["layer 9", "nearest site is '2.mlp'"]),
        ("7.8", ["layer 7", "head 8", "nearest site is '2.5'"]),
        ("1.mpl", ["'1.mpl'", "did you mean '1.mlp'"]),
        ("1.-1", ["'1.-1'", "counted from 0"]),
        ("head", ["'head'", "did you mean 'heads'"]),
        ("L1H2", ["'L1H2'", "did you mean '1.2'"]),
        ("blocks.1.attn.hook_q", ["belongs to a head", "'1.0.q'"]),
    ],
)
def test_sites_that_are_not_there(llama, pairs, site, parts):
    for call in (
        lambda: interp.ablate(llama, pairs, site, method="zero"),
        lambda: interp.patch(llama, pairs, [site, "0.1"]),
        lambda: interp.path_patch(llama, pairs, senders=site),
        lambda: interp.attention(llama, pairs, site, keys=["mid"]),
    ):
        says(refusal(SiteError, call), *parts)


def test_the_logits_are_no_site_to_write(llama, pairs):
    message = refusal(Unsupported, interp.patch, llama, pairs, "logits")
    says(message, "intervenes on 'logits'", "the metric")


@pytest.mark.parametrize(
    ("edge", "parts"),
    [
        ("1.0 -> 0.1.q", ["1.0 -> 0.1.q", "not computed before", "Exchange"]),
        ("1.resid_pre -> 2.mlp", ["'1.resid_pre' writes nothing", "'20.1'", "'embed'"]),
        ("0.1 -> 1.resid_mid", ["'1.resid_mid' does not read", "'23.3.q'", "'logits'"]),
        ("0.1 -> 1.0.q -> logits", ["two ends", "path_patch", "via="]),
        ("0.9 -> 1.0.q", ["'0.9'", "head 9 is outside 0 to 5"]),
    ],
)
def test_edges_that_are_not_there(llama, pairs, edge, parts):
    says(refusal(SiteError, interp.patch, llama, pairs, edge), *parts)


def test_paths_through_what_is_frozen(llama):
    sender, mlp = Intervention(Site.parse("0.1"), Zero()), Site.parse("1.mlp")
    hop = Hop((Site.parse("2.0.q"),))
    made = (sender, Intervention(mlp, Freeze()))
    says(refusal(SiteError, Cell, "mine", "all", made, (hop,)), "passes through '1.mlp'", "frozen")
    made = (sender, Intervention(mlp, Zero()))
    call = partial(Cell, hops=(Hop((mlp,)),))
    says(refusal(SiteError, call, "mine", "all", made), "'1.mlp' is given", "cannot receive")


def test_edges_of_parallel_blocks(tiny_model, pairs):
    message = refusal(SiteError, interp.patch, tiny_model("neox"), pairs, "1.0 -> 1.mlp")
    says(message, "'1.0 -> 1.mlp'", "in parallel")


def test_one_site_set_twice(llama, pairs):
    def both(*interventions):
        return Cell("mine", "all", interventions)

    q, site = Site.parse("1.0.q"), Site.parse("0.1")
    mid = Intervention(site, Zero(), "mid")
    message = refusal(SiteError, both, Intervention(site, Zero()), mid)
    says(message, "two interventions set '0.1'", "'mid'", "mine", "Leave one out")
    message = refusal(
        SiteError, both, Intervention(site, Zero(), readers=(q,)), Intervention(site, Zero())
    )
    says(message, "two interventions set '0.1'")
    stream = Intervention(Site.parse("1.resid_pre"), Zero())
    message = refusal(SiteError, both, Intervention(site, Zero(), readers=(q,)), stream)
    says(message, "'1.resid_pre' is set for all", "'0.1'", "two runs")


# pairs


def test_unequal_lengths_show_both_rows_aligned(llama):
    message = refusal(
        PairsError,
        Pairs.from_text,
        llama,
        clean=["The Mary", "The Mary gave it to"],
        corrupt=["The John", "The Mary gave to"],
        correct=[" Mary"] * 2,
        wrong=[" John"] * 2,
    )
    says(message, "pair 1", "clean has 5 tokens", "corrupt 4", "Exchange words")
    clean, corrupt = (
        line.split(None, 1)[1] for line in message.splitlines() if line.startswith("  c")
    )
    starts = [[i for i, c in enumerate(row) if c == "|"] for row in (clean, corrupt)]
    assert starts[1] == starts[0][: len(starts[1])]  # column under column
    assert len(starts[0]) == 4
    says(clean, "Mary", "gave", "it", "to")
    assert "it" not in corrupt


def test_an_answer_of_several_tokens(llama):
    message = refusal(
        PairsError,
        Pairs.from_text,
        llama,
        clean=["The Mary"],
        corrupt=["The John"],
        correct=[" Mary gave"],
        wrong=[" John"],
    )
    says(message, "' Mary gave'", "2 tokens", "one token")


def test_no_pairs(llama):
    empty = {"clean": [], "corrupt": [], "correct": [], "wrong": []}
    for call in (
        lambda: Pairs.from_tokens(**empty),
        lambda: Pairs.from_text(llama, **empty),
    ):
        says(refusal(PairsError, call), "n = 0", "at least one")


def test_counts_that_differ():
    message = refusal(
        PairsError, Pairs.from_tokens, clean=[[1], [2]], corrupt=[[1]], correct=[1], wrong=[1, 2]
    )
    says(message, "2 clean prompts", "1 of corrupt", "1 of correct", "one of each")


def test_tokens_of_another_model(llama):
    odd = {"clean": [[1, 2, 30]], "corrupt": [[1, 2, 3]], "correct": [1], "wrong": [2]}
    for call in (interp.evaluate, lambda m, p: interp.patch(m, p, "heads")):
        message = refusal(PairsError, call, llama, Pairs.from_tokens(**odd))
        says(message, "row 0 of clean", "token 30", "ends at 28", "another model's tokenizer")
    answer = Pairs.from_tokens(**{**odd, "clean": [[1, 2, 4]], "wrong": [99]})
    says(refusal(PairsError, interp.evaluate, llama, answer), "of wrong", "token 99")


def test_prompts_longer_than_the_model(tiny_model):
    long = Pairs.from_tokens(clean=[[1] * 17], corrupt=[[2] * 17], correct=[1], wrong=[2])
    message = refusal(PairsError, interp.evaluate, tiny_model("gpt2"), long)
    says(message, "row 0", "17 tokens", "positions for 16", "Shorten")


# positions


def test_unknown_position(llama, pairs):
    for call in (
        lambda: interp.patch(llama, pairs, "heads", positions="ends"),
        lambda: interp.ablate(llama, pairs, "heads", positions=["mid", "ends"]),
        lambda: interp.path_patch(llama, pairs, senders="heads", sender_positions="ends"),
        lambda: interp.attention(llama, pairs, keys=["mid"], query="ends"),
    ):
        says(refusal(PositionError, call), "'ends'", "did you mean 'end'", "positions={...}")
    far = interp.Metric("far", lambda x, a: x[..., 0], position="s2")
    message = refusal(PositionError, interp.evaluate, llama, pairs, metric=far)
    says(message, "'s2'", "'end', 'mid', 'late'")


def test_each_on_unequal_lengths(llama, pairs):
    message = refusal(PairsError, interp.patch, llama, pairs, "mlps", positions="each")
    says(message, '"each"', "one length", "[7, 9]", "end, mid, late", "select")


# metrics


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_a_metric_that_is_a_scalar(llama, pairs, engine):
    mean = interp.Metric("mine", lambda x, a: x[..., 0].mean())
    for call in (
        lambda: interp.evaluate(llama, pairs, metric=mean, engine=engine),
        lambda: interp.patch(llama, pairs, "heads", metric=mean, engine=engine),
    ):
        message = refusal(MetricError, call)
        says(message, "'mine'", "shape ()", "29", "one value per example", "Results.summary()")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number(llama, pairs, bad):
    odd = interp.Metric("mine", lambda x, a: torch.where(a.correct == 5, bad, x[..., 0]))
    message = refusal(MetricError, interp.patch, llama, pairs, "heads", metric=odd)
    says(message, "'mine'", str(bad), "correct token 5", "wrong token 6", "divides by zero")


def test_an_unknown_metric(llama, pairs):
    message = refusal(MetricError, interp.patch, llama, pairs, "heads", metric="logitdiff")
    says(message, "'logitdiff'", "did you mean 'logit_diff'")


# models and engines


def test_training_mode(tmp_path, pairs):
    tiny.build("gpt2").save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    model.bridge.blocks[1].mlp.train()
    for call in (
        lambda: interp.evaluate(model, pairs),
        lambda: interp.ablate(model, pairs, "heads", method="zero", engine="hooks"),
        lambda: interp.attention(model, pairs, keys=["mid"]),
    ):
        says(
            refusal(ModelError, call),
            *("training mode", "blocks.1.mlp", "Dropout", "model.bridge.eval()"),
        )
    model.bridge.eval()
    interp.evaluate(model, pairs)


def test_unknown_engine(llama, pairs):
    message = refusal(ArgumentError, partial(interp.evaluate, llama, pairs, engine="reply"))
    says(message, "'reply'", "did you mean 'replay'")


def test_a_model_without_logits(tiny_model, pairs):
    model = tiny_model("bert-headless")
    for call in (
        lambda: interp.evaluate(model, pairs),
        lambda: interp.patch(model, pairs, "mlps"),
    ):
        said = refusal(Unsupported, call)
        says(said, "no trained language-model head", "BertForMaskedLM", "metric='cosine'")


def test_an_encoder_decoder(tiny_model, pairs):
    model = tiny_model("t5")
    says(refusal(SiteError, interp.patch, model, pairs, "0.1"), "'dec.0.cross.3'", "say which")
    back = refusal(SiteError, interp.patch, model, pairs, "dec.0.1 -> enc.1.0.q")
    says(back, "no path from 'dec.0.1' to 'enc.1.0.q'", "computed before", "Exchange the ends")
    past = refusal(SiteError, interp.patch, model, pairs, "enc.0.1 -> dec.1.0.q")
    says(past, "reads the decoder's residual stream", "'dec.0.cross.3.k'", "as the reader")
    still = refusal(SiteError, interp.path_patch, model, pairs, senders="enc.0.1")
    says(still, "through cross-attention", "via=['dec.0.cross.3.v']", "through='all'")
    call = partial(interp.patch, positions="mid")
    says(refusal(PositionError, call, model, pairs, "dec.0.1"), "'mid'", "decoder", "an index")


def test_pairs_without_answers(llama, pairs):
    bare = Pairs.from_tokens(clean=pairs.clean[:, :7], corrupt=pairs.corrupt[:, :7])
    says(refusal(PairsError, interp.ablate, llama, bare, "heads"), "have none", "correct=", "'kl'")


# paths


def test_a_sender_after_its_receiver(llama, pairs):
    for sender, receiver in (("2.0", "1.0.q"), ("1.mlp", "1.mlp"), ("1.0", "1.3.k")):
        message = refusal(
            SiteError, interp.path_patch, llama, pairs, senders=sender, receivers=receiver
        )
        says(message, f"{sender} -> {receiver}", "after its receiver", "Exchange", "later receiver")


def test_logits_with_other_receivers(llama, pairs):
    ends = ["1.0.q", "logits"]
    message = refusal(SiteError, interp.path_patch, llama, pairs, senders="0.0", receivers=ends)
    says(message, "'logits'", "no longer matter", "two path patches")


# means


@pytest.mark.parametrize("engine", ["replay", "hooks"])
def test_a_reference_without_the_rows_group(llama, pairs, engine):
    others = pairs.select([1] * 30)
    message = refusal(
        PairsError, interp.ablate, llama, pairs, "heads", reference=others, engine=engine
    )
    says(message, "template 'a'", "7 tokens", "same templates", "corrupt side")


# files


def test_a_folder_that_cannot_be_written(llama, pairs, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    inside = taken / "inside"
    results = interp.evaluate(llama, pairs)
    for call in (
        lambda: results.save(inside / "results.parquet"),
        lambda: interp.patch(llama, pairs, "mlps", checkpoint=inside),
    ):
        says(refusal(ResultsError, call), "cannot write", str(inside), "that you may write to")
    assert taken.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [taken]


def test_a_results_file_of_another_version(llama, pairs, tmp_path):
    path = interp.evaluate(llama, pairs).save(tmp_path / "results.parquet")
    table = pq.read_table(path)
    note = table.schema.metadata[b"interp"].replace(b'"version": 2', b'"version": 7')
    pq.write_table(table.replace_schema_metadata({b"interp": note}), path)
    message = refusal(ResultsError, Results.load, path)
    says(message, str(path), "version 7", "reads version 2", "Run the experiment again")
    pq.write_table(pa.table({"a": [1]}), path)
    says(refusal(ResultsError, Results.load, path), str(path), "not written by interp")
