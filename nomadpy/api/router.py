"""From a request to the operation that answers it, and from its answer to bytes.

The operations stand in one table (``routes``), which also makes the OpenAPI document. Job ids may contain slashes and
any Unicode, so a path is matched after it was percent-decoded, longest suffix first: the table's order.
"""

from __future__ import annotations

import logging
import re
from typing import Any

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from nomadpy.api.call import Call, Endpoint, NoBody, Reply, WithIndex
from nomadpy.api.context import ApiContext
from nomadpy.api.forward import LEADER, SERVER, Elsewhere, Heard, Way
from nomadpy.model.errors import Invalid, NoLeader, NomadError
from nomadpy.model.wire import encode

log = logging.getLogger(__name__)

_WITH_SLASHES = ("job_id", "rest")
# How often, and with which pauses, a server asks itself again that leads but does not take proposals: for five seconds.
_TRIES_HERE, _TRY_AGAIN_S = 50, 0.1
READ, WRITE = ("GET",), ("PUT", "POST")


class Param(msgspec.Struct, frozen=True):
    """A query parameter, for the OpenAPI document."""

    name: str
    kind: str = "string"
    about: str = ""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that can be asked. ``path`` is a template; ``{name}`` matches up to the next slash, but ``{job_id}``
    and ``{rest}`` match slashes as well."""

    methods: tuple[str, ...]
    path: str
    endpoint: Endpoint
    about: str = ""
    query: tuple[Param, ...] = ()
    body: Any = None
    answer: Any = None
    blocking: bool = False
    paged: bool = False
    stream: bool = False
    websocket: bool = False
    at: str = LEADER


class Router:
    """An ASGI application over a table of operations."""

    def __init__(self, context: ApiContext, operations: tuple[Operation, ...]) -> None:
        self._context = context
        self._by_path: list[tuple[re.Pattern[str], dict[str, Operation]]] = []
        self._websockets = [(_pattern(one.path), one) for one in operations if one.websocket]
        known: dict[str, dict[str, Operation]] = {}
        for operation in operations:
            methods = known.get(operation.path)
            if methods is None:
                methods = known[operation.path] = {}
                self._by_path.append((_pattern(operation.path), methods))
            methods.update(dict.fromkeys(operation.methods, operation))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one HTTP request; a websocket is handed to its operation as it is."""
        heard = Heard(receive)
        if scope["type"] == "websocket":
            await self._converse(WebSocket(scope, heard, send), heard, send)
            return
        response = await self._respond(scope, heard, send)
        if response is None:
            return
        for name, value in self._context.response_headers.items():
            response.headers[name] = value
        await response(scope, receive, send)

    async def _respond(self, scope: Scope, heard: Heard, send: Send) -> Response | None:
        """The answer, or None when another agent gave it. A server that leads, but does not take proposals (it hands
        over, stops, or just lost the office), finds itself as the one to ask: it tries again for a while."""
        for _ in range(_TRIES_HERE):
            try:
                return await self._answer(Request(scope, heard.again(), send))
            except Elsewhere as elsewhere:
                try:
                    way = await self._way(elsewhere)
                except NomadError as error:
                    return _error(error)
            if way is not self:
                await way(scope, heard.again(), send)
                return None
            await trio.sleep(_TRY_AGAIN_S)
        return _error(NoLeader())

    async def _answer(self, request: Request) -> Response:
        path: str = request.scope["path"]
        if path == "/":
            return RedirectResponse("/ui/", status_code=307)
        cleaned = _clean(path)
        if cleaned != path:
            query = request.scope.get("query_string", b"").decode("latin-1")
            return RedirectResponse(cleaned + ("?" + query if query else ""), status_code=301)
        for pattern, methods in self._by_path:
            match = pattern.match(path)
            if match is None:
                continue
            operation = methods.get("GET" if request.method == "HEAD" else request.method)
            if operation is None:
                return _text("Invalid method", 405)
            if operation.websocket:
                return _error(Invalid("this is a websocket: the request has to ask for an upgrade"))
            call = Call(self._context, request, match.groupdict())
            return await self._carry_out(operation, call)
        return Response(status_code=404)

    async def _converse(self, socket: WebSocket, heard: Heard, send: Send) -> None:
        """A refusal before the upgrade is a plain HTTP answer; afterwards operations use close frames."""
        await socket.receive()  # the announcement, which says nothing
        matches = ((pattern.match(socket.scope["path"]), operation) for pattern, operation in self._websockets)
        found = next(((match, operation) for match, operation in matches if match is not None), None)
        if found is None:
            await socket.send_denial_response(Response(status_code=404))
            return
        match, operation = found
        call = Call(self._context, socket, match.groupdict())
        try:
            call.check_common()
            try:
                self._check_place(operation, call)
                await operation.endpoint(call)
            except Elsewhere as elsewhere:
                way = await self._way(elsewhere)
                await way(socket.scope, heard.again(), send)
        except NomadError as error:
            await socket.send_denial_response(_error(error))

    # --- who answers -----------------------------------------------------------------------------------------------

    async def _way(self, elsewhere: Elsewhere) -> Way:
        ways = self._context.forwarding
        if ways is None:
            raise NoLeader()
        if elsewhere.node_id:
            return await ways.to_node(elsewhere.node_id)
        if elsewhere.server:
            return await ways.to_peer(elsewhere.server)
        return await (ways.to_leader() if elsewhere.place == LEADER else ways.to_server())

    def _check_place(self, operation: Operation, call: Call) -> None:
        """Raises Elsewhere when this agent is not the one to answer."""
        context = self._context
        if operation.at not in (LEADER, SERVER) or context.forwarding is None:
            return
        if context.server is None:
            raise Elsewhere(SERVER)
        if operation.at == LEADER and not call.stale and not context.server.leading:
            raise Elsewhere(LEADER)

    async def _carry_out(self, operation: Operation, call: Call) -> Response:
        try:
            call.check_common()
            self._check_place(operation, call)
            if operation.at == LEADER and call.reads and not call.stale and self._context.server is not None:
                await self._context.server.consistent()
            answer = await operation.endpoint(call)
            if isinstance(answer, Response):
                return answer
            reply = answer if isinstance(answer, Reply) else Reply(value=answer)
            return _response(call, reply)
        except WithIndex as refusal:
            response = _error(refusal.error)
            _add_index(call, response, refusal.index, "")
            return response
        except NoLeader as error:
            # Nothing was done, so whoever leads now may be asked.
            if operation.at == LEADER and self._context.forwarding is not None:
                raise Elsewhere(LEADER) from error
            return _error(error)
        except NomadError as error:
            return _error(error)


