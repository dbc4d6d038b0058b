"""Host ports: which are free on a node, and which ones an allocation gets.

A set of ports is one integer whose bit n stands for port n, kept per host address.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import msgspec

from nomadpy.model.node import Node
from nomadpy.model.resources import AllocatedPort, NetworkResource, Port
from nomadpy.scheduler.targets import resolve

_PROBES = 20
_HIGHEST_PORT = 65_535
_PORT = re.compile(r"[0-9]{1,5}")
PortSets = dict[str, int]


class NodeAddress(msgspec.Struct, frozen=True):
    """A host address under its alias; ``reserved`` are the ports kept from jobs there."""

    alias: str
    ip: str
    reserved: int


class Offer(msgspec.Struct, frozen=True):
    """The ports of one allocation, or why the node cannot give them."""

    ports: tuple[AllocatedPort, ...] = ()
    problem: str = ""


def parse_ports(text: str) -> int:
    """The bit set of ``22,80,8000-9000``. Pieces that are no ports are left out: the node checked its own
    configuration, and one bad node must not stop scheduling.

    >>> bin(parse_ports("1,3-4, x"))
    '0b11010'
    """
    bits = 0
    for piece in text.split(","):
        low, _, high = piece.strip().partition("-")
        if not _PORT.fullmatch(low) or (high and not _PORT.fullmatch(high)):
            continue
        first, last = int(low), int(high or low)
        if 1 <= first <= last <= _HIGHEST_PORT:
            bits |= ((1 << (last - first + 1)) - 1) << first
    return bits


def node_addresses(node: Node) -> tuple[NodeAddress, ...]:
    """The host addresses of a node in order. A node that reports only plain networks has them as ``default``."""
    everywhere = parse_ports(node.reserved_resources.networks.reserved_host_ports)
    found = [
        NodeAddress(address.alias or "default", address.address, everywhere | parse_ports(address.reserved_ports))
        for network in node.node_resources.node_networks
        for address in network.addresses
    ]
    if not found:
        found = [
            NodeAddress("default", network.ip, everywhere) for network in node.node_resources.networks if network.ip
        ]
    return tuple(found)


def asks_ports(networks: tuple[NetworkResource, ...]) -> bool:
    """Whether the group wants any port. Only its first network counts."""
    return bool(networks) and bool(networks[0].reserved_ports or networks[0].dynamic_ports)


def offer(
    node: Node,
    addresses: tuple[NodeAddress, ...],
    network: NetworkResource,
    *,
    used: Mapping[str, int],
    rng: random.Random,
) -> Offer:
    """Ports for one allocation on the node: static ones first, then dynamic ones drawn from the node's range."""
    taken: PortSets = {}
    for address in addresses:
        taken[address.ip] = taken.get(address.ip, used.get(address.ip, 0)) | address.reserved
    problem = missing_alias(network, node, addresses)
    if problem:
        return Offer(problem=problem)
    given: list[AllocatedPort] = []
    for port in network.reserved_ports:
        host = _address_with(port, node, addresses, taken)
        if host is None:
            return Offer(problem=f"network: reserved port collision {port.label}={port.value}")
        if not port.ignore_collision:
            taken[host.ip] |= 1 << port.value
        given.append(_give(port, port.value, host.ip))
    low, high = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
    for port in network.dynamic_ports:
        ip = next(address.ip for address in addresses if address.alias == host_alias(port, node))
        value = pick_dynamic(taken[ip], low, high, rng)
        if not value:
            return Offer(problem="network: dynamic port selection failed")
        taken[ip] |= 1 << value
        given.append(_give(port, value, ip))
    return Offer(tuple(given))


def missing_alias(network: NetworkResource, node: Node, addresses: tuple[NodeAddress, ...]) -> str:
    """The problem that the node has no address in a host network that a port asks for, or ""."""
    wanted = {host_alias(port, node) for port in (*network.reserved_ports, *network.dynamic_ports)}
    missing = sorted(str(alias) for alias in wanted.difference(address.alias for address in addresses))
    return f'network: no addresses available for "{missing[0]}" network' if missing else ""


def host_alias(port: Port, node: Node) -> str | None:
    """The name of the host network that a port is wanted on; None when it refers to what the node lacks."""
    return resolve(port.host_network, node) if port.host_network else "default"


def _address_with(port: Port, node: Node, addresses: tuple[NodeAddress, ...], taken: PortSets) -> NodeAddress | None:
    """The first address of the port's host network. A static port is free when it is on every address of that network:
    most programs bind it on all of them."""
    alias = host_alias(port, node)
    same = [address for address in addresses if address.alias == alias]
    if not port.ignore_collision and any(taken[address.ip] >> port.value & 1 for address in same):
        return None
    return same[0]


def _give(port: Port, value: int, ip: str) -> AllocatedPort:
    inside = value if port.to == -1 else port.to
    return AllocatedPort(label=port.label, value=value, to=inside, host_ip=ip, ignore_collision=port.ignore_collision)


def pick_dynamic(taken: int, low: int, high: int, rng: random.Random) -> int:
    """A free port of the range, or 0 when there is none. A few random probes nearly always hit; the exact choice over
    the free ones is for crowded nodes."""
    if low > high:
        return 0
    for _ in range(_PROBES):
        port = low + int(rng.random() * (high - low + 1))
        if not taken >> port & 1:
            return port
    free = [port for port in range(low, high + 1) if not taken >> port & 1]
    return rng.choice(free) if free else 0
