"""Where the data that this project wrote lies on disk."""

from pathlib import Path

from interp.core.errors import InterpError


def folder(name: str) -> Path:
    """The folder of one of the project's own data sets.

    A wheel carries the files inside the package, a source checkout beside it.

    Raises:
        InterpError: neither place has the folder.
    """
    package = Path(__file__).resolve().parents[2]
    places = [package / "data" / name, package.parent / "data" / name]
    for place in places:
        if place.is_dir():
            return place
    raise InterpError(
        f"the data set {name!r} is in neither {places[0]} (an installed package) nor {places[1]} "
        "(a source checkout). Likely the package was copied or built without its data: reinstall "
        "it, or check the repository out whole."
    )
