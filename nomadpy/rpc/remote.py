"""The servers as a client sees them: one connection to one of them, and another one when that fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import trio

from nomadpy.model.alloc import Allocation, AllocUpdate
from nomadpy.model.errors import Forbidden, NoLeader, NomadError, OutcomeUnknown, TimedOut
from nomadpy.model.node import Node, NodeEvent
from nomadpy.rpc import words as w
from nomadpy.rpc.connection import Connection, Peer, Timing
from nomadpy.rpc.contract import Assignments, NodeLease
from nomadpy.rpc.dial import Dial
from nomadpy.rpc.frames import Hello
from nomadpy.rpc.handlers import Handlers, NoAnswer, NotConnected, Word

log = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")

# The server says this of itself, or another server does; asking again, or elsewhere, may help.
_WORTH_ANOTHER_TRY = (NoLeader, NotConnected, OutcomeUnknown, TimedOut)

# No attempt is made for less; on a busy machine the time may run out between two steps.
_SHORTEST_S = 0.05


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited, in seconds. ``attempt_s`` is for one answer, ``total_s`` for a call with all its attempts;
    a heartbeat has less time. ``retry_s`` and ``retry_s_max`` bound the growing pauses between attempts, ``redial_s``
    and ``redial_s_max`` those between rounds of dialing; a connection that held ``steady_s`` resets the latter.

    Servers wait a moment for a leader before they say that there is none. One that says so again ``no_leader_s`` later
    may be cut off, and another one is asked. In an election they are all alike: whoever moves only adds to their work.
    """

    attempt_s: float = 20.0
    total_s: float = 40.0
    heartbeat_attempt_s: float = 6.0
    heartbeat_total_s: float = 15.0
    retry_s: float = 0.3
    retry_s_max: float = 1.0
    redial_s: float = 0.2
    redial_s_max: float = 5.0
    steady_s: float = 10.0
    no_leader_s: float = 3.0


