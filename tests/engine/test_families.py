"""What each architecture is served by: the table in docs/support.md is made here.

INTERP_WRITE_DOCS=1 python -m pytest tests/engine/test_families.py -k table
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

import interp
from interp.circuits import run_circuits
from interp.core.errors import InterpError, Unsupported
from interp.core.metrics import METRICS, Metric
from interp.core.parts.circuit import Circuit
from interp.core.parts.graph import Graph
from interp.core.parts.sites import resolve
from interp.core.prompts.pairs import Pairs
from interp.core.tables.results import Results
from interp.engine.engines.choose import choose
from interp.engine.engines.protocol import OfWeights
from interp.models.bridge.precision import exact
from interp.models.model import Model
from interp.models.now.checks import output_of

PAGE = Path(__file__).parents[2] / "docs" / "support.md"
MAMBA = {"hidden_size": 24, "num_hidden_layers": 3, "vocab_size": tiny.VOCAB, "state_size": 4}
FAMILIES = tiny.FAMILIES | tiny.EXPERTS
OTHERS: dict[str, Callable[[], hf.PreTrainedModel]] = {
    "falcon-alibi": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(**tiny.FALCON, alibi=True, multi_query=False, parallel_attn=False)
    ),
    "mamba": lambda: hf.MambaForCausalLM(hf.MambaConfig(**MAMBA)),
}
"""Architectures that replay does not have."""
ALL = list(dict.fromkeys([*FAMILIES, *tiny.TWO_STACKS, *tiny.VISION, *OTHERS]))
WRITTEN = {"decoder": (4, 7, 2), "target_positions": {"mask": [1, 2]}}
EFFECT = 1e-12
"""What is more than noise. A cosine at its maximum moves by the square of a change."""


def build(name: str) -> hf.PreTrainedModel:
    if name in FAMILIES | tiny.TWO_STACKS | tiny.VISION:
        return tiny.build(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OTHERS[name]().eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def load(name: str, folder: Path) -> Model:
    """A model that no other test has used, so that nothing has been said of it yet."""
    build(name).to(torch.float64).save_pretrained(folder)
    return interp.load(folder, dtype=torch.float64)


def prompts(model: Model) -> Pairs:
    """A decoder has written something already, or it would have nothing to attend to."""
    if model.facts.image is not None:
        clean, corrupt = images(model)
        given = {"correct": [3, 5], "wrong": [4, 6], "positions": {"mask": ["r0c1", "r1c0"]}}
        return Pairs.from_images(model, clean=clean, corrupt=corrupt, **given, pixels="normalised")
    generator = torch.Generator().manual_seed(7)
    clean, corrupt = torch.randint(2, tiny.VOCAB, (2, 2, 5), generator=generator)
    return Pairs.from_tokens(
        clean=clean,
        corrupt=corrupt,
        correct=[3, 5],
        wrong=[4, 6],
        positions={"mask": [2, 3]},
        **(WRITTEN if model.facts.n_encoder_layers else {}),
    )


def images(model: Model) -> torch.Tensor:
    """Two clean ones and two others, as the model reads them."""
    of = model.facts.image
    assert of is not None
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 2, of.channels, of.height, of.width, generator=generator).double()


def main_metric(model: Model) -> str | Metric:
    return "logit_diff" if model.facts.language_model else "cosine"


def sites(model: Model, texts: str) -> list[str]:
    """Of an encoder-decoder the same sites in its decoder."""
    stack = "dec." if model.facts.n_encoder_layers else ""
    return [stack + text for text in texts.split()]


def ablated(model: Model, selector: str, most: int | None = None) -> Results:
    chosen = resolve(selector, model.facts)[:most]
    return interp.ablate(model, prompts(model), chosen, method="zero", metric=main_metric(model))


def patched(model: Model, texts: str) -> Results:
    return interp.patch(model, prompts(model), sites(model, texts), metric=main_metric(model))


def along(model: Model, via: tuple[str, ...] = (), **options: str) -> Results:
    """To the logits; of a model that has none to its last MLP."""
    end = "logits" if model.facts.language_model else "2.mlp"
    metric = main_metric(model)
    return interp.path_patch(
        model,
        prompts(model),
        senders=sites(model, "0.1 0.mlp"),
        via=[sites(model, text) for text in via],
        receivers=end,
        metric=metric,
        **options,
    )


def kept(model: Model) -> str:
    """The engine that captured something at every site that the architecture has."""
    found = interp.capture(model, prompts(model), ["layers", "attn", "mlps"])
    assert all(found[site].abs().max() > 0 for site in found.sites)
    return found.provenance["engine"]


def attributed(model: Model, method: Literal["eap", "atp*"]) -> str:
    """The engine whose gradients scored every edge."""
    found = interp.attribute(model, prompts(model), method=method, metric=main_metric(model))
    assert np.isfinite(found.each).all()
    assert np.abs(found.each).max() > EFFECT
    return found.provenance["engine"]


def alone(model: Model) -> Results:
    """Every other edge; of a model without logits every other head."""
    logits = model.facts.language_model
    parts = Graph.of(model.facts).edges if logits else resolve("heads", model.facts)
    half = Circuit.of(parts[::2], model=model.weight_hash)
    return run_circuits(model, prompts(model), half, metric=main_metric(model))


def edges_of(model: Model) -> list[str]:
    """Two edges; of an encoder-decoder one within its decoder, and one across."""
    if model.facts.n_encoder_layers:
        return ["dec.0.0 -> dec.1.1.q", "enc.0.mlp -> dec.1.cross.2.k"]
    return ["0.0 -> 1.1.q", "0.mlp -> 2.mlp"]


METHODS: dict[str, Callable[[Model], Results | str]] = {
    "ablate heads": lambda m: ablated(m, "heads", 5),
    "ablate neurons": lambda m: ablated(m, "neurons", 5),
    "ablate MLPs": lambda m: ablated(m, "mlps"),
    "patch q, k, v": lambda m: patched(m, f"1.0.q 1.kv0.k 1.kv{m.facts.n_kv_heads - 1}.v"),
    "k of one head": lambda m: patched(m, "1.0.k"),
    "pattern": lambda m: patched(m, "1.0.pattern"),
    "edges": lambda m: interp.patch(m, prompts(m), edges_of(m), metric=main_metric(m)),
    "paths, direct": lambda m: along(m, through="direct"),
    "paths, MLPs": lambda m: along(m, through="mlps"),
    "paths, all": lambda m: along(m, through="all"),
    "two hops": lambda m: along(m, via=("1.1.q",)),
    "frozen norms": lambda m: along(m, ln="freeze"),
    "attribution": lambda m: attributed(m, "eap"),
    "AtP*": lambda m: attributed(m, "atp*"),
    "circuits": alone,
    "cosine": lambda m: interp.ablate(m, prompts(m), "mlps", method="zero", metric="cosine"),
    "logits at a mask": lambda m: at_mask(m),
    "capture": kept,
}


def at_mask(model: Model) -> Results:
    """A position that is named and not read would be a number of something else."""
    found = [
        interp.evaluate(model, prompts(model), metric=f"logit_diff@{position}")
        for position in ("mask", "end")
    ]
    mask, end = (results.frame["value"].to_numpy() for results in found)
    if np.array_equal(mask, end):
        raise Unsupported("the logits are read at the end, whatever position is named.")
    return interp.ablate(model, prompts(model), "mlps", method="zero", metric="logit_diff@mask")


def first_words(error: InterpError, model: Model | None, folder: Path) -> str:
    """What the refusal says, without what is only this model's: names, folders, numbers."""
    text = str(error).replace(f"{folder} ", "").replace(str(folder), "the model")
    if model is not None:
        text = text.removeprefix(f"({model.facts.architecture}): ")
        text = text.replace(str(model.facts), "the model")
        text = text.replace(model.facts.architecture, "this architecture")
    text = re.sub(r"\d\.\de[+-]\d\d", "…", text)
    found = re.match(r".{20,}?(?=[;:.](?: |$)| \()|.+", text.replace("\n", " "))
    assert found is not None
    return found[0].strip() + "."


