"""How a container is reached: its network, its published ports, its names and its resolver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nomadpy.drivers.contract import DriverNetwork, TaskConfig
from nomadpy.model.errors import Fatal
from nomadpy.model.resources import AllocatedPort

DEFAULT_NETWORK = "default"
_PREDEFINED = frozenset((DEFAULT_NETWORK, "bridge", "host", "none", "nat"))


def network_mode(task: TaskConfig, config: Mapping[str, Any]) -> str:
    """The engine's network mode: the task's own wish, else one that fits the group's, else the engine's default."""
    if asked := config.get("network_mode"):
        return str(asked)
    if task.network_mode.startswith("container:") or task.network_mode == "none":
        return task.network_mode
    return DEFAULT_NETWORK


def user_defined(mode: str) -> bool:
    """Whether the mode names a network that somebody made; only those have aliases and fixed addresses."""
    return mode not in _PREDEFINED and not mode.startswith("container:")


def publishes(mode: str) -> bool:
    """Whether ports can be published in this mode; the others share a network or have none."""
    return mode not in ("host", "none") and not mode.startswith("container:")


class PublishedPort(AllocatedPort):
    """A port of the allocation with the container's side settled."""

    container_port: int = 0


def published_ports(task: TaskConfig, config: Mapping[str, Any]) -> list[PublishedPort]:
    """The ports a task publishes: ``ports`` by label, or the legacy ``port_map`` of label to container port; every
    port of a group in bridge mode. Raises Fatal for a label that the group does not have."""
    by_label = {port.label: port for port in task.ports}
    wanted: dict[str, int] = {label: int(port) for label, port in config.get("port_map", {}).items()}
    wanted.update({label: 0 for label in config.get("ports", ()) if label not in wanted})
    if task.network_mode == "bridge" and not wanted:
        wanted = dict.fromkeys(by_label, 0)
    missing = [label for label in wanted if label not in by_label]
    if missing:
        known = ", ".join(sorted(by_label)) or "none"
        raise Fatal(f'port "{missing[0]}" is not in the group\'s network block (ports there: {known})')
    return [_published(by_label[label], to, task.host_ip) for label, to in wanted.items()]


def _published(port: AllocatedPort, to: int, host_ip: str) -> PublishedPort:
    # A negative ``to`` means "the same as the host port", as does none at all.
    container_port = to or (port.to if port.to > 0 else port.value)
    return PublishedPort(
        label=port.label, value=port.value, host_ip=port.host_ip or host_ip, container_port=container_port
    )


def port_bindings(ports: list[PublishedPort]) -> dict[str, list[dict[str, str]]]:
    """``HostConfig.PortBindings``: each port for tcp and for udp."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in ports:
        for protocol in ("tcp", "udp"):
            place = bindings.setdefault(f"{port.container_port}/{protocol}", [])
            place.append({"HostIp": port.host_ip, "HostPort": str(port.value)})
    return bindings


def endpoint_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Aliases and fixed addresses on a user-defined network."""
    settings: dict[str, Any] = {}
    if aliases := config.get("network_aliases"):
        settings["Aliases"] = list(aliases)
    ipam = {}
    if address := config.get("ipv4_address"):
        ipam["IPv4Address"] = address
    if address := config.get("ipv6_address"):
        ipam["IPv6Address"] = address
    if ipam:
        settings["IPAMConfig"] = ipam
    return settings


def resolver(task: TaskConfig, config: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """``Dns*`` and ``ExtraHosts`` of the host config. A ``dns`` block of the group wins over the task's options."""
    result: dict[str, Any] = {}
    if not mode.startswith("container:") and task.dns is not None:
        result["Dns"] = list(task.dns.servers)
        result["DnsSearch"] = list(task.dns.searches)
        result["DnsOptions"] = list(task.dns.options)
    elif not mode.startswith("container:"):
        result["Dns"] = config.get("dns_servers", [])
        result["DnsSearch"] = config.get("dns_search_domains", [])
        result["DnsOptions"] = config.get("dns_options", [])
    if hosts := config.get("extra_hosts"):
        result["ExtraHosts"] = hosts
    return result


def driver_network(inspected: Mapping[str, Any], ports: list[PublishedPort], *, ipv6: bool) -> DriverNetwork | None:
    """Where a started container is reached inside its network, or None when it has no address of its own. Services
    advertise it by themselves only on a user-defined network: elsewhere other machines cannot reach it."""
    for name, settings in sorted((inspected.get("NetworkSettings", {}).get("Networks") or {}).items()):
        ip = settings.get("GlobalIPv6Address") if ipv6 else settings.get("IPAddress")
        if ip:
            port_map = {port.label: port.container_port for port in ports}
            return DriverNetwork(ip=ip, port_map=port_map, auto_advertise=ipv6 or user_defined(name))
    return None
