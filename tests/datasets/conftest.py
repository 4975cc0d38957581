"""The published corpora, read once, where they are on this machine."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from interp.datasets import Corpus, MinimalPairs, corpus
from interp.datasets.named.sources import CORPORA


@pytest.fixture(scope="session")
def published() -> Callable[..., Corpus | MinimalPairs]:
    """A corpus by name and split; the test is skipped where $INTERP_DATA lacks it."""

    @cache
    def read(name: str, split: str) -> Corpus | MinimalPairs:
        return corpus(name, split=split)

    def load(name: str, split: str | None = None) -> Corpus | MinimalPairs:
        given = os.environ.get("INTERP_DATA")
        if not given or not Path(given, name).is_dir():
            pytest.skip(f"needs the corpus {name} in $INTERP_DATA ({given or 'not set'})")
        return read(name, split or next(iter(CORPORA[name].splits)))

    return load
