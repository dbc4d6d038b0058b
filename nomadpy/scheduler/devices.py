"""Devices and reserved cores: which a node has, and which ones an allocation gets."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from nomadpy.model.job import TaskGroup
from nomadpy.model.node import Node
from nomadpy.model.resources import AllocatedDevice, Constraint, DeviceAttribute, NodeDevice, RequestedDevice
from nomadpy.scheduler.operators import holds

Held = tuple[str, str, str, str]  # vendor, type, name, instance


def named(device: NodeDevice, name: str) -> bool:
    """Whether a request by ``type``, ``vendor/type`` or ``vendor/type/name`` means this group of devices.

    >>> gpu = NodeDevice(vendor="nvidia", type="gpu", name="1080ti")
    >>> [named(gpu, n) for n in ("gpu", "nvidia/gpu", "nvidia/gpu/1080ti", "amd/gpu")]
    [True, True, True, False]
    """
    match name.split("/", 2):
        case [kind]:
            return device.type == kind
        case [vendor, kind]:
            return (device.vendor, device.type) == (vendor, kind)
        case [vendor, kind, model]:
            return (device.vendor, device.type, device.name) == (vendor, kind, model)
    return False


def _value(device: NodeDevice, target: str) -> str | None:
    if not target.startswith("${"):
        return target
    match target:
        case "${device.vendor}":
            return device.vendor
        case "${device.type}":
            return device.type
        case "${device.model}":
            return device.name
        case "${device.ids}":
            return ",".join(instance.id for instance in device.instances)
    if target.startswith("${device.attr."):
        attribute = device.attributes.get(target[len("${device.attr.") :].removesuffix("}"))
        return None if attribute is None else attribute_text(attribute)
    return None


_UNITS = {
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("", "k", "M", "G", "T", "P", "E"), 0) if prefix},
    "KiB": 1024,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T", "P", "E"), 0)},
    "KB": 1000,
    "MHz": 10**6,
    "GHz": 10**9,
    "mW": 1,
    "W": 10**3,
    "kW": 10**6,
    "MW": 10**9,
    "GW": 10**12,
}


def attribute_text(attribute: DeviceAttribute) -> str:
    """An attribute as the text that constraints compare; a number with a unit is turned into the base unit."""
    if attribute.string is not None:
        return attribute.string
    if attribute.bool_ is not None:
        return "true" if attribute.bool_ else "false"
    number = attribute.int_ if attribute.int_ is not None else attribute.float_
    if number is None:
        return ""
    scaled = number * _UNITS.get(attribute.unit, 1)
    if not math.isfinite(scaled):
        return repr(scaled)
    return str(int(scaled)) if scaled == int(scaled) else repr(scaled)


_NUMBER = re.compile(r"[0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18}")


def base_units(text: str) -> str:
    """``8 GiB`` in base units, other text as it is.

    >>> base_units("8 GiB"), base_units("8GiB"), base_units("1080ti")
    ('8589934592', '8589934592', '1080ti')
    """
    stripped = text.strip()
    for unit in sorted(_UNITS, key=len, reverse=True):
        number = stripped.removesuffix(unit).strip()
        if number != stripped and _NUMBER.fullmatch(number):
            scaled = float(number) * _UNITS[unit]
            return str(int(scaled)) if scaled == int(scaled) else repr(scaled)
    return text


def meets(device: NodeDevice, constraint: Constraint) -> bool:
    """Whether a group of devices meets a constraint on ``${device.…}``."""
    left, right = _value(device, constraint.l_target), _value(device, constraint.r_target)
    return holds(constraint.operand, left, None if right is None else base_units(right))


def matching_groups(node: Node, request: RequestedDevice) -> list[NodeDevice]:
    """The node's device groups that fit the request and have enough healthy instances at all."""
    return [
        device
        for device in suitable_groups(node, request)
        if sum(instance.healthy for instance in device.instances) >= request.count
    ]


def suitable_groups(node: Node, request: RequestedDevice) -> list[NodeDevice]:
    """The node's device groups that fit the request, however many instances they have: what nodes of one computed class
    have in common."""
    return [
        device
        for device in node.node_resources.devices
        if named(device, request.name) and all(meets(device, constraint) for constraint in request.constraints)
    ]


def _preference(device: NodeDevice, request: RequestedDevice) -> float:
    total = sum(abs(affinity.weight) for affinity in request.affinities)
    matched = sum(
        affinity.weight
        for affinity in request.affinities
        if meets(device, Constraint(l_target=affinity.l_target, r_target=affinity.r_target, operand=affinity.operand))
    )
    return matched / total if total else 0.0


def choose_devices(
    node: Node, group: TaskGroup, held: Collection[Held]
) -> dict[str, tuple[AllocatedDevice, ...]] | str:
    """Task → the devices it gets, or the reason why the node cannot give them. ``held`` are taken instances."""
    taken = set(held)
    chosen: dict[str, tuple[AllocatedDevice, ...]] = {}
    for task in group.tasks:
        given = []
        for request in task.resources.devices:
            device = _choose(node, request, taken)
            if device is None:
                return f"devices: no devices match request {request.name}"
            taken.update((device.vendor, device.type, device.name, instance) for instance in device.device_ids)
            given.append(device)
        if given:
            chosen[task.name] = tuple(given)
    return chosen


def _choose(node: Node, request: RequestedDevice, taken: set[Held]) -> AllocatedDevice | None:
    best: tuple[float, NodeDevice, list[str]] | None = None
    for device in matching_groups(node, request):
        free = [
            instance.id
            for instance in device.instances
            if instance.healthy and (device.vendor, device.type, device.name, instance.id) not in taken
        ]
        preference = _preference(device, request)
        if len(free) >= request.count and (best is None or preference > best[0]):
            best = (preference, device, free)
    if best is None:
        return None
    _, device, free = best
    return AllocatedDevice(
        vendor=device.vendor, type=device.type, name=device.name, device_ids=tuple(free[: request.count])
    )


def choose_cores(node: Node, group: TaskGroup, held: Collection[int]) -> dict[str, tuple[int, ...]] | None:
    """Task → the cores that are its own, lowest free ids first; None when the node has too few left."""
    reserved = set(node.reserved_resources.cpu.reserved_cpu_cores) | set(held)
    free = [core for core in sorted(node.node_resources.cpu.reservable_cpu_cores) if core not in reserved]
    chosen = {}
    for task in group.tasks:
        count = task.resources.cores
        if count:
            if len(free) < count:
                return None
            chosen[task.name], free = tuple(free[:count]), free[count:]
    return chosen
