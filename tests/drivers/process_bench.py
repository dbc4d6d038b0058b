"""Process drivers on this machine, for tests: tasks by a few words, and nothing left at the end.

Run as a program it is the smallest agent: it reads a task from standard input, starts it, tells its handle and waits.
"""

from __future__ import annotations

import os
import secrets
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from nomadpy.drivers.contract import DriverContext, ExitResult, TaskConfig, TaskDirs, TaskHandle, TaskLimits
from nomadpy.drivers.exec import ExecDriver
from nomadpy.drivers.java import JavaDriver
from nomadpy.drivers.process import ProcessDriver
from nomadpy.drivers.raw_exec import RawExecDriver
from nomadpy.model.errors import NotFound
from nomadpy.model.service import LogConfig

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE_S = 15.0


class ProcessBench:
    """Starts tasks of one driver."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.handles: list[TaskHandle] = []
        self._driver: ProcessDriver | None = None

    @asynccontextmanager
    async def running(self, **context: Any) -> AsyncIterator[ProcessDriver]:
        """A new driver; leaving is the agent's end, not the tasks'."""
        driver = make_driver(self.name, self.root, **context)
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            self._driver = driver
            yield driver
            nursery.cancel_scope.cancel()

    def task(self, config: dict[str, Any], **fields: Any) -> TaskConfig:
        """A task with a fresh allocation directory."""
        alloc_id = str(uuid.uuid4())
        defaults: dict[str, Any] = {
            "id": f"{alloc_id}/web/{secrets.token_hex(4)}",
            "alloc_id": alloc_id,
            "task_name": "web",
            "config": config,
            "env": {"PATH": PATH},
            "limits": TaskLimits(cpu_shares=100, node_cpu_mhz=4000, memory_mb=64),
            "dirs": make_dirs(self.root / alloc_id),
            "log_config": LogConfig(max_files=3, max_file_size_mb=1),
        }
        return TaskConfig(**defaults | fields)

    def shell(self, script: str, **fields: Any) -> TaskConfig:
        """A task that runs a shell script."""
        extra = fields.pop("config", {})
        return self.task({"command": "/bin/sh", "args": ["-c", script], **extra}, **fields)

    async def start(self, task: TaskConfig) -> TaskHandle:
        assert self._driver is not None
        with trio.fail_after(PATIENCE_S):
            handle = await self._driver.start_task(task)
        self.handles.append(handle)
        return handle

    async def run(self, task: TaskConfig) -> tuple[ExitResult, str]:
        """How a short task ended, and what it wrote to standard output."""
        assert self._driver is not None
        await self.start(task)
        with trio.fail_after(PATIENCE_S):
            result = await self._driver.wait_task(task.id)
        return result, self.log(task)

    def log(self, task: TaskConfig, stream: str = "stdout") -> str:
        """What the task wrote, as far as one file holds it."""
        return Path(task.dirs.logs_dir, f"{task.task_name}.{stream}.0").read_text()

    async def clean(self) -> None:
        """Ends and removes what was started here."""
        async with self.running() as driver:
            for handle in self.handles:
                try:
                    await driver.recover_task(handle)
                except NotFound:
                    continue
                with trio.fail_after(PATIENCE_S):
                    await driver.destroy_task(handle.task_id, force=True)


def make_driver(name: str, root: Path, **context: Any) -> ProcessDriver:
    """The driver of that name, as an agent makes it."""
    if name == "raw_exec":
        context["plugin_config"] = {"enabled": True, **context.get("plugin_config", {})}
    kinds = {"raw_exec": RawExecDriver, "exec": ExecDriver, "java": JavaDriver}
    return kinds[name](DriverContext(data_dir=str(root), node_cpu_mhz=4000, **context))


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


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits until ``condition`` holds; fails naming ``what`` when it does not in time."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            if condition():
                return
            await trio.sleep(0.01)
    pytest.fail(f"did not happen in time: {what}")


async def _small_agent(name: str, root: Path) -> None:
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=TaskConfig)
    driver = make_driver(name, root)
    handle = await driver.start_task(task)
    sys.stdout.buffer.write(msgspec.json.encode(handle) + b"\n")
    sys.stdout.buffer.flush()
    await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_small_agent, sys.argv[1], Path(sys.argv[2]))