def bound(error: float) -> str:
    """A power of ten that holds on any machine."""
    known = (1e-12, 1e-9, 1e-6)
    return next((f"≤ {limit:.0e}" for limit in known if error <= limit), f"{error:.0e}")


@torch.inference_mode()
def logit_error(model: Model, name: str) -> float:
    """Of the engine that serves, from Hugging Face reading the same files.

    In the last hidden state of a model without logits.
    """
    kind = type(build(name))
    plain = kind.from_pretrained(
        model.name,
        dtype=torch.float64,
        attn_implementation="eager",
        experts_implementation="eager",  # the fused kernels have no float64
    ).eval()
    exact(plain)
    pairs = prompts(model)
    served = choose(model)
    ours = served.trace(*pairs.ids("clean", range(len(pairs))), keep=("resid_pre",))
    found = ours.logits if ours.logits is not None else ours.final
    if isinstance(served, OfWeights) and model.facts.language_model:
        found = served.unembed(ours.final)
    if model.facts.image is not None:  # at the class token
        found, expected = found[:, 0], plain(pixel_values=images(model)[0]).logits
    elif model.facts.n_encoder_layers:
        start = [plain.config.decoder_start_token_id, *pairs.target.clean[0].tolist()]
        ids = torch.tensor([start, start])
        expected = plain(input_ids=pairs.clean, decoder_input_ids=ids).logits
    else:
        expected = output_of(plain, pairs.clean, language_model=model.facts.language_model)
    return (found - expected).abs().max().item()


