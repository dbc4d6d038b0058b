"""A job that makes lesser ones give way, from the registration to the loser's next place."""

from __future__ import annotations

import trio.testing
from cluster_builders import make_group, make_job
from server_world import World, running

from nomadpy.model.job import Job
from nomadpy.model.node import PreemptionConfig, SchedulerConfiguration
from nomadpy.state import commands as c


def sized(name: str, cpu: int, priority: int, **changes: object) -> Job:
    return make_job(name, group=make_group(cpu=cpu)).replace(priority=priority, **changes)


async def let_services_preempt(world: World) -> None:
    config = SchedulerConfiguration(preemption_config=PreemptionConfig(service_scheduler_enabled=True))
    await world.server.propose(c.SetSchedulerConfig(config=config))


async def test_the_loser_stops_first_and_finds_another_place(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        await world.add_node(0)
        await let_services_preempt(world)
        await world.register(sized("low", 3000, 20))
        await world.until(lambda: len(world.running("low")) == 1)
        [loser] = world.running("low")
        await world.register(sized("high", 3000, 80))
        await world.until(lambda: len(world.running("high")) == 1)
        await world.settled()
        gone = world.server.store.alloc(loser.id)
        assert gone is not None
        assert (gone.desired_status, gone.client_status) == ("evict", "complete")
        assert gone.preempted_by_allocation == world.running("high")[0].id
        triggers = [evaluation.triggered_by for evaluation in world.evals("low")]
        assert triggers.count("preemption") == 1
        assert [e.status for e in world.evals("low", "blocked")] == ["blocked"]
        await world.add_node(1)
        await world.until(lambda: len(world.running("low")) == 1)
        assert len([a for a in world.allocs("low") if a.desired_status == "evict"]) == 1


async def test_who_waits_is_tried_again_once_others_may_make_room(autojump_clock: trio.testing.MockClock) -> None:
    async with running() as world:
        await world.add_node(0)
        await world.register(sized("low", 3000, 20))
        await world.until(lambda: len(world.running("low")) == 1)
        await world.register(sized("high", 3000, 80))
        await world.until(lambda: len(world.evals("high", "blocked")) == 1)
        [waiting] = world.evals("high", "blocked")
        assert [help.kind for help in waiting.failed_tg_allocs["app"].would_help] == ["resources", "preemption"]
        await let_services_preempt(world)
        await world.until(lambda: len(world.running("high")) == 1)
