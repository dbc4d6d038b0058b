"""A request that another agent answers: an ASGI call over a stream between agents.

``relay`` takes the call here, ``handle_relay`` makes it there. Every ASGI event is one message on the stream, so bodies
flow both ways with back-pressure, websockets are conversations, and whoever leaves takes the other end along: a client
that hangs up cancels the far handler, a lost connection ends the answer. How often a call was relayed travels along, so
that agents that disagree about who answers do not send it round for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
import trio
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nomadpy.api.forward import Way
from nomadpy.model.errors import Invalid, NomadError, Unavailable
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.handlers import Handlers, Word
from nomadpy.rpc.streams import MessageStream

log = logging.getLogger(__name__)

# client's agent → follower → leader → the server that the node is connected to → the node's agent
MAX_HOPS = 4
HOPS, RELAYED, PEER = "nomadpy.hops", "nomadpy.relayed", "nomadpy.peer"
_BODY_BYTES = 1 << 16
# A close frame carries no longer reason (RFC 6455 §5.5).
_REASON_BYTES = 120
_INTERNAL_ERROR = 1011

Header: TypeAlias = tuple[bytes, bytes]
_Blob: TypeAlias = bytes  # a field is called like the type


class RelayHead(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an ASGI scope says about a request."""

    type: Literal["http", "websocket"] = "http"
    method: str = ""
    scheme: str = "http"
    http_version: str = "1.1"
    path: str = ""
    raw_path: bytes = b""
    query_string: bytes = b""
    headers: list[Header] = []
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    subprotocols: list[str] = []
    extensions: list[str] = []
    hops: int = 1


class _Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """An ASGI event; of the fields each type has its own."""

    type: str
    status: int | None = None
    headers: list[Header] | None = None
    body: _Blob | None = None
    more_body: bool | None = None
    text: str | None = None
    bytes: _Blob | None = None
    code: int | None = None
    reason: str | None = None
    subprotocol: str | None = None


RELAY: Word[RelayHead, None] = Word("Http.Relay", RelayHead, type(None))

_FROM_CLIENT = frozenset(("http.request", "websocket.connect", "websocket.receive", "websocket.disconnect"))
_FROM_APP = frozenset(
    ("http.response.start", "http.response.body", "websocket.accept", "websocket.send", "websocket.close")
) | frozenset(("websocket.http.response.start", "websocket.http.response.body"))
_FIELDS = _Event.__struct_fields__
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Event)


# ------------------------------------------------------------------ the asking agent