class RemoteServers:
    """Implements ``ServerEndpoint`` over the network while ``run`` runs. All of its calls may be repeated safely, so
    they are, until they succeed, are refused, or their time is over.

    ``handlers`` answer what the servers ask over the connection. ``admit(peer)`` raises Forbidden for a server that is
    not to be trusted. ``on_change(connection or None)`` hears of a new connection and of its end.
    """

    def __init__(
        self,
        addresses: Iterable[str],
        *,
        dial: Dial,
        hello: Hello,
        handlers: Handlers,
        rng: random.Random,
        admit: Callable[[Peer], None] | None = None,
        on_change: Callable[[Connection | None], None] | None = None,
        patience: Patience | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._given = tuple(dict.fromkeys(addresses))
        self._learnt: tuple[str, ...] = ()
        self._dial, self._hello, self._handlers, self._rng = dial, hello, handlers, rng
        self._admit, self._on_change = admit, on_change
        self._patience, self._timing = patience or Patience(), timing
        self._connection: Connection | None = None
        self._address = ""
        self._changed = trio.Event()
        self._problem = "no server has been tried yet"
        self._last_heartbeat: w.Heartbeat | None = None

    # ------------------------------------------------------------------ the connection

    @property
    def connection(self) -> Connection | None:
        """The connection in use, None while there is none."""
        return self._connection

    def servers(self) -> tuple[str, ...]:
        """All addresses that are known, the one in use first."""
        known = (*self._learnt, *self._given)
        return tuple(dict.fromkeys((self._address, *known) if self._connection is not None else known))

    def set_servers(self, addresses: Iterable[str]) -> None:
        """Replaces the known addresses; a connection in use stays."""
        self._given, self._learnt = tuple(dict.fromkeys(addresses)), ()

    async def connected(self, timeout_s: float) -> Connection:
        """The connection, as soon as there is one. Raises NoLeader after ``timeout_s``, with the last problem."""
        with trio.move_on_after(timeout_s):
            while self._connection is None or not self._connection.is_open:
                await self._changed.wait()
            return self._connection
        raise NoLeader(f"no server can be reached: {self._problem}")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a connection to some server until cancelled."""
        task_status.started()
        patience, pause_s = self._patience, self._patience.redial_s
        while True:
            for address in self._round():
                if await self._stay_with(address) >= patience.steady_s:
                    pause_s = patience.redial_s
                    break
            # Many clients lose the same server at the same moment.
            await trio.sleep(self._rng.uniform(0.5, 1.5) * pause_s)
            pause_s = min(pause_s * 2, patience.redial_s_max)

    def _round(self) -> list[str]:
        """Learnt addresses in random order, then the other given ones; the one that was just lost comes last."""
        learnt, given = list(self._learnt), [one for one in self._given if one not in self._learnt]
        self._rng.shuffle(learnt)
        self._rng.shuffle(given)
        return sorted([*learnt, *given], key=lambda address: address == self._address)

    async def _stay_with(self, address: str) -> float:
        """Dials one server and holds the connection; how many seconds it was of use."""
        self._address = address
        try:
            stream, names = await self._dial(address)
        except NomadError as error:
            self._note(address, error.message)
            return 0.0
        connection = Connection(
            stream,
            hello=self._hello,
            handlers=self._handlers,
            dialed=True,
            address=address,
            certificate_names=names,
            admit=self._check,
            timing=self._timing,
        )
        since_s = float("inf")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                try:
                    await connection.ready()
                except NotConnected:
                    await connection.closed()
                else:
                    since_s = trio.current_time()
                    self._use(connection)
                    await self._introduce(connection)
                    await connection.closed()
        finally:
            self._use(None)
        self._note(address, connection.close_reason)
        return trio.current_time() - since_s

    def _check(self, peer: Peer) -> None:
        if peer.role != "server":
            raise Forbidden(f"{peer.name or peer.address} is not a server")
        if self._admit is not None:
            self._admit(peer)

    def _use(self, connection: Connection | None) -> None:
        if connection is self._connection:
            return
        self._connection = connection
        self._changed.set()
        self._changed = trio.Event()
        if connection is not None:
            fields = {"server": connection.peer.name, "address": connection.peer.address}
            log.info("servers.connected", extra={"fields": fields})
        if self._on_change is not None:
            self._on_change(connection)

    async def _introduce(self, connection: Connection) -> None:
        """Lets a server that is new to us hear at once that this node is here: it relays requests to it."""
        if self._last_heartbeat is None:
            return
        try:
            await connection.call(w.HEARTBEAT, self._last_heartbeat, timeout_s=self._patience.heartbeat_attempt_s)
        except NomadError as error:
            log.debug("servers.not_introduced", extra={"fields": {"error": error.message}})

    def _note(self, address: str, problem: str) -> None:
        if problem != self._problem:
            log.warning("servers.lost", extra={"fields": {"address": address, "error": problem}})
        self._problem = problem

    # ------------------------------------------------------------------ asking

    async def _ask(self, word: Word[P, R], params: P, *, attempt_s: float, total_s: float) -> R:
        deadline_s = trio.current_time() + total_s
        leaderless_s: float | None = None
        retry_s = self._patience.retry_s
        while True:
            connection = await self.connected(max(0.0, deadline_s - trio.current_time()))
            left_s = max(_SHORTEST_S, deadline_s - trio.current_time())
            try:
                return await connection.call(word, params, timeout_s=min(attempt_s, left_s))
            except _WORTH_ANOTHER_TRY as error:
                now_s = trio.current_time()
                if not isinstance(error, NoLeader):
                    leaderless_s = None
                elif leaderless_s is None:
                    leaderless_s = now_s
                no_leader = leaderless_s is not None and now_s - leaderless_s >= self._patience.no_leader_s
                if isinstance(error, NoAnswer) or no_leader:
                    leaderless_s, retry_s = None, self._patience.retry_s
                    if len(self.servers()) > 1:
                        connection.close(f"another server is asked: {error.message}")
                pause_s = self._rng.uniform(0.5, 1.5) * retry_s
                retry_s = min(2 * retry_s, self._patience.retry_s_max)
                if now_s + pause_s + _SHORTEST_S >= deadline_s:
                    raise
            await trio.sleep(pause_s)

    async def _ask_soon(self, word: Word[P, R], params: P) -> R:
        return await self._ask(word, params, attempt_s=self._patience.attempt_s, total_s=self._patience.total_s)

    def _learn(self, lease: NodeLease) -> NodeLease:
        if lease.servers:
            self._learnt = lease.servers
        return lease

    # ------------------------------------------------------------------ ServerEndpoint

    async def register_node(self, node: Node) -> NodeLease:
        """Creates or updates the node and starts its lease."""
        return self._learn(await self._ask_soon(w.REGISTER_NODE, node))

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """Renews the lease and sets the node's status."""
        beat = w.Heartbeat(node_id=node_id, secret_id=secret_id, status=status)
        patience = self._patience
        lease = await self._ask(
            w.HEARTBEAT, beat, attempt_s=patience.heartbeat_attempt_s, total_s=patience.heartbeat_total_s
        )
        self._last_heartbeat = beat
        return self._learn(lease)

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        """The node's allocations as soon as something newer than ``after`` happened, or at the end of wait_s."""
        params = w.WaitAssignments(node_id=node_id, secret_id=secret_id, after=after, wait_s=wait_s)
        patience = self._patience
        return await self._ask(
            w.WAIT_ASSIGNMENTS, params, attempt_s=wait_s + patience.attempt_s, total_s=wait_s + patience.total_s
        )

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        """Full allocations with their jobs; ids that are gone are left out."""
        params = w.GetAllocs(node_id=node_id, secret_id=secret_id, alloc_ids=alloc_ids)
        return await self._ask_soon(w.GET_ALLOCS, params)

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        """Reports allocation states; returns the log index once they are durable."""
        return await self._ask_soon(
            w.UPDATE_ALLOCS, w.UpdateAllocs(node_id=node_id, secret_id=secret_id, updates=updates)
        )

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        """Adds to the node's event list."""
        await self._ask_soon(w.EMIT_NODE_EVENTS, w.EmitNodeEvents(node_id=node_id, secret_id=secret_id, events=events))
