"""Every way of placing many must give what one at a time would have given; and a mistake in it must be noticed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import greedy
import numpy as np
import pytest
from greedy import Place, Want
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.alloc import Allocation
from nomadpy.model.job import Job
from nomadpy.model.resources import Affinity, Constraint, Spread, SpreadTarget
from nomadpy.scheduler import Fleet, cells, packing, placement, ranking, turns
from nomadpy.scheduler.grains import ALGORITHMS
from nomadpy.scheduler.placement import GroupPlacer

SIZES = ((4000, 8192), (4000, 4096), (16000, 8192), (1000, 1000))


@dataclass
class Case:
    places: list[Place]
    want: Want
    wanted: int

    def expected(self) -> list[int]:
        return greedy.place(copy.deepcopy(self.places), self.want, self.wanted)

    def placer(self) -> GroupPlacer:
        world = World(*(self._node(number, place) for number, place in enumerate(self.places)))
        world.configure(scheduler_algorithm=self.want.algorithm)
        fleet = Fleet(world.store)
        for number, place in enumerate(self.places):
            fleet.left[:2, number] = place.cpu_left, place.memory_left
        held = [
            Allocation(id=f"{n}-{i}", node_id=world.node_id(n), task_group="app", client_status="running")
            for n, place in enumerate(self.places)
            for i in range(place.held)
        ]
        job = self._job()
        return GroupPlacer(fleet, job, job.task_groups[0], siblings=held, rng=random.Random(1))

    def got(self) -> list[int]:
        placer = self.placer()
        placer.place_many(np.arange(self.wanted))
        return placer.placed_on.tolist()

    def _node(self, number: int, place: Place) -> Any:
        meta = {**place.values, "ok": str(place.eligible)}
        slots = place.slots_left if place.slots_left < 10**6 else 0
        return make_node(number, cpu_mhz=place.cpu, memory_mb=place.memory, meta=meta, node_max_allocs=slots)

    def _job(self) -> Job:
        want = self.want
        constraints = [Constraint(l_target="${meta.ok}", operand="=", r_target="True")]
        if want.alone:
            constraints.append(Constraint(operand="distinct_hosts"))
        constraints += [
            Constraint(l_target=f"${{meta.{name}}}", operand="distinct_property", r_target=str(most))
            for name, most in want.limits
        ]
        spreads = tuple(
            Spread(
                attribute=f"${{meta.{name}}}",
                weight=weight,
                spread_target=tuple(SpreadTarget(value=v, percent=p) for v, p in targets.items()),
            )
            for name, weight, targets in want.spreads
        )
        affinities = tuple(
            Affinity(l_target=f"${{meta.{name}}}", operand="=", r_target=value, weight=weight)
            for name, value, weight in want.affinities
        )
        task = make_task(cpu=want.cpu, memory_mb=want.memory)
        group = make_group(count=want.count, task=task, ephemeral_disk=None, affinities=affinities, spreads=spreads)
        return make_job(group=group, constraints=tuple(constraints))


def cluster(rng: random.Random, *, held: bool) -> list[Place]:
    """A few nodes, many of them alike, with some load."""
    load, some_held = rng.random() < 0.6, held and rng.random() < 0.5
    places = []
    for _ in range(rng.randint(1, 12)):
        cpu, memory = rng.choice(SIZES)
        place = Place(cpu, memory, cpu, memory, eligible=rng.random() < 0.9)
        if load and rng.random() < 0.5:
            place.cpu_left -= rng.choice((100, 333, 900))
            place.memory_left -= rng.choice((64, 300, 1000))
        if rng.random() < 0.1:
            place.slots_left = rng.randint(1, 6)
        if rng.random() < 0.9:
            place.values["rack"] = f"r{rng.randint(0, 3)}"
        place.values["zone"] = f"z{rng.randint(0, 2)}"
        if some_held and rng.random() < 0.4:
            place.held = rng.randint(1, 3)
        places.append(place)
    return places


def ask(rng: random.Random, *, plain: bool = False) -> Want:
    want = Want(
        cpu=rng.choice((10, 100, 333, 500)),
        memory=rng.choice((16, 100, 256, 700)),
        count=rng.randint(1, 60),
        algorithm=rng.choice(("binpack", "binpack", "spread", "balanced")),
        alone=rng.random() < 0.15,
    )
    if not plain and rng.random() < 0.5:
        want.affinities = (("zone", "z1", rng.choice((60, -60))), ("rack", "r2", 25))[: rng.randint(1, 2)]
    return want


def packed(rng: random.Random) -> Case:
    """A case for the threshold search: too many for the cells."""
    return Case(cluster(rng, held=True), ask(rng), rng.randint(51, 130))


def small(rng: random.Random) -> Case:
    return Case(cluster(rng, held=False), ask(rng, plain=True), rng.randint(1, 50))


def taking_turns(rng: random.Random) -> Case:
    want = ask(rng)
    targets = {"r0": rng.choice((20, 50)), "r1": rng.choice((0, 30, 50))} if rng.random() < 0.6 else {}
    if rng.random() < 0.75:
        want.spreads = (("rack", 50, targets), ("zone", 25, {}))[: rng.randint(1, 2)]
    if not want.spreads or rng.random() < 0.3:
        want.limits = (("rack", rng.randint(1, 30)), ("zone", rng.randint(1, 30)))[: rng.randint(1, 2)]
    return Case(cluster(rng, held=True), want, rng.randint(12, 90))


RANDOM = st.integers(0, 2**64).map(random.Random)


@given(RANDOM)
@settings(max_examples=1000, deadline=None)
def test_packing_at_once(rng: random.Random) -> None:
    case = packed(rng)
    assert greedy.by_node(case.got()) == greedy.by_node(case.expected())


@given(RANDOM)
@settings(max_examples=1000, deadline=None)
def test_a_few_among_cells(rng: random.Random) -> None:
    case = small(rng)
    assert case.got() == case.expected()


@given(RANDOM)
@settings(max_examples=1000, deadline=None)
def test_turns(rng: random.Random) -> None:
    case = taking_turns(rng)
    assert case.got() == case.expected()


def two_jobs_between(rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
    """What a row of small jobs with few different asks gets in one batch, and what it should get."""
    places = cluster(rng, held=False)
    asks = [ask(rng, plain=True) for _ in range(3)]
    for want in asks:
        want.algorithm = asks[0].algorithm
    row = [(rng.choice(asks), rng.randint(1, 4)) for _ in range(8)]
    fleet: Fleet | None = None
    got, expected = [], []
    for want, wanted in row:
        case = Case(places, want, wanted)
        placer = case.placer()
        if fleet is None:
            fleet = placer.fleet
        job = placer.job
        placer = GroupPlacer(fleet, job, job.task_groups[0], siblings=(), rng=random.Random(1))
        placer.place_many(np.arange(wanted))
        got.append(placer.placed_on.tolist())
        expected.append(greedy.place(places, want, wanted))
        for place in places:
            place.held = 0
    return got, expected


@given(RANDOM)
@settings(max_examples=300, deadline=None)
def test_asks_catch_up_with_each_other(rng: random.Random) -> None:
    got, expected = two_jobs_between(rng)
    assert got == expected


@pytest.mark.parametrize("size", [2, 7, 40])
def test_one_number_is_computed_in_one_way(size: int) -> None:
    """The vector and the single node, aligned or not, must agree to the last bit."""
    rng = np.random.default_rng(size)
    free = rng.integers(0, 10**6, (2, size))
    scale = rng.random((2, size)) * 1e-5
    for algorithm in ALGORITHMS:
        many = ranking.fit(algorithm, free[0], free[1], scale[0], scale[1])
        for i in range(size):
            one = cells.fit_one(algorithm, int(free[0, i]), int(free[1, i]), float(scale[0, i]), float(scale[1, i]))
            assert one == many[i]
    held = rng.integers(0, 50, size)
    many = ranking.crowdings(held, 7.0)
    assert many.tolist() == [cells.crowding(int(h), 7.0) if h else 0 for h in held]


# --- mistakes ---------------------------------------------------------------------------------------------------------

ROUNDS = 300


def differs(make: Any, *, in_order: bool = True) -> bool:
    """Whether any of some random cases comes out wrong."""
    for seed in range(ROUNDS):
        case = make(random.Random(seed))
        got, expected = case.got(), case.expected()
        if got != expected if in_order else greedy.by_node(got) != greedy.by_node(expected):
            return True
    return False


def last_first(ties: Any, left: int) -> Any:
    before = np.cumsum(ties[::-1]) - ties[::-1]
    return np.clip(left - before, 0, ties[::-1])[::-1]


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (packing, "_lower", lambda keys, lowest: None),
        (packing, "_first", last_first),
        (ranking, "parts", lambda scorers: np.full_like(scorers, 60.0)),
        (ranking, "fit", lambda *a: np.floor(right_fit(*a) / 2**20)),
        (ranking.Ranking, "alike", lambda self, numbers: np.zeros(len(numbers), dtype=np.int64)),
        (packing, "_openers", lambda ahead, numbers, wanted: numbers[:wanted]),
    ],
)
def test_a_mistake_in_packing_is_noticed(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, mistake: Any) -> None:
    assert not differs(packed_or_opened, in_order=False)
    monkeypatch.setattr(where, name, mistake)
    assert differs(packed_or_opened, in_order=False)


right_fit = ranking.fit


def packed_or_opened(rng: random.Random) -> Case:
    """As ``packed``, but sometimes with more nodes than allocations."""
    case = packed(rng)
    if rng.random() < 0.3:
        case.wanted = rng.randint(1, len(case.places))
        case.want.affinities = (("zone", "z1", 60),)
    return case


@pytest.mark.parametrize(
    ("where", "name", "make"), [(ranking, "crowdings", packed), (cells, "crowding", small)], ids=["packing", "cells"]
)
def test_anti_affinity_off_by_one_is_noticed(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, make: Callable[[random.Random], Case]
) -> None:
    """Directed at groups large enough that crowding does not decide alone, and that leave nodes a choice."""
    right = getattr(where, name)
    whole = int if where is cells else np.rint
    monkeypatch.setattr(where, name, lambda held, desired: whole(right(held, desired) * held / (held + 1)))
    cases = [make(random.Random(seed)) for seed in range(ROUNDS)]
    for case in cases:
        case.want.count, case.want.alone, case.want.algorithm = max(case.want.count, 20), False, "binpack"
        case.wanted = min(case.wanted, 60)
    assert any(greedy.by_node(case.got()) != greedy.by_node(case.expected()) for case in cases)


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (cells, "fit_one", lambda *a: 7),
        (cells.Ask, "_look_again", lambda self, cell: None),
        (cells.Cells, "bar", lambda self, mask: np.where(np.ones(len(self.starts), dtype=bool), 1 << 61, 0)),
    ],
)
def test_a_mistake_among_cells_is_noticed(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, mistake: Any) -> None:
    monkeypatch.setattr(where, name, mistake)
    assert differs(small)


def test_asks_that_do_not_catch_up_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells.Ask, "catch_up", lambda self, changed, free: None)
    outcomes = [two_jobs_between(random.Random(seed)) for seed in range(40)]
    assert any(got != expected for got, expected in outcomes)


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (turns.Turns, "_count", lambda self, division: (division,)),
        (turns._Boosts, "add", lambda self, code: False),
        (turns.Turns, "_head", lambda self, division: _head_without_mean(self, division)),
    ],
)
def test_a_mistake_in_turns_is_noticed(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, mistake: Any) -> None:
    monkeypatch.setattr(where, name, mistake)
    assert differs(taking_turns)


def _head_without_mean(self: turns.Turns, division: int) -> int:
    best = turns._SHUT
    for heaps in (self._fresh, self._used):
        for entry in heaps[division][:1]:
            best = max(best, (-(entry >> 20) << 20) | (turns._LAST - (entry & turns._LAST)))
    return best


def test_few_and_many_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same question to both algorithms."""
    for seed in range(100):
        case = small(random.Random(seed))
        few = case.got()
        monkeypatch.setattr(placement, "FEW", 0)
        assert greedy.by_node(case.got()) == greedy.by_node(few)
        monkeypatch.undo()
