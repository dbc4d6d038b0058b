"""Containers outlive agents and engines: what the docker driver finds again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from docker_bench import DockerBench, EngineProxy, eventually, read_log

from nomadpy.model.errors import Temporary

pytestmark = pytest.mark.docker


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[DockerBench]:
    bench = DockerBench(tmp_path)
    yield bench
    await bench.remove_all()


async def test_a_running_task_is_taken_over(bench: DockerBench) -> None:
    async with bench.running():
        handle = await bench.start(bench.shell("trap 'exit 5' TERM; while :; do sleep 0.05; done"))
    async with bench.running() as driver:
        await driver.recover_task(handle)
        await driver.stop_task(handle.task_id, signal="SIGTERM", timeout_s=10)
        assert (await driver.wait_task(handle.task_id)).exit_code == 5


async def test_an_end_without_an_agent_is_told(bench: DockerBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.shell("exit 9"))
        await driver.wait_task(handle.task_id)
    async with bench.running() as driver:
        await driver.recover_task(handle)
        assert (await driver.wait_task(handle.task_id)).exit_code == 9
        await driver.destroy_task(handle.task_id)


async def test_no_line_is_lost_or_doubled_over_agent_restarts(bench: DockerBench) -> None:
    pause = "[ $((i % 60)) = 0 ] && sleep 0.02"
    script = (
        f"i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; [ $((i % 7)) = 0 ] && echo e$i >&2; {pause}; done"
    )
    task = bench.shell(script + "; echo end")
    async with bench.running():
        handle = await bench.start(task)
        await eventually(lambda: "line 100\n" in read_log(task))
    for _ in range(3):
        async with bench.running() as driver:
            await driver.recover_task(handle)
            before = len(read_log(task))
            await eventually(lambda before=before: len(read_log(task)) > before or "end" in read_log(task))
    async with bench.running() as driver:
        await driver.recover_task(handle)
        await driver.wait_task(handle.task_id)
    assert read_log(task) == "".join(f"line {i}\n" for i in range(1, 3001)) + "end\n"
    assert read_log(task, "stderr") == "".join(f"e{i}\n" for i in range(7, 3001, 7))


async def test_an_engine_that_goes_away_ends_no_task(bench: DockerBench, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        proxy = EngineProxy(tmp_path, nursery)
        await proxy.open()
        async with bench.running({"endpoint": proxy.endpoint}) as driver:
            task = bench.shell("echo up; while [ ! -e /local/go ]; do sleep 0.05; done; echo done; exit 4")
            handle = await bench.start(task)
            await eventually(lambda: "up" in read_log(task))
            await proxy.cut()
            assert not (await driver.fingerprint()).healthy
            with pytest.raises(Temporary):
                await driver.signal_task(handle.task_id, "SIGHUP")
            with trio.move_on_after(0.5) as waited:
                await driver.wait_task(handle.task_id)
            assert waited.cancelled_caught, "an engine that does not answer is no end"
            # The task ends while nobody can see it.
            await trio.Path(task.dirs.local_dir, "go").touch()
            await trio.sleep(0.3)
            await proxy.open()
            with trio.fail_after(15):
                assert (await driver.wait_task(handle.task_id)).exit_code == 4
            assert (await driver.fingerprint()).healthy
            assert read_log(task) == "up\ndone\n"
        nursery.cancel_scope.cancel()


async def test_recovering_before_the_engine_is_up_waits_for_it(bench: DockerBench, tmp_path: Path) -> None:
    async with bench.running():
        handle = await bench.start(bench.shell("exit 6"))
    async with trio.open_nursery() as nursery:
        proxy = EngineProxy(tmp_path, nursery)
        async with bench.running({"endpoint": proxy.endpoint}) as driver:
            await driver.recover_task(handle)
            await proxy.open()
            with trio.fail_after(15):
                assert (await driver.wait_task(handle.task_id)).exit_code == 6
        nursery.cancel_scope.cancel()


async def test_a_container_that_no_task_owns_is_cleared_away(bench: DockerBench) -> None:
    mine, other = "11111111-0000-0000-0000-000000000001", "22222222-0000-0000-0000-000000000002"
    async with bench.running():
        orphan = await bench.start(bench.shell("sleep 60", node_id=mine))
        known = await bench.start(bench.shell("sleep 60", node_id=mine))
        foreign = await bench.start(bench.shell("sleep 60", node_id=other))
    grace = {"gc": [{"image": False, "dangling_containers": [{"creation_grace": "0s"}]}]}
    async with bench.running(grace, node_id=mine) as driver:
        await driver.recover_task(known)
        # The engine tells when a container was made in whole seconds.
        await trio.sleep(1.1)
        await driver._watch._remove_dangling()
        left = await driver._engine.call(lambda api: {found["Id"] for found in api.containers(all=True)})
        assert orphan.state["container_id"] not in left
        assert {known.state["container_id"], foreign.state["container_id"]} <= left


async def test_young_containers_have_time_to_be_recovered(bench: DockerBench) -> None:
    node_id = "11111111-0000-0000-0000-000000000003"
    async with bench.running():
        young = await bench.start(bench.shell("sleep 60", node_id=node_id))
    async with bench.running(node_id=node_id) as driver:
        await driver._watch._remove_dangling()
        await driver.recover_task(young)
