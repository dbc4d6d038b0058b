"""A server in memory with the real scheduler, a clock that jumps, and nodes that do as they are told."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from cluster_builders import EPOCH_NS, SECRET, make_node, node_id

from nomadpy.model.alloc import Allocation, AllocDeploymentStatus, AllocUpdate, TaskState
from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import NotFound
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job
from nomadpy.model.time import SECOND
from nomadpy.raft.contract import Apply
from nomadpy.raft.memory import MemoryLog
from nomadpy.server.config import ServerConfig
from nomadpy.server.messages import JobRegisterRequest, JobRegisterResponse
from nomadpy.server.server import Server


def wall_ns() -> int:
    """Unix time that moves with trio's clock."""
    return EPOCH_NS + mono_ns()


def mono_ns() -> int:
    return int(trio.current_time() * SECOND)


def raw(job: Job) -> dict[str, Any]:
    """A job as it arrives over HTTP."""
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(job))
    kept = ("ID", "Name", "Type", "Priority", "Datacenters", "NodePool", "TaskGroups", "Namespace", "Periodic", "Meta")
    kept += ("ParameterizedJob", "AllAtOnce", "Payload", "Dispatched")
    return {key: value for key, value in made.items() if key in kept and value is not None}


class Fleet:
    """Nodes that poll for their orders, start what they should run and stop what they should not. ``behave`` says what
    the first report of an allocation is; "" keeps it pending."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.behave: Callable[[Allocation], str] = lambda alloc: "running"
        self.silent: set[int] = set()
        self.slow_to_stop = False

    async def run(self, number: int, *, task_status: trio.TaskStatus[None], **facts: Any) -> None:
        """Serves until the node is purged."""
        try:
            await self._serve(number, task_status=task_status, **facts)
        except* NotFound:
            pass

    async def _serve(self, number: int, *, task_status: trio.TaskStatus[None], **facts: Any) -> None:
        nodes = self._server.nodes
        await nodes.register_node(make_node(number, **facts))
        lease = await nodes.heartbeat(node_id(number), SECRET, "ready")
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, number, lease.heartbeat_ttl_s)
            nursery.start_soon(self._obey, number)

    async def _beat(self, number: int, ttl_s: float) -> None:
        while True:
            await trio.sleep(ttl_s)
            if number not in self.silent:
                ttl_s = (await self._server.nodes.heartbeat(node_id(number), SECRET, "ready")).heartbeat_ttl_s

    async def _obey(self, number: int) -> None:
        nodes, after, seen = self._server.nodes, 0, dict[str, int]()
        while True:
            orders = await nodes.wait_assignments(node_id(number), SECRET, after, 300)
            after = orders.index
            news = [alloc_id for alloc_id, index in orders.allocs.items() if seen.get(alloc_id) != index]
            seen = orders.allocs
            updates = []
            for alloc in await nodes.get_allocs(node_id(number), SECRET, news):
                status = self._answer(alloc)
                if status and status != alloc.client_status:
                    updates.append(update_of(alloc, status))
            if updates and number not in self.silent:
                await trio.sleep(0.2)
                await nodes.update_allocs(node_id(number), SECRET, updates)

    def _answer(self, alloc: Allocation) -> str:
        if alloc.client_terminal():
            return ""
        if alloc.server_terminal():
            return "" if self.slow_to_stop else "complete"
        return self.behave(alloc) if alloc.client_status == "pending" else ""

    async def report(self, alloc: Allocation, status: str) -> None:
        await self._server.nodes.update_allocs(alloc.node_id, SECRET, [update_of(alloc, status)])


def update_of(alloc: Allocation, status: str) -> AllocUpdate:
    over = status in ("complete", "failed")
    state = TaskState(
        state="dead" if over else "running", failed=status == "failed", finished_at_ns=wall_ns() if over else 0
    )
    health = None
    if alloc.deployment_id and status in ("running", "failed"):
        health = AllocDeploymentStatus(healthy=status == "running", timestamp_ns=wall_ns())
    return AllocUpdate(
        id=alloc.id,
        client_status=status,
        task_states={"web": state},
        deployment_status=health,
        modify_time_ns=wall_ns(),
    )


class KeptLog(MemoryLog):
    """A log that a server finds again. It writes in no thread: a clock that jumps would not wait for one."""

    def __init__(self, directory: Path, apply: Apply) -> None:
        super().__init__(apply)
        self._path = directory / "entries"

    @property
    def durable(self) -> bool:
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        kept = self._path.read_bytes() if self._path.exists() else b""
        at = 0
        while at < len(kept):
            size = int.from_bytes(kept[at : at + 4], "little")
            await super().propose(kept[at + 4 : at + 4 + size])
            at += 4 + size
        await super().run(task_status=task_status)

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        with self._path.open("ab") as file:
            file.write(len(data).to_bytes(4, "little") + data)
        return await super().propose(data, timeout_s=timeout_s)


class World:
    """A running server with its fleet."""

    def __init__(self, server: Server, nursery: trio.Nursery) -> None:
        self.server = server
        self.fleet = Fleet(server)
        self._nursery = nursery

    async def add_node(self, number: int, **facts: Any) -> None:
        async def run(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await self.fleet.run(number, task_status=task_status, **facts)

        await self._nursery.start(run)

    async def register(self, job: Job, **request: Any) -> JobRegisterResponse:
        answer: JobRegisterResponse = await self.server.jobs.register(
            ANYONE, JobRegisterRequest(job=raw(job), **request)
        )
        return answer

    async def until(self, condition: Callable[[], bool], within_s: float = 600.0) -> None:
        """Waits in the server's own time for something to become true."""
        with trio.move_on_after(within_s):
            while not condition():  # noqa: ASYNC110 - a condition may look at anything, which sets no event
                await trio.sleep(0.1)
        assert condition(), "it did not come true in time"

    def allocs(self, job_id: str = "job") -> list[Allocation]:
        return self.server.store.allocs_by_job("default", job_id)

    def live(self, job_id: str = "job") -> list[Allocation]:
        return [alloc for alloc in self.allocs(job_id) if not alloc.terminal()]

    def running(self, job_id: str = "job") -> list[Allocation]:
        return [alloc for alloc in self.live(job_id) if alloc.client_status == "running"]

    def evals(self, job_id: str = "job", *statuses: str) -> list[Evaluation]:
        found = self.server.store.job_evals("default", job_id)
        return [evaluation for evaluation in found if not statuses or evaluation.status in statuses]

    async def settled(self) -> None:
        """Waits until every evaluation that is due was worked on, and what followed from it."""
        broker, evals = self.server.broker, self.server.store.evals

        def at_rest() -> bool:
            due = any(e.status == "pending" and e.wait_until_ns <= wall_ns() for e in evals.values())
            return not due and broker.statistics().ready + broker.statistics().unacked == 0

        await trio.sleep(2)
        await self.until(at_rest)


@asynccontextmanager
async def running(directory: Path | None = None, **config: Any) -> AsyncIterator[World]:
    """A server that leads; what it did is found again in ``directory``, if one is given."""
    server = Server(
        ServerConfig(**config),
        (lambda apply: KeptLog(directory, apply)) if directory is not None else MemoryLog,
        rng=random.Random(1),
        wall_ns=wall_ns,
        mono_ns=mono_ns,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield World(server, nursery)
        nursery.cancel_scope.cancel()