def _response(call: Call, reply: Reply) -> Response:
    if reply.value is NoBody:
        response = Response(status_code=reply.status)
    else:
        pretty = call.query.get("pretty")
        data = encode(reply.value, pretty=pretty is not None and pretty != "0")
        response = Response(data, status_code=reply.status, media_type="application/json")
    for name, value in reply.headers.items():
        response.headers[name] = value
    if reply.index is not None:
        _add_index(call, response, reply.index, reply.next_token)
    elif reply.next_token:
        response.headers["X-Nomad-NextToken"] = reply.next_token
    return response


def _add_index(call: Call, response: Response, index: int, next_token: str) -> None:
    ways = call.context.forwarding
    known, silent_ms = (True, 0) if ways is None else ways.contact()
    response.headers["X-Nomad-Index"] = str(index)
    response.headers["X-Nomad-LastContact"] = str(silent_ms)
    response.headers["X-Nomad-KnownLeader"] = "true" if known else "false"
    if next_token:
        response.headers["X-Nomad-NextToken"] = next_token


def _error(error: NomadError) -> Response:
    if error.status >= 500:
        log.debug("http.refused", extra={"fields": {"status": error.status, "error": error.message}})
    return _text(error.message, error.status)


def _text(message: str, status: int) -> Response:
    return Response(message, status_code=status, media_type="text/plain; charset=utf-8")


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    text = "".join(
        re.escape(part) if at % 2 == 0 else f"(?P<{part}>{'.+' if part in _WITH_SLASHES else '[^/]+'})"
        for at, part in enumerate(parts)
    )
    return re.compile(text + r"\Z", re.DOTALL)


def _clean(path: str) -> str:
    """The path without empty, ``.`` and ``..`` segments, as Go's multiplexer redirects to it. Inside job ids anything
    goes, so only what stands before them is cleaned."""
    if "//" not in path and "/." not in path:
        return path
    if path.startswith(("/v1/job/", "/v1/var/")):
        return path
    out: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del out[-1:]
        elif segment not in ("", "."):
            out.append(segment)
    return "/" + "/".join(out) + ("/" if path.endswith("/") and out else "")
