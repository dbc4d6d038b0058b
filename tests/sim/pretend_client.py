"""A simulated client: the real registration, follower of assignments, reporter and reconciliation of ``nomadpy.client``
around a pretend machine, on which tasks run, fail, end and outlive their agent.
"""

from __future__ import annotations

import random
import zlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pretend_trio as trio
from cluster_builders import make_node
from pretend_gossip import PretendGossip
from pretend_world import Host, World
from virtual_loop import Process

from nomadpy.client.assignments import AssignmentFollower
from nomadpy.client.registration import Registration
from nomadpy.client.updates import UpdateReporter
from nomadpy.gossip.contract import ALIVE, SUSPECT
from nomadpy.model.alloc import CLIENT_TERMINAL, Allocation, AllocDeploymentStatus, AllocUpdate, TaskState
from nomadpy.model.errors import NoLeader, OutcomeUnknown, TimedOut
from nomadpy.rpc.contract import NodeLease
from nomadpy.rpc.handlers import NoAnswer, NotConnected

_RETRY_S = 0.3
_WORTH_ANOTHER_TRY = (NoLeader, NotConnected, OutcomeUnknown, TimedOut)


class Follower(AssignmentFollower):
    """The real one, watched."""

    client: ClientHost

    async def _follow(self, answer: Any) -> None:
        self.client.checker.follows(self.client, answer.index)
        await super()._follow(answer)


class Servers:
    """``ServerEndpoint`` over the network, with the patience of ``rpc.remote``: stays with one server while it answers,
    asks another when it does not."""

    def __init__(self, host: ClientHost, process: Process) -> None:
        self._host, self._process, self._world = host, process, host.world
        self._server = ""
        self._connection: object = object()
        self._no_leader = 0

    async def register_node(self, node: Any) -> NodeLease:
        """See ServerEndpoint."""
        lease: NodeLease = await self._ask("register_node", node)
        return lease

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        """See ServerEndpoint."""
        lease: NodeLease = await self._ask("heartbeat", node_id, secret_id, status, urgent=True)
        self._host.join_gossip()
        return lease

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Any:
        """See ServerEndpoint."""
        wait_s = min(wait_s, self._world.profile.poll_s)
        return await self._ask("wait_assignments", node_id, secret_id, after, wait_s, held_s=wait_s)

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> Any:
        """See ServerEndpoint."""
        return await self._ask("get_allocs", node_id, secret_id, alloc_ids)

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> Any:
        """See ServerEndpoint."""
        return await self._ask("update_allocs", node_id, secret_id, updates)

    def hang_up(self) -> None:
        """The connection ends."""
        server, connection, node_id = self._server, self._connection, self._host.node_id
        self._server, self._connection = "", object()
        if server:
            world, me = self._world, self._host.name
            world.loop.later(
                world._delay(), lambda: world._arrive(me, server, lambda h: h.connection_ended(node_id, connection))
            )

    async def _ask(self, method: str, *args: Any, held_s: float = 0.0, urgent: bool = False) -> Any:
        patience_s = self._world.profile.patience_s
        attempt_s, total_s = (min(6.0, patience_s), 15.0) if urgent else (patience_s + held_s, 2 * patience_s + held_s)
        deadline = trio.current_time() + total_s
        while True:
            if not self._server:
                self._server = self._host.rng.choice(self._host.servers)
            server, connection, node_id = self._server, self._connection, self._host.node_id
            left = deadline - trio.current_time()
            try:
                answer = await self._world.call(
                    self._process,
                    server,
                    lambda host, c=connection, n=node_id: host.serve_node(n, c, method, *args),
                    min(attempt_s, left),
                )
                self._no_leader = 0
                return answer
            except _WORTH_ANOTHER_TRY as error:
                self._no_leader += 1
                leave = isinstance(error, NotConnected | NoAnswer) or self._no_leader >= 3
                if leave and self._server == server:
                    self._no_leader = 0
                    self.hang_up()
                if trio.current_time() + _RETRY_S >= deadline:
                    raise
            await trio.sleep(_RETRY_S * self._host.rng.uniform(0.5, 1.5))


