"""What the machine wants done: the driver (or the simulator) carries these out in order."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nomadpy.gossip.contract import UserEvent


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a packet with this payload. It may get lost."""

    address: str
    port: int
    payload: bytes


class TcpPing(msgspec.Struct, frozen=True, gc=False):
    """Ping over TCP, and feed an Ack that comes to ``Swim.acked``. No answer needs no report."""

    number: int
    name: str
    address: str
    port: int


class Challenge(msgspec.Struct, frozen=True, gc=False):
    """Ping this agent's own name at another place over TCP, and report to ``Swim.challenged`` either way."""

    address: str
    port: int


class CallFor(msgspec.Struct, frozen=True, gc=False):
    """Exchange everything with the agent there over TCP, and feed its answer to ``Swim.merge``."""

    address: str
    port: int


class Changed(msgspec.Struct, frozen=True, gc=False):
    """A member's status went from ``old`` ("": it was unknown) to ``new`` ("": it is forgotten); for the log."""

    name: str
    old: str
    new: str
    reason: str


class Heard(msgspec.Struct, frozen=True, gc=False):
    """A user event, for the first time."""

    event: UserEvent


class Conflict(msgspec.Struct, frozen=True, gc=False):
    """Another living agent uses this agent's name, at this place."""

    address: str
    port: int


Output: TypeAlias = Send | TcpPing | Challenge | CallFor | Changed | Heard | Conflict
