"""What an import leaves as it was, and what it does not say: each in a process of its own."""

import logging
import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging, sys, warnings
import numpy, torch, transformers, transformers.modeling_utils
from transformers.utils import logging as log
log.set_verbosity(int(sys.argv[1]))
filters = list(warnings.filters)
import interp
from interp.models.quiet import quiet
assert log.get_verbosity() == int(sys.argv[1]), log.get_verbosity()
assert warnings.filters == filters, [f for f in warnings.filters if f not in filters]
assert not logging.getLogger().handlers
log.get_logger("transformers.modeling_utils").warning("some weights are random")
with quiet():
    log.get_logger("transformers.modeling_utils").warning("not heard")
warnings.warn("generation flags are not valid")
interp.interventions.Zero()  # which nothing has imported yet
"""
OLD = """
import interp.moved
interp.circuits.attended  # which imports most of the library
"""


def said(script: str, *, bars: str) -> str:
    """What a process says on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(logging.WARNING)],
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": bars, "TRANSFORMERS_VERBOSITY": "info"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.plain
@pytest.mark.parametrize("bars", ["0", "1"])
def test_an_import_changes_nothing(bars):
    """TransformerLens, at its first import, mutes transformers and a warning for good. And the
    library uses no old name of its own: of one that a user asks for a warning shows their line.
    """
    heard = said(SCRIPT + (OLD if bars == "1" else ""), bars=bars)
    assert "some weights are random" in heard
    assert "generation flags are not valid" in heard
    assert "not heard" not in heard
    assert "progress bars" not in heard
    old = [line for line in heard.splitlines() if "FutureWarning" in line]
    assert len(old) == (bars == "1")
    at = len((SCRIPT + OLD).splitlines())
    assert all(one.startswith(f"<string>:{at}: FutureWarning: interp.circuits.att") for one in old)
