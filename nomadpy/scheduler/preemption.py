"""Taking room from allocations of lesser jobs when nothing else makes a placement possible.

Whose turn it is follows Nomad's rules. Only allocations of other jobs whose priority is at least ten lower come into
question, the least important first. Among equals the one goes whose resources come closest to what is still needed; a
group that would lose more allocations than its ``migrate`` block lets move at a time is spared while others are left.
What turns out not to be needed in the end stays. Static ports and devices are taken from whoever holds them.

The victims are named in the placement that they make room for (``PlacedAlloc.preempted_alloc_ids``), so the applier
evicts them exactly when that placement is stored.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from msgspec import structs

from nomadpy.model.alloc import Help
from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.node import Node, SchedulerConfiguration
from nomadpy.model.resources import NodeDevice, Port, RequestedDevice
from nomadpy.scheduler.devices import Held, matching_groups
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.placement import GroupPlacer, Wanted
from nomadpy.scheduler.ports import asks_ports, host_alias
from nomadpy.state.view import BoolColumn, Claim, StateView

PRIORITY_GAP = 10
HIGHEST_PRIORITY = 100
OPTIONS_MAX = 100
"""So many nodes on which room can be made are compared; the cluster may have thousands."""

HELP_LOOKS_AT = 20
"""Every group that waits is told what would help, so few nodes have to do for that."""
JOBS_NAMED = 3

_PENALTY = 50.0
_RATE, _ORIGIN = 0.0048, 2048.0

GroupKey = tuple[str, str, str]


def is_enabled(config: SchedulerConfiguration, job_type: str) -> bool:
    """Whether jobs of the type may take room from others."""
    switches = config.preemption_config
    return {
        "system": switches.system_scheduler_enabled,
        "sysbatch": switches.sys_batch_scheduler_enabled,
        "batch": switches.batch_scheduler_enabled,
        "service": switches.service_scheduler_enabled,
    }.get(job_type, False)


# --- whom to choose ---------------------------------------------------------------------------------------------------


def choose_victims(
    ask: Demand, free: Demand, claims: Iterable[Claim], lost: Mapping[GroupKey, int]
) -> list[Claim] | None:
    """Which of the claims have to go so that ``ask`` fits into what is free then; None when all of them are not
    enough. ``lost`` counts what groups lose already."""
    if _covers(free, ask):
        return []
    by_priority: dict[int, list[Claim]] = {}
    for claim in claims:
        by_priority.setdefault(claim.priority, []).append(claim)
    taken: list[Claim] = []
    needed, room, losing = ask, free, Counter(lost)
    for _, equals in sorted(by_priority.items()):
        while equals:
            claim = equals.pop(_closest(equals, needed, losing))
            taken.append(claim)
            losing[_key(claim)] += 1
            room += claim.demand
            if _covers(room, ask):
                return _without_needless(taken, ask, free)
            needed = _minus(needed, claim.demand)
    return None


def _closest(equals: Sequence[Claim], needed: Demand, losing: Mapping[GroupKey, int]) -> int:
    """The position of the claim that goes first, the oldest one of several."""
    costs = [distance(needed, claim.demand) + _sparing(claim, losing) for claim in equals]
    return costs.index(min(costs))


def distance(needed: Demand, given: Demand) -> float:
    """How far what one gives is from what is needed; dimensions of which nothing is needed do not count.

    >>> distance(Demand(cpu=100, memory=200), Demand(cpu=100, memory=100))
    0.5
    """
    pairs = ((needed.cpu, given.cpu), (needed.memory, given.memory), (needed.disk, given.disk))
    return math.sqrt(sum(((need - give) / need) ** 2 for need, give in pairs if need > 0))


def _sparing(claim: Claim, losing: Mapping[GroupKey, int]) -> float:
    """What keeps a group from losing more at a time than it says that it can bear."""
    allowed, lost = claim.migrate_parallel, losing.get(_key(claim), 0)
    return (lost + 1 - allowed) * _PENALTY if 0 < allowed <= lost else 0.0


def _without_needless(taken: list[Claim], ask: Demand, free: Demand) -> list[Claim]:
    """As few of those taken as make room: the ones that differ most from the whole need are the largest and count
    first."""
    kept: list[Claim] = []
    for claim in sorted(taken, key=lambda each: -distance(ask, each.demand)):
        kept.append(claim)
        free += claim.demand
        if _covers(free, ask):
            break
    return kept


def _covers(room: Demand, ask: Demand) -> bool:
    return room.cpu >= ask.cpu and room.memory >= ask.memory and room.disk >= ask.disk


def _minus(ask: Demand, given: Demand) -> Demand:
    return Demand(ask.cpu - given.cpu, ask.memory - given.memory, ask.disk - given.disk)


def _key(claim: Claim) -> GroupKey:
    return claim.namespace, claim.job_id, claim.group


def preemption_score(priorities: Sequence[int]) -> float:
    """0…1: the less important those that have to go, and the fewer, the better.

    >>> preemption_score([20]) > preemption_score([20, 20]) > preemption_score([90])
    True
    """
    highest = max(priorities)
    net = highest + (sum(priorities) / highest if highest else 0.0)
    return 1.0 / (1.0 + math.exp(_RATE * (net - _ORIGIN)))


# --- on the nodes of a cluster ----------------------------------------------------------------------------------------


class Evictor:
    """Makes room for the placements of one evaluation. ``evicted`` are the ids of all that have to go for it."""

    def __init__(self, view: StateView, fleet: Fleet, job: Job) -> None:
        self._view, self._fleet, self._job = view, fleet, job
        self._ceiling = job.priority - PRIORITY_GAP
        self._lost: Counter[GroupKey] = Counter()
        self.evicted: dict[str, Claim] = {}
        self._is_on = is_enabled(view.scheduler_config, job.type)
        self._may = self._is_on and self._anybody_up_to(self._ceiling)

    def _anybody_up_to(self, priority: int) -> bool:
        lowest = self._fleet.lowest_priority
        return lowest is not None and lowest <= priority

    def place_one(self, placer: GroupPlacer, wanted: Wanted) -> bool:
        """Places one allocation on the node where it is best to make room for it; False when it can be made nowhere."""
        if not self._may:
            return False
        options: list[tuple[float, int, list[Claim]]] = []
        for number in np.flatnonzero(placer.contestable(wanted)).tolist():
            victims = self._victims(number, placer.group, self._ceiling)
            if victims:
                options.append((self._score(placer, number, wanted, victims), -number, victims))
                if len(options) == OPTIONS_MAX:
                    break
        ranked = sorted(options, key=lambda option: option[:2], reverse=True)
        return any(self._carry_out(placer, -negative, wanted, victims) for _, negative, victims in ranked)

    def place_on(self, placer: GroupPlacer, number: int, wanted: Wanted) -> bool:
        """The same on one very node."""
        if not self._may or not placer.contestable(wanted, np.array([number]))[0]:
            return False
        victims = self._victims(number, placer.group, self._ceiling)
        return bool(victims) and self._carry_out(placer, number, wanted, victims or ())

    def _score(self, placer: GroupPlacer, number: int, wanted: Wanted, victims: Sequence[Claim]) -> float:
        mark = self._fleet.mark
        self._clear(placer, victims)
        score = placer.rank(number, wanted, extra=_score_of(victims))
        self._restore(placer, victims, mark)
        return score

    def _carry_out(self, placer: GroupPlacer, number: int, wanted: Wanted, victims: Sequence[Claim]) -> bool:
        mark = self._fleet.mark
        self._clear(placer, victims)
        names = tuple(claim.alloc_id for claim in victims)
        evicting = structs.replace(wanted, evicts=names, eviction_score=_score_of(victims))
        if not placer.place_on(number, evicting):
            missing = placer.refused(number)
            self._restore(placer, victims, mark)
            placer.refuse(number, missing)
            return False
        for claim in victims:
            self.evicted[claim.alloc_id] = claim
            self._lost[_key(claim)] += 1
        return True

    def _clear(self, placer: GroupPlacer, victims: Iterable[Claim]) -> None:
        for claim in victims:
            alloc = self._view.alloc(claim.alloc_id)
            assert alloc is not None
            placer.clear(alloc)

    def _restore(self, placer: GroupPlacer, victims: Iterable[Claim], mark: int) -> None:
        for claim in victims:
            alloc = self._view.alloc(claim.alloc_id)
            assert alloc is not None
            placer.unclear(alloc, mark)

    # --- what would help --------------------------------------------------------------------------------------------

    def would_help(
        self, placer: GroupPlacer, among: BoolColumn | None = None, *, look_at: int = HELP_LOOKS_AT
    ) -> tuple[Help, ...]:
        """The one change after which lesser jobs would make room for one more allocation of a group that no node can
        take: preemption switched on or, where it is, a higher priority. ``among`` are the nodes that count, and the
        first ``look_at`` of them are looked at."""
        ceiling = HIGHEST_PRIORITY - PRIORITY_GAP if self._is_on else self._ceiling
        if not self._anybody_up_to(ceiling):
            return ()
        nodes = placer.contestable(Wanted(name_index=0))
        numbers = np.flatnonzero(nodes if among is None else nodes & among)[:look_at].tolist()
        options = [
            (max(claim.priority for claim in victims), len(victims), number, victims)
            for number in numbers
            if (victims := self._victims(number, placer.group, ceiling))
        ]
        for highest, _, number, victims in sorted(options, key=lambda option: option[:3]):
            if self._would_fit(placer, number, victims):
                return (self._told(number, victims, highest + PRIORITY_GAP),)
        return ()

    def _would_fit(self, placer: GroupPlacer, number: int, victims: Sequence[Claim]) -> bool:
        mark, missing = self._fleet.mark, placer.refused(number)
        self._clear(placer, victims)
        fits = placer.could_take(number)
        self._restore(placer, victims, mark)
        placer.refuse(number, missing)
        return fits

    def _told(self, number: int, victims: Sequence[Claim], priority: int) -> Help:
        node = self._fleet.facts.nodes[number]
        assert node is not None
        change = f"preemption switched on for {self._job.type} jobs"
        if self._is_on:
            change = f"priority {priority} instead of {self._job.priority}"
        what = "1 allocation" if len(victims) == 1 else f"{len(victims)} allocations"
        names = sorted({f'"{claim.job_id}"' for claim in victims})
        more = len(names) - JOBS_NAMED
        whose = ", ".join(names[:JOBS_NAMED]) + (f" and {more} more" if more > 0 else "")
        jobs = "job" if len(names) == 1 else "jobs"
        text = f"{change}: {what} of {jobs} {whose} would make room on {node.name or node.id[:8]}"
        return Help(kind="preemption", text=text, nodes=(node.id,), node_count=1)

    # --- whom to take -----------------------------------------------------------------------------------------------

    def _claims(self, number: int, ceiling: int) -> list[Claim]:
        claims = self._fleet.claims(number, ceiling)
        return [claim for claim in claims if (claim.namespace, claim.job_id) != self._job.key]

    def _victims(self, number: int, group: TaskGroup, ceiling: int) -> list[Claim] | None:
        """Who of those with at most a priority has to go so that the group fits on the node; None when it cannot be
        done, or when room that was made there before is not free yet: taking more would hit others for what is on its
        way."""
        free = self._fleet.free(number)
        node = self._fleet.facts.nodes[number]
        if node is None or min(free.cpu, free.memory, free.disk) < 0:
            return None
        claims = self._claims(number, ceiling)
        victims: dict[str, Claim] = {}
        for more in (
            self._port_holders(number, node, group, claims),
            self._device_holders(node, number, group, claims),
        ):
            if more is None:
                return None
            victims.update((claim.alloc_id, claim) for claim in more)
        for claim in victims.values():
            free += claim.demand
        rest = (claim for claim in claims if claim.alloc_id not in victims)
        for_room = choose_victims(group_demand(group), free, rest, self._lost)
        return None if for_room is None else [*victims.values(), *for_room]

    # --- ports --------------------------------------------------------------------------------------------------------

    def _port_holders(self, number: int, node: Node, group: TaskGroup, claims: Sequence[Claim]) -> list[Claim] | None:
        """Who holds the static ports that the group asks for; None when somebody does who may keep them."""
        if not asks_ports(group.networks):
            return []
        used = self._fleet.used_ports(number)
        out: dict[str, Claim] = {}
        for port in group.networks[0].reserved_ports:
            if port.ignore_collision or self._is_free(port, number, node, used):
                continue
            holders = self._holders_of(port, number, node, claims)
            if holders is None:
                return None
            out.update((claim.alloc_id, claim) for claim in holders)
        return list(out.values())

    def _addresses(self, port: Port, number: int, node: Node) -> list[str]:
        """The addresses on which the node's operator does not keep the port from jobs."""
        alias = host_alias(port, node)
        known = self._fleet.facts.addresses(number)
        return [a.ip for a in known if a.alias == alias and not a.reserved >> port.value & 1]

    def _is_free(self, port: Port, number: int, node: Node, used: Mapping[str, int]) -> bool:
        return any(not used.get(ip, 0) >> port.value & 1 for ip in self._addresses(port, number, node))

    def _holders_of(self, port: Port, number: int, node: Node, claims: Sequence[Claim]) -> list[Claim] | None:
        held = {claim.alloc_id: self._ports_of(claim) for claim in claims}
        everyone = self._fleet.port_holders(number, port.value)
        for ip in self._addresses(port, number, node):
            here = [claim for claim in claims if (ip, port.value) in held[claim.alloc_id]]
            if {claim.alloc_id for claim in here} == everyone.get(ip, set()):
                return here
        return None

    def _ports_of(self, claim: Claim) -> set[tuple[str, int]]:
        alloc = self._view.alloc(claim.alloc_id)
        given = alloc.allocated_resources if alloc is not None else None
        return set() if given is None else {(port.host_ip, port.value) for port in given.shared.ports}

    # --- devices ------------------------------------------------------------------------------------------------------

    def _device_holders(self, node: Node, number: int, group: TaskGroup, claims: Sequence[Claim]) -> list[Claim] | None:
        """Who has to give up devices so that every request of the group can be met; None when that is not enough."""
        requests = [request for task in group.tasks for request in task.resources.devices]
        if not requests:
            return []
        taken = set(self._fleet.held_devices(number))
        holding = {claim.alloc_id: self._devices_of(claim) for claim in claims}
        gone: dict[str, Claim] = {}
        for request in requests:
            left = [claim for claim in claims if claim.alloc_id not in gone]
            choice = _choose_device(node, request, taken, left, holding)
            if choice is None:
                return None
            device, holders = choice
            for claim in holders:
                gone[claim.alloc_id] = claim
                taken -= holding[claim.alloc_id]
            taken.update(_free_instances(device, taken)[: request.count])
        return list(gone.values())

    def _devices_of(self, claim: Claim) -> set[Held]:
        alloc = self._view.alloc(claim.alloc_id)
        given = alloc.allocated_resources if alloc is not None else None
        tasks = given.tasks.values() if given is not None else ()
        return {(d.vendor, d.type, d.name, i) for task in tasks for d in task.devices for i in d.device_ids}


