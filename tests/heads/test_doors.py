"""The doors of the circuits: wrong arguments are refused in words, and no model runs."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from doors import complaints, counted

import interp
from interp import Model, Pairs, circuits
from interp.datasets import Corpus, Document, Mention, Sentence, Word
from interp.heads.types.detectors import PREVIOUS, Detector, offset, positional
from interp.models.small.native import Shape, build

WORDS = (("The", 1), ("Mary", 2), ("gave", -1), ("it", 2))


def corpus() -> Corpus:
    """Two documents of a sentence, parsed and with two chains."""
    text, words = "", []
    for form, head in WORDS:
        text += " " * bool(text)
        span = (len(text), len(text) + len(form))
        words.append(Word(form, span, head=head, relation="root" if head < 0 else "obj"))
        text += form
    mentions = tuple(Mention(0, (i, i + 1), c, i, "proper") for i, c in enumerate("abab"))
    made = (Document(name, (Sentence(name, text, tuple(words)),), mentions) for name in "ab")
    return Corpus("mine", tuple(made), frozenset({"head", "relation", "mentions"}))


def rows() -> Pairs:
    """Twelve rows in which tokens return at various distances."""
    drawn = torch.randint(2, 12, (12, 4), generator=torch.Generator().manual_seed(0)).tolist()
    ids = [[a, b, a, *(b for _ in range(i % 3)), a, c, d] for i, (a, b, c, d) in enumerate(drawn)]
    longest = max(map(len, ids))
    ids = [[*row, *[2] * (longest - len(row))] for row in ids]
    return Pairs.from_tokens(clean=ids, corrupt=ids)


def cases(
    model: Model, learned: Model, pairs: Pairs, folder: Path
) -> Iterator[tuple[Callable[..., Any], Mapping[str, Any]]]:
    """A right call of each function and method."""
    text = corpus()
    how = {"engine": "auto"}
    yield (
        interp.heads.attention,
        {"model": model, "pairs": pairs, "heads": ["0.1"], "keys": ["mid"], "query": "end", **how},
    )
    rows_of = {"context": 8, "bos": "none", "first": "keep"}
    yield interp.heads.attended, {"model": model, "corpus": text, **rows_of, **how}
    looked = interp.heads.attended(model, text)
    yield (
        interp.heads.relations,
        {
            **{"attended": looked, "corpus": text, "minimum": 1, "offsets": [-1, 1]},
            **{"model": "trained", "seed": 1},
        },
    )
    scores = interp.heads.relations(looked, text, minimum=1)
    yield interp.heads.compare_heads, {"scores": scores, "seed": 1}
    yield interp.heads.choose_heads, {"scores": scores, "seed": 1}
    kinds = {"detectors": [PREVIOUS], "null": "rows", "seed": 1, **how}
    yield interp.heads.detect, {"model": model, "tokens": rows(), **kinds}
    yield (
        interp.heads.head_types,
        {"model": model, "tokens": rows(), "n": 12, "least": 0.3, "bos": "none", **kinds},
    )
    found = interp.heads.detect(model, rows(), detectors=[PREVIOUS])
    yield interp.heads.types_of, {"results": found, "least": 0.3, "seed": 1}
    types = interp.heads.types_of(found)
    yield interp.heads.HeadTypes, vars(types)
    yield types.heads, {"kind": "previous"}
    yield Detector, vars(PREVIOUS)
    yield offset, {"by": -1}
    yield positional, {"by": -1}
    yield (
        interp.heads.repeated_tokens,
        {"model": model, "n": 2, "block": (3, 4), "pos": 8, "bos": "none", "seed": 1},
    )
    sets = {"heads": ["0.1", "1.0"], "method": "zero", "patterns": ["kept"], "draws": 2}
    yield (
        interp.causal.knock_out,
        {
            **{"model": model, "pairs": pairs, **sets, "reference": pairs, "seed": 1, **how},
            **{"metric": ["loss", "prob"], "memory": "1GB", "checkpoint": folder / "run"},
        },
    )
    yield (
        interp.causal.knock_out,
        {
            **sets,
            "model": model,
            "pairs": pairs,
            "method": "mean",
            "reference": pairs,
            "seed": 1,
            **how,
            "metric": "loss",
            "memory": "1GB",
            "checkpoint": folder / "mean",
        },
    )
    out = interp.causal.knock_out(model, pairs, {"mine": ["0.1"]}, method="zero", draws=2)
    yield interp.causal.beside_random, {"results": out, "seed": 1}
    of = {"model": model, "pairs": pairs, **how}
    yield interp.heads.logit_lens, {**of, "metric": ["logit_diff", "kl"]}
    yield interp.heads.direct_logit_attribution, {**of, "position": "mid"}
    yield interp.heads.composition, {"model": model, "readers": ["q"]}
    yield interp.heads.copying_scores, {"model": model, "samples": 2, "seed": 1}
    one = {"model": model, "head": "0.1", "top": 3}
    yield interp.heads.qk_tokens, {**one, "query": 3}
    yield interp.heads.ov_tokens, {**one, "source": " Mary"}
    yield interp.heads.ov_directions, {**one, "directions": 2, "samples": 2, "seed": 1}
    curve = {"offsets": [0, 1], "contents": [3, 4], "seed": 1}
    yield interp.heads.offset_curve, {"model": model, "heads": "heads", **curve}
    pair = {"query": 3, "key": 4, "offsets": [0, 1]}
    yield interp.heads.offset_pair, {"model": model, "head": "0.1", **pair}
    yield (
        interp.heads.position_scores,
        {"model": learned, "head": "0.1", "positions": 3, "tokens": [3], "seed": 1},
    )


@pytest.mark.plain
@pytest.mark.filterwarnings("ignore:mean ablation")
def test_a_wrong_argument_is_refused_in_words_before_anything_runs(
    tiny_model: Callable[[str], Model],
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    found = complaints(cases(tiny_model("llama"), tiny_model("gpt2"), pairs, tmp_path), tmp_path)
    assert not found, "\n".join(found)


def test_nothing_runs_while_it_is_explained(
    tiny_model: Callable[[str], Model], pairs: Pairs
) -> None:
    """Nor are weights read, also of a model that nothing was asked of before."""
    model = build(Shape(2, 2, 8, 4, tiny.VOCAB, 16, 8), name="new")
    with counted() as ran:
        plans = [
            interp.explain(interp.heads.attention, model, pairs),
            interp.explain(interp.heads.detect, model, rows()),
            interp.explain(interp.heads.head_types, model, rows()),
            interp.explain(interp.heads.logit_lens, model, pairs),
            interp.explain(interp.heads.direct_logit_attribution, model, pairs),
            interp.explain(interp.causal.knock_out, model, pairs, "0.0"),
            interp.explain(interp.heads.attended, tiny_model("llama"), corpus()),
        ]
    assert not ran
    assert all(plan.flops > 0 and plan.passes > 0 for plan in plans)


def test_every_public_function_has_a_door() -> None:
    bare = [name for name in circuits.__all__ if not _has_door(getattr(circuits, name))]
    assert not bare


def _has_door(function: Any) -> bool:
    of = function.__init__ if isinstance(function, type) else function
    return getattr(of, "__door__", False)
