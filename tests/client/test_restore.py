"""What a client finds again after a restart of the agent."""

from __future__ import annotations

from pathlib import Path

import trio
from client_world import FakeServers, ScriptedDriver, make_alloc, make_config, make_task, running_client

from nomadpy.model.alloc import Allocation
from nomadpy.model.time import SECOND


async def run_until_running(
    tmp_path: Path, servers: FakeServers, driver: ScriptedDriver, **alloc: object
) -> Allocation:
    one = make_alloc(**alloc)  # type: ignore[arg-type]
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.put(one)
        await world.until_status(one, "running")
    return one


async def test_a_running_task_is_taken_over_and_not_restarted(tmp_path: Path, jumping_clock: object) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    alloc = await run_until_running(tmp_path, servers, driver)
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until(lambda: alloc.id in world.client.runners)
        await world.until(lambda: len(servers.beats) >= 3)
        assert driver.starts == ["web"]
        assert world.client.runners[alloc.id].client_status() == "running"
        driver.attempt_of("web").end(exit_code=4)
        await world.until(lambda: "Terminated" in servers.types(alloc.id))


async def test_an_exit_while_no_agent_ran_is_learnt(tmp_path: Path, jumping_clock: object) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    alloc = await run_until_running(tmp_path, servers, driver, job_type="batch")
    driver.attempt_of("web").end(exit_code=0)
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until_status(alloc, "complete")
        assert driver.starts == ["web"]


async def test_a_lost_task_waits_for_the_servers_before_it_runs_again(tmp_path: Path, jumping_clock: object) -> None:
    servers = FakeServers()
    alloc = await run_until_running(tmp_path, servers, ScriptedDriver())
    servers.down = True
    forgetful = ScriptedDriver()
    async with running_client(make_config(tmp_path), servers, forgetful) as world:
        await world.until(lambda: alloc.id in world.client.runners)
        await trio.sleep(60)
        assert forgetful.starts == []
        servers.down = False
        await world.until(lambda: forgetful.starts == ["web"])
        await world.until(lambda: "Failed Restoring Task" in servers.types(alloc.id))


async def test_identity_and_dynamic_metadata_survive(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        node_id = world.client.node_id
        await world.client.apply_metadata({"rack": "r1", "gone": None})
    async with running_client(make_config(tmp_path)) as world:
        assert world.client.node_id == node_id
        assert world.client.metadata()["Dynamic"] == {"rack": "r1"}
        await world.until(lambda: bool(world.servers.nodes))
        assert world.servers.nodes[node_id].meta["rack"] == "r1"
    assert (tmp_path / "client" / "secret-id").stat().st_mode & 0o777 == 0o600


async def test_a_finished_alloc_is_not_run_again(tmp_path: Path, jumping_clock: object) -> None:
    from client_world import make_task

    servers, driver = FakeServers(), ScriptedDriver()
    alloc = make_alloc(make_task(config={"run_for_s": 1}), job_type="batch")
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.put(alloc)
        await world.until_status(alloc, "complete")
        await world.until(lambda: world.client.runners[alloc.id].local.acknowledged)
    servers.allocs[alloc.id] = servers.allocs[alloc.id].replace(client_status="complete")  # as they were told
    n_reports = len(servers.reports)
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until(lambda: len(servers.beats) > 3)
        assert driver.starts == ["web"]
        assert len(servers.reports) == n_reports
        assert world.client.has_alloc(alloc.id)


async def test_development_mode_stops_its_tasks_and_removes_their_files(tmp_path: Path, jumping_clock: object) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    alloc = make_alloc()
    async with running_client(make_config(tmp_path, dev_mode=True), servers, driver) as world:
        servers.put(alloc)
        await world.until_status(alloc, "running")
    assert driver.stops == ["web"]
    assert not (tmp_path / "alloc" / alloc.id).exists()
    assert not (tmp_path / "client").exists()


async def test_a_driver_that_is_not_ready_yet_is_asked_again(tmp_path: Path, jumping_clock: object) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    alloc = await run_until_running(tmp_path, servers, driver)
    driver.recover_failures = 3
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until(lambda: driver.recovered != [])
        await world.until(lambda: world.client.runners[alloc.id].client_status() == "running")
        assert driver.starts == ["web"]


async def test_what_a_killed_agent_did_not_clean_up_is_swept_up(tmp_path: Path, jumping_clock: object) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    driver.destroy_hangs = True
    alloc = make_alloc(job_type="batch")
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.put(alloc)
        await world.until_status(alloc, "running")
        driver.attempt_of("web").end(exit_code=0)
        await world.until_status(alloc, "complete")
    assert not driver.attempt_of("web").destroyed
    driver.destroy_hangs = False
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until(lambda: driver.attempt_of("web").destroyed)
        assert driver.starts == ["web"]


async def test_a_stop_that_comes_while_a_task_is_being_found_again_ends_the_real_one(
    tmp_path: Path, jumping_clock: object
) -> None:
    servers, driver = FakeServers(), ScriptedDriver()
    alloc = await run_until_running(tmp_path, servers, driver)
    servers.forget(alloc.id)
    driver.recover_failures = 4
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await world.until(lambda: not world.client.has_alloc(alloc.id))
        assert driver.stops == ["web"]


async def test_who_waits_for_another_one_still_waits_after_a_restart(tmp_path: Path, jumping_clock: object) -> None:
    """The room that the winner was promised is still in use when the agent comes back."""
    servers, driver = FakeServers(), ScriptedDriver()
    loser = make_alloc(make_task(shutdown_delay_ns=300 * SECOND))
    winner = make_alloc().replace(preempted_allocations=(loser.id,))
    async with running_client(make_config(tmp_path), servers, driver) as world:
        servers.put(loser)
        await world.until_status(loser, "running")
        servers.put(winner)
        servers.stop(loser.id, desired_status="evict")
        await world.until(lambda: winner.id in world.client.runners)
        await trio.sleep(5)
        assert driver.starts == ["web"]
    async with running_client(make_config(tmp_path), servers, driver) as world:
        await trio.sleep(60)
        assert driver.starts == ["web"], "the loser is still being stopped"
        await world.until_status(winner, "running")
        assert driver.stops == ["web"]
