"""Allocation ids that follow from row numbers.

A row number goes through a keyed 64-bit Feistel permutation; that is the first half of the UUID, and the second half is
mixed from the first. So a million ids need no map: an id is inverted to its row, and checked. The key belongs to the
replicated state and rows are never renumbered while an id lives.

When an older state is restored, rows that were given out after it was saved are given out again, and nodes may still
know their ids. So each restore begins an *era*, a number that is mixed into the ids of the rows from there on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nomadpy.model.ids import is_uuid

_ROUNDS = 4
_MASK32 = 0xFFFF_FFFF
_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_MULTIPLIER = 0x9E3779B1  # 2^32 / golden ratio: spreads low bits over the high ones


class RowIds:
    """The permutation for one key (any integer below 2^128).

    >>> ids = RowIds(7)
    >>> ids.row(ids.uuid(12345))
    12345
    >>> ids.row("00000000-0000-0000-0000-000000000000") in (None,)
    True
    """

    def __init__(self, key: int, eras: tuple[tuple[int, int], ...] = ()) -> None:
        self.key = key
        # (first row, number below 2^32), oldest first; rows before the first one have era 0.
        self.eras = eras
        self._keys = [(key >> (32 * i)) & _MASK32 for i in range(_ROUNDS)]

    def with_era(self, first_row: int, era: int) -> RowIds:
        """The same ids for older rows, others from ``first_row`` on."""
        return RowIds(self.key, (*(known for known in self.eras if known[0] < first_row), (first_row, era)))

    def _era(self, row: int) -> int:
        return next((era for first_row, era in reversed(self.eras) if row >= first_row), 0)

    def first_half(self, row: int) -> int:
        """The permuted row: the first 64 bits of its id."""
        left, right = row >> 32, row & _MASK32
        if self.eras:
            left ^= self._era(row)
        for key in self._keys:
            left, right = right, left ^ _round(right, key)
        return left << 32 | right

    def first_halves(self, rows: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        """``first_half`` of many rows at once."""
        mask = np.uint64(_MASK32)
        shift, half = np.uint64(32), np.uint64(15)
        left, right = rows >> shift, rows & mask
        if self.eras:
            numbers = np.array([0, *(era for _, era in self.eras)], dtype=np.uint64)
            firsts = np.array([first_row for first_row, _ in self.eras], dtype=np.uint64)
            left ^= numbers[np.searchsorted(firsts, rows, side="right")]
        for key in self._keys:
            mixed = ((right ^ np.uint64(key)) * np.uint64(_MULTIPLIER)) & mask
            mixed = ((mixed ^ (mixed >> half)) * np.uint64(0x85EBCA6B)) & mask
            mixed = mixed ^ (mixed >> np.uint64(13))
            left, right = right, left ^ mixed
        return (left << shift) | right

    def uuid(self, row: int) -> str:
        """The id of a row."""
        first = self.first_half(row)
        text = f"{first:016x}{self._second_half(first):016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def row(self, uuid: str) -> int | None:
        """The row of an id, or None when no row has it. Only the exact text counts: lower case, hyphens in place."""
        if not is_uuid(uuid):
            return None
        text = uuid.replace("-", "")
        first, second = int(text[:16], 16), int(text[16:], 16)
        if self._second_half(first) != second:
            return None
        left, right = first >> 32, first & _MASK32
        for key in reversed(self._keys):
            left, right = right ^ _round(left, key), left
        if not self.eras:
            return left << 32 | right
        for era in (0, *(era for _, era in self.eras)):
            found = (left ^ era) << 32 | right
            if self._era(found) == era:
                return found
        return None

    def _second_half(self, first: int) -> int:
        mixed = (first ^ (self.key >> 64) ^ 0xD6E8FEB86659FD93) * 0x9E3779B97F4A7C15 & _MASK64
        mixed = (mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93 & _MASK64
        return mixed ^ (mixed >> 29)


def _round(half: int, key: int) -> int:
    mixed = (half ^ key) * _MULTIPLIER & _MASK32
    mixed = (mixed ^ (mixed >> 15)) * 0x85EBCA6B & _MASK32
    return mixed ^ (mixed >> 13)
