"""The client of one node: joins fingerprint, registration, assignments, runners and reports.

Start it in a nursery (``await nursery.start(client.run)``); it is started once its allocations from an earlier life are
found again. Cancelling it leaves tasks running, except in development mode.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import trio

from nomadpy.client.alloc_runner import AllocRunner, Predecessors
from nomadpy.client.assignments import AssignmentFollower
from nomadpy.client.config import ClientConfig
from nomadpy.client.devices import DeviceHook, DeviceWatch
from nomadpy.client.endpoint import NodeEndpoint
from nomadpy.client.fingerprint.drivers import DriverWatch
from nomadpy.client.fingerprint.node import HostFacts, allowed, build_node, fingerprint_host
from nomadpy.client.gc import GarbageCollector
from nomadpy.client.health import ChecksSource
from nomadpy.client.hooks import AllocHook, TaskHook, default_hooks
from nomadpy.client.identity import NodeIdentity, load_identity
from nomadpy.client.ledger import Ledger, RememberedAlloc
from nomadpy.client.ports import Ports
from nomadpy.client.registration import Registration
from nomadpy.client.stats import HostMeter
from nomadpy.client.updates import UpdateReporter
from nomadpy.drivers.contract import Driver
from nomadpy.drivers.devices import DevicePlugin
from nomadpy.model.alloc import CLIENT_TERMINAL, Allocation, AllocUpdate
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.node import Node
from nomadpy.rpc.contract import ClientEndpoint, ServerEndpoint

log = logging.getLogger(__name__)

_SHUTDOWN_TIMEOUT_S = 60.0
_META_FACT = "dynamic_meta"


class Client(NodeEndpoint):
    """One node's client; also the ``ClientEndpoint`` that the HTTP API asks."""

    def __init__(
        self,
        config: ClientConfig,
        server: ServerEndpoint,
        drivers: Mapping[str, Driver],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        rng: random.Random | None = None,
        task_hooks: tuple[TaskHook, ...] = (),
        alloc_hooks: tuple[AllocHook, ...] = (),
        checks: ChecksSource | None = None,
        identity: NodeIdentity | None = None,
        devices: Mapping[str, DevicePlugin] | None = None,
    ) -> None:
        """Checks the configuration (raises Invalid) and reads the node's identity and memory (blocks shortly)."""
        if problems := config.check():
            raise Invalid("; ".join(problems))
        state_dir = None if config.dev_mode else config.state_dir
        rng = rng or random.Random()
        self.config = config
        self.runners: dict[str, AllocRunner] = {}
        self._server = server
        self._identity = identity or load_identity(state_dir, random.SystemRandom())
        self.node_id = self._identity.node_id
        self._facts = HostFacts()
        usable = {name: driver for name, driver in drivers.items() if allowed(name, config, "driver")}
        self._devices = DeviceWatch(devices or {}, on_change=self._node_changed)
        self._ports = Ports(
            config=config,
            drivers=usable,
            ledger=Ledger.open(state_dir),
            node=Node(id=self._identity.node_id, secret_id=self._identity.secret_id),
            rng=rng,
            wall_ns=wall_ns,
            task_hooks=default_hooks((DeviceHook(self._devices), *task_hooks)),
            alloc_hooks=alloc_hooks,
            checks=checks,
        )
        self._dynamic_meta: dict[str, str | None] = self._ports.ledger.fact(_META_FACT, dict[str, str | None]) or {}
        self._driver_watch = DriverWatch(usable, on_change=self._node_changed, wall_ns=wall_ns)
        self._reporter = UpdateReporter(
            collect=self._report_of,
            store=self._store_states,
            send=self._send_updates,
            delivered=self._reports_delivered,
            rng=rng,
        )
        self._follower = AssignmentFollower(server, self._ports, self, on_followed=self._ports.servers_contacted.set)
        self._registration = Registration(
            server,
            self._ports,
            on_lease=self._follower.hear_lease,
            on_silence=self._stop_disconnected,
            on_return=self._report_all,
        )
        self._gc = GarbageCollector(self)
        self._nursery: trio.Nursery | None = None
        self._removing: set[str] = set()
        self._driver_scope = trio.CancelScope(shield=True)

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled."""
        await trio.to_thread.run_sync(self._make_dirs)
        self._facts = await trio.to_thread.run_sync(fingerprint_host, self.config)
        self._meter = HostMeter(self._facts.resources.cpu.cpu_shares, self.config.alloc_dir)
        async with trio.open_nursery() as outer:
            await outer.start(self._run_drivers)
            try:
                await self._work(task_status)
            finally:
                await self._shut_down()
                self._driver_scope.cancel()
                self._ports.ledger.close()

    def _make_dirs(self) -> None:
        os.makedirs(self.config.alloc_dir, mode=0o711, exist_ok=True)

    async def _run_drivers(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Drivers outlive everything else, because a shutdown may have to stop tasks."""
        with self._driver_scope:
            async with trio.open_nursery() as nursery:
                for driver in self._ports.drivers.values():
                    await nursery.start(_run_guarded, driver)
                task_status.started()
                await trio.sleep_forever()

    async def _work(self, task_status: trio.TaskStatus[None]) -> None:
        await self._driver_watch.look()
        await self._devices.look()
        self._rebuild_node()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._restore()
            nursery.start_soon(self._reporter.run)
            nursery.start_soon(self._driver_watch.run)
            nursery.start_soon(self._devices.run)
            nursery.start_soon(self._registration.run)
            nursery.start_soon(self._push_driver_events)
            nursery.start_soon(self._gc.run)
            nursery.start_soon(self._follow)
            task_status.started()

    async def _follow(self) -> None:
        await self._registration.registered.wait()
        await self._follower.run()

    def _restore(self) -> None:
        allocs, problems = self._ports.ledger.remembered()
        for problem in problems:
            log.error("ledger.unreadable", extra={"fields": {"problem": problem}})
        for remembered in allocs:
            self._restore_one(remembered)
        # Who waits for whom is known only when all are there.
        for runner in list(self.runners.values()):
            if not any(runner.started(task) for task in runner.tasks):
                runner.follow(self._predecessors(runner.alloc))
            self._employ(runner)
            if not runner.local.acknowledged:
                self._reporter.mark(runner.alloc.id)
        self._follower.resume(self.runners)

    def _restore_one(self, remembered: RememberedAlloc) -> None:
        try:
            runner = AllocRunner(remembered.alloc, self._ports, on_change=self._alloc_changed, remembered=remembered)
        except NomadError as error:
            fields = {"alloc": remembered.alloc.id, "error": error.message}
            log.error("alloc.not_restored", extra={"fields": fields})
            return
        self.runners[runner.alloc.id] = runner

    async def _shut_down(self) -> None:
        if not self.config.dev_mode:
            return
        with trio.move_on_after(_SHUTDOWN_TIMEOUT_S, shield=True):
            async with trio.open_nursery() as nursery:
                for runner in self.runners.values():
                    nursery.start_soon(runner.stop_for_shutdown)
            for runner in self.runners.values():
                try:
                    await trio.to_thread.run_sync(runner.dir.destroy)
                except OSError as error:
                    log.warning("alloc.dir_left", extra={"fields": {"alloc": runner.alloc.id, "error": str(error)}})

    # -- the node ----------------------------------------------------------------------------------------------------

    @property
    def node(self) -> Node:
        """The node as it is registered."""
        return self._ports.node

    def _rebuild_node(self) -> None:
        drivers = self._driver_watch.infos
        facts = self._facts.with_devices(self._devices.devices)
        self._ports.node = build_node(self.config, self._identity, facts, drivers, self._dynamic_meta)

    def _node_changed(self) -> None:
        self._rebuild_node()
        self._registration.node_changed()

    async def _push_driver_events(self) -> None:
        await self._registration.registered.wait()
        async for event in self._driver_watch.events:
            try:
                await self._server.emit_node_events(self.node_id, self._identity.secret_id, [event])
            except NomadError as error:
                fields = {"message": event.message, "error": error.message}
                log.warning("node.event_lost", extra={"fields": fields})

    def metadata(self) -> dict[str, dict[str, str | None]]:
        """``Meta`` (what holds), ``Dynamic`` (set by request) and ``Static`` (from the configuration)."""
        return {
            "Meta": dict(self.node.meta),
            "Dynamic": dict(self._dynamic_meta),
            "Static": dict(self.config.meta),
        }

    async def apply_metadata(self, changes: dict[str, str | None]) -> None:
        """Merges dynamic node metadata; None removes a key. Raises Invalid for an empty key, LedgerFailed."""
        if any(not key for key in changes):
            raise Invalid("metadata key must not be empty")
        merged = {**self._dynamic_meta, **changes}
        # A removed key must keep hiding a static one of the same name; otherwise it is simply forgotten.
        kept = {key: value for key, value in merged.items() if value is not None or key in self.config.meta}
        await self._ports.ledger.put_fact(_META_FACT, kept)
        self._dynamic_meta = kept
        self._node_changed()

    # -- allocations -------------------------------------------------------------------------------------------------

    async def follow_allocs(self, allocs: list[Allocation]) -> None:
        """Stores what the servers want, so that a later agent knows of it too, then does it."""
        new = [alloc for alloc in allocs if alloc.id not in self.runners and not alloc.client_terminal()]
        newer = [alloc for alloc in allocs if alloc.id in self.runners and self._is_newer(alloc)]
        await self._ports.ledger.put_allocs([*new, *newer])
        for alloc in newer:
            # It may have been removed while the disk was written to.
            if alloc.id in self.runners:
                self._update(self.runners[alloc.id], alloc)
        for alloc in new:
            self._start(alloc)

    def _update(self, runner: AllocRunner, alloc: Allocation) -> None:
        runner.update(alloc)
        if runner.finished and not alloc.client_terminal():
            # The servers went back to a saved state, from before they heard of the end.
            self._reporter.report_again([alloc.id])

    def _is_newer(self, alloc: Allocation) -> bool:
        known = self.runners[alloc.id].alloc.alloc_modify_index
        if alloc.alloc_modify_index >= known:
            return True
        fields = {"alloc": alloc.id, "index": alloc.alloc_modify_index, "known": known}
        log.warning("alloc.older_ignored", extra={"fields": fields})
        return False

    def _start(self, alloc: Allocation) -> None:
        try:
            predecessors = self._predecessors(alloc)
            runner = AllocRunner(alloc, self._ports, on_change=self._alloc_changed, predecessors=predecessors)
        except NomadError as error:
            log.error("alloc.not_started", extra={"fields": {"alloc": alloc.id, "error": error.message}})
            return
        self._employ(runner)
        self._gc.alloc_added()

    def _employ(self, runner: AllocRunner) -> None:
        assert self._nursery is not None, "allocations are started only while the client runs"
        self.runners[runner.alloc.id] = runner
        self._nursery.start_soon(runner.run)

    def _predecessors(self, alloc: Allocation) -> Predecessors | None:
        names = [alloc.previous_allocation, *alloc.preempted_allocations]
        here = [self.runners[name] for name in names if name in self.runners]
        if not here:
            return None

        async def wait_over() -> None:
            for runner in here:
                await runner.done.wait()

        group = alloc.job.group(alloc.task_group) if alloc.job else None
        sticky = group is not None and group.ephemeral_disk is not None and group.ephemeral_disk.sticky
        previous = self.runners.get(alloc.previous_allocation)
        return Predecessors(wait_over, previous.dir if sticky and previous else None)

    def remove_alloc(self, alloc_id: str) -> None:
        """Ends and forgets an allocation that the servers do not know any more."""
        runner = self.runners.get(alloc_id)
        if runner is not None and alloc_id not in self._removing and self._nursery is not None:
            self._nursery.start_soon(self.destroy_alloc, runner)

    async def destroy_alloc(self, runner: AllocRunner) -> None:
        """Ends an allocation and removes what is left of it; a directory that resists is logged and left."""
        alloc_id = runner.alloc.id
        if alloc_id in self._removing:
            return
        self._removing.add(alloc_id)
        try:
            await runner.destroy()
        except (OSError, NomadError) as error:
            log.error("alloc.not_destroyed", extra={"fields": {"alloc": alloc_id, "error": str(error)}})
        finally:
            self._removing.discard(alloc_id)
        if self.runners.get(alloc_id) is runner:
            del self.runners[alloc_id]
        self._reporter.forget(alloc_id)

    def _stop_disconnected(self, silence_s: float) -> None:
        """Stops allocations whose job wants no run without servers (``disconnect.stop_on_client_after``)."""
        for runner in self.runners.values():
            group = runner.alloc.job.group(runner.alloc.task_group) if runner.alloc.job else None
            if group is None or runner.finished:
                continue
            strategy = group.disconnection()
            limit_ns = strategy.stop_on_client_after_ns if strategy is not None else None
            if limit_ns and silence_s * 1e9 >= limit_ns:
                log.warning("alloc.stopped_disconnected", extra={"fields": {"alloc": runner.alloc.id}})
                runner.stop()

    def _report_all(self) -> None:
        self._reporter.report_again(id for id, runner in self.runners.items() if not runner.local.acknowledged)

    # -- reports -----------------------------------------------------------------------------------------------------

    def _alloc_changed(self, alloc_id: str) -> None:
        self._reporter.mark(alloc_id)

    def _report_of(self, alloc_id: str) -> AllocUpdate | None:
        runner = self.runners.get(alloc_id)
        return runner.report() if runner is not None else None

    async def _store_states(self, updates: list[AllocUpdate]) -> None:
        await self._ports.ledger.put_task_states(
            (update.id, task, state) for update in updates for task, state in update.task_states.items()
        )

    async def _send_updates(self, updates: list[AllocUpdate]) -> int:
        return await self._server.update_allocs(self.node_id, self._identity.secret_id, updates)

    async def _reports_delivered(self, updates: list[AllocUpdate]) -> None:
        for update in updates:
            runner = self.runners.get(update.id)
            if runner is None or not runner.finished or runner.local.acknowledged:
                continue
            if update.client_status in CLIENT_TERMINAL:
                runner.local = runner.local.replace(acknowledged=True)
                await self._ports.ledger.put_alloc_local(update.id, runner.local)


async def _run_guarded(driver: Driver, *, task_status: trio.TaskStatus[None]) -> None:
    """A driver's background work. Its failure is logged and ends only that work; its health check tells the rest."""
    started = False

    class Status:
        """Passes the driver's word on and remembers that it was given."""

        def started(self, value: None = None) -> None:
            nonlocal started
            started = True
            task_status.started(value)

    try:
        await driver.run(task_status=Status())
    except Exception:
        # A driver may come from another package; its defects must not stop the client.
        log.exception("driver.stopped", extra={"fields": {"driver": driver.name}})
    if not started:
        task_status.started()


if TYPE_CHECKING:
    _fulfils: Callable[..., ClientEndpoint] = Client
