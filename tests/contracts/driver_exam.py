"""The exam that every task driver has to pass: what the client relies on, whatever the driver runs tasks with.

To examine a driver, write a ``DriverBench`` (how its tasks are made to do simple things), and have a test module
provide it as the fixture ``bench`` and import everything here (see test_drivers.py). What a driver cannot do by its
nature is left out of ``can``; a driver's package may run this exam as it is.
"""

from __future__ import annotations

import os
import secrets
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from nomadpy.drivers.contract import Driver, ExecProcess, ExitResult, TaskConfig, TaskDirs, TaskHandle, TaskLimits
from nomadpy.model.errors import Fatal, Invalid, NomadError, NotFound
from nomadpy.model.service import LogConfig

# What a bench may be able to do beyond the plain.
ENV, TRAP, HOG, FLOOD, EXEC, TTY, CHILD, IMPOSSIBLE, STATS, STDERR = (
    *("env", "trap", "hog", "flood", "exec", "tty", "child", "impossible", "stats", "stderr"),
)
EVERYTHING = frozenset((ENV, TRAP, HOG, FLOOD, EXEC, TTY, CHILD, IMPOSSIBLE, STATS, STDERR))
PATIENCE_S = 30.0


class DriverBench(Protocol):
    """How one driver's tasks are made to do simple things. Each method but ``make`` gives a task's ``config``."""

    name: str
    can: frozenset[str]
    memory_mb: int  # of each task; ``hogs`` is asked for much more

    def make(self, data_dir: Path) -> Driver:
        """A new instance, as a freshly started agent has it."""

    def prepare(self, dirs: TaskDirs) -> None:
        """Puts what its tasks need into a fresh allocation directory."""

    def forever(self) -> dict[str, Any]:
        """Runs until it is stopped, and ends at a polite signal."""

    def exits(self, code: int) -> dict[str, Any]:
        """Ends by itself, soon."""

    def runs_for(self, seconds: float, code: int) -> dict[str, Any]:
        """Ends by itself after a while."""

    def prints(self, text: str) -> dict[str, Any]:
        """Writes one line to standard output and ends."""

    def bad(self) -> dict[str, Any]:
        """A config with a misspelt option."""

    def complains(self, text: str) -> dict[str, Any]:
        """Writes one line to standard error and ends. (STDERR)"""

    def prints_env(self, name: str) -> dict[str, Any]:
        """Writes the value of an environment variable and ends. (ENV)"""

    def traps(self, signal: str) -> dict[str, Any]:
        """Writes ``ready``; at the signal (a name without SIG) writes ``caught`` and exits with 7. (TRAP)"""

    def stubborn(self) -> dict[str, Any]:
        """Writes ``ready`` and ignores SIGINT and SIGTERM. (TRAP)"""

    def hogs(self, megabytes: int) -> dict[str, Any]:
        """Uses that much memory. (HOG)"""

    def floods(self, lines: int) -> dict[str, Any]:
        """Writes the numbers 1…lines, each padded to 99 characters, and ends. (FLOOD)"""

    def leaves_child(self, path_in_task: str) -> dict[str, Any]:
        """Starts a child in a session of its own that appends to the file for ever, and exits with 0. (CHILD)"""

    def path_in_task(self, name: str) -> str:
        """How a task names the file ``name`` of the shared allocation directory. (CHILD)"""

    def impossible(self) -> dict[str, Any]:
        """A valid config that names something that does not exist: ``does-not-exist``. (IMPOSSIBLE)"""


