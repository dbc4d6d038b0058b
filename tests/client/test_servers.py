"""How a client speaks with its servers when they are slow, gone, stale or new."""

from __future__ import annotations

from pathlib import Path

import trio
from client_world import FakeServers, make_alloc, make_config, make_task, running_client

from nomadpy.client.config import GcConfig
from nomadpy.drivers.contract import Fingerprint
from nomadpy.model.job import DisconnectStrategy
from nomadpy.model.time import SECOND
from nomadpy.rpc.contract import Assignments


async def test_reports_are_batched_one_at_a_time_and_the_latest_state_wins(
    tmp_path: Path, jumping_clock: object
) -> None:
    async with running_client(make_config(tmp_path)) as world:
        world.servers.update_delay_s = 2.0
        allocs = [make_alloc(make_task(config={"run_for_s": 5}), job_type="batch") for _ in range(10)]
        for alloc in allocs:
            world.servers.put(alloc)
        await world.until(lambda: all(world.servers.status(a.id) == "complete" for a in allocs))
        assert world.servers.max_updates_under_way == 1
        assert world.servers.n_update_calls < 10


async def test_reports_wait_for_servers_that_are_gone(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(config={"run_for_s": 30}), job_type="batch")
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.down = True
        await trio.sleep(300)
        assert world.client.runners[alloc.id].client_status() == "complete"
        assert world.servers.status(alloc.id) == "running"
        world.servers.down = False
        await world.until_status(alloc, "complete")


