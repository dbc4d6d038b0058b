"""Jobs alike that are new are registered together; that must lead to what one after another leads to."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from cluster_builders import make_group, make_job
from hypothesis import given, settings
from hypothesis import strategies as st
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, ParameterizedJobConfig, PeriodicConfig
from nomadpy.state import commands as c
from nomadpy.state.apply import jobs
from nomadpy.state.store import StateStore

IDS = tuple(f"job-{number}" for number in range(7))
KINDS: dict[str, dict[str, Any]] = {
    "service": {},
    "batch": {"type": "batch"},
    "system": {"type": "system"},
    "two groups": {"task_groups": (make_group(name="a"), make_group(name="b", count=2))},
    "child": {"parent_id": "job-0"},
    "timed": {"type": "batch", "periodic": PeriodicConfig(enabled=True, spec="@daily")},
    "parameterized": {"type": "batch", "parameterized_job": ParameterizedJobConfig()},
    "nowhere": {"namespace": "nowhere"},
    "no pool": {"node_pool": "none"},
    "sent earlier": {"submit_time_ns": 17, "stop": True},
}
Steps = list[tuple[str, Any]]


def template(kind: str) -> Job:
    return make_job("any").replace(name="any", meta={"kind": kind}, **KINDS[kind])


@st.composite
def histories(draw: st.DrawFn) -> Steps:
    """Registrations of jobs alike between what else may happen to jobs of the same ids."""
    alike = st.tuples(
        st.sampled_from(sorted(KINDS)), st.lists(st.sampled_from(IDS), max_size=5), st.booleans(), st.booleans()
    )
    step = st.one_of(
        st.tuples(st.just("alike"), st.lists(alike, min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["stop", "purge", "place", "register"]), st.sampled_from(IDS)),
    )
    return draw(st.lists(step, min_size=1, max_size=7))


def carry_out(steps: Steps) -> tuple[list[Any], StateStore]:
    world = World(2)
    answers = []
    for number, (what, about) in enumerate(steps):
        if what == "alike":
            groups = [_alike(number * 10 + at, *each) for at, each in enumerate(about)]
            answers.append(world.apply(c.RegisterJobs(alike=tuple(groups))))
            answers.append((sorted(world.store.touched), list(world.store.changed_evals)))
        elif what == "register":
            job = make_job(about).replace(meta={"number": str(number)})
            world.tell(c.RegisterJob(job=job, evals=(world.evaluation(about),)))
        elif what == "place":
            if world.store.job("default", about) is not None:
                world.run(about)
        else:
            world.apply(c.DeregisterJob(job_id=about, purge=what == "purge"))
    check_store(world.store)
    assert fingerprint(world.replayed()) == fingerprint(world.store)
    return answers, world.store


def _alike(number: int, kind: str, ids: list[str], named: bool, with_evals: bool) -> c.AlikeJobs:
    job = template(kind)
    if job.parent_id:
        ids = [f"{job_id}/child" for job_id in ids]  # a job does not change its parent
    evaluation = Evaluation(
        id="any", namespace=job.namespace, priority=50, type=job.type, triggered_by="job-register", job_id="any",
        status="pending",
    )  # fmt: skip
    eval_ids = tuple(f"eval-{number}-{at}" for at in range(len(ids))) if with_evals else ()
    return c.AlikeJobs(job=job, ids=tuple(ids), named=named, eval=evaluation if with_evals else None, eval_ids=eval_ids)


def orders(store: StateStore) -> list[list[Any]]:
    tables = store.jobs
    return [list(table) for table in (tables.current, tables.versions, tables.summaries, store.evals, store.open_evals)]


@given(histories())
@settings(max_examples=60, deadline=None)
def test_together_is_one_after_another(steps: Steps) -> None:
    together = carry_out(steps)
    with patch.object(jobs, "register_new", lambda *_: None):
        alone = carry_out(steps)
    assert together[0] == alone[0]
    assert fingerprint(together[1]) == fingerprint(alone[1])
    assert orders(together[1]) == orders(alone[1])


@pytest.mark.parametrize("kind", ["service", "batch", "two groups", "sent earlier"])
def test_new_jobs_are_registered_together(kind: str) -> None:
    world = World()
    world.register(make_job("another"), with_eval=True)
    with patch.object(jobs, "register", side_effect=AssertionError):
        world.apply(c.RegisterJobs(alike=(_alike(0, kind, list(IDS[:4]), True, True),)))
    assert sorted(key[1] for key in world.store.jobs.current) == ["another", *IDS[:4]]
    assert all(world.store.evals[f"eval-0-{at}"].job_id == IDS[at] for at in range(4))
