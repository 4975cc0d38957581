"""Files that carry their own checksum, compared when they are read.

A *seal* is a text of fixed length somewhere in a file, "interp-seal:" and 32 hex digits: the
checksum of all its other bytes. In a safetensors file it is that of the header, which has one for
each tensor, so that a large file is read only where something is asked of it. A checksum (XXH3)
finds damage; whoever means to deceive can make another.
"""

import json
import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.core.door.taken import a
from interp.core.errors import ModelError, ResultsError, said
from interp.core.files.atomic import REMEDY, whole

MARK = b"interp-seal:"
BLANK = MARK + b"0" * 32
"""What a writer puts where the seal is to be."""
NOTE = "interp"
HEADER = 100_000_000
"""Bytes of the longest header that safetensors writes."""


class Damaged(ResultsError, ModelError):
    """A file that is not as it was written."""


def checksum(data: Any) -> str:
    """Of bytes or anything that shows its memory: 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(data)


def seal(path: Path, *, end: int | None = None) -> None:
    """Put the checksum where `BLANK` stands, of a file or of its first `end` bytes."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as held:
        at = held.rfind(BLANK, 0, len(held) if end is None else end)
        found = _around(held, at, end)
        held[at : at + len(BLANK)] = MARK + found.encode()


def is_sealed(data: bytes, path: Path, remedy: str) -> bool:
    """Does a file, of which `data` are the bytes, carry a seal?

    Raises:
        Damaged: it does, and is not as it was written.
    """
    at = data.rfind(MARK)
    if at < 0:
        return False
    there, now = data[at + len(MARK) : at + len(BLANK)].decode("latin-1"), _around(data, at, None)
    if there != now:
        raise Damaged(
            f"{path} is not as it was written: its checksum is {now} and was {there!r}. It was "
            f"damaged, or changed by hand. {remedy}"
        )
    return True


def _around(data: Any, at: int, end: int | None) -> str:
    digest = xxhash.xxh3_128()
    with memoryview(data) as held:
        digest.update(held[:at])
        digest.update(held[at + len(BLANK) : end])
    return digest.hexdigest()


def unsealed(path: Path, remedy: str) -> Damaged:
    """The refusal of a file that carries no checksum."""
    return Damaged(
        f"{path} carries no checksum of interp: it was written by something else, or by an older "
        f"version, or is damaged. {remedy}"
    )


def write_note(
    path: Path,
    note: Mapping[str, Any],
    *,
    what: str = "",
    remedy: str = REMEDY,
    first: bool = False,
) -> None:
    """Write an object as JSON, whole or not at all; with `first` not over one that is there.

    Raises:
        ResultsError: it cannot be written.
    """
    with whole(path, what=what, remedy=remedy, first=first) as partial:
        page = json.dumps({**note, "seal": BLANK.decode()}, indent=1)
        partial.write_text(page + "\n", encoding="utf-8")
        seal(partial)


def read_note(path: Path, *, remedy: str) -> dict[str, Any]:
    """What `write_note` wrote.

    Args:
        remedy: what to do about a file that is not as it was written, a sentence.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it cannot be read, or is not as it was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({said(error)}). {remedy}") from error
    if not is_sealed(data, path, remedy):
        raise unsealed(path, remedy)
    note = parsed(data, path, remedy)
    note.pop("seal", None)
    return note


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """An object of JSON in a file of somebody else's.

    Raises:
        Damaged: there is none, or the file is boundless.
    """
    try:
        if (size := path.stat().st_size) > HEADER:
            raise Damaged(
                f"{path} has {size / 1e6:.0f} MB, and what is read as text has at most "
                f"{HEADER / 1e6:.0f}. {remedy}"
            )
        return parsed(path.read_bytes(), path, remedy)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({said(error)}). {remedy}") from error


def parsed(data: bytes | str, path: object, remedy: str) -> dict[str, Any]:
    """An object of JSON.

    Args:
        path: that it was read from, or what else to call it.

    Raises:
        Damaged: it is none.
    """
    try:
        found = json.loads(data.decode() if isinstance(data, bytes) else data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} cannot be read: {said(error)}. {remedy}") from error
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise Damaged(f"{path} cannot be read: it holds a {kind}, not an object. {remedy}")
    return found


def told(note: Mapping[str, Any], path: object, remedy: str, kinds: Mapping[str, type]) -> None:
    """Refuse a note that lacks an entry, or has one of another kind.

    Raises:
        Damaged: naming it.
    """
    for name, kind in kinds.items():
        if not isinstance(note.get(name), kind):
            there = f"a {type(note[name]).__name__}" if name in note else "nothing"
            raise Damaged(
                f"{path} cannot be read: it has {there} under {name!r}, where a {kind.__name__} "
                f"belongs. Another version wrote it, or another program. {remedy}"
            )


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any], *, what: str = ""
) -> str:
    """Write a safetensors file with a note, whole or not at all.

    Returns:
        `Tensors.content`: a checksum of all the tensors.

    Raises:
        ResultsError: it cannot be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sums = {name: _sum(tensor) for name, tensor in held.items()}
    beside = {"note": dict(note), "sums": sums, "seal": BLANK.decode()}
    # one entry: safetensors writes several in any order
    metadata = {NOTE: json.dumps(beside)}
    with whole(path, what=what, failures=(SafetensorError,)) as partial:
        save_file(held, partial, metadata)
        with partial.open("rb") as file:
            end = 8 + int.from_bytes(file.read(8), "little")
        seal(partial, end=end)
    return _content(sums)


