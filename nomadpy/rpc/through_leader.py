"""What a server answers its clients: the leader's word, wherever that is.

When the leader goes, its successor is asked in the clients' place, and while none is known their questions are held for
a moment: clients that had to try again themselves, every third of a second and now and then at another server, would
keep all servers busy just when they elect. Of many questions a few go on at a time.

Facts and reports are passed on at once or not at all. Whoever sent them may have given up unnoticed and have told
another server something newer, which must not be followed by the older.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

import trio

from nomadpy.model.alloc import Allocation, AllocUpdate
from nomadpy.model.errors import NoLeader, OutcomeUnknown
from nomadpy.model.node import Node, NodeEvent
from nomadpy.rpc import words as w
from nomadpy.rpc.contract import Assignments, NodeLease, ServerEndpoint
from nomadpy.rpc.handlers import NotConnected, Word
from nomadpy.rpc.pace import do_in_turns

P = TypeVar("P")
R = TypeVar("R")

# How long a question waits for somebody who leads. Less than a client waits for the answer to a heartbeat, so that it
# hears why nothing came of it.
HOLD_S = 4.0
# On top of what the request itself may wait.
_ANSWER_S = 20.0
# About how long until the same leader is asked again, at first and at most.
_AGAIN_S, _AGAIN_S_MAX = 0.2, 1.0


class Callers(Protocol):
    """Whoever asks other servers: ``rpc.peers.Peers``."""

    async def call(self, server_id: str, word: Word[Any, Any], params: Any, *, timeout_s: float) -> Any:
        """Asks one server."""


class _Question:
    """Something that a client asked. ``here`` and ``params`` get how long the answer may still be waited for."""

    def __init__(
        self,
        word: Word[Any, Any],
        here: Callable[[float], Awaitable[Any]],
        params: Callable[[float], Any],
        wait_s: float = 0.0,
    ) -> None:
        self.word, self._here, self._params = word, here, params
        self._until_s = trio.current_time() + wait_s
        self._lost_s: float | None = None
        self._again_s = _AGAIN_S

    @property
    def left_s(self) -> float:
        return max(0.0, self._until_s - trio.current_time())

    def here(self) -> Awaitable[Any]:
        return self._here(self.left_s)

    def params(self, left_s: float) -> Any:
        return self._params(left_s)

    def held_s(self, began_s: float) -> float:
        """For how many seconds the question may still be held, after an attempt that began then came to nothing."""
        now_s = trio.current_time()
        if self._lost_s is None or now_s - began_s > HOLD_S:
            self._lost_s, self._again_s = now_s, _AGAIN_S
        return self._lost_s + HOLD_S - now_s

    def next_again_s(self) -> float:
        pause_s, self._again_s = self._again_s, min(2 * self._again_s, _AGAIN_S_MAX)
        return pause_s


class ThroughLeader:
    """Implements ``ServerEndpoint`` on any server while ``run`` runs: the leader's calls are answered by ``local``, the
    others are passed on to it. ``leader()`` is the leader's server id, "" when none is known; ``leader_changed()``
    returns once it may be another one than at the call."""

    def __init__(
        self,
        local: ServerEndpoint,
        *,
        server_id: str,
        leader: Callable[[], str],
        leader_changed: Callable[[], Awaitable[object]],
        peers: Callers,
        rng: random.Random,
    ) -> None:
        self._local, self._server_id, self._peers, self._rng = local, server_id, peers, rng
        self._leader, self._leader_changed = leader, leader_changed
        self._passed_on: dict[trio.CancelScope, str] = {}  # calls that wait for the answer of this server
        self._held: dict[trio.Event, None] = {}

    async def run(self) -> None:
        """Follows the leadership until cancelled."""
        while True:
            leader = self._leader()
            stale = [scope.cancel for scope, asked in self._passed_on.items() if asked != leader]
            await self._in_turns(stale, leader)
            if leader:
                await self._in_turns([event.set for event in self._held], leader)
            if self._leader() == leader:
                await self._leader_changed()

    async def _in_turns(self, actions: Sequence[Callable[[], None]], leader: str) -> None:
        """All of it, as long as this one leads."""
        await do_in_turns(actions, while_true=lambda: self._leader() == leader)

    async def _ask(self, question: _Question) -> Any:
        while True:
            leader, began_s = self._leader(), trio.current_time()
            try:
                if leader == self._server_id:
                    return await question.here()
                if not leader:
                    raise NoLeader()
                with trio.CancelScope() as scope:
                    wait_s = question.left_s
                    return await self._pass_on(scope, leader, question.word, question.params(wait_s), wait_s)
            except NotConnected as error:
                if question.held_s(began_s) <= 0:
                    raise NoLeader(f"No path to the leader: {error.message}") from error
            except (NoLeader, OutcomeUnknown):
                if question.held_s(began_s) <= 0:
                    raise
            await self._hold(question, leader, question.held_s(began_s))

    async def _tell(self, word: Word[P, R], params: P, here: Callable[[], Awaitable[R]]) -> R:
        """Once, whatever comes of it."""
        leader = self._leader()
        if leader == self._server_id:
            return await here()
        if not leader:
            raise NoLeader()
        try:
            with trio.CancelScope() as scope:
                return await self._pass_on(scope, leader, word, params)
        except NotConnected as error:
            raise NoLeader(f"No path to the leader: {error.message}") from error
        raise OutcomeUnknown("another server leads than was told")

    async def _pass_on(
        self, scope: trio.CancelScope, leader: str, word: Word[P, R], params: P, wait_s: float = 0.0
    ) -> R:
        """``scope`` is cancelled when another server leads."""
        self._passed_on[scope] = leader
        try:
            found: R = await self._peers.call(leader, word, params, timeout_s=wait_s + _ANSWER_S)
            return found
        finally:
            del self._passed_on[scope]

    async def _hold(self, question: _Question, asked: str, at_most_s: float) -> None:
        """Until somebody else leads than was asked, or the same one may be asked again."""
        leader = self._leader()
        if leader and leader != asked:
            return
        pause_s = self._rng.uniform(0.5, 1.5) * question.next_again_s() if leader else at_most_s
        event = trio.Event()
        self._held[event] = None
        try:
            with trio.move_on_after(max(0.0, min(pause_s, at_most_s))):
                await event.wait()
        finally:
            del self._held[event]

    # ------------------------------------------------------------------ ServerEndpoint

    async def register_node(self, node: Node) -> NodeLease:
        """Creates or updates the node and starts its lease."""
        return await self._tell(w.REGISTER_NODE, node, lambda: self._local.register_node(node))

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """Renews the lease and sets the node's status."""
        local, params = self._local, w.Heartbeat(node_id=node_id, secret_id=secret_id, status=status)
        found: NodeLease = await self._ask(
            _Question(w.HEARTBEAT, lambda _: local.heartbeat(node_id, secret_id, status), lambda _: params)
        )
        return found

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        """The node's allocations as soon as something newer than ``after`` happened, or at the end of wait_s."""
        local = self._local

        def params(left_s: float) -> w.WaitAssignments:
            return w.WaitAssignments(node_id=node_id, secret_id=secret_id, after=after, wait_s=left_s)

        def here(left_s: float) -> Awaitable[Assignments]:
            return local.wait_assignments(node_id, secret_id, after, left_s)

        found: Assignments = await self._ask(_Question(w.WAIT_ASSIGNMENTS, here, params, wait_s))
        return found

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        """Full allocations with their jobs; ids that are gone are left out."""
        local, params = self._local, w.GetAllocs(node_id=node_id, secret_id=secret_id, alloc_ids=alloc_ids)
        found: list[Allocation] = await self._ask(
            _Question(w.GET_ALLOCS, lambda _: local.get_allocs(node_id, secret_id, alloc_ids), lambda _: params)
        )
        return found

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        """Reports allocation states; returns the log index once they are durable."""
        params = w.UpdateAllocs(node_id=node_id, secret_id=secret_id, updates=updates)
        return await self._tell(w.UPDATE_ALLOCS, params, lambda: self._local.update_allocs(node_id, secret_id, updates))

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        """Adds to the node's event list."""
        params = w.EmitNodeEvents(node_id=node_id, secret_id=secret_id, events=events)
        await self._tell(w.EMIT_NODE_EVENTS, params, lambda: self._local.emit_node_events(node_id, secret_id, events))