class Ledger:
    """What a client must not forget; durable once written."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.allocs: dict[str, Allocation] = {}
        self.acknowledged: set[str] = set()

    def fact(self, key: str, _kind: type[Any]) -> Any:
        """Something remembered by name."""
        return self.facts.get(key)

    async def put_fact(self, key: str, value: Any) -> None:
        """Remembers it."""
        await trio.sleep(0.001)
        self.facts[key] = value


class Run(msgspec.Struct):
    """An allocation on the machine: its task, and what became of it. It outlives the agent."""

    alloc: Allocation
    status: str = "pending"
    started_at: float = 0.0
    ended_at: float = 0.0
    alive: bool = False  # whether the task's process runs
    ends_at: float = float("inf")
    fails: bool = False


class ClientHost(Host):
    """The machine of a client."""

    def __init__(self, world: World, name: str, number: int, servers: list[str], checker: Any) -> None:
        super().__init__(world, name)
        self.servers, self.checker = servers, checker
        node = make_node(number, cpu=4000, memory_mb=4096)
        self.node = node.replace(name=name)
        self.node_id = node.id
        self.ledger = Ledger()
        self.runs: dict[str, Run] = {}
        self.open_calls: dict[Any, None] = {}
        self.gossip: PretendGossip
        # When the last thing happened that may excuse a verdict against it; infinite while it goes on.
        self.disturbed_at = float("-inf")
        self.booted = False
        self.obeyed = 0

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts the agent; tasks that run are found again."""
        world = self.world
        world.note(self.name, "boots")
        self.booted = True
        self.process = process = Process(world.loop, self.name, boot_s=self.boot_s)
        process.on_crash = lambda error: world.crashed(self, error)
        world.loop.run_in(process, lambda: self._begin(process))

    def _begin(self, process: Process) -> None:
        rng = random.Random(self.rng.random())
        tags = {"role": "client", "region": "global", "dc": "dc1", "id": self.node_id, "name": self.name}
        self.gossip = PretendGossip(self, process, self.node_id, tags, random.Random(rng.random()))
        self.remote = Servers(self, process)
        ports: Any = SimpleNamespace(node=self.node, rng=rng, ledger=self.ledger, wall_ns=self.wall_ns)
        self.reporter = UpdateReporter(
            collect=self._report_of, store=self._store, send=self._send, delivered=self._delivered, rng=rng
        )
        self.follower = Follower(self.remote, ports, self, on_followed=lambda: None)  # type: ignore[arg-type]
        self.follower.client = self
        self.registration = Registration(
            self.remote,  # type: ignore[arg-type]
            ports,
            on_lease=self.follower.hear_lease,
            on_silence=lambda _: None,
            on_return=self._report_all,
        )
        for run in self.runs.values():
            self._resume(run)
        self.follower.resume(self.runs)
        process.start(self.registration.run())
        process.start(self.reporter.run())
        process.start(self._follow())

    async def _follow(self) -> None:
        await self.registration.registered.wait()
        await self.follower.run()

    def kill(self, *, machine: bool) -> None:
        """The agent is gone; with the ``machine`` its tasks are, too."""
        process = self.process
        if process is None:
            return
        self.process = None
        process.kill()
        self.world.totals.kills += 1
        self.world.note(self.name, "loses power" if machine else "is killed")
        if machine:
            for run in self.runs.values():
                run.alive = False
        else:
            # The kernel closes the connections of a dead process.
            self.world.loop.run_in(process, self.remote.hang_up)

    async def answer_ping(self) -> bool:
        """A server asks whether the agent is there."""
        await trio.checkpoint()
        return True

    def join_gossip(self) -> None:
        """Joins where the servers are, as long as none is known."""
        if not any(m.is_server and m.status in (ALIVE, SUSPECT) for m in self.gossip.members()):
            self.gossip.call(self.world.hosts[self.rng.choice(self.servers)].address, join=True)

    # --- what AssignmentFollower wants -------------------------------------------------------------------------------

    async def follow_allocs(self, allocs: list[Allocation]) -> None:
        """Stores, then starts and stops; see ``client.Client.follow_allocs``."""
        await trio.sleep(0.002)
        for alloc in allocs:
            run = self.runs.get(alloc.id)
            self.checker.obeys(self, alloc, run.alloc if run is not None else None)
            if run is None:
                if not alloc.client_terminal():
                    self.runs[alloc.id] = Run(alloc=alloc)
                    self._resume(self.runs[alloc.id])
            elif alloc.alloc_modify_index >= run.alloc.alloc_modify_index:
                run.alloc = alloc
                self._resume(run)

    def remove_alloc(self, alloc_id: str) -> None:
        """The servers do not know it any more."""
        run = self.runs.get(alloc_id)
        if run is not None:
            self._end(run, "complete")
            del self.runs[alloc_id]
            self.reporter.forget(alloc_id)

    # --- the machine -------------------------------------------------------------------------------------------------

    def _resume(self, run: Run) -> None:
        """Goes on with an allocation: after an order, or after the agent started."""
        process = self.process
        assert process is not None
        if run.status in CLIENT_TERMINAL:
            if run.alloc.id not in self.ledger.acknowledged:
                self.reporter.mark(run.alloc.id)
        elif run.alloc.server_terminal():
            process.start(self._after(self.rng.uniform(0.05, 1.0), run, self._stop))
        elif not run.alive:
            process.start(self._after(self.rng.uniform(0.05, 0.5), run, self._start))
        else:
            self.reporter.mark(run.alloc.id)
            self._watch(run)

    async def _after(self, delay_s: float, run: Run, action: Any) -> None:
        await trio.sleep(delay_s)
        if self.runs.get(run.alloc.id) is run:
            action(run)

    def _start(self, run: Run) -> None:
        if run.alive or run.status in CLIENT_TERMINAL or run.alloc.server_terminal():
            return
        world = self.world
        world.totals.tasks_started += 1
        run.alive, run.status, run.started_at = True, "running", world.loop.now
        job = run.alloc.job
        assert job is not None
        if job.type == "batch":
            run.ends_at = world.loop.now + self.rng.uniform(1, 10)
        elif world.trouble and self.rng.random() < 0.04:
            run.ends_at, run.fails = world.loop.now + self.rng.uniform(0, 5), True
        world.note(self.name, f"runs {run.alloc.name} {run.alloc.id[:8]}")
        self.reporter.mark(run.alloc.id)
        self._watch(run)

    def _watch(self, run: Run) -> None:
        if run.ends_at != float("inf") and self.process is not None:
            self.process.start(self._after(max(0.0, run.ends_at - self.world.loop.now), run, self._ended))

    def _ended(self, run: Run) -> None:
        if run.alive:
            self.world.totals.failures += run.fails
            self._end(run, "failed" if run.fails else "complete")
            self.reporter.mark(run.alloc.id)

    def _stop(self, run: Run) -> None:
        if run.status not in CLIENT_TERMINAL:
            self.world.totals.tasks_stopped += 1
            self._end(run, "complete")
            self.reporter.mark(run.alloc.id)

    def _end(self, run: Run, status: str) -> None:
        run.alive, run.status, run.ended_at = False, status, self.world.loop.now
        self.world.note(self.name, f"{status}: {run.alloc.name} {run.alloc.id[:8]}")

    # --- reports -----------------------------------------------------------------------------------------------------

    def _report_of(self, alloc_id: str) -> AllocUpdate | None:
        run = self.runs.get(alloc_id)
        if run is None:
            return None
        over, now_ns = run.status in CLIENT_TERMINAL, self.wall_ns()
        words = {"pending": "pending", "running": "running"}
        task = TaskState(
            state=words.get(run.status, "dead"), failed=run.status == "failed", finished_at_ns=now_ns if over else 0
        )
        health = None
        # One that will fail does so before it has run for long enough to count as healthy.
        if run.alloc.deployment_id and run.status == ("failed" if run.fails else "running"):
            # The health is looked at anew for every deployment.
            since = zlib.crc32(run.alloc.deployment_id.encode())
            health = AllocDeploymentStatus(healthy=run.status == "running", timestamp_ns=since)
        return AllocUpdate(
            id=alloc_id,
            client_status=run.status,
            task_states={"web": task},
            deployment_status=health,
            modify_time_ns=now_ns,
        )

    async def _store(self, _updates: list[AllocUpdate]) -> None:
        await trio.sleep(0.001)

    async def _send(self, updates: list[AllocUpdate]) -> int:
        index: int = await self.remote.update_allocs(self.node_id, self.node.secret_id, updates)
        return index

    async def _delivered(self, updates: list[AllocUpdate]) -> None:
        self.ledger.acknowledged.update(u.id for u in updates if u.client_status in CLIENT_TERMINAL)

    def _report_all(self) -> None:
        self.reporter.report_again(run for run in self.runs if run not in self.ledger.acknowledged)
