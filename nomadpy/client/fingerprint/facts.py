"""What the parts of a fingerprint have in common."""

from __future__ import annotations

import msgspec

from nomadpy.model.resources import NodeCpu, NodeDisk, NodeMemory, NodeNetwork, NodeProcessors


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes that one look at the host found; resources where it found some."""

    attributes: dict[str, str] = {}
    cpu: NodeCpu | None = None
    processors: NodeProcessors | None = None
    memory: NodeMemory | None = None
    disk: NodeDisk | None = None
    networks: tuple[NodeNetwork, ...] = ()


def read_text(path: str) -> str:
    """The stripped content of a small file, "" when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def parse_cores(text: str) -> tuple[int, ...]:
    """Core ids of a set such as ``0-3,7``. Raises ValueError when it is not one.

    >>> parse_cores("0-2,5")
    (0, 1, 2, 5)
    """
    cores: set[int] = set()
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(cores))
