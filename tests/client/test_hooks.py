"""Hooks that the agent brings along: their order, what they add, and what their failure does."""

from __future__ import annotations

from pathlib import Path

from client_world import make_alloc, make_config, make_task, running_client

from nomadpy.client.hooks import AllocHookContext, HookContext, HookResult
from nomadpy.model.alloc import AllocNetworkStatus
from nomadpy.model.errors import Invalid, NomadError, TimedOut
from nomadpy.model.job import Task, TaskArtifact
from nomadpy.model.resources import AllocatedPort
from nomadpy.model.time import SECOND


class Recorder:
    """A hook of tasks and of allocations that writes down when it was called."""

    name = "artifacts"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: list[Exception] = []

    def applies(self, task: Task) -> bool:
        return True

    async def prestart(self, context: HookContext) -> HookResult:
        self.calls.append("prestart")
        if self.failures:
            raise self.failures.pop(0)
        return HookResult(env={"FROM_HOOK": context.names.text("${NOMAD_TASK_NAME}!")}, once=True)

    async def started(self, context: HookContext) -> None:
        self.calls.append("started")

    async def exited(self, context: HookContext) -> None:
        self.calls.append("exited")

    async def stopping(self, context: HookContext) -> None:
        self.calls.append("stopping")


class Network:
    """A hook of allocations."""

    name = "network"

    def __init__(self, error: NomadError | None = None) -> None:
        self.calls: list[str] = []
        self.error = error

    async def prerun(self, context: AllocHookContext) -> AllocNetworkStatus:
        self.calls.append("prerun")
        if self.error is not None:
            raise self.error
        return AllocNetworkStatus(interface_name="eth9", address="172.26.64.5")

    async def stopping(self, context: AllocHookContext) -> None:
        self.calls.append("stopping")

    async def postrun(self, context: AllocHookContext) -> None:
        self.calls.append("postrun")


async def test_task_hooks_frame_each_attempt_and_add_to_the_environment(tmp_path: Path, jumping_clock: object) -> None:
    hook = Recorder()
    async with running_client(make_config(tmp_path), task_hooks=(hook,)) as world:
        alloc = make_alloc(make_task(shutdown_delay_ns=30 * SECOND, artifacts=(TaskArtifact(),)))
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        assert world.driver.attempt_of("web").config.env["FROM_HOOK"] == "web!"
        world.servers.stop(alloc.id)
        await world.until(lambda: "stopping" in hook.calls)
        assert world.driver.stops == [], "a service leaves the catalogue before its shutdown delay"
        await world.until_status(alloc, "complete")
        assert hook.calls == ["prestart", "started", "stopping", "exited"]


async def test_a_hook_may_fail_for_a_while_but_a_defect_fails_the_task(tmp_path: Path, jumping_clock: object) -> None:
    hook = Recorder()
    hook.failures = [TimedOut("registry is slow"), ZeroDivisionError("oops")]
    async with running_client(make_config(tmp_path), task_hooks=(hook,)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        shown = [e.display_message for e in world.servers.latest[alloc.id].task_states["web"].events]
        assert "artifacts: registry is slow" in shown
        assert "artifacts: ZeroDivisionError: oops" in shown
        assert world.driver.starts == []


async def test_a_block_that_nobody_acts_on_fails_the_task(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(artifacts=(TaskArtifact(),)))
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        shown = [e.display_message for e in world.servers.latest[alloc.id].task_states["web"].events]
        assert "the task has artifacts, which this client cannot provide" in shown


async def test_alloc_hooks_give_the_alloc_its_address(tmp_path: Path, jumping_clock: object) -> None:
    hook = Network()
    async with running_client(make_config(tmp_path), alloc_hooks=(hook,)) as world:
        alloc = make_alloc()
        assert alloc.allocated_resources is not None
        shared = alloc.allocated_resources.shared.replace(ports=(AllocatedPort(label="http", value=25000, to=80),))
        alloc = alloc.replace(allocated_resources=alloc.allocated_resources.replace(shared=shared))
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        assert world.driver.attempt_of("web").config.env["NOMAD_ALLOC_ADDR_http"] == "172.26.64.5:80"
        status = world.servers.latest[alloc.id].network_status
        assert status is not None
        assert status.address == "172.26.64.5"
        world.servers.stop(alloc.id)
        await world.until(lambda: hook.calls == ["prerun", "stopping", "postrun"])


async def test_an_alloc_hook_that_fails_fails_the_set_up(tmp_path: Path, jumping_clock: object) -> None:
    hook = Network(Invalid("no bridge"))
    async with running_client(make_config(tmp_path), alloc_hooks=(hook,)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        await world.until(lambda: hook.calls[-1] == "postrun")
        events = world.servers.latest[alloc.id].task_states["web"].events
        assert events[-1].display_message == "failed to setup alloc: no bridge"
