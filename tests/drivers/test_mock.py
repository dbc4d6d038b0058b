from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from nomadpy.drivers.contract import DriverContext, ExitResult, TaskConfig, TaskDirs
from nomadpy.drivers.mock import MockDriver
from nomadpy.model.errors import Fatal, Invalid, Temporary


@pytest.fixture
async def driver() -> AsyncIterator[MockDriver]:
    mock = MockDriver(DriverContext())
    async with trio.open_nursery() as nursery:
        await nursery.start(mock.run)
        yield mock
        nursery.cancel_scope.cancel()


def read_now(path: Path) -> str:
    """The text of a file, read without a thread: waiting for one would let the clock jump."""
    return path.read_text()


def task(dirs: TaskDirs | None = None, **config: Any) -> TaskConfig:
    return TaskConfig(id="a/web/1", task_name="web", config=config, dirs=dirs or TaskDirs())


async def test_it_runs_for_as_long_as_told(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h", exit_code=3, exit_signal=9, exit_err_msg="oh"))
    assert await driver.wait_task("a/web/1") == ExitResult(exit_code=3, signal=9, error="oh")
    assert trio.current_time() == 3600


async def test_starting_takes_time_and_may_fail(autojump_clock: MockClock, driver: MockDriver) -> None:
    with pytest.raises(Fatal, match="no"):
        await driver.start_task(task(start_block_for="10s", start_error="no"))
    assert trio.current_time() == 10
    with pytest.raises(Temporary, match="later"):
        await driver.start_task(task(start_error="later", start_error_recoverable=True))


async def test_it_resists_being_stopped(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h", kill_after="4s"))
    await driver.stop_task("a/web/1", signal="SIGTERM", timeout_s=5)
    assert trio.current_time() == 4
    assert await driver.wait_task("a/web/1") == ExitResult(exit_code=143, signal=15)


async def test_too_much_resistance_is_killed(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h", kill_after="60s"))
    await driver.stop_task("a/web/1", signal="SIGTERM", timeout_s=5)
    assert trio.current_time() == 5
    assert (await driver.wait_task("a/web/1")).signal == 9


async def test_signals_may_fail(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h", signal_error="deaf"))
    with pytest.raises(Temporary, match="deaf"):
        await driver.signal_task("a/web/1", "SIGHUP")


async def test_it_prints_again_and_again(autojump_clock: MockClock, driver: MockDriver, tmp_path: Path) -> None:
    config = {"stdout_string": "x\n", "stdout_repeat": 3, "stdout_repeat_duration": "2s"}
    await driver.start_task(task(TaskDirs(logs_dir=str(tmp_path)), run_for="1h", **config))
    for lines in (1, 2, 3, 4, 4):
        await wait_all_tasks_blocked()
        assert read_now(tmp_path / "web.stdout.0") == "x\n" * lines
        await trio.sleep(2)


async def test_it_makes_itself_unhealthy(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h", plugin_exit_after="30s"))
    assert (await driver.fingerprint()).healthy
    await trio.sleep(31)
    assert not (await driver.fingerprint()).healthy


async def test_a_command_beside_it_echoes(autojump_clock: MockClock, driver: MockDriver) -> None:
    beside = [{"run_for": "5s", "exit_code": 4, "stdout_string": "hi "}]
    await driver.start_task(task(run_for="1h", exec_command=beside))
    async with driver.exec_task("a/web/1", ["anything"]) as process:
        await process.send_stdin(b"there")
        await process.send_stdin(b"")
        assert b"".join([data async for _, data in process.output()]) == b"hi there"
        assert (await process.wait()).exit_code == 4


async def test_without_exec_command_there_is_none(autojump_clock: MockClock, driver: MockDriver) -> None:
    await driver.start_task(task(run_for="1h"))
    with pytest.raises(Invalid, match="exec_command"):
        async with driver.exec_task("a/web/1", ["sh"]):
            pytest.fail("it ran")


async def test_a_network_of_its_own_is_told(autojump_clock: MockClock, driver: MockDriver) -> None:
    handle = await driver.start_task(task(driver_ip="10.1.2.3", driver_port_map="web:80", driver_advertise=True))
    assert handle.network is not None
    assert (handle.network.ip, handle.network.port_map, handle.network.auto_advertise) == (
        "10.1.2.3",
        {"web": 80},
        True,
    )
