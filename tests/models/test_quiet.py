"""Silence inside, and outside nothing but what the user had set."""

import logging
import warnings
from collections.abc import Iterator

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from huggingface_hub.utils.tqdm import progress_bar_states
from transformers.utils import logging as transformers_logging

from interp.models.quiet import quiet, unchanged


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """What transformers' log says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    transformers_logging.add_handler(handler)
    yield said
    transformers_logging.remove_handler(handler)


def test_settings_return_even_after_an_error():
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), quiet():
        assert not transformers_logging.is_progress_bar_enabled()
        warnings.warn("not heard", stacklevel=1)
        _ = 1 / 0
    after = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    assert after == before


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_the_level_returns_as_it_was_set(level):
    """Not as it works out: a level that was left to the root's stays left to it."""
    log = logging.getLogger("transformers")
    before = log.level
    try:
        log.setLevel(level)
        with quiet():
            assert log.getEffectiveLevel() == logging.ERROR
        assert log.level == level
    finally:
        log.setLevel(before)


def test_bars_that_were_off_stay_off():
    """The hub's and transformers' are two switches, and the one turns the other."""
    with unchanged():
        transformers_logging.enable_progress_bar()
        disable_progress_bars()
        disable_progress_bars("peft.foo")
        before = dict(progress_bar_states)
        with quiet():
            assert are_progress_bars_disabled()
        assert are_progress_bars_disabled()
        assert transformers_logging.is_progress_bar_enabled()
        assert dict(progress_bar_states) == before
    with quiet():
        pass
    assert "peft.foo" not in progress_bar_states


def test_what_is_said_once_is_heard_the_first_time_outside(heard):
    log = transformers_logging.get_logger("transformers.made_up")
    with quiet():
        log.warning_once("pads without a mask")
        log.info_once("fused kernels")
    assert heard == []
    for _ in range(2):
        log.warning_once("pads without a mask")
    with unchanged():
        transformers_logging.set_verbosity_info()
        log.info_once("fused kernels")
    assert heard == ["pads without a mask", "fused kernels"]


def test_the_root_log_gets_no_handler():
    """`logging.warning`, which TransformerLens calls, puts one there if there is none."""
    root = logging.getLogger()
    kept, root.handlers[:] = list(root.handlers), []
    try:
        with quiet():
            logging.basicConfig()
            assert root.handlers
        assert root.handlers == []
    finally:
        root.handlers[:] = kept
