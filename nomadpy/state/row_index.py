"""Rows by key, as arrays that grow at their end."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint32]
_FEW = 32


def add_range(index: dict[Any, array[int]], key: Any, first: int, count: int) -> None:
    """Adds consecutive rows under one key."""
    rows = index.get(key)
    if rows is None:
        rows = index[key] = array("I")
    if count < _FEW:
        rows.extend(range(first, first + count))
    else:
        rows.frombytes(np.arange(first, first + count, dtype=np.uint32).tobytes())


def add_scattered(index: dict[Any, array[int]], keys: Rows, first: int) -> None:
    """Adds consecutive rows, each under its own key. Sorted by key first, so that it costs little per row."""
    if len(keys) < _FEW:
        for row, key in enumerate(keys.tolist(), first):
            known = index.get(key)
            if known is None:
                index[key] = array("I", (row,))
            else:
                known.append(row)
        return
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    data = (order + first).astype(np.uint32).tobytes()
    bounds = (starts * 4).tolist()
    for key, begin, end in zip(ordered[starts].tolist(), bounds, [*bounds[1:], len(data)], strict=True):
        known = index.get(key)
        if known is None:
            known = index[key] = array("I")
        known.frombytes(data[begin:end])


def drop(index: dict[Any, array[int]], key: Any, gone: Iterable[int]) -> None:
    """Takes rows out; a key that has none left goes, too."""
    left = np.asarray(index.get(key, ()), dtype=np.uint32)
    left = left[~np.isin(left, np.fromiter(gone, dtype=np.uint32))]
    if len(left):
        index[key] = array("I", left.tobytes())
    else:
        index.pop(key, None)
