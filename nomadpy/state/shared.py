"""Values that many rows share, kept once under a small number and dropped when no row is left."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Values by number with the count of rows that hold each. Number 0 is the empty value and needs no counting; the
    number of a value that nobody holds any more is given out again."""

    def __init__(self, empty: T) -> None:
        self._values: dict[int, T] = {0: empty}
        self._counts: dict[int, int] = {}
        self._free: list[int] = []
        self._next = 1

    def __len__(self) -> int:
        return len(self._values) - 1

    def __getitem__(self, code: int) -> T:
        return self._values[code]

    def add(self, value: T) -> int:
        """The number of a new value, which nobody holds yet."""
        if self._free:
            code = self._free.pop()
        else:
            code, self._next = self._next, self._next + 1
        self._values[code] = value
        self._counts[code] = 0
        return code

    def add_held(self, values: Sequence[T], counts: Sequence[int]) -> list[int]:
        """The numbers of new values, in order, each held by so many rows: what ``add`` and ``hold`` come to."""
        known = min(len(self._free), len(values))
        codes = self._free[len(self._free) - known :][::-1]
        del self._free[len(self._free) - known :]
        following = self._next + len(values) - known
        codes += range(self._next, following)
        self._next = following
        self._values.update(zip(codes, values, strict=True))
        self._counts.update(zip(codes, counts, strict=True))
        return codes

    def hold(self, code: int, count: int = 1) -> None:
        """Notes that ``count`` more rows hold the value."""
        if code:
            self._counts[code] += count

    def drop(self, code: int) -> bool:
        """Notes that one row less holds the value; True when it was the last."""
        if not code:
            return False
        self._counts[code] -= 1
        if self._counts[code]:
            return False
        del self._values[code], self._counts[code]
        self._free.append(code)
        return True


class Interned(Shared[str]):
    """Strings as small numbers; 0 is the empty string."""

    def __init__(self) -> None:
        super().__init__("")
        self._codes: dict[str, int] = {"": 0}

    def code(self, word: str) -> int:
        """The number of a word, new or known. A new one must be held by a row at once."""
        code = self._codes.get(word)
        if code is None:
            code = self._codes[word] = self.add(word)
        return code

    def know_none_of(self, words: Set[str]) -> bool:
        """Whether all of the words would be new."""
        return self._codes.keys().isdisjoint(words)

    def add_held(self, values: Sequence[str], counts: Sequence[int]) -> list[int]:
        """As for all shared values; the words are known from then on."""
        codes = super().add_held(values, counts)
        self._codes.update(zip(values, codes, strict=True))
        return codes

    def find(self, word: str) -> int:
        """The number of a known word, -1 otherwise."""
        return self._codes.get(word, -1)

    def drop(self, code: int) -> bool:
        """As for all shared values; a word that went is unknown again."""
        word = self[code]
        gone = super().drop(code)
        if gone:
            del self._codes[word]
        return gone
