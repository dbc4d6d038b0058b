"""Conversations over TCP: one question, one answer, within a time."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from nomadpy.gossip.complaints import Complaints
from nomadpy.gossip.envelope import ANSWERING, ASKING, GREETING_BYTES, LENGTH, Envelope
from nomadpy.gossip.messages import Spoken, decode_spoken, encode
from nomadpy.model.errors import Invalid

log = logging.getLogger(__name__)

Answer: TypeAlias = Callable[[Spoken, tuple[str, int]], Awaitable[Spoken | None]]

CONVERSATION_S = 10.0
CONNECTIONS_MAX = 64
_READ_BYTES = 1 << 16


class Unanswered(Exception):
    """A question that got no answer; the text says why, without the address."""


async def ask(envelope: Envelope, place: tuple[str, int], question: Spoken, *, timeout_s: float) -> Spoken:
    """The answer of the agent there. Raises Unanswered."""
    try:
        with trio.fail_after(timeout_s):
            async with await _connect(place) as stream:
                return await _converse(envelope, stream, question)
    except trio.TooSlowError:
        raise Unanswered(f"no answer within {timeout_s:g} seconds") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise Unanswered(_reason(error)) from error
    except EOFError:
        raise Unanswered("it closed the connection without an answer: is its gossip key the same?") from None
    except Invalid as error:
        raise Unanswered(error.message) from error


async def _connect(place: tuple[str, int]) -> trio.SocketStream:
    family = trio.socket.AF_INET6 if ":" in place[0] else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        await sock.connect(place)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _reason(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__
    return str(error) or type(error).__name__


async def _converse(envelope: Envelope, stream: trio.SocketStream, question: Spoken) -> Spoken:
    greeting = await _read(stream, GREETING_BYTES)
    envelope.check_greeting(greeting)
    await stream.send_all(envelope.frame(encode(question), greeting, ASKING))
    return decode_spoken(await _read_frame(envelope, stream, greeting, ANSWERING))


class Listener:
    """Answers what others ask; at most ``CONNECTIONS_MAX`` at a time, each within ``CONVERSATION_S``."""

    def __init__(self, envelope: Envelope, answer: Answer, complaints: Complaints | None = None) -> None:
        self._envelope, self._answer = envelope, answer
        self._complaints = complaints or Complaints()
        self.open = 0
        self.turned_away = 0
        self.broken = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One accepted connection, until it is closed."""
        if self.open >= CONNECTIONS_MAX:
            self.turned_away += 1
            await trio.aclose_forcefully(stream)
            return
        self.open += 1
        try:
            with trio.move_on_after(CONVERSATION_S) as scope:
                await self._serve(stream)
            self.broken += scope.cancelled_caught
        except (trio.BrokenResourceError, OSError, EOFError, Invalid) as error:
            self.broken += 1
            log.debug("gossip.conversation-broken", extra={"fields": {"error": str(error)}})
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        place = stream.socket.getpeername()[:2]
        greeting = self._envelope.greeting()
        await stream.send_all(greeting)
        question = await self._hear(stream, greeting, place[0])
        answer = await self._answer(question, place)
        if answer is not None:
            await stream.send_all(self._envelope.frame(encode(answer), greeting, ANSWERING))
            await stream.send_eof()
            await stream.receive_some(1)  # the caller closes first, so that nothing sent is lost

    async def _hear(self, stream: trio.SocketStream, greeting: bytes, host: str) -> Spoken:
        """The question. Of an agent with another key the log tells: without that it looks as if nobody was there."""
        try:
            header = await _read(stream, LENGTH.size)
        except EOFError:
            habit = "encrypted" if self._envelope.keyring else "not encrypted"
            reason = f"it hung up on hearing that gossip is {habit} here: is its key (encrypt) the same?"
            self._complaints.say(trio.current_time(), host, reason)
            raise
        try:
            return decode_spoken(await _read_body(self._envelope, stream, header, greeting, ASKING))
        except Invalid as error:
            self._complaints.say(trio.current_time(), host, error.message)
            raise


async def _read_frame(envelope: Envelope, stream: trio.SocketStream, greeting: bytes, direction: bytes) -> bytes:
    return await _read_body(envelope, stream, await _read(stream, LENGTH.size), greeting, direction)


async def _read_body(
    envelope: Envelope, stream: trio.SocketStream, header: bytes, greeting: bytes, direction: bytes
) -> bytes:
    return envelope.unframe(await _read(stream, envelope.frame_length(header)), greeting, direction)


async def _read(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        more = await stream.receive_some(min(_READ_BYTES, count - len(data)))
        if not more:
            raise EOFError("the other end closed the connection")
        data += more
    return bytes(data)
