"""CUDA devices that do nothing, registered before PyTorch asks which there are."""

import ctypes
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = ("g++", "-std=c++20", "-shared", "-fPIC")
BEFORE = ("torch_global_deps", "c10", "torch_cpu")


def _register() -> None:
    """Register devices that do nothing, before PyTorch asks which there are; builds without CUDA
    have none.
    """
    found = find_spec("torch")
    assert found is not None
    [home] = found.submodule_search_locations or ()
    libraries = Path(home) / "lib"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "registered.so"
        links = (f"-L{libraries}", "-lc10", "-ltorch_cpu")
        subprocess.run([*COMPILER, f"-I{home}/include", SOURCE, "-o", made, *links], check=True)
        for library in (*(libraries / f"lib{name}.so" for name in BEFORE), made):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


_register()