class World:
    """A place for tasks on this machine, and the driver instances that look after them."""

    def __init__(self, bench: DriverBench, root: Path) -> None:
        self.bench = bench
        self.root = root
        self.handles: list[TaskHandle] = []
        self._stack = AsyncExitStack()

    def task(self, config: dict[str, Any], **fields: Any) -> TaskConfig:
        """A task with a fresh allocation directory."""
        alloc_id = str(uuid.uuid4())
        dirs = make_dirs(self.root / alloc_id)
        self.bench.prepare(dirs)
        defaults: dict[str, Any] = {
            "id": f"{alloc_id}/web/{secrets.token_hex(4)}",
            "alloc_id": alloc_id,
            "task_name": "web",
            "node_id": "5d1c0ffe-0000-0000-0000-000000000001",
            "config": config,
            "env": {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
            "limits": TaskLimits(cpu_shares=100, node_cpu_mhz=4000, memory_mb=self.bench.memory_mb),
            "dirs": dirs,
            "log_config": LogConfig(max_files=3, max_file_size_mb=1),
        }
        return TaskConfig(**defaults | fields)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Driver]:
        """A driver whose background work runs; leaving is the agent's end, not the tasks'."""
        driver = self.bench.make(self.root)
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            yield driver
            nursery.cancel_scope.cancel()

    async def start(self, driver: Driver, config: dict[str, Any], **fields: Any) -> TaskConfig:
        """Starts a task and remembers its handle, so that nothing is left over."""
        task = self.task(config, **fields)
        with trio.fail_after(PATIENCE_S):
            self.handles.append(await driver.start_task(task))
        return task

    async def clean(self) -> None:
        """Removes every task that was started here, with a driver that knows them by their handles only."""
        async with self.driver() as driver:
            for handle in self.handles:
                try:
                    await driver.recover_task(handle)
                except NotFound:
                    continue
                with trio.fail_after(PATIENCE_S):
                    await driver.destroy_task(handle.task_id, force=True)


def make_dirs(alloc_dir: Path) -> TaskDirs:
    """The directories that the client makes for a task called web."""
    shared, task_dir = alloc_dir / "alloc", alloc_dir / "web"
    for directory in (shared / "logs", shared / "data", task_dir / "local", task_dir / "secrets", task_dir / "private"):
        directory.mkdir(parents=True)
    for directory in (shared, task_dir / "local"):
        os.chmod(directory, 0o777)
    return TaskDirs(
        alloc_dir=str(alloc_dir),
        shared_dir=str(shared),
        logs_dir=str(shared / "logs"),
        task_dir=str(task_dir),
        local_dir=str(task_dir / "local"),
        secrets_dir=str(task_dir / "secrets"),
        private_dir=str(task_dir / "private"),
    )


def log_files(task: TaskConfig, stream: str = "stdout") -> list[Path]:
    """The task's log files, oldest first."""
    found = Path(task.dirs.logs_dir).glob(f"{task.task_name}.{stream}.*")
    return sorted(found, key=lambda path: int(path.suffix[1:]))


