"""Rows of new jobs, decided among front runners: as one at a time by the definition, and equal to the long way."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import greedy
import numpy as np
import pytest
from greedy import Place, Want
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import EPOCH_NS, World, make_group, make_job, make_node, make_task

from nomadpy.model.job import Job, UpdateStrategy
from nomadpy.model.resources import Constraint
from nomadpy.scheduler import Decision, Fleet, cells, eligibility, front, grains, newcomers, schedule
from nomadpy.state import commands as c

SIZES = ((4000, 8192), (4000, 4096), (16000, 8192), (1000, 1000))
RANDOM = st.integers(0, 2**64).map(random.Random)


@dataclass
class Row:
    """Jobs in the order in which they are decided, on a few nodes. ``shunned``: the zone that a job stays out of."""

    algorithm: str
    places: list[Place]
    jobs: list[tuple[Job, Want, str]]
    dropped: set[int] = field(default_factory=set)  # decisions that nobody carries out
    applied: set[int] = field(default_factory=set)  # after these the state knows everything so far

    def world(self) -> World:
        world = World(
            *(
                make_node(
                    number,
                    cpu_mhz=place.cpu,
                    memory_mb=place.memory,
                    meta=place.values,
                    node_max_allocs=place.slots_left if place.slots_left < 10**6 else 0,
                )
                for number, place in enumerate(self.places)
            )
        )
        world.configure(scheduler_algorithm=self.algorithm)
        for job, _, _ in self.jobs:
            world.register(job)
        return world

    def got(self) -> list[list[int]]:
        return [nodes_of(decision) for decision in self.decide(self.world())]

    def decide(self, world: World) -> list[Decision]:
        fleet, out, unapplied = Fleet(world.store), [], []
        for at, (job, _, _) in enumerate(self.jobs):
            evaluation = world.evaluation(job.id)
            decision = schedule(world.store, evaluation, now_ns=EPOCH_NS, rng=world.rng, fleet=fleet)
            out.append(decision)
            if at not in self.dropped:
                fleet.commit(decision)
                unapplied.append(decision.plan)
            if at in self.applied:
                assert not any(world.apply(c.ApplyPlans(plans=tuple(unapplied), now_ns=EPOCH_NS)))
                fleet, unapplied = Fleet(world.store, fleet), []
        return out

    def expected(self) -> list[list[int]]:
        places = [Place(p.cpu, p.memory, p.cpu, p.memory, p.slots_left, values=p.values) for p in self.places]
        out = []
        for at, (_, want, shunned) in enumerate(self.jobs):
            for place in places:
                place.eligible, place.held = place.values["zone"] != shunned, 0
            before = [(place.cpu_left, place.memory_left, place.slots_left) for place in places]
            out.append(greedy.place(places, want, want.count))
            if at in self.dropped:
                for place, left in zip(places, before, strict=True):
                    place.cpu_left, place.memory_left, place.slots_left = left
        return out


def nodes_of(decision: Decision) -> list[int]:
    return [int(n) for block in decision.plan.places for n in np.frombuffer(block.nodes, dtype="<u4")]


def row_of(rng: random.Random) -> Row:
    places = []
    for _ in range(rng.randint(1, 14)):
        cpu, memory = rng.choice(SIZES)
        place = Place(cpu, memory, cpu, memory, values={"zone": f"z{rng.randint(0, 2)}"})
        if rng.random() < 0.1:
            place.slots_left = rng.randint(1, 6)
        places.append(place)
    algorithm = rng.choice(("binpack", "binpack", "spread", "balanced"))
    asks = [(rng.choice((10, 100, 333, 900)), rng.choice((16, 100, 256, 700))) for _ in range(3)]
    kinds = []
    for _ in range(4):
        cpu, memory = rng.choice(asks)
        count, shunned = rng.choice((1, 1, 2, 3, 5, 9, 20)), rng.choice(("", "", "z0", "z1"))
        constraints = (Constraint(l_target="${meta.zone}", operand="!=", r_target=shunned),) if shunned else ()
        update = rng.choice((None, UpdateStrategy(max_parallel=1)))
        task = make_task(cpu=cpu, memory_mb=memory)
        group = make_group(count=count, task=task, ephemeral_disk=None, update=update)
        job = make_job(group=group, constraints=constraints, type=rng.choice(("service", "batch")))
        kinds.append((job, Want(cpu, memory, count, algorithm), shunned))
    jobs = []
    for at in range(rng.randint(2, 14)):
        job, want, shunned = rng.choice(kinds)
        jobs.append((job.replace(id=f"job-{at}", name=f"job-{at}"), want, shunned))
    every = range(len(jobs))
    return Row(
        algorithm,
        places,
        jobs,
        dropped={at for at in every if rng.random() < 0.1},
        applied={at for at in every if rng.random() < 0.2},
    )


def narrow(rng: random.Random) -> Any:
    """Front rows as short as large clusters would make them, so that they run out."""
    few = rng.choice((1, 2, 3, 192))
    return mock.patch.multiple(
        cells, _FRONT=few, _FRONT_MOST=rng.choice((few, 2 * few)), _CELL_MAX=rng.choice((1, 3, 256)), _CAUGHT_UP=few
    )


@given(RANDOM)
@settings(max_examples=1500, deadline=None)
def test_a_row_of_new_jobs_goes_where_one_at_a_time_would_go(rng: random.Random) -> None:
    row = row_of(rng)
    with narrow(rng), mock.patch.object(eligibility, "_FEW_OF", 10**6):
        assert row.got() == row.expected()


@given(RANDOM)
@settings(max_examples=300, deadline=None)
def test_the_decisions_are_those_of_the_long_way(rng: random.Random) -> None:
    row = row_of(rng)
    with mock.patch.object(eligibility, "_FEW_OF", 10**6):
        short = row.decide(row.world())
    with mock.patch.object(newcomers, "decide", return_value=None):
        long = row.decide(row.world())
    for one, other in zip(short, long, strict=True):
        assert (one.plan, one.evaluation, one.created) == (other.plan, other.evaluation, other.created)
        assert (one.desired, one.placed, one.evicted) == (other.desired, other.placed, other.evicted)


def test_most_go_the_short_way() -> None:
    taken = []
    decide = newcomers.decide

    def counting(*args: Any, **kwargs: Any) -> Decision | None:
        taken.append(decide(*args, **kwargs))
        return taken[-1]

    with mock.patch.object(newcomers, "decide", counting):
        for seed in range(50):
            row_of(random.Random(seed)).got()
    assert sum(each is not None for each in taken) > len(taken) / 2


# --- mistakes ---------------------------------------------------------------------------------------------------------

right_grow, right_crowdings = front.Front._grow, front._crowdings


def grown_without_memory(self: Any, run: Any, number: int) -> None:
    memory = run.memory
    right_grow(self, run, number)
    run.memory = memory


@pytest.mark.parametrize(
    ("where", "name", "mistake"),
    [
        (front, "fit_of", lambda *a: grains.fit_of(*a) // 2**20),
        (front.Front, "_grow", grown_without_memory),
        (front, "_crowdings", lambda desired: right_crowdings(desired)[1:] + (0,)),
        (front.Front, "_move", lambda self, number, grains: None),
        (front.Front, "catch_up", lambda self, numbers, free: None),
        (eligibility.Eligibility, "mask_bytes", lambda self: b"\1" * len(self.mask)),
        (Fleet, "_book", lambda self: self._booked.clear()),
    ],
)
def test_a_mistake_among_front_runners_is_noticed(where: Any, name: str, mistake: Any) -> None:
    def differs(seed: int) -> bool:
        row = row_of(random.Random(seed))
        try:
            return row.got() != row.expected()
        except (AssertionError, ValueError, KeyError, IndexError):
            return True  # the applier refuses it, or the front does not find its own nodes

    with mock.patch.object(where, name, mistake), mock.patch.object(eligibility, "_FEW_OF", 10**6):
        assert any(differs(seed) for seed in range(300))
