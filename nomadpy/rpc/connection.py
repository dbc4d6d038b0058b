"""One connection between two agents: requests, answers and streams of both ends over one stream of bytes.

Three tasks share it. The *reader* takes frames and never waits for anything else, so a slow handler or a slow stream
does not stop it. The *writer* alone sends, everything that has gathered at once. The third one looks whether the peer
is still there. Handlers run in tasks of their own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio

from nomadpy.model.errors import Invalid, NomadError, OutcomeUnknown, Unavailable
from nomadpy.rpc import frames as f
from nomadpy.rpc.handlers import Handlers, NoAnswer, NotConnected, Word, to_error, to_failure
from nomadpy.rpc.peer import ACCEPTED_TIMING, Counters, Peer, Timing
from nomadpy.rpc.serving import Service
from nomadpy.rpc.streams import MessageStream

__all__ = ["Connection", "Counters", "Peer", "Timing"]

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")

_READ_BYTES = 1 << 17
_BATCH_BYTES = 1 << 17
_WINDOW_BYTES_MIN = 1 << 16
# So many frames are taken before others have their turn: they may be as many requests.
_FRAMES_AT_ONCE = 64
_PING, _PONG = f.pack(f.Ping()), f.pack(f.Pong())


class _Call:
    """A request that waits for its answer."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.answer: f.Response | f.Failure | None = None

    def settle(self, answer: f.Response | f.Failure) -> None:
        self.answer = answer
        self.done.set()


