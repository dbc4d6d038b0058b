"""What agents say to each other: the messages in packets and in conversations over TCP.

A packet's payload is a msgpack array of messages. Each message is an array that starts with its number; fields are only
ever appended. What does not decode, or breaks a limit stated here, raises Invalid as a whole: nothing of it is used.
Sealing, versions and lengths around payloads are ``envelope``'s.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec

from nomadpy.model.errors import Invalid

PAYLOAD_BYTES_MAX = 1371
"""A packet of 1400 bytes, less one byte of version, a nonce and a tag: fits an Ethernet frame even in a tunnel."""
STATEMENT_BYTES_MAX = 1200
"""One message about a member with its tags; leaves room for a ping beside it."""

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Address: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Port: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Digest: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=96)]
Sentence: TypeAlias = Annotated[str, msgspec.Meta(max_length=2048)]

ALIVE, SUSPECT, FAILED, LEFT, PRUNED = range(5)
"""The ranks of a member's statuses. Of two statements with the same incarnation the higher rank holds."""


@functools.lru_cache(4096)
def _check_address(address: str) -> None:
    # A name here would have agents ask DNS, at whoever's wish.
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address") from None


class Ping(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Are you there? ``target`` is who is meant: whoever else listens there by now keeps silent."""

    number: Number
    target: Name
    source: Name


class Ask(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Please ping ``target`` for me."""

    number: Number
    target: Name
    source: Name


class Ack(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """I am here. ``instance`` differs for every start of an agent."""

    number: Number
    source: Name
    instance: Number
    incarnation: Number = 0
    beat: Number = 0
    digest: Digest = b""


class Nack(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """I did ping for you, and there was no answer yet."""

    number: Number


class Alive(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """A member's own word of itself. ``beat`` counts its health digests within the incarnation."""

    name: Name
    incarnation: Number
    address: Address
    port: Port
    tags: dict[str, str] = {}
    beat: Number = 0
    digest: Digest = b""

    def __post_init__(self) -> None:
        _check_address(self.address)


class Suspect(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """``by`` got no answer from the member."""

    name: Name
    incarnation: Number
    by: Name


class Failed(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """The member did not contradict the suspicion in time."""

    name: Name
    incarnation: Number
    by: Name


class Left(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    """The member went on purpose, or an operator said so (``by``); with ``prune`` it is to be forgotten."""

    name: Name
    incarnation: Number
    by: Name
    prune: bool = False


class Fresh(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    """A health digest that differs much from the one before."""

    name: Name
    incarnation: Number
    beat: Number
    digest: Digest


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """A user event; ``moment`` is the pool's Lamport clock."""

    moment: Number
    sender: Name
    name: Name
    payload: Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)] = b""


class State(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One member as an exchange over TCP tells of it; ``age_s`` is how long it has had that rank."""

    name: Name
    rank: Annotated[int, msgspec.Meta(ge=0, le=PRUNED)]
    incarnation: Number
    address: Address
    port: Port
    tags: dict[str, str]
    beat: Number
    digest: Digest
    age_s: Annotated[float, msgspec.Meta(ge=0)]

    def __post_init__(self) -> None:
        _check_address(self.address)


class Exchange(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """Everything that ``source`` knows, itself included; the answer is another one, or a Refusal."""

    source: Name
    instance: Number
    join: bool
    states: list[State]
    events: list[Event] = []


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """Why the request was not served, for people."""

    sentence: Sentence


class KeyOrder(msgspec.Struct, frozen=True, array_like=True, tag=34):
    """An order to a member's keyring."""

    action: Annotated[str, msgspec.Meta(max_length=16)]
    key: Annotated[str, msgspec.Meta(max_length=64)] = ""


class KeyAnswer(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """What a member's keyring holds after an order; ``trouble`` says why it was not carried out."""

    keys: list[str]
    primary: str
    trouble: Sentence = ""


Message: TypeAlias = Ping | Ask | Ack | Nack | Alive | Suspect | Failed | Left | Fresh | Event
Spoken: TypeAlias = Exchange | Refusal | KeyOrder | KeyAnswer | Ping | Ack

_encoder = msgspec.msgpack.Encoder()
_packets: msgspec.msgpack.Decoder[list[Message]] = msgspec.msgpack.Decoder(list[Message])
_spoken: msgspec.msgpack.Decoder[Spoken] = msgspec.msgpack.Decoder(Spoken)

encode = _encoder.encode
"""One message as bytes."""


def join(messages: Sequence[bytes]) -> bytes:
    """The payload made of messages that are encoded already."""
    count = len(messages)
    header = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    return header + b"".join(messages)


def decode(payload: bytes) -> list[Message]:
    """The messages of a packet. Raises Invalid."""
    try:
        return _packets.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not a gossip packet: {error}") from error


def decode_spoken(payload: bytes) -> Spoken:
    """The one message of a TCP frame. Raises Invalid."""
    try:
        return _spoken.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"not a gossip message: {error}") from error
