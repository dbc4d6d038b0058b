"""The streams between the servers of a region: frames of four bytes' length and one message.

Each server dials every other one and only sends on what it dialed; it only reads what it accepted. So there are two
streams between two servers, and messages of one direction never overtake each other: of several streams from the same
server the newest counts and the others are closed. The first frame (``Hello``) says who sends, and of which cluster.

Two clusters must never mix, not even when an address or a disk's copy ends up in the wrong one: a server that knows its
cluster takes streams from that one only. One that does not know yet has an empty log and waits to be taken in; it
belongs to the cluster of the first server that speaks to it, and remembers that durably before it hears more.

Nobody holds a stream for ever without a word: who sends on one says at the beginning how often it is heard at least,
and keeps that with a message that means nothing when there is nothing else to say. A stream on which nothing came for
three times as long, or nothing could be sent for ``STALLED_S``, is closed. (The kernel notices a machine that vanished;
nobody else notices a process that was stopped, or a stranger who only connected.)

Who a stream really belongs to is not decided here: ``serve`` is told by ``allowed`` which names the peer's certificate
may carry. Messages may be lost (a full outbox, a broken stream), as the protocol expects; a stream that carries
anything malformed is closed.
"""

from __future__ import annotations

import logging
import math
import os
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import msgspec
import trio

from nomadpy.model.errors import Invalid
from nomadpy.raft.messages import MESSAGE_BYTES_MAX, Message, NewerTerm, decode, encode

log = logging.getLogger(__name__)

Connect: TypeAlias = Callable[[str], Awaitable[trio.abc.Stream]]
Receive: TypeAlias = Callable[[str, Message], Awaitable[None]]
Lost: TypeAlias = Callable[[str], Awaitable[None]]
Learn: TypeAlias = Callable[[str], Awaitable[None]]

_LENGTH = struct.Struct("<I")
_NAME_CHARS_MAX = 256
_HELLO_BYTES_MAX = 4096
_READ_BYTES = 1 << 18
# More than the core sends before it hears an answer.
OUTBOX_BYTES_MAX = 32 << 20
CONNECT_TIMEOUT_S = 2.0
# Whoever connects says within this time who it is.
HELLO_TIMEOUT_S = 5.0
RETRY_S = 0.2
# Something is sent at least this often.
KEEPALIVE_S = 10.0
# For how many times of what its sender promised a stream may be silent; and how long when nothing was promised, as by
# versions before this was known.
_SILENT_TIMES = 3
UNPROMISED_SILENCE_S = 600.0
# A part of this size has to be sent within this time.
STALLED_S = 30.0
_SEND_BYTES = 1 << 20
# Any server ignores it: no term is older.
_KEEPALIVE = encode(NewerTerm(term=0))


class Hello(msgspec.Struct, frozen=True, array_like=True, tag="h"):
    """The first frame of a stream: who sends on it, the id of its cluster, "" when it belongs to none yet, and how
    often something will come at least, 0 for no promise. New fields are only ever added at the end, with a default."""

    server: str
    cluster_id: str = ""
    keepalive_s: float = 0.0


