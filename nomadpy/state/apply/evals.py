"""Storing evaluations, and the job status that follows from evaluations and allocations."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, JobChildrenSummary
from nomadpy.state.store import StateStore


def put_evals(store: StateStore, index: int, now_ns: int, evals: Iterable[Evaluation]) -> None:
    """Stores evaluations, new or changed, and what follows for their jobs' summaries and statuses."""
    for evaluation in evals:
        old = store.evals.get(evaluation.id)
        store.evals[evaluation.id] = evaluation.replace(
            create_index=old.create_index if old else index,
            create_time_ns=old.create_time_ns if old else now_ns,
            modify_index=index,
            modify_time_ns=now_ns,
        )
        key = (evaluation.namespace, evaluation.job_id)
        store.evals_by_job.setdefault(key, {})[evaluation.id] = None
        store.touch("evals")
        store.changed_evals.append(evaluation.id)
        _set_queued(store, index, evaluation)
        refresh_status(store, index, key)


def _set_queued(store: StateStore, index: int, evaluation: Evaluation) -> None:
    summary = store.jobs.summaries.get((evaluation.namespace, evaluation.job_id))
    if summary is None or not evaluation.queued_allocations:
        return
    lines = dict(summary.summary)
    for group, queued in evaluation.queued_allocations.items():
        if group in lines:
            lines[group] = lines[group].replace(queued=queued)
    if lines != summary.summary:
        store.jobs.summaries[summary.namespace, summary.job_id] = summary.replace(summary=lines, modify_index=index)
        store.touch("job_summary")


def refresh_status(store: StateStore, index: int, key: tuple[str, str]) -> None:
    """Recomputes a job's status after its evaluations, allocations or deployments changed."""
    job = store.jobs.current.get(key)
    if job is None:
        return
    status = _status(store, job)
    if status == job.status:
        return
    store.jobs.rewrite(job.replace(status=status, modify_index=index))
    store.touch("jobs")
    if job.parent_id:
        _move_child(store, index, job, status)


def _status(store: StateStore, job: Job) -> str:
    standing = job.type == "system" or job.is_periodic() or job.is_parameterized()
    if standing:
        return "dead" if job.stop else "running"
    if _has_live_alloc(store, job.key) or any(deployment.active() for deployment in store.job_deployments(*job.key)):
        return "running"
    evals = store.evals_by_job.get(job.key, {})
    if any(not store.evals[eval_id].terminal() for eval_id in evals):
        return "pending"
    return "dead" if job.stop or evals or job.status == "dead" else "pending"


def _has_live_alloc(store: StateStore, key: tuple[str, str]) -> bool:
    rows = np.asarray(store.allocs.rows_by_job(key), dtype=np.uint32)
    if not len(rows):
        return False
    return bool(np.any((store.allocs.desired[rows] == 0) & ~store.allocs.over(rows)))


def _move_child(store: StateStore, index: int, child: Job, status: str) -> None:
    parent = (child.namespace, child.parent_id)
    summary = store.jobs.summaries.get(parent)
    if summary is None:
        return
    counts = {"pending": summary.children.pending, "running": summary.children.running, "dead": summary.children.dead}
    if child.status in counts:
        counts[child.status] = max(0, counts[child.status] - 1)
    if status in counts:
        counts[status] += 1
    store.jobs.summaries[parent] = summary.replace(children=JobChildrenSummary(**counts), modify_index=index)
    store.touch("job_summary")
