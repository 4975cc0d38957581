import warnings

import pytest
from transformers.utils import logging

from interp.models.quiet import quiet


def test_settings_return_even_after_an_error():
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with pytest.raises(ZeroDivisionError), quiet():
        assert not logging.is_progress_bar_enabled()
        warnings.warn("not heard", stacklevel=1)
        _ = 1 / 0
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
