"""CUDA devices that PyTorch only pretends to have: counted, and as strict as real ones.

A tensor there says "cuda:0" or "cuda:1" and holds its numbers in main memory. What mixes devices
is refused, as on a GPU; operations that launch work are counted, and what makes the host wait is
noted with the line of the library that asks for it.

Import this before torch: it registers the devices before PyTorch asks which there are, and puts
no_grad in the place of inference_mode, in which a wrapper has no version counter. Say "cuda:0". Run
with HF_DEACTIVATE_ASYNC_LOAD=1, since threads do not see what is pretended. Views are not counted;
a fused norm of a GPU is one launch, and here as many as a CPU makes of it.
"""

import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import registered  # noqa: F401 before torch
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

TOTAL = 80 << 30
"""Bytes of each device."""
WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"),
    *("unique_dim", "unique_consecutive", "unique_dim_consecutive"),
}
VIEWS = {
    *("view", "_unsafe_view", "expand", "select", "slice", "transpose", "permute", "unsqueeze"),
    *("squeeze", "t", "detach", "alias", "as_strided", "split", "split_with_sizes", "unbind"),
    *("unfold", "diagonal", "_reshape_alias", "chunk", "lift_fresh", "view_as_real"),
}
MOVES = {"_to_copy", "copy_", "set_", "_copy_from", "_copy_from_and_resize"}
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}


@dataclass
class Seen:
    """What ran on the devices.

    Attributes:
        launched: operations that launch work, views left out.
        waits: what the host waited for, and the line that asked.
        lines: the operations by the line that made them.
    """

    launched: int = 0
    waits: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)

    def wait(self, name: str) -> None:
        self.waits[f"{name} {_line()}"] += 1


SEEN = Seen()


class There(Tensor):
    """A tensor on a device that is not there."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device | None = None, **_: object) -> "There":
        device = inner.device if device is None else device
        inner = inner.inner if isinstance(inner, There) else inner
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    def __init__(self, inner: Tensor, device: torch.device | None = None, **_: object) -> None:
        pass

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"There({self.inner!r}, {self.device})"

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        SEEN.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(
                f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to "
                "copy the tensor to host memory first."
            )
        SEEN.wait("numpy")
        return self.inner.detach().numpy()

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __deepcopy__(self, memo: object) -> "There":
        return There(self.inner.clone(), self.device)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _dispatch(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees what is made on a device, too."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        asked = kwargs.get("device")
        there = any(isinstance(leaf, There) for leaf in tree_leaves((args, kwargs)))
        if there or (asked is not None and torch.device(asked).type == "cuda"):
            return _dispatch(func, args, kwargs)
        return func(*args, **kwargs)


def _dispatch(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = {t.device for t in tensors if isinstance(t, There)}
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    _require_one(name, args, tensors)
    if name not in VIEWS:
        SEEN.launched += 1
        SEEN.lines[_line()] += 1
    to_host = bool(here) and asked is not None and asked.type == "cpu"
    back = name == "copy_" and bool(here) and not isinstance(args[0], There)
    if name in WAITS or to_host or back:
        SEEN.wait("cpu" if to_host or back else name)
    inner = partial(tree_map, lambda leaf: leaf.inner if isinstance(leaf, There) else leaf)
    given = dict(inner(dict(kwargs)))
    if asked is not None:
        given["device"] = torch.device("cpu")
    given |= {"pin_memory": False} if given.get("pin_memory") else {}
    with torch._C._DisableTorchDispatch():
        found = func(*inner(tuple(args)), **given)
    in_place = name.endswith("_") and not name.endswith("__")
    if in_place and isinstance(args[0], Tensor):
        return args[0]
    if isinstance(kwargs.get("out"), Tensor):
        return kwargs["out"]
    if name == "_local_scalar_dense" or to_host:
        return found
    where = asked or next(iter(here))
    if name in INDEXES and not isinstance(args[0], There):
        return found

    def there(leaf: Any) -> Any:
        return There(leaf, where) if isinstance(leaf, Tensor) else leaf

    return tree_map(there, found)


def _require_one(name: str, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    """Refuse what PyTorch refuses: tensors of two places in one operation; numbers may come along.

    Raises:
        RuntimeError: in its words.
    """
    if name in INDEXES:
        if isinstance(args[0], There):
            for index in args[1] or ():
                if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                    SEEN.wait("boolean index")
                elif isinstance(index, Tensor) and not isinstance(index, There):
                    SEEN.wait("index from cpu")
        elif any(isinstance(index, There) for index in args[1] or ()):
            raise RuntimeError("indices should be either on cpu or on the same device (cpu)")
        tensors = [args[0], *(t for t in args[2:3] if isinstance(t, Tensor))]
    places = {t.device for t in tensors if t.ndim > 0 or isinstance(t, There)}
    if len(places) > 1 and name not in MOVES:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(map(str, places)))}! ({name}, {_line()})"
        )


def _line() -> str:
    for frame in reversed(traceback.extract_stack(limit=40)):
        _, inside, path = frame.filename.rpartition("/interp/")
        if inside:
            return f"{path}:{frame.lineno}"
    return "elsewhere"


class _NoInference(torch.no_grad):
    """Stands in for inference_mode: as a decorator, with and without brackets, and as a block."""

    def __new__(cls, mode: Any = True) -> Any:
        return super().__new__(cls) if isinstance(mode, bool) else cls()(mode)

    def __init__(self, mode: Any = True) -> None:
        super().__init__()
        self.mode = mode

    def __enter__(self) -> None:
        if self.mode:
            super().__enter__()
        else:
            self.prev = torch.is_grad_enabled()


torch.inference_mode = _NoInference  # pyright: ignore


@contextmanager
def pretend(devices: int = 1) -> Iterator[Seen]:
    """Inside of the block there are so many CUDA devices."""
    global SEEN
    SEEN = Seen()
    stand_ins: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: 0,
        "mem_get_info": lambda *_: (TOTAL, TOTAL),
        "synchronize": lambda *_: SEEN.wait("synchronize"),
        "empty_cache": lambda: None,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
    }
    kept = {name: getattr(torch.cuda, name) for name in stand_ins}
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)
    torch.__future__.set_swap_module_params_on_conversion(True)
    torch._C._ensureCUDADeviceGuardSet()
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Mode():
            yield SEEN
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        for name, own in kept.items():
            setattr(torch.cuda, name, own)
        torch.__future__.set_swap_module_params_on_conversion(False)
