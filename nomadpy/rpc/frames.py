"""What travels on a connection between agents: four bytes' length and a msgpack array that begins with a small number.

Both ends may ask. Requests and streams carry an id that whoever begins them chooses: odd numbers at the end that
dialed, even ones at the other, so one id means one thing at both ends. Requests and answers that are too long for one
frame travel in ``Part`` frames; the messages of a stream are cut into ``Data`` frames. So nothing holds a connection up
for long. New versions add fields at the end only; fields that are not known are ignored.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque
from typing import Annotated, TypeAlias

import msgspec

from nomadpy.model.errors import Invalid

VERSION = 1
VERSION_OLDEST = 1
SERVER, CLIENT = "server", "client"

PIECE_BYTES = 1 << 15
FRAME_BYTES_MAX = 1 << 17
# What every piece of a stream costs besides its bytes, so that empty messages are not free.
PIECE_COST = 32

_LENGTH = struct.Struct("<I")
_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Bytes: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=512)]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one peer may ask of a connection at the same time."""

    requests: int = 4096
    streams: int = 4096
    # One request, answer or stream message.
    message_bytes: int = 64 << 20
    # Long messages that are still arriving, all together.
    assembling_bytes: int = 128 << 20
    # Bytes that the peer may send into one stream before its reader has taken any.
    window_bytes: int = 1 << 18
    # Short answers that wait because the peer does not read.
    unread_bytes: int = 32 << 20


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """The first frame of each end. ``role`` is "server" or "client", ``id`` a server id or node id, ``build`` the
    version of the program. ``window`` is the credit of every stream that the other end sends into."""

    version: int = VERSION
    role: _Name = ""
    name: _Name = ""
    id: _Name = ""
    region: _Name = ""
    build: _Name = ""
    window: _Bytes = 1 << 18


class Request(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Asks for one answer within ``timeout_s`` (0: whenever)."""

    id: _Id
    method: _Name
    timeout_s: float
    params: msgspec.Raw


class Response(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The answer to a request."""

    id: _Id
    result: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The error that ended a request or a stream; with id 0 why the connection is about to be closed."""

    id: _Id
    code: str
    status: int
    message: str


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Whoever began the request or stream does not wait for it any more."""

    id: _Id


class Open(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Begins a stream."""

    id: _Id
    method: _Name
    params: msgspec.Raw


class Data(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A piece of a stream's message; ``last`` marks the end of the message."""

    id: _Id
    data: bytes
    last: bool = True


class Credit(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The other end may send ``bytes`` more into the stream."""

    id: _Id
    bytes: _Bytes


class End(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """No more messages from this end. ``final``: the handler has returned, so nobody reads the other direction."""

    id: _Id
    final: bool = False


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Asks for a sign of life."""


class Pong(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A sign of life."""


class Part(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """A piece of the frame of a long request or answer."""

    id: _Id
    data: bytes
    last: bool = False


Frame: TypeAlias = Hello | Request | Response | Failure | Cancel | Open | Data | Credit | End | Ping | Pong | Part

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)


def pack(frame: Frame) -> bytes:
    """One frame with its length before it."""
    buffer = bytearray(4)
    _encoder.encode_into(frame, buffer, 4)
    _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
    return bytes(buffer)


def cut(frame: Request | Response | Open) -> list[bytes]:
    """A long frame as packed parts, or the packed frame alone."""
    packed = pack(frame)
    if len(packed) <= PIECE_BYTES:
        return [packed]
    view = memoryview(packed)[_LENGTH.size :]
    starts = range(0, len(view), PIECE_BYTES)
    return [
        pack(Part(frame.id, bytes(view[at : at + PIECE_BYTES]), last=at + PIECE_BYTES >= len(view))) for at in starts
    ]


def unpack(data: bytes | bytearray) -> Frame:
    """A frame from its bytes without the length. Raises Invalid when it is none."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Invalid(f"a frame that cannot be understood: {error}") from error


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Adds what was received."""
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """The next frame, None until all of it was fed. Raises Invalid when it is malformed or announced too long."""
        start = self._at + _LENGTH.size
        if len(self._buffer) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._at)
        if length > FRAME_BYTES_MAX:
            raise Invalid(f"a frame of {length} bytes; at most {FRAME_BYTES_MAX} are taken")
        if len(self._buffer) < start + length:
            return None
        self._at = start + length
        return unpack(bytes(self._buffer[start : self._at]))


class Outbox:
    """Packed frames on their way out. Short ones go first; long messages and streams wait in a queue each, and the
    queues take turns, so that none of them holds up the others."""

    def __init__(self) -> None:
        self._first: list[bytes] = []
        self._queues: OrderedDict[int, deque[bytes]] = OrderedDict()
        self.first_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._first or self._queues)

    def put(self, frame: bytes) -> None:
        """Adds a frame that goes before everything that is queued by id."""
        self._first.append(frame)
        self.first_bytes += len(frame)

    def put_in_turn(self, ident: int, frames: list[bytes]) -> None:
        """Adds frames behind those with the same id."""
        queue = self._queues.get(ident)
        if queue is None:
            self._queues[ident] = deque(frames)
        else:
            queue.extend(frames)

    def forget(self, ident: int) -> None:
        """Drops what is still queued with this id."""
        self._queues.pop(ident, None)

    def take(self, size: int) -> bytes:
        """All that goes first, and from the queues in turn until there are about ``size`` bytes: at least one frame,
        so that a crowd of short frames does not stop the queues."""
        taken, n_bytes = self._first, self.first_bytes
        self._first, self.first_bytes = [], 0
        while self._queues:
            ident, queue = next(iter(self._queues.items()))
            frame = queue.popleft()
            taken.append(frame)
            n_bytes += len(frame)
            if queue:
                self._queues.move_to_end(ident)
            else:
                del self._queues[ident]
            if n_bytes >= size:
                break
        return taken[0] if len(taken) == 1 else b"".join(taken)


class Assembler:
    """Puts long requests and answers together from their parts."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buffers: dict[int, bytearray] = {}
        self._bytes = 0

    def add(self, part: Part) -> Request | Response | Open | None:
        """The whole frame once its last part came. Raises Invalid when it is too long, or nothing that is sent in
        parts."""
        buffer = self._buffers.setdefault(part.id, bytearray())
        buffer += part.data
        self._bytes += len(part.data)
        limits = self._limits
        # A message of the greatest size has the method's name and some numbers around it.
        too_long = len(buffer) > limits.message_bytes + PIECE_BYTES
        if too_long or self._bytes > limits.assembling_bytes or len(self._buffers) > limits.requests:
            raise Invalid("the peer sends messages that are too long")
        if not part.last:
            return None
        self.drop(part.id)
        frame = unpack(buffer)
        if not isinstance(frame, Request | Response | Open) or frame.id != part.id:
            raise Invalid("the peer sends parts of something that is not sent in parts")
        return frame

    def drop(self, ident: int) -> None:
        """Forgets the parts that came for an id."""
        self._bytes -= len(self._buffers.pop(ident, b""))
