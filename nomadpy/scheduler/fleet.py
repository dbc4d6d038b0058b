"""The nodes with what they hold: the state's usage plus what earlier evaluations of the same batch were given.

While one evaluation is worked on, its own changes are kept in a log and undone afterwards, so an answer that is thrown
away leaves nothing behind; ``commit`` makes the placements of a decision last for the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import msgspec
import numpy as np

from nomadpy.model.alloc import Allocation
from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.resources import AllocatedPort
from nomadpy.scheduler.devices import Held
from nomadpy.scheduler.facts import Facts
from nomadpy.state.view import Claim, IntColumn, StateView

PRIORITY_MAX = 2**31


class Taken(msgspec.Struct, frozen=True):
    """What a decision took: ``counts[i]`` allocations of one demand on ``numbers[i]`` (each number at most once)."""

    numbers: IntColumn
    counts: IntColumn
    demand: Demand
    extras: tuple[tuple[int, Extras], ...] = ()


class Extras(msgspec.Struct, frozen=True):
    """Things of a node that only one allocation can have."""

    ports: tuple[AllocatedPort, ...] = ()
    devices: tuple[Held, ...] = ()
    cores: tuple[int, ...] = ()


class HasUsage(Protocol):
    """A decision, as far as the fleet is concerned."""

    @property
    def usage(self) -> tuple[Taken, ...]:
        """What its placements take."""

    @property
    def evicted(self) -> tuple[str, ...]:
        """The allocations that have to make room for them."""


class Fleet:
    """What is free on every node, for one batch of evaluations. ``previous`` hands over what it knows of the nodes'
    facts when they have not changed since."""

    def __init__(self, view: StateView, previous: Fleet | None = None) -> None:
        columns = view.columns
        known: Facts | None = None if previous is None else previous.facts
        if known is None or known.version != columns.facts_version or known.size != columns.size:
            known = Facts(columns)
        self.facts: Facts = known
        self.columns = columns
        self.cpu_free: IntColumn = columns.cpu - columns.cpu_used
        self.memory_free: IntColumn = columns.memory - columns.memory_used
        self.disk_free: IntColumn = columns.disk - columns.disk_used
        self.slots_free: IntColumn = self.facts.max_allocs - columns.alloc_count
        self.algorithm = view.scheduler_config.scheduler_algorithm
        self.evicted: set[str] = set()  # by decisions that the state does not know yet
        self._view = view
        self._claims: dict[int, list[Claim]] = {}
        self._extras: dict[int, list[Extras]] = {}
        self._released: dict[int, set[str]] = {}
        self._log: list[tuple[Taken, int]] = []

    def number(self, node_id: str) -> int:
        """The position of a node; -1 when unknown."""
        return self._view.node_number(node_id)

    def take(self, taken: Taken) -> None:
        """Accounts for placements of the evaluation at hand."""
        self._move(taken, 1)
        self._log.append((taken, 1))

    def release(self, alloc: Allocation) -> None:
        """Frees what an allocation holds for the evaluation at hand, which stops it."""
        number = self._view.node_number(alloc.node_id)
        if number < 0 or alloc.client_terminal():
            return
        one = np.array([number]), np.ones(1, dtype=np.int64)
        taken = Taken(*one, alloc_demand(alloc))
        self._move(taken, -1)
        self._log.append((taken, -1))
        self._released.setdefault(number, set()).add(alloc.id)

    def undo(self, mark: int = 0) -> None:
        """Takes back what the evaluation at hand did since ``mark``."""
        while len(self._log) > mark:
            taken, sign = self._log.pop()
            self._move(taken, -sign)
        if mark == 0:
            self._released.clear()

    @property
    def mark(self) -> int:
        """A point to undo to."""
        return len(self._log)

    def restore(self, alloc: Allocation, mark: int) -> None:
        """Takes back everything since ``mark``, among it the release of the allocation."""
        self.undo(mark)
        released = self._released.get(self._view.node_number(alloc.node_id))
        if released:
            released.discard(alloc.id)

    def commit(self, decision: HasUsage) -> None:
        """Keeps a decision's placements for the evaluations that follow. What it stops stays in use until the node
        says that it is over."""
        for taken in decision.usage:
            self._move(taken, 1)
        self.evicted.update(decision.evicted)

    def _move(self, taken: Taken, sign: int) -> None:
        numbers, counts, demand = taken.numbers, taken.counts * sign, taken.demand
        self.cpu_free[numbers] -= counts * demand.cpu
        self.memory_free[numbers] -= counts * demand.memory
        self.disk_free[numbers] -= counts * demand.disk
        self.slots_free[numbers] -= counts
        for number, extras in taken.extras:
            held = self._extras.setdefault(number, [])
            if sign > 0:
                held.append(extras)
            else:
                held.remove(extras)

    def free(self, number: int) -> Demand:
        """What is left of a node; below zero where somebody was promised what another one still holds."""
        return Demand(int(self.cpu_free[number]), int(self.memory_free[number]), int(self.disk_free[number]))

    @cached_property
    def lowest_priority(self) -> int | None:
        """The lowest priority of any job that has anything here."""
        return self._view.lowest_priority()

    def claims(self, number: int, priority: int) -> list[Claim]:
        """The claims of jobs of at most this priority on a node, without those that the evaluation at hand, or a
        decision that it follows, takes away."""
        known = self._claims.get(number)
        if known is None:
            known = self._claims[number] = self._view.claims(number, PRIORITY_MAX)
        gone = self.evicted | self._released.get(number, set())
        return [claim for claim in known if claim.priority <= priority and claim.alloc_id not in gone]

    def port_holders(self, number: int, port: int) -> dict[str, set[str]]:
        """Host address → ids of the allocations that hold a port there; "" stands for a placement that has no id
        yet."""
        holders: dict[str, set[str]] = {}
        for alloc in self._live(number):
            for held in alloc.allocated_resources.shared.ports if alloc.allocated_resources is not None else ():
                if held.value == port:
                    holders.setdefault(held.host_ip, set()).add(alloc.id)
        for extras in self._extras.get(number, ()):
            for held in extras.ports:
                if held.value == port:
                    holders.setdefault(held.host_ip, set()).add("")
        return holders

    def used_ports(self, number: int) -> dict[str, int]:
        """Host address → bit set of the ports in use on a node."""
        used = dict(self._view.columns.used_ports(number))
        if self._released.get(number):
            used = {}
            for alloc in self._live(number):
                if alloc.allocated_resources is not None:
                    _add_ports(used, alloc.allocated_resources.shared.ports)
        for extras in self._extras.get(number, ()):
            _add_ports(used, extras.ports)
        return used

    def held_devices(self, number: int) -> set[Held]:
        """Device instances in use on a node."""
        held = {held for extras in self._extras.get(number, ()) for held in extras.devices}
        for alloc in self._live(number):
            if alloc.allocated_resources is not None:
                for task in alloc.allocated_resources.tasks.values():
                    held.update((d.vendor, d.type, d.name, i) for d in task.devices for i in d.device_ids)
        return held

    def held_cores(self, number: int) -> set[int]:
        """Reserved cores in use on a node."""
        held = {core for extras in self._extras.get(number, ()) for core in extras.cores}
        for alloc in self._live(number):
            if alloc.allocated_resources is not None:
                for task in alloc.allocated_resources.tasks.values():
                    held.update(task.cpu.reserved_cores)
        return held

    def _live(self, number: int) -> Iterable[Allocation]:
        """Allocations on a node that hold their things, without those that the evaluation at hand stops."""
        node = self.facts.nodes[number]
        gone = self._released.get(number, set())
        stored = self._view.allocs_by_node(node.id) if node is not None else []
        return (alloc for alloc in stored if not alloc.client_terminal() and alloc.id not in gone)


def alloc_demand(alloc: Allocation) -> Demand:
    """What an allocation holds, by the job version it was made from."""
    group = alloc.job.group(alloc.task_group) if alloc.job is not None else None
    return Demand() if group is None else group_demand(group)


def _add_ports(used: dict[str, int], ports: Iterable[AllocatedPort]) -> None:
    for port in ports:
        used[port.host_ip] = used.get(port.host_ip, 0) | 1 << port.value