async def relay(connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
    """Has the request answered at the other end of ``connection``.

    Raises:
        NomadError: nothing was answered yet, so the caller may answer with the error. What goes wrong later cuts the
            answer short.
    """
    hops = scope.get(HOPS, 0) + 1
    _check_hops(hops)
    answer = _Answer(scope, send)
    problem: NomadError | None = None
    async with connection.open(RELAY, _head(scope, hops)) as stream, trio.open_nursery() as nursery:

        def hung_up() -> None:
            answer.unwanted = True
            nursery.cancel_scope.cancel()

        nursery.start_soon(_pass_client, stream, receive, hung_up)
        try:
            while (data := await stream.receive()) is not None:
                await answer.pass_on(_decode(data, _FROM_APP))
        except NomadError as error:
            problem = error
        nursery.cancel_scope.cancel()
    await answer.finish(problem)


def way_over(connection: Connection) -> Way:
    """``relay`` as an ASGI application; errors become answers."""

    async def way(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await relay(connection, scope, receive, send)
        except NomadError as error:
            await _answer_error(error, scope, receive, send)

    return way


class _Answer:
    """What the other agent has answered so far."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._started = self._accepted = self._complete = False
        self.unwanted = False

    async def pass_on(self, event: Message) -> None:
        kind = event["type"]
        self._started = True
        self._accepted = self._accepted or kind == "websocket.accept"
        is_end = kind.endswith(".body") and not event.get("more_body", False)
        self._complete = self._complete or is_end or kind == "websocket.close"
        await self._send(event)

    async def finish(self, problem: NomadError | None) -> None:
        """Deals with an answer that did not come, or stopped half-way."""
        if self.unwanted or self._complete:
            return
        problem = problem or Unavailable("the other agent gave no answer")
        if not self._started:
            raise problem
        log.warning("relay.cut_short", extra={"fields": {"path": self._scope["path"], "error": problem.message}})
        if self._accepted:
            reason = problem.message.encode()[:_REASON_BYTES].decode(errors="ignore")
            await self._send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": reason})


async def _pass_client(stream: MessageStream, receive: Receive, hung_up: Callable[[], None]) -> None:
    """Passes on what the client says, until it leaves."""
    listened_to = True
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            hung_up()
            return
        try:
            if listened_to:
                await _send(stream, event)
        except NomadError as error:
            # The answer tells more; until it is there, the client may still hang up.
            log.debug("relay.not_listened_to", extra={"fields": {"error": error.message}})
            listened_to = False
        if event["type"] == "websocket.disconnect":
            return


async def _answer_error(error: NomadError, scope: Scope, receive: Receive, send: Send) -> None:
    response = Response(error.message, status_code=error.status, media_type="text/plain; charset=utf-8")
    if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": _INTERNAL_ERROR, "reason": error.message[:_REASON_BYTES]})


def _check_hops(hops: int) -> None:
    if hops > MAX_HOPS:
        raise Unavailable(f"the request was passed on {MAX_HOPS} times: the agents do not agree on who answers it")


def _head(scope: Scope, hops: int) -> RelayHead:
    client, server = scope.get("client"), scope.get("server")
    return RelayHead(
        type=scope["type"],
        method=scope.get("method", ""),
        scheme=scope.get("scheme", "http"),
        http_version=scope.get("http_version", "1.1"),
        path=scope["path"],
        raw_path=scope.get("raw_path") or b"",
        query_string=scope.get("query_string", b""),
        headers=[(bytes(name), bytes(value)) for name, value in scope["headers"]],
        client=None if client is None else (client[0], client[1]),
        server=None if server is None else (server[0], server[1]),
        subprotocols=list(scope.get("subprotocols", ())),
        extensions=list(scope.get("extensions") or ()),
        hops=hops,
    )


# ------------------------------------------------------------------ the answering agent


def handle_relay(app: ASGIApp) -> Handlers:
    """Handlers that have ``app`` answer what other agents relay. Its scopes say so: ``nomadpy.relayed`` is true,
    ``nomadpy.hops`` counts, ``nomadpy.peer`` is the agent that relayed."""

    async def handle(head: RelayHead, stream: MessageStream, caller: Connection) -> None:
        _check_hops(head.hops)

        async def receive() -> Message:
            data = await stream.receive()
            if data is None:
                return {"type": "http.disconnect"} if head.type == "http" else {"type": "websocket.disconnect"}
            return _decode(data, _FROM_CLIENT)

        async def send(event: Message) -> None:
            await _send(stream, event)

        await app(_scope(head, caller), receive, send)

    handlers = Handlers()
    handlers.on_stream(RELAY, handle)
    return handlers


def _scope(head: RelayHead, caller: Connection) -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": head.type,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": head.http_version,
        "scheme": head.scheme,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query_string,
        "root_path": "",
        "headers": head.headers,
        "client": head.client,
        "server": head.server,
        "extensions": {name: {} for name in head.extensions},
        RELAYED: True,
        HOPS: head.hops,
        PEER: caller.peer,
    }
    return scope | ({"method": head.method} if head.type == "http" else {"subprotocols": head.subprotocols})


# ------------------------------------------------------------------ events as messages


async def _send(stream: MessageStream, event: Message) -> None:
    """One event; a long body as several, so that it flows."""
    body = event.get("body", b"")
    for at in range(0, len(body) - _BODY_BYTES, _BODY_BYTES):
        piece = _Event(event["type"], body=body[at : at + _BODY_BYTES], more_body=True)
        await stream.send(_encoder.encode(piece))
    if len(body) > _BODY_BYTES:
        rest = len(body) % _BODY_BYTES or _BODY_BYTES
        event = {**event, "body": body[-rest:]}
    await stream.send(_encoder.encode(_Event(**{name: event[name] for name in _FIELDS if name in event})))


def _decode(data: bytes, allowed: frozenset[str]) -> Message:
    try:
        event = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Invalid(f"the other agent sent something that is no ASGI event: {error}") from error
    if event.type not in allowed:
        raise Invalid(f'the other agent sent an event that is out of place: "{event.type[:40]}"')
    values = ((name, getattr(event, name)) for name in _FIELDS)
    return {name: value for name, value in values if value is not None}
