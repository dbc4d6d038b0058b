"""A job without allocations takes a short cut; it must lead where the reconciler leads."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scheduler_world import EPOCH_NS, make_group, make_job

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, UpdateStrategy
from nomadpy.scheduler.fresh import fresh_changes
from nomadpy.scheduler.reconcile import GroupChanges, Reconciler
from nomadpy.scheduler.rollout import Rollout

STRATEGIES = st.none() | st.builds(
    UpdateStrategy,
    max_parallel=st.integers(0, 3),
    canary=st.integers(0, 2),
    auto_revert=st.booleans(),
    progress_deadline_ns=st.sampled_from([0, 10]),
)
GROUPS = st.lists(st.tuples(st.integers(0, 5), STRATEGIES), min_size=1, max_size=4)


def told(changes: list[GroupChanges]) -> list[dict[str, Any]]:
    fields = [{field.name: getattr(each, field.name) for field in dataclasses.fields(each)} for each in changes]
    return [{**each, "fresh": each["fresh"].tolist()} for each in fields]


def outcome(rollout: Rollout) -> tuple[Any, ...]:
    rollout.close(eval_priority=50, now_ns=EPOCH_NS, rng=random.Random(1))
    return rollout.opened, rollout.updates, rollout.deployment_id


@given(GROUPS, st.sampled_from(["service", "batch"]))
def test_the_short_cut_leads_where_the_reconciler_leads(
    groups: list[tuple[int, UpdateStrategy | None]], kind: str
) -> None:
    made = tuple(make_group(name=f"g{at}", count=count, update=update) for at, (count, update) in enumerate(groups))
    job: Job = make_job(type=kind).replace(task_groups=made)
    short, long = (Rollout(job, None, paced=kind != "batch") for _ in range(2))
    reconciler = Reconciler(
        job,
        Evaluation(id="e", job_id=job.id, namespace=job.namespace),
        batch=kind == "batch",
        now_ns=EPOCH_NS,
        node_of=lambda node_id: None,
        update_kind=lambda alloc: "ignore",
        rollout=long,
    )
    assert told(fresh_changes(job, short)) == told(reconciler.reconcile([]))
    assert outcome(short) == outcome(long)
