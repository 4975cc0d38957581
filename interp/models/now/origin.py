"""Where a model came from, as far as its name does not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Origin:
    """What a model was made of.

    Attributes:
        call: what makes it anew; where nothing stands, `interp.load` of its name.
        given: the class of the module in memory that it is a view of; nothing of one that was read.
        adapters: those that were merged into its weights, in this order: name, and sha256 of its
            files.
    """

    call: str = ""
    given: str = ""
    adapters: Mapping[str, str] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """What an identity says of it."""
        found: dict[str, Any] = {"given": f"{self.given} in memory"} if self.given else {}
        return found | ({"adapters": dict(self.adapters)} if self.adapters else {})
