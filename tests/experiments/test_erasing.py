"""A layer is chosen on one half and reported on the other: what `pos` and `number` say of it."""

import pandas as pd
import pytest
import torch
from made_results import COUPLES, results

from experiments._probing import by_depth, halves, what_a_probe_reads
from experiments.number.report import of_erasing as of_number
from experiments.number.report import of_steering
from experiments.number.use import classes
from experiments.pos.report import of_erasing
from interp.core.tables.results import Results

KINDS = ("random", "same variance", "control task")
NAMES = sorted(COUPLES)
FIRST, LAST = "1.resid_post", "2.resid_post"


def split(chosen: float, reported: float) -> list[float]:
    """A value of each couple, by the half that it falls into."""
    return [chosen if name in NAMES[::2] else reported for name in COUPLES]


def erased(sign: float, metric: str = "logit_diff") -> Results:
    """Layer 1 costs the one half most, layer 2 the other."""
    costs = {FIRST: split(1.0, 0.5), LAST: split(0.25, 2.0)}
    parts = [
        results(f"erase {kind}", site, [3 + sign * x for x in cost])
        for site, cost in costs.items()
        for kind in ("leace", "probe")
    ]
    parts += [
        results(f"erase {kind}", site, [3 + sign * x / 10 for x in (1, 1, 1, 1)], draw=i)
        for site in costs
        for kind in KINDS
        for i in (1, 2, 3)
    ]
    report = [
        {"site": site, "erased": kind, "variance": 0.25, "rank": 2, "words": 9}
        | {"before": 0.9, "after": 0.2, "low": 0.1, "high": 0.3, "majority": 0.2}
        for site in costs
        for kind in ("leace", *KINDS)
    ]
    frame = Results.concat(parts).frame
    return Results(frame.assign(metric=metric), {"erasures": report})


def test_halves_share_no_cluster():
    choose, report = halves(erased(1))
    assert set(choose.frame["cluster"]) == set(NAMES[::2])
    assert set(report.frame["cluster"]) == set(NAMES[1::2])


def test_what_the_loss_gains_is_of_the_half_that_chose_nothing():
    said = of_erasing(erased(1).query("method != 'erase probe'"))
    assert "costs most after layer 2; on the other half it costs 0.500 [0.500, 0.500]" in said
    assert "Of 3 draws each, as many random directions cost 0.100" in said
    assert "which LEACE exceeds by 0.400" in said
    assert said.endswith("majority 0.200): not shown to be more than the majority.")


@pytest.mark.plain
def test_both_metrics_of_the_verbs_are_of_one_layer():
    both = [erased(-1, metric).frame for metric in ("logit_diff", "accuracy")]
    said = of_number(Results(pd.concat(both, ignore_index=True), erased(-1).provenance))
    assert said.startswith("Number erased by LEACE after layer 2, where it costs half of")
    for what in ("logit difference", "accuracy"):
        assert f"the {what} of 3.000 changes by -0.500 [-0.500, -0.500], by -0.500" in said
    assert "that is -0.400 [-0.400, -0.400] beyond a random direction (p = " in said


def test_what_is_moved_is_told_by_its_direction():
    rows = [
        results(f"steer {name}", site, [2 + by * x for x in size], base=2.0)
        for site, size in ((FIRST, split(1, 0.5)), (LAST, split(0.5, 3)))
        for name, by in (("+1", -1.0), ("-1", 0.5), ("random +1", 0.125))
    ]
    said = of_steering(Results.concat(rows))
    assert "after layer 2 (chosen likewise)" in said
    assert "difference of 2.00 changes by -0.500 [-0.500, -0.500] towards" in said
    assert "by 0.250 [0.250, 0.250] away from it, and by 0.062" in said


def test_effects_stand_at_the_depth_of_their_site():
    table = by_depth(erased(1).query("method == 'erase leace'").summary())
    assert table["layer"].tolist() == [2, 3] and set(table["erased"]) == {"leace"}


class Nouns:
    """A split of which the first activation tells the class."""

    labels = ("NN", "NNS") * 30
    words = range(60)

    @property
    def features(self) -> "Nouns":
        return self

    def stack(self, words, *, sites):
        x = torch.randn(1, len(words), 3, generator=torch.Generator().manual_seed(1))
        x[0, :, 0] += 4 * (2 * classes(self) - 1)
        return x


def test_a_probe_reads_the_direction_of_the_classes():
    x, weight = what_a_probe_reads(Nouns(), classes(Nouns()), FIRST)
    assert x.shape == (60, 3) and weight.shape == (3, 2)
    across = (weight[:, 1] - weight[:, 0]).numpy()
    assert across[0] > 0 and abs(across[0]) > 4 * abs(across[1:]).max()
