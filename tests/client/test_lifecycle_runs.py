"""Orders of start and end, with a real client, a scripted driver and a clock that jumps."""

from __future__ import annotations

from pathlib import Path

from client_world import FakeServers, make_alloc, make_config, make_task, running_client

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.errors import Fatal, Temporary
from nomadpy.model.job import DispatchPayload
from nomadpy.model.service import VolumeMount
from nomadpy.model.time import SECOND


async def test_tasks_start_in_the_order_of_their_lifecycle(tmp_path: Path, jumping_clock: object) -> None:
    alloc = make_alloc(
        make_task("after", hook="poststop", config={"run_for_s": 1}),
        make_task("main", config={"run_for_s": 5}),
        make_task("greet", hook="poststart", config={"run_for_s": 1}),
        make_task("side", hook="prestart", sidecar=True),
        make_task("init", hook="prestart", config={"run_for_s": 3}),
        job_type="batch",
    )
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until_status(alloc, "complete")
        starts = world.driver.starts
        assert set(starts[:2]) == {"side", "init"}
        assert starts[2:] == ["main", "greet", "after"]
        assert "Main Tasks Dead" in world.servers.types(alloc.id, "side")


async def test_a_failed_task_takes_its_siblings_along_but_poststop_still_runs(
    tmp_path: Path, jumping_clock: object
) -> None:
    alloc = make_alloc(
        make_task("bad", config={"run_for_s": 1, "exit_code": 1}),
        make_task("good"),
        make_task("after", hook="poststop", config={"run_for_s": 1}),
        restart_policy=None,
    )
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until(lambda: "after" in world.driver.starts)
        await world.until_status(alloc, "failed")
        good = world.servers.latest[alloc.id].task_states["good"]
        assert [e.type for e in good.events][-4:] == ["Sibling Task Failed", "Killing", "Terminated", "Killed"]
        assert good.events[-4].display_message == 'Task\'s sibling "bad" failed'
        assert not good.failed


async def test_a_failed_prestart_task_keeps_main_from_starting(tmp_path: Path, jumping_clock: object) -> None:
    init = make_task("init", hook="prestart", config={"run_for_s": 1, "exit_code": 9})
    alloc = make_alloc(init, make_task("main"), restart_policy=None)
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        assert world.driver.starts == ["init"]
        await world.until(lambda: world.servers.latest[alloc.id].task_states["main"].state == "dead")


async def test_the_end_of_the_leader_ends_the_others(tmp_path: Path, jumping_clock: object) -> None:
    alloc = make_alloc(make_task("boss", leader=True, config={"run_for_s": 2}), make_task("helper"), job_type="batch")
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until_status(alloc, "complete")
        assert "Leader Task Dead" in world.servers.types(alloc.id, "helper")


async def test_the_leader_is_stopped_before_the_others_and_sidecars_last(tmp_path: Path, jumping_clock: object) -> None:
    alloc = make_alloc(
        make_task("side", hook="poststart", sidecar=True), make_task("helper"), make_task("boss", leader=True)
    )
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until(lambda: len(world.driver.starts) == 3)
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
        assert world.driver.stops == ["boss", "helper", "side"]


async def test_shutdown_delay_passes_before_the_stop_unless_it_is_to_be_skipped(
    tmp_path: Path, jumping_clock: object
) -> None:
    alloc = make_alloc(make_task(shutdown_delay_ns=600 * SECOND))
    async with running_client(make_config(tmp_path)) as world:
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.servers.stop(alloc.id)
        await world.until(lambda: "Waiting for shutdown delay" in world.servers.types(alloc.id))
        assert world.driver.stops == []
        world.servers.stop(alloc.id, desired_transition=DesiredTransition(no_shutdown_delay=True))
        await world.until_status(alloc, "complete")
        assert "Skipping shutdown delay" in world.servers.types(alloc.id)