class Connection:
    """Talks over ``stream`` once ``run`` runs. ``dialed`` says which end this is. ``admit(peer)`` raises a NomadError
    (its text is told to the peer) for a peer that is not welcome."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        hello: f.Hello,
        handlers: Handlers,
        dialed: bool,
        address: str = "",
        certificate_names: frozenset[str] = frozenset(),
        admit: Callable[[Peer], None] | None = None,
        timing: Timing | None = None,
        limits: f.Limits | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._stream, self._admit = stream, admit
        self._timing = timing or (Timing() if dialed else ACCEPTED_TIMING)
        self._limits = limits or f.Limits()
        self._counters = counters or Counters()
        self._hello = msgspec.structs.replace(hello, window=self._limits.window_bytes)
        self._ours, self._next_id = int(dialed), 2 - int(dialed)
        self.peer = Peer(address=address, certificate_names=certificate_names)
        self.close_reason = ""
        self._ready, self._closed = trio.Event(), trio.Event()
        self._outbox = f.Outbox()
        self._awake: trio.Event | None = None
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, MessageStream] = {}
        self._assembler = f.Assembler(self._limits)
        self._credit = 0
        self._heard = False
        self._writing_since = math.inf
        self._farewell = False
        self.nursery: trio.Nursery | None = None
        """Where handlers run while the connection runs."""
        self._service = Service(self, handlers, self._limits, self._counters, parity=1 - self._ours)
        self._take_by_kind: dict[type[Any], Callable[[Any], None]] = {
            f.Hello: self._take_hello,
            f.Request: self._service.take_request,
            f.Response: self._take_answer,
            f.Failure: self._take_failure,
            f.Cancel: self._take_cancel,
            f.Open: self._service.take_open,
            f.Data: self._take_data,
            f.Credit: self._take_credit,
            f.End: self._take_end,
            f.Ping: lambda _: self.put(_PONG),
            f.Pong: lambda _: None,
            f.Part: self._take_part,
        }

    # ------------------------------------------------------------------ life

    @property
    def is_open(self) -> bool:
        """Whether the peer has been admitted and the connection is not closed."""
        return self._ready.is_set() and not self.close_reason

    async def run(self) -> None:
        """Holds the connection until either end closes it; then ``close_reason`` says why. A peer that misbehaves
        raises nothing here."""
        try:
            async with trio.open_nursery() as self.nursery:
                self.nursery.start_soon(self._write)
                self.nursery.start_soon(self._watch)
                self.put(f.pack(self._hello))
                await self._read()
                self.nursery.cancel_scope.cancel()
        finally:
            self._lost()
            await trio.aclose_forcefully(self._stream)

    async def ready(self) -> Peer:
        """The peer, once it was admitted. Raises NotConnected when it was not, with the reason."""
        await self._ready.wait()
        if self.close_reason:
            raise NotConnected(self.close_reason)
        return self.peer

    async def closed(self) -> str:
        """Waits for the end of the connection; the reason."""
        await self._closed.wait()
        return self.close_reason

    def close(self, reason: str) -> None:
        """Closes the connection; requests in flight fail with OutcomeUnknown, streams with Unavailable."""
        self.close_reason = self.close_reason or reason
        if self.nursery is not None:
            self.nursery.cancel_scope.cancel()

    def _lost(self) -> None:
        self.close_reason = self.close_reason or "the connection was closed"
        text = f"the connection to {self.whom()} was lost: {self.close_reason}"
        self._outbox = f.Outbox()
        for call in self._calls.values():
            call.settle(to_failure(0, OutcomeUnknown(text)))
        for stream in self._streams.values():
            stream.fail(to_failure(0, Unavailable(text)))
        self._ready.set()
        self._closed.set()

    def whom(self) -> str:
        """The peer in a sentence."""
        return f"{self.peer.role or 'the agent'} {self.peer.name or self.peer.address}"

    # ------------------------------------------------------------------ asking

    async def call(self, word: Word[P, R], params: P, *, timeout_s: float | None) -> R:
        """Asks the peer and returns its answer.

        Raises:
            NotConnected: the request was not made.
            NoAnswer: (a TimedOut) no answer within ``timeout_s``; the handler was cancelled.
            OutcomeUnknown: the connection was lost meanwhile.
            NomadError: what the handler raised there.
        """
        ident = self._begin()
        call = self._calls[ident] = _Call()
        try:
            self.send_whole(f.Request(ident, word.name, timeout_s or 0.0, self.encode(word, params)))
            # The handler's deadline is the same; its own answer that time is up may say more.
            with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
                await call.done.wait()
        finally:
            del self._calls[ident]
            self._assembler.drop(ident)
            if call.answer is None and not self.close_reason:
                self._outbox.forget(ident)
                self.put(f.pack(f.Cancel(ident)))
        if call.answer is None:
            raise NoAnswer(f"{self.whom()} did not answer {word.name} within {timeout_s:g} s")
        if isinstance(call.answer, f.Failure):
            raise to_error(call.answer)
        return word.decode_result(call.answer.result)

    @asynccontextmanager
    async def open(self, word: Word[P, None], params: P) -> AsyncIterator[MessageStream]:
        """A stream to the peer's handler. Leaving the context before ``receive`` has returned None (or raised) tells
        the peer that nobody is interested any more: its handler is cancelled.

        Raises:
            NotConnected: there is no connection. Errors of the handler come from ``send`` and ``receive``.
        """
        ident = self._begin()
        stream = self.make_stream(ident)
        try:
            self.send_whole(f.Open(ident, word.name, self.encode(word, params)))
            yield stream
        finally:
            self.drop_stream(ident)
            if not stream.finished and not self.close_reason:
                self._outbox.forget(ident)
                stream.abandon()

    def _begin(self) -> int:
        if not self.is_open:
            raise NotConnected(f"not connected to {self.whom()}: {self.close_reason or 'the handshake is not over'}")
        ident = self._next_id
        self._next_id += 2
        return ident

    def make_stream(self, ident: int) -> MessageStream:
        """This end of a stream. Frames reach it until it is dropped."""
        limits = self._limits
        stream = self._streams[ident] = MessageStream(
            ident, self, window=limits.window_bytes, credit=self._credit, message_bytes=limits.message_bytes
        )
        return stream

    def drop_stream(self, ident: int) -> None:
        """Forgets a stream that is over."""
        self._streams.pop(ident, None)

    def encode(self, word: Word[P, R], params: P | R) -> msgspec.Raw:
        """Parameters or a result. Raises Invalid when they are too long to be sent."""
        data = word.encode(params)
        if len(memoryview(data)) > self._limits.message_bytes:
            raise Invalid(f"{word.name}: more than {self._limits.message_bytes} bytes in one message")
        return data

    # ------------------------------------------------------------------ writing

    def put(self, frame: bytes) -> None:
        """Sends a packed frame soon, before everything that is long."""
        self._outbox.put(frame)
        if self._outbox.first_bytes > self._limits.unread_bytes:
            self.close("the peer does not read what it asked for")
        self._wake()

    def put_in_turn(self, ident: int, frames: list[bytes]) -> None:
        """Sends packed frames behind those with the same id."""
        self._outbox.put_in_turn(ident, frames)
        self._wake()

    def send_whole(self, frame: f.Request | f.Response | f.Open) -> None:
        """Sends a frame of any length: a long one in parts, in turn with others."""
        pieces = f.cut(frame)
        if len(pieces) == 1 and not isinstance(frame, f.Open):
            self.put(pieces[0])
        else:
            self.put_in_turn(frame.id, pieces)

    def _wake(self) -> None:
        if self._awake is not None:
            self._awake.set()
            self._awake = None

    async def _write(self) -> None:
        try:
            while True:
                while not self._outbox:
                    if self._farewell:
                        self.close("it was refused")
                    self._awake = trio.Event()
                    await self._awake.wait()
                data = self._outbox.take(_BATCH_BYTES)
                self._writing_since = trio.current_time()
                await self._stream.send_all(data)
                self._writing_since = math.inf
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(_why(error))

    async def _watch(self) -> None:
        """Closes the connection when the peer does not introduce itself, is silent, or does not read."""
        timing, counters = self._timing, self._counters
        with trio.move_on_after(timing.handshake_s):
            await self._ready.wait()
        if not self._ready.is_set():
            counters.n_refused += 1
            self.close(f"the peer did not introduce itself within {timing.handshake_s:g} s")
        silent_s = 0.0
        while True:
            self._heard = False
            await trio.sleep(timing.ping_s)
            # Counted in turns instead of by the clock: when this process itself was stopped for a while, what the peer
            # sent meanwhile is read before the next turn.
            silent_s = 0.0 if self._heard else silent_s + timing.ping_s
            if silent_s >= timing.silence_s or trio.current_time() - self._writing_since >= timing.silence_s:
                counters.n_silent += 1
                self.close(f"the peer gave no sign of life for {timing.silence_s:g} s")
            if silent_s:
                self.put(_PING)

    # ------------------------------------------------------------------ reading

    async def _read(self) -> None:
        reader = f.FrameReader()
        try:
            while data := await self._stream.receive_some(_READ_BYTES):
                self._heard = True
                reader.feed(data)
                n_frames = 0
                while (frame := reader.next_frame()) is not None:
                    if not self._ready.is_set() and not isinstance(frame, f.Hello | f.Failure):
                        raise Invalid("the peer did not introduce itself first")
                    self._take_by_kind[type(frame)](frame)
                    n_frames += 1
                    if n_frames % _FRAMES_AT_ONCE == 0:
                        await trio.lowlevel.checkpoint()
            self.close("the peer closed the connection")
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.close(_why(error))
        except NomadError as error:
            await self._say_farewell(error)

    async def _say_farewell(self, error: NomadError) -> None:
        """Tells the peer why it goes no further; it may not be listening."""
        if isinstance(error, Invalid):
            self._counters.n_malformed += 1
        else:
            self._counters.n_refused += 1
        log.warning("rpc.refused", extra={"fields": {"peer": self.peer.address, "error": error.message}})
        self.close_reason = self.close_reason or error.message
        self.put(f.pack(to_failure(0, error)))
        self._farewell = True
        with trio.move_on_after(1.0):
            await self._closed.wait()

    def _take_hello(self, hello: f.Hello) -> None:
        if self._ready.is_set():
            raise Invalid("the peer introduced itself twice")
        self.peer = msgspec.structs.replace(
            self.peer, role=hello.role, name=hello.name, id=hello.id, region=hello.region, build=hello.build
        )
        if hello.version < f.VERSION_OLDEST:
            versions = f"{hello.version} of {self.whom()} is too old: at least {f.VERSION_OLDEST} is needed"
            raise Unavailable(f"the protocol version {versions}")
        if hello.role not in (f.SERVER, f.CLIENT) or hello.window < _WINDOW_BYTES_MIN:
            raise Invalid("the peer introduced itself as something that is not known here")
        if self._admit is not None:
            self._admit(self.peer)
        self._credit = hello.window
        self._ready.set()

    def _take_answer(self, frame: f.Response) -> None:
        if (call := self._calls.get(frame.id)) is not None:
            call.settle(frame)

    def _take_failure(self, frame: f.Failure) -> None:
        if frame.id == 0:
            self.close(frame.message)
        elif (call := self._calls.get(frame.id)) is not None:
            call.settle(frame)
        elif (stream := self._streams.get(frame.id)) is not None:
            stream.fail(frame)

    def _take_cancel(self, frame: f.Cancel) -> None:
        self._assembler.drop(frame.id)
        if frame.id % 2 == self._ours:
            raise Invalid("the peer cancelled what it did not begin")
        self._outbox.forget(frame.id)
        self._service.cancel(frame.id)

    def _take_data(self, frame: f.Data) -> None:
        if (stream := self._streams.get(frame.id)) is not None:
            stream.take_data(frame)

    def _take_credit(self, frame: f.Credit) -> None:
        if (stream := self._streams.get(frame.id)) is not None:
            stream.take_credit(frame.bytes)

    def _take_end(self, frame: f.End) -> None:
        if (stream := self._streams.get(frame.id)) is not None:
            stream.take_end(final=frame.final)

    def _take_part(self, part: f.Part) -> None:
        if part.id % 2 == self._ours and part.id not in self._calls:
            return  # the rest of an answer that nobody waits for any more
        if (frame := self._assembler.add(part)) is not None:
            self._take_by_kind[type(frame)](frame)


def _why(error: BaseException) -> str:
    cause = error.__cause__
    return f"the connection broke: {cause if cause is not None else error}"
