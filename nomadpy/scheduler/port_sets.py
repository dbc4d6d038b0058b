"""Ports for many allocations of a group at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from nomadpy.model.node import Node
from nomadpy.model.resources import NetworkResource
from nomadpy.scheduler.ports import NodeAddress, host_alias, missing_alias
from nomadpy.scheduler.targets import is_reference
from nomadpy.state.port_bits import bit_set
from nomadpy.state.view import IntColumn

_PROBES, _MANY = 20, 16
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
        self._asked = (*network.reserved_ports, *network.dynamic_ports)
        self._same_everywhere = not any(is_reference(port.host_network) for port in self._asked)
        self._aliases: tuple[str | None, ...] | None = None
        wanted = {port.host_network or "default" for port in network.dynamic_ports}
        simple = self._same_everywhere and not network.reserved_ports and len(wanted) == 1
        self._one_alias = wanted.pop() if simple else None
        self.short: dict[int, tuple[int, str]] = {}

    def give(self, nodes: IntColumn | Sequence[int]) -> PortColumns | None:
        """Ports for an allocation on each of the nodes, which may occur more than once. None when some node cannot
        give them: ``short`` then says how many allocations it could, and what is missing for another one."""
        self.short = {}
        width = len(self._asked)
        at = np.asarray(nodes, dtype=np.int64)
        numbers, counts = np.unique(at, return_counts=True)
        # Chance that has to be asked of the operating system costs more than all the rest.
        rng = random.Random(self._rng.getrandbits(64)) if len(at) >= _MANY else self._rng
        given: list[int] = []
        hosts: dict[int, tuple[str, ...]] = {}
        taken: list[tuple[int, str, int]] = []
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            plain = self._plain_address(number)
            drawn = self._drawn(number, plain, count * width, rng) if plain is not None else None
            if plain is not None and drawn is not None:
                given += drawn
                hosts[number] = (plain.ip,) * width
                taken.append((number, plain.ip, bit_set(drawn)))
                continue
            shelf = self._shelf(number)
            problem = shelf.give(count, rng)
            if problem:
                self.short[number] = len(shelf.given) // max(width, 1), problem
                continue
            given += shelf.given
            hosts[number] = shelf.hosts
            taken += [(number, ip, bits) for ip, bits in shelf.taken()]
        if self.short:
            return None
        values = np.zeros((len(at), width), dtype="<u2")
        values[np.argsort(at, kind="stable")] = np.array(given, dtype="<u2").reshape(len(at), width)
        return PortColumns(values.tobytes(), hosts, tuple(taken))

    def _plain_address(self, number: int) -> NodeAddress | None:
        """The one address of a node from which all ports come, all of them dynamic; None where it is less simple."""
        if self._one_alias is None:
            return None
        addresses = self._addresses_of(number)
        return addresses[0] if len(addresses) == 1 and addresses[0].alias == self._one_alias else None

    def _drawn(self, number: int, address: NodeAddress, count: int, rng: random.Random) -> list[int] | None:
        """So many free dynamic ports; None when there are not enough."""
        node = self._node_of[number]
        assert node is not None
        low, high = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        used = self._used_of(number).get(address.ip, 0) | address.reserved
        new: set[int] = set()
        given = []
        for _ in range(count):
            value = _draw(used, new, low, high, rng)
            if value < 0:
                return None
            new.add(value)
            given.append(value)
        return given

    def _shelf(self, number: int) -> _Shelf:
        node = self._node_of[number]
        assert node is not None
        aliases = self._aliases
        if aliases is None:
            aliases = tuple(host_alias(port, node) for port in self._asked)
            if self._same_everywhere:
                self._aliases = aliases
        return _Shelf(node, self._addresses_of(number), self._used_of(number), self._network, aliases)


class _Shelf:
    """The ports of one node while they are given out. ``given`` are those of each allocation, one after the other;
    ``hosts`` is the address of each port of an allocation. ``aliases`` are the host networks that they are wanted on.
    """

    def __init__(
        self,
        node: Node,
        addresses: tuple[NodeAddress, ...],
        used: dict[str, int],
        network: NetworkResource,
        aliases: tuple[str | None, ...],
    ) -> None:
        self._network = network
        self._range = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        self._used: dict[str, int] = {}
        by_alias: dict[str | None, list[str]] = {}
        for address in addresses:
            known = self._used.get(address.ip, used.get(address.ip, 0))
            self._used[address.ip] = known | address.reserved
            by_alias.setdefault(address.alias, []).append(address.ip)
        self._new: dict[str, set[int]] = {ip: set() for ip in self._used}
        self.given: list[int] = []
        self.hosts: tuple[str, ...] = ()
        self._same: list[list[str]] = []
        self.problem = ""
        if by_alias.keys() >= set(aliases):
            self._same = [by_alias[alias] for alias in aliases]
            self.hosts = tuple([same[0] for same in self._same])
        else:
            self.problem = missing_alias(network, node, addresses)

    def give(self, count: int, rng: random.Random) -> str:
        """Gives ports to ``count`` allocations; answers what is missing for the rest, or ""."""
        if self.problem:
            return self.problem
        statics, given = self._network.reserved_ports, self.given
        sets = [(self._used[ip], self._new[ip]) for ip in self.hosts[len(statics) :]]
        low, high = self._range
        for _ in range(count):
            for port, same, ip in zip(statics, self._same, self.hosts, strict=False):
                if any(port.value in self._new[other] or self._used[other] >> port.value & 1 for other in same):
                    return f"network: reserved port collision {port.label}={port.value}"
                self._new[ip].add(port.value)
                given.append(port.value)
            for used, new in sets:
                value = _draw(used, new, low, high, rng)
                if value < 0:
                    return "network: dynamic port selection failed"
                new.add(value)
                given.append(value)
        return ""

    def taken(self) -> list[tuple[str, int]]:
        """The sets of what was given, by address."""
        return [(ip, bit_set(ports)) for ip, ports in self._new.items() if ports]


def _draw(used: int, new: set[int], low: int, high: int, rng: random.Random) -> int:
    """A free port of the range, -1 when there is none. A few random probes nearly always hit."""
    if low > high:
        return -1
    span, chance = high - low + 1, rng.random
    for _ in range(_PROBES):
        value = low + int(chance() * span)
        if value not in new and not used >> value & 1:
            return value
    free = [port for port in range(low, high + 1) if port not in new and not used >> port & 1]
    return rng.choice(free) if free else -1