async def test_a_kill_that_fails_is_repeated(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.driver.stop_failures = 5
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
        assert world.driver.stops == ["web"]


async def test_a_task_that_cannot_be_killed_is_told_with_the_reason(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        world.driver.stop_failures = 6
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "failed")
        last = world.servers.latest[alloc.id].task_states["web"].events[-1]
        assert (last.type, last.kill_error) == ("Killed", "failed to kill task: the driver is busy")


async def test_a_temporary_start_error_is_retried_and_a_fatal_one_is_not(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        world.driver.start_failures = [Temporary("registry busy"), Fatal("no such image")]
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        events = world.servers.latest[alloc.id].task_states["web"].events
        assert [e.type for e in events[-4:]] == ["Driver Failure", "Restarting", "Driver Failure", "Not Restarting"]
        assert [events[-2].display_message, events[-1].display_message] == [
            "no such image",
            "Error was unrecoverable",
        ]


async def test_a_wrong_config_fails_validation_without_a_start(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task(config={"comand": "x"}))
        unknown = make_alloc(make_task(config={"note": "${attr.no.such}"}))
        world.servers.put(alloc)
        world.servers.put(unknown)
        await world.until_status(alloc, "failed")
        await world.until_status(unknown, "failed")
        assert world.driver.starts == []
        first = [e for e in world.servers.latest[alloc.id].task_states["web"].events if e.type == "Failed Validation"]
        assert first[0].display_message == 'unknown option "comand"'
        second = [e for e in world.servers.latest[unknown.id].task_states["web"].events if e.fails_task]
        assert "attr.no.such" in second[0].display_message


async def test_an_operators_restart_is_not_counted_as_a_failure(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        for n in range(2, 6):
            await world.client.alloc_restart(alloc.id, "web")
            await world.until(lambda n=n: len(world.driver.starts) == n)  # type: ignore[misc]
            await world.until(lambda: world.client.runners[alloc.id].task_states()["web"].state == "running")
        state = world.client.runners[alloc.id].task_states()["web"]
        assert state.restarts == 4
        signaled = [e.display_message for e in state.events if e.type == "Restart Signaled"]
        assert signaled[-1] == "User requested task to restart"


async def test_restarting_all_tasks_runs_prestart_again_first(tmp_path: Path, jumping_clock: object) -> None:
    init = make_task("init", hook="prestart", config={"run_for_s": 1})
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(init, make_task("main"))
        world.servers.put(alloc)
        await world.until(lambda: world.driver.starts == ["init", "main"])
        await world.until_status(alloc, "running")
        await world.client.alloc_restart(alloc.id, all_tasks=True)
        await world.until(lambda: world.driver.starts == ["init", "main", "init", "main"])


async def test_max_run_duration_completes_the_alloc(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(job_type="batch", max_run_duration_ns=60 * SECOND)
        world.servers.put(alloc)
        await world.until_status(alloc, "complete")
        assert world.servers.latest[alloc.id].client_description == "allocation exceeded max_run_duration"


async def test_the_dispatch_payload_is_written_below_local(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        task = make_task(dispatch_payload=DispatchPayload(file="in/${NOMAD_TASK_NAME}.bin"))
        alloc = make_alloc(task, job={"payload": b"\0hello"})
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        path = tmp_path / "alloc" / alloc.id / "web" / "local" / "in" / "web.bin"
        assert path.read_bytes() == b"\0hello"


async def test_a_payload_file_cannot_escape(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        task = make_task(dispatch_payload=DispatchPayload(file="../../evil"))
        alloc = make_alloc(task, job={"payload": b"x"})
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        assert not (tmp_path / "alloc" / "evil").exists()
        assert not (tmp_path / "alloc" / alloc.id / "evil").exists()


async def test_host_volumes_reach_the_driver_as_mounts(tmp_path: Path, jumping_clock: object) -> None:
    from nomadpy.client.config import HostVolumeConfig
    from nomadpy.model.job import VolumeRequest

    config = make_config(tmp_path, host_volumes={"certs": HostVolumeConfig(path="/etc/ssl", read_only=True)})
    async with running_client(config) as world:
        task = make_task(volume_mounts=(VolumeMount(volume="v", destination="/certs"),))
        alloc = make_alloc(task, volumes={"v": VolumeRequest(name="v", type="host", source="certs")})
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        (mount,) = world.driver.attempt_of("web").config.mounts
        assert (mount.host_path, mount.task_path, mount.read_only) == ("/etc/ssl", "/certs", True)


async def test_a_kill_during_a_slow_start_leaves_nothing_running(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        world.driver.start_delay_s = 500
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until(lambda: world.driver.starts == ["web"])
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
        assert world.driver.attempt_of("web").destroyed
        assert "Started" not in world.servers.types(alloc.id)


async def test_a_network_mode_that_the_node_lacks_fails_the_setup(tmp_path: Path, jumping_clock: object) -> None:
    from nomadpy.model.resources import NetworkResource

    async with running_client(make_config(tmp_path), FakeServers()) as world:
        alloc = make_alloc(networks=(NetworkResource(mode="bridge"),))
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        event = world.servers.latest[alloc.id].task_states["web"].events[-1]
        assert event.display_message == ('failed to setup alloc: network mode "bridge" is not available on this node')
