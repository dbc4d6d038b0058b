"""Messages between agent and executor: ordered pairs of strings, NUL between them, behind a length of four bytes.

NUL cannot occur in arguments, environment or paths, so nothing needs quoting, and no parser has to be loaded.

>>> decode(encode([("arg", "a b"), ("arg", "")])[4:])
[('arg', 'a b'), ('arg', '')]
"""

from __future__ import annotations

import os

LENGTH_BYTES = 4
MESSAGE_BYTES_MAX = 8 << 20

Pairs = list[tuple[str, str]]


def encode(pairs: Pairs) -> bytes:
    """The message with its length in front. Raises ValueError when a value holds a NUL character."""
    words = [os.fsencode(word) for pair in pairs for word in pair]
    for word in words:
        if b"\0" in word:
            raise ValueError(f"a NUL character in {os.fsdecode(word)!r}")
    body = b"\0".join(words)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode(body: bytes) -> Pairs:
    """The pairs of a message without its length."""
    if not body:
        return []
    words = [os.fsdecode(word) for word in body.split(b"\0")]
    return list(zip(words[::2], words[1::2], strict=True))


def body_length(head: bytes) -> int:
    """How many bytes follow the length. Raises ValueError when that cannot be a message."""
    length = int.from_bytes(head, "big")
    if len(head) != LENGTH_BYTES or length > MESSAGE_BYTES_MAX:
        raise ValueError(f"not a message: length {length}")
    return length


class Spec:
    """The pairs of a message, to look things up in."""

    def __init__(self, pairs: Pairs) -> None:
        self._values: dict[str, list[str]] = {}
        for key, value in pairs:
            self._values.setdefault(key, []).append(value)

    def one(self, key: str, default: str = "") -> str:
        """The last value of ``key``."""
        values = self._values.get(key)
        return values[-1] if values else default

    def number(self, key: str, default: int = 0) -> int:
        """The last value of ``key`` as a whole number."""
        text = self.one(key)
        return int(text) if text else default

    def all(self, key: str) -> list[str]:
        """Every value of ``key`` in order."""
        return self._values.get(key, [])

    def has(self, key: str) -> bool:
        """Whether ``key`` was given at all."""
        return key in self._values

    def pairs(self) -> Pairs:
        """Everything again, values of one key together."""
        return [(key, value) for key, values in self._values.items() for value in values]
