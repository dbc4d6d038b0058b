"""How many more allocations of a group fit, and what runs out first: the same as placing them one by one, without doing
so where each node can be counted by itself."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np

from nomadpy.model.demand import group_demand
from nomadpy.model.errors import Invalid
from nomadpy.model.explanation import Capacity, ExtraNodes, GroupCapacity
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import Node
from nomadpy.scheduler.decision import Decision
from nomadpy.scheduler.explain import Scene
from nomadpy.scheduler.facts import UNLIMITED
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.placement import GroupPlacer, Wanted
from nomadpy.scheduler.ports import asks_ports, host_alias
from nomadpy.scheduler.whatif import WhatIf
from nomadpy.state.view import BoolColumn, IntColumn, StateView

COUNTED_ONE_BY_ONE = 5_000
"""Groups that ask for ports, devices, cores or distinct properties are counted by trying, at most so often."""
MOST_EXTRA_NODES = 1_000
_EXTRA = re.compile(r"(\d+),(\d+)(?:,(\d+))?(?:[xX×*](\d+))?\Z")
_HIGHEST = 2**40
_ENDLESS = np.int64(2**31)
"""More than any node takes of a group that asks for nothing."""


def parse_extra(text: str) -> ExtraNodes:
    """The nodes that ``CPU,MEM×N`` stands for: MHz and MB of each, and how many (1 when not said; ``x`` is as good as
    ``×``). ``CPU,MEM,DISK×N`` says the disk, too. Raises Invalid.

    >>> parse_extra("4000,8192x3") == ExtraNodes(cpu=4000, memory_mb=8192, count=3) == parse_extra("4000, 8192 × 3")
    True
    """
    found = _EXTRA.match(re.sub(r"\s", "", text)) if text.isascii() or "×" in text else None
    if found is None:
        raise Invalid(f'"{text}" is not CPU,MEM×N: such as 4000,8192x3 for three nodes of 4000 MHz and 8192 MB each')
    cpu, memory, disk, count = (int(group or 0) for group in found.groups())
    count = 1 if found[4] is None else count
    if not 1 <= count <= MOST_EXTRA_NODES:
        raise Invalid(f'"{text}" asks for {count} nodes; 1 to {MOST_EXTRA_NODES} can be tried')
    if max(cpu, memory, disk) > _HIGHEST:
        raise Invalid(f'"{text}" names a node that is larger than any')
    return ExtraNodes(cpu=cpu, memory_mb=memory, disk_mb=disk, count=count)


def capacity(
    view: StateView,
    job: Job,
    decision: Decision | None = None,
    *,
    without: Collection[str] = (),
    extra: Sequence[ExtraNodes] = (),
) -> Capacity:
    """How many more of each group of the job fit, next to everything that runs (and, with a decision, to what it
    places), when the nodes ``without`` are gone and ``extra`` ones there. Each group is counted as if it were the only
    one that grows. Changes nothing."""
    if sum(each.count for each in extra) > MOST_EXTRA_NODES:
        raise Invalid(f"at most {MOST_EXTRA_NODES} extra nodes can be tried at once")
    world = WhatIf(view, job, without=without, extra=extra)
    groups = {}
    for group in job.task_groups:
        scene = Scene(world, job, decision, after=True)
        groups[group.name] = _Count(scene, group, without).answer()
    return Capacity(job_id=job.id, namespace=job.namespace, groups=groups, without=tuple(without), with_=world.extra)


class _Count:
    """The work on one group."""

    def __init__(self, scene: Scene, group: TaskGroup, without: Collection[str]) -> None:
        self._fleet: Fleet = scene.fleet
        self._group = group
        self._held = scene.held(group)
        self._indexes = scene.free_indexes(group)
        self._gone = {scene.fleet.number(node_id) for node_id in without}
        self._one_each = scene.job.type in ("system", "sysbatch")
        self._placer: GroupPlacer = scene.placer(group, ignored=without)
        self._mask: BoolColumn = self._placer.eligible.mask

    def answer(self) -> GroupCapacity:
        """The numbers."""
        rooms = self._rooms()
        room: IntColumn = np.where(
            self._mask, np.minimum.reduce([*rooms.values(), np.full(len(self._mask), _ENDLESS)]), 0
        )
        if self._must_try():
            given, exact = self._together() if self._placer.hangs_together else self._node_by_node(room)
            limits = self._shortages(given, rooms)
        else:
            given, exact, limits = room, True, _limits(rooms, room, self._mask)
        order = sorted(limits, key=lambda name: -limits[name])
        demand = group_demand(self._group)
        asked = {"cpu": demand.cpu, "memory": demand.memory, "disk": demand.disk, "cores": demand.cores}
        return GroupCapacity(
            fits=int(given.sum()),
            suitable=int(np.count_nonzero(self._mask)),
            nodes=int(np.count_nonzero(given)),
            limits={name: limits[name] for name in order},
            runs_out_first=order[0] if order else "",
            displaced=sum(self._held[number] for number in self._gone),
            exact=exact,
            asked={name: amount for name, amount in asked.items() if amount},
        )

    def _rooms(self) -> dict[str, IntColumn]:
        """How many more each node can take, by all that can be counted without trying."""
        rooms = self._placer.rooms()
        if self._one_each:
            taken: IntColumn = np.zeros(self._fleet.facts.size, dtype=np.int64)
            taken[[number for number in self._held if number >= 0]] = 1
            rooms["one per node"] = 1 - taken
        if any(task.resources.cores for task in self._group.tasks):
            rooms["cores"] = self._per_node(self._core_room)
        if asks_ports(self._group.networks) and not self._group.networks[0].reserved_ports:
            rooms["ports"] = self._per_node(self._port_room)
        return rooms

    def _per_node(self, count: Callable[[int, Node], int]) -> IntColumn:
        room: IntColumn = np.zeros(self._fleet.facts.size, dtype=np.int64)
        for number in np.flatnonzero(self._mask).tolist():
            node = self._fleet.facts.nodes[number]
            assert node is not None
            room[number] = count(number, node)
        return room

    def _core_room(self, number: int, node: Node) -> int:
        gone = set(node.reserved_resources.cpu.reserved_cpu_cores) | self._fleet.held_cores(number)
        free = len(set(node.node_resources.cpu.reservable_cpu_cores) - gone)
        return free // sum(task.resources.cores for task in self._group.tasks)

    def _port_room(self, number: int, node: Node) -> int:
        """Dynamic ports come from one address for each host network: the first."""
        low, high = node.node_resources.min_dynamic_port, node.node_resources.max_dynamic_port
        whole = (1 << max(high - low + 1, 0)) - 1
        used, addresses = self._fleet.used_ports(number), self._fleet.facts.addresses(number)
        wanted = Counter(
            next((a for a in addresses if a.alias == host_alias(port, node)), None)
            for port in self._group.networks[0].dynamic_ports
        )
        if None in wanted:
            return 0
        by_ip: Counter[str] = Counter()
        reserved: dict[str, int] = {}
        for address, count in wanted.items():
            assert address is not None
            by_ip[address.ip] += count
        for address in addresses:
            reserved[address.ip] = reserved.get(address.ip, 0) | address.reserved
        return min(
            (whole & ~((used.get(ip, 0) | reserved[ip]) >> low)).bit_count() // count for ip, count in by_ip.items()
        )

    def _must_try(self) -> bool:
        static = bool(self._group.networks and self._group.networks[0].reserved_ports)
        devices = any(task.resources.devices for task in self._group.tasks)
        return static or devices or self._placer.hangs_together

    def _together(self) -> tuple[IntColumn, bool]:
        """Places on the best node each time, until none takes any more."""
        placer, tried = self._placer, 0
        exact = False
        while tried < COUNTED_ONE_BY_ONE:
            tried += 1
            if self._one_each:
                exact = True
                nodes = self._mask.copy()
                nodes[[number for number in self._held if number >= 0]] = False
                placer.place_everywhere(nodes)
                break
            if not placer.place_one(Wanted(name_index=next(self._indexes))):
                exact = True
                break
        return np.bincount(placer.placed_on, minlength=self._fleet.facts.size), exact

    def _node_by_node(self, room: IntColumn) -> tuple[IntColumn, bool]:
        given, tried = np.zeros_like(room), 0
        for number in np.flatnonzero(room).tolist():
            while given[number] < room[number]:
                if tried >= COUNTED_ONE_BY_ONE:
                    return given, False
                tried += 1
                if not self._placer.place_on(number, Wanted(name_index=0)):
                    break
                given[number] += 1
        return given, True

    def _shortages(self, given: IntColumn, rooms: dict[str, IntColumn]) -> dict[str, int]:
        """What each node has too little of now that it was given all it takes."""
        conditions, limits = self._placer.momentary_conditions(), Counter[str]()
        own = [name for name in ("one per node", "cores", "ports") if name in rooms]
        for number in np.flatnonzero(self._mask).tolist():
            short = {_dimension(reason) for reason, passes in conditions if not passes[number]}
            short.update(name for name in own if rooms[name][number] <= given[number])
            if not short:
                problem = self._placer.missing_extras(number)
                short = {_dimension(problem)} if problem else {"volumes"} if self._placer.hangs_together else set()
            limits.update(short)
        return dict(limits)


def _dimension(reason: str) -> str:
    """The dimension that a reason of the metrics is about.

    >>> [_dimension(r) for r in ("network: reserved port collision a=1", "devices: none", "cpu")]
    ['ports', 'devices', 'cpu']
    """
    if reason == "max allocation exceeded":
        return "allocations"
    head = reason.partition(":")[0]
    return "ports" if head == "network" else head


def _limits(rooms: dict[str, IntColumn], room: IntColumn, mask: BoolColumn) -> dict[str, int]:
    found = {
        name: int(np.count_nonzero(mask & (column == room) & (column < UNLIMITED // 2)))
        for name, column in rooms.items()
    }
    return {name: count for name, count in found.items() if count}
