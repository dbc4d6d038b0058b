"""A docker driver on the real engine, for tests: one throw-away allocation directory and dull defaults."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from nomadpy.drivers.contract import DriverContext, ExitResult, TaskConfig, TaskDirs, TaskHandle, TaskLimits
from nomadpy.drivers.docker import DockerDriver
from nomadpy.model.service import LogConfig

IMAGE = "busybox:nomadpy"
# The images of these tests are the machine's own, so no driver here may remove them.
KEEP_IMAGES: dict[str, Any] = {"gc": [{"image": False}]}


class DockerBench:
    """Starts tasks by a few words and removes what is left at the end."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.driver: DockerDriver | None = None
        self.handles: list[TaskHandle] = []

    @asynccontextmanager
    async def running(self, plugin: dict[str, Any] | None = None, **context: Any) -> AsyncIterator[DockerDriver]:
        """A new driver, as after an agent's (re)start; what it started goes on when the context is left."""
        driver = DockerDriver(DriverContext(plugin_config=KEEP_IMAGES | (plugin or {}), **context))
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            self.driver = driver
            try:
                yield driver
            finally:
                nursery.cancel_scope.cancel()

    def task(self, *command: str, name: str = "web", config: dict[str, Any] | None = None, **fields: Any) -> TaskConfig:
        """A task that runs a command of busybox."""
        alloc_id = fields.pop("alloc_id", None) or str(uuid.uuid4())
        words = {"command": command[0], "args": list(command[1:])} if command else {}
        return TaskConfig(
            id=f"{alloc_id}/{name}/{uuid.uuid4().hex[:8]}",
            alloc_id=alloc_id,
            task_name=name,
            node_id=fields.pop("node_id", "5d1c0ffe-0000-0000-0000-000000000001"),
            config={"image": IMAGE, **words, **(config or {})},
            dirs=make_dirs(self.root / alloc_id, name),
            limits=fields.pop("limits", TaskLimits(cpu_shares=100, node_cpu_mhz=4000, memory_mb=32)),
            log_config=fields.pop("log_config", LogConfig(max_files=3, max_file_size_mb=1)),
            **fields,
        )

    def shell(self, script: str, **fields: Any) -> TaskConfig:
        """A task that runs a shell script."""
        return self.task("/bin/sh", "-c", script, **fields)

    async def start(self, task: TaskConfig) -> TaskHandle:
        assert self.driver is not None
        handle = await self.driver.start_task(task)
        self.handles.append(handle)
        return handle

    async def run(self, task: TaskConfig) -> tuple[ExitResult, str]:
        """How a short task ended, and what it wrote to its standard output."""
        assert self.driver is not None
        handle = await self.start(task)
        with trio.fail_after(30):
            result = await self.driver.wait_task(handle.task_id)
        return result, read_log(task)

    async def remove_all(self) -> None:
        """Removes every container that was started here."""
        async with self.running() as driver:
            for handle in self.handles:
                api = driver._engine
                container_id = handle.state["container_id"]
                try:
                    await api.call(lambda sdk, one=container_id: sdk.remove_container(one, force=True, v=True))
                except Exception as error:
                    if "No such container" not in str(error):
                        raise


def make_dirs(alloc_dir: Path, task_name: str) -> TaskDirs:
    """The directories that the client makes for a task."""
    shared, task_dir = alloc_dir / "alloc", alloc_dir / task_name
    for directory in (shared / "logs", shared / "data", task_dir / "local", task_dir / "secrets", task_dir / "private"):
        os.makedirs(directory, exist_ok=True)
    return TaskDirs(
        alloc_dir=str(alloc_dir),
        shared_dir=str(shared),
        logs_dir=str(shared / "logs"),
        task_dir=str(task_dir),
        local_dir=str(task_dir / "local"),
        secrets_dir=str(task_dir / "secrets"),
        private_dir=str(task_dir / "private"),
    )


def read_log(task: TaskConfig, stream: str = "stdout") -> str:
    """Everything that a task wrote, over all its log files in order."""
    prefix = f"{task.task_name}.{stream}."
    names = [name for name in os.listdir(task.dirs.logs_dir) if name.startswith(prefix)]
    names.sort(key=lambda name: int(name.removeprefix(prefix)))
    return "".join(Path(task.dirs.logs_dir, name).read_bytes().decode() for name in names)


def read_file(*parts: str) -> str:
    """The text of a file."""
    return Path(*parts).read_text()


class EngineProxy:
    """A way to the real engine that can be cut: an engine that goes away and comes back, as clients see it."""

    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.path = f"{root}/engine.sock"
        self.endpoint = f"unix://{self.path}"
        self._nursery = nursery
        self._scope = trio.CancelScope()

    async def open(self) -> None:
        """Lets clients through."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(self.path)
        listening.listen(64)
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._serve, listener, self._scope)

    async def cut(self) -> None:
        """Breaks every connection and refuses new ones."""
        os.unlink(self.path)
        self._scope.cancel()
        await trio.lowlevel.checkpoint()

    async def _serve(self, listener: trio.SocketListener, scope: trio.CancelScope) -> None:
        with scope:
            await trio.serve_listeners(self._forward, [listener])

    async def _forward(self, client: trio.SocketStream) -> None:
        async with client, await trio.open_unix_socket("/var/run/docker.sock") as engine, trio.open_nursery() as both:
            both.start_soon(self._copy, client, engine)
            await self._copy(engine, client)
            both.cancel_scope.cancel()

    @staticmethod
    async def _copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            async for data in source:
                await target.send_all(data)
            await target.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side hung up: the other notices by its own


async def eventually(condition: Any, *, within_s: float = 10.0, what: str = "") -> None:
    """Waits until a condition (plain or async) holds; fails when it never does."""
    with trio.move_on_after(within_s):
        while True:
            holds = condition()
            if hasattr(holds, "__await__"):
                holds = await holds
            if holds:
                return
            await trio.sleep(0.02)
    raise AssertionError(f"not within {within_s:g} s: {what or condition}")
