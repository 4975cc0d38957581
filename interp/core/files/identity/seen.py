"""What was met while a value is read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from interp.core.files.identity.lying import lying_at


@dataclass(frozen=True)
class Seen:
    """What was met so far, by address; held, so that no address is used again.

    Attributes:
        files: names of files stand for what lies there; else what reads one is refused.
        read: gives the text of any value that is met on the way, with its place in words.
        known: what counts as met before.
        lies: what lies there, of each text or path that could be such a name.
        readers: names met that read from files.
    """

    files: bool
    read: Callable[[object, "Seen", str], Iterator[str]]
    known: tuple[object, ...] = ()
    met: dict[int, tuple[int, object]] = field(default_factory=dict)
    lies: dict[str | Path, tuple[str, ...]] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        for value in self.known:
            self.met.setdefault(id(value), (len(self.met), value))

    def inside(self) -> "Seen":
        """For a part that is told by itself."""
        return Seen(self.files, self.read, self.known, lies=self.lies, readers=self.readers)

    def folders(self) -> list[str | Path]:
        """What was named, and may be a folder: told by nothing else."""
        return sorted((name for name, lies in self.lies.items() if not lies), key=str)


def lies(named: str | Path, seen: Seen) -> tuple[str, ...]:
    if named not in seen.lies:
        seen.lies[named] = tuple(lying_at(named))
    return seen.lies[named]
