"""What one allocation gets of a node that no other may have: ports, reserved cores, devices."""

from __future__ import annotations

import random

import msgspec

from nomadpy.model.job import TaskGroup
from nomadpy.model.resources import AllocatedDevice
from nomadpy.scheduler.devices import choose_cores, choose_devices
from nomadpy.scheduler.fleet import Extras, Fleet
from nomadpy.scheduler.ports import asks_ports, offer


class Assigned(msgspec.Struct, frozen=True):
    """The things of one allocation, as the fleet accounts for them and by task as the plan names them."""

    held: Extras = Extras()
    devices: dict[str, tuple[AllocatedDevice, ...]] = {}
    cores: dict[str, tuple[int, ...]] = {}


NO_EXTRAS = Assigned()


def wants_extras(group: TaskGroup) -> bool:
    """Whether the group asks for anything that is handed out one by one."""
    return asks_ports(group.networks) or not asks_only_ports(group)


def asks_only_ports(group: TaskGroup) -> bool:
    """Whether ports are all of these that the group asks for."""
    if len(group.tasks) == 1:
        resources = group.tasks[0].resources
        return not (resources.cores or resources.devices)
    return all(not (task.resources.cores or task.resources.devices) for task in group.tasks)


def assign(fleet: Fleet, number: int, group: TaskGroup, rng: random.Random) -> Assigned | str:
    """Ports, devices and cores for one allocation on a node, or what the node has too little of (in the words of the
    metrics). Nothing is taken yet."""
    node = fleet.facts.nodes[number]
    assert node is not None
    held = Extras()
    if asks_ports(group.networks):
        used = fleet.used_ports(number)
        offered = offer(node, fleet.facts.addresses(number), group.networks[0], used=used, rng=rng)
        if offered.problem:
            return offered.problem
        held = Extras(ports=offered.ports)
    devices: dict[str, tuple[AllocatedDevice, ...]] = {}
    if any(task.resources.devices for task in group.tasks):
        chosen = choose_devices(node, group, fleet.held_devices(number))
        if isinstance(chosen, str):
            return chosen
        devices = chosen
    cores: dict[str, tuple[int, ...]] = {}
    if any(task.resources.cores for task in group.tasks):
        free = choose_cores(node, group, fleet.held_cores(number))
        if free is None:
            return "cores"
        cores = free
    if devices or cores:
        instances = tuple(
            (d.vendor, d.type, d.name, i) for given in devices.values() for d in given for i in d.device_ids
        )
        held = Extras(held.ports, instances, tuple(core for given in cores.values() for core in given))
    return Assigned(held, devices, cores)
