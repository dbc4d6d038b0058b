"""What happens around the start of a task besides the driver: directories, payload, volumes, and room for more.

Hooks run in order before each attempt. A hook that reports ``once`` is remembered and skipped after a restart of the
task or the agent. Artifacts, templates and identities are hooks of the same kind, given to the client by the agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from nomadpy.client import events as ev
from nomadpy.client.allocdir import AllocDir
from nomadpy.client.config import ClientConfig
from nomadpy.client.interpolate import Interpolator
from nomadpy.drivers.contract import DeviceNode, Mount, TaskDirs
from nomadpy.model.alloc import Allocation, AllocNetworkStatus, TaskEvent
from nomadpy.model.errors import Invalid, NomadError, NotFound
from nomadpy.model.job import Job, Task, TaskGroup
from nomadpy.model.node import Node

_PROPAGATION = {
    "": "private",
    "private": "private",
    "host-to-task": "rslave",
    "bidirectional": "rshared",
}


class HookFailed(NomadError):
    """A prestart hook could not do its part. The restart policy decides when it is recoverable."""

    code = "hook-failed"

    def __init__(self, event: TaskEvent, *, recoverable: bool) -> None:
        super().__init__(event.display_message)
        self.event = event
        self.recoverable = recoverable


class HookContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook sees of its task. ``tell`` adds an event to the task's list."""

    alloc: Allocation
    job: Job
    group: TaskGroup
    task: Task
    alloc_dir: AllocDir
    dirs: TaskDirs
    config: ClientConfig
    names: Interpolator
    fs_isolation: str
    now_ns: Callable[[], int]
    tell: Callable[[TaskEvent], None]


class HookResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook adds to the task. ``once``: it need not run again for this allocation."""

    env: Mapping[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    once: bool = False


class TaskHook(Protocol):
    """One thing done for a task at fixed moments of its life."""

    name: str

    def applies(self, task: Task) -> bool:
        """Whether the task needs it."""

    async def prestart(self, context: HookContext) -> HookResult:
        """Before each attempt. Raises HookFailed; any other NomadError counts as a recoverable failure."""

    async def started(self, context: HookContext) -> None:
        """After the driver has started the task, and after an agent restart has found it running."""

    async def stopping(self, context: HookContext) -> None:
        """Before the task is asked to stop (and before its shutdown delay)."""

    async def exited(self, context: HookContext) -> None:
        """After the task has ended, however it did."""


class AllocHookContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a hook of a whole allocation sees."""

    alloc: Allocation
    job: Job
    group: TaskGroup
    alloc_dir: AllocDir
    config: ClientConfig
    node: Node


class AllocHook(Protocol):
    """One thing done for an allocation as a whole: its network, its group's services."""

    name: str

    async def prerun(self, context: AllocHookContext) -> AllocNetworkStatus | None:
        """Before the first task, and again after an agent restart; may tell where the allocation can be reached.
        Raises NomadError, which fails the allocation's set-up."""

    async def stopping(self, context: AllocHookContext) -> None:
        """Before the tasks are stopped (and before the group's shutdown delay)."""

    async def postrun(self, context: AllocHookContext) -> None:
        """After the last task has ended; also when set-up failed half-way."""


class PrestartOnly:
    """Base of hooks that have nothing to do once the task runs."""

    async def started(self, context: HookContext) -> None:
        """Nothing follows the start."""

    async def stopping(self, context: HookContext) -> None:
        """Nothing precedes the stop."""

    async def exited(self, context: HookContext) -> None:
        """Nothing is left behind."""


class TaskDirHook(PrestartOnly):
    """The task's part of the allocation directory."""

    name = "task_dir"

    def applies(self, task: Task) -> bool:
        """Every task has one."""
        return True

    async def prestart(self, context: HookContext) -> HookResult:
        """Makes it, once."""
        context.tell(ev.task_setup(context.now_ns()))
        try:
            secrets_mb = context.task.resources.secrets_mb
            build = partial(context.alloc_dir.build_task, context.task.name, secrets_mb=secrets_mb)
            await trio.to_thread.run_sync(build)
        except OSError as error:
            event = ev.setup_failure(context.now_ns(), f"failed to build task directory: {error}")
            raise HookFailed(event, recoverable=True) from error
        return HookResult(once=True)