def entry(model: Model, method: Callable[[Model], Results | str], folder: Path) -> str:
    """Who served it; a refusal is a dash, and an effect of nothing would be a lie."""
    try:
        found = method(model)
    except InterpError as refused:
        return "–" + first_words(refused, model, folder)
    if isinstance(found, str):
        return found
    frame = found.frame
    assert np.isfinite(frame["effect"]).all()
    assert frame["effect"].abs().max() > EFFECT
    [engine] = set(frame["engine"])
    return engine


def row(name: str, folder: Path) -> list[str]:
    """The cells of an architecture; what is refused is a dash and why."""
    try:
        model = load(name, folder)
    except InterpError as refused:
        return [
            name,
            "–" + first_words(refused, None, folder),
            "–",
            *["–" for _ in METHODS],
        ]
    try:
        engine, error = choose(model).name, bound(logit_error(model, name))
    except InterpError as refused:
        engine, error = "–" + first_words(refused, model, folder), "–"
    entries = [entry(model, method, folder) for method in METHODS.values()]
    return [name, engine, error, *entries]


HEAD = """\
# What is supported

Made by `make support` from tiny random models in float64. `replay` runs many interventions
together, `hooks` one after the other; which of them serves is what `engine="auto"` chose. A dash is
a refusal, and its note how that begins. The logit error is the largest difference from Hugging
Face's own logits (or last hidden state).
"""


def page(rows: list[list[str]]) -> str:
    """A row for each architecture, a column for each method, each note once."""
    notes: list[str] = []

    def marked(cell: str) -> str:
        shown, dash, note = cell.partition("–")
        if not note:
            return cell
        if note not in notes:
            notes.append(note)
        return f"{shown}{'' if shown else dash}[^{notes.index(note) + 1}]"

    head = ["", "engine", "logit error", *METHODS]
    lines = ["| " + " | ".join(map(marked, cells)) + " |" for cells in [head, *rows]]
    lines.insert(1, "|" + " --- |" * len(head))
    said = [f"[^{i}]: {text}" for i, text in enumerate(notes, 1)]
    return "\n".join([HEAD, *lines, "", *said, ""])


