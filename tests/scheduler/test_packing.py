"""Many at once must be exactly what one at a time would have been."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.demand import Demand
from nomadpy.model.resources import Affinity
from nomadpy.scheduler import Fleet
from nomadpy.scheduler.packing import pack
from nomadpy.scheduler.ranking import Ranking

SIZES = ((4000, 8192), (4000, 4096), (16000, 8192), (1000, 1000))


def one_at_a_time(ranking: Ranking, fleet: Fleet, demand: Demand, room: np.ndarray, wanted: int) -> np.ndarray:
    """The definition: the best node in turn, the lowest number among equals."""
    counts = np.zeros(len(room), dtype=np.int64)
    for _ in range(wanted):
        ranked = np.where(counts < room, ranking.scores(), -np.inf)
        best = int(np.argmax(ranked))
        if ranked[best] == -np.inf:
            break
        counts[best] += 1
        ranking.add(best, 1)
        fleet.left[0, best] -= demand.cpu
        fleet.left[1, best] -= demand.memory
    return counts


@st.composite
def clusters(draw: st.DrawFn) -> dict[str, object]:
    size = draw(st.integers(1, 12))
    per_node = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    return {
        "sizes": draw(per_node),
        "used": draw(st.lists(st.integers(0, 900), min_size=size, max_size=size)) if draw(st.booleans()) else None,
        "held": draw(per_node) if draw(st.booleans()) else None,
        "room": draw(st.lists(st.integers(0, 40), min_size=size, max_size=size)),
        "cpu": draw(st.sampled_from((0, 10, 100, 333))),
        "memory": draw(st.sampled_from((0, 16, 256, 700))),
        "count": draw(st.integers(1, 60)),
        "wanted": draw(st.integers(1, 120)),
        "affinity": draw(st.booleans()),
        "algorithm": draw(st.sampled_from(("binpack", "binpack", "spread"))),
    }


def build(case: dict[str, object]) -> tuple[Ranking, Fleet, Demand]:
    sizes = [SIZES[i] for i in case["sizes"]]  # type: ignore[attr-defined]
    world = World(*(make_node(n, cpu_mhz=c, memory_mb=m, node_class=f"c{n % 3}") for n, (c, m) in enumerate(sizes)))
    affinities = (Affinity(l_target="${node.class}", operand="=", r_target="c1", weight=60),)
    job = make_job(count=case["count"], affinities=affinities if case["affinity"] else ())  # type: ignore[arg-type]
    demand = Demand(case["cpu"], case["memory"])  # type: ignore[arg-type]
    fleet = Fleet(world.store)
    if case["used"]:
        fleet.left[0] -= np.array(case["used"])
    ranking = Ranking(fleet, job, job.task_groups[0], demand, str(case["algorithm"]))
    if case["held"]:
        for number, held in enumerate(case["held"]):  # type: ignore[arg-type]
            ranking.add(number, held)
    return ranking, fleet, demand


@given(clusters())
@settings(max_examples=400, deadline=None)
def test_packing_equals_one_at_a_time(case: dict[str, object]) -> None:
    room, wanted = np.array(case["room"]), int(case["wanted"])  # type: ignore[call-overload]
    ranking, _, _ = build(case)
    at_once = pack(ranking.ahead, room, wanted)
    ranking, fleet, demand = build(case)
    expected = one_at_a_time(ranking, fleet, demand, room, wanted)
    assert at_once.tolist() == expected.tolist()


@pytest.mark.parametrize(("wanted", "expected"), [(1, [1, 0, 0]), (3, [1, 1, 1]), (4, [2, 1, 1]), (30, [10, 10, 10])])
def test_ties_go_to_the_lowest_number(wanted: int, expected: list[int]) -> None:
    world = World(*(make_node(n) for n in range(3)))
    job = make_job(count=30)
    ranking = Ranking(Fleet(world.store), job, job.task_groups[0], Demand(100, 100), "binpack")
    got = pack(ranking.ahead, np.array([10, 10, 10]), wanted).tolist()
    if wanted == 4:
        assert sum(got) == 4
        assert got[0] >= got[1] >= got[2] >= 1
    else:
        assert got == expected


def test_packing_goes_deep_into_large_nodes() -> None:
    world = World(make_node(0, cpu_mhz=10**6, memory_mb=10**6), make_node(1, cpu_mhz=10**6, memory_mb=10**6))
    decision = world.deploy(
        make_job(group=make_group(count=3000, task=make_task(cpu=100, memory_mb=100), ephemeral_disk=None))
    )
    assert decision.placed == 3000


def test_the_score_of_a_node_is_best_fit() -> None:
    world = World(make_node(0, cpu_mhz=2000, memory_mb=2000))
    decision = world.deploy(make_job(group=make_group(task=make_task(cpu=1000, memory_mb=500))))
    metrics = decision.plan.places[0].metrics
    assert metrics is not None
    [meta] = metrics.score_meta_data
    assert meta.scores["binpack"] == pytest.approx((20 - (10**0.5 + 10**0.75)) / 18)
    assert meta.norm_score == meta.scores["binpack"]