async def test_an_unknown_node_registers_again(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        await world.until(lambda: world.servers.beats != [])
        world.servers.nodes.clear()
        await world.until(lambda: bool(world.servers.nodes))


async def test_an_older_answer_is_not_followed(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        stale = FakeServers()
        stale.index = 3
        before = world.servers.wait_assignments

        async def answer_stale(node_id: str, secret_id: str, after: int, wait_s: float) -> Assignments:
            return Assignments(index=stale.index, allocs={})

        world.servers.wait_assignments = answer_stale  # type: ignore[method-assign]
        world.servers.put(alloc)
        await trio.sleep(30)
        assert world.client.has_alloc(alloc.id)
        assert world.client.runners[alloc.id].client_status() == "running"
        world.servers.wait_assignments = before  # type: ignore[method-assign]


async def test_an_alloc_that_the_servers_forgot_is_destroyed(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.forget(alloc.id)
        await world.until(lambda: not world.client.has_alloc(alloc.id))
        assert world.driver.stops == ["web"]
        assert not (tmp_path / "alloc" / alloc.id).exists()


async def test_a_replacement_waits_for_its_predecessor_and_takes_over_its_sticky_disk(
    tmp_path: Path, jumping_clock: object
) -> None:
    from nomadpy.model.job import EphemeralDisk

    async with running_client(make_config(tmp_path)) as world:
        disk = EphemeralDisk(sticky=True)
        old = make_alloc(make_task(shutdown_delay_ns=20 * SECOND), ephemeral_disk=disk)
        world.servers.put(old)
        await world.until_status(old, "running")
        (tmp_path / "alloc" / old.id / "alloc" / "data" / "kept").write_text("1")
        new = make_alloc(ephemeral_disk=disk).replace(previous_allocation=old.id)
        world.servers.stop(old.id)
        world.servers.put(new)
        await trio.sleep(10)
        assert world.driver.starts == ["web"]
        await world.until_status(new, "running")
        assert (tmp_path / "alloc" / new.id / "alloc" / "data" / "kept").read_text() == "1"


async def test_servers_that_lost_sight_of_the_node_are_told_again_what_runs(
    tmp_path: Path, jumping_clock: object
) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        await trio.sleep(60)
        world.servers.admits = "initializing"
        told, beats = len(world.servers.reports), len(world.servers.beats)
        await world.until(lambda: len(world.servers.reports) > told)
        assert world.servers.reports[-1].client_status == "running"
        await trio.sleep(10)
        assert len(world.servers.beats) - beats > 5, "it does not wait a whole lease to be let in"
        world.servers.admits = ""
        await trio.sleep(20)
        told = len(world.servers.reports)
        await trio.sleep(60)
        assert len(world.servers.reports) == told
        assert world.driver.starts == ["web"]
        world.servers.put(alloc.replace(client_status="unknown"))
        await world.until(lambda: "Reconnected" in world.servers.types(alloc.id))
        assert world.driver.starts == ["web"]


async def test_stop_on_client_after_ends_tasks_without_servers(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        strategy = DisconnectStrategy(stop_on_client_after_ns=60 * SECOND)
        alloc, other = make_alloc(disconnect=strategy), make_alloc()
        world.servers.put(alloc)
        world.servers.put(other)
        await world.until_status(alloc, "running")
        await world.until_status(other, "running")
        world.servers.down = True
        await trio.sleep(300)
        assert world.client.runners[alloc.id].client_status() == "complete"
        assert world.client.runners[other.id].client_status() == "running"


async def test_a_drivers_health_is_told_and_the_node_updated(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        await world.until(lambda: bool(world.servers.nodes))
        assert world.servers.nodes[world.client.node_id].attributes["driver.scripted"] == "1"
        world.driver.fingerprint_result = Fingerprint(health_description="engine is gone")
        await world.until(lambda: bool(world.servers.events))
        (event,) = world.servers.events
        assert (event.subsystem, event.message, event.details) == ("Driver", "engine is gone", {"driver": "scripted"})
        await world.until(lambda: "driver.scripted" not in world.servers.nodes[world.client.node_id].attributes)


async def test_finished_allocs_beyond_the_limit_are_collected_oldest_first(
    tmp_path: Path, jumping_clock: object
) -> None:
    gc = GcConfig(max_allocs=2, disk_usage_threshold=101, inode_usage_threshold=101, parallel_destroys=1)
    async with running_client(make_config(tmp_path, gc=gc)) as world:
        allocs = [make_alloc(make_task(config={"run_for_s": 100 + 100 * n}), job_type="batch") for n in range(4)]
        for alloc in allocs:
            world.servers.put(alloc)
        await world.until(lambda: all(world.servers.status(a.id) == "complete" for a in allocs))
        await world.until(lambda: len(world.client.runners) == 2)
        assert set(world.client.runners) == {allocs[2].id, allocs[3].id}
        await world.until(lambda: all(r.local.acknowledged for r in world.client.runners.values()))
        await world.client.gc_all()
        assert world.client.runners == {}
        assert list((tmp_path / "alloc").iterdir()) == []


async def test_after_a_long_silence_unchanged_states_are_told_again(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.down = True
        await trio.sleep(120)
        n_reports = len(world.servers.reports)
        world.servers.down = False
        await world.until(lambda: len(world.servers.reports) > n_reports)
        assert world.servers.status(alloc.id) == "running"


async def test_an_alloc_that_became_unknown_tells_that_it_is_back(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.put(alloc.replace(client_status="unknown"))
        await world.until(lambda: "Reconnected" in world.servers.types(alloc.id))
        assert world.driver.starts == ["web"]


async def test_a_cluster_that_began_anew_is_followed_from_its_beginning(tmp_path: Path, jumping_clock: object) -> None:
    old, former = FakeServers(), make_alloc()
    old.index = 500
    async with running_client(make_config(tmp_path), old) as world:
        old.put(former)
        await world.until_status(former, "running")
    new, alloc = FakeServers(), make_alloc()
    new.put(alloc)
    # Twice, as the agent may be restarted meanwhile.
    for _ in range(2):
        async with running_client(make_config(tmp_path), new) as world:
            await world.until_status(alloc, "running")
            await trio.sleep(1000)
            assert former.id in world.client.runners, "its state may be restored"
    async with running_client(make_config(tmp_path), new) as world:
        await world.until(lambda: former.id not in world.client.runners)
        assert alloc.id in world.client.runners


async def test_a_cluster_that_begins_anew_under_a_running_client_is_followed_soon(
    tmp_path: Path, jumping_clock: object
) -> None:
    servers, former, alloc = FakeServers(), make_alloc(), make_alloc()
    servers.index = 500
    async with running_client(make_config(tmp_path), servers) as world:
        servers.put(former)
        await world.until_status(former, "running")
        servers.nodes, servers.allocs, servers.index = {}, {}, 3
        servers.put(alloc)
        with trio.fail_after(60):  # it waits for index 501 meanwhile, for five minutes at a time
            await world.until_status(alloc, "running")
        assert former.id in world.client.runners


async def test_a_restored_cluster_finds_what_runs_and_ends_what_it_does_not_know(
    tmp_path: Path, jumping_clock: object
) -> None:
    old, known, forgotten = FakeServers(), make_alloc(), make_alloc()
    old.index = 500
    async with running_client(make_config(tmp_path), old) as world:
        for alloc in (known, forgotten):
            old.put(alloc)
            await world.until_status(alloc, "running")
    new = FakeServers()
    async with running_client(make_config(tmp_path), new) as world:
        await trio.sleep(100)
        assert {known.id, forgotten.id} <= world.client.runners.keys()
        new.index = 600
        new.put(known)
        await world.until(lambda: forgotten.id not in world.client.runners)
        assert world.client.runners[known.id].client_status() == "running"


async def test_an_end_is_told_again_to_servers_that_went_back_to_a_saved_state(
    tmp_path: Path, jumping_clock: object
) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(config={"run_for_s": 5}), job_type="batch")
        world.servers.put(alloc)
        await world.until_status(alloc, "complete")
        world.servers.latest.clear()
        world.servers.put(alloc)
        await world.until_status(alloc, "complete")
        assert world.driver.starts == ["web"]
