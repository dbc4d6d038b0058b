"""The nodes, as records and as columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nomadpy.model.demand import Demand
from nomadpy.model.node import Node
from nomadpy.model.resources import AllocatedPort
from nomadpy.state.view import BoolColumn, IntColumn

_COLUMNS = ("cpu", "memory", "disk", "core_mhz", "cpu_used", "memory_used", "disk_used", "cores_used", "alloc_count")


class NodeTable:
    """Nodes by number, with capacity and usage as numpy columns. Implements ``view.NodeColumns``; only ``apply``
    writes."""

    def __init__(self) -> None:
        self.size = 0
        self.nodes: list[Node | None] = []
        self.facts_version = 0
        self.grown: set[int] = set()  # nodes on which the entry being applied made room
        self._numbers: dict[str, int] = {}
        self._identities: list[tuple[str, str]] = []
        self._ports: dict[int, dict[str, int]] = {}
        self._grow(64)

    def _grow(self, capacity: int) -> None:
        old = self.size
        for name in _COLUMNS:
            column = np.zeros(capacity, dtype=np.int64)
            if old:
                column[:old] = getattr(self, f"_{name}")[:old]
            setattr(self, f"_{name}", column)
        ready = np.zeros(capacity, dtype=np.bool_)
        if old:
            ready[:old] = self._ready[:old]
        self._ready: BoolColumn = ready
        self._capacity = capacity

    _cpu: IntColumn
    _memory: IntColumn
    _disk: IntColumn
    _cpu_used: IntColumn
    _memory_used: IntColumn
    _disk_used: IntColumn
    _alloc_count: IntColumn
    _core_mhz: IntColumn
    _cores_used: IntColumn

    @property
    def cpu(self) -> IntColumn:
        return self._cpu[: self.size]

    @property
    def memory(self) -> IntColumn:
        return self._memory[: self.size]

    @property
    def disk(self) -> IntColumn:
        return self._disk[: self.size]

    @property
    def core_mhz(self) -> IntColumn:
        return self._core_mhz[: self.size]

    @property
    def cpu_used(self) -> IntColumn:
        return self._cpu_used[: self.size]

    @property
    def memory_used(self) -> IntColumn:
        return self._memory_used[: self.size]

    @property
    def disk_used(self) -> IntColumn:
        return self._disk_used[: self.size]

    @property
    def alloc_count(self) -> IntColumn:
        return self._alloc_count[: self.size]

    @property
    def ready(self) -> BoolColumn:
        return self._ready[: self.size]

    def used_ports(self, number: int) -> dict[str, int]:
        """Host address → bit set of ports that live allocations hold."""
        return self._ports.get(number, {})

    def number(self, node_id: str) -> int:
        """The node's number, -1 when it was never here."""
        return self._numbers.get(node_id, -1)

    def identity(self, number: int) -> tuple[str, str]:
        """(name, id) of a node, also after it was purged."""
        return self._identities[number]

    def get(self, node_id: str) -> Node | None:
        """The node, if it is here now."""
        number = self._numbers.get(node_id, -1)
        return self.nodes[number] if number >= 0 else None

    def __iter__(self) -> Iterator[Node]:
        return (node for node in self.nodes if node is not None)

    def put(self, node: Node) -> int:
        """Stores a node, new or changed, and returns its number. A node that comes back after a purge keeps its
        number, because allocations may still name it."""
        number = self._numbers.get(node.id, -1)
        old = self.nodes[number] if number >= 0 else None
        if number < 0:
            number = self.size
            if number == self._capacity:
                self._grow(self._capacity * 2)
            self._numbers[node.id] = number
            self.nodes.append(None)
            self._identities.append(("", node.id))
            self.size += 1
        self.nodes[number] = node
        self._identities[number] = (node.name, node.id)
        resources, reserved = node.node_resources, node.reserved_resources
        self._cpu[number] = resources.cpu.cpu_shares - reserved.cpu.cpu_shares
        core_mhz = resources.cpu.core_mhz()
        self._cpu_used[number] += self._cores_used[number] * (core_mhz - self._core_mhz[number])
        self._core_mhz[number] = core_mhz
        self._memory[number] = resources.memory.memory_mb - reserved.memory.memory_mb
        self._disk[number] = resources.disk.disk_mb - reserved.disk.disk_mb
        ready, was_ready = node.is_ready(), old is not None and old.is_ready()
        self._ready[number] = ready
        changed = old is None or ready != was_ready or _facts(old) != _facts(node)
        if changed:
            self.facts_version += 1
        if ready and changed:
            self.grown.add(number)
        return number

    def remove(self, node_id: str) -> None:
        """Forgets a node; its number stays taken."""
        number = self._numbers[node_id]
        self.nodes[number] = None
        self._ready[number] = False
        self._cpu[number] = self._memory[number] = self._disk[number] = 0
        self.facts_version += 1

    def cpu_ask(self, number: int, demand: Demand) -> int:
        """MHz that an allocation takes on a node: a reserved core counts with its whole bandwidth."""
        return demand.cpu + demand.cores * int(self._core_mhz[number])

    def use(self, number: int, demand: Demand, ports: Sequence[AllocatedPort] = ()) -> None:
        """Accounts for one more live allocation."""
        self._cpu_used[number] += self.cpu_ask(number, demand)
        self._cores_used[number] += demand.cores
        self._memory_used[number] += demand.memory
        self._disk_used[number] += demand.disk
        self._alloc_count[number] += 1
        if ports:
            self.add_ports(number, ports)

    def use_many(self, numbers: IntColumn, demand: Demand) -> None:
        """Accounts for many live allocations of equal demand without ports; a number may occur more than once."""
        counts = np.bincount(numbers, minlength=self.size)
        self._cpu_used[: self.size] += counts * (demand.cpu + demand.cores * self.core_mhz)
        self._cores_used[: self.size] += counts * demand.cores
        self._memory_used[: self.size] += counts * demand.memory
        self._disk_used[: self.size] += counts * demand.disk
        self._alloc_count[: self.size] += counts

    def use_counted(
        self,
        numbers: npt.NDArray[np.integer[Any]],
        counts: IntColumn,
        cpu: IntColumn,
        memory: IntColumn,
        disk: IntColumn,
    ) -> None:
        """Accounts for live allocations without ports, summed per node; each number occurs once."""
        self._cpu_used[numbers] += cpu
        self._memory_used[numbers] += memory
        self._disk_used[numbers] += disk
        self._alloc_count[numbers] += counts

    def release(self, number: int, demand: Demand) -> None:
        """Accounts for an allocation that its client declared over; its ports are set by ``set_ports``."""
        self._cpu_used[number] -= self.cpu_ask(number, demand)
        self._cores_used[number] -= demand.cores
        self._memory_used[number] -= demand.memory
        self._disk_used[number] -= demand.disk
        self._alloc_count[number] -= 1
        self.grown.add(number)

    def change(self, number: int, old: Demand, new: Demand) -> None:
        """Accounts for a live allocation whose demand changed."""
        more = self.cpu_ask(number, new) - self.cpu_ask(number, old)
        self._cpu_used[number] += more
        self._cores_used[number] += new.cores - old.cores
        self._memory_used[number] += new.memory - old.memory
        self._disk_used[number] += new.disk - old.disk
        if more < 0 or new.memory < old.memory or new.disk < old.disk:
            self.grown.add(number)

    def add_ports(self, number: int, ports: Iterable[AllocatedPort]) -> None:
        """Accounts for the ports of an allocation that is counted already."""
        used = self._ports.setdefault(number, {})
        for port in ports:
            used[port.host_ip] = used.get(port.host_ip, 0) | 1 << port.value

    def add_port_sets(self, number: int, ports: Mapping[str, int]) -> None:
        """The same with bit sets by address."""
        used = self._ports.setdefault(number, {})
        for ip, bits in ports.items():
            used[ip] = used.get(ip, 0) | bits

    def replace_port_sets(self, number: int, ports: dict[str, int]) -> None:
        """The used ports of a node with more of them; the caller gives the sets away."""
        self._ports[number] = ports

    def set_ports(self, number: int, ports: Iterable[AllocatedPort]) -> None:
        """Replaces the used ports of a node. Freed ports are recomputed from the remaining allocations, because two
        may share one with ``ignore_collision``."""
        used: dict[str, int] = {}
        for port in ports:
            used[port.host_ip] = used.get(port.host_ip, 0) | 1 << port.value
        if used:
            self._ports[number] = used
        else:
            self._ports.pop(number, None)


def _facts(node: Node) -> Node:
    """The node without what says nothing about where work can run: bookkeeping, and what only readiness shows."""
    return node.replace(
        drain_strategy=None,
        scheduling_eligibility="",
        status="",
        status_description="",
        status_updated_at=0,
        events=(),
        last_drain=None,
        last_missed_heartbeat_index=0,
        last_alloc_update_index=0,
        create_index=0,
        modify_index=0,
    )
