"""The worker decides on while slices of newcomers become durable."""

from __future__ import annotations

import pytest
import trio
from cluster_builders import make_job, make_node
from server_world import World, raw, running
from trio.testing import MockClock

from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import NoLeader, OutcomeUnknown, TimedOut
from nomadpy.model.node import SchedulerConfiguration
from nomadpy.server.messages import JobRegisterRequest
from nomadpy.state import commands as c

JOBS = 12


class SlowLog:
    """Stands between the server and its log: entries with decisions take a second. ``most``: how many were on their way
    at once; ``sizes``: how many newcomers each had."""

    def __init__(self, world: World, *errors: Exception) -> None:
        self._log, self._store = world.server.log, world.server.store
        self.flying = self.most = 0
        self.sizes: list[int] = []
        self.errors = list(errors)
        self.lose_a_node = False
        world.server.log = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> object:
        command = c.decode(data)
        if not isinstance(command, c.ApplyDecisions):
            return await self._log.propose(data, timeout_s=timeout_s)
        self.flying += 1
        self.most = max(self.most, self.flying)
        self.sizes.append(len(command.newcomers.eval_ids))
        try:
            await trio.sleep(1)
            if self.errors and len(self.sizes) > 2:
                raise self.errors.pop()
            if self.lose_a_node and len(self.sizes) > 2:
                self.lose_a_node = False
                lost = c.UpdateNodeStatus(node_id=make_node(0).id, status="down")
                await self._log.propose(c.encode(lost))
            return await self._log.propose(data, timeout_s=timeout_s)
        finally:
            self.flying -= 1


async def register_together(world: World) -> None:
    await configure(world, pause_eval_broker=True)
    for number in range(JOBS):
        await world.server.jobs.register(ANYONE, JobRegisterRequest(job=raw(make_job(f"job-{number}", cpu=100))))
    await configure(world, pause_eval_broker=False)


async def configure(world: World, **switches: bool) -> None:
    await world.server.fleet.set_scheduler_config(ANYONE, SchedulerConfiguration(**switches), cas=None)


def all_placed(world: World) -> bool:
    return all(len(world.live(f"job-{number}")) == 1 for number in range(JOBS))


def used_cpu(world: World) -> int:
    return int(world.server.store.columns.cpu_used.sum())


async def test_the_next_slice_is_decided_while_one_is_on_its_way(autojump_clock: MockClock) -> None:
    async with running(slice_ns=0) as world:
        await world.add_node(0)
        log = SlowLog(world)
        await register_together(world)
        await world.until(lambda: all_placed(world))
        await world.settled()
        assert log.most == 2
        assert log.sizes == [1] * JOBS
        assert world.server.store.allocs.live == JOBS
        assert used_cpu(world) == 100 * JOBS


@pytest.mark.parametrize("error", [TimedOut("slow"), NoLeader(), OutcomeUnknown("perhaps")])
async def test_slices_that_cannot_be_stored_are_decided_again(autojump_clock: MockClock, error: Exception) -> None:
    async with running(slice_ns=0) as world:
        await world.add_node(0)
        log = SlowLog(world, error, error)
        await register_together(world)
        await world.until(lambda: all_placed(world))
        await world.settled()
        assert log.errors == []
        assert world.server.store.allocs.live == JOBS
        assert {evaluation.status for evaluation in world.server.store.evals.values()} == {"complete"}
        assert used_cpu(world) == 100 * JOBS


async def test_what_was_decided_for_a_node_that_went_is_decided_again(autojump_clock: MockClock) -> None:
    async with running(slice_ns=0) as world:
        await world.add_node(0)
        log = SlowLog(world)
        log.lose_a_node = True
        await register_together(world)
        await world.until(lambda: not log.lose_a_node)
        await world.add_node(1)
        await world.until(lambda: all_placed(world))
        await world.settled()
        assert not world.evals("job-0", "failed")
        assert used_cpu(world) == 100 * JOBS
