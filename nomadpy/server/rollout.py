"""Rolling updates without a deployment, as of system jobs: whether one is under way, and what stands in its way.

A new version replaces ``max_parallel`` allocations at a time; the next wave may go once the last one runs. Each report
of a node that could matter brings an evaluation (``node_service``), and the scheduler counts what is in flight.
"""

from __future__ import annotations

from nomadpy.model.alloc import FAILED, RUN
from nomadpy.model.ids import short
from nomadpy.model.job import Job
from nomadpy.scheduler import Decision
from nomadpy.state.store import StateStore


def is_rolling(store: StateStore, job: Job) -> bool:
    """Whether live allocations of another version than the current one are left, and no deployment of the current one
    sees to them."""
    deployment = store.latest_deployment(*job.key)
    if deployment is not None and (deployment.job_version, deployment.job_create_index) == (
        job.version,
        job.create_index,
    ):
        return False
    return bool(store.allocs.live_versions(job.key) - {job.job_modify_index})


def stuck_because(store: StateStore, decision: Decision) -> str:
    """Why a rolling update does not go on by itself, "" when it does: an allocation of the new version failed, holds
    its place, and will not be placed anew."""
    plan = decision.plan
    job = store.job(plan.namespace, plan.job_id)
    if job is None or job.stop or plan.stops or plan.places or decision.created or not is_rolling(store, job):
        return ""
    for row in store.allocs.rows_by_job(job.key):
        made_from = store.allocs.shape_of(row).job
        if made_from.job_modify_index != job.job_modify_index:
            continue
        alloc = store.alloc_stub_at(row)
        if alloc.client_status == FAILED and alloc.desired_status == RUN and not alloc.next_allocation:
            follow_up = store.evals.get(alloc.followup_eval_id)
            if follow_up is None or follow_up.terminal():
                return f"update stopped: allocation {short(alloc.id)} failed and will not be rescheduled"
    return ""
