"""Tasks outlive the agent: what a new agent finds after the old one, an executor or both were killed with SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from process_bench import ProcessBench, until

from nomadpy.drivers.attempt import reap
from nomadpy.drivers.contract import TaskConfig, TaskHandle
from nomadpy.drivers.executor import procfs
from nomadpy.model.errors import NotFound

AGENT = Path(__file__).with_name("process_bench.py")


@pytest.fixture(params=["raw_exec", pytest.param("exec", marks=pytest.mark.exec)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProcessBench]:
    place = ProcessBench(tmp_path, request.param)
    yield place
    await place.clean()


@pytest.fixture
def agents() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for agent in started:
        agent.kill()
        agent.wait()
        assert agent.stdout is not None
        agent.stdout.close()


def run_agent(bench: ProcessBench, task: TaskConfig, agents: list[subprocess.Popen[bytes]]) -> TaskHandle:
    """Starts ``task`` from a process of its own, which is killed as soon as it has told the handle."""
    argv = [sys.executable, str(AGENT), bench.name, str(bench.root)]
    agent = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    agents.append(agent)
    assert agent.stdin is not None
    assert agent.stdout is not None
    agent.stdin.write(msgspec.json.encode(task))
    agent.stdin.close()
    handle = msgspec.json.decode(agent.stdout.readline(), type=TaskHandle)
    agent.send_signal(signal.SIGKILL)
    agent.wait()
    bench.handles.append(handle)
    return handle


async def test_killing_the_agent_changes_nothing_for_its_task(bench: ProcessBench, agents: list[Any]) -> None:
    task = bench.shell("echo one; while true; do sleep 0.05; [ -e $GO ] && exit 21; done")
    go = "/alloc/go" if bench.name == "exec" else f"{task.dirs.shared_dir}/go"
    task = task.replace(env={**task.env, "GO": go})
    handle = run_agent(bench, task, agents)
    async with bench.running() as driver:
        await driver.recover_task(handle)
        with trio.move_on_after(0.2) as scope:
            await driver.wait_task(task.id)
        assert scope.cancelled_caught, "it still runs"
        await trio.Path(task.dirs.shared_dir, "go").touch()
        with trio.fail_after(10):
            assert (await driver.wait_task(task.id)).exit_code == 21
    assert bench.log(task) == "one\n"


async def test_an_end_without_any_agent_is_not_lost(bench: ProcessBench, agents: list[Any]) -> None:
    task = bench.shell("sleep 0.3; echo late; exit 22")
    handle = run_agent(bench, task, agents)
    await until(lambda: Path(str(handle.state["run_dir"]), "exit").exists(), "the exit record is there")
    away_until_ns = time.time_ns()
    async with bench.running() as driver:
        await driver.recover_task(handle)
        result = await driver.wait_task(task.id)
        assert result.exit_code == 22
        assert int(handle.state["started_ns"]) < result.finished_at_ns <= away_until_ns
    assert bench.log(task) == "late\n"
    await until(lambda: not procfs.alive(int(handle.state["executor_pid"])), "the executor is gone")


async def test_a_killed_executor_is_an_error_and_leaves_nothing(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        task = bench.shell("sleep 1000 & wait")
        handle = await bench.start(task)
        os.kill(int(handle.state["executor_pid"]), signal.SIGKILL)
        with trio.fail_after(10):
            result = await driver.wait_task(task.id)
        assert "executor died" in result.error
        await until(lambda: not procfs.alive(int(handle.state["pid"])), "the task is gone")
    async with bench.running() as driver:
        await driver.recover_task(handle)
        assert "executor died" in (await driver.wait_task(task.id)).error


async def test_executor_and_agent_both_killed_is_not_found_and_leaves_nothing(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        handle = await bench.start(bench.shell("sleep 1000"))
    os.kill(int(handle.state["executor_pid"]), signal.SIGKILL)
    await until(lambda: not procfs.alive(int(handle.state["executor_pid"])), "the executor is gone")
    async with bench.running() as driver:
        with pytest.raises(NotFound):
            await driver.recover_task(handle)
    await until(lambda: not procfs.alive(int(handle.state["pid"])), "the task is gone")
    assert not any([await trio.Path(path).exists() for path in handle.state["cgroup"].values()])
    await reap(int(handle.state["executor_pid"]))


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


async def test_a_recycled_pid_is_not_killed(bench: ProcessBench, stranger: subprocess.Popen[bytes]) -> None:
    async with bench.running() as driver:
        task = bench.shell("exit 0")
        handle = await bench.start(task)
        await driver.wait_task(task.id)
    await trio.Path(str(handle.state["run_dir"]), "exit").unlink()
    forged = handle.replace(state={**handle.state, "pid": stranger.pid})
    async with bench.running() as driver:
        with pytest.raises(NotFound):
            await driver.recover_task(forged)
    assert stranger.poll() is None


async def test_an_attempt_that_nobody_remembers_ends_when_the_next_one_starts(bench: ProcessBench) -> None:
    task = bench.shell("sleep 1000")
    async with bench.running():
        forgotten = await bench.start(task)
    async with bench.running():
        await bench.start(task.replace(id=f"{task.id}2"))
        assert not procfs.alive(int(forgotten.state["pid"]))


async def test_a_task_whose_directory_vanished_does_not_go_on(bench: ProcessBench) -> None:
    async with bench.running():
        handle = await bench.start(bench.shell("sleep 1000"))
    shutil.rmtree(str(handle.state["run_dir"]))
    async with bench.running() as driver:
        with pytest.raises(NotFound):
            await driver.recover_task(handle)
    await until(lambda: not procfs.alive(int(handle.state["pid"])), "the task is gone")
    await reap(int(handle.state["executor_pid"]))


async def test_a_task_ends_when_its_agent_dies_before_it_heard_of_it(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        task = bench.shell("sleep 1000")
        with trio.CancelScope() as scope:
            scope.cancel()
            await driver.start_task(task)
        assert os.listdir(task.dirs.private_dir) == []
