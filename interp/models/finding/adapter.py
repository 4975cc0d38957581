"""What an adapter's folder holds, looked at before anything is made of it."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from interp.core.door.taken import Told, shown
from interp.core.errors import ModelError, said
from interp.core.files.sealed import read_json
from interp.models.finding.folder import Shapes, header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SAVES = "PeftModel.save_pretrained(folder)"
PLAIN = (True, False, "gaussian", "orthogonal", "eva", "mica")
"""How an adapter may begin that leaves its base as it is."""
APART = {
    "layer_replication": "it runs layers of its base several times, and is another architecture",
    "alora_invocation_tokens": "it acts from some tokens on and not before, which no weights do",
    "arrow_config": "it chooses among adapters token by token, which no weights do",
    "megatron_config": "it is made for modules of Megatron",
}
"""Options by which an adapter is no change of its base's weights."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk (Hu et al. 2021), as PEFT saves it.

    Attributes:
        folder: where it lies.
        config: what its config says.
        shapes: of its tensors, by the names in the file.
        sha256: of its two files, one after the other.
    """

    folder: Path
    config: Mapping[str, Any]
    shapes: Shapes
    sha256: str

    @property
    def name(self) -> str:
        """That of its folder."""
        return self.folder.resolve().name

    @property
    def told(self) -> str:
        """Which one it is, in words."""
        rank, base = self.config.get("r"), self.config.get("base_model_name_or_path")
        return f"the adapter {self.name} (rank {rank}, of base {shown(base)}, {self.folder})"


def adapters_of(given: object) -> list[Path]:
    """The folders of adapters, in the order in which they are merged.

    Raises:
        ModelError: what is no folder's name.
    """
    if given is None:
        return []
    folders = list(given) if isinstance(given, list | tuple) else [given]
    if odd := [one for one in folders if not isinstance(one, str | os.PathLike) or not str(one)]:
        raise ModelError(
            f"adapter={shown(odd[0])} is no folder. Give the one that {_SAVES} wrote, or a list of "
            "such, which are merged one after the other."
        )
    return [Path(one).expanduser() for one in folders]


def read_adapter(folder: Path) -> Adapter:
    """The adapter that lies in a folder; its numbers are not read.

    Raises:
        ModelError: there is none, it is of another kind, or it is no change of weights.
    """
    _require_adapter(folder)
    config = read_json(folder / CONFIG, "Likely it is damaged: save the adapter again.")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds an adapter of kind {shown(kind)}, and only LoRA is merged. If it is "
            "a change of weights too, merge it with PEFT (merge_and_unload), save the model, and "
            "load that."
        )
    rank = config.get("r")
    if type(rank) is not int or rank < 1:
        raise ModelError(
            f"{folder / CONFIG} says r={shown(rank)}, and a rank is a whole number of at least 1. "
            "Likely it was edited: save the adapter again."
        )
    for option, why in APART.items():
        if config.get(option):
            raise ModelError(
                f"{folder} has {option}={shown(config[option])}: {why}, so it cannot be merged "
                "into weights."
            )
    begins = config.get("init_lora_weights", True)
    if begins not in PLAIN:
        raise ModelError(
            f"{folder} has init_lora_weights={shown(begins)}, which changes the base's own weights "
            "while the adapter is put on, by chance or by data. Let PEFT make a plain one of it: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...)."
        )
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    digest.update((folder / WEIGHTS).read_bytes())
    shapes = {name: shape for name, (shape, _) in header(folder, folder / WEIGHTS).items()}
    return Adapter(folder, config, shapes, digest.hexdigest())


def _require_adapter(folder: Path) -> None:
    """Refuse a folder without an adapter's two files.

    Raises:
        ModelError: saying what was found.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise ModelError(
            f"adapter={str(folder)!r} {what} (looked from {Path.cwd()}). Give the folder that "
            f"{_SAVES} wrote."
        )
    try:
        there = sorted(p.name for p in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {said(error)}. Is it yours to read?") from error
    if CONFIG in there and WEIGHTS in there:
        return
    if CONFIG in there and "adapter_model.bin" in there:
        raise ModelError(
            f"{folder} has only pickled weights (adapter_model.bin), and unpickling runs whatever "
            f"code is inside. If you trust them, let PEFT load and save them: {_SAVES}."
        )
    if CONFIG not in there and "config.json" in there:
        raise ModelError(
            f"{folder} holds a whole model and no adapter. Load it by itself: "
            f"interp.load({str(folder)!r})."
        )
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    raise ModelError(
        f"{folder} is no adapter: looked for {CONFIG} and {WEIGHTS}, found "
        f"{listed or 'an empty folder'}. Give the folder that {_SAVES} wrote."
    )


def require_apart(adapters: Sequence[Adapter]) -> None:
    """Refuse several adapters of one name, or whose sum depends on their order.

    Raises:
        ModelError: naming them.
    """
    if len(adapters) < 2:
        return
    names = [one.name for one in adapters]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ModelError(
            f"two adapters are called {twice[0]!r} (the name of their folder), so results could "
            "not tell them apart. Rename a folder."
        )
    for one in adapters:
        parts = [p for p in ("use_dora", "modules_to_save") if one.config.get(p)]
        if parts:
            raise ModelError(
                f"{one.told} has {parts[0]}={shown(one.config[parts[0]])}, which replaces weights "
                "and does not add to them, so what comes of several adapters would depend on their "
                "order. Load it by itself."
            )


AdapterFolders = Annotated[
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None, Told(adapters_of)
]
