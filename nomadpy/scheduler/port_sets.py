"""Ports for many allocations of a group at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from nomadpy.model.node import Node
from nomadpy.model.resources import NetworkResource
from nomadpy.scheduler.ports import NodeAddress, host_alias, missing_alias
from nomadpy.state.view import IntColumn

_PROBES = 20
_BYTES = 8192
UsedPorts = Callable[[int], dict[str, int]]


class PortColumns(msgspec.Struct, frozen=True):
    """The ports of a block's allocations as ``PlaceBlock`` holds them: ``values`` are little-endian u16, one row an
    allocation, the network's static ports first; ``hosts`` is the address of each port by node number. ``taken`` are
    the bit sets by node number and address."""

    values: bytes
    hosts: dict[int, tuple[str, ...]]
    taken: tuple[tuple[int, str, int], ...]


def in_bulk(networks: tuple[NetworkResource, ...]) -> bool:
    """Whether the ports of a group can be given out by this module: no two allocations share one."""
    return not any(port.ignore_collision for port in (*networks[0].reserved_ports, *networks[0].dynamic_ports))


class PortSets:
    """Gives out ports of nodes. ``node_of``, ``addresses_of`` and ``used_of`` answer by node number."""

    def __init__(
        self,
        network: NetworkResource,
        *,
        node_of: Sequence[Node | None],
        addresses_of: Callable[[int], tuple[NodeAddress, ...]],
        used_of: UsedPorts,
        rng: random.Random,
    ) -> None:
        self._network, self._node_of, self._addresses_of, self._used_of = network, node_of, addresses_of, used_of
        self._rng = rng
        self._n_static = len(network.reserved_ports)
        self._width = self._n_static + len(network.dynamic_ports)
        self.short: dict[int, tuple[int, str]] = {}

    def give(self, nodes: IntColumn | Sequence[int]) -> PortColumns | None:
        """Ports for an allocation on each of the nodes, which may occur more than once. None when some node cannot
        give them: ``short`` then says how many allocations it could, and what is missing for another one."""
        self.short = {}
        at = np.asarray(nodes, dtype=np.int64)
        order = np.argsort(at, kind="stable")
        numbers, counts = np.unique(at, return_counts=True)
        values = np.zeros((len(at), self._width), dtype="<u2")
        hosts: dict[int, tuple[str, ...]] = {}
        taken: list[tuple[int, str, int]] = []
        start = 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            rows = order[start : start + count]
            start += count
            shelf = _Shelf(self._node_of[number], self._addresses_of(number), self._used_of(number), self._network)
            given, problem = shelf.give(count, self._rng)
            if problem:
                self.short[number] = len(given) // max(self._width, 1), problem
                continue
            values[rows] = np.array(given, dtype="<u2").reshape(count, self._width)
            hosts[number] = shelf.hosts
            taken += [(number, ip, bits) for ip, bits in shelf.taken()]
        return None if self.short else PortColumns(values.tobytes(), hosts, tuple(taken))


class _Shelf:
    """The ports of one node while they are given out. Each address has its set as bytes, bit n of which is port n."""

    def __init__(
        self, node: Node | None, addresses: tuple[NodeAddress, ...], used: dict[str, int], network: NetworkResource
    ) -> None:
        assert node is not None
        self._network = network
        self._before: dict[str, int] = {}
        for address in addresses:
            known = self._before.get(address.ip, used.get(address.ip, 0))
            self._before[address.ip] = known | address.reserved
        self._now = {ip: bytearray(bits.to_bytes(_BYTES, "little")) for ip, bits in self._before.items()}
        self.problem = missing_alias(network, node, addresses)
        self.hosts: tuple[str, ...] = ()
        self._same: list[tuple[str, ...]] = []
        self._range = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        if not self.problem:
            for port in (*network.reserved_ports, *network.dynamic_ports):
                alias = host_alias(port, node)
                same = tuple(address.ip for address in addresses if address.alias == alias)
                self.hosts = (*self.hosts, same[0])
                self._same.append(same)

    def give(self, count: int, rng: random.Random) -> tuple[list[int], str]:
        """The ports of ``count`` allocations, one after the other, and what is missing for the rest."""
        given: list[int] = []
        if self.problem:
            return given, self.problem
        low, high = self._range
        span = high - low + 1
        random_ = rng.random
        statics = self._network.reserved_ports
        sets = [self._now[ip] for ip in self.hosts]
        for _ in range(count):
            for port, same, ports in zip(statics, self._same, sets, strict=False):
                byte, bit = port.value >> 3, 1 << (port.value & 7)
                if any(self._now[ip][byte] & bit for ip in same):
                    return given, f"network: reserved port collision {port.label}={port.value}"
                ports[byte] |= bit
                given.append(port.value)
            for ports in sets[len(statics) :]:
                for _ in range(_PROBES):
                    value = low + int(random_() * span)
                    byte, bit = value >> 3, 1 << (value & 7)
                    if not ports[byte] & bit:
                        break
                else:
                    free = [p for p in range(low, high + 1) if not ports[p >> 3] & 1 << (p & 7)]
                    if not free:
                        return given, "network: dynamic port selection failed"
                    value = rng.choice(free)
                    byte, bit = value >> 3, 1 << (value & 7)
                ports[byte] |= bit
                given.append(value)
        return given, ""

    def taken(self) -> list[tuple[str, int]]:
        """The sets of what was given, by address."""
        found = []
        for ip, ports in self._now.items():
            bits = int.from_bytes(ports, "little") ^ self._before[ip]
            if bits:
                found.append((ip, bits))
        return found
