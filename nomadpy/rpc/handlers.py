"""Methods by name: what they take and give, and who answers them.

A ``Word`` is declared once and used at both ends. Methods are only ever added and records get new fields with defaults,
so agents of different versions understand each other: an unknown field is ignored, an unknown method is refused with a
sentence that says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from nomadpy.model import errors
from nomadpy.model.errors import Invalid, NomadError, TimedOut, Unavailable
from nomadpy.rpc.frames import Failure

if TYPE_CHECKING:
    from nomadpy.rpc.connection import Connection
    from nomadpy.rpc.streams import MessageStream

P = TypeVar("P")
R = TypeVar("R")

_encoder = msgspec.msgpack.Encoder()


class NotConnected(Unavailable):
    """There is no connection, so the request has certainly not been made."""

    code = "not-connected"


class NoAnswer(TimedOut):
    """The peer did not answer in time, not even that it could not."""


class StreamEnded(Unavailable):
    """The other end does not read this stream any more."""

    code = "stream-ended"


class UnknownMethod(NomadError):
    """The other agent does not know the method: it is of another version or has another role."""

    code = "unknown-method"
    status = 501


class Word(Generic[P, R]):
    """A method: its name and the types of its parameters and result (``type(None)`` for streams)."""

    def __init__(self, name: str, params: type[P], result: type[R] | Any) -> None:
        self.name = name
        self._params: msgspec.msgpack.Decoder[P] = msgspec.msgpack.Decoder(params)
        self._result: msgspec.msgpack.Decoder[R] = msgspec.msgpack.Decoder(result)

    def encode(self, value: P | R) -> msgspec.Raw:
        """Parameters or a result in the form of the wire."""
        return msgspec.Raw(_encoder.encode(value))

    def decode_params(self, data: msgspec.Raw) -> P:
        """Raises Invalid when the parameters are not of this method."""
        try:
            return self._params.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Invalid(f"{self.name}: the parameters cannot be understood: {error}") from error

    def decode_result(self, data: msgspec.Raw) -> R:
        """Raises Unavailable when the answer is not of this method."""
        try:
            return self._result.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Unavailable(f"{self.name}: the answer cannot be understood: {error}") from error


class Unary(msgspec.Struct, frozen=True):
    """Who answers a request."""

    word: Word[Any, Any]
    handle: Callable[[Any, Connection], Awaitable[Any]]


class Streaming(msgspec.Struct, frozen=True):
    """Who holds a stream."""

    word: Word[Any, Any]
    handle: Callable[[Any, MessageStream, Connection], Awaitable[None]]


class Handlers:
    """The methods that an agent answers. Handlers get the connection that asks: its ``peer`` says who that is."""

    def __init__(self) -> None:
        self._unary: dict[str, Unary] = {}
        self._streaming: dict[str, Streaming] = {}

    def on(self, word: Word[P, R], handle: Callable[[P, Connection], Awaitable[R]]) -> None:
        """Answers requests. A NomadError of the handler is raised at the asking end; the handler is cancelled when
        the deadline has passed or nobody waits any more."""
        self._unary[word.name] = Unary(word, handle)

    def on_stream(self, word: Word[P, None], handle: Callable[[P, MessageStream, Connection], Awaitable[None]]) -> None:
        """Holds streams. The stream ends when the handler returns or raises."""
        self._streaming[word.name] = Streaming(word, handle)

    def add(self, other: Handlers) -> None:
        """Takes over all methods of ``other``."""
        self._unary.update(other._unary)
        self._streaming.update(other._streaming)

    def unary(self, name: str) -> Unary:
        """Raises UnknownMethod."""
        if (found := self._unary.get(name)) is None:
            raise _unknown(name)
        return found

    def streaming(self, name: str) -> Streaming:
        """Raises UnknownMethod."""
        if (found := self._streaming.get(name)) is None:
            raise _unknown(name)
        return found


def _unknown(name: str) -> UnknownMethod:
    return UnknownMethod(f'unknown method "{name[:80]}": this agent has another role or another version')


def _by_code() -> dict[str, type[NomadError]]:
    kinds: list[type[NomadError]] = [NotConnected, StreamEnded, UnknownMethod]
    kinds += [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NomadError)]
    return {kind.code: kind for kind in kinds}


_BY_CODE = _by_code()
# A fault of the other agent must not stop this one.
_NOT_RAISED_HERE = frozenset((errors.Bug.code,))


def to_failure(ident: int, error: NomadError) -> Failure:
    """An error in the form of the wire. A class of another room becomes the nearest one that every agent knows."""
    codes = [kind.code for kind in type(error).__mro__ if issubclass(kind, NomadError)]
    code = next((code for code in codes if code in _BY_CODE), NomadError.code)
    return Failure(ident, NomadError.code if code in _NOT_RAISED_HERE else code, error.status, error.message)


def to_error(failure: Failure) -> NomadError:
    """The error that the other end raised; a code that is not known here becomes a plain NomadError."""
    kind = NomadError if failure.code in _NOT_RAISED_HERE else _BY_CODE.get(failure.code, NomadError)
    error = kind(failure.message)
    error.status = failure.status
    return error
