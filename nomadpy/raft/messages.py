"""What servers of one cluster say to each other, and its form on the wire: msgpack arrays that begin with a short tag.

Every message carries its sender's term. ``seq`` is the number of the leader's round; whoever answers echoes it, so that
the leader can tell a fresh answer from one that was under way. New fields are only ever added at the end, with a
default. The names of sender and recipient are the connection's business and not part of a message.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from nomadpy.model.errors import Invalid
from nomadpy.raft.entries import KINDS, Entry

MESSAGE_BYTES_MAX = 256 << 20


class Append(msgspec.Struct, frozen=True, tag="a", array_like=True):
    """Leader to all: entries that follow the one at ``prev_index``, or none as a heartbeat."""

    term: int
    seq: int
    prev_index: int
    prev_term: int
    commit_index: int
    entries: list[Entry]


class Appended(msgspec.Struct, frozen=True, tag="A", array_like=True):
    """The answer: everything below ``next_index`` is the leader's and durable, or (``ok`` false) go on from there."""

    term: int
    seq: int
    next_index: int
    ok: bool


class Beat(msgspec.Struct, frozen=True, tag="b", array_like=True):
    """Leader to a server that is receiving a snapshot: I still lead."""

    term: int
    seq: int


class BeatSeen(msgspec.Struct, frozen=True, tag="B", array_like=True):
    """The answer to it."""

    term: int
    seq: int


class PreVoteRequest(msgspec.Struct, frozen=True, tag="p", array_like=True):
    """Would you vote for me in ``for_term``? Changes nothing at either end."""

    term: int
    for_term: int
    last_index: int
    last_term: int


class PreVote(msgspec.Struct, frozen=True, tag="P", array_like=True):
    """The answer to it."""

    term: int
    for_term: int
    granted: bool


class VoteRequest(msgspec.Struct, frozen=True, tag="v", array_like=True):
    """A candidate asks for a vote in ``term``. ``transfer``: the leader itself asked for this election."""

    term: int
    last_index: int
    last_term: int
    transfer: bool = False


class Vote(msgspec.Struct, frozen=True, tag="V", array_like=True):
    """Granted, in ``term``."""

    term: int


class NewerTerm(msgspec.Struct, frozen=True, tag="n", array_like=True):
    """Your message is of a term that is over."""

    term: int


class TimeoutNow(msgspec.Struct, frozen=True, tag="t", array_like=True):
    """Leader to its chosen successor: hold an election at once."""

    term: int


class SnapshotChunk(msgspec.Struct, frozen=True, tag="s", array_like=True):
    """A part of the state after ``index``; ``size`` and ``checksum`` are those of the whole."""

    term: int
    seq: int
    index: int
    index_term: int
    voters: tuple[str, ...]
    size: int
    checksum: int
    offset: int
    data: bytes


class SnapshotSeen(msgspec.Struct, frozen=True, tag="S", array_like=True):
    """The answer: of the snapshot at ``index``, everything below ``offset`` arrived."""

    term: int
    seq: int
    index: int
    offset: int


Message: TypeAlias = (
    Append
    | Appended
    | Beat
    | BeatSeen
    | PreVoteRequest
    | PreVote
    | VoteRequest
    | Vote
    | NewerTerm
    | TimeoutNow
    | SnapshotChunk
    | SnapshotSeen
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """The message in ``data``. Raises Invalid when it is malformed, too long or cannot be true."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise Invalid(f"a message of {len(data)} bytes between servers; at most {MESSAGE_BYTES_MAX} are taken")
    try:
        message = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"a malformed message between servers: {error}") from error
    check(message)
    return message


def check(message: Message) -> None:
    """Raises Invalid for a message that no correct server sends."""
    if message.term < 0:
        raise Invalid(f"a message of term {message.term}")
    if isinstance(message, Append):
        _check_append(message)
    elif isinstance(message, SnapshotChunk):
        if message.index < 1 or not message.voters or message.offset < 0:
            raise Invalid("a snapshot without a position or voters")
        if message.offset + len(message.data) > message.size:
            raise Invalid(f"a snapshot of {message.size} bytes has a part that ends after its end")


def _check_append(message: Append) -> None:
    index, term = message.prev_index, message.prev_term
    if index < 1 or term < 0 or message.commit_index < 0:
        raise Invalid(f"an append after entry {index} of term {term}")
    for data, entry_index, entry_term in message.entries:
        if entry_index != index + 1 or not term <= entry_term <= message.term:
            raise Invalid(f"entry {entry_index} of term {entry_term} after {index} of {term} in term {message.term}")
        if data[:1] not in KINDS:
            raise Invalid(f"entry {entry_index} is of the unknown kind {data[:1]!r}")
        index, term = entry_index, entry_term
