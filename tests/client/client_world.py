"""A pretend cluster around one real client: servers in memory, a scripted driver, builders with dull defaults."""

from __future__ import annotations

import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from nomadpy.client.client import Client
from nomadpy.client.config import ClientConfig
from nomadpy.client.identity import NodeIdentity
from nomadpy.drivers.contract import Capabilities, ExitResult, Fingerprint, TaskConfig, TaskHandle
from nomadpy.model.alloc import RUN, STOP, Allocation, AllocUpdate, TaskResourceUsage
from nomadpy.model.errors import NoLeader, NotFound, Temporary
from nomadpy.model.job import Job, RestartPolicy, Task, TaskGroup
from nomadpy.model.node import Node, NodeEvent
from nomadpy.model.resources import (
    AllocatedCpu,
    AllocatedMemory,
    AllocatedResources,
    AllocatedSharedResources,
    AllocatedTaskResources,
    TaskLifecycle,
)
from nomadpy.model.time import SECOND
from nomadpy.rpc.contract import Assignments, NodeLease

EPOCH_NS = 1_700_000_000 * SECOND
IDENTITY = NodeIdentity("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")


def pretend_wall_ns() -> int:
    """Unix time that moves with trio's clock."""
    return EPOCH_NS + int(trio.current_time() * SECOND)


