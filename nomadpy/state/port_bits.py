"""Ports as the bits of a number, which is how the ports in use at an address are kept."""

from __future__ import annotations

from collections.abc import Collection

_FEW, _BYTES = 16, 8192


def bit_set(ports: Collection[int]) -> int:
    """The ports as the bits of a number: bit n is port n."""
    if len(ports) < _FEW:
        bits = 0
        for port in ports:
            bits |= 1 << port
        return bits
    held = bytearray(_BYTES)
    for port in ports:
        held[port >> 3] |= 1 << (port & 7)
    return int.from_bytes(held, "little")
