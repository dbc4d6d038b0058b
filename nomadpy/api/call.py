"""One HTTP request as the routes see it: parameters read by Nomad's rules, blocking reads, pages, and replies."""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec
import trio
from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket

from nomadpy.api.bexpr import Filter, compile_filter, field_tree
from nomadpy.api.context import ApiContext
from nomadpy.model.caller import ANYONE, Caller
from nomadpy.model.decode import decode
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.time import SECOND, parse_duration
from nomadpy.rpc.contract import ClientEndpoint
from nomadpy.server.server import Server

T = TypeVar("T")

_TRUE = frozenset(("1", "t", "T", "true", "True", "TRUE"))
_FALSE = frozenset(("0", "f", "F", "false", "False", "FALSE"))
_WAIT_S = 300.0
_INT32 = 2**31 - 1
_DIGITS = re.compile(r"[0-9]{1,20}\Z")


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a route answers. ``value`` is encoded as JSON; ``index`` not None adds the headers of reads and writes."""

    value: Any = None
    index: int | None = None
    next_token: str = ""
    status: int = 200
    headers: dict[str, str] = {}


class NoBody:
    """The value of an answer without a body; ``None`` is answered as JSON null."""


EMPTY = Reply(value=NoBody)


class Call:
    """A request to one operation, with what the path named in ``params``."""

    def __init__(self, context: ApiContext, connection: HTTPConnection, params: dict[str, str]) -> None:
        self.context = context
        self.connection = connection
        self.params = params
        self.query: QueryParams = connection.query_params
        self.caller: Caller = ANYONE

    @property
    def request(self) -> Request:
        """The plain request; only websocket operations have none."""
        assert isinstance(self.connection, Request)
        return self.connection

    @property
    def socket(self) -> WebSocket:
        """The websocket, which the operation has to accept; only websocket operations have one."""
        assert isinstance(self.connection, WebSocket)
        return self.connection

    # --- roles -----------------------------------------------------------------------------------------------------

    @property
    def server(self) -> Server:
        """The server in this agent. Raises 501 when the agent has none."""
        if self.context.server is None:
            raise NomadError("server not enabled on this agent", status=501)
        return self.context.server

    @property
    def client(self) -> ClientEndpoint:
        """The client in this agent. Raises 501 when the agent has none."""
        if self.context.client is None:
            raise NomadError("client not enabled on this agent", status=501)
        return self.context.client

    # --- parameters ------------------------------------------------------------------------------------------------

    def text(self, name: str, default: str = "") -> str:
        """A query parameter as text."""
        return self.query.get(name, default)

    @property
    def namespace(self) -> str:
        """The namespace that the query names, ``default`` otherwise."""
        return self.query.get("namespace") or "default"

    @property
    def stated_namespace(self) -> str:
        """The namespace that the query names, "" otherwise: for writes, whose body may name one as well."""
        return self.query.get("namespace", "")

    def flag(self, name: str, default: bool = False, *, status: int = 500, prefix: str = "") -> bool:
        """A boolean parameter by Go's rules; absent or empty is the default."""
        value = self.query.get(name, "")
        if value == "":
            return default
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        text = f'{prefix}Failed to parse value of "{name}" ({value}) as a bool: use true or false'
        raise Invalid(text, status=status)

    def number(self, name: str, error: str, *, limit: int = 2**63 - 1) -> int | None:
        """A non-negative integer parameter, None when absent."""
        value = self.query.get(name, "")
        if value == "":
            return None
        if not _DIGITS.match(value) or int(value) > limit:
            raise Invalid(error)
        return int(value)

    @property
    def wanted_index(self) -> int:
        """The index that a blocking read waits to be passed; 0 does not wait."""
        return self.number("index", "Invalid index", limit=2**64 - 1) or 0

    @property
    def wait_s(self) -> float:
        """How long a blocking read may wait: five minutes unless the query says less, and a sixteenth more at random,
        so that many clients do not come back at once."""
        text = self.query.get("wait", "")
        wait_s = _WAIT_S
        if text:
            try:
                wait_s = parse_duration(text) / SECOND
            except ValueError as error:
                raise Invalid("Invalid wait time") from error
            if wait_s < 0:
                raise Invalid("Invalid wait time")
            wait_s = min(wait_s, _WAIT_S) if wait_s else _WAIT_S
        return wait_s + random.SystemRandom().random() * wait_s / 16

    @property
    def stale(self) -> bool:
        """Whether this read may be answered by any server from the state as it has it."""
        return self.reads and "stale" in self.query and self.query["stale"] not in _FALSE

    @property
    def reads(self) -> bool:
        """Whether the request changes nothing."""
        return self.connection.scope.get("method", "GET") in ("GET", "HEAD")

    def check_common(self) -> None:
        """Refuses malformed values of the parameters that every read takes, and regions that are not ours."""
        stale = self.query.get("stale", "")
        if stale and stale not in _TRUE | _FALSE:
            raise Invalid("Expect `true` or `false` for `stale` query string parameter")
        region = self.query.get("region", "")
        if region and region != self.context.region:
            raise NomadError("No path to region")
        _ = self.wanted_index
        if self.query.get("wait"):
            _ = self.wait_s

    async def body(self, kind: type[T], *, optional: bool = False) -> T:
        """The request's body as a record, by Go's rules. Raises Invalid (400)."""
        data = await self.request.body()
        if optional and not data.strip():
            return kind()
        return decode(data, kind)

    # --- reads -----------------------------------------------------------------------------------------------------

    async def blocking(self, read: Callable[[], tuple[Any, int]], *tables: str) -> Reply:
        """Answers with what ``read`` returns, once its index is beyond the one asked for or the wait is over."""
        wanted = self.wanted_index
        value, index = read()
        if wanted and index <= wanted:
            with trio.move_on_after(self.wait_s):
                while index <= wanted:
                    await self.server.watch.changed(*tables)
                    value, index = read()
        if isinstance(value, Reply):
            return msgspec.structs.replace(value, index=index)
        if isinstance(value, NomadError):
            raise WithIndex(value, index)
        return Reply(value=value, index=index)

    def page(self, rows: Iterable[T], kind: type[msgspec.Struct], order: Order[T], stub: Callable[[T], Any]) -> Reply:
        """One page of rows that are already in order, filtered before they are counted. The next token names the first
        row of the next page."""
        return self.page_rows(self.filtered(rows, kind), order, stub)

    def page_rows(self, rows: Iterable[T], order: Order[T], stub: Callable[[T], Any]) -> Reply:
        """One page of rows that are already in order and filtered."""
        error = "Expect a number for `per_page` query string parameter"
        per_page = self.number("per_page", error, limit=_INT32) or 0
        token_of = order.token
        rows = _from_token(rows, self.text("next_token"), order, reverse=self.reverse)
        if not per_page:
            return Reply(value=[stub(row) for row in rows])
        page: list[T] = []
        for row in rows:
            if len(page) == per_page:
                return Reply(value=[stub(one) for one in page], next_token=token_of(row))
            page.append(row)
        return Reply(value=[stub(one) for one in page])

    def filtered(self, rows: Iterable[T], kind: type[msgspec.Struct]) -> Iterable[T]:
        """The rows that the query's filter expression lets through."""
        expression = self.text("filter")
        if not expression:
            return rows
        try:
            compiled = compile_filter(expression, field_tree(kind))
        except Invalid as error:
            text = f"failed to create result paginator: failed to read filter expression: {error.message}"
            raise Invalid(text) from error
        return _matching(rows, compiled)

    @property
    def reverse(self) -> bool:
        """Whether the list should come in the other order; only the literal ``true`` counts."""
        return self.text("reverse") == "true"


