"""Which nodes may run a group at all, whatever they hold at the moment, and why the others may not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.job import Job, TaskGroup, VolumeRequest
from nomadpy.model.resources import Constraint, RequestedDevice
from nomadpy.scheduler.cells import Cells
from nomadpy.scheduler.facts import Facts, matches_any
from nomadpy.scheduler.operators import DISTINCT_HOSTS, DISTINCT_PROPERTY
from nomadpy.scheduler.targets import escapes_class
from nomadpy.state.view import BoolColumn, IntColumn

_DISTINCT = (DISTINCT_HOSTS, DISTINCT_PROPERTY)
_MEMO_LIMIT = 4096
_FEW_OF = 16
NOT_READY = "node is not ready or not eligible"
Asked = Constraint | RequestedDevice | VolumeRequest | str


class Check:
    """One condition: the reason under which nodes that fail it are counted, and the nodes that pass. ``by_class`` are
    the nodes that a waiting evaluation should consider possible; it differs from ``passes`` for conditions that can
    change while the node keeps its class. ``asked`` is what the job file asks for, for those who explain."""

    def __init__(
        self, reason: str, passes: BoolColumn, by_class: BoolColumn | None = None, *, kind: str, asked: Asked
    ) -> None:
        self.reason = reason
        self.passes = passes
        self.by_class = passes if by_class is None else by_class
        self.kind = kind
        self.asked = asked


class Eligibility:
    """The outcome of all lasting checks of a group: vectors over node numbers and the counts for its metrics."""

    def __init__(self, facts: Facts, job: Job, group: TaskGroup) -> None:
        pool = facts.in_pool(job.node_pool)
        datacenters = facts.in_datacenters(job.datacenters)
        self.in_scope: BoolColumn = pool & datacenters
        self.suitable: BoolColumn = self.in_scope.copy()
        self.nodes_in_pool = int(np.count_nonzero(pool & facts.ready))
        candidates = self.in_scope & facts.ready
        self.candidates = int(np.count_nonzero(candidates))
        self.nodes_available = _count_datacenters(facts, candidates, pool, job.datacenters)
        self.filtered = 0
        self.constraint_filtered: dict[str, int] = {}
        self.class_filtered: dict[str, int] = {}
        self.escaped = False
        self._possible = self.in_scope.copy()
        pool_name = job.node_pool or "default"
        lasting = list(checks(facts, job, group))
        self.conditions: tuple[Check, ...] = (
            Check(NOT_READY, facts.ready, kind="node", asked=""),
            Check("datacenter", datacenters, kind="datacenter", asked=", ".join(job.datacenters)),
            Check("node pool", pool, kind="node pool", asked=pool_name),
            *lasting,
        )
        self._nearness: tuple[IntColumn, IntColumn] | None = None
        for check in lasting:
            dropped = candidates & ~check.passes
            count = int(np.count_nonzero(dropped))
            if count:
                self.filtered += count
                self.constraint_filtered[check.reason] = self.constraint_filtered.get(check.reason, 0) + count
                add_counts(self.class_filtered, node_class_counts(facts, dropped))
                candidates &= check.passes
            self.suitable &= check.passes
            self._possible &= check.by_class
        self.escaped = any(
            escapes_class(target) for c in lasting_constraints(job, group) for target in (c.l_target, c.r_target)
        )
        self.mask: BoolColumn = candidates
        self.distinct = any(c.operand in _DISTINCT for c in (*job.constraints, *group_constraints(group)))
        self.metric = AllocMetric(
            nodes_evaluated=self.candidates,
            nodes_filtered=self.filtered,
            nodes_in_pool=self.nodes_in_pool,
            node_pool=job.node_pool or "default",
            nodes_available=self.nodes_available,
            class_filtered=self.class_filtered,
            constraint_filtered=self.constraint_filtered,
        )
        self._bar: tuple[Cells, IntColumn | None] | None = None
        self._mask_bytes: bytes | None = None

    def mask_bytes(self) -> bytes | None:
        """The mask as a byte for each node, worked out once; None when few nodes may run the group."""
        if self._mask_bytes is None:
            few = int(np.count_nonzero(self.mask)) * _FEW_OF < len(self.mask)
            self._mask_bytes = b"" if few else self.mask.tobytes()
        return self._mask_bytes or None

    def bar(self, cells: Cells) -> IntColumn | None:
        """``Cells.bar`` of the nodes that may run the group, worked out once."""
        if self._bar is None or self._bar[0] is not cells:
            self._bar = cells, cells.bar(self.mask)
        return self._bar[1]

    def nearness(self, facts: Facts) -> tuple[IntColumn, IntColumn]:
        """Per node how many of ``conditions`` it fails, and the position of the last of these. For those who explain;
        worked out once. A number that no node has any more fails more than all."""
        if self._nearness is None:
            failed: IntColumn = np.where(facts.present, 0, len(self.conditions) + 1)
            last: IntColumn = np.zeros(facts.size, dtype=np.int64)
            for position, check in enumerate(self.conditions):
                against = ~check.passes
                failed += against
                last[against] = position
            self._nearness = failed, last
        return self._nearness

    def classes(self, facts: Facts) -> dict[str, bool]:
        """Computed class → whether a node of it might ever run the group."""
        possible = np.zeros(len(facts.classes), dtype=np.bool_)
        possible[facts.class_codes[self._possible]] = True
        return {name: bool(ok) for name, ok in zip(facts.classes, possible, strict=True) if name}


def eligibility(facts: Facts, job: Job, group: TaskGroup) -> Eligibility:
    """The group's eligibility, remembered for every group that asks the same."""
    key = _key_of(job, group)
    found = cast(Eligibility | None, facts.memo.get(key))
    if found is None:
        if len(facts.memo) >= _MEMO_LIMIT:
            facts.memo.clear()
        found = facts.memo[key] = Eligibility(facts, job, group)
    return found


