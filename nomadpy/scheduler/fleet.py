"""The nodes with what they hold: the state's usage plus what earlier evaluations of the same batch were given.

While one evaluation is worked on, its own changes are kept in a log and taken back afterwards, so an answer that is
thrown away leaves nothing behind; ``commit`` makes the placements of a decision last for the rest of the batch. As the
one nearly always follows the other, ``finish`` only remembers what to take back; who looks before a commit sees it
done.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import msgspec
import numpy as np

from nomadpy.model.alloc import Allocation
from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.node import pool_config
from nomadpy.model.resources import AllocatedPort
from nomadpy.scheduler.cells import MOST_NODES, Asks
from nomadpy.scheduler.devices import Held
from nomadpy.scheduler.facts import Facts
from nomadpy.scheduler.front import Choice, Left
from nomadpy.state.view import Claim, IntColumn, NodeColumns, StateView

TABLES = 16
"""For how many groups of a batch the best few nodes are told; for others only the one that was taken."""

PRIORITY_MAX = 2**31


class Taken(msgspec.Struct, frozen=True):
    """What a decision took: ``counts[i]`` allocations of one demand on ``numbers[i]`` (each number at most once).
    ``ports`` are bit sets by node number and host address, of ports that nobody else has."""

    numbers: IntColumn
    counts: IntColumn
    demand: Demand
    extras: tuple[tuple[int, Extras], ...] = ()
    ports: tuple[tuple[int, str, int], ...] = ()


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
    facts when they have not changed since; it is not to be used any more."""

    def __init__(self, view: StateView, previous: Fleet | None = None) -> None:
        columns = view.columns
        known: Facts | None = None if previous is None else previous.facts
        if (
            known is None
            or known.version != columns.facts_version
            or known.size != columns.size
            or previous is None
            or previous.columns is not columns
        ):
            known = Facts(columns)
        self.facts: Facts = known
        self.columns: NodeColumns = columns
        self._free = np.empty((4, known.size), dtype=np.int64)
        np.subtract(columns.cpu, columns.cpu_used, out=self._free[0])
        np.subtract(columns.memory, columns.memory_used, out=self._free[1])
        np.subtract(columns.disk, columns.disk_used, out=self._free[2])
        np.subtract(known.max_allocs, columns.alloc_count, out=self._free[3])
        self.tables_left = TABLES
        self._view = view
        self._algorithms: dict[str, str] = {}
        self.evicted: set[str] = set()  # by decisions that the state does not know yet
        self._claims: dict[int, list[Claim]] = {}
        self._extras: dict[int, list[Extras]] = {}
        self._ports: dict[int, dict[str, int]] = {}
        self._released: dict[int, set[str]] = {}
        self._log: list[tuple[Taken, int]] = []
        self._done: list[tuple[Taken, int]] = []
        self._offered: tuple[Taken, Choice] | None = None  # what ``commit`` may carry out as it is
        self._booked: dict[int, Left] = {}  # what committed choices leave of nodes, written before anybody looks
        self._asks: Asks | None = None
        if previous is not None and previous.facts is known and previous._asks is not None:
            before = previous.left
            self._asks, previous._asks = previous._asks, None
            self._asks.note(np.flatnonzero((self._free != before).any(axis=0)))

    def is_of(self, columns: NodeColumns) -> bool:
        """Whether what it knows of the nodes' facts is still so."""
        facts = self.facts
        return columns is self.columns and columns.facts_version == facts.version and columns.size == facts.size

    @property
    def left(self) -> IntColumn:
        """Rows: MHz, MB, MB of disk and allocations that each node has left. Not to be written."""
        if self._done:
            self._take_back()
        if self._booked:
            self._book()
        return self._free

    @property
    def cpu_free(self) -> IntColumn:
        """MHz that each node has left."""
        row: IntColumn = self.left[0]
        return row

    @property
    def memory_free(self) -> IntColumn:
        """MB that each node has left."""
        row: IntColumn = self.left[1]
        return row

    @property
    def disk_free(self) -> IntColumn:
        """MB of disk that each node has left."""
        row: IntColumn = self.left[2]
        return row

    @property
    def slots_free(self) -> IntColumn:
        """How many more allocations each node's operator allows."""
        row: IntColumn = self.left[3]
        return row

    def number(self, node_id: str) -> int:
        """The position of a node; -1 when unknown."""
        return self._view.node_number(node_id)

    def algorithm_for(self, pool: str) -> str:
        """The scoring algorithm for the jobs of a node pool: the pool's own, or the cluster's."""
        found = self._algorithms.get(pool)
        if found is None:
            config = pool_config(self._view.scheduler_config, self._view.node_pool(pool or "default"))
            found = self._algorithms[pool] = config.scheduler_algorithm
        return found

    def asks(self) -> Asks | None:
        """The asks of this batch and earlier ones; None when there are too many nodes, or none."""
        if self._asks is None and 0 < self.facts.size <= MOST_NODES:
            self._asks = Asks(self.facts)
        return self._asks

    def choose(
        self, demand: Demand, pool: str, mask: bytes, wanted: int, *, desired: float, tell: int
    ) -> Choice | None:
        """Where ``wanted`` allocations of a new group of the pool go (``Asks.choose``); changes nothing."""
        if self._done:
            self._take_back()
        asks, algorithm = self.asks(), self.algorithm_for(pool)
        if asks is None:
            return None
        return asks.choose(demand, algorithm, mask, wanted, self._rows, desired=desired, tell=tell)

    def _rows(self, up_to_date: bool) -> IntColumn:
        """What nodes have left; what committed choices took may be missing unless it is to be up to date."""
        return self.left if up_to_date else self._free

    def offer(self, taken: Taken, choice: Choice) -> None:
        """Remembers a choice until the next ``commit``, which carries it out when the decision takes just that."""
        self._offered = taken, choice

    def keep(self, choice: Choice) -> None:
        """Keeps a choice that was made last, as ``commit`` does with a decision's."""
        self._offered = None
        assert self._asks is not None
        if not self._asks.follow(choice, self._booked):
            raise AssertionError("nothing came between a choice and keeping it")

    def _book(self) -> None:
        """Writes down what committed choices leave. Their asks have logged it."""
        booked, self._booked = self._booked, {}
        self._free[:, list(booked)] = np.array(list(booked.values()), dtype=np.int64).T

    def cpu_ask(self, demand: Demand, where: IntColumn | slice) -> int | IntColumn:
        """MHz that an allocation takes on these nodes: a reserved core counts with its whole bandwidth."""
        return demand.cpu + demand.cores * self.facts.core_mhz[where] if demand.cores else demand.cpu

    def take(self, taken: Taken) -> None:
        """Accounts for placements of the evaluation at hand."""
        if self._done:
            self._take_back()
        self._move(taken, 1)
        self._log.append((taken, 1))

    def release(self, alloc: Allocation) -> None:
        """Frees what an allocation holds for the evaluation at hand, which stops it."""
        number = self._view.node_number(alloc.node_id)
        if number < 0 or alloc.client_terminal():
            return
        if self._done:
            self._take_back()
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

    def finish(self) -> None:
        """Ends the evaluation at hand: takes back what it did, unless ``commit`` follows at once and keeps it."""
        if self._released or self._done or any(sign < 0 for _, sign in self._log):
            self._take_back()
            self.undo()
        else:
            self._done, self._log = self._log, []

    def _take_back(self) -> None:
        while self._done:
            taken, sign = self._done.pop()
            self._move(taken, -sign)

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
        offered, self._offered = self._offered, None
        if offered is not None and self._asks is not None and not self._done:
            taken, choice = offered
            if len(decision.usage) == 1 and decision.usage[0] is taken and self._asks.follow(choice, self._booked):
                return
        done = [taken for taken, _ in self._done]
        if len(done) == len(decision.usage) and all(a is b for a, b in zip(done, decision.usage, strict=True)):
            self._done = []
        else:
            self._take_back()
            for taken in decision.usage:
                self._move(taken, 1)
        self.evicted.update(decision.evicted)

    def _move(self, taken: Taken, sign: int) -> None:
        if self._booked:
            self._book()
        numbers, demand = taken.numbers, taken.demand
        if demand.cores:
            counts = taken.counts * sign
            self._free[0, numbers] -= counts * self.cpu_ask(demand, numbers)
            self._free[1:, numbers] -= np.array((demand.memory, demand.disk, 1))[:, None] * counts
        else:
            asks = np.array((demand.cpu * sign, demand.memory * sign, demand.disk * sign, sign))
            if len(numbers) == 1:
                self._free[:, numbers[0]] -= asks * taken.counts[0]
            else:
                self._free[:, numbers] -= asks[:, None] * taken.counts
        if self._asks is not None:
            self._asks.note(numbers)
        for number, extras in taken.extras:
            held = self._extras.setdefault(number, [])
            if sign > 0:
                held.append(extras)
            else:
                held.remove(extras)
        for number, ip, bits in taken.ports:
            ports = self._ports.setdefault(number, {})
            ports[ip] = ports.get(ip, 0) ^ bits

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
        for ip, bits in self._ports.get(number, {}).items():
            if bits >> port & 1:
                holders.setdefault(ip, set()).add("")
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
        for ip, bits in self._ports.get(number, {}).items():
            used[ip] = used.get(ip, 0) | bits
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
