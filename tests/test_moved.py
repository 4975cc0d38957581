"""Names of version 0.1 still work, mean the same, and say where they stand now."""

import importlib
import sys
import warnings

import pytest

import interp
from interp import moved


@pytest.mark.parametrize("old", sorted(moved.MODULES))
def test_old_modules_are_the_new_ones(old: str):
    new = moved.MODULES[old]
    home = importlib.import_module(new)
    spec = home.__spec__
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=rf"^{old} is {new} now; .* version 0\.3\.$") as said:
        assert importlib.import_module(old) is home
    assert home.__spec__ is spec and home.__name__ == new
    assert [str(one.message).partition(" ")[0] for one in said].count(old) == 1
    sys.modules.pop(old, None)


@pytest.mark.parametrize(
    "package, name, new",
    [
        ("circuits", "head_types", "heads"),
        ("circuits", "relations", "heads"),
        ("circuits", "knock_out", "causal"),
        ("causal", "faithfulness", "circuits"),
        ("causal", "acdc", "circuits"),
    ],
)
def test_old_faces(package: str, name: str, new: str):
    with pytest.warns(FutureWarning, match=rf"interp\.{package}\.{name} is interp\.{new}\.{name} "):
        found = getattr(getattr(interp, package), name)
    assert found is getattr(getattr(interp, new), name)


def test_the_face_of_version_0_1_is_whole():
    """Every public name of the two packages, as they were."""
    heads = [*interp.heads.__all__, "beside_random", "knock_out"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert all(callable(getattr(interp.circuits, name)) for name in heads)
        assert all(callable(getattr(interp.causal, name)) for name in interp.circuits.__all__)


def test_an_old_module_does_not_hide_the_function_of_its_name():
    pairs = [old.rpartition(".")[::2] for old in moved.MODULES]
    faces = {(a, b): getattr(importlib.import_module(a), b) for a, b in pairs if _public(a, b)}
    assert len(faces) > 12
    for package, name in faces:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            sys.modules.pop(f"{package}.{name}", None)
            importlib.import_module(f"{package}.{name}")
            assert getattr(sys.modules[package], name) is faces[package, name]


def _public(package: str, name: str) -> bool:
    if package not in ("interp.circuits", "interp.datasets", "interp.probing", "interp.figures"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return callable(getattr(importlib.import_module(package), name, None))


def test_a_name_that_never_was_is_no_attribute():
    with pytest.raises(AttributeError, match=r"module 'interp\.circuits' has no attribute 'nope'"):
        _ = interp.circuits.nope
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("interp.circuits.nope")
