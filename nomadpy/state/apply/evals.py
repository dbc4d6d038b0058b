"""Storing evaluations, and the job status that follows from evaluations and allocations."""

from __future__ import annotations

from collections.abc import Iterable

from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, JobChildrenSummary
from nomadpy.state.store import StateStore


def put_evals(store: StateStore, index: int, now_ns: int, evals: Iterable[Evaluation]) -> None:
    """Stores evaluations, new or changed, and what follows for their jobs' summaries and statuses."""
    for evaluation in evals:
        old = store.evals.get(evaluation.id)
        if old is not None and _key(old) != _key(evaluation):
            drop_eval(store, old.id)
        store.evals[evaluation.id] = evaluation.replace(
            create_index=old.create_index if old else index,
            create_time_ns=old.create_time_ns if old else now_ns,
            modify_index=index,
            modify_time_ns=now_ns,
        )
        key = _key(evaluation)
        known = store.evals_by_job.setdefault(key, {})
        was_open = old is not None and evaluation.id in known and not old.terminal()
        known[evaluation.id] = None
        _count_open(store, key, int(not evaluation.terminal()) - int(was_open))
        store.touch("evals")
        store.changed_evals.append(evaluation.id)
        set_queued(store, index, evaluation)
        refresh_status(store, index, key)


def drop_eval(store: StateStore, eval_id: str) -> None:
    """Forgets an evaluation."""
    evaluation = store.evals.pop(eval_id)
    key = _key(evaluation)
    known = store.evals_by_job[key]
    del known[eval_id]
    if not known:
        del store.evals_by_job[key]
    if not evaluation.terminal():
        _count_open(store, key, -1)


def _key(evaluation: Evaluation) -> tuple[str, str]:
    return evaluation.namespace, evaluation.job_id


def _count_open(store: StateStore, key: tuple[str, str], by: int) -> None:
    """Notes that so many more evaluations of a job are not terminal."""
    count = store.open_evals.get(key, 0) + by
    if count:
        store.open_evals[key] = count
    else:
        store.open_evals.pop(key, None)


def set_queued(store: StateStore, index: int, evaluation: Evaluation) -> None:
    """Notes in the job's summary how many allocations its evaluation left waiting for room."""
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
    if store.allocs.n_live(job.key) or any(deployment.active() for deployment in store.job_deployments(*job.key)):
        return "running"
    if job.key in store.open_evals:
        return "pending"
    return "dead" if job.stop or job.key in store.evals_by_job or job.status == "dead" else "pending"


def remove_job(store: StateStore, index: int, key: tuple[str, str]) -> None:
    """Forgets a job. Its parent goes on counting it, among the dead."""
    job = store.jobs.current.get(key)
    store.jobs.remove(key)
    if job is not None and job.parent_id and job.status != "dead":
        _move_child(store, index, job, "dead")


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
