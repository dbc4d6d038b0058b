"""Carries out what the machine of one task decides, and tells it what became of that."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
import trio

from nomadpy.client import events as ev
from nomadpy.client import task as machine
from nomadpy.client.allocdir import AllocDir
from nomadpy.client.environment import EnvironmentSource, build_environment, combined_meta
from nomadpy.client.hooks import HookContext, HookFailed, TaskHook
from nomadpy.client.interpolate import Interpolator
from nomadpy.client.ledger import LedgerFailed, RememberedTask, TaskLocal
from nomadpy.client.lifecycle import Role, restarts_on_success
from nomadpy.client.ports import Ports
from nomadpy.client.restart import RestartTracker
from nomadpy.client.task_config import LaunchFacts, invalid_config, task_config
from nomadpy.drivers import signals
from nomadpy.drivers.contract import DeviceNode, Driver, ExitResult, Mount, TaskHandle
from nomadpy.model.alloc import Allocation, TaskEvent, TaskResourceUsage, TaskState
from nomadpy.model.errors import Bug, Invalid, NomadError, NotFound, Temporary, Unavailable
from nomadpy.model.job import Job, RestartPolicy, Task, TaskGroup

log = logging.getLogger(__name__)

_KILL_RETRIES = 5
_KILL_BACKOFF_S, _KILL_BACKOFF_FACTOR, _KILL_BACKOFF_MAX_S = 5.0, 4.0, 120.0
_ABANDON_TIMEOUT_S = 30.0
_RECOVER_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)


class TaskPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task stands: its allocation, job, group, role and directory."""

    alloc: Allocation
    job: Job
    group: TaskGroup
    task: Task
    role: Role
    alloc_dir: AllocDir

    def restart_policy(self) -> RestartPolicy:
        """The task's own policy, else the group's."""
        return self.task.restart_policy or self.group.restart_policy or RestartPolicy()


