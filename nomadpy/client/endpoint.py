"""What the HTTP API asks of a node about its allocations, with Nomad's texts and status codes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from nomadpy.client import files, logs
from nomadpy.client.stats import HostMeter, sum_usage
from nomadpy.client.task import Phase
from nomadpy.drivers.contract import ExecProcess
from nomadpy.model.alloc import AllocResourceUsage
from nomadpy.model.errors import Forbidden, Invalid, NomadError, NotFound, TimedOut
from nomadpy.rpc.contract import ExecSession, FileInfo, HostStats, StreamChunk

if TYPE_CHECKING:
    from nomadpy.client.alloc_runner import AllocRunner
    from nomadpy.client.config import ClientConfig
    from nomadpy.client.devices import DeviceWatch
    from nomadpy.client.gc import GarbageCollector
    from nomadpy.client.ports import Ports


class NodeEndpoint:
    """The reading and ordering side of a client; ``Client`` supplies the runners."""

    node_id: str
    config: ClientConfig
    runners: dict[str, AllocRunner]
    _ports: Ports
    _devices: DeviceWatch
    _gc: GarbageCollector
    _meter: HostMeter | None = None

    def has_alloc(self, alloc_id: str) -> bool:
        """Whether this node runs or remembers the allocation."""
        return alloc_id in self.runners

    def _runner(self, alloc_id: str) -> AllocRunner:
        runner = self.runners.get(alloc_id)
        if runner is None:
            raise NotFound(f'Unknown allocation "{alloc_id}"')
        return runner

    # -- statistics --------------------------------------------------------------------------------------------------

    async def host_stats(self) -> HostStats:
        """What the machine uses now; processor shares are those since the last call."""
        if self._meter is None:
            raise TimedOut("the client has not looked at its host yet")
        stats = await trio.to_thread.run_sync(self._meter.read, self._ports.wall_ns())
        return stats.replace(device_stats=await self._devices.stats())

    async def alloc_stats(self, alloc_id: str, task: str = "") -> AllocResourceUsage:
        """What the allocation's running tasks use now."""
        runner = self._runner(alloc_id)
        wanted = [runner.runner(task)] if task else list(runner.tasks.values())
        usages = {}
        for task_runner in wanted:
            if task_runner.phase is not Phase.RUNNING:
                continue
            try:
                usages[task_runner.name] = await task_runner.stats()
            except NomadError:
                if task:
                    raise
                # A task that ended while the others were asked simply uses nothing any more.
        return sum_usage(usages, self._ports.wall_ns())

    # -- orders ------------------------------------------------------------------------------------------------------

    async def alloc_restart(self, alloc_id: str, task: str = "", *, all_tasks: bool = False) -> None:
        """Restarts one task, all running tasks, or with ``all_tasks`` also those that are dead."""
        self._runner(alloc_id).restart(task, all_tasks=all_tasks)

    async def alloc_signal(self, alloc_id: str, task: str, signal: str) -> None:
        """Sends a signal to one task or, with "", to all running ones."""
        await self._runner(alloc_id).signal(task, signal)

    async def alloc_gc(self, alloc_id: str) -> None:
        """Removes one terminal allocation from the node's disk. Raises Invalid when it still runs."""
        runner = self._runner(alloc_id)
        if not runner.finished:
            raise Invalid("Failed to garbage collect: allocation is not in a terminal state", status=500)
        await self._gc.collect(runner)

    async def gc_all(self) -> None:
        """Removes every terminal allocation from the node's disk."""
        await self._gc.collect_all()

    # -- files -------------------------------------------------------------------------------------------------------

    async def fs_list(self, alloc_id: str, path: str) -> list[FileInfo]:
        """The entries of a directory inside the allocation directory."""
        runner = self._runner(alloc_id)
        return await trio.to_thread.run_sync(files.list_dir, runner.dir, path, list(runner.tasks))

    async def fs_stat(self, alloc_id: str, path: str) -> FileInfo:
        """One entry."""
        runner = self._runner(alloc_id)
        return await trio.to_thread.run_sync(files.stat_path, runner.dir, path, list(runner.tasks))

    async def fs_read(self, alloc_id: str, path: str, offset: int = 0, limit: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a file from ``offset``; ``limit`` 0 reads to the end."""
        runner = self._runner(alloc_id)
        file = await trio.to_thread.run_sync(files.open_readable, runner.dir, path, list(runner.tasks))
        return files.FileChunks(file, offset, limit)

    @asynccontextmanager
    async def fs_stream(
        self, alloc_id: str, path: str, *, offset: int, origin: str, follow: bool
    ) -> AsyncIterator[AsyncIterator[StreamChunk]]:
        """Follows one file."""
        runner = self._runner(alloc_id)
        start = files.Start.check(offset, origin)
        file = await trio.to_thread.run_sync(files.open_readable, runner.dir, path, list(runner.tasks))
        file.seek(start.position(os.fstat(file.fileno()).st_size))
        stream = files.follow_file(file, runner.dir, path, follow=follow)
        try:
            yield stream
        finally:
            await stream.aclose()
            file.close()

    @asynccontextmanager
    async def logs(
        self, alloc_id: str, task: str, log_type: str, *, offset: int, origin: str, follow: bool
    ) -> AsyncIterator[AsyncIterator[StreamChunk]]:
        """Follows a task's log over its rotated files; without ``follow`` it ends at the end."""
        runner = self._runner(alloc_id)
        if not task:
            raise Invalid("must provide task name")
        if log_type not in ("stdout", "stderr"):
            raise Invalid("must provide log type (stdout/stderr)")
        start = files.Start.check(offset, origin)
        if not runner.started(task):
            raise NotFound(f'task "{task}" not started yet. No logs available')
        directory = runner.logs_dir()
        prefix = f"{task}.{log_type}"
        begin = await trio.to_thread.run_sync(logs.find_start, directory, prefix, start)
        stream = logs.follow_logs(directory, prefix, begin, follow=follow)
        try:
            yield stream
        finally:
            await stream.aclose()

    # -- exec --------------------------------------------------------------------------------------------------------

    def exec(
        self, alloc_id: str, task: str, command: list[str], *, tty: bool
    ) -> AbstractAsyncContextManager[ExecSession]:
        """Runs a command in a running task."""
        return self._exec(alloc_id, task, command, tty=tty)

    @asynccontextmanager
    async def _exec(self, alloc_id: str, task: str, command: list[str], *, tty: bool) -> AsyncIterator[ExecSession]:
        if self.config.disable_remote_exec:
            raise Forbidden("Permission denied")
        runner = self._runner(alloc_id)
        if not task:
            raise Invalid("must provide task name")
        if not command:
            raise Invalid("command is not present")
        status = runner.client_status()
        if status != "running":
            raise Invalid(f"exec not possible, client status of allocation {alloc_id} is {status}", status=500)
        task_runner = runner.runner(task)
        if not runner.started(task):
            raise NotFound(f'task "{task}" not started yet.')
        if task_runner.phase is not Phase.RUNNING:
            raise NotFound(f'task "{task}" is not running.')
        async with task_runner.driver.exec_task(task_runner.running_id(), command, tty=tty) as process:
            yield _Session(process)


class _Session:
    """A driver's process as the API knows it."""

    def __init__(self, process: ExecProcess) -> None:
        self._process = process

    async def send_stdin(self, data: bytes) -> None:
        """Feeds the command; empty bytes close its input."""
        await self._process.send_stdin(data)

    async def resize(self, height: int, width: int) -> None:
        """Sets the size of its terminal."""
        await self._process.resize(height, width)

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """("stdout" | "stderr", data) until the command has ended."""
        return self._process.output()

    async def wait(self) -> int:
        """Its exit code."""
        return (await self._process.wait()).exit_code