def log_text(task: TaskConfig, stream: str = "stdout") -> str:
    """Everything that is still there of what the task wrote."""
    return "".join(path.read_text() for path in log_files(task, stream))


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]], what: str) -> None:
    """Waits until ``condition`` holds; fails naming ``what`` when it does not in time."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            answer = condition()
            if answer is True or (not isinstance(answer, bool) and await answer):
                return
            await trio.sleep(0.02)
    pytest.fail(f"did not happen in time: {what}")


async def first_chunk(process: ExecProcess) -> tuple[str, bytes]:
    """The first output of a command; the rest is not wanted."""
    chunks = process.output()
    try:
        return await anext(chunks)
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


async def ended(driver: Driver, task: TaskConfig) -> ExitResult:
    """How the task ended, soon."""
    with trio.fail_after(PATIENCE_S):
        return await driver.wait_task(task.id)


@pytest.fixture(autouse=True)
def abilities(request: pytest.FixtureRequest, bench: DriverBench) -> None:
    """Skips a test for a driver whose nature it is not to do what the test is about."""
    mark = request.node.get_closest_marker("needs")
    missing = sorted(set(mark.args) - bench.can) if mark else []
    if missing:
        pytest.skip(f"{bench.name} does not do: {', '.join(missing)}")


@pytest.fixture
async def world(bench: DriverBench, tmp_path: Path) -> AsyncIterator[World]:
    # Directories above pytest's own may be closed to the unprivileged users of isolated tasks.
    place = World(bench, tmp_path)
    yield place
    await place.clean()


@pytest.fixture(autouse=True)
def no_descriptors_leak() -> Iterator[None]:
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before + 2


# --- ends -------------------------------------------------------------------------------------------------------------


async def test_a_task_that_ends_well(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.exits(0))
        result = await ended(driver, task)
        assert result.replace(finished_at_ns=0) == ExitResult()
        assert result.successful()


async def test_an_exit_code_is_told_to_everybody_who_waits(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.exits(42))
        results = []

        async def wait() -> None:
            results.append(await ended(driver, task))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait)
        assert {(result.exit_code, result.signal, result.error) for result in results} == {(42, 0, "")}
        assert (await ended(driver, task)).exit_code == 42


async def test_waiting_may_be_given_up_without_harm(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with trio.move_on_after(0.1) as scope:
            await driver.wait_task(task.id)
        assert scope.cancelled_caught
        await driver.stop_task(task.id, signal="", timeout_s=PATIENCE_S)
        assert not (await ended(driver, task)).successful()


@pytest.mark.needs(HOG)
async def test_a_task_over_its_memory_is_killed_and_it_says_why(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.hogs(world.bench.memory_mb + 250))
        result = await ended(driver, task)
        assert result.oom_killed
        assert not result.successful()


@pytest.mark.needs(CHILD)
async def test_what_a_task_leaves_running_ends_with_it(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.leaves_child(world.bench.path_in_task("beats")))
        assert (await ended(driver, task)).exit_code == 0
        beats = trio.Path(task.dirs.shared_dir, "beats")
        size = (await beats.stat()).st_size
        assert size > 0
        await trio.sleep(0.3)  # Long enough for three beats of a child that lives on.
        assert (await beats.stat()).st_size == size


# --- stopping ---------------------------------------------------------------------------------------------------------


@pytest.mark.needs(TRAP)
async def test_stopping_politely_lets_the_task_end_by_itself(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.traps("TERM"))
        await until(lambda: "ready" in log_text(task), "the task is ready")
        with trio.fail_after(PATIENCE_S):
            await driver.stop_task(task.id, signal="SIGTERM", timeout_s=PATIENCE_S)
        assert (await ended(driver, task)).exit_code == 7
        assert "caught" in log_text(task)


@pytest.mark.needs(TRAP)
async def test_stopping_insists_when_the_task_does_not_listen(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.stubborn())
        await until(lambda: "ready" in log_text(task), "the task is ready")
        with trio.fail_after(PATIENCE_S):
            await driver.stop_task(task.id, signal="SIGTERM", timeout_s=0.3)
        result = await ended(driver, task)
        assert (result.exit_code, result.oom_killed) == (137, False)


async def test_stopping_twice_and_stopping_what_is_over_is_fine(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.exits(3))
        await ended(driver, task)
        for _ in range(2):
            with trio.fail_after(PATIENCE_S):
                await driver.stop_task(task.id, signal="", timeout_s=5)
        assert (await ended(driver, task)).exit_code == 3


async def test_a_running_task_is_destroyed_only_by_force(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with pytest.raises(NomadError):
            await driver.destroy_task(task.id)
        with trio.fail_after(PATIENCE_S):
            await driver.destroy_task(task.id, force=True)
        with pytest.raises(NotFound):
            await driver.wait_task(task.id)


async def test_destroying_again_and_destroying_the_unknown_is_fine(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.exits(0))
        await ended(driver, task)
        for task_id in (task.id, task.id, "never/heard/of"):
            await driver.destroy_task(task_id)


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_a_bad_config_is_named_and_never_retried(world: World) -> None:
    async with world.driver() as driver:
        problems = driver.check_config(world.bench.bad())
        assert problems
        with pytest.raises(Fatal) as caught:
            await driver.start_task(world.task(world.bench.bad()))
        assert problems[0] in str(caught.value)


@pytest.mark.needs(IMPOSSIBLE)
async def test_what_does_not_exist_is_named(world: World) -> None:
    async with world.driver() as driver:
        assert driver.check_config(world.bench.impossible()) == []
        with trio.fail_after(PATIENCE_S), pytest.raises(NomadError, match="does-not-exist"):
            await driver.start_task(world.task(world.bench.impossible()))


async def test_a_good_config_has_no_problems(world: World) -> None:
    async with world.driver() as driver:
        assert driver.check_config(world.bench.forever()) == []
        fingerprint = await driver.fingerprint()
        assert fingerprint.detected
        assert fingerprint.healthy
        assert fingerprint.attributes[f"driver.{world.bench.name}"] == "1"


# --- output and surroundings ------------------------------------------------------------------------------------------


async def test_output_is_found_in_the_log_files(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.prints("a line of text"))
        await ended(driver, task)
        await until(lambda: log_text(task) == "a line of text\n", "the line is in the log")


@pytest.mark.needs(STDERR)
async def test_errors_have_log_files_of_their_own(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.complains("woe"))
        await ended(driver, task)
        await until(lambda: "woe\n" in log_text(task, "stderr"), "the line is in the log")
        assert log_text(task) == ""


async def test_disabled_logs_leave_no_files(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.prints("nobody reads this"), log_config=LogConfig(disabled=True))
        await ended(driver, task)
        assert log_files(task) == []


@pytest.mark.needs(FLOOD)
async def test_logs_are_rotated_between_lines_and_the_oldest_go(world: World) -> None:
    lines = 45_000  # of 100 bytes: four and a half files, of which three are kept
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.floods(lines))
        await ended(driver, task)
        await until(lambda: f"{lines}".ljust(99) in log_text(task), "the last line is in the log")
        files = log_files(task)
        assert [path.suffix for path in files] == [".2", ".3", ".4"]
        assert all(path.stat().st_size <= (1 << 20) + (32 << 10) for path in files)
        assert all(path.read_bytes().endswith(b"\n") for path in files)
        numbers = [int(line) for line in log_text(task).splitlines()]
        assert numbers == list(range(numbers[0], lines + 1))


@pytest.mark.needs(ENV)
async def test_the_environment_is_what_the_client_gave(world: World) -> None:
    async with world.driver() as driver:
        task = world.task(world.bench.prints_env("GREETING"))
        task = task.replace(env={**task.env, "GREETING": "hello  = 'wörld' $HOME"})
        world.handles.append(await driver.start_task(task))
        await ended(driver, task)
        await until(lambda: log_text(task) == "hello  = 'wörld' $HOME\n", "the value is in the log")


# --- signals, stats, commands beside ----------------------------------------------------------------------------------


@pytest.mark.needs(TRAP)
async def test_a_signal_arrives(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.traps("HUP"))
        await until(lambda: "ready" in log_text(task), "the task is ready")
        await driver.signal_task(task.id, "SIGHUP")
        assert (await ended(driver, task)).exit_code == 7


async def test_an_invalid_signal_is_named(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with pytest.raises(Invalid, match="invalid signal: SIGNOTHING"):
            await driver.signal_task(task.id, "SIGNOTHING")


@pytest.mark.needs(STATS)
async def test_usage_is_plausible(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        first = await driver.task_stats(task.id)
        second = await driver.task_stats(task.id)
        assert 0 < second.resource_usage.memory_stats.usage < 512 << 20
        assert second.resource_usage.memory_stats.measured
        assert 0 <= second.resource_usage.cpu_stats.percent < 10_000
        assert second.timestamp_ns > first.timestamp_ns


@pytest.mark.needs(EXEC)
async def test_a_command_beside_the_task(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with trio.fail_after(PATIENCE_S):
            async with driver.exec_task(task.id, ["sh", "-c", "cat; echo oh >&2; exit 5"]) as process:
                await process.send_stdin(b"hello\n")
                await process.send_stdin(b"")
                output = [chunk async for chunk in process.output()]
                result = await process.wait()
        assert b"".join(data for name, data in output if name == "stdout") == b"hello\n"
        assert b"".join(data for name, data in output if name == "stderr") == b"oh\n"
        assert result.exit_code == 5


@pytest.mark.needs(TTY)
async def test_a_command_on_a_terminal(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with trio.fail_after(PATIENCE_S):
            async with driver.exec_task(task.id, ["sh", "-c", "read x; stty size; exit 6"], tty=True) as process:
                await process.resize(33, 101)
                await process.send_stdin(b"go\n")
                output = b"".join([data async for _, data in process.output()])
                assert (await process.wait()).exit_code == 6
        assert b"33 101" in output


@pytest.mark.needs(EXEC)
async def test_leaving_a_command_ends_it(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
        with trio.fail_after(PATIENCE_S):
            async with driver.exec_task(task.id, ["sh", "-c", "echo up; sleep 1000"]) as process:
                assert await first_chunk(process) == ("stdout", b"up\n")
        await driver.stop_task(task.id, signal="", timeout_s=PATIENCE_S)


# --- a new agent ------------------------------------------------------------------------------------------------------


async def test_a_new_agent_takes_a_running_task_over(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
    async with world.driver() as driver:
        await driver.recover_task(world.handles[0])
        with trio.move_on_after(0.1) as scope:
            await driver.wait_task(task.id)
        assert scope.cancelled_caught, "it still runs"
        with trio.fail_after(PATIENCE_S):
            await driver.stop_task(task.id, signal="", timeout_s=PATIENCE_S)
        assert not (await ended(driver, task)).successful()


async def test_a_new_agent_learns_of_an_end_that_nobody_saw(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.runs_for(0.5, 19))
    await trio.sleep(1.5)  # The task ends meanwhile.
    async with world.driver() as driver:
        await driver.recover_task(world.handles[0])
        assert (await ended(driver, task)).exit_code == 19


async def test_a_new_agent_sees_the_end_of_a_task_it_took_over(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.runs_for(1.0, 23))
    async with world.driver() as driver:
        await driver.recover_task(world.handles[0])
        assert (await ended(driver, task)).exit_code == 23


async def test_handles_survive_storage_as_json(world: World) -> None:
    import msgspec

    async with world.driver() as driver:
        task = await world.start(driver, world.bench.forever())
    handle = msgspec.json.decode(msgspec.json.encode(world.handles[0]), type=TaskHandle)
    async with world.driver() as driver:
        await driver.recover_task(handle)
        await driver.recover_task(handle)
        await driver.stop_task(task.id, signal="", timeout_s=PATIENCE_S)


async def test_what_is_gone_is_not_found(world: World) -> None:
    async with world.driver() as driver:
        task = await world.start(driver, world.bench.exits(0))
        await ended(driver, task)
        await driver.destroy_task(task.id)
    if world.bench.name == "mock_driver":
        return  # Its tasks live in their handles.
    async with world.driver() as driver:
        with pytest.raises(NotFound):
            await driver.recover_task(world.handles[0])


async def test_the_unknown_is_not_found(world: World) -> None:
    async with world.driver() as driver:
        with pytest.raises(NotFound):
            await driver.recover_task(TaskHandle(driver=world.bench.name, task_id="a/b/c", state={}))
        with pytest.raises(NotFound):
            await driver.wait_task("a/b/c")
        with pytest.raises(NotFound):
            await driver.signal_task("a/b/c", "SIGHUP")
        with pytest.raises(NotFound):
            await driver.task_stats("a/b/c")
