"""The allocations as they were at one moment, read by another thread while the table goes on changing.

Nothing is copied at that moment. The table calls ``keep`` before it changes a row, and the first time this happens to a
page of rows, the page is copied. The reading thread copies a page, too, and looks afterwards whether one was kept: if
so, it may have read half of a change, and takes the kept one instead. As a page is always kept before it is changed,
one of the two copies is right, without a lock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

PAGE_ROWS = 1024


class Page(msgspec.Struct, frozen=True):
    """Consecutive rows: their part of each column, and (row, side record) for those that have one."""

    columns: dict[str, npt.NDArray[Any]]
    extras: list[tuple[int, Any]]


class FrozenAllocs:
    """``columns`` and ``extras`` are the table's own; a side record that is in there is never changed any more, only
    replaced (``AllocTable.edit``)."""

    def __init__(self, size: int, columns: dict[str, npt.NDArray[Any]], extras: Mapping[int, Any]) -> None:
        self.size = size
        self._columns, self._extras = columns, extras
        self._kept: dict[int, Page] = {}

    def keep(self, row: int) -> None:
        """Keeps the page of a row that is about to change; for the thread that owns the table."""
        number = row // PAGE_ROWS
        if row < self.size and number not in self._kept:
            self._kept[number] = self._copy(number)

    def pages(self) -> Iterator[Page]:
        """All rows in order; for the thread that encodes them, once."""
        for number in range(-(-self.size // PAGE_ROWS)):
            copied = self._copy(number)
            yield self._kept.get(number, copied)

    def _copy(self, number: int) -> Page:
        first, end = number * PAGE_ROWS, min((number + 1) * PAGE_ROWS, self.size)
        columns = {name: np.array(column[first:end]) for name, column in self._columns.items()}
        get = self._extras.get
        extras = [(row, extra) for row in range(first, end) if (extra := get(row)) is not None]
        return Page(columns, extras)
