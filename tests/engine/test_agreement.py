"""Three answers to the same intervention: replay, hooks, and an oracle that shares no code."""

import pytest
from agreement import PROPERTIES
from cases import MANY, ORDINARY, drawn
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.plain
@pytest.mark.parametrize("what", PROPERTIES)
@given(data=st.data())
@drawn(ORDINARY)
def test_drawn_cases_agree(data, what, tiny_model, oracle, pairs):
    PROPERTIES[what](data, tiny_model, oracle, pairs)


@pytest.mark.slow
@pytest.mark.parametrize("what", PROPERTIES)
@given(data=st.data())
@drawn(MANY)
def test_many_drawn_cases_agree(data, what, tiny_model, oracle, pairs):
    PROPERTIES[what](data, tiny_model, oracle, pairs)
