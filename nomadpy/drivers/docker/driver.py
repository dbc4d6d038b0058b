"""The docker driver: see ``nomadpy.drivers.contract`` for what it promises.

One task follows the events of the engine for all containers. An end is learnt from its event, or, when events were
missed while the engine was away, from the list of containers that is asked for after each reconnect and from time to
time. An engine that does not answer never ends a task: it is asked again until it does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio

from nomadpy.drivers import schema, signals
from nomadpy.drivers.contract import (
    FS_IMAGE,
    Capabilities,
    DriverContext,
    ExecProcess,
    ExitResult,
    Fingerprint,
    TaskConfig,
    TaskHandle,
)
from nomadpy.drivers.docker import containers, facts, ports
from nomadpy.drivers.docker.body import container_body, container_name
from nomadpy.drivers.docker.commands import run_command
from nomadpy.drivers.docker.containers import ContainerTask
from nomadpy.drivers.docker.engine import Engine, EngineRefused, Unreachable
from nomadpy.drivers.docker.images import Images
from nomadpy.drivers.docker.logs import LogFiles
from nomadpy.drivers.docker.options import TASK_SCHEMA, check_task_config, read_plugin_options
from nomadpy.drivers.docker.pump import pump_logs
from nomadpy.drivers.docker.usage import usage
from nomadpy.drivers.docker.watch import Watch
from nomadpy.model.alloc import TaskResourceUsage
from nomadpy.model.errors import Bug, Fatal, NotFound, Temporary

log = logging.getLogger(__name__)

NAME = "docker"
# How long the end of a task waits for its last words to be in the log files.
LOG_GRACE_S = 2.0
KILLED_WAIT_S = 30.0
RECORD_NAME = "docker-logs.json"


class _Running:
    """A task that this agent looks after."""

    def __init__(self, task_id: str, container: ContainerTask) -> None:
        self.task_id, self.container = task_id, container
        self.logs_done = trio.Event()
        self.last_stats: dict[str, Any] = {}


class DockerDriver:
    """Runs tasks as containers."""

    name = NAME
    capabilities = Capabilities(
        send_signals=True, exec=True, fs_isolation=FS_IMAGE, network_modes=("host", "bridge", "none")
    )

    def __init__(self, context: DriverContext) -> None:
        self.options, warnings = read_plugin_options(context.plugin_config, context.options)
        for warning in warnings:
            log.warning("docker.option.ignored", extra={"warning": warning})
        self._node_cpu_mhz = context.node_cpu_mhz
        self._engine = Engine(self.options)
        self._watch = Watch(self._engine, self.options, node_id=context.node_id)
        self._tasks: dict[str, _Running] = {}
        self._nursery: trio.Nursery | None = None
        self._images: Images | None = None
        self._n_cpus = 0

    def check_config(self, config: dict[str, Any]) -> list[str]:
        return check_task_config(config)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery, self._images = nursery, Images(self._engine, self.options, nursery)
                nursery.start_soon(self._watch.follow_events)
                nursery.start_soon(self._watch.sweep_regularly)
                task_status.started()
        finally:
            self._nursery = self._images = None
            with trio.CancelScope(shield=True):
                await self._engine.aclose()

    async def fingerprint(self) -> Fingerprint:
        try:
            version = await self._engine.call(lambda api: api.version(api_version=False))
            info = await self._engine.call(lambda api: api.info())
            self._n_cpus = int(info.get("NCPU") or 0)
            return facts.fingerprint(version, info, await self._default_bridge(), self.options)
        except (Unreachable, EngineRefused, NotFound) as error:
            return Fingerprint(health_description=f"Failed to connect to docker daemon: {error}")

    async def _default_bridge(self) -> dict[str, Any]:
        try:
            return dict(await self._engine.call(lambda api: api.inspect_network("bridge")))
        except NotFound:
            return {}  # the engine was started without one

    # --- a task's life ----------------------------------------------------------------------------------------------

    async def start_task(self, task: TaskConfig) -> TaskHandle:
        if task.id in self._tasks:
            raise Fatal(f'task "{task.id}" runs already')
        if problems := check_task_config(task.config):
            raise Fatal("; ".join(problems))
        try:
            config = schema.read(TASK_SCHEMA, task.config)
        except ValueError as error:
            raise Fatal(f"config: {error}") from error
        for warning in _without_effect(task, config):
            log.warning("docker.option.ignored", extra={"warning": warning, "task_id": task.id})
        image = await self._running_images().obtain(config, task.dirs.local_dir)
        self._running_images().use(image["Id"], task.id)
        try:
            return await self._start_container(task, config, image)
        except BaseException:
            self._release_image(image["Id"], task.id)
            raise

    async def _start_container(self, task: TaskConfig, config: dict[str, Any], image: dict[str, Any]) -> TaskHandle:
        body = container_body(task, config, self.options, image_id=image["Id"], n_cpus=await self._count_cpus())
        name = container_name(task)
        if any(other.container.container_name == name for other in self._unfinished()):
            raise Temporary(f'the container "{name}" of an earlier attempt still runs')
        attempts = config.get("container_exists_attempts") or self.options.container_exists_attempts
        container_id = await containers.create(self._engine, name, body, attempts=attempts)
        self._watch.expect(container_id)
        try:
            await containers.start(self._engine, container_id)
            inspected = await self._engine.call(lambda api: api.inspect_container(container_id))
        except BaseException:
            # Nobody will have a handle for it.
            self._watch.forget(container_id)
            with trio.move_on_after(KILLED_WAIT_S, shield=True):
                await self._remove_quietly(container_id)
            raise
        container = self._describe(task, config, container_id, image)
        self._take_over(task.id, container)
        published = ports.published_ports(task, config) if ports.publishes(ports.network_mode(task, config)) else []
        network = ports.driver_network(inspected, published, ipv6=config.get("advertise_ipv6_address", False))
        log.info("docker.container.started", extra={"task_id": task.id, "container": container_id})
        return TaskHandle(driver=NAME, task_id=task.id, state=msgspec.to_builtins(container), network=network)

    def _describe(
        self, task: TaskConfig, config: dict[str, Any], container_id: str, image: dict[str, Any]
    ) -> ContainerTask:
        return ContainerTask(
            container_id=container_id,
            container_name=container_name(task),
            image_id=image["Id"],
            task_name=task.task_name,
            stop_signal=task.kill_signal or (image.get("Config") or {}).get("StopSignal") or "SIGTERM",
            tty=config.get("tty", False),
            collect_logs=not (task.log_config.disabled or self.options.disable_log_collection),
            logs_dir=task.dirs.logs_dir,
            private_dir=task.dirs.private_dir,
            max_files=task.log_config.max_files,
            max_file_size_mb=task.log_config.max_file_size_mb,
            node_cpu_mhz=task.limits.node_cpu_mhz or self._node_cpu_mhz,
        )

    async def recover_task(self, handle: TaskHandle) -> None:
        if handle.task_id in self._tasks:
            return
        try:
            container = msgspec.convert(handle.state, ContainerTask)
        except msgspec.ValidationError as error:
            raise NotFound(f'the handle of task "{handle.task_id}" is not one of docker: {error}') from error
        container_id = container.container_id
        self._watch.expect(container_id)
        try:
            inspected = await self._engine.call(lambda api: api.inspect_container(container_id))
        except NotFound:
            self._watch.forget(container_id)
            raise
        except (Unreachable, EngineRefused) as error:
            # The engine may only be slower to come up than this agent; the watch finds out when it answers.
            log.warning("docker.recover.postponed", extra={"task_id": handle.task_id, "error": str(error)})
        else:
            self._watch.note(container_id, inspected)
        self._running_images().use(container.image_id, handle.task_id)
        self._take_over(handle.task_id, container)

    def _take_over(self, task_id: str, container: ContainerTask) -> None:
        running = self._tasks[task_id] = _Running(task_id, container)
        if container.collect_logs:
            self._running_nursery().start_soon(self._pump, running)
        else:
            running.logs_done.set()

    async def _pump(self, running: _Running) -> None:
        container = running.container
        try:
            files = LogFiles(
                logs_dir=container.logs_dir,
                task_name=container.task_name,
                record_path=os.path.join(container.private_dir or container.logs_dir, RECORD_NAME),
                container_id=container.container_id,
                max_bytes=container.max_file_size_mb << 20,
                max_files=container.max_files,
            )
        except OSError as error:
            log.error("docker.logs.not_opened", extra={"task_id": running.task_id, "error": str(error)})
            running.logs_done.set()
            return
        try:
            over = self._watch.over
            container_id = container.container_id
            await pump_logs(self._engine, container_id, files, tty=container.tty, over=lambda: over(container_id))
        finally:
            files.close()
            running.logs_done.set()

    async def wait_task(self, task_id: str) -> ExitResult:
        running = self._find(task_id)
        result = await self._watch.wait(running.container.container_id)
        with trio.move_on_after(LOG_GRACE_S):
            await running.logs_done.wait()
        return result

    async def stop_task(self, task_id: str, *, signal: str, timeout_s: float) -> None:
        container = self._find(task_id).container
        number = signals.number(signal or container.stop_signal)
        container_id = container.container_id
        if self._watch.ended(container_id) or not await containers.kill(self._engine, container_id, str(number)):
            await self._confirm_end(container_id)
            return
        with trio.move_on_after(max(0.0, timeout_s)):
            await self._watch.wait(container_id)
            return
        await containers.kill(self._engine, container_id, "SIGKILL")
        await self._confirm_end(container_id)

    async def _confirm_end(self, container_id: str) -> None:
        await self._watch.check(container_id)
        with trio.move_on_after(KILLED_WAIT_S):
            await self._watch.wait(container_id)
            return
        raise Temporary(f"the container {container_id[:12]} does not end, not even after SIGKILL")

    async def destroy_task(self, task_id: str, *, force: bool = False) -> None:
        running = self._tasks.get(task_id)
        if running is None:
            return
        container_id = running.container.container_id
        if not self._watch.ended(container_id):
            if not force:
                raise Temporary(f'task "{task_id}" still runs; it is destroyed only with force')
            await containers.kill(self._engine, container_id, "SIGKILL")
            await self._confirm_end(container_id)
        with trio.move_on_after(LOG_GRACE_S):
            await running.logs_done.wait()
        if self.options.gc_container:
            await containers.remove(self._engine, container_id)
        self._watch.forget(container_id)
        self._tasks.pop(task_id, None)
        self._release_image(running.container.image_id, task_id)

    # --- a running task ---------------------------------------------------------------------------------------------

    async def signal_task(self, task_id: str, signal: str) -> None:
        number = signals.number(signal)
        container_id = self._find(task_id).container.container_id
        if not await containers.kill(self._engine, container_id, str(number)):
            raise Temporary(f'task "{task_id}" does not run')

    async def task_stats(self, task_id: str) -> TaskResourceUsage:
        running = self._find(task_id)
        container = running.container
        now = await self._engine.call(lambda api: api.stats(container.container_id, stream=False, one_shot=True))
        last, running.last_stats = running.last_stats, now
        return usage(now, last, node_cpu_mhz=container.node_cpu_mhz, now_ns=time.time_ns())

    @asynccontextmanager
    async def exec_task(self, task_id: str, command: list[str], *, tty: bool = False) -> AsyncIterator[ExecProcess]:
        """Runs a command in the container; leaving the context ends it."""
        async with run_command(self._engine, self._find(task_id).container.container_id, command, tty=tty) as process:
            yield process

    # --- odds -------------------------------------------------------------------------------------------------------

    def _find(self, task_id: str) -> _Running:
        try:
            return self._tasks[task_id]
        except KeyError:
            raise NotFound(f'docker knows no task "{task_id}"') from None

    def _unfinished(self) -> list[_Running]:
        return [task for task in self._tasks.values() if not self._watch.ended(task.container.container_id)]

    async def _count_cpus(self) -> int:
        if not self._n_cpus:
            self._n_cpus = int((await self._engine.call(lambda api: api.info()))["NCPU"])
        return self._n_cpus

    async def _remove_quietly(self, container_id: str) -> None:
        try:
            await containers.remove(self._engine, container_id)
        except Temporary as error:
            log.warning("docker.container.not_removed", extra={"container": container_id, "error": str(error)})

    def _release_image(self, image_id: str, task_id: str) -> None:
        if self._images is not None:
            self._images.release(image_id, task_id)

    def _running_images(self) -> Images:
        if self._images is None:
            raise Bug("the docker driver is used before it runs")
        return self._images

    def _running_nursery(self) -> trio.Nursery:
        if self._nursery is None:
            raise Bug("the docker driver is used before it runs")
        return self._nursery


def _without_effect(task: TaskConfig, config: dict[str, Any]) -> list[str]:
    """What is accepted because job files hold it, and is not or only partly done here."""
    found = [f'option "{name}" has no effect' for name in ("cpuset_cpus", "isolation") if config.get(name)]
    if (task.network_mode == "bridge" or task.network_mode.startswith("cni/")) and not config.get("network_mode"):
        found.append(
            f'group network mode "{task.network_mode}": the container gets a namespace of its own on the default '
            "bridge with the group's ports published; it does not share localhost with other tasks of the group"
        )
    return found
