"""What images a model reads: their size, their patches, and what their pixels are made of."""

from dataclasses import dataclass

CLASS, DISTILLED = "cls", "distill"
"""The positions before the patches: the token whose stream the classes are read from, and DeiT's
second one, which its teacher's answer was learned at."""


@dataclass(frozen=True)
class Images:
    """The images that a model reads, as a row of positions: class token, patches row by row.

    Attributes:
        height, width, channels: of an image, in pixels.
        patch: height and width of a patch; pixels beyond the last whole patch are not read.
        distilled: DeiT's token stands after the class token.
    """

    height: int
    width: int
    channels: int
    patch: tuple[int, int]
    distilled: bool = False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.height // self.patch[0], self.width // self.patch[1]

    @property
    def special(self) -> int:
        """Positions before the first patch."""
        return 2 if self.distilled else 1

    @property
    def n_ctx(self) -> int:
        """Positions of an image."""
        return self.special + self.grid[0] * self.grid[1]

    @property
    def features(self) -> int:
        """Numbers in a patch."""
        return self.channels * self.patch[0] * self.patch[1]

    @property
    def names(self) -> tuple[str, ...]:
        """What each position is called: "cls", then "r0c0" for the patch of row and column 0."""
        first = (CLASS, DISTILLED)[: self.special]
        rows, columns = self.grid
        return (*first, *(f"r{row}c{column}" for row in range(rows) for column in range(columns)))

    def __str__(self) -> str:
        rows, columns = self.grid
        return (
            f"{self.height} x {self.width} pixels of {self.channels} channels, "
            f"{rows} x {columns} patches of {self.patch[0]} x {self.patch[1]}"
        )


@dataclass(frozen=True)
class Processor:
    """What becomes of pixels before a model reads them: x -> (scale * x - mean) / std.

    Attributes:
        scale: of pixels from 0 to 255; those from 0 to 1 are multiplied by 255 * scale.
        mean, std: of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
