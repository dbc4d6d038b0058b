"""Rules for a group's networks and the ports that the group and its tasks ask for."""

from __future__ import annotations

from nomadpy.model.job import TaskGroup
from nomadpy.model.resources import NetworkResource, Port
from nomadpy.model.validate.report import Problems, is_dns_name, nested

PORT_MAX = 65_535


def check_networks(group: TaskGroup) -> Problems:
    """Problems of all networks of a group, nested."""
    yield from nested("Task group network", _networks(group))


def port_labels(networks: tuple[NetworkResource, ...]) -> set[str]:
    """The labels of all ports of these networks."""
    return {port.label for network in networks for port in (*network.reserved_ports, *network.dynamic_ports)}


def _networks(group: TaskGroup) -> Problems:
    claims = _Claims()
    cni_keys: set[str] = set()
    for number, network in enumerate(group.networks):
        yield from claims.add(network, f"taskgroup network:{number}")
        if network.hostname and "${" not in network.hostname and not is_dns_name(network.hostname):
            yield "Hostname is not a valid DNS name"
        yield from _cni_arguments(network, cni_keys)
    for task in group.tasks:
        for number, network in enumerate(task.resources.networks):
            yield from claims.add(network, f"{task.name}:{number}")


class _Claims:
    """Who uses which label and which static port, over all networks of a group."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self.static: dict[tuple[str, int], str] = {}

    def add(self, network: NetworkResource, place: str) -> Problems:
        for port in (*network.reserved_ports, *network.dynamic_ports):
            yield from self._label(port, place)
            yield from _port_numbers(port)
            if port.ignore_collision and network.mode not in ("", "host"):
                yield f"Port {port.label} may ignore collisions only in host network mode"
        for port in network.reserved_ports:
            yield from self._static(port, place)

    def _label(self, port: Port, place: str) -> Problems:
        if not port.label:
            yield f"Port without a label in {place}"
        elif port.label in self.labels:
            yield f"Port label {port.label} already in use by {self.labels[port.label]}"
        else:
            self.labels[port.label] = place

    def _static(self, port: Port, place: str) -> Problems:
        if port.value <= 0:
            yield f"Port {port.label} ({port.value}) cannot be less than 1"
            return
        owner = self.static.setdefault((port.host_network, port.value), f"{place}:{port.label}")
        if owner != f"{place}:{port.label}" and not port.ignore_collision:
            yield f"Static port {port.value} already reserved by {owner}"


def _port_numbers(port: Port) -> Problems:
    if port.value > PORT_MAX:
        yield f"Port {port.label} ({port.value}) cannot be greater than {PORT_MAX}"
    if port.to > PORT_MAX:
        yield f"Port {port.label} cannot be mapped to a port ({port.to}) greater than {PORT_MAX}"
    if port.to < -1:
        yield f"Port {port.label} cannot be mapped to a port ({port.to}) less than -1"


def _cni_arguments(network: NetworkResource, seen: set[str]) -> Problems:
    arguments = network.cni.args if network.cni is not None else {}
    for key, value in arguments.items():
        if ";" in key or ";" in value:
            yield f'invalid ";" character in CNI arg "{key}={value}"'
        if key in seen:
            yield f'duplicate CNI arg "{key}"'
        seen.add(key)
