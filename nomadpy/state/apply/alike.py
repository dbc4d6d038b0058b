"""Registrations of one job under many ids.

Most of them are of ids that the state knows nothing about. Those need no look at what was there before, so all of them
are made from one record and entered into the tables at once; ``jobs.register``, one by one, would lead to the same (a
test compares). Whatever is known in any way goes that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat, zip_longest
from typing import Any

from msgspec.structs import replace

from nomadpy.model.job import Job, JobSummary, TaskGroupSummary
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

Key = tuple[str, str]


def register_new(store: StateStore, index: int, now_ns: int, alike: c.AlikeJobs) -> dict[str, Any] | None:
    """Registers all of them as the first versions of new jobs and answers what is to be said of each; None, with
    nothing changed, when they are not all new, or some of them could be refused."""
    job, ids, eval_ids = alike.job, alike.ids, alike.eval_ids
    if not _is_simple(store, alike):
        return None
    namespace = job.namespace
    keys = [(namespace, job_id) for job_id in ids]
    if not _are_unknown(store, keys, eval_ids):
        return None
    first = job.replace(
        version=0,
        create_index=index,
        modify_index=index,
        job_modify_index=index,
        submit_time_ns=job.submit_time_ns or now_ns,
        status="pending",
        status_description="",
        stable=False,
        version_tag=None,
    )
    _put_jobs(store, keys, [replace(first, id=i, name=i) if alike.named else replace(first, id=i) for i in ids], index)
    _put_evals(store, keys, alike, index, now_ns)
    store.touch("jobs", "job_version", "job_summary", "evals")
    return {"job_modify_index": index, "version": 0}


def spelled_out(now_ns: int, alike: c.AlikeJobs) -> Iterable[c.RegisterJob]:
    """The single registrations that jobs alike stand for."""
    for job_id, eval_id in zip_longest(alike.ids, alike.eval_ids[: len(alike.ids)], fillvalue=""):
        job = replace(alike.job, id=job_id, name=job_id) if alike.named else replace(alike.job, id=job_id)
        evals = () if alike.eval is None else (replace(alike.eval, id=eval_id, job_id=job_id),)
        yield c.RegisterJob(now_ns=now_ns, job=job, evals=evals)


def _is_simple(store: StateStore, alike: c.AlikeJobs) -> bool:
    """Whether every one of the jobs is an ordinary one that nothing is against, with an open evaluation."""
    job, evaluation = alike.job, alike.eval
    if evaluation is None or not alike.ids or len(alike.ids) != len(alike.eval_ids):
        return False
    if evaluation.namespace != job.namespace or evaluation.terminal() or evaluation.queued_allocations:
        return False
    if job.type not in ("service", "batch") or job.is_periodic() or job.is_parameterized() or job.parent_id:
        return False
    return job.namespace in store.namespaces and job.node_pool in store.node_pools


def _are_unknown(store: StateStore, keys: Sequence[Key], eval_ids: Sequence[str]) -> bool:
    """Whether no job or evaluation occurs twice, and none is known, not even by what a purged job left behind."""
    these, new_evals = set(keys), set(eval_ids)
    if len(these) != len(keys) or len(new_evals) != len(eval_ids) or not store.evals.keys().isdisjoint(new_evals):
        return False
    # Whoever is in another table by job is in one of these, too.
    tables = (store.jobs.current, store.jobs.children, store.evals_by_job, store.deployments_by_job)
    return all(table.keys().isdisjoint(these) for table in tables) and store.allocs.have_none_of(these)


def _put_jobs(store: StateStore, keys: list[Key], jobs: list[Job], index: int) -> None:
    tables = store.jobs
    tables.current.update(zip(keys, jobs, strict=True))
    tables.versions.update(zip(keys, zip(jobs, strict=True), strict=True))
    empty = JobSummary(
        namespace=jobs[0].namespace,
        summary={group.name: TaskGroupSummary() for group in jobs[0].task_groups},
        create_index=index,
        modify_index=index,
    )
    tables.summaries.update((key, replace(empty, job_id=key[1])) for key in keys)


def _put_evals(store: StateStore, keys: list[Key], alike: c.AlikeJobs, index: int, now_ns: int) -> None:
    assert alike.eval is not None
    made = alike.eval.replace(
        job_modify_index=index, create_index=index, create_time_ns=now_ns, modify_index=index, modify_time_ns=now_ns
    )
    eval_ids = alike.eval_ids
    store.evals.update(
        (eval_id, replace(made, id=eval_id, job_id=job_id)) for job_id, eval_id in zip(alike.ids, eval_ids, strict=True)
    )
    store.evals_by_job.update((key, {eval_id: None}) for key, eval_id in zip(keys, eval_ids, strict=True))
    store.open_evals.update(zip(keys, repeat(1)))
    store.changed_evals.extend(eval_ids)
