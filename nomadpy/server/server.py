"""A server: the state, the log that changes it, and the duties of its leader.

Everything that changes goes ``propose`` → log → ``_apply`` → state; everything that decides reads the state. What has
to be told after an entry was applied (waiting queries, the broker) hangs on ``_published``, nothing in the state calls
back.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice

import msgspec
import trio

from nomadpy.gossip.contract import Gossip
from nomadpy.model.errors import (
    Bug,
    Conflict,
    Forbidden,
    Invalid,
    NoLeader,
    NotFound,
    Refused,
    Unavailable,
)
from nomadpy.model.evaluation import EVAL_BLOCKED, EVAL_PENDING, Evaluation
from nomadpy.model.ids import EDGE_RNG, new_uuid
from nomadpy.model.node import DOWN
from nomadpy.raft.contract import Apply, Leadership, Log
from nomadpy.rpc.contract import ClientEndpoint
from nomadpy.rpc.pace import AT_ONCE, Pace
from nomadpy.server.blocked import BlockedEvals
from nomadpy.server.broker import Broker
from nomadpy.server.cluster import Cluster, SingleServer
from nomadpy.server.config import ServerConfig
from nomadpy.server.deployments import DeploymentWatch
from nomadpy.server.handlers.backups import BackupHandlers
from nomadpy.server.handlers.bulk import BulkHandlers
from nomadpy.server.handlers.deployments import DeploymentHandlers
from nomadpy.server.handlers.fleet import FleetHandlers
from nomadpy.server.handlers.jobs import JobHandlers
from nomadpy.server.handlers.launch import LaunchHandlers
from nomadpy.server.handlers.search import SearchHandlers
from nomadpy.server.heartbeat import Heartbeats
from nomadpy.server.node_service import NodeService
from nomadpy.server.restoring import Restoring
from nomadpy.server.watch import Watch
from nomadpy.state import commands as c
from nomadpy.state.snapshot import freeze, read_at
from nomadpy.state.store import StateStore

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_ALONE_S = 5.0
_ORDERS = "orders:"  # what a node waits for, with its number
_REFUSALS: dict[str, type[Refused]] = {
    "invalid": Invalid,
    "not-found": NotFound,
    "conflict": Conflict,
    "forbidden": Forbidden,
}


class Server:
    """One server. ``make_log`` gets the function that applies entries and returns the log to use."""

    def __init__(
        self,
        config: ServerConfig,
        make_log: Callable[[Apply], Log],
        *,
        rng: random.Random = EDGE_RNG,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.config = config
        self.rng = rng
        self.wall_ns = wall_ns
        self.mono_ns = mono_ns
        self.store = StateStore(tracked_versions=config.job_tracked_versions)
        self.watch = Watch()
        self.broker = Broker()
        self.blocked = BlockedEvals()
        self.deployment_watch = DeploymentWatch()
        self.heartbeats = Heartbeats(config, rng)
        self.orders_index: dict[int, int] = {}  # node number → index of the last change to what it should run
        self.clients: dict[str, ClientEndpoint] = {}
        self.nodes = NodeService(self)
        self.jobs = JobHandlers(self)
        self.bulk = BulkHandlers(self)
        self.launches = LaunchHandlers(self, self.jobs)
        self.fleet = FleetHandlers(self)
        self.deployments = DeploymentHandlers(self)
        self.search = SearchHandlers(self)
        self.backups = BackupHandlers(self)
        self.restoring = Restoring(self)
        self.cluster: Cluster = SingleServer(self)
        self.gossip: Gossip | None = None  # None where this server has no others
        self.known_servers: Callable[[], list[str]] = lambda: [config.rpc_addr]
        self.reach_node: Callable[[str], Awaitable[bool]] | None = None  # asks a node over its connection to a server
        self.gossip_servers: Callable[[], list[str]] = list
        self.log = make_log(self._apply)
        self.leading = False
        self._readable: dict[bytes, c.Command] = {}  # what this server has proposed, so that it is decoded only once
        self._preemption = self.store.scheduler_config.preemption_config
        self._in_office = trio.Event()
        self._untold: dict[str, None] = {}  # what nodes wait for whose orders changed, and that were not woken yet
        self._untold_grew = trio.Event()
        self._replaced = trio.Event()
        self._generation = self.store.generation
        self._broken = trio.Event()
        self._breakage: Exception | None = None
        self.room_appeared_at = 0  # the index of the last entry that made room on a node
        self.started_ns = wall_ns()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Restores the state, reports started, and works until cancelled; whenever this server leads, it does the
        leader's duties. A server without others waits a moment until it leads before it reports started. Raises
        whatever made it impossible to follow the log."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_breakage)
            nursery.start_soon(self._tell_in_turns)
            nursery.start_soon(self.restoring.run)
            await nursery.start(self.log.run)
            nursery.start_soon(self._follow_leadership)
            if self.config.alone:
                # Others may have joined since, and one of them may lead.
                with trio.move_on_after(_ALONE_S):
                    await self._in_office.wait()
            task_status.started()

    async def _watch_for_breakage(self) -> None:
        await self._broken.wait()
        assert self._breakage is not None
        raise self._breakage

    # --- leading ---------------------------------------------------------------------------------------------------

    async def _follow_leadership(self) -> None:
        while True:
            seen = self.log.leadership
            if not seen.leading:
                await self.log.leadership_changed(seen)
                continue
            async with trio.open_nursery() as office:
                office.start_soon(self._lead, seen)
                office.start_soon(self._until_replaced, office.cancel_scope)
                await self.log.leadership_changed(seen)
                office.cancel_scope.cancel()
            self._leave_office(seen)

    async def _lead(self, seen: Leadership) -> None:
        from nomadpy.server.leader import lead

        while True:
            try:
                await self._take_office()
                break
            except Unavailable as error:
                # Either the leadership ends, and this task with it, or the log answers again.
                log.warning("leader.not_established", extra={"fields": {"term": seen.term, "error": error.message}})
                await trio.sleep(_RETRY_S)
        await lead(self)

    def _leave_office(self, seen: Leadership) -> None:
        """What the leader remembered is the next one's to rebuild."""
        self.leading = False
        self._in_office, self._replaced = trio.Event(), trio.Event()
        self.broker, self.blocked = Broker(), BlockedEvals()
        self.deployment_watch = DeploymentWatch()
        self.heartbeats = Heartbeats(self.config, self.rng)
        # Nodes wait for the orders of whoever leads.
        self._publish_all()
        log.info("leader.lost", extra={"fields": {"term": seen.term, "leader": self.log.leadership.leader}})

    async def _until_replaced(self, office: trio.CancelScope) -> None:
        """Ends the office when another state took the place of the one that it was built upon; the next one begins at
        once."""
        await self._replaced.wait()
        office.cancel()

    async def consistent(self) -> None:
        """Returns once the state holds everything that was acknowledged before the call. Raises NoLeader, TimedOut."""
        await self.log.read_index()

    # --- changing the state ----------------------------------------------------------------------------------------

    async def propose(self, command: c.Command, *, timeout_s: float = 10.0) -> c.Outcome:
        """Proposes a command and returns its outcome once it is durable and applied. Raises the refusal as an error;
        NoLeader, TimedOut and OutcomeUnknown as the log does."""
        if not self.log.is_leader:
            raise NoLeader()
        data = c.encode(command)
        try:
            # What cannot be read back would stop every server that applies it, for good: better to refuse it here.
            self._readable[data] = c.decode(data)
        except (msgspec.DecodeError, c.UnknownCommand) as error:
            raise Bug(f"{type(command).__name__} cannot be read back, so it was not proposed: {error}") from error
        try:
            outcome = await self.log.propose(data, timeout_s=timeout_s)
        finally:
            self._readable.pop(data, None)
        if not isinstance(outcome, c.Outcome):
            raise Bug("the log answered with something that is no outcome")
        if not outcome.ok:
            raise _REFUSALS.get(outcome.code, Refused)(outcome.message, status=outcome.status)
        return outcome

    def _apply(self, index: int, data: bytes) -> c.Outcome:
        if self._breakage is not None:
            raise self._breakage
        try:
            outcome = self.store.apply(index, self._readable.get(data) or c.decode(data))
        except Exception as error:
            # This server's state would no longer be that of the others. It must stop instead of guessing.
            self._breakage = error
            self._broken.set()
            raise
        self._published()
        return outcome

    # --- the state as a whole --------------------------------------------------------------------------------------

    def freeze_state(self) -> Callable[[], bytes]:
        """Takes the state as it is now; what comes back encodes it in another thread (``raftlog.Snapshots.freeze``).
        Raises what made it impossible to follow the log: the state is not that of the others any more."""
        if self._breakage is not None:
            raise self._breakage
        return freeze(self.store)

    def restore_state(self, index: int, data: bytes) -> None:
        """Takes over the state in a snapshot of the log (``raftlog.Snapshots.restore``). Raises UnreadableSnapshot and
        NewerSnapshot, and then the state is as it was."""
        self.prepare_state(index, data)()

    def prepare_state(self, index: int, data: bytes) -> Callable[[], None]:
        """The same in two steps (``raftlog.Snapshots.prepare``): reads the state, in any thread; what comes back takes
        it over."""
        fresh = read_at(index, data, tracked_versions=self.store.jobs.tracked_versions)

        def swap() -> None:
            self.store.adopt(fresh)
            self._state_replaced()

        return swap

    def _state_replaced(self) -> None:
        self._generation = self.store.generation
        self.orders_index = dict.fromkeys(range(self.store.nodes.size), self.store.index)
        if self.leading:
            # What is decided on the former state must not go on.
            self.leading = False
            self._replaced.set()
        self._publish_all()
        log.info("state.replaced", extra={"fields": {"index": self.store.index}})

    def _published(self) -> None:
        store = self.store
        self.restoring.note()
        if store.generation != self._generation:
            self._state_replaced()
            return
        if self.leading:
            self._take_in([store.evals[eval_id] for eval_id in store.changed_evals if eval_id in store.evals])
            self._wake(self._unblock(self._nodes_with_more_room()))
            if self.deployment_watch.note(store):
                self.watch.publish(("due deployments",))
        for number in store.allocs.dirty_nodes:
            self.orders_index[number] = store.index
        self._tell_nodes([f"{_ORDERS}{number}" for number in sorted(store.allocs.dirty_nodes)])
        self.watch.publish(store.touched)

    def _publish_all(self) -> None:
        """Everything may have changed."""
        waited_for = self.watch.waited_for()
        self.watch.publish(key for key in waited_for if not key.startswith(_ORDERS))
        self._tell_nodes([key for key in waited_for if key.startswith(_ORDERS)])

    def _tell_nodes(self, keys: list[str]) -> None:
        """Wakes nodes whose orders changed: few at once, many in turns, for the answers to thousands of them would hold
        up everybody else."""
        if len(keys) <= AT_ONCE and not self._untold:
            self.watch.publish(keys)
        else:
            self._untold.update(dict.fromkeys(keys))
            self._untold_grew.set()

    async def _tell_in_turns(self) -> None:
        while True:
            await self._untold_grew.wait()
            pace = Pace()
            while self._untold:
                some = list(islice(self._untold, pace.at_once))
                for key in some:
                    del self._untold[key]
                self.watch.publish(some)
                await pace.rest()
            self._untold_grew = trio.Event()

    def _nodes_with_more_room(self) -> Iterable[int]:
        """All of them when other jobs may make room than before."""
        grown, config = self.store.grown_nodes(), self.store.scheduler_config
        if config.preemption_config == self._preemption:
            return grown
        self._preemption = config.preemption_config
        return range(self.store.nodes.size)

    def _unblock(self, numbers: Iterable[int]) -> list[Evaluation]:
        nodes = [self.store.nodes.nodes[number] for number in numbers]
        if not nodes:
            return []
        self.room_appeared_at = self.store.index
        classes = {node.computed_class: None for node in nodes if node is not None and node.is_ready()}
        return self.blocked.unblock(classes, self.store.index)

    def _take_in(self, evaluations: list[Evaluation]) -> None:
        now_ns = self.wall_ns()
        for evaluation in evaluations:
            if evaluation.status == EVAL_PENDING:
                self.broker.enqueue(evaluation, now_ns)
            elif evaluation.status == EVAL_BLOCKED:
                helped = self.blocked.block(evaluation)
                if helped is not None:
                    self.broker.enqueue(helped, now_ns)
            else:
                self.blocked.forget(evaluation.namespace, evaluation.job_id, evaluation.id)
                self.broker.forget(evaluation.id)
        if evaluations:
            self.watch.publish(("broker",))

    def _wake(self, evaluations: list[Evaluation]) -> None:
        """Lets blocked evaluations be tried again."""
        now_ns = self.wall_ns()
        for evaluation in evaluations:
            self.broker.enqueue(evaluation, now_ns)
        if evaluations:
            self.watch.publish(("broker",))

    async def _take_office(self) -> None:
        """What a new leader does before anything else: it rebuilds its machines from the state."""
        if not self.store.cluster_id:
            command = c.InitCluster(
                now_ns=self.wall_ns(),
                cluster_id=new_uuid(self.rng),
                id_key=f"{self.rng.getrandbits(128):032x}",
                scheduler_config=self.config.default_scheduler_config,
            )
            await self.propose(command)
        self.leading = True
        self.deployment_watch.begin(self.store)
        alive = [node.id for node in self.store.nodes if node.status != DOWN]
        self.heartbeats.expect(alive, self.mono_ns())
        # Blocked ones are tried once: which of them room had appeared for was known to the former leader only.
        unfinished = [e for e in self.store.evals.values() if not e.terminal()]
        self._take_in([e for e in unfinished if e.status != EVAL_BLOCKED])
        self._wake([e for e in unfinished if e.status == EVAL_BLOCKED])
        self._in_office.set()
        log.info("leader.established", extra={"fields": {"index": self.store.index, "nodes": len(alive)}})

    # --- small services for the handlers ---------------------------------------------------------------------------

    def new_eval(self, *, namespace: str, job_id: str, type: str, priority: int, trigger: str) -> Evaluation:
        """A pending evaluation with a fresh id."""
        return Evaluation(
            id=new_uuid(self.rng),
            namespace=namespace,
            job_id=job_id,
            type=type,
            priority=priority,
            triggered_by=trigger,
            status=EVAL_PENDING,
        )

    def client_of(self, node_id: str) -> ClientEndpoint:
        """The connection to a node. Raises NotFound when there is none."""
        client = self.clients.get(node_id)
        if client is None:
            raise NotFound("No path to node")
        return client
