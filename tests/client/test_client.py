from __future__ import annotations

from pathlib import Path

from client_world import make_alloc, make_config, make_task, running_client

from nomadpy.model.time import SECOND


async def test_an_alloc_runs_from_start_to_finish(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(config={"run_for_s": 5}), job_type="batch")
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        await world.until_status(alloc, "complete")
        assert world.servers.types(alloc.id) == ["Received", "Task Setup", "Started", "Terminated"]
        state = world.servers.latest[alloc.id].task_states["web"]
        assert (state.state, state.failed, state.restarts) == ("dead", False, 0)
        assert state.finished_at_ns - state.started_at_ns >= 5 * SECOND
        assert world.driver.attempt_of("web").destroyed
        assert (tmp_path / "alloc" / alloc.id / "web" / "local").is_dir()


async def test_a_failing_service_is_restarted_by_its_policy_and_then_fails(
    tmp_path: Path, jumping_clock: object
) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(config={"run_for_s": 1, "exit_code": 3}))
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        assert world.driver.starts == ["web"] * 3
        events = world.servers.latest[alloc.id].task_states["web"].events
        assert events[-1].display_message == ('Exceeded allowed attempts 2 in interval 30m0s and mode is "fail"')
        assert events[-2].display_message == "Exit Code: 3"
        assert events[-3].type == "Started"
        assert events[-4].display_message.startswith("Task restarting in 1")
        assert world.servers.latest[alloc.id].client_description == "Failed tasks"


async def test_a_stop_ends_the_task_and_is_reported_complete(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
        assert world.servers.types(alloc.id)[-3:] == ["Killing", "Terminated", "Killed"]
        killing = world.servers.latest[alloc.id].task_states["web"].events[-3]
        assert killing.display_message == "Sent interrupt. Waiting 5s before force killing"