def _content(sums: Mapping[str, str]) -> str:
    return checksum(json.dumps(sums, sort_keys=True).encode())


def _sum(tensor: Tensor) -> str:
    return checksum(tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b"")


@dataclass(frozen=True, eq=False)
class Tensors:
    """An open file of tensors.

    Attributes:
        note: what it was written with.
    """

    path: Path
    note: Mapping[str, Any]
    sums: Mapping[str, str]
    file: Any
    remedy: str

    @property
    def names(self) -> list[str]:
        return list(self.sums)

    @property
    def content(self) -> str:
        """A checksum of all the tensors."""
        return _content(self.sums)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.file.get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """A tensor: a window on the file, as long as that is open.

        Raises:
            Damaged: there is none, or it is not as it was written.
        """
        if name not in self.sums:
            raise Damaged(f"{self.path} has no tensor {name!r}. {self.remedy}")
        found = self.file.get_tensor(name)
        if (now := _sum(found)) != self.sums[name]:
            raise Damaged(
                f"{name!r} in {self.path} is not as it was written: its checksum is {now} and was "
                f"{self.sums[name]}. The file was damaged, or changed by hand. {self.remedy}"
            )
        return found


@contextmanager
def open_tensors(path: Path, *, remedy: str) -> Iterator[Tensors]:
    """A file that `write_tensors` wrote.

    Args:
        remedy: what to do about a file that is not as it was written, a sentence.

    Raises:
        FileNotFoundError: there is none.
        Damaged: it cannot be read, or is not as it was written.
    """
    try:
        header = _header(path)
        if not is_sealed(header, path, remedy):
            raise unsealed(path, remedy)
        with safe_open(path, "pt") as file:
            beside = parsed((file.metadata() or {}).get(NOTE, ""), path, remedy)
            told(beside, path, remedy, {"note": dict, "sums": dict})
            yield Tensors(path, beside["note"], beside["sums"], file, remedy)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{path} cannot be read ({said(error)}). {remedy}") from error


@contextmanager
def open_content(path: Path, content: str, version: int, *, remedy: str) -> Iterator[Tensors]:
    """The same, of a file whose note says "content" and "version".

    Raises:
        ResultsError: there is none, it holds something else, or as `open_tensors`.
    """
    try:
        with open_tensors(path, remedy=remedy) as held:
            kind, of = held.note.get("content", "file of something else"), held.note.get("version")
            if (kind, of) != (content, version):
                raise Damaged(
                    f"{path} holds {a(str(kind))} of version {of}, and this interp reads "
                    f"{a(content)} of version {version}. {remedy}"
                )
            yield held
    except FileNotFoundError:
        raise ResultsError(f"there is no {content} at {path}; see what save wrote.") from None


def held_in(path: Path) -> str:
    """What a file of tensors says that it holds, under "content"; "" if it is none of interp's."""
    try:
        with path.open("rb") as file:
            if file.read(9)[8:] != b"{":  # of a table hundreds of megabytes would be read
                return ""
        with open_tensors(path, remedy="") as held:
            return str(held.note.get("content", ""))
    except (OSError, Damaged, ValueError):
        return ""


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        length = file.read(8)
        return length + file.read(min(int.from_bytes(length, "little"), HEADER))
