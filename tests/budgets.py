"""The least memory that a call can be given."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from interp.core.errors import InterpError


def least(call: Callable[..., Any]) -> int:
    """Bytes under which it refuses to run: it says so itself. `call` takes memory=."""
    with pytest.raises(InterpError, match="is less than the least") as refusal:
        call(memory=1)
    found = re.search(r"Give memory=(\d+)", str(refusal.value))
    assert found is not None
    return int(found[1])
