"""mock_driver: tasks that exist only in memory and do what their options say, for tests and rehearsals.

Options, names and meanings follow Nomad's driver of this name. Time is the trio clock's, so tests with an autojump
clock need not wait; a handle also stores the wall clock, by which a later process finds out how much is left.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from nomadpy.drivers import schema, signals
from nomadpy.drivers.contract import (
    FS_NONE,
    Capabilities,
    DriverContext,
    DriverNetwork,
    ExecProcess,
    ExitResult,
    Fingerprint,
    TaskConfig,
    TaskHandle,
)
from nomadpy.drivers.executor.logs import RotatedLog
from nomadpy.drivers.schema import BLOCK, BOOL, DURATION, INT, STRING, Option
from nomadpy.model.alloc import ResourceUsage, ResourceUsageCpu, ResourceUsageMemory, TaskResourceUsage
from nomadpy.model.errors import Fatal, Invalid, NotFound, Temporary

RUN_OPTIONS = {
    "run_for": Option(DURATION, help="how long it runs; 0 ends at once"),
    "exit_code": Option(INT, help="its exit code"),
    "exit_signal": Option(INT, help="the signal that it seems to die of"),
    "exit_err_msg": Option(STRING, help="the driver's error at its end"),
    "signal_error": Option(STRING, help="the error that signalling it gives"),
    "kill_after": Option(DURATION, help="how long it resists being stopped"),
    "stdout_string": Option(STRING, help="what it prints"),
    "stdout_repeat": Option(INT, help="how many times more it prints that"),
    "stdout_repeat_duration": Option(DURATION, help="the time between two prints"),
}
OPTIONS = {
    **RUN_OPTIONS,
    "start_error": Option(STRING, help="the error that starting gives"),
    "start_error_recoverable": Option(BOOL, help="whether another attempt may help"),
    "start_block_for": Option(DURATION, help="how long starting takes"),
    "plugin_exit_after": Option(DURATION, help="when, after the start, the driver itself turns unhealthy"),
    "driver_ip": Option(STRING, help="the address of the task's own network"),
    "driver_advertise": Option(BOOL, help="whether that address is announced"),
    "driver_port_map": Option(STRING, help="one port of that network as label:port"),
    "exec_command": Option(BLOCK, block=RUN_OPTIONS, help="what any command beside the task does"),
}
PLUGIN_OPTIONS = {
    "fs_isolation": Option(STRING, help="what the driver claims: none, chroot or image"),
    "shutdown_periodic_after": Option(BOOL, help="whether it turns unhealthy after shutdown_periodic_duration"),
    "shutdown_periodic_duration": Option(INT, help="seconds until then"),
}
HANDLE_VERSION = 1
SIGKILL = 9
# Which trio clock a handle's deadline belongs to.
_CLOCK = secrets.token_hex(8)


@dataclass
class _MockTask:
    options: Mapping[str, Any]
    ends_at_s: float
    stopped: trio.Event = field(default_factory=trio.Event)
    result: ExitResult | None = None
    signals: list[int] = field(default_factory=list)

    def own_end(self) -> ExitResult:
        """How it ends when nobody stops it."""
        return ExitResult(
            exit_code=self.options.get("exit_code", 0),
            signal=self.options.get("exit_signal", 0),
            error=self.options.get("exit_err_msg", ""),
        )

    def over(self) -> bool:
        """Whether it has ended; fixes the result when its time is up."""
        if self.result is None and trio.current_time() >= self.ends_at_s:
            self.result = self.own_end()
        return self.result is not None

    async def wait(self, timeout_s: float = float("inf")) -> bool:
        """Waits for its end; False when ``timeout_s`` passed first."""
        until = min(self.ends_at_s, trio.current_time() + timeout_s)
        with trio.move_on_at(until):
            await self.stopped.wait()
        return self.over()

    def end(self, number: int) -> None:
        """Ends it by a signal, unless it is over."""
        if not self.over():
            self.result = ExitResult(exit_code=128 + number, signal=number)
            self.stopped.set()


class MockDriver:
    """See the module and ``contract.Driver``."""

    name = "mock_driver"

    def __init__(self, context: DriverContext) -> None:
        problems = schema.check(PLUGIN_OPTIONS, context.plugin_config)
        if problems:
            raise Fatal(f'plugin "{self.name}": {"; ".join(problems)}')
        self._plugin = schema.read(PLUGIN_OPTIONS, context.plugin_config)
        self.capabilities = Capabilities(exec=True, fs_isolation=self._plugin.get("fs_isolation", FS_NONE))
        self._tasks: dict[str, _MockTask] = {}
        self._nursery: trio.Nursery | None = None
        self._unhealthy_at_s = float("inf")

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """See ``contract.Driver``."""
        return schema.check(OPTIONS, config)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Prints what tasks print repeatedly."""
        if self._plugin.get("shutdown_periodic_after"):
            self._unhealthy_at_s = trio.current_time() + self._plugin.get("shutdown_periodic_duration", 0)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def fingerprint(self) -> Fingerprint:
        """Always there; unhealthy once a task or the operator said so."""
        if trio.current_time() >= self._unhealthy_at_s:
            return Fingerprint(detected=True, health_description="the mock driver was told to become unhealthy")
        attributes = {"driver.mock_driver": "1"}
        return Fingerprint(detected=True, healthy=True, health_description="Healthy", attributes=attributes)

    async def start_task(self, task: TaskConfig) -> TaskHandle:
        """See ``contract.Driver``."""
        problems = self.check_config(task.config)
        if problems:
            raise Fatal(f"mock_driver config: {'; '.join(problems)}")
        if task.id in self._tasks:
            raise Fatal(f"task {task.id} was already started")
        options = schema.read(OPTIONS, task.config)
        await trio.sleep(options.get("start_block_for", 0.0))
        if options.get("start_error"):
            raise (Temporary if options.get("start_error_recoverable") else Fatal)(options["start_error"])
        run_for_s = options.get("run_for", 0.0)
        if "plugin_exit_after" in options:
            self._unhealthy_at_s = min(self._unhealthy_at_s, trio.current_time() + options["plugin_exit_after"])
        mock = self._tasks[task.id] = _MockTask(options, trio.current_time() + run_for_s)
        self._print(task, mock)
        state = {
            "clock": _CLOCK,
            "ends_at_s": mock.ends_at_s,
            "ends_at_wall_s": time.time() + run_for_s,
            "options": dict(options),
        }
        network = _network(options)
        return TaskHandle(driver=self.name, task_id=task.id, version=HANDLE_VERSION, state=state, network=network)

    async def recover_task(self, handle: TaskHandle) -> None:
        """See ``contract.Driver``."""
        if handle.task_id in self._tasks:
            return
        state = handle.state
        if handle.version != HANDLE_VERSION or "ends_at_s" not in state or state.get("destroyed"):
            raise NotFound(f"nothing is left of task {handle.task_id}")
        ends_at_s = float(state["ends_at_s"])
        if state.get("clock") != _CLOCK:
            ends_at_s = trio.current_time() + float(state["ends_at_wall_s"]) - time.time()
        self._tasks[handle.task_id] = _MockTask(dict(state["options"]), ends_at_s)

    async def wait_task(self, task_id: str) -> ExitResult:
        """See ``contract.Driver``."""
        mock = self._task(task_id)
        await mock.wait()
        assert mock.result is not None
        return mock.result

    async def stop_task(self, task_id: str, *, signal: str, timeout_s: float) -> None:
        """See ``contract.Driver``. A task resists for ``kill_after`` and is killed when that takes too long."""
        mock = self._task(task_id)
        number = signals.number(signal or "SIGINT")
        if mock.over():
            return
        resistance_s = mock.options.get("kill_after", 0.0)
        await mock.wait(min(resistance_s, timeout_s))
        mock.end(number if resistance_s <= timeout_s else SIGKILL)

    async def destroy_task(self, task_id: str, *, force: bool = False) -> None:
        """See ``contract.Driver``."""
        mock = self._tasks.get(task_id)
        if mock is None:
            return
        if not mock.over():
            if not force:
                raise Temporary(f"task {task_id} is still running; stop it first or force")
            mock.end(SIGKILL)
        del self._tasks[task_id]

    async def signal_task(self, task_id: str, signal: str) -> None:
        """See ``contract.Driver``. The task takes no notice, unless the signal is one that cannot be ignored."""
        mock = self._task(task_id)
        number = signals.number(signal)
        if mock.options.get("signal_error"):
            raise Temporary(mock.options["signal_error"])
        if mock.over():
            raise Temporary(f"task {task_id} is not running")
        mock.signals.append(number)
        if number == SIGKILL:
            mock.end(SIGKILL)

    async def task_stats(self, task_id: str) -> TaskResourceUsage:
        """Nothing, since nothing runs."""
        self._task(task_id)
        usage = ResourceUsage(memory_stats=ResourceUsageMemory(), cpu_stats=ResourceUsageCpu())
        return TaskResourceUsage(resource_usage=usage, timestamp_ns=time.time_ns())

    @asynccontextmanager
    async def exec_task(self, task_id: str, command: list[str], *, tty: bool = False) -> AsyncIterator[ExecProcess]:
        """Whatever ``command``, what happens is ``exec_command``. Raises Invalid when the task has none."""
        mock = self._task(task_id)
        options = mock.options.get("exec_command")
        if options is None:
            raise Invalid(f"task {task_id} has no exec_command")
        yield MockCommand(options)

    def _task(self, task_id: str) -> _MockTask:
        mock = self._tasks.get(task_id)
        if mock is None:
            raise NotFound(f"unknown task {task_id}")
        return mock

    def _print(self, task: TaskConfig, mock: _MockTask) -> None:
        text = mock.options.get("stdout_string", "")
        if not text or task.log_config.disabled:
            return
        output = RotatedLog(
            f"{task.dirs.logs_dir}/{task.task_name}.stdout",
            max_files=task.log_config.max_files,
            max_bytes=task.log_config.max_file_size_mb << 20,
        )
        output.write(text.encode())
        if not mock.options.get("stdout_repeat"):
            output.close()
        elif self._nursery is None:
            raise Fatal("stdout_repeat needs the driver's run()")
        else:
            self._nursery.start_soon(_print_again, mock, output)