class DispatchPayloadHook(PrestartOnly):
    """The payload that a dispatch carried, as a file under ``local/``."""

    name = "dispatch_payload"

    def applies(self, task: Task) -> bool:
        """Tasks that name a file for it."""
        return task.dispatch_payload is not None and bool(task.dispatch_payload.file)

    async def prestart(self, context: HookContext) -> HookResult:
        """Writes the file."""
        assert context.task.dispatch_payload is not None
        if not context.job.payload:
            return HookResult(once=True)
        name = context.names.text(context.task.dispatch_payload.file)
        try:
            await trio.to_thread.run_sync(_write_inside, context.dirs.local_dir, name, context.job.payload)
        except (OSError, Invalid) as error:
            event = ev.setup_failure(context.now_ns(), f"failed to write dispatch payload: {error}")
            raise HookFailed(event, recoverable=False) from error
        return HookResult(once=True)


def _write_inside(base: str, name: str, content: bytes) -> None:
    target = Path(os.path.normpath(os.path.join(base, name.lstrip("/"))))
    target.parent.mkdir(parents=True, exist_ok=True)
    root = os.path.realpath(base)
    if not (os.path.realpath(target.parent) + os.sep).startswith(root + os.sep):
        raise Invalid(f'file "{name}" escapes the task\'s local directory')
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


class VolumeHook(PrestartOnly):
    """Host directories that the operator offers and the group asked for."""

    name = "volumes"

    def applies(self, task: Task) -> bool:
        """Tasks that mount something."""
        return bool(task.volume_mounts)

    async def prestart(self, context: HookContext) -> HookResult:
        """The mounts; nothing is made on disk."""
        mounts = []
        for wanted in context.task.volume_mounts:
            request = context.group.volumes.get(wanted.volume)
            if request is None:
                raise NotFound(f'volume_mount names the volume "{wanted.volume}", which the group does not have')
            if request.type != "host":
                raise _unsupported(context, f'volumes of type "{request.type}" are not supported by this client')
            source = f"{request.source}[{context.alloc.index}]" if request.per_alloc else request.source
            volume = context.config.host_volumes.get(source)
            if volume is None:
                raise NotFound(f'host volume "{source}" is not offered by this client')
            mount = Mount(
                host_path=volume.path,
                task_path=context.names.text(wanted.destination),
                read_only=volume.read_only or request.read_only or wanted.read_only,
                propagation=_PROPAGATION.get(wanted.propagation_mode, "private"),
            )
            mounts.append(mount)
        return HookResult(mounts=tuple(mounts))


class UnsupportedHook(PrestartOnly):
    """Refuses blocks that nobody acts on, so that no task runs without what it was promised."""

    name = "unsupported"

    def __init__(self, handled: frozenset[str]) -> None:
        self._handled = handled

    def applies(self, task: Task) -> bool:
        """Tasks with a block for which no hook was given."""
        return bool(self._missing(task))

    def _missing(self, task: Task) -> list[str]:
        wanted = {
            "artifacts": bool(task.artifacts),
            "templates": bool(task.templates),
            "vault": task.vault is not None,
            "secrets": bool(task.secrets),
        }
        return [name for name, present in wanted.items() if present and name not in self._handled]

    async def prestart(self, context: HookContext) -> HookResult:
        """Always fails."""
        names = ", ".join(self._missing(context.task))
        raise _unsupported(context, f"the task has {names}, which this client cannot provide")


def _unsupported(context: HookContext, message: str) -> HookFailed:
    return HookFailed(ev.setup_failure(context.now_ns(), message), recoverable=False)


def default_hooks(extra: tuple[TaskHook, ...] = ()) -> tuple[TaskHook, ...]:
    """The hooks of this client in their order; ``extra`` ones (artifacts, templates …) run last."""
    handled = frozenset(hook.name for hook in extra)
    return (TaskDirHook(), UnsupportedHook(handled), DispatchPayloadHook(), VolumeHook(), *extra)
