"""Circuits: sets of edges or of nodes that are said to carry a behaviour, and how that is meant.

The same set means something else under another ablation or another corruption (Miller et al. 2024,
sec. 4), so a circuit carries them, and circuits that differ in them are not compared.
"""

import os
import warnings
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from interp.core.door.door import door
from interp.core.door.taken import shown
from interp.core.errors import ResultsError, SiteError, said
from interp.core.files.identity import identity
from interp.core.files.sealed import Damaged, held_in, is_sealed, parsed, write_note
from interp.core.parts.edges import ARROW, Edge
from interp.core.parts.sites import Site

Granularity = Literal["edges", "nodes"]
Ablation = Literal["zero", "mean", "resample", "optimal"]
VERSION = 1
NAME = "Name a file that Circuit.save wrote."
EDITED = 'If you changed it on purpose, take out its line "seal".'
FIELDS = {"granularity", "ablation", "corruption", "model", "note"}
"""What a file says of a circuit, beside its parts."""


class Part(NamedTuple):
    """An edge or a site, and where: a named position of the pairs, or "all"."""

    of: Edge | Site
    place: str = "all"

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Read "20.1 -> 23.3.q @ end"; without a place it is everywhere.

        Raises:
            SiteError: not an edge or a site.
        """
        if not isinstance(text, str):  # no door: an attribution has 70,000 of them
            raise SiteError(f"{shown(text)} is no text of a part, such as '20.1 -> 23.3.q @ end'.")
        name, _, place = text.partition("@")
        of = Edge.parse(name) if ARROW in name else Site.parse(name)
        return cls(of, place.strip() or "all")

    def __str__(self) -> str:
        return f"{self.of}" if self.place == "all" else f"{self.of} @ {self.place}"


@door
@dataclass(frozen=True)
class Circuit:
    """A set of parts, all edges or all sites, and what takes the place of the others.

    Attributes:
        parts: what is kept. Everything else of the model's graph is ablated: of edges those that
            `Graph` has, of nodes heads and MLPs.
        granularity: are the parts edges or nodes?
        ablation: what the other parts are set to: `"resample"`, their value in the corrupt prompt
            of the same row; `"mean"`, their mean over corrupt prompts; `"zero"`; `"optimal"`,
            constants fitted to lose least.
        corruption: in words, how the corrupt prompts differ from the clean ones.
        model: weight hash of the model whose circuit it is.
        note: what a reader would not expect of it, such as that it keeps everything; "" mostly.
            Circuits are compared without it.
    """

    parts: frozenset[Part]
    granularity: Granularity
    ablation: Ablation
    corruption: str
    model: str
    note: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        kind = Edge if self.granularity == "edges" else Site
        if other := [part for part in self.parts if not isinstance(part.of, kind)]:
            raise SiteError(
                f"'{other[0]}' is none of the {self.granularity} that this circuit is made of; "
                "edges are written 'writer -> reader', nodes '23.3' or '12.mlp'."
            )
        places = {part.place for part in self.parts}
        if len(places) > 1 and "all" in places:
            raise SiteError(
                f"a circuit holds parts at 'all' positions and parts at {sorted(places - {'all'})}:"
                " say for each part where it is, or for none."
            )

    @classmethod
    @door
    def of(
        cls,
        parts: Iterable[str | Edge | Site | Part],
        *,
        model: str,
        ablation: Ablation = "resample",
        corruption: str = "corrupt prompts",
        granularity: Granularity | None = None,
    ) -> "Circuit":
        """A circuit from parts as text ("20.1 -> 23.3.q @ end"), edges or sites.

        Args:
            model: the model's `weight_hash`.
            granularity: needed only where there are no parts to tell it.

        Raises:
            SiteError: no part tells whether it is one of edges or of nodes, or they are mixed.
        """
        found = frozenset(
            Part.parse(p) if isinstance(p, str) else p if isinstance(p, Part) else Part(p)
            for p in parts
        )
        if granularity is None:
            if not found:
                raise SiteError("an empty circuit needs granularity='edges' or 'nodes'.")
            granularity = "edges" if isinstance(min(found, key=str).of, Edge) else "nodes"
        return cls(found, granularity, ablation, corruption, model)

    @cached_property
    def _lines(self) -> tuple[str, ...]:
        """The parts as text, in order."""
        return tuple(str(part) for part in sorted(self.parts, key=_order))

    def __identity__(self) -> str:
        """Of 70,000 parts each by itself would take a minute."""
        settings = [self.granularity, self.ablation, self.corruption, self.model, self.note]
        return identity((settings, "\n".join(self._lines)))

    def __len__(self) -> int:
        return len(self.parts)

    def __contains__(self, part: object) -> bool:
        of = Part.parse(part) if isinstance(part, str) else part
        of = Part(of) if isinstance(of, Edge | Site) else of
        return isinstance(of, Part) and of in self.parts

    @property
    def places(self) -> tuple[str, ...]:
        """The positions at which parts stand: ("all",) or names."""
        return tuple(sorted({part.place for part in self.parts})) or ("all",)

    @door
    def holding(self, parts: Set[Part]) -> "Circuit":
        """The same circuit with other parts.

        Raises:
            SiteError: parts of another granularity.
        """
        return replace(self, parts=frozenset(parts), note="")

    @door
    def __or__(self, other: "Circuit") -> "Circuit":
        self.require_like(other)
        return self.holding(self.parts | other.parts)

    @door
    def __and__(self, other: "Circuit") -> "Circuit":
        self.require_like(other)
        return self.holding(self.parts & other.parts)

    @door
    def __sub__(self, other: "Circuit") -> "Circuit":
        self.require_like(other)
        return self.holding(self.parts - other.parts)

    @door
    def jaccard(self, other: "Circuit") -> float:
        """Parts that both have, of those that either has; 1 for two empty circuits.

        Raises:
            ResultsError: circuits of different models, granularities, ablations or corruptions.
        """
        self.require_like(other)
        either = self.parts | other.parts
        return len(self.parts & other.parts) / len(either) if either else 1.0

    @door
    def require_like(self, other: "Circuit") -> None:
        """Refuse to compare what means different things.

        Raises:
            ResultsError: names the first thing that differs.
        """
        for name in ("model", "granularity", "ablation", "corruption"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ResultsError(
                    f"these circuits differ in their {name} ({mine!r} and {theirs!r}), so a part "
                    "of one means something else in the other. Discover both in the same way."
                )

    @door
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write JSON, one part a line; atomic.

        Raises:
            ResultsError: the folder cannot be written.
        """
        path = Path(path)
        write_note(path, self.as_note() | {"version": VERSION})
        return path

    def as_note(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(replace(self, parts=frozenset())) | {"parts": list(self._lines)}

    @classmethod
    def of_note(cls, note: Mapping[str, Any]) -> "Circuit":
        """What `as_note` gave.

        Raises:
            ValueError: it is of something else, or names a part that is none.
        """
        if set(note) != {*FIELDS, "parts"} or not _texts(note["parts"]):
            raise ValueError(f"keys {sorted(note)}, parts {note.get('parts')!r:.80}")
        return cls(**{**note, "parts": frozenset(map(Part.parse, note["parts"]))})

    @classmethod
    @door
    def load(cls, path: str | os.PathLike[str]) -> "Circuit":
        """Read what `save` wrote.

        Raises:
            ResultsError: no such file, not a circuit, damaged, or of another version.
        """
        path = Path(path)
        if other := held_in(path):
            raise ResultsError(f"{path} holds {other}, which is no Circuit. {NAME}")
        try:
            data = path.read_bytes()
            sealed, note = is_sealed(data, path, EDITED), parsed(data, path, NAME)
            note.pop("seal", None)
            version = note.pop("version")
            if version == VERSION:
                found = cls.of_note(note)
                if not sealed:
                    warnings.warn(
                        f"{path} carries no checksum, so damage to it would not show. Save the "
                        "circuit again, and it has one.",
                        stacklevel=4,
                    )
                return found
        except Damaged:
            raise
        except FileNotFoundError:
            raise ResultsError(f"there is no circuit at {path}; see what save wrote.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(
                f"{path} holds no circuit that interp wrote ({said(error)}). {NAME}"
            ) from error
        raise ResultsError(
            f"{path} has circuit version {version}; this interp reads version {VERSION}. "
            "Discover it again, or read it with the interp that wrote it."
        )

    def __repr__(self) -> str:
        if not self.parts:
            kept = f"no {self.granularity} are kept, so it is the ablated run"
        else:
            places = "" if self.places == ("all",) else f" at {', '.join(self.places)}"
            kept = f"{len(self)} {self.granularity}{places}, the others ablated"
        note = f". {self.note}" if self.note else ""
        return f"Circuit: {kept} ({self.ablation}, {self.corruption}){note}"


def _texts(parts: object) -> bool:
    return isinstance(parts, list) and all(isinstance(part, str) for part in parts)


def _order(part: Part) -> tuple[str, tuple]:
    return part.place, part.of.order