class MockCommand:
    """A command beside a mock task; see ``contract.ExecProcess``. It prints its text and then echoes its input."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._inputs_in, self._inputs = trio.open_memory_channel[bytes](64)
        self._ends_at_s = trio.current_time() + options.get("run_for", 0.0)
        self.sizes: list[tuple[int, int]] = []

    async def send_stdin(self, data: bytes) -> None:
        """See ``contract.ExecProcess``."""
        if data:
            await self._inputs_in.send(data)
        else:
            self._inputs_in.close()

    async def resize(self, height: int, width: int) -> None:
        """See ``contract.ExecProcess``."""
        self.sizes.append((height, width))

    async def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """See ``contract.ExecProcess``."""
        if self._options.get("stdout_string"):
            yield "stdout", self._options["stdout_string"].encode()
        while trio.current_time() < self._ends_at_s:
            data = b""
            with trio.move_on_at(self._ends_at_s):
                try:
                    data = await self._inputs.receive()
                except trio.EndOfChannel:
                    await trio.sleep_until(self._ends_at_s)
            if data:
                yield "stdout", data

    async def wait(self) -> ExitResult:
        """See ``contract.ExecProcess``."""
        await trio.sleep_until(self._ends_at_s)
        return ExitResult(exit_code=self._options.get("exit_code", 0), signal=self._options.get("exit_signal", 0))


async def _print_again(mock: _MockTask, output: RotatedLog) -> None:
    try:
        for _ in range(mock.options["stdout_repeat"]):
            if await mock.wait(mock.options.get("stdout_repeat_duration", 0.0)):
                return
            output.write(mock.options["stdout_string"].encode())
    finally:
        output.close()


def _network(options: Mapping[str, Any]) -> DriverNetwork | None:
    if not options.get("driver_ip"):
        return None
    label, _, port = options.get("driver_port_map", "").partition(":")
    ports = {label: int(port)} if label and port.isdecimal() else {}
    return DriverNetwork(ip=options["driver_ip"], port_map=ports, auto_advertise=bool(options.get("driver_advertise")))