class WithIndex(Exception):
    """A refusal of a read that still answers with the index headers, so that blocking clients can wait on."""

    def __init__(self, error: NomadError, index: int) -> None:
        super().__init__(error.message)
        self.error = error
        self.index = index


Endpoint = Callable[[Call], Awaitable[Any]]
Place = tuple[int, str, str]


class Order(msgspec.Struct, Generic[T], frozen=True):
    """How a list is ordered: the token that names a row, and what a token is compared by. ``place`` gives that of a row
    where it can be told without its token. Lists with ``descending`` begin with the largest unless reversed."""

    token: Callable[[T], str]
    key: Callable[[str], Place]
    descending: bool = False
    place: Callable[[T], Place] | None = None


def whole(token: str) -> Place:
    """A token that is an id or a name."""
    return 0, token, ""


def namespaced(token: str) -> Place:
    """A token ``<namespace>.<id>``; namespaces hold no dots."""
    namespace, _, rest = token.partition(".")
    return 0, namespace, rest


def numbered(token: str) -> Place:
    """A token ``<index>.<id>`` or ``<index>``."""
    head, _, rest = token.partition(".")
    if not _DIGITS.match(head):
        raise Invalid(f'failed to create result paginator: invalid next_token "{token}": it begins with an index')
    return int(head), rest, ""


def _matching(rows: Iterable[T], compiled: Filter) -> Iterable[T]:
    for row in rows:
        try:
            if compiled.matches(cast(Any, row)):
                yield row
        except Invalid as error:
            raise Invalid(f"failed to read result page: {error.message}") from error


def _from_token(rows: Iterable[T], token: str, order: Order[T], *, reverse: bool) -> Iterable[T]:
    """Rows from the one that the token names; one that is gone is skipped by comparison."""
    if not token:
        return rows
    wanted, falling = order.key(token), reverse != order.descending
    place = order.place or (lambda row: order.key(order.token(row)))

    def reached(row: T) -> bool:
        key = place(row)
        return key <= wanted if falling else key >= wanted

    return (row for row in rows if reached(row))


def in_order(rows: Sequence[T], *, reverse: bool) -> Sequence[T]:
    """The rows as they are, or from the end."""
    return rows[::-1] if reverse else rows
