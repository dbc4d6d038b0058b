"""One allocation on this node: its directory, its tasks in their order, its end.

The decisions are in ``lifecycle.py`` and ``status.py``; this file asks them after every change and carries the answer
out. It runs until every task is dead and cleaned up, then stays in memory for reading until it is destroyed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from nomadpy.client import events as ev
from nomadpy.client import task as machine
from nomadpy.client.allocdir import AllocDir
from nomadpy.client.environment import job_and_group
from nomadpy.client.health import Health, HealthTracker, any_checks, health_rules
from nomadpy.client.hooks import AllocHookContext
from nomadpy.client.ledger import AllocLocal, LedgerFailed, RememberedAlloc, RememberedTask
from nomadpy.client.lifecycle import KillCause, Stage, kill_cause, kill_order, may_start, role_of
from nomadpy.client.ports import Ports
from nomadpy.client.status import client_status, fill_finish_times
from nomadpy.client.task_runner import TaskPlace, TaskRunner
from nomadpy.model.alloc import (
    FAILED,
    TASK_PENDING,
    UNKNOWN,
    Allocation,
    AllocDeploymentStatus,
    AllocNetworkStatus,
    AllocUpdate,
    TaskEvent,
    TaskState,
)
from nomadpy.model.errors import Invalid, NomadError, NotFound

log = logging.getLogger(__name__)

_CHECKS_POLL_S = 0.5
_HOST_MODES = frozenset(("", "host", "none"))


class Predecessors(msgspec.Struct, frozen=True):
    """What must be over before the allocation starts, and whose sticky disk it takes over."""

    wait_over: Callable[[], Awaitable[None]]
    disk: AllocDir | None = None


class AllocRunner:
    """Runs one allocation. Methods that are not async take effect at once; call them from the client's loop."""

    def __init__(
        self,
        alloc: Allocation,
        ports: Ports,
        *,
        on_change: Callable[[str], None],
        remembered: RememberedAlloc | None = None,
        predecessors: Predecessors | None = None,
    ) -> None:
        job, group = job_and_group(alloc)
        self.alloc = alloc
        self.dir = AllocDir(ports.config.alloc_dir, alloc.id)
        self.done = trio.Event()
        self.local = remembered.local if remembered else AllocLocal(started_at_ns=ports.wall_ns())
        self._ports = ports
        self._tell_client = on_change
        self._restored = remembered is not None
        self._predecessors = predecessors
        self._roles = {task.name: role_of(task) for task in group.tasks}
        known = remembered.tasks if remembered else {}
        self.tasks = {
            task.name: TaskRunner(
                TaskPlace(
                    alloc=alloc, job=job, group=group, task=task, role=self._roles[task.name], alloc_dir=self.dir
                ),
                ports,
                remembered=known.get(task.name, RememberedTask()) if remembered else None,
                on_change=self._task_changed,
            )
            for task in group.tasks
        }
        self._nursery: trio.Nursery | None = None
        self._over = trio.Event()
        self._hurry = trio.Event()  # the shutdown delay of the group is to be skipped
        self._task_news = trio.Event()
        self._health_scope = trio.CancelScope()
        self._set_up = False
        self._killing = False
        self._stop_wanted = False
        self._coordinating = False
        self._changed_meanwhile = False

    def follow(self, predecessors: Predecessors | None) -> None:
        """Waits for others before it begins; to be told before ``run``."""
        self._predecessors = predecessors

    # -- what others see ---------------------------------------------------------------------------------------------

    def task_states(self) -> dict[str, TaskState]:
        """Task name → state, now."""
        return {name: runner.state for name, runner in self.tasks.items()}

    def client_status(self) -> str:
        """The allocation's status as this node sees it."""
        return client_status(self.task_states(), exceeded_max_run=self.local.exceeded_max_run)[0]

    def report(self) -> AllocUpdate:
        """What the servers should know, now."""
        states = self.task_states()
        status, description = client_status(states, exceeded_max_run=self.local.exceeded_max_run)
        now_ns = self._ports.wall_ns()
        return AllocUpdate(
            id=self.alloc.id,
            client_status=status,
            client_description=description,
            task_states=fill_finish_times(states, now_ns),
            deployment_status=self._deployment_status(status, now_ns),
            network_status=self.local.network_status,
            modify_time_ns=now_ns,
        )

    def _deployment_status(self, status: str, now_ns: int) -> AllocDeploymentStatus | None:
        if self.local.deployment_status is None and self.alloc.deployment_id and status == FAILED:
            return self._new_deployment_status(False, now_ns)  # it failed before its health was decided
        return self.local.deployment_status

    def _new_deployment_status(self, healthy: bool, now_ns: int) -> AllocDeploymentStatus:
        canary = self.alloc.deployment_status is not None and self.alloc.deployment_status.canary
        return AllocDeploymentStatus(healthy=healthy, timestamp_ns=now_ns, canary=canary)

    @property
    def finished(self) -> bool:
        """Whether every task is dead and cleaned up."""
        return self.done.is_set()

    def runner(self, task: str) -> TaskRunner:
        """The runner of one task. Raises Invalid 'unknown task name "x"'."""
        if task not in self.tasks:
            raise Invalid(f'unknown task name "{task}"')
        return self.tasks[task]

    # -- running -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Runs the allocation to its end. Cancelling it leaves running tasks running."""
        fields = {"alloc": self.alloc.id, "job": self.alloc.job_id, "restored": self._restored}
        if self._restored and all(runner.phase is machine.Phase.DEAD for runner in self.tasks.values()):
            for runner in self.tasks.values():
                await runner.restore()
            await self._finish()
            return
        log.info("alloc.started", extra={"fields": fields})
        async with trio.open_nursery() as nursery:
            for runner in self.tasks.values():
                if self._restored:
                    await runner.restore()
                else:
                    runner.receive()
                nursery.start_soon(runner.run)
            # Only now: a kill that reached a task before it was found again would leave the real one running.
            self._nursery = nursery
            if self._stop_wanted:
                self.stop()
            nursery.start_soon(self._prerun)
            nursery.start_soon(self._limit_run)
            nursery.start_soon(self._await_servers)
            nursery.start_soon(self._watch_health)
            self._follow_desired()
            self._coordinate()
            await self._over.wait()
            nursery.cancel_scope.cancel()
        self._nursery = None
        await self._finish()
        log.info("alloc.finished", extra={"fields": {**fields, "status": self.client_status()}})

    async def _finish(self) -> None:
        """Tells the hooks of the end, once, even if an agent was killed meanwhile."""
        if not self.local.cleaned_up:
            await self._run_hooks("postrun")
            self.local = self.local.replace(cleaned_up=True)
            await self._save_local()
            self._tell_client(self.alloc.id)
        self.done.set()

    async def _prerun(self) -> None:
        """Everything that precedes the first task; a failure fails them all."""
        try:
            await self._ports.ledger.put_alloc_local(self.alloc.id, self.local)
            if self._predecessors is not None:
                await self._predecessors.wait_over()
            self._refuse_unsupported()
            await trio.to_thread.run_sync(self.dir.build)
            if self._predecessors is not None and self._predecessors.disk is not None:
                await trio.to_thread.run_sync(self.dir.move_from, self._predecessors.disk, list(self.tasks))
            for hook in self._ports.alloc_hooks:
                self._adopt_network(await hook.prerun(self._hook_context()))
        except (NomadError, OSError) as error:
            self._fail_setup(f"failed to setup alloc: {error}")
            return
        self._set_up = True
        self._coordinate()

    def _hook_context(self) -> AllocHookContext:
        job, group = job_and_group(self.alloc)
        return AllocHookContext(
            alloc=self.alloc,
            job=job,
            group=group,
            alloc_dir=self.dir,
            config=self._ports.config,
            node=self._ports.node,
        )

    def _adopt_network(self, status: AllocNetworkStatus | None) -> None:
        """The tasks' environment names the addresses that a hook made for the allocation."""
        if status is not None:
            self.local = self.local.replace(network_status=status)
            self.update(self.alloc)

    async def _run_hooks(self, moment: str) -> None:
        """Runs the allocation's hooks of a later moment, last one first; their failure is logged and ends nothing."""
        for hook in reversed(self._ports.alloc_hooks):
            try:
                await getattr(hook, moment)(self._hook_context())
            except NomadError as error:
                fields = {"alloc": self.alloc.id, "hook": hook.name, "moment": moment, "error": error.message}
                log.error("alloc.hook_failed", extra={"fields": fields})

    def _refuse_unsupported(self) -> None:
        group = job_and_group(self.alloc)[1]
        offered = {network.mode for network in self._ports.node.node_resources.node_networks} | _HOST_MODES
        for network in group.networks:
            if network.mode not in offered:
                raise Invalid(f'network mode "{network.mode}" is not available on this node')

    def _fail_setup(self, error: str) -> None:
        log.warning("alloc.setup_failed", extra={"fields": {"alloc": self.alloc.id, "error": error}})
        for runner in self.tasks.values():
            event = ev.setup_failure(self._ports.wall_ns(), error)
            runner.tell(machine.AttemptFailed(event, recoverable=False))

    async def _limit_run(self) -> None:
        limit_ns = job_and_group(self.alloc)[1].max_run_duration_ns
        if not limit_ns:
            return
        await trio.sleep(max(0, self.local.started_at_ns + limit_ns - self._ports.wall_ns()) / 1e9)
        self.local = self.local.replace(exceeded_max_run=True)
        await self._save_local()
        await self._kill_tasks(None, with_poststop=True)

    async def _await_servers(self) -> None:
        await self._ports.servers_contacted.wait()
        self._coordinate()

    # -- health ------------------------------------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        """Decides the allocation's health for its deployment, and again when it joins another one."""
        while True:
            with trio.CancelScope() as self._health_scope:
                await self._decide_health()
                await trio.sleep_forever()

    async def _decide_health(self) -> None:
        job, group = job_and_group(self.alloc)
        rules = health_rules(self.alloc, group, job.type)
        watched = self.alloc.deployment_id or "-"
        if rules is None or self.local.health_of == watched or self.alloc.server_terminal():
            return
        if rules.use_checks and self._ports.checks is None and any_checks(group):
            fields = {"alloc": self.alloc.id, "judged_by": "task states"}
            log.warning("alloc.checks_not_run", extra={"fields": fields})
        # An in-place update joins a deployment long after the start; its deadline counts from then.
        tracker = HealthTracker(rules, self._roles, began_ns=self._ports.wall_ns())
        while (health := self._judge(tracker)) is None:
            self._task_news = trio.Event()
            wait_s = max(0.0, (tracker.next_look_ns() - self._ports.wall_ns()) / 1e9)
            checks_poll_s = _CHECKS_POLL_S if rules.use_checks and self._ports.checks is not None else wait_s
            with trio.move_on_after(min(wait_s, checks_poll_s)):
                await self._task_news.wait()
        await self._tell_health(health, watched)

    def _judge(self, tracker: HealthTracker) -> Health | None:
        problem = self._ports.checks.problem(self.alloc) if self._ports.checks is not None else ""
        return tracker.judge(self.task_states(), problem, self._ports.wall_ns())

    async def _tell_health(self, health: Health, watched: str) -> None:
        now_ns = self._ports.wall_ns()
        status = self._new_deployment_status(health.healthy, now_ns)
        self.local = self.local.replace(deployment_status=status, health_of=watched)
        log.info("alloc.health", extra={"fields": {"alloc": self.alloc.id, "healthy": health.healthy}})
        await self._save_local()
        for name in health.tasks if self.alloc.deployment_id else ():
            self.tasks[name].emit(ev.alloc_unhealthy(now_ns, health.reason))
        self._tell_client(self.alloc.id)

    async def _save_local(self) -> None:
        try:
            await self._ports.ledger.put_alloc_local(self.alloc.id, self.local)
        except LedgerFailed:
            log.warning("alloc.not_saved", extra={"fields": {"alloc": self.alloc.id}})

    # -- order of the tasks ------------------------------------------------------------------------------------------

    def _task_changed(self) -> None:
        self._task_news.set()
        self._tell_client(self.alloc.id)
        self._coordinate()

    def _coordinate(self) -> None:
        """Opens gates and starts kills until nothing follows any more. A step of a task may call back in here."""
        if self._coordinating:
            self._changed_meanwhile = True
            return
        self._coordinating = True
        try:
            self._changed_meanwhile = True
            while self._changed_meanwhile:
                self._changed_meanwhile = False
                self._open_gates()
                self._end_remaining()
                if all(runner.settled for runner in self.tasks.values()):
                    self._over.set()
        finally:
            self._coordinating = False

    def _open_gates(self) -> None:
        if not self._set_up:
            return
        for name, runner in self.tasks.items():
            if runner.phase is not machine.Phase.GATED or not may_start(name, self._roles, self.task_states()):
                continue
            if self._killing and self._roles[name].stage is not Stage.POSTSTOP:
                continue
            if runner.waits_for_servers and not self._ports.servers_contacted.is_set():
                continue
            runner.waits_for_servers = False
            runner.tell(machine.GateOpened())

    def _end_remaining(self) -> None:
        cause = None if self._killing else kill_cause(self._roles, self.task_states())
        if cause is not None and self._nursery is not None:
            self._killing = True
            self._nursery.start_soon(self._kill_tasks, cause)

    def _cause_event(self, cause: tuple[KillCause, str] | None) -> TaskEvent | None:
        now_ns = self._ports.wall_ns()
        match cause:
            case (KillCause.SIBLING_FAILED, name):
                return ev.sibling_failed(now_ns, name)
            case (KillCause.LEADER_DEAD, _):
                return ev.leader_dead(now_ns)
            case (KillCause.MAIN_TASKS_DEAD, _):
                return ev.main_tasks_dead(now_ns)
            case _:
                return None

    async def _kill_tasks(self, cause: tuple[KillCause, str] | None, with_poststop: bool = False) -> None:
        """Ends the tasks group by group, in the order of ``kill_order``."""
        self._killing = True
        await self._run_hooks("stopping")
        delay_ns = job_and_group(self.alloc)[1].shutdown_delay_ns
        if delay_ns and any(runner.phase is machine.Phase.RUNNING for runner in self.tasks.values()):
            with trio.move_on_after(delay_ns / 1e9):
                await self._hurry.wait()
        for group in kill_order(self._roles, with_poststop=with_poststop):
            for name in group:
                self.tasks[name].tell(machine.Kill(self._cause_event(cause), skip_delay=self._hurry.is_set()))
            for name in group:
                await self.tasks[name].wait_dead()
        self._coordinate()

    # -- orders from the servers -------------------------------------------------------------------------------------

    def update(self, alloc: Allocation) -> None:
        """Follows a newer word of the servers; the caller has stored it."""
        if alloc.deployment_id != self.alloc.deployment_id:
            self.local = self.local.replace(deployment_status=None, health_of="")
            self._health_scope.cancel()
        if self.local.network_status is not None:
            alloc = alloc.replace(network_status=self.local.network_status)
        self.alloc = alloc
        job, group = job_and_group(alloc)
        for name, runner in self.tasks.items():
            task = group.task(name)
            if task is not None:
                runner.update(msgspec.structs.replace(runner.place, alloc=alloc, job=job, group=group, task=task))
        if alloc.client_status == UNKNOWN:
            self._reconnect()
        if not self.finished:
            self._follow_desired()

    def _reconnect(self) -> None:
        """The servers lost sight of this node meanwhile; what really runs is told again."""
        for runner in self.tasks.values():
            runner.emit(ev.reconnected(self._ports.wall_ns()))

    def _follow_desired(self) -> None:
        if self._nursery is None or not self.alloc.server_terminal():
            return
        self._health_scope.cancel()  # an end that was ordered says nothing about health
        if self.alloc.desired_transition.no_shutdown_delay and not self._hurry.is_set():
            self._hurry.set()
            for runner in self.tasks.values():
                if runner.phase is machine.Phase.STOPPING:
                    runner.tell(machine.Kill(skip_delay=True))
        self.stop()

    def stop(self) -> None:
        """Ends the tasks; returns at once. ``done`` is set when they have ended."""
        self._stop_wanted = True
        if not self._killing and self._nursery is not None:
            self._killing = True
            self._nursery.start_soon(self._kill_tasks, None)

    async def destroy(self) -> None:
        """Ends the tasks, then removes the directory and every memory of the allocation. Raises OSError."""
        if not self.finished:
            self.stop()
            await self.done.wait()
        await trio.to_thread.run_sync(self.dir.destroy)
        await self._ports.ledger.forget_alloc(self.alloc.id)
        log.info("alloc.destroyed", extra={"fields": {"alloc": self.alloc.id}})

    async def stop_for_shutdown(self) -> None:
        """Stops what runs because the agent ends and nobody will come back for it."""
        async with trio.open_nursery() as nursery:
            for runner in self.tasks.values():
                nursery.start_soon(runner.stop_for_shutdown)

    # -- orders from people ------------------------------------------------------------------------------------------

    def restart(self, task: str, *, all_tasks: bool) -> None:
        """Restarts one task, or all running ones, or with ``all_tasks`` also those that are dead.

        Raises Invalid for an unknown task, one that does not run, or an allocation that is over.
        """
        if self.finished or self._killing or self.alloc.server_terminal():
            raise Invalid("restart of an alloc that should not run: it is being stopped or is over", status=500)
        if task and all_tasks:
            raise Invalid("cannot restart all tasks when a task is named")
        if task:
            runner = self.runner(task)
            runner.running_id()
            runner.tell(machine.Restart("User requested task to restart"))
        elif all_tasks:
            self._restart_all()
        else:
            for runner in self._running():
                runner.tell(machine.Restart("User requested running tasks to restart"))

    def _running(self) -> list[TaskRunner]:
        return [runner for runner in self.tasks.values() if runner.phase is machine.Phase.RUNNING]

    def _restart_all(self) -> None:
        """Everything from the top: prestart tasks run again, and the others wait for them."""
        reason = "User requested all tasks to restart"
        self._coordinating = True  # no gate opens before every task has heard of it
        try:
            for name, runner in self.tasks.items():
                if runner.phase is machine.Phase.RUNNING:
                    runner.tell(machine.Restart(reason, regate=True))
                elif runner.phase is machine.Phase.DEAD and self._roles[name].stage is not Stage.POSTSTOP:
                    runner.tell(machine.Revive(reason))
        finally:
            self._coordinating = False
        self._coordinate()

    async def signal(self, task: str, name: str) -> None:
        """Sends a signal to one task or, with "", to all running ones; the first refusal is raised after all tried."""
        runners = [self.runner(task)] if task else self._running()
        failure: NomadError | None = None
        for runner in runners:
            try:
                await runner.signal(name)
            except NomadError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def logs_dir(self) -> Path:
        """Where the tasks' logs are. Raises NotFound when the directory was already collected."""
        if not self.dir.exists():
            raise NotFound(f"allocation directory of {self.alloc.id} is gone: no such file or directory")
        return self.dir.shared / "logs"

    def started(self, task: str) -> bool:
        """Whether a task has ever run."""
        state = self.runner(task).state
        return state.state != TASK_PENDING or state.started_at_ns > 0