def _key_of(job: Job, group: TaskGroup) -> tuple[object, ...]:
    """What the eligibility of a group follows from."""
    if len(group.tasks) == 1 and not (group.volumes or group.networks or group.tasks[0].secrets):
        only = group.tasks[0]
        tasks: tuple[object, ...] = ((only.driver, only.constraints, only.resources.devices),)
        return job.node_pool, job.datacenters, job.constraints, group.constraints, tasks, (), ()
    tasks = tuple((task.driver, task.constraints, task.resources.devices) for task in group.tasks)
    volumes = tuple((v.type, v.source, v.read_only, v.per_alloc) for v in group.volumes.values())
    needs = (*_network_key(group), *_providers(group))
    return job.node_pool, job.datacenters, job.constraints, group.constraints, tasks, volumes, needs


def lasting_constraints(job: Job, group: TaskGroup) -> Iterator[Constraint]:
    """Job, group and task constraints that depend on the node alone."""
    yield from (c for c in (*job.constraints, *group_constraints(group)) if c.operand not in _DISTINCT)


def group_constraints(group: TaskGroup) -> tuple[Constraint, ...]:
    """The constraints of a group and of its tasks, in order."""
    return (*group.constraints, *(constraint for task in group.tasks for constraint in task.constraints))


def checks(facts: Facts, job: Job, group: TaskGroup) -> Iterator[Check]:
    """In Nomad's order, because a node is counted under the first reason only."""
    for constraint in job.constraints:
        if constraint.operand not in _DISTINCT:
            yield _constraint_check(facts, constraint)
    for driver in sorted({task.driver for task in group.tasks}):
        usable, known = facts.has_driver(driver), facts.knows_driver(driver)
        yield Check("missing drivers", usable, known, kind="driver", asked=driver)
    for constraint in group_constraints(group):
        if constraint.operand not in _DISTINCT:
            yield _constraint_check(facts, constraint)
    for task in group.tasks:
        for request in task.resources.devices:
            usable, known = facts.has_devices(request), facts.knows_devices(request)
            yield Check("missing devices", usable, known, kind="device", asked=request)
    yield from _network_checks(facts, group)
    for provider in _providers(group):
        present = facts.has_secrets_provider(provider)
        yield Check("missing secrets provider", present, kind="secrets provider", asked=provider)
    for volume in group.volumes.values():
        yield from _volume_checks(facts, volume)


def _constraint_check(facts: Facts, constraint: Constraint) -> Check:
    """A condition on a unique attribute says nothing about the class."""
    passes = facts.meets(constraint)
    escapes = escapes_class(constraint.l_target) or escapes_class(constraint.r_target)
    by_class = facts.present if escapes else passes
    return Check(str(constraint), passes, by_class, kind="constraint", asked=constraint)


def _network_checks(facts: Facts, group: TaskGroup) -> Iterator[Check]:
    for network in group.networks[:1]:
        yield Check("missing network", facts.has_network_mode(network.mode), kind="network", asked=network.mode)
        for port in (*network.reserved_ports, *network.dynamic_ports):
            if port.host_network and port.host_network != "default":
                reason = f'missing host network "{port.host_network}" for port "{port.label}"'
                present = facts.has_host_network(port.host_network)
                yield Check(reason, present, facts.present, kind="host network", asked=port.host_network)


def _volume_checks(facts: Facts, request: VolumeRequest) -> Iterator[Check]:
    if request.type == "csi":
        # No CSI volume can be registered, so none is ever found.
        nowhere = np.zeros(facts.size, dtype=np.bool_)
        yield Check(f"missing CSI Volume {request.source}", nowhere, kind="volume", asked=request)
    elif not request.per_alloc:
        offered = facts.has_host_volume(request)
        yield Check("missing compatible host volumes", offered, facts.present, kind="volume", asked=request)


def _providers(group: TaskGroup) -> list[str]:
    return sorted({secret.provider for task in group.tasks for secret in task.secrets})


def _network_key(group: TaskGroup) -> Iterator[tuple[str, ...]]:
    for network in group.networks[:1]:
        yield (network.mode,)
        for port in (*network.reserved_ports, *network.dynamic_ports):
            if port.host_network:
                yield (port.label, port.host_network)


def _count_datacenters(
    facts: Facts, candidates: BoolColumn, pool: BoolColumn, wanted: tuple[str, ...]
) -> dict[str, int]:
    """Candidates per datacenter. One that the job names and that has none is listed with zero, and so is one that the
    job's patterns mean and in which the pool has nodes."""
    column = facts.column("${node.datacenter}")
    counts = np.bincount(column.codes[candidates], minlength=len(column.values))
    in_pool = np.bincount(column.codes[pool & facts.present], minlength=len(column.values))
    found = {
        value: int(n)
        for value, n, any_there in zip(column.values, counts, in_pool, strict=True)
        if value is not None and (n or (any_there and matches_any(value, wanted)))
    }
    for name in wanted:
        if "*" not in name:
            found.setdefault(name, 0)
    return dict(sorted(found.items()))


def node_class_counts(facts: Facts, mask: BoolColumn) -> dict[str, int]:
    """How many of the nodes have which node class; nodes without one are not counted."""
    column = facts.column("${node.class}")
    counts = np.bincount(column.codes[mask], minlength=len(column.values))
    return {value: int(n) for value, n in zip(column.values, counts, strict=True) if n and value}


def add_counts(into: dict[str, int], more: dict[str, int]) -> None:
    """Adds counts by key in place."""
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
