"""What would let one more allocation of a group find a node: the smallest changes, told in words.

Three kinds are looked for, all over whole columns, because a full cluster asks this for every group that waits: room on
nodes that only lack some, one condition less on nodes that meet all others, and something single (a port, a device)
that another allocation holds. Each is exact: with the change made, and nothing else happening, the allocation fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nomadpy.model.alloc import Help
from nomadpy.model.demand import Demand
from nomadpy.model.node import DISCONNECTED, DOWN, Node
from nomadpy.model.resources import Constraint, RequestedDevice
from nomadpy.scheduler.eligibility import Check, Eligibility
from nomadpy.scheduler.facts import UNLIMITED, Facts
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.ranking import FloatColumn
from nomadpy.state.view import BoolColumn, IntColumn

MOST_HELPS = 3
NODES_NAMED = 3
UNITS = {"cpu": "MHz", "memory": "MB", "disk": "MB"}
Condition = tuple[str, BoolColumn]


def would_help(
    fleet: Fleet,
    eligible: Eligibility,
    demand: Demand,
    *,
    neighbours: Sequence[Condition],
    refused: Mapping[int, str],
    among: BoolColumn | None = None,
) -> tuple[Help, ...]:
    """The best few changes for a group that no node can take. ``neighbours`` are conditions on the allocations around
    it, ``refused`` what single nodes could not give although they had the room, ``among`` the nodes that count."""
    facts = fleet.facts
    among = among if among is not None and among.any() else None
    failed, last = eligible.nearness(facts)
    everywhere: BoolColumn = np.ones(facts.size, dtype=np.bool_) if among is None else among
    crowded = np.zeros(facts.size, dtype=np.int64)
    for _, passes in neighbours:
        crowded += ~passes
    unrefused: BoolColumn = np.ones(facts.size, dtype=np.bool_)
    unrefused[list(refused)] = False
    lacking = _lacking(fleet, demand)
    roomy: BoolColumn = np.all([short == 0 for short in lacking.values()], axis=0) & (fleet.slots_free >= 1)
    suitable = (failed == 0) & everywhere
    found = _room(fleet, demand, lacking, suitable & (crowded == 0) & ~roomy & unrefused & (fleet.slots_free >= 1))
    found += _taken(facts, refused, suitable & (crowded == 0) & roomy)
    found += _neighbours(facts, neighbours, suitable & (crowded == 1) & roomy & unrefused)
    if among is None:
        found += _conditions(facts, eligible, last, (failed == 1) & (crowded == 0) & roomy)
    if not found:
        found = _nearest(fleet, eligible, lacking, neighbours, refused, everywhere)
    rank = {kind: place for place, kind in enumerate(_ORDER)}
    return tuple(sorted(found, key=lambda help: rank.get(help.kind, len(rank)))[:MOST_HELPS])


_ORDER = (
    *("resources", "port", "device", "cores", "node", "driver", "constraint", "neighbours", "datacenter", "node pool"),
    *("network", "host network", "volume", "secrets provider", "several"),
)


def _lacking(fleet: Fleet, demand: Demand) -> dict[str, IntColumn]:
    """Per dimension how much every node has too little."""
    pairs = {
        "cpu": (fleet.cpu_free, fleet.cpu_ask(demand, slice(None))),
        "memory": (fleet.memory_free, demand.memory),
        "disk": (fleet.disk_free, demand.disk),
    }
    return {
        name: np.maximum(ask - free, 0) if np.any(ask) else np.zeros_like(free) for name, (free, ask) in pairs.items()
    }


def _room(fleet: Fleet, demand: Demand, lacking: dict[str, IntColumn], nodes: BoolColumn) -> list[Help]:
    """The smallest lack of the nodes that only need more room: over the fewest dimensions, then the least of what is
    asked. At most one for each set of dimensions."""
    numbers = np.flatnonzero(nodes)
    if not len(numbers):
        return []
    sets = np.zeros(len(numbers), dtype=np.int64)
    share: FloatColumn = np.zeros(len(numbers))
    asked = {"cpu": fleet.cpu_ask(demand, numbers), "memory": demand.memory, "disk": demand.disk}
    for bit, (name, short) in enumerate(lacking.items()):
        sets |= (short[numbers] > 0).astype(np.int64) << bit
        share += short[numbers] / np.maximum(asked[name], 1)
    best = sorted(
        (int(bits).bit_count(), float(share[sets == bits].min()), int(bits)) for bits in np.unique(sets).tolist()
    )
    fewest = best[0][0]
    return [_lack(fleet, demand, lacking, numbers[(sets == bits) & (share == least)]) for count, least, bits in best
            if count == fewest]  # fmt: skip


def _lack(fleet: Fleet, demand: Demand, lacking: dict[str, IntColumn], numbers: IntColumn) -> Help:
    first = int(numbers[0])
    asked = {"cpu": asked_cpu(fleet, demand, first), "memory": demand.memory, "disk": demand.disk}
    short = {name: int(column[first]) for name, column in lacking.items() if column[first]}
    alike = [n for n in numbers.tolist() if all(int(lacking[name][n]) == lack for name, lack in short.items())]
    more = " and ".join(f"{lack} {UNITS[name]} more {name}" for name, lack in short.items())
    less = " and ".join(f"{asked[name] - lack} {UNITS[name]} {name}" for name, lack in short.items())
    less = f"asking for {less} instead of {' and '.join(str(asked[name]) for name in short)}"
    whole = {"cpu": fleet.columns.cpu, "memory": fleet.columns.memory, "disk": fleet.columns.disk}
    if any(whole[name][first] < asked[name] for name in short):
        return _help(fleet.facts, "resources", f"{less}, for", alike, "", short)
    return _help(fleet.facts, "resources", f"{more} on", alike, f"; or {less}", short)


def _nearest(
    fleet: Fleet,
    eligible: Eligibility,
    lacking: dict[str, IntColumn],
    neighbours: Sequence[Condition],
    refused: Mapping[int, str],
    among: BoolColumn,
) -> list[Help]:
    """The nodes with the fewest things in the way, when one thing is in the way of none."""
    facts = fleet.facts
    in_the_way = [(check.reason, ~check.passes) for check in eligible.conditions]
    in_the_way += [(reason, ~passes) for reason, passes in neighbours]
    in_the_way += [(name, short > 0) for name, short in lacking.items()]
    in_the_way.append(("max allocation exceeded", fleet.slots_free < 1))
    counts: IntColumn = np.where(facts.present & among, 0, UNLIMITED)
    for _, against in in_the_way:
        counts += against
    for number in refused:
        counts[number] += 1
    if not len(counts) or counts.min() >= UNLIMITED:
        return []
    first = int(np.argmin(counts))
    reasons = [reason for reason, against in in_the_way if against[first]]
    reasons += [refused[first]] if first in refused else []
    alike = [
        number
        for number in np.flatnonzero(counts == counts[first]).tolist()
        if all(against[number] == against[first] for _, against in in_the_way)
    ]
    return [_help(facts, "several", f"{len(reasons)} changes at once ({'; '.join(reasons)}):", alike)]


def asked_cpu(fleet: Fleet, demand: Demand, number: int) -> int:
    """The MHz that one allocation takes on a node; cores of its own count with the node's speed."""
    return int(np.asarray(fleet.cpu_ask(demand, np.array([number]))).max())


