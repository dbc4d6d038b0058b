"""The reasons against one node, in sentences: what was asked for and what is there."""

from __future__ import annotations

import random
from collections.abc import Iterator

from nomadpy.model.demand import group_demand
from nomadpy.model.explanation import Obstacle
from nomadpy.model.job import Job, TaskGroup, VolumeRequest
from nomadpy.model.node import Node
from nomadpy.model.resources import Constraint, RequestedDevice
from nomadpy.scheduler.devices import meets, named
from nomadpy.scheduler.eligibility import Check
from nomadpy.scheduler.extras import assign, wants_extras
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.helps import UNITS, asked_cpu, not_ready
from nomadpy.scheduler.operators import DISTINCT_HOSTS
from nomadpy.scheduler.targets import is_reference, resolve
from nomadpy.state.view import StateView


class Teller:
    """Tells what stands between one group and single nodes, as the fleet has them."""

    def __init__(self, view: StateView, fleet: Fleet, job: Job, group: TaskGroup) -> None:
        self._view, self._fleet, self._job, self._group = view, fleet, job, group
        self._demand = group_demand(group)

    def lasting(self, check: Check, number: int) -> list[Obstacle]:
        """A condition that the node fails whatever it holds."""
        node = self._fleet.facts.nodes[number]
        assert node is not None
        if check.kind == "node":
            return [Obstacle(kind="node", reason=text, detail=text) for text in not_ready(node)]
        return [Obstacle(kind=check.kind, reason=check.reason, detail=self._detail(check, node))]

    def _detail(self, check: Check, node: Node) -> str:
        match check.asked:
            case Constraint():
                return f"constraint {check.reason}: {_found(check.asked, node)}"
            case RequestedDevice():
                return _devices(check.asked, node)
            case VolumeRequest():
                return _volume(check.asked, node)
        match check.kind:
            case "driver":
                return _driver(check.asked, node)
            case "datacenter":
                return f'datacenter is "{node.datacenter}"; the job wants {check.asked}'
            case "node pool":
                return f'node pool is "{node.node_pool or "default"}"; the job wants "{check.asked}"'
            case "network":
                return f'network mode "{check.asked}" is not offered there'
            case "secrets provider":
                return f'secrets provider "{check.asked}" is not there'
        return check.reason

    def momentary(self, reason: str, number: int) -> Obstacle:
        """A condition that the node fails because of what it holds."""
        fleet, demand = self._fleet, self._demand
        resources = {
            "cpu": (asked_cpu(fleet, demand, number), fleet.cpu_free, fleet.columns.cpu),
            "memory": (demand.memory, fleet.memory_free, fleet.columns.memory),
            "disk": (demand.disk, fleet.disk_free, fleet.columns.disk),
        }
        if reason in resources:
            asked, column, whole = resources[reason]
            free, unit = max(int(column[number]), 0), UNITS[reason]
            detail = (
                f"{reason}: asks {asked} {unit}, {free} free of {int(whole[number])} (short by {asked - free} {unit})"
            )
            return Obstacle(kind=reason, reason=reason, detail=detail, asked=asked, free=free)
        if reason == "max allocation exceeded":
            limit = int(fleet.facts.max_allocs[number])
            return Obstacle(kind="allocations", reason=reason, detail=f"the node takes at most {limit} allocations")
        detail = "distinct_hosts: the job has an allocation there" if reason == DISTINCT_HOSTS else reason
        return Obstacle(kind="neighbours", reason=reason, detail=detail)

    def extras(self, number: int) -> list[Obstacle]:
        """Ports, devices and cores that the node cannot give: each static port, else what is found first."""
        if not wants_extras(self._group):
            return []
        problem = assign(self._fleet, number, self._group, random.Random(0))
        if not isinstance(problem, str):
            return []
        ports = list(self._static_ports(number))
        told = any(port.reason == problem for port in ports)
        return ports if told else [*ports, self._other(problem, number)]

    def _static_ports(self, number: int) -> Iterator[Obstacle]:
        """Static ports that are taken on every address that they could be had on."""
        facts, node = self._fleet.facts, self._fleet.facts.nodes[number]
        used = self._fleet.used_ports(number)
        assert node is not None
        for port in self._group.networks[0].reserved_ports if self._group.networks else ():
            alias = resolve(port.host_network, node) if port.host_network else "default"
            addresses = [address for address in facts.addresses(number) if address.alias == alias]
            taken = [a for a in addresses if (used.get(a.ip, 0) | a.reserved) >> port.value & 1]
            if port.ignore_collision or not addresses or len(taken) < len(addresses):
                continue
            words = f"port {port.label}={port.value} is {self._holder(node, port.value)}"
            reason = f"network: reserved port collision {port.label}={port.value}"
            yield Obstacle(kind="port", reason=reason, detail=words)

    def _holder(self, node: Node, port: int) -> str:
        number = self._fleet.number(node.id)
        if any(address.reserved >> port & 1 for address in self._fleet.facts.addresses(number)):
            return "reserved on the node"
        if not any(used >> port & 1 for used in self._view.columns.used_ports(number).values()):
            return "taken by what this plan places"
        for alloc in self._view.allocs_by_node(node.id):
            if alloc.client_terminal() or alloc.allocated_resources is None:
                continue
            if any(given.value == port for given in alloc.allocated_resources.shared.ports):
                return f'taken by job "{alloc.job_id}" (allocation {alloc.id[:8]})'
        return "taken there"

    def _other(self, problem: str, number: int) -> Obstacle:
        node = self._fleet.facts.nodes[number]
        assert node is not None
        if problem == "cores":
            reserved = set(node.reserved_resources.cpu.reserved_cpu_cores) | self._fleet.held_cores(number)
            free = len(set(node.node_resources.cpu.reservable_cpu_cores) - reserved)
            asked = sum(task.resources.cores for task in self._group.tasks)
            detail = f"cores: asks {asked} of its own, {free} free"
            return Obstacle(kind="cores", reason=problem, detail=detail, asked=asked, free=free)
        if problem.startswith("devices: "):
            return self._held_devices(problem, node, number)
        low, high = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        detail = problem.removeprefix("network: ")
        if "dynamic port selection" in problem:
            detail = f"no dynamic port is free in {low}-{high}"
        return Obstacle(kind="port", reason=problem, detail=detail)

    def _held_devices(self, problem: str, node: Node, number: int) -> Obstacle:
        held = self._fleet.held_devices(number)
        for task in self._group.tasks:
            for request in task.resources.devices:
                if problem != f"devices: no devices match request {request.name}":
                    continue
                free = sum(
                    instance.healthy and (device.vendor, device.type, device.name, instance.id) not in held
                    for device in node.node_resources.devices
                    if named(device, request.name) and all(meets(device, c) for c in request.constraints)
                    for instance in device.instances
                )
                detail = f"device {request.name}: asks {request.count}, {free} of them free or wanted by another task"
                return Obstacle(kind="device", reason=problem, detail=detail, asked=request.count, free=free)
        return Obstacle(kind="device", reason=problem, detail=problem)


