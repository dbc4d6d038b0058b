"""The handlers that are at work for the peer of one connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from nomadpy.model.errors import Invalid, NomadError, TimedOut, Unavailable
from nomadpy.rpc import frames as f
from nomadpy.rpc.handlers import Handlers, Streaming, Unary, to_failure
from nomadpy.rpc.peer import Counters

if TYPE_CHECKING:
    from nomadpy.rpc.connection import Connection
    from nomadpy.rpc.streams import MessageStream

log = logging.getLogger(__name__)


class _Work:
    """A handler at work."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.unwanted = False


class Service:
    """Starts handlers, cancels them, and sends what they answer. ``parity`` is that of the ids that the peer gives."""

    def __init__(
        self, connection: Connection, handlers: Handlers, limits: f.Limits, counters: Counters, *, parity: int
    ) -> None:
        self._connection, self._handlers, self._limits, self._counters = connection, handlers, limits, counters
        self._parity = parity
        self._at_work: dict[int, _Work] = {}
        self._n_streams = 0

    def take_request(self, frame: f.Request) -> None:
        """Starts the handler of a request."""
        self._check_new(frame.id)
        self._counters.n_calls += 1
        try:
            if len(self._at_work) - self._n_streams >= self._limits.requests:
                raise Unavailable(f"more than {self._limits.requests} requests of one agent at the same time")
            handler = self._handlers.unary(frame.method)
        except NomadError as error:
            self._connection.put(f.pack(to_failure(frame.id, error)))
            return
        work = self._at_work[frame.id] = _Work()
        if frame.timeout_s > 0:
            work.scope.deadline = trio.current_time() + frame.timeout_s
        assert self._connection.nursery is not None
        self._connection.nursery.start_soon(self._answer, frame, handler, work)

    def take_open(self, frame: f.Open) -> None:
        """Starts the handler of a stream."""
        self._check_new(frame.id)
        self._counters.n_streams += 1
        try:
            if self._n_streams >= self._limits.streams:
                raise Unavailable(f"more than {self._limits.streams} streams of one agent at the same time")
            handler = self._handlers.streaming(frame.method)
        except NomadError as error:
            self._connection.put(f.pack(to_failure(frame.id, error)))
            return
        work = self._at_work[frame.id] = _Work()
        self._n_streams += 1
        stream = self._connection.make_stream(frame.id)
        assert self._connection.nursery is not None
        self._connection.nursery.start_soon(self._hold, frame, handler, work, stream)

    def cancel(self, ident: int) -> None:
        """The peer does not wait for this any more."""
        if (work := self._at_work.get(ident)) is not None:
            work.unwanted = True
            work.scope.cancel()

    def _check_new(self, ident: int) -> None:
        if ident == 0 or ident % 2 != self._parity or ident in self._at_work:
            raise Invalid(f"the peer began something with the id {ident}, which is not free")

    async def _answer(self, frame: f.Request, handler: Unary, work: _Work) -> None:
        connection, word = self._connection, handler.word
        answer: f.Response | f.Failure | None = None
        try:
            with work.scope:
                result = await handler.handle(word.decode_params(frame.params), connection)
                answer = f.Response(frame.id, connection.encode(word, result))
        except Exception as error:
            if not isinstance(_sole_cause(error), NomadError):
                log.error("rpc.handler_failed", exc_info=error, extra=self._facts(word.name))
            answer = self._failure(frame.id, word.name, error)
        finally:
            del self._at_work[frame.id]
        if work.unwanted or connection.close_reason:
            return
        if isinstance(answer, f.Response):
            connection.send_whole(answer)
        else:
            late = TimedOut(f"{word.name} took longer than {frame.timeout_s:g} s")
            connection.put(f.pack(answer or to_failure(frame.id, late)))

    async def _hold(self, frame: f.Open, handler: Streaming, work: _Work, stream: MessageStream) -> None:
        connection, word = self._connection, handler.word
        failure: f.Failure | None = None
        try:
            with work.scope:
                await handler.handle(word.decode_params(frame.params), stream, connection)
        except Exception as error:
            if not isinstance(_sole_cause(error), NomadError):
                log.error("rpc.handler_failed", exc_info=error, extra=self._facts(word.name))
            failure = self._failure(frame.id, word.name, error)
        finally:
            del self._at_work[frame.id]
            self._n_streams -= 1
            connection.drop_stream(frame.id)
        if work.unwanted or connection.close_reason:
            return
        if failure is not None:
            connection.put_in_turn(frame.id, [f.pack(failure)])
        else:
            stream.end_now(final=True)

    def _facts(self, method: str) -> dict[str, dict[str, str]]:
        return {"fields": {"method": method, "peer": self._connection.whom()}}

    def _failure(self, ident: int, method: str, error: Exception) -> f.Failure:
        """A handler's faults stop here: they were logged, and the connection lives. (Whoever caught the error keeps no
        part of it under another name: that would hold its own frame, until the garbage collector looks.)"""
        cause = _sole_cause(error)
        if isinstance(cause, NomadError):
            return to_failure(ident, cause)
        self._counters.n_handler_faults += 1
        return to_failure(ident, NomadError(f"internal error in {method}: {type(cause).__name__}"))


def _sole_cause(error: BaseException) -> BaseException:
    """What a group holds when that is a single error: handlers with nurseries of their own raise groups."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