def _taken(facts: Facts, refused: Mapping[int, str], nodes: BoolColumn) -> list[Help]:
    """What single nodes had the room for, but not the port, device or cores."""
    by_problem: dict[str, list[int]] = {}
    for number, problem in sorted(refused.items()):
        if nodes[number]:
            by_problem.setdefault(problem, []).append(number)
    most_nodes_first = sorted(by_problem.items(), key=lambda item: -len(item[1]))
    return [_help(facts, *_single(problem), numbers) for problem, numbers in most_nodes_first]


def _single(problem: str) -> tuple[str, str]:
    """The kind and words of one thing that was missing.

    >>> _single("network: reserved port collision http=80")
    ('port', 'port http=80 free on')
    """
    collision = "network: reserved port collision "
    if problem.startswith(collision):
        return "port", f"port {problem.removeprefix(collision)} free on"
    if problem.startswith("devices: no devices match request "):
        return "device", f"enough free devices {problem.removeprefix('devices: no devices match request ')} on"
    if problem == "cores":
        return "cores", "enough free reserved cores on"
    return "port", f"{problem.removeprefix('network: ')} solved on"


def _neighbours(facts: Facts, conditions: Sequence[Condition], nodes: BoolColumn) -> list[Help]:
    found = []
    for reason, passes in conditions:
        numbers = np.flatnonzero(nodes & ~passes).tolist()
        if numbers:
            found.append(_help(facts, "neighbours", f"one condition away ({reason}):", numbers))
    return found


