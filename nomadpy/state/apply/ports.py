"""The ports of blocks of placements: whether they are free, and noting who has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from nomadpy.model.job import TaskGroup
from nomadpy.model.resources import AllocatedPort
from nomadpy.state import commands as c
from nomadpy.state.nodes import NodeTable
from nomadpy.state.port_bits import bit_set
from nomadpy.state.store import StateStore

PORT_MAX = 65_535
Values = npt.NDArray[np.uint16]


def are_sound(block: c.PlaceBlock, group: TaskGroup) -> bool:
    """Whether the ports of a block, which has some, are as many as its group asks for, and each has an address."""
    asked = len(group.networks[0].reserved_ports) + len(group.networks[0].dynamic_ports) if group.networks else 0
    numbers = set(np.frombuffer(block.nodes, dtype="<u4").tolist())
    return len(block.port_values) == len(block.nodes) // 4 * 2 * asked and all(
        len(block.port_hosts.get(number, ())) == asked for number in numbers
    )


def values_of(block: c.PlaceBlock) -> Values:
    """The port numbers of a block, one row an allocation."""
    return np.frombuffer(block.port_values, dtype="<u2").reshape(len(block.nodes) // 4, -1)


def by_node(
    values: Values, nodes: npt.NDArray[np.int64], hosts: Mapping[int, tuple[str, ...]]
) -> Iterator[tuple[int, dict[str, int], bool]]:
    """Per node the sets of its ports by address, and whether each occurs once."""
    found: dict[int, dict[str, list[int]]] = {}
    for number, ports in zip(nodes.tolist(), values.tolist(), strict=True):
        mine = found.setdefault(number, {})
        for ip, port in zip(hosts[number], ports, strict=True):
            mine.setdefault(ip, []).append(port)
    for number in sorted(found):
        mine = found[number]
        once = all(len(set(ports)) == len(ports) for ports in mine.values())
        yield number, {ip: bit_set(ports) for ip, ports in mine.items()}, once


class Claims:
    """Ports that several blocks take, before anything is changed."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._held: dict[int, dict[str, int]] = {}

    def take(self, block: c.PlaceBlock, nodes: npt.NDArray[np.uint32]) -> bool:
        """Takes the ports of a block; False when one is in use, or taken already."""
        known, hosts = self._held, block.port_hosts
        for number, values in zip(nodes.tolist(), values_of(block).tolist(), strict=True):
            held = known.get(number)
            if held is None:
                held = known[number] = dict(self._nodes.used_ports(number))
            for ip, port in zip(hosts[number], values, strict=False):
                used = held.get(ip, 0)
                if used >> port & 1:
                    return False
                held[ip] = used | 1 << port
        return True

    def book(self) -> None:
        """Counts them all as used; to be called once."""
        for number, ports in self._held.items():
            self._nodes.replace_port_sets(number, ports)


def note(
    store: StateStore, block: c.PlaceBlock, group: TaskGroup, first: int, nodes: npt.NDArray[np.uint32], values: Values
) -> None:
    """Notes the ports that a block's allocations, in the rows from ``first`` on, were given."""
    network, edit = group.networks[0], store.allocs.edit
    asked = [
        (AllocatedPort(label=port.label, to=port.to), port.to == -1)
        for port in (*network.reserved_ports, *network.dynamic_ports)
    ]
    for row, (number, ports) in enumerate(zip(nodes.tolist(), values.tolist(), strict=True), first):
        edit(row).ports = tuple(
            [
                replace(port, value=value, to=value, host_ip=ip) if same else replace(port, value=value, host_ip=ip)
                for (port, same), value, ip in zip(asked, ports, block.port_hosts[number], strict=True)
            ]
        )
