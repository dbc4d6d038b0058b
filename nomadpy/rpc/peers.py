"""The other servers as a server sees them: a connection to each, dialed when it is first needed, and the nodes that
are connected to this server or to one of those."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import trio

from nomadpy.model.errors import Forbidden, NomadError
from nomadpy.model.naming import Noun
from nomadpy.rpc.connection import Connection, Peer, Timing
from nomadpy.rpc.dial import Dial
from nomadpy.rpc.frames import Hello
from nomadpy.rpc.handlers import Handlers, NotConnected, Word

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")

_READY_S = 5.0
# A server that could not be reached is not dialed again for so long; whoever asks meanwhile hears the same.
_RETRY_S = 0.3


class _Link:
    """What is known of the way to one server."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.connection: Connection | None = None
        self.problem = ""
        self.retry_at_s = 0.0


class Peers:
    """Connections to servers by server id, while ``run`` runs. ``address_of(server id)`` is where a server listens,
    None when it is not known. ``handlers`` answer what the other server asks over the same connection."""

    def __init__(
        self,
        *,
        address_of: Callable[[str], str | None],
        dial: Dial,
        hello: Hello,
        handlers: Handlers,
        admit: Callable[[Peer], None] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._address_of, self._dial, self._hello, self._handlers = address_of, dial, hello, handlers
        self._admit, self._timing = admit, timing
        self._links: dict[str, _Link] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the connections until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def connection(self, server_id: str) -> Connection:
        """An open connection to the server, dialed where needed. Raises NotConnected or Forbidden with the reason."""
        link = self._links.setdefault(server_id, _Link())
        if link.connection is not None and link.connection.is_open:
            return link.connection
        async with link.lock:
            if link.connection is not None and link.connection.is_open:
                return link.connection
            if trio.current_time() < link.retry_at_s:
                raise NotConnected(link.problem)
            try:
                link.connection = await self._connect(server_id)
            except NomadError as error:
                link.problem, link.retry_at_s = error.message, trio.current_time() + _RETRY_S
                raise
            return link.connection

    async def call(self, server_id: str, word: Word[P, R], params: P, *, timeout_s: float) -> R:
        """Asks one server; raises what ``connection`` and ``Connection.call`` raise."""
        return await (await self.connection(server_id)).call(word, params, timeout_s=timeout_s)

    async def _connect(self, server_id: str) -> Connection:
        address = self._address_of(server_id)
        if not address:
            raise NotConnected(f"the address of server {server_id} is not known")
        self._home()
        stream, names = await self._dial(address)

        def admit(peer: Peer) -> None:
            if peer.role != "server" or peer.id != server_id:
                raise Forbidden(f"at {address} is {peer.role} {peer.name} ({peer.id}), not server {server_id}")
            if self._admit is not None:
                self._admit(peer)

        connection = Connection(
            stream,
            hello=self._hello,
            handlers=self._handlers,
            dialed=True,
            address=address,
            certificate_names=names,
            admit=admit,
            timing=self._timing,
        )
        try:
            self._home().start_soon(connection.run)
        except NotConnected:
            await trio.aclose_forcefully(stream)
            raise
        with trio.move_on_after(_READY_S) as scope:
            await connection.ready()
        if scope.cancelled_caught:
            connection.close("the handshake took too long")
            raise NotConnected(f"{address} did not introduce itself within {_READY_S:g} s")
        return connection

    def _home(self) -> trio.Nursery:
        """Where connections live. Raises NotConnected while there is none, also when that changed during a dial."""
        if self._nursery is None:
            raise NotConnected("this agent connects to no servers now: it starts or ends")
        return self._nursery


class NodeQuery(Noun):
    """Parameters of ``Server.HasNode``."""

    node_id: str = ""


HAS_NODE: Word[NodeQuery, bool] = Word("Server.HasNode", NodeQuery, bool)


class Roster:
    """The nodes that have a connection to this server; each has proven who it is over it."""

    def __init__(self) -> None:
        self._connections: dict[str, Connection] = {}

    def put(self, node_id: str, connection: Connection) -> None:
        """The node was heard over this connection; the newest one counts. This is ``serve_servers``'s on_node."""
        self._connections[node_id] = connection

    def get(self, node_id: str) -> Connection | None:
        """The open connection to the node."""
        connection = self._connections.get(node_id)
        if connection is not None and not connection.is_open:
            del self._connections[node_id]
            return None
        return connection

    def node_ids(self) -> list[str]:
        """Whoever is connected now."""
        return [node_id for node_id in list(self._connections) if self.get(node_id) is not None]

    def handlers(self) -> Handlers:
        """What other servers may ask about the roster."""
        handlers = Handlers()

        async def has_node(query: NodeQuery, caller: Connection) -> bool:
            if caller.peer.role != "server":
                raise Forbidden("only servers may ask where a node is connected")
            return self.get(query.node_id) is not None

        handlers.on(HAS_NODE, has_node)
        return handlers


async def server_of_node(peers: Peers, server_ids: Iterable[str], node_id: str, *, timeout_s: float = 3.0) -> str:
    """The id of the server, among the other ones, that has a connection to the node; "" when none of them has."""
    found = ""

    async def ask(server_id: str, scope: trio.CancelScope) -> None:
        nonlocal found
        try:
            if await peers.call(server_id, HAS_NODE, NodeQuery(node_id=node_id), timeout_s=timeout_s):
                found = server_id
                scope.cancel()
        except NomadError as error:
            log.debug("node.not_asked_for", extra={"fields": {"server": server_id, "error": error.message}})

    async with trio.open_nursery() as nursery:
        for server_id in server_ids:
            nursery.start_soon(ask, server_id, nursery.cancel_scope)
    return found
