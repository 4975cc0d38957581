"""On models written by hand, detectors find the heads that were built so, and nothing else."""

import pytest

import interp
from interp.heads.types.detectors import DUPLICATE, INDUCTION, PREVIOUS, offset
from interp.heads.types.head_types import head_types
from interp.models import compiled

DETECTORS = [PREVIOUS, DUPLICATE, INDUCTION, offset(0)]
BUILT = {
    "previous": {"0.0": "previous, copying", "0.1": "offset +0"},
    "induction": {
        "0.0": "previous",
        "0.1": "offset +0",
        "1.0": "induction, copying",
        "1.1": "previous",
    },
    "frequency": {"0.1": "duplicate, offset +0"},  # looks evenly at the token and its equals
    "reverse": {"0.1": "previous", "1.0": "copying", "1.1": "offset +0"},
    "ioi": {
        "0.0": "duplicate",
        "0.1": "previous",
        "1.1": "offset +0",
        "2.0": "copying",  # the name movers; the negative one copies nothing
        "2.1": "copying",
    },
}
"""By each construction's file. A head that is not named is of no type."""


def rows(name: str) -> list[list[int]]:
    """Valid rows of at least 8 tokens in which a token returns."""
    found = []
    for row in compiled.inputs(name, n=300).tokens.tolist():
        while len(row) > 1 and row[-1] == 0:  # "<bos>" pads
            row.pop()
        if len(row) >= 8 and len(set(row)) < len(row):
            found.append(row)
    return found


@pytest.mark.parametrize("name", compiled.NAMES)
def test_detectors_find_the_compiled_heads_and_nothing_else(name):
    found = head_types(interp.load(f"compiled/{name}"), rows(name), detectors=DETECTORS)
    typed = found.table[found.table["types"] != ""]
    assert dict(zip(typed["site"], typed["types"], strict=True)) == BUILT[name]
    idle = {site for site, role in compiled.roles(name).items() if role == "idle"}
    assert idle and not idle & set(typed["site"])
