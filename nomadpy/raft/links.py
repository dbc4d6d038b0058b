"""The streams between the servers of a region: frames of four bytes' length and one message.

Each server dials every other one and only sends on what it dialed; it only reads what it accepted. So there are two
streams between two servers, and messages of one direction never overtake each other: of several streams from the same
server the newest counts and the others are closed. The first frame says who sends.

Who a stream really belongs to is not decided here: ``serve`` is told by ``allowed`` which names the peer's certificate
may carry. Messages may be lost (a full outbox, a broken stream), as the protocol expects; a stream that carries
anything malformed is closed.
"""

from __future__ import annotations

import logging
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from nomadpy.model.errors import Invalid
from nomadpy.raft.messages import MESSAGE_BYTES_MAX, Message, decode, encode

log = logging.getLogger(__name__)

Connect: TypeAlias = Callable[[str], Awaitable[trio.abc.Stream]]
Receive: TypeAlias = Callable[[str, Message], Awaitable[None]]
Lost: TypeAlias = Callable[[str], Awaitable[None]]

_LENGTH = struct.Struct("<I")
_NAME_BYTES_MAX = 256
_READ_BYTES = 1 << 18
# More than the core sends before it hears an answer.
OUTBOX_BYTES_MAX = 32 << 20
CONNECT_TIMEOUT_S = 2.0
RETRY_S = 0.2


def certificate_names(stream: trio.SSLStream[trio.SocketStream]) -> frozenset[str]:
    """The DNS names in the certificate that the other end has shown; the handshake must be over."""
    certificate = stream.getpeercert() or {}
    return frozenset(name for kind, name in certificate.get("subjectAltName", ()) if kind == "DNS")


class _Outbox:
    """Frames on their way to one server."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._bytes = 0
        self._filled = trio.Event()
        self.connected = False

    def put(self, data: bytes) -> None:
        """Adds a frame. While there is no stream, or it is far behind, the frame is dropped: the core says it again."""
        if self.connected and self._bytes + len(data) <= OUTBOX_BYTES_MAX:
            self._frames += (_LENGTH.pack(len(data)), data)
            self._bytes += len(data)
            self._filled.set()

    async def take(self) -> bytes:
        """Everything that is there, as soon as there is anything."""
        await self._filled.wait()
        self._filled = trio.Event()
        data = b"".join(self._frames)
        self.clear()
        return data

    def clear(self) -> None:
        """Forgets what was not sent."""
        self._frames, self._bytes = [], 0


class Links:
    """All streams of one server. ``connect(name)`` gives an authenticated stream to a server or raises OSError,
    ssl.SSLError or trio.BrokenResourceError; ``receive`` and ``lost`` are a RaftLog's ``receive`` and
    ``connection_reset``."""

    def __init__(self, name: str, *, connect: Connect, receive: Receive, lost: Lost) -> None:
        self._name, self._connect, self._receive, self._lost = name, connect, receive, lost
        self._outboxes: dict[str, _Outbox] = {}
        self._accepted: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a stream to every server that ``send`` was called for, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def send(self, recipient: str, message: Message) -> None:
        """Sends soon, or never."""
        if recipient not in self._outboxes:
            if self._nursery is None:
                return
            self._outboxes[recipient] = _Outbox()
            self._nursery.start_soon(self._keep_sending, recipient, self._outboxes[recipient])
        self._outboxes[recipient].put(encode(message))

    async def serve(self, stream: trio.abc.Stream, *, allowed: Callable[[str], bool]) -> None:
        """Reads an accepted stream until it ends. ``allowed(name)`` says whether its peer may call itself so."""
        sender, reader = "", FrameReader()
        scope = trio.CancelScope()
        with scope:
            try:
                while data := await stream.receive_some(_READ_BYTES):
                    reader.feed(data)
                    while (frame := reader.next_frame()) is not None:
                        if sender:
                            await self._receive(sender, decode(frame))
                        else:
                            sender = self._admit(frame, allowed, scope)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                log.debug("raft.stream-broken", extra={"server": sender, "error": str(error)})
            except Invalid as error:
                log.warning("raft.stream-refused", extra={"server": sender, "error": str(error)})
        # A newer stream may have taken its place meanwhile.
        if sender and self._accepted.get(sender) is scope:
            del self._accepted[sender]
            await self._lost(sender)
        await trio.aclose_forcefully(stream)

    def _admit(self, frame: bytes, allowed: Callable[[str], bool], scope: trio.CancelScope) -> str:
        name = frame[:_NAME_BYTES_MAX].decode(errors="replace")
        if not name or name == self._name or len(frame) > _NAME_BYTES_MAX or not allowed(name):
            raise Invalid(f"a stream from {name!r} was not accepted: its certificate does not carry that name")
        older = self._accepted.get(name)
        self._accepted[name] = scope
        if older is not None:
            older.cancel()
        return name

    async def _keep_sending(self, peer: str, outbox: _Outbox) -> None:
        while True:
            try:
                with trio.fail_after(CONNECT_TIMEOUT_S):
                    stream = await self._connect(peer)
                try:
                    await self._send_on(stream, outbox)
                finally:
                    outbox.connected = False
                    outbox.clear()
                    await trio.aclose_forcefully(stream)
            except (OSError, ssl.SSLError, trio.BrokenResourceError, trio.TooSlowError) as error:
                log.debug("raft.no-stream", extra={"server": peer, "error": str(error)})
            await trio.sleep(RETRY_S)

    async def _send_on(self, stream: trio.abc.Stream, outbox: _Outbox) -> None:
        name = self._name.encode()
        await stream.send_all(_LENGTH.pack(len(name)) + name)
        outbox.connected = True
        while True:
            await stream.send_all(await outbox.take())


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Adds what was received."""
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The next frame, None until all of it was fed. Raises Invalid when one is announced that is too long."""
        start = self._at + _LENGTH.size
        if len(self._buffer) < start:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, self._at)
        if length > MESSAGE_BYTES_MAX:
            raise Invalid(f"a frame of {length} bytes between servers; at most {MESSAGE_BYTES_MAX} are taken")
        if len(self._buffer) < start + length:
            return None
        self._at = start + length
        return bytes(self._buffer[start : self._at])