def read(text: str) -> dict[str, list[str]]:
    """The rows of a page by architecture, notes in their places."""
    notes = dict(re.findall(r"^(\[\^\d+\]): (.*)$", text, flags=re.M))

    def full(cell: str) -> str:
        return re.sub(r"–?(\[\^\d+\])", lambda mark: "–" + notes[mark[1]], cell)

    lines = [line for line in text.splitlines() if line.startswith("|")]
    found = [[full(cell) for cell in line.strip("| ").split(" | ")] for line in lines[2:]]
    return {cells[0].partition("–")[0]: cells for cells in found}


@pytest.mark.sampled(4)
@pytest.mark.plain
@pytest.mark.parametrize("name", ALL)
def test_the_page_says_what_is_supported(name, tmp_path):
    assert row(name, tmp_path) == read(PAGE.read_text())[name], (
        "docs/support.md no longer says what is supported. If the change is meant: make support"
    )


def test_the_page_is_whole():
    """It has these architectures, and is what `make support` makes of its own rows."""
    text = PAGE.read_text()
    rows = read(text)
    assert list(rows) == ALL
    assert page(list(rows.values())) == text


def write(folder: Path) -> None:
    """Make the page anew."""
    PAGE.write_text(page([row(name, folder / name) for name in ALL]))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "Running through hooks" in r.getMessage()]


@pytest.mark.plain
@pytest.mark.parametrize("name", OTHERS)
def test_what_replay_has_not_runs_through_hooks_and_says_so_once(name, tmp_path, caplog):
    """Or refuses in words of its own; what no hook reaches is never a raw exception."""
    caplog.set_level(logging.WARNING, logger="interp")
    model = load(name, tmp_path)
    for selector in ("mlps", "heads", "mlps"):
        try:
            found = ablated(model, selector)
        except Unsupported:
            assert name == "mamba"  # which has no attention to hook
            continue
        assert set(found.frame["engine"]) == {"hooks"}
        assert found.frame["effect"].abs().max() > EFFECT
    [line] = said(caplog)
    assert model.facts.architecture in line
    with pytest.raises(Unsupported, match=model.facts.architecture):
        interp.evaluate(model, prompts(model), engine="replay")


@pytest.mark.plain
@pytest.mark.parametrize("name", ["falcon-alibi", "mixtral"])
def test_through_hooks_everything_together_is_the_other_run(name, tmp_path):
    """So that serving means more than running: on architectures that no other test knows."""
    model = load(name, tmp_path)
    pairs = prompts(model)
    wholes = {"parts": ["embed", "heads", "mlps"], "attention": ["embed", "attn", "mlps"]}
    found = interp.patch(model, pairs, wholes, direction="noise", engine="hooks")
    other = interp.evaluate(model, pairs, metric="logit_diff").query("position == 'corrupt'")
    truth = other.frame["value"].to_numpy()
    gap = np.abs(found.frame["value"].to_numpy().reshape(2, -1) - truth).max()
    assert gap < 1e-9
    same = interp.patch(model, pairs, wholes, direction="denoise", engine="hooks").frame
    assert same["effect"].abs().max() > 1e-4


def test_experts_in_float64(tmp_path):
    """Fused kernels for experts have no float64; the plain ones do."""
    build("mixtral").to(torch.float64).save_pretrained(tmp_path)
    assert interp.load(tmp_path, dtype=torch.float64).checks.parity < 1e-9


def test_every_name_in_the_table_is_a_metric_or_a_method():
    """The columns are what the library offers; a new metric of embeddings belongs here too."""
    embeddings = {name for name, metric in METRICS.items() if metric.reads == "embedding"}
    assert embeddings == {"cosine"} <= set(METHODS)
