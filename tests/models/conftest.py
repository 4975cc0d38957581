"""Tiny random models on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
import transformers as hf
from tiny import build, word_tokenizer


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, without tokenizer files."""
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            build(family).save_pretrained(folders[family])
        return folders[family]

    return saved


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2 with a tokenizer that adds a beginning-of-sequence token."""
    folder = tmp_path_factory.mktemp("gpt2-with-tokenizer")
    build("gpt2").save_pretrained(folder)
    word_tokenizer(adds_bos=True).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def raw() -> Callable[[str], hf.PreTrainedModel]:
    """A function that builds the unwrapped model of a family, the same every time."""
    return build


@pytest.fixture
def plain_tokenizer() -> hf.PreTrainedTokenizerFast:
    return word_tokenizer(adds_bos=False)


@pytest.fixture
def tokenizer() -> hf.PreTrainedTokenizerFast:
    return word_tokenizer(adds_bos=True)
