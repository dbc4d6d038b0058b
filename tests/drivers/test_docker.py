"""The docker driver on a real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from docker_bench import DockerBench, eventually, read_file, read_log

from nomadpy.drivers.contract import TaskLimits
from nomadpy.drivers.docker import DockerDriver
from nomadpy.model.errors import Fatal, Invalid, NotFound, Temporary

pytestmark = pytest.mark.docker


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DockerBench]:
    bench = DockerBench(tmp_path)
    yield bench
    await bench.remove_all()


@pytest.fixture
async def driver(bench: DockerBench) -> AsyncIterator[DockerDriver]:
    async with bench.running() as driver:
        yield driver


async def test_a_task_runs_and_its_exit_code_is_told(bench: DockerBench, driver: DockerDriver) -> None:
    task = bench.shell("echo out; echo err >&2; exit 3")
    result, stdout = await bench.run(task)
    assert (result.exit_code, result.signal, result.oom_killed, result.error) == (3, 0, False, "")
    assert (stdout, read_log(task, "stderr")) == ("out\n", "err\n")


async def test_arguments_alone_replace_the_images_command(bench: DockerBench, driver: DockerDriver) -> None:
    result, stdout = await bench.run(bench.task(config={"args": ["echo", "only", "args"]}))
    assert (result.exit_code, stdout) == (0, "only args\n")


async def test_a_task_sees_its_directories_and_environment(bench: DockerBench, driver: DockerDriver) -> None:
    script = "echo $GREETING; echo l > /local/l; echo a > /alloc/data/a; echo s > /secrets/s; echo x > /alloc/logs/x"
    task = bench.shell(script, env={"GREETING": "hello world"})
    result, stdout = await bench.run(task)
    assert stdout == "hello world\n"
    assert result.exit_code == 1, "the log directory is read only"
    assert read_file(task.dirs.local_dir, "l") == "l\n"
    assert read_file(task.dirs.shared_dir, "data/a") == "a\n"
    assert read_file(task.dirs.secrets_dir, "s") == "s\n"


async def test_stop_asks_with_the_signal(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("trap 'echo bye; exit 7' INT; echo up; while :; do sleep 0.05; done"))
    await driver.stop_task(handle.task_id, signal="SIGINT", timeout_s=10)
    assert (await driver.wait_task(handle.task_id)).exit_code == 7


async def test_stop_insists(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("trap '' TERM; while :; do sleep 1; done"))
    with trio.fail_after(10):
        await driver.stop_task(handle.task_id, signal="", timeout_s=0.2)
    assert (await driver.wait_task(handle.task_id)).exit_code == 137


async def test_stopping_what_has_ended_is_fine(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("exit 0"))
    await driver.wait_task(handle.task_id)
    await driver.stop_task(handle.task_id, signal="", timeout_s=5)


async def test_a_task_that_takes_too_much_memory_is_killed(bench: DockerBench, driver: DockerDriver) -> None:
    greedy = bench.shell("x=a; while :; do x=$x$x; done", limits=TaskLimits(memory_mb=8, node_cpu_mhz=4000))
    result, _ = await bench.run(greedy)
    assert result.oom_killed
    assert not result.successful()


async def test_signals_reach_the_task(bench: DockerBench, driver: DockerDriver) -> None:
    task = bench.shell("trap 'echo hup; exit 0' HUP; echo up; while :; do sleep 0.05; done")
    handle = await bench.start(task)
    await eventually(lambda: "up" in read_log(task))
    await driver.signal_task(handle.task_id, "SIGHUP")
    await driver.wait_task(handle.task_id)
    assert read_log(task) == "up\nhup\n"
    with pytest.raises(Invalid, match="invalid signal"):
        await driver.signal_task(handle.task_id, "SIGNONSENSE")
    with pytest.raises(Temporary, match="does not run"):
        await driver.signal_task(handle.task_id, "SIGHUP")


async def test_usage_is_told(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("while :; do :; done"))
    await driver.task_stats(handle.task_id)

    async def busy() -> bool:
        return (await driver.task_stats(handle.task_id)).resource_usage.cpu_stats.percent > 10

    await eventually(busy, what="a busy loop shows up")
    usage = (await driver.task_stats(handle.task_id)).resource_usage
    assert usage.memory_stats.usage > 0


async def test_destroy_removes_the_container(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("sleep 60"))
    with pytest.raises(Temporary, match="only with force"):
        await driver.destroy_task(handle.task_id)
    await driver.destroy_task(handle.task_id, force=True)
    with pytest.raises(NotFound):
        await driver.wait_task(handle.task_id)
    with pytest.raises(NotFound):
        await driver.recover_task(handle)
    await driver.destroy_task(handle.task_id)


async def test_a_leftover_of_the_same_name_gives_way(bench: DockerBench, driver: DockerDriver) -> None:
    first = await bench.start(bench.shell("exit 1", alloc_id="leftover-of-a-test"))
    await driver.wait_task(first.task_id)
    second = await bench.start(bench.shell("exit 2", alloc_id="leftover-of-a-test"))
    assert (await driver.wait_task(second.task_id)).exit_code == 2


async def test_a_command_that_is_not_there_is_fatal(bench: DockerBench, driver: DockerDriver) -> None:
    task = bench.task("/bin/nonesuch")
    with pytest.raises(Fatal, match="nonesuch"):
        await driver.start_task(task)
    names = await driver._engine.call(lambda api: api.containers(all=True, filters={"name": task.alloc_id}))
    assert names == [], "nothing is left of it"


async def test_a_container_removed_by_someone_else_counts_as_ended(bench: DockerBench, driver: DockerDriver) -> None:
    handle = await bench.start(bench.shell("sleep 60"))
    await driver._engine.call(lambda api: api.remove_container(handle.state["container_id"], force=True))
    with trio.fail_after(10):
        assert not (await driver.wait_task(handle.task_id)).successful()


async def test_fingerprint(driver: DockerDriver) -> None:
    found = await driver.fingerprint()
    assert (found.detected, found.healthy, found.attributes["driver.docker"]) == (True, True, "1")
    assert found.attributes["driver.docker.version"]
    assert found.attributes["driver.docker.os_type"] == "linux"
    assert "runc" in found.attributes["driver.docker.runtimes"]
    assert "driver.docker.volumes.enabled" not in found.attributes


async def test_no_engine_is_undetected_and_starts_are_temporary(tmp_path: Path) -> None:
    bench = DockerBench(tmp_path)
    async with bench.running({"endpoint": f"unix://{tmp_path}/nothing.sock"}) as driver:
        found = await driver.fingerprint()
        assert (found.detected, found.healthy) == (False, False)
        assert "nothing.sock" in found.health_description
        with pytest.raises(Temporary, match=r"nothing\.sock"):
            await driver.start_task(bench.shell("true"))
