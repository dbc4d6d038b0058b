"""Addresses: the interface of the default route, and those that the operator named as host networks."""

from __future__ import annotations

import ipaddress
import logging
import socket

import psutil

from nomadpy.client.config import ClientConfig, HostNetworkConfig
from nomadpy.client.fingerprint.facts import Facts, read_text
from nomadpy.model.resources import NodeNetwork, NodeNetworkAddress

log = logging.getLogger(__name__)

_UNKNOWN_SPEED_MBITS = 1000
_LOOPBACK = "lo"
_UP_GATEWAY = 0x1 | 0x2


class Interface:
    """One network interface: its addresses, hardware address and speed in Mbit/s."""

    def __init__(self, name: str, addresses: list[str], mac: str, speed: int) -> None:
        self.name, self.addresses, self.mac, self.speed = name, addresses, mac, speed


def interfaces() -> dict[str, Interface]:
    """Every interface of the machine by name."""
    stats = psutil.net_if_stats()
    found = {}
    for name, entries in psutil.net_if_addrs().items():
        addresses = [e.address.split("%")[0] for e in entries if e.family in (socket.AF_INET, socket.AF_INET6)]
        mac = next((e.address for e in entries if e.family == psutil.AF_LINK), "")
        found[name] = Interface(name, addresses, mac, stats[name].speed if name in stats else 0)
    return found


def default_route_interface(route_table: str) -> str:
    """The interface of the IPv4 default route in the text of /proc/net/route, "" when there is none.

    >>> default_route_interface("Iface Destination Gateway Flags\\neth0 00000000 0100000A 0003")
    'eth0'
    """
    for line in route_table.splitlines()[1:]:
        words = line.split()
        if len(words) >= 4 and words[1] == "00000000" and int(words[3], 16) & _UP_GATEWAY == _UP_GATEWAY:
            return words[0]
    return ""


def fingerprint(config: ClientConfig) -> Facts:
    """``unique.network.ip-address`` and the node's networks, with the aliases ``default`` and each host network."""
    found = interfaces()
    chosen = _choose(config, found)
    if chosen is None:
        return Facts()
    usable = [address for address in chosen.addresses if _usable(address)] or chosen.addresses
    address = next((a for a in usable if ":" not in a), usable[0] if usable else "")
    networks = [_node_network(config, chosen, [("default", a, "") for a in usable[:2]])]
    networks += _host_networks(config, found)
    attributes = {"unique.network.ip-address": address} if address else {}
    return Facts(attributes=attributes, networks=tuple(networks))


def _choose(config: ClientConfig, found: dict[str, Interface]) -> Interface | None:
    wanted = config.network_interface or (_LOOPBACK if config.dev_mode else "")
    name = wanted or default_route_interface(read_text("/proc/net/route"))
    if name and name not in found:
        log.warning("fingerprint.no_interface", extra={"fields": {"interface": name, "known": sorted(found)}})
    # Without a route the machine still serves itself: loopback is better than no network at all.
    return found.get(name) or found.get(_LOOPBACK)


def _usable(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return not (ip.is_link_local or ip.is_multicast)


def _node_network(config: ClientConfig, interface: Interface, rows: list[tuple[str, str, str]]) -> NodeNetwork:
    addresses = tuple(
        NodeNetworkAddress(family="ipv6" if ":" in ip else "ipv4", alias=alias, address=ip, reserved_ports=ports)
        for alias, ip, ports in rows
    )
    return NodeNetwork(
        mode="host",
        device=interface.name,
        mac_address=interface.mac,
        speed=config.network_speed or interface.speed or _UNKNOWN_SPEED_MBITS,
        addresses=addresses,
    )


def _host_networks(config: ClientConfig, found: dict[str, Interface]) -> list[NodeNetwork]:
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for alias, network in sorted(config.host_networks.items()):
        matches = [(i.name, a) for i in found.values() for a in i.addresses if _matches(network, i.name, a)]
        if not matches:
            log.warning("fingerprint.host_network_empty", extra={"fields": {"host_network": alias}})
        for name, address in matches:
            rows.setdefault(name, []).append((alias, address, network.reserved_ports))
    return [_node_network(config, found[name], addresses) for name, addresses in rows.items()]


def _matches(network: HostNetworkConfig, interface: str, address: str) -> bool:
    if network.interface and network.interface != interface:
        return False
    if not network.cidr:
        return _usable(address)
    return ipaddress.ip_address(address) in ipaddress.ip_network(network.cidr, strict=False)