def _found(constraint: Constraint, node: Node) -> str:
    """What the node has in the place of a constraint's references.

    >>> linux = Node(attributes={"kernel.name": "linux"})
    >>> _found(Constraint(l_target="${attr.kernel.name}", operand="=", r_target="windows"), linux)
    '${attr.kernel.name} is "linux" there'
    >>> _found(Constraint(l_target="${meta.rack}", operand="is_set"), linux)
    '${meta.rack} is not set there'
    """
    parts = []
    for target in (constraint.l_target, constraint.r_target):
        if is_reference(target):
            value = resolve(target, node)
            parts.append(f"{target} is not set there" if value is None else f'{target} is "{value}" there')
    return " and ".join(parts) or "it holds nowhere"


def _driver(name: str, node: Node) -> str:
    info = node.drivers.get(name)
    if info is None or not info.detected:
        why = f" ({info.health_description})" if info is not None and info.health_description else ""
        return f'driver "{name}" is not detected there{why}'
    why = f": {info.health_description}" if info.health_description else ""
    return f'driver "{name}" is detected but not healthy{why}'


def _devices(request: RequestedDevice, node: Node) -> str:
    devices = [device for device in node.node_resources.devices if named(device, request.name)]
    if not devices:
        return f"device {request.name}: none there"
    failing = next((c for c in request.constraints if not any(meets(device, c) for device in devices)), None)
    if failing is not None:
        return f"device {request.name}: none meets {failing}"
    healthy = max(sum(instance.healthy for instance in device.instances) for device in devices)
    return f"device {request.name}: asks {request.count} of one kind, {healthy} healthy there"


def _volume(request: VolumeRequest, node: Node) -> str:
    if request.type == "csi":
        return f'CSI volume "{request.source}": there is no such volume'
    if request.source in node.host_volumes:
        return f'host volume "{request.source}" is read-only there; the job wants to write'
    return f'host volume "{request.source}" is not there'
