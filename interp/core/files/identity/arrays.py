"""Arrays, tensors and frames: their bytes."""

import hashlib
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp.core.files.identity.seen import Seen
from interp.core.files.identity.unreadable import unreadable


def tensor_identity(value: Tensor) -> str:
    """Dtype, shape and bytes of a tensor.

    Raises:
        Unreadable: its numbers cannot be read.
    """
    if value.is_meta or value.is_nested:
        lacks = "on the meta device, without numbers" if value.is_meta else "a nested one"
        raise unreadable(f"a tensor that is {lacks}, is not read.")
    plain, kind = value.detach(), ""
    try:
        if value.layout != torch.strided:
            plain, kind = plain.to_dense(), f" {value.layout}"
        if value.is_quantized:  # its own bytes do not tell their scale
            plain, kind = plain.dequantize(), f" {_bytes(plain)}"
        read = _bytes(plain)
    except (RuntimeError, TypeError, ValueError) as error:  # NotImplementedError is a RuntimeError
        raise unreadable(f"a tensor whose numbers cannot be read ({error}).") from error
    return f"{value.dtype} {tuple(value.shape)}{kind} {read}"


def _bytes(value: Tensor) -> str:
    """A hash of the numbers, also of those that are conjugated or negated when they are read."""
    plain = value.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    raw = plain.view(torch.uint8).numpy() if plain.numel() else b""
    return hashlib.sha256(raw).hexdigest()


def of_array(value: np.ndarray, seen: Seen, where: str) -> Iterator[str]:
    plain = np.asarray(value)
    yield f"{plain.dtype} {plain.shape}"
    if plain.dtype.hasobject:
        yield from seen.read(plain.tolist(), seen, where)
    else:
        yield hashlib.sha256(np.ascontiguousarray(plain).tobytes()).hexdigest()
    if isinstance(value, np.ma.MaskedArray):
        mask = np.ma.getmaskarray(value)
        yield from seen.read((mask, value.fill_value, value.hardmask), seen, f"the mask of {where}")


def of_frame(value: pd.DataFrame | pd.Series | pd.Index, seen: Seen, where: str) -> Iterator[str]:
    if isinstance(value, pd.Index):
        yield from _levels(value, seen, where)
        return
    if value.attrs:
        yield from seen.read(value.attrs, seen, f"an attribute of {where}")
    frame = value.to_frame() if isinstance(value, pd.Series) else value
    yield from seen.read((list(frame.columns), list(frame.columns.names)), seen, where)
    yield from _levels(frame.index, seen, where)
    for i in range(frame.shape[1]):
        yield from _column(frame.iloc[:, i], seen, where)


def _levels(value: pd.Index, seen: Seen, where: str) -> Iterator[str]:
    yield from seen.read(list(value.names), seen, where)
    for i in range(value.nlevels):
        yield from _column(pd.Series(value.get_level_values(i)), seen, where)


def _column(value: pd.Series, seen: Seen, where: str) -> Iterator[str]:
    """Numbers and texts at once; pandas would take other objects for their text."""
    yield str(value.dtype)
    if isinstance(value.dtype, pd.CategoricalDtype):
        yield from seen.read((value.cat.categories, value.cat.ordered), seen, where)
    if value.dtype != object or pd.api.types.infer_dtype(value, skipna=False) == "string":
        hashed = pd.util.hash_pandas_object(value, index=False).to_numpy()
        yield hashlib.sha256(hashed.tobytes()).hexdigest()
        return
    items = value.tolist()
    if all(type(item) is np.ndarray and not item.dtype.hasobject for item in items):
        digest = hashlib.sha256()
        for item in items:
            digest.update(f"{item.dtype} {item.shape}".encode())
            digest.update(np.ascontiguousarray(item).tobytes())
        yield digest.hexdigest()
    else:
        yield from seen.read(items, seen, where)