_HELLO = msgspec.msgpack.Decoder(Hello)


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
        # Whether anything was put in since ``keep_alive``.
        self._busy = False

    def put(self, data: bytes) -> None:
        """Adds a frame. While there is no stream, or it is far behind, the frame is dropped: the core says it again."""
        if self.connected and self._bytes + len(data) <= OUTBOX_BYTES_MAX:
            self._frames += (_LENGTH.pack(len(data)), data)
            self._bytes += len(data)
            self._busy = True
            self._filled.set()

    def keep_alive(self) -> None:
        """Adds a message that means nothing, unless something was said since the last call."""
        if not self._busy:
            self.put(_KEEPALIVE)
        self._busy = False

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
    ``connection_reset``. ``cluster_id`` is the cluster that this server belongs to, "" when it waits to be taken in;
    then ``learn`` is called with the first one it hears of, and stores it durably."""

    def __init__(
        self,
        name: str,
        *,
        connect: Connect,
        receive: Receive,
        lost: Lost,
        cluster_id: str = "",
        learn: Learn | None = None,
    ) -> None:
        self._name, self._connect, self._receive, self._lost = name, connect, receive, lost
        self._cluster_id, self._learn = cluster_id, learn
        self._learning = trio.Lock()
        self._outboxes: dict[str, _Outbox] = {}
        self._accepted: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None

    @property
    def cluster_id(self) -> str:
        """The cluster that this server belongs to, as far as it knows."""
        return self._cluster_id

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a stream to every server that ``send`` was called for, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            while True:
                # Twice as often as promised: what was said just after one look is old at the next but one.
                await trio.sleep(KEEPALIVE_S / 2)
                for outbox in self._outboxes.values():
                    outbox.keep_alive()

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
        sender, reader, silence_s = "", FrameReader(), math.inf
        scope = trio.CancelScope(deadline=trio.current_time() + HELLO_TIMEOUT_S)
        with scope:
            try:
                while data := await stream.receive_some(_READ_BYTES):
                    reader.feed(data)
                    if sender:
                        # This server may be the slow one.
                        scope.deadline = math.inf
                    while (frame := reader.next_frame()) is not None:
                        if not sender:
                            sender, silence_s = await self._admit(frame, allowed, scope)
                        elif frame != _KEEPALIVE:
                            await self._receive(sender, decode(frame))
                    if sender:
                        scope.deadline = trio.current_time() + silence_s
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError) as error:
                log.debug("raft.stream-broken", extra={"fields": {"server": sender, "error": str(error)}})
            except Invalid as error:
                log.warning("raft.stream-refused", extra={"fields": {"server": sender, "error": str(error)}})
            except OSError as error:
                # The cluster's id could not be stored; the other end tries again.
                log.error("raft.cluster-not-stored", extra={"fields": {"error": str(error)}})
        if scope.cancelled_caught and trio.current_time() >= scope.deadline:
            log.info("raft.stream-silent", extra={"fields": {"server": sender}})
        # A newer stream may have taken its place meanwhile.
        if sender and self._accepted.get(sender) is scope:
            del self._accepted[sender]
            await self._lost(sender)
        await trio.aclose_forcefully(stream)

    async def _admit(self, frame: bytes, allowed: Callable[[str], bool], scope: trio.CancelScope) -> tuple[str, float]:
        """Who sends, and how long it may be silent."""
        hello = _hello(frame)
        if hello.server == self._name or not allowed(hello.server):
            raise Invalid(f"a stream from {hello.server!r} was not accepted: its certificate does not carry that name")
        await self._check_cluster(hello)
        older = self._accepted.get(hello.server)
        self._accepted[hello.server] = scope
        if older is not None:
            older.cancel()
        return hello.server, min(UNPROMISED_SILENCE_S, _SILENT_TIMES * hello.keepalive_s or UNPROMISED_SILENCE_S)

    async def _check_cluster(self, hello: Hello) -> None:
        async with self._learning:
            if not self._cluster_id and hello.cluster_id:
                if self._learn is not None:
                    await self._learn(hello.cluster_id)
                self._cluster_id = hello.cluster_id
        if hello.cluster_id != self._cluster_id:
            theirs = f"belongs to cluster {hello.cluster_id}" if hello.cluster_id else "belongs to no cluster yet"
            raise Invalid(f"server {hello.server} {theirs}, this one to {self._cluster_id}; they must not mix")

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
                log.debug("raft.no-stream", extra={"fields": {"server": peer, "error": str(error)}})
            await trio.sleep(RETRY_S)

    async def _send_on(self, stream: trio.abc.Stream, outbox: _Outbox) -> None:
        hello = msgspec.msgpack.encode(Hello(self._name, self._cluster_id, KEEPALIVE_S))
        # The deadline only runs while something is being sent.
        with trio.fail_after(STALLED_S) as scope:
            await stream.send_all(_LENGTH.pack(len(hello)) + hello)
            outbox.connected = True
            while True:
                scope.deadline = math.inf
                data = await outbox.take()
                for at in range(_write_at_once(stream, data), len(data), _SEND_BYTES):
                    scope.deadline = trio.current_time() + STALLED_S
                    await stream.send_all(memoryview(data)[at : at + _SEND_BYTES])


def _write_at_once(stream: trio.abc.Stream, data: bytes) -> int:
    """How much of ``data`` the kernel took without waiting, which is all of it as a rule: trio would have the task wait
    for another turn in any case. Raises OSError."""
    if not isinstance(stream, trio.SocketStream) or len(data) > _SEND_BYTES:
        return 0
    try:
        return os.write(stream.socket.fileno(), data)
    except BlockingIOError:
        return 0


def _hello(frame: bytes) -> Hello:
    if len(frame) > _HELLO_BYTES_MAX:
        raise Invalid(f"a stream began with {len(frame)} bytes that should say who sends")
    try:
        hello = _HELLO.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"a stream did not begin with the name of its server: {error}") from error
    if not hello.server or len(hello.server) > _NAME_CHARS_MAX or len(hello.cluster_id) > _NAME_CHARS_MAX:
        raise Invalid("a stream began with an empty or overlong name")
    if not 0 <= hello.keepalive_s < math.inf:
        raise Invalid(f"a stream that promises to say something every {hello.keepalive_s} s")
    return hello


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
        with memoryview(self._buffer) as view:
            return bytes(view[start : self._at])