def _conditions(facts: Facts, eligible: Eligibility, last: IntColumn, nodes: BoolColumn) -> list[Help]:
    """Nodes that fail one lasting condition only."""
    found = []
    for position in np.unique(last[nodes]).tolist():
        numbers = np.flatnonzero(nodes & (last == position)).tolist()
        found += _condition(facts, eligible.conditions[position], numbers)
    return found


def _condition(facts: Facts, check: Check, numbers: list[int]) -> list[Help]:
    if check.kind in ("node", "datacenter", "node pool"):
        by_words: dict[str, list[int]] = {}
        for number in numbers:
            by_words.setdefault(_place_words(check.kind, facts.nodes[number]), []).append(number)
        return [_help(facts, check.kind, words, alike) for words, alike in sorted(by_words.items())]
    words = f'one condition away ("{check.reason}"):'
    if check.kind == "driver":
        words = f'a working driver "{check.asked}" on'
    elif isinstance(check.asked, Constraint):
        words = f'one constraint away ("{check.reason}"):'
    elif isinstance(check.asked, RequestedDevice):
        words = f"{check.asked.count} of device {check.asked.name} on"
    return [_help(facts, check.kind, words, numbers)]


def _place_words(kind: str, node: Node | None) -> str:
    assert node is not None
    if kind == "datacenter":
        return f'"{node.datacenter}" among the job\'s datacenters:'
    if kind == "node pool":
        return f'node pool "{node.node_pool or "default"}":'
    return " and ".join(not_ready(node)) + ", or else it would fit:"


def not_ready(node: Node) -> list[str]:
    """Why the scheduler leaves a node alone, in words; all of it.

    >>> not_ready(Node(status="down", scheduling_eligibility="ineligible"))
    ['node is down', 'node is not eligible for scheduling']
    """
    found = []
    if node.status in (DOWN, DISCONNECTED):
        found.append(f"node is {node.status}")
    elif node.status != "ready":
        found.append(f"node is {node.status or 'initializing'}, not yet ready")
    if node.drain_strategy is not None:
        found.append("node is draining")
    elif node.scheduling_eligibility != "eligible":
        found.append("node is not eligible for scheduling")
    return found


def _help(
    facts: Facts, kind: str, words: str, numbers: list[int], after: str = "", lacking: dict[str, int] | None = None
) -> Help:
    nodes = [facts.nodes[number] for number in numbers[:NODES_NAMED]]
    names = [node.name or node.id[:8] for node in nodes if node is not None]
    return Help(
        kind=kind,
        text=f"{words} {listed(names, len(numbers))}{after}",
        lacking=lacking or {},
        nodes=tuple(node.id for node in nodes if node is not None),
        node_count=len(numbers),
    )


def listed(names: Iterable[str], total: int) -> str:
    """Names as a list, with how many more there are.

    >>> listed(["n1"], 1), listed(["n1", "n2"], 2), listed(["n1", "n2"], 9)
    ('n1', 'any of n1, n2', 'any of n1, n2 and 7 more')
    """
    shown = list(names)
    more = total - len(shown)
    text = ", ".join(shown) + (f" and {more} more" if more else "")
    return text if total == 1 else f"any of {text}"