class TaskRunner:
    """One task of one allocation. ``tell`` may be called from anywhere in the loop; ``run`` once."""

    def __init__(
        self, place: TaskPlace, ports: Ports, *, remembered: RememberedTask | None, on_change: Callable[[], None]
    ) -> None:
        self.place = place
        self.name = place.task.name
        self.waits_for_servers = False
        self._ports = ports
        self._on_change = on_change
        self._remembered = remembered
        self._local = remembered.local if remembered else TaskLocal()
        tracker = RestartTracker(
            place.restart_policy(),
            restart_on_success=restarts_on_success(place.role, place.job.type),
            now_ns=ports.wall_ns(),
        )
        self._machine = machine.TaskMachine(
            self._rules(), tracker, rng=ports.rng, state=remembered.state if remembered else None
        )
        self._queue, self._effects = trio.open_memory_channel[machine.Effect](math.inf)
        self._n_pending = 0
        self._attempt = trio.CancelScope()
        self._mounts: tuple[Mount, ...] = ()
        self._devices: tuple[DeviceNode, ...] = ()
        self._dead = trio.Event()

    # -- what others see ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> TaskState:
        """What the world sees of the task."""
        return self._machine.state

    @property
    def phase(self) -> machine.Phase:
        """Where it is in its life."""
        return self._machine.phase

    @property
    def settled(self) -> bool:
        """Whether it is dead and nothing of it is left to be done."""
        return self.phase is machine.Phase.DEAD and self._n_pending == 0

    async def wait_dead(self) -> None:
        """Returns once the task is dead (it may be revived later)."""
        while self.phase is not machine.Phase.DEAD:
            await self._dead.wait()

    def tell(self, event: machine.Event) -> None:
        """Lets the machine take one step now; its effects follow in order."""
        before = self.phase
        self._enqueue(self._machine.step(event, self._ports.wall_ns()))
        if self.phase is not before:
            self._log_transition(before, event)
        self._after_step()

    def emit(self, event: TaskEvent) -> None:
        """Adds an event to the task's list."""
        self._machine.state = ev.append_event(self._machine.state, event)
        self._on_change()

    def update(self, place: TaskPlace) -> None:
        """Takes over a newer version of the job; the running attempt is not touched."""
        self.place = place
        self._machine.rules = self._rules()
        self._machine.tracker.set_policy(place.restart_policy())

    def _rules(self) -> machine.TaskRules:
        task = self.place.task
        timeout_ns = min(task.kill_timeout_ns, self._ports.config.max_kill_timeout_ns)
        return machine.TaskRules(shutdown_delay_ns=task.shutdown_delay_ns, kill_timeout_ns=timeout_ns)

    def _enqueue(self, effects: list[machine.Effect]) -> None:
        for effect in effects:
            self._n_pending += 1
            self._queue.send_nowait(effect)

    def _after_step(self) -> None:
        if self.phase is machine.Phase.DEAD:
            self._dead.set()
        elif self._dead.is_set():
            self._dead = trio.Event()
        self._on_change()

    def _log_transition(self, before: machine.Phase, event: machine.Event) -> None:
        fields = {
            "alloc": self.place.alloc.id,
            "task": self.name,
            "from": before.value,
            "to": self.phase.value,
            "because": type(event).__name__,
        }
        log.info("task.phase", extra={"fields": fields})

    # -- coming into being -------------------------------------------------------------------------------------------

    def receive(self) -> None:
        """A task that was never seen before."""
        self._enqueue(self._machine.receive(self._ports.wall_ns()))
        self._after_step()

    async def restore(self) -> None:
        """Finds the task again after an agent restart; a running one is taken over and not touched."""
        handle = self._local.handle
        if self._local.leftover is not None:
            await self._sweep(self._local.leftover)
        if self.phase is machine.Phase.DEAD:
            self._dead.set()
            if handle is not None:
                await self._sweep(handle)
            return
        if handle is None:
            self._enqueue(self._machine.resume_unstarted(self._ports.wall_ns()))
            self._after_step()
            return
        try:
            await self._recover(handle)
        except Exception as error:  # noqa: BLE001 - a driver may come from another package; its failure is the task's
            await self._restore_failed(handle.task_id, error)
            return
        log.info("task.reattached", extra={"fields": {"alloc": self.place.alloc.id, "task": self.name}})
        self._enqueue(self._machine.resume_running(self._ports.wall_ns()))
        self._after_step()

    async def _recover(self, handle: TaskHandle) -> None:
        """Takes the task over. A driver that is not ready yet (its engine may start beside us) is asked again."""
        for pause_s in _RECOVER_PAUSES_S:
            try:
                await self._driver().recover_task(handle)
                return
            except Temporary as error:
                fields = {"task_id": handle.task_id, "error": error.message, "retry_s": pause_s}
                log.warning("task.recover_retried", extra={"fields": fields})
            await trio.sleep(pause_s)
        await self._driver().recover_task(handle)

    async def _sweep(self, handle: TaskHandle) -> None:
        """Removes what an earlier agent may have left of an attempt that is over."""
        try:
            await self._driver().recover_task(handle)
        except NomadError:
            return  # nothing of it is left
        except Exception:
            log.exception("driver.defect", extra={"fields": {"task_id": handle.task_id}})
            return
        await self._destroy_quietly(handle.task_id)

    async def _restore_failed(self, task_id: str, error: Exception) -> None:
        fields = {"alloc": self.place.alloc.id, "task": self.name, "error": str(error)}
        log.warning("task.restore_failed", extra={"fields": fields}, exc_info=not isinstance(error, NomadError))
        await self._destroy_quietly(task_id)
        self._local = self._local.replace(handle=None)
        self.waits_for_servers = self.place.job.type not in ("system", "sysbatch")
        now_ns = self._ports.wall_ns()
        self._enqueue(self._machine.resume_unstarted(now_ns, ev.failed_restoring(now_ns, str(error))))
        self._after_step()

    # -- carrying out ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carries effects out until cancelled. A running task stays running."""
        async with trio.open_nursery() as nursery:
            async for effect in self._effects:
                await self._carry_out(effect, nursery)
                self._n_pending -= 1
                if self.settled:
                    self._on_change()

    async def _carry_out(self, effect: machine.Effect, nursery: trio.Nursery) -> None:
        match effect:
            case machine.Prepare():
                self._attempt = trio.CancelScope()
                nursery.start_soon(self._answer, self._prepare)
            case machine.Launch():
                self._attempt = trio.CancelScope()
                nursery.start_soon(self._answer, self._launch)
            case machine.CallOff():
                self._attempt.cancel()
            case machine.Watch():
                await self._run_hooks("started")
                nursery.start_soon(self._watch)
            case machine.Retire():
                await self._run_hooks("stopping")
            case machine.Stop():
                nursery.start_soon(self._stop)
            case machine.Sleep():
                nursery.start_soon(self._sleep, effect)
            case machine.Save():
                await self._save()
            case machine.CleanUp():
                await self._clean_up()

    async def _answer(self, attempt: Callable[[], Awaitable[machine.Event]]) -> None:
        answer: machine.Event = machine.Abandoned()
        with self._attempt:
            answer = await attempt()
        self.tell(answer)

    async def _sleep(self, effect: machine.Sleep) -> None:
        await trio.sleep(effect.delay_ns / 1e9)
        self.tell(machine.DelayOver(effect.number))

    async def _save(self) -> None:
        try:
            await self._ports.ledger.put_task(self.place.alloc.id, self.name, self._local, self.state)
        except LedgerFailed:
            # The report to the servers stores the states again before it is sent, so nothing unknown is acknowledged.
            log.warning("task.not_saved", extra={"fields": {"alloc": self.place.alloc.id, "task": self.name}})

    async def _clean_up(self) -> None:
        handle = self._local.handle
        # The handle stays stored as a leftover, so that an agent that is killed right here is swept up after.
        self._local = self._local.replace(handle=None, leftover=handle)
        await self._save()
        if handle is not None:
            await self._run_hooks("exited")
            await self._destroy_quietly(handle.task_id)
        self._local = self._local.replace(leftover=None)

    async def _destroy_quietly(self, task_id: str) -> None:
        try:
            await self._driver().destroy_task(task_id, force=True)
        except Exception as error:
            fields = {"task_id": task_id, "error": str(error)}
            log.warning("task.leftovers", extra={"fields": fields}, exc_info=not isinstance(error, NomadError))

    def _driver(self) -> Driver:
        return self._ports.driver(self.place.task.driver)

    # -- before the start --------------------------------------------------------------------------------------------

    def environment(self) -> tuple[dict[str, str], Interpolator]:
        """The environment as the next attempt would get it, and an interpolator over it."""
        config = self._ports.config
        source = EnvironmentSource(
            alloc=self.place.alloc,
            task=self.place.task,
            node=self._ports.node,
            region=config.region,
            dirs=self.place.alloc_dir.task_dirs(self.name),
            fs_isolation=self._driver().capabilities.fs_isolation,
            host_env=config.host_env,
            denylist=config.env_denylist(),
            hook_env=self._local.hook_env,
        )
        return build_environment(source)

    def _hook_context(self) -> HookContext:
        place = self.place
        return HookContext(
            alloc=place.alloc,
            job=place.job,
            group=place.group,
            task=place.task.replace(meta=combined_meta(place.job, place.group, place.task)),
            alloc_dir=place.alloc_dir,
            dirs=place.alloc_dir.task_dirs(self.name),
            config=self._ports.config,
            names=self.environment()[1],
            fs_isolation=self._driver().capabilities.fs_isolation,
            now_ns=self._ports.wall_ns,
            tell=self.emit,
        )

    def _hooks(self) -> list[TaskHook]:
        return [hook for hook in self._ports.task_hooks if hook.applies(self.place.task)]

    async def _prepare(self) -> machine.Event:
        self._mounts, self._devices = (), ()
        for hook in self._hooks():
            if hook.name in self._local.hooks_done:
                continue
            try:
                await self._prepare_one(hook)
            except HookFailed as failure:
                return machine.AttemptFailed(failure.event, failure.recoverable)
            except NomadError as error:
                event = ev.setup_failure(self._ports.wall_ns(), f"{hook.name}: {error.message}")
                return machine.AttemptFailed(event, isinstance(error, Unavailable | Temporary))
            except Exception as error:
                # A hook that the agent brought along may be defective; that fails its task and never the client.
                log.exception("hook.defect", extra={"fields": {"hook": hook.name, "task": self.name}})
                event = ev.setup_failure(self._ports.wall_ns(), f"{hook.name}: {type(error).__name__}: {error}")
                return machine.AttemptFailed(event, recoverable=False)
        return machine.Prepared()

    async def _prepare_one(self, hook: TaskHook) -> None:
        result = await hook.prestart(self._hook_context())
        self._mounts += result.mounts
        self._devices += result.devices
        done = (*self._local.hooks_done, hook.name) if result.once else self._local.hooks_done
        self._local = self._local.replace(hooks_done=done, hook_env={**self._local.hook_env, **result.env})
        await self._ports.ledger.put_task_local(self.place.alloc.id, self.name, self._local)

    async def _run_hooks(self, moment: str) -> None:
        """Runs the hooks of a moment after the start; their failure is told and does not end the task."""
        for hook in self._hooks():
            try:
                await getattr(hook, moment)(self._hook_context())
            except Exception as error:
                # Told with the task; a defect of the hook is logged in full as well.
                if not isinstance(error, NomadError):
                    log.exception("hook.defect", extra={"fields": {"hook": hook.name, "task": self.name}})
                self.emit(ev.hook_failed(self._ports.wall_ns(), hook.name, str(error)))

    # -- the driver --------------------------------------------------------------------------------------------------

    async def _launch(self) -> machine.Event:
        task_id = f"{self.place.alloc.id}/{self.name}/{self._ports.rng.getrandbits(32):08x}"
        now_ns = self._ports.wall_ns
        try:
            driver = self._driver()
            env, names = self.environment()
            facts = LaunchFacts(task_id, self.place, self._ports, env, names, self._mounts, self._devices)
            config = task_config(facts)
        except Invalid as error:
            return machine.AttemptFailed(ev.failed_validation(now_ns(), error.message), recoverable=False)
        except NomadError as error:
            return machine.AttemptFailed(ev.driver_failure(now_ns(), error.message), recoverable=False)
        if problems := invalid_config(driver, config.config):
            return machine.AttemptFailed(ev.failed_validation(now_ns(), problems), recoverable=False)
        try:
            handle = await driver.start_task(config)
            with trio.CancelScope(shield=True):
                # The handle is stored before anything else happens: it is the only way back to a running task.
                self._local = self._local.replace(handle=handle)
                await self._ports.ledger.put_task_local(self.place.alloc.id, self.name, self._local)
            return machine.Launched()
        except trio.Cancelled:
            await self._abandon(task_id)
            raise
        except NomadError as error:
            await self._abandon(task_id)
            recoverable = isinstance(error, Temporary | Unavailable)
            return machine.AttemptFailed(ev.driver_failure(now_ns(), error.message), recoverable)
        except Exception as error:
            # A driver may come from another package: its defects fail the task and never the agent.
            log.exception("driver.defect", extra={"fields": {"driver": driver.name, "task_id": task_id}})
            await self._abandon(task_id)
            return machine.AttemptFailed(ev.driver_failure(now_ns(), f"{type(error).__name__}: {error}"), False)

    async def _abandon(self, task_id: str) -> None:
        self._local = self._local.replace(handle=None)
        with trio.move_on_after(_ABANDON_TIMEOUT_S, shield=True):
            await self._destroy_quietly(task_id)

    async def _watch(self) -> None:
        handle = self._local.handle
        if handle is None:
            raise Bug(f"task {self.name} of {self.place.alloc.id} is watched without a handle")
        try:
            result = await self._driver().wait_task(handle.task_id)
        except NomadError as error:
            result = ExitResult(error=error.message)
        except Exception as error:
            log.exception("driver.defect", extra={"fields": {"task_id": handle.task_id}})
            result = ExitResult(error=f"{type(error).__name__}: {error}")
        self.tell(machine.Exited(result))

    async def _stop(self) -> None:
        handle = self._local.handle
        if handle is None or self.phase is not machine.Phase.STOPPING:
            return
        backoff_s, error = _KILL_BACKOFF_S, ""
        for attempt in range(_KILL_RETRIES + 1):
            try:
                await self._stop_once(handle.task_id)
                return
            except NotFound:
                return  # already over; the watcher tells how
            except Exception as failure:
                error = str(failure)
                fields = {"task_id": handle.task_id, "attempt": attempt, "error": error}
                log.warning("task.stop_failed", extra={"fields": fields}, exc_info=not isinstance(failure, NomadError))
            if attempt < _KILL_RETRIES:
                await trio.sleep(backoff_s)
                backoff_s = min(backoff_s * _KILL_BACKOFF_FACTOR, _KILL_BACKOFF_MAX_S)
        self.tell(machine.StopFailed(f"failed to kill task: {error}"))

    async def _stop_once(self, task_id: str) -> None:
        timeout_s = self._machine.rules.kill_timeout_ns / 1e9
        await self._driver().stop_task(task_id, signal=self.place.task.kill_signal, timeout_s=timeout_s)

    async def stop_for_shutdown(self) -> None:
        """Stops the task because the agent ends; states are not reported any more."""
        handle = self._local.handle
        if handle is not None and self.phase is not machine.Phase.DEAD:
            try:
                await self._stop_once(handle.task_id)
            except NomadError as error:
                log.warning("task.stop_failed", extra={"fields": {"task_id": handle.task_id, "error": error.message}})
            await self._destroy_quietly(handle.task_id)

    # -- orders from people ------------------------------------------------------------------------------------------

    def running_id(self) -> str:
        """The driver's id of the running attempt. Raises Invalid "Task not running"."""
        if self.phase is not machine.Phase.RUNNING or self._local.handle is None:
            raise Invalid("Task not running", status=500)
        return self._local.handle.task_id

    async def signal(self, name: str) -> None:
        """Sends a signal to the running task. Raises Invalid for one that does not run or an unknown signal."""
        task_id = self.running_id()
        # Checked first, because what is recorded should have happened.
        signals.number(name)
        self.emit(ev.signaling(self._ports.wall_ns(), name))
        await self._driver().signal_task(task_id, name)

    async def stats(self) -> TaskResourceUsage:
        """What the running task uses now."""
        return await self._driver().task_stats(self.running_id())

    @property
    def driver(self) -> Driver:
        """The driver that runs the task. Raises Fatal when this client has none of that name."""
        return self._driver()
