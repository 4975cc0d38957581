"""Silence around transformers while it loads, and nothing changed afterwards.

What transformers has to say outside of that is the user's to hear.
"""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils.tqdm import progress_bar_states
from transformers.utils import logging as transformers_logging


@contextmanager
def unchanged() -> Iterator[None]:
    """The settings of logs, progress bars and Python's warnings return after the block."""
    log, root = logging.getLogger("transformers"), logging.getLogger()
    level, handlers = log.level, list(root.handlers)
    bars, groups = transformers_logging.is_progress_bar_enabled(), dict(progress_bar_states)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            log.setLevel(level)
            root.handlers[:] = handlers  # logging.warning puts one there where there is none
            warnings.simplefilter("ignore")  # that the environment has the last word on bars
            if bars:
                transformers_logging.enable_progress_bar()
            progress_bar_states.clear()  # transformers' switch turns the hub's bars too
            progress_bar_states.update(groups)


@contextmanager
def quiet() -> Iterator[None]:
    """Errors only and no progress bars from transformers inside the block.

    What it says but once is not used up: the next time, outside, it is heard.
    """
    once = {name: getattr(logging.Logger, name) for name in ("warning_once", "info_once")}
    with unchanged():
        warnings.simplefilter("ignore")
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        try:
            for name in once:
                setattr(logging.Logger, name, _every_time(name.removesuffix("_once")))
            yield
        finally:
            for name, method in once.items():
                setattr(logging.Logger, name, method)


def _every_time(level: str) -> Any:
    def say(self: logging.Logger, *args: Any, **kwargs: Any) -> None:
        getattr(self, level)(*args, **kwargs)

    return say


@contextmanager
def _speechless() -> Iterator[None]:
    """No warnings in logs inside the block, whoever makes them."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)


# at its first import TransformerLens mutes transformers for good, and brings torchao where that is
# installed, which says of each of its kernels that it is for other machines
with unchanged(), _speechless():
    importlib.import_module("transformer_lens.model_bridge.sources")
