"""Plans of new jobs travel as columns; that must lead to what plans of their own lead to."""

from __future__ import annotations

import struct
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from cluster_builders import make_group, make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.job import Job, UpdateStrategy
from nomadpy.scheduler import Decision, Fleet, Newcomer, Together, decide, schedule
from nomadpy.state import commands as c
from nomadpy.state.apply import plans
from nomadpy.state.snapshot import freeze
from nomadpy.state.store import StateStore

JOBS = 6


@st.composite
def job_lists(draw: st.DrawFn) -> list[Job]:
    jobs = []
    for number in range(draw(st.integers(1, JOBS))):
        update = draw(st.sampled_from((None, UpdateStrategy(max_parallel=1), UpdateStrategy(progress_deadline_ns=0))))
        group = make_group(count=draw(st.integers(1, 4)), cpu=draw(st.sampled_from((100, 600))), update=update)
        made = make_job(f"job-{number}", type=draw(st.sampled_from(("service", "batch")))).replace(task_groups=(group,))
        jobs.append(made.replace(all_at_once=draw(st.booleans()), priority=draw(st.sampled_from((50, 70)))))
    return jobs


def decided(world: World, jobs: list[Job]) -> list[Decision | Newcomer]:
    for job in jobs:
        world.register(job, with_eval=True)
    fleet, out = Fleet(world.store), []
    for evaluation in sorted(world.store.evals.values(), key=lambda e: e.job_id):
        if evaluation.terminal():
            continue
        outcome = decide(world.store, evaluation, now_ns=world.now_ns, rng=world.rng, fleet=fleet)
        if isinstance(outcome, Newcomer):
            fleet.keep(outcome.choice)
        else:
            fleet.commit(outcome)
        out.append(outcome)
    return out


def command(world: World, outcomes: list[Decision | Newcomer]) -> c.ApplyDecisions:
    together, others = Together(), []
    for outcome in outcomes:
        if isinstance(outcome, Newcomer):
            together.add(outcome)
        else:
            others.append(outcome)
    return c.ApplyDecisions(
        plans=tuple(each.plan for each in others),
        evals=tuple(each for other in others for each in (other.evaluation, *other.created)),
        newcomers=together.columns(),
        view_index=world.store.index,
    )


def carried_out(jobs: list[Job], happens: str) -> tuple[list[int], StateStore]:
    """``happens``: what comes between the decision and its being carried out."""
    world = World(3, cpu=2000)
    made = command(world, decided(world, jobs))
    if happens == "lost node":
        world.set_node(0, "down")
    elif happens == "new version":
        world.register(jobs[0].replace(task_groups=(jobs[0].task_groups[0].replace(count=9),)))
    elif happens == "purge":
        world.apply(c.DeregisterJob(job_id="job-0", purge=True))
    elif happens == "again":
        world.apply(c.DeregisterJob(job_id="job-0", purge=True))
        world.register(jobs[0])
    elif happens == "cancelled":
        first = min(world.store.evals.values(), key=lambda e: e.job_id)
        world.apply(c.UpdateEvals(evals=(first.replace(status="canceled"),)))
    answer = world.apply(made)
    check_store(world.store)
    return answer, world.store


HAPPENS = ("nothing", "lost node", "new version", "purge", "again", "cancelled")


@given(job_lists(), st.sampled_from(HAPPENS))
@settings(max_examples=200, deadline=None)
def test_together_is_one_after_another(jobs: list[Job], happens: str) -> None:
    together = carried_out(jobs, happens)
    with patch.object(plans, "place_newcomers", lambda *_: False), patch.object(plans, "place_fresh", lambda *_: False):
        alone = carried_out(jobs, happens)
    assert together[0] == alone[0]
    assert fingerprint(together[1]) == fingerprint(alone[1])
    assert freeze(together[1])() == freeze(alone[1])()


def by_schedule(jobs: list[Job]) -> StateStore:
    """The long way: decisions with plans and evaluations that are spelled out by the scheduler."""
    world = World(3, cpu=2000)
    for job in jobs:
        world.register(job, with_eval=True)
    fleet, made = Fleet(world.store), []
    for evaluation in sorted(world.store.evals.values(), key=lambda e: e.job_id):
        decision = schedule(world.store, evaluation, now_ns=world.now_ns, rng=world.rng, fleet=fleet)
        fleet.commit(decision)
        made.append(decision)
    evals = tuple(each for one in made for each in (one.evaluation, *one.created))
    world.apply(c.ApplyPlans(plans=tuple(one.plan for one in made), evals=evals, view_index=world.store.index))
    return world.store


@given(job_lists())
@settings(max_examples=200, deadline=None)
def test_it_comes_to_what_the_long_way_comes_to(jobs: list[Job]) -> None:
    world = World(3, cpu=2000)
    outcomes = decided(world, jobs)
    plain = [isinstance(outcome, Newcomer) for outcome in outcomes]
    answers = world.apply(command(world, outcomes))
    assert not any(answers)
    if plain == sorted(plain):  # newcomers come last, as in the command; rows follow the order
        assert fingerprint(world.store) == fingerprint(by_schedule(jobs))


def test_most_are_carried_out_together() -> None:
    jobs = [make_job(f"job-{number}", count=1 + number % 3) for number in range(5)]
    with patch.object(plans, "_apply_plan", side_effect=AssertionError):
        answers, store = carried_out(jobs, "nothing")
    assert answers == [0] * 5
    assert store.allocs.live == 1 + 2 + 3 + 1 + 2
    assert {evaluation.status for evaluation in store.evals.values()} == {"complete"}


@pytest.mark.parametrize(
    "damage",
    [
        {"job_versions": b""},
        {"counts": b"\1\0\0\0"},
        {"counts": struct.pack("<2I", 0, 3)},
        {"nodes": b"\0\0\0"},
        {"nodes": b"\0\0\0\0"},
        {"nodes": struct.pack("<3I", 0, 1, 2**32 - 1)},
        {"state_of": struct.pack("<2I", 0, 9)},
        {"deployment_ids": ("a", "b", "c")},
        {"metric_of": struct.pack("<2I", 0, 7)},
        {"told": b"\1"},
        {"told_nodes": b""},
        {"told_scores": b"\0"},
        {"eval_ids": ("nobody", "knows")},
    ],
)
def test_columns_that_do_not_belong_together_change_nothing(damage: dict[str, Any]) -> None:
    world = World(3, cpu=2000)
    made = command(world, decided(world, [make_job("job-0", count=1), make_job("job-1", count=2)]))
    newcomers = msgspec.structs.replace(made.newcomers, **damage)
    answer = world.apply(msgspec.structs.replace(made, newcomers=newcomers))
    assert len(answer) == 2
    assert any(answer)
    placed = 3 - sum(answer)
    assert world.store.allocs.live <= placed
    check_store(world.store)


def test_what_was_decided_before_a_restore_is_refused() -> None:
    world = World(3, cpu=2000)
    made = command(world, decided(world, [make_job("job-0", count=1), make_job("job-1", count=2)]))
    world.store.restored_at = world.store.index + 1
    assert world.apply(made) == [1, 1]
    assert world.store.allocs.live == 0
