"""Types of cross-attention: scores against Hugging Face's patterns, by hand."""

import numpy as np
import pytest
import tiny
import torch

from interp.core.errors import PairsError, Unsupported
from interp.core.prompts.pairs import Pairs
from interp.heads import detect_across, types_of
from interp.models.bridge.precision import exact

CLEAN = [[3, 4, 5, 6], [7, 8, 9], [3, 9, 5, 6]]
TARGET = [[5, 7, 2], [8, 6], [9, 3]]
LINKS = [[(0, 1), (2, 2), (1, 2)], [(1, 2), (0, 1)], [(3, 1), (2, 2)]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs.from_tokens(clean=CLEAN, corrupt=CLEAN, target=TARGET, cluster=["a", "b", "c"])


def by_hand(pattern: np.ndarray, links: list[tuple[int, int]], name: str) -> float:
    """The mean over positions of the attention on what each would look at."""
    written, keys = pattern.shape
    sums = []
    for place in range(written):
        wanted = {
            "aligned": [s for s, t in links if t == place + 1],
            "previous": [s for s, t in links if t == place],
            "source start": [0],
            "source end": [keys - 1],
            "offset -1": [place - 1] if place else [],
            "offset +0": [place] if place < keys else [],
            "offset +1": [place + 1] if place + 1 < keys else [],
        }[name]
        if wanted:
            sums.append(sum(pattern[place, source] for source in wanted))
    return float(np.mean(sums))


@pytest.mark.parametrize("engine", ["replay", "hooks"])
@pytest.mark.parametrize("family", ["t5", "bart"])
@torch.no_grad()
def test_scores_are_those_of_hugging_face_s_patterns(tiny_model, pairs, family, engine):
    model = tiny_model(family)
    hf = type(tiny.build(family)).from_pretrained(
        model.name, dtype=torch.float64, attn_implementation="eager"
    )
    exact(hf)
    hf.eval()
    frame = detect_across(model, pairs, LINKS, engine=engine).frame
    assert set(frame["engine"]) == {engine}
    start = hf.config.decoder_start_token_id
    for row, (tokens, written) in enumerate(zip(CLEAN, TARGET, strict=True)):
        out = hf(
            input_ids=torch.tensor([tokens]),
            decoder_input_ids=torch.tensor([[start, *written]]),
            output_attentions=True,
        )
        mine = frame[frame["example"] == row].set_index(["metric", "layer", "head"])
        for layer, weights in enumerate(out.cross_attentions):
            for head in (0, 5):
                pattern = weights[0, head].numpy()
                for name in frame["metric"].unique():
                    found = mine.loc[(name, layer, head)]
                    flat = np.full_like(pattern, 1 / pattern.shape[1])
                    if name == "entropy":
                        truth, even = ((-(p * np.log(p)).sum(1)).mean() for p in (pattern, flat))
                    else:
                        truth, even = (by_hand(p, LINKS[row], name) for p in (pattern, flat))
                    assert abs(found["value"] - truth) < 1e-9
                    assert abs(found["base"] - even) < 1e-12


def test_types_of_cross_attention(tiny_model):
    """Of a translation that keeps the order the aligned word is the one at the same place."""
    model = tiny_model("t5")
    n = 24
    generator = np.random.default_rng(0)
    clean = [generator.permutation(np.arange(3, 29))[:5].tolist() for _ in range(n)]
    pairs = Pairs.from_tokens(clean=clean, corrupt=clean, target=clean)
    links = [[(i, i + 1) for i in range(5)]] * n
    found = detect_across(model, pairs, links, offsets=(0,)).frame
    aligned, offset = (found[found["metric"] == m]["value"] for m in ("aligned", "offset +0"))
    assert np.abs(aligned.to_numpy() - offset.to_numpy()).max() < 1e-12
    types = types_of(detect_across(model, pairs, links, offsets=(0,)))
    assert set(types.scores["metric"]) == {
        *("aligned", "previous", "source start", "source end", "offset +0", "entropy")
    }
    assert len(types.table) == 12


@pytest.mark.parametrize(
    "links, message",
    [
        (LINKS[:2], "alignment is of 2 rows and there are 3 pairs"),
        ([*LINKS[:2], [(4, 1)]], "row 2 aligns source 4 with target 1; .* 0 to 3.* 1 to 2"),
        ([*LINKS[:2], [(0, 0)]], "row 2 aligns source 0 with target 0"),
        ([*LINKS[:2], []], "row 2 has nothing that a head of the type 'aligned'"),
    ],
    ids=str,
)
def test_alignments_that_do_not_fit(tiny_model, pairs, links, message):
    with pytest.raises(PairsError, match=message):
        detect_across(tiny_model("t5"), pairs, links)


def test_what_has_no_cross_attention(tiny_model, pairs):
    plain = Pairs.from_tokens(clean=CLEAN, corrupt=CLEAN)
    with pytest.raises(Unsupported, match=r"has one stack of layers.*interp\.heads\.detect"):
        detect_across(tiny_model("gpt2"), plain, LINKS)
    with pytest.raises(PairsError, match="row 0 has no target"):
        detect_across(tiny_model("t5"), plain, LINKS)
