"""What raw_exec, exec and java share: a task is one process below an executor of its own.

A concrete driver says, in ``plan``, what to run and how isolated; everything else is here. The files of an attempt are
in ``<private dir>/executor-<8 hex>``: ``spec`` (what was asked), ``state``, ``socket`` while it runs, ``exit`` after.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from nomadpy.drivers import cgroups, schema, signals, users
from nomadpy.drivers.attempt import (
    Attempt,
    conclude,
    kill_remains,
    reconnect,
    recorded_result,
    require_facts,
    spawn,
)
from nomadpy.drivers.beside import run_beside
from nomadpy.drivers.contract import (
    Capabilities,
    DriverContext,
    ExecProcess,
    ExitResult,
    Fingerprint,
    TaskConfig,
    TaskHandle,
)
from nomadpy.drivers.executor import procfs
from nomadpy.drivers.executor.wire import Pairs, encode
from nomadpy.model.alloc import TaskResourceUsage
from nomadpy.model.errors import Fatal, NotFound, Temporary

log = logging.getLogger(__name__)

HANDLE_VERSION = 1
KILL_TIMEOUT_S = 30.0
_RUN_DIR_PREFIX = "executor-"


@dataclass(frozen=True)
class Plan:
    """How one attempt is to run. ``isolation`` holds the pairs for the executor's chroot and namespaces; with
    ``enforce`` memory is limited and a cgroup is required; ``join`` replaces our own cgroup by given ones."""

    command: str
    args: tuple[str, ...]
    bin_dirs: tuple[str, ...]
    work_dir: str
    user: users.TaskUser | None = None
    isolation: Pairs = field(default_factory=list)
    enforce: bool = False
    join: tuple[str, ...] = ()
    oom_score_adj: int | None = None
    denied_envvars: tuple[str, ...] = ()


class ProcessDriver:
    """The driver protocol for processes; see ``contract.Driver``."""

    name = "process"
    capabilities = Capabilities(exec=True)
    options: schema.Schema = {}
    plugin_options: schema.Schema = {}

    def __init__(self, context: DriverContext) -> None:
        problems = schema.check(self.plugin_options, context.plugin_config)
        if problems:
            raise Fatal(f'plugin "{self.name}": {"; ".join(problems)}')
        self.context = context
        self.plugin: dict[str, Any] = schema.read(self.plugin_options, context.plugin_config)
        self._attempts: dict[str, Attempt] = {}
        self._core_mhz = context.node_cpu_mhz / (os.cpu_count() or 1)
        self._cgroups_missing = False

    def plan(self, task: TaskConfig, options: Mapping[str, Any]) -> Plan:
        """What to run for checked ``options``. May read files; runs in a thread. Raises Fatal."""
        raise NotImplementedError

    async def fingerprint(self) -> Fingerprint:
        """See ``contract.Driver``."""
        raise NotImplementedError

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """See ``contract.Driver``."""
        return schema.check(self.options, config)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing happens in the background, since executors are watched by whoever waits for their task; at the end
        it lets go of the executors, which go on."""
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            for attempt in self._attempts.values():
                attempt.close()

    async def start_task(self, task: TaskConfig) -> TaskHandle:
        """See ``contract.Driver``."""
        if task.id in self._attempts:
            raise Fatal(f"task {task.id} was already started")
        problems = self.check_config(task.config)
        if problems:
            raise Fatal(f"{self.name} config: {'; '.join(problems)}")
        await self._end_forgotten(task)
        run_dir, cgroup = await trio.to_thread.run_sync(self._prepare, task)
        try:
            executor_pid, answer, watch = await spawn(run_dir)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove_traces, run_dir, cgroup.paths())
            raise
        facts = {
            "run_dir": run_dir,
            "pid": answer.number("pid"),
            "start_ticks": answer.number("start_ticks"),
            "holder_pid": answer.number("holder_pid"),
            "boot_id": procfs.boot_id(),
            "executor_pid": executor_pid,
            "executor_is_child_of": os.getpid(),
            "cgroup": cgroup.directories,
            "started_ns": time.time_ns(),
            "kill_signal": task.kill_signal,
        }
        attempt = Attempt(facts, self._core_mhz)
        attempt.attach(watch)
        self._attempts[task.id] = attempt
        log.info("task.started", extra={"task": task.id, "driver": self.name, "pid": attempt.pid})
        return TaskHandle(driver=self.name, task_id=task.id, version=HANDLE_VERSION, state=facts)

    async def recover_task(self, handle: TaskHandle) -> None:
        """See ``contract.Driver``."""
        if handle.task_id in self._attempts:
            return
        if handle.version != HANDLE_VERSION:
            raise NotFound(f"handle of task {handle.task_id} has version {handle.version}, not {HANDLE_VERSION}")
        require_facts(handle.state)
        attempt = Attempt(handle.state, self._core_mhz)
        watch = await reconnect(attempt.run_dir)
        if watch is not None:
            attempt.attach(watch)
        else:
            attempt.result = await trio.to_thread.run_sync(recorded_result, attempt.run_dir)
            if attempt.result is None:
                # Nobody could reach what is left of it any more, so it must not go on.
                await trio.to_thread.run_sync(kill_remains, handle.state)
                await trio.to_thread.run_sync(_remove_traces, attempt.run_dir, attempt.cgroup.paths())
                raise NotFound(f"task {handle.task_id}: its executor is gone and left no exit record")
        self._attempts[handle.task_id] = attempt

    async def wait_task(self, task_id: str) -> ExitResult:
        """See ``contract.Driver``."""
        return await self._attempt(task_id).wait()

    async def stop_task(self, task_id: str, *, signal: str, timeout_s: float) -> None:
        """See ``contract.Driver``. The driver's own choice is SIGINT."""
        attempt = self._attempt(task_id)
        number = signals.number(signal or str(attempt.facts.get("kill_signal") or "") or "SIGINT")
        if attempt.result is not None:
            return
        await attempt.request([("do", "signal"), ("signal", str(number))])
        with trio.move_on_after(max(0.0, timeout_s)):
            await attempt.wait()
            return
        await self._kill(task_id, attempt)

    async def destroy_task(self, task_id: str, *, force: bool = False) -> None:
        """See ``contract.Driver``."""
        attempt = self._attempts.get(task_id)
        if attempt is None:
            return
        if attempt.result is None:
            if not force and procfs.start_ticks(attempt.pid) == int(attempt.facts["start_ticks"]):
                raise Temporary(f"task {task_id} is still running; stop it first or force")
            await self._kill(task_id, attempt)
        self._attempts.pop(task_id, None)
        attempt.close()
        left = await trio.to_thread.run_sync(_remove_traces, attempt.run_dir, attempt.cgroup.paths())
        if left:
            log.warning("task.cgroup_left", extra={"task": task_id, "cgroups": left})

    async def signal_task(self, task_id: str, signal: str) -> None:
        """See ``contract.Driver``."""
        number = signals.number(signal)
        attempt = self._attempt(task_id)
        if not await attempt.request([("do", "signal"), ("signal", str(number))]):
            raise Temporary(f"task {task_id} is not running")

    async def task_stats(self, task_id: str) -> TaskResourceUsage:
        """See ``contract.Driver``."""
        attempt = self._attempt(task_id)
        return await trio.to_thread.run_sync(attempt.sampler.sample, time.time_ns())

    def exec_task(
        self, task_id: str, command: list[str], *, tty: bool = False
    ) -> AbstractAsyncContextManager[ExecProcess]:
        """See ``contract.Driver``."""
        attempt = self._attempt(task_id)
        if attempt.result is not None:
            raise Temporary(f"task {task_id} is not running")
        holder_pid = int(attempt.facts.get("holder_pid") or 0)
        return run_beside(attempt.run_dir, holder_pid, command, tty=tty)

    def _attempt(self, task_id: str) -> Attempt:
        attempt = self._attempts.get(task_id)
        if attempt is None:
            raise NotFound(f"unknown task {task_id}")
        return attempt

    async def _kill(self, task_id: str, attempt: Attempt) -> None:
        await attempt.request([("do", "kill")])
        with trio.move_on_after(KILL_TIMEOUT_S):
            await attempt.wait()
            return
        raise Temporary(f"task {task_id} did not end within {KILL_TIMEOUT_S:g} s of being killed")

    # --- preparing an attempt (in a thread) -----------------------------------------------------------------------

    def _prepare(self, task: TaskConfig) -> tuple[str, cgroups.Cgroup]:
        """The run directory with the specification in it, and the cgroup."""
        plan = self.plan(task, schema.read(self.options, task.config))
        run_dir = self._base_dir(task) / f"{_RUN_DIR_PREFIX}{_attempt_id(task)}"
        try:
            run_dir.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise Temporary(f"cannot make the executor's directory {run_dir}: {error.strerror}") from error
        cgroup = cgroups.NONE
        try:
            if not plan.join:
                cgroup = self._make_cgroup(task, plan)
            spec = encode(_spec(task, plan, str(run_dir), cgroup))
            fd = os.open(run_dir / "spec", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(spec)
        except ValueError as error:
            _remove_traces(str(run_dir), cgroup.paths())
            raise Fatal(f"{self.name} config or environment: {error}") from error
        except BaseException:
            _remove_traces(str(run_dir), cgroup.paths())
            raise
        return str(run_dir), cgroup

    def _make_cgroup(self, task: TaskConfig, plan: Plan) -> cgroups.Cgroup:
        parent = self.context.cgroup_parent or ("nomad.slice" if cgroups.version() == 2 else "nomad")
        name = f"{task.alloc_id or 'alloc'}.{task.task_name or 'task'}.{_attempt_id(task)}".replace("/", "_")
        try:
            return cgroups.create(name, parent, task.limits, enforce=plan.enforce)
        except OSError as error:
            if plan.enforce:
                raise Temporary(f"cannot make a cgroup for {task.id}: {error}") from error
            if not self._cgroups_missing:
                self._cgroups_missing = True
                log.warning("driver.without_cgroups", extra={"driver": self.name, "reason": str(error)})
            return cgroups.NONE

    def _base_dir(self, task: TaskConfig) -> Path:
        return Path(task.dirs.private_dir or self.context.data_dir)

    async def _end_forgotten(self, task: TaskConfig) -> None:
        """Ends attempts of the same task that no handle remembers, as an agent leaves them that was killed between
        starting one and storing its handle. A task has one attempt at a time."""
        if not task.dirs.private_dir:
            return
        known = {attempt.run_dir for attempt in self._attempts.values()}
        directories = await trio.to_thread.run_sync(lambda: list(self._base_dir(task).glob(f"{_RUN_DIR_PREFIX}*")))
        for directory in directories:
            if str(directory) in known:
                continue
            facts = await trio.to_thread.run_sync(_read_state, directory)
            attempt = Attempt(facts, self._core_mhz)
            watch = await reconnect(attempt.run_dir)
            if watch is not None:
                log.warning("task.forgotten_attempt", extra={"task": task.id, "run_dir": attempt.run_dir})
                attempt.attach(watch)
                await self._kill(task.id, attempt)
            elif facts["pid"]:
                await trio.to_thread.run_sync(conclude, facts)
            await trio.to_thread.run_sync(_remove_traces, attempt.run_dir, attempt.cgroup.paths())


def kept_environment(env: Mapping[str, str], denied: tuple[str, ...]) -> dict[str, str]:
    """``env`` without the names that match one of the ``denied`` globs."""
    return {k: v for k, v in env.items() if not any(fnmatch.fnmatchcase(k, pattern) for pattern in denied)}


def _spec(task: TaskConfig, plan: Plan, run_dir: str, cgroup: cgroups.Cgroup) -> Pairs:
    logs = task.log_config
    pairs: Pairs = [("run_dir", run_dir), ("command", plan.command), ("work_dir", plan.work_dir)]
    pairs += [("arg", arg) for arg in plan.args]
    pairs += [("bin_dir", directory) for directory in plan.bin_dirs]
    pairs += [("env", f"{name}={value}") for name, value in kept_environment(task.env, plan.denied_envvars).items()]
    # What is in our own group ends with the task; groups that the operator named are only joined.
    pairs += [("cgroup", path) for path in cgroup.paths()] + [("join", path) for path in plan.join]
    pairs += [("oom_file", cgroup.oom_file())] if cgroup.oom_file() else []
    pairs += [("oom_score_adj", str(plan.oom_score_adj))] if plan.oom_score_adj is not None else []
    if plan.user is not None:
        pairs += [("user", plan.user.name), ("uid", str(plan.user.uid)), ("gid", str(plan.user.gid))]
        pairs += [("group", str(group)) for group in plan.user.groups]
    if logs.disabled:
        pairs.append(("log_disabled", "1"))
    else:
        prefix = f"{task.dirs.logs_dir}/{task.task_name}"
        pairs += [("stdout", f"{prefix}.stdout"), ("stderr", f"{prefix}.stderr")]
        pairs += [("log_max_files", str(logs.max_files)), ("log_max_bytes", str(logs.max_file_size_mb << 20))]
    return pairs + plan.isolation


def _attempt_id(task: TaskConfig) -> str:
    return task.id.rsplit("/", 1)[-1] or "attempt"


def _read_state(directory: Path) -> dict[str, Any]:
    """What an executor wrote down when its task started, as the facts of a handle; pid 0 when it never did."""
    facts: dict[str, Any] = {
        "run_dir": str(directory),
        "pid": 0,
        "start_ticks": 0,
        "cgroup": {},
        "started_ns": time.time_ns(),
        "executor_pid": 0,
        "executor_is_child_of": 0,
    }
    try:
        lines = (directory / "state").read_text().splitlines()
    except OSError:
        return facts
    for line in lines:
        key, _, value = line.partition(" ")
        if key == "cgroup":
            facts["cgroup"][value] = value
        else:
            facts[key] = value
    return facts


def _remove_traces(run_dir: str, cgroup_paths: list[str]) -> list[str]:
    """Removes the files and cgroups of an attempt; the cgroups that could not be removed."""
    shutil.rmtree(run_dir, ignore_errors=True)
    deadline = time.monotonic() + 2.0
    left = cgroups.remove(cgroup_paths)
    while left and time.monotonic() < deadline:
        # Killed processes leave a cgroup a moment later than they disappear.
        for directory in left:
            procfs.kill_cgroup(directory)
        time.sleep(0.01)
        left = cgroups.remove(left)
    return left