def _score_of(victims: Sequence[Claim]) -> float:
    return preemption_score([claim.priority for claim in victims])


def _free_instances(device: NodeDevice, taken: set[Held]) -> list[Held]:
    every = [(device.vendor, device.type, device.name, each.id) for each in device.instances if each.healthy]
    return [each for each in every if each not in taken]


def _choose_device(
    node: Node,
    request: RequestedDevice,
    taken: set[Held],
    claims: Sequence[Claim],
    holding: Mapping[str, set[Held]],
) -> tuple[NodeDevice, list[Claim]] | None:
    """The device group to use and who has to give up instances of it: where the sum of the different priorities of
    those is smallest."""
    best: tuple[int, NodeDevice, list[Claim]] | None = None
    for device in matching_groups(node, request):
        holders = _givers(device, request.count - len(_free_instances(device, taken)), claims, holding)
        if holders is None:
            continue
        price = sum({claim.priority for claim in holders})
        if best is None or price < best[0]:
            best = (price, device, holders)
    return None if best is None else best[1:]


def _givers(
    device: NodeDevice, needed: int, claims: Sequence[Claim], holding: Mapping[str, set[Held]]
) -> list[Claim] | None:
    """Who gives up ``needed`` instances: the least important jobs are asked, and of those asked the ones with most
    instances go first."""
    if needed <= 0:
        return []
    instances = {(device.vendor, device.type, device.name, each.id) for each in device.instances if each.healthy}
    counts = {claim.alloc_id: len(holding[claim.alloc_id] & instances) for claim in claims}
    asked: list[Claim] = []
    for claim in sorted((c for c in claims if counts[c.alloc_id]), key=lambda c: c.priority):
        asked.append(claim)
        if sum(counts[each.alloc_id] for each in asked) >= needed:
            break
    givers: list[Claim] = []
    for claim in sorted(asked, key=lambda c: -counts[c.alloc_id]):
        givers.append(claim)
        if sum(counts[each.alloc_id] for each in givers) >= needed:
            return givers
    return None