class FakeServers:
    """A ``ServerEndpoint`` in memory. ``down`` makes every call fail with NoLeader."""

    def __init__(self) -> None:
        self.index = 10
        self.allocs: dict[str, Allocation] = {}
        self.nodes: dict[str, Node] = {}
        self.beats: list[str] = []
        self.reports: list[AllocUpdate] = []
        self.latest: dict[str, AllocUpdate] = {}
        self.n_update_calls = 0
        self.n_updates_under_way = 0
        self.max_updates_under_way = 0
        self.update_delay_s = 0.0
        self.events: list[NodeEvent] = []
        self.down = False
        self.ttl_s = 10.0
        self.admits = ""  # the status that a node gets whatever it says
        self._news = trio.Event()
        self.changed = trio.Event()

    def put(self, alloc: Allocation) -> None:
        self.index += 1
        self.allocs[alloc.id] = alloc.replace(modify_index=self.index, alloc_modify_index=self.index)
        self._wake()

    def stop(self, alloc_id: str, **changes: Any) -> None:
        self.put(self.allocs[alloc_id].replace(**{"desired_status": STOP, **changes}))

    def forget(self, alloc_id: str) -> None:
        self.index += 1
        del self.allocs[alloc_id]
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    def _check(self) -> None:
        if self.down:
            raise NoLeader()

    async def register_node(self, node: Node) -> NodeLease:
        self._check()
        self.nodes[node.id] = node
        return NodeLease(heartbeat_ttl_s=self.ttl_s, index=self.index, status="initializing")

    async def heartbeat(self, node_id: str, secret_id: str, status: str) -> NodeLease:
        self._check()
        if node_id not in self.nodes:
            raise NotFound("node not found")
        self.beats.append(status)
        return NodeLease(heartbeat_ttl_s=self.ttl_s, index=self.index, status=self.admits or status)

    async def wait_assignments(self, node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
        self._check()
        with trio.move_on_after(wait_s):
            while self.index <= after:
                await self._news.wait()
        return Assignments(index=self.index, allocs={a.id: a.alloc_modify_index for a in self.allocs.values()})

    async def get_allocs(self, node_id: str, secret_id: str, alloc_ids: list[str]) -> list[Allocation]:
        self._check()
        return [self.allocs[id] for id in alloc_ids if id in self.allocs]

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        self._check()
        self.n_update_calls += 1
        self.n_updates_under_way += 1
        self.max_updates_under_way = max(self.max_updates_under_way, self.n_updates_under_way)
        await trio.sleep(self.update_delay_s)
        self.n_updates_under_way -= 1
        for update in updates:
            self.reports.append(update)
            self.latest[update.id] = update
        self.index += 1
        self.changed.set()
        self.changed = trio.Event()
        return self.index

    async def emit_node_events(self, node_id: str, secret_id: str, events: list[NodeEvent]) -> None:
        self._check()
        self.events += events

    def status(self, alloc_id: str) -> str:
        return self.latest[alloc_id].client_status if alloc_id in self.latest else "pending"

    def types(self, alloc_id: str, task: str = "web") -> list[str]:
        return [event.type for event in self.latest[alloc_id].task_states[task].events]


@dataclass
class Attempt:
    """One start of a task on the scripted driver."""

    config: TaskConfig
    over: trio.Event = field(default_factory=trio.Event)
    result: ExitResult = field(default_factory=ExitResult)
    signals: list[str] = field(default_factory=list)
    destroyed: bool = False

    def end(self, **result: Any) -> None:
        self.result = ExitResult(**result)
        self.over.set()


class ScriptedDriver:
    """Runs nothing. ``run_for_s`` in the config ends a task by itself; otherwise a test ends it."""

    name = "scripted"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.starts: list[str] = []
        self.stops: list[str] = []
        self.fingerprint_result = Fingerprint(detected=True, healthy=True)
        self.stop_failures = 0
        self.start_failures: list[Exception] = []
        self.start_delay_s = 0.0
        self.recover_failures = 0
        self.recovered: list[str] = []
        self.destroy_hangs = False
        self.nursery: trio.Nursery | None = None

    def check_config(self, config: dict[str, Any]) -> list[str]:
        known = {"run_for_s", "exit_code", "note"}
        return [f'unknown option "{key}"' for key in config if key not in known]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self.nursery:
            task_status.started()
            await trio.sleep_forever()

    async def fingerprint(self) -> Fingerprint:
        return self.fingerprint_result

    async def start_task(self, task: TaskConfig) -> TaskHandle:
        if self.start_failures:
            raise self.start_failures.pop(0)
        attempt = self.attempts[task.id] = Attempt(task)
        self.starts.append(task.task_name)
        await trio.sleep(self.start_delay_s)
        if "run_for_s" in task.config:
            assert self.nursery is not None
            self.nursery.start_soon(self._end_later, attempt)
        return TaskHandle(driver=self.name, task_id=task.id)

    async def _end_later(self, attempt: Attempt) -> None:
        await trio.sleep(float(attempt.config.config["run_for_s"]))
        attempt.end(exit_code=int(attempt.config.config.get("exit_code", 0)))

    async def recover_task(self, handle: TaskHandle) -> None:
        if self.recover_failures:
            self.recover_failures -= 1
            raise Temporary("the engine is not up yet")
        if handle.task_id not in self.attempts:
            raise NotFound("no such task")
        self.recovered.append(handle.task_id)

    async def wait_task(self, task_id: str) -> ExitResult:
        attempt = self.attempts[task_id]
        await attempt.over.wait()
        return attempt.result

    async def stop_task(self, task_id: str, *, signal: str, timeout_s: float) -> None:
        if self.stop_failures:
            self.stop_failures -= 1
            raise Temporary("the driver is busy")
        attempt = self.attempts[task_id]
        self.stops.append(attempt.config.task_name)
        if not attempt.over.is_set():
            attempt.end(exit_code=130, signal=2)

    async def destroy_task(self, task_id: str, *, force: bool = False) -> None:
        if self.destroy_hangs:
            await trio.sleep_forever()
        if task_id in self.attempts:
            self.attempts[task_id].destroyed = True
            self.attempts[task_id].over.set()

    async def signal_task(self, task_id: str, signal: str) -> None:
        self.attempts[task_id].signals.append(signal)

    async def task_stats(self, task_id: str) -> TaskResourceUsage:
        return TaskResourceUsage()

    def exec_task(self, task_id: str, command: list[str], *, tty: bool = False) -> Any:
        raise NotImplementedError

    def attempt_of(self, task: str) -> Attempt:
        """The latest attempt of a task."""
        return [a for a in self.attempts.values() if a.config.task_name == task][-1]


def make_task(name: str = "web", *, hook: str = "", sidecar: bool = False, **fields: Any) -> Task:
    lifecycle = TaskLifecycle(hook=hook, sidecar=sidecar) if hook else None
    defaults: dict[str, Any] = {"driver": "scripted", "kill_timeout_ns": 5 * SECOND}
    return Task(name=name, lifecycle=lifecycle, **{**defaults, **fields})


def make_alloc(*tasks: Task, job_type: str = "service", job: dict[str, Any] | None = None, **group: Any) -> Allocation:
    policy = RestartPolicy(attempts=2, interval_ns=1800 * SECOND, delay_ns=15 * SECOND, mode="fail")
    fields = {"restart_policy": policy, "count": 1, **group}
    members = tasks or (make_task(),)
    the_group = TaskGroup(name="g", tasks=members, **fields)
    resources = AllocatedResources(
        tasks={
            task.name: AllocatedTaskResources(cpu=AllocatedCpu(cpu_shares=100), memory=AllocatedMemory(memory_mb=64))
            for task in members
        },
        shared=AllocatedSharedResources(disk_mb=150),
    )
    return Allocation(
        id=str(uuid.uuid4()),
        namespace="default",
        name="example.g[0]",
        node_id=IDENTITY.node_id,
        job_id="example",
        job=Job(
            **{
                "id": "example",
                "name": "example",
                "namespace": "default",
                "type": job_type,
                "task_groups": (the_group,),
                **(job or {}),
            }
        ),
        task_group="g",
        allocated_resources=resources,
        desired_status=RUN,
        client_status="pending",
    )


def make_config(tmp_path: Path, **fields: Any) -> ClientConfig:
    defaults: dict[str, Any] = {
        "alloc_dir": str(tmp_path / "alloc"),
        "state_dir": str(tmp_path / "client"),
        "name": "node-1",
        "network_interface": "lo",
    }
    return ClientConfig(**{**defaults, **fields})


@dataclass
class World:
    client: Client
    servers: FakeServers
    driver: ScriptedDriver
    nursery: trio.Nursery

    async def until(self, condition: Callable[[], bool], timeout_s: float = 3600.0) -> None:
        """Waits for a condition; fails the test when it does not come true in time (by trio's clock)."""
        with trio.fail_after(timeout_s):
            while not condition():
                with trio.move_on_after(3.0):
                    await self.servers.changed.wait()

    async def until_status(self, alloc: Allocation, status: str) -> None:
        await self.until(lambda: self.servers.status(alloc.id) == status)


@asynccontextmanager
async def running_client(
    config: ClientConfig, servers: FakeServers | None = None, driver: ScriptedDriver | None = None, **more: Any
) -> AsyncIterator[World]:
    """A client that runs until the block ends, without waiting for the real clock where the test's clock jumps."""
    servers, driver = servers or FakeServers(), driver or ScriptedDriver()
    drivers = more.pop("drivers", {"scripted": driver})
    more.setdefault("wall_ns", pretend_wall_ns)
    client = Client(config, servers, drivers, rng=random.Random(7), **more)
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        yield World(client, servers, driver, nursery)
        nursery.cancel_scope.cancel()
