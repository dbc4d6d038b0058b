"""Commands about jobs."""

from __future__ import annotations

from collections import Counter
from itertools import repeat
from typing import Any

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.errors import Conflict, Invalid, NotFound, Refused
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, JobChildrenSummary, TaskGroupSummary, UpdateStrategy
from nomadpy.state import commands as c
from nomadpy.state.allocs import CLIENT
from nomadpy.state.apply.alike import register_new, spelled_out
from nomadpy.state.apply.evals import put_evals, refresh_status, remove_job
from nomadpy.state.jobs import COUNTER
from nomadpy.state.store import StateStore


def register(store: StateStore, index: int, command: c.RegisterJob) -> dict[str, Any]:
    """Stores a job as a new version unless nothing about it changed; returns its modify index and version."""
    job, old = command.job, store.jobs.current.get(command.job.key)
    _check_enforced_index(command.enforce_index, old)
    _check_place(store, job)
    if old is not None:
        _check_stays_of_kind(old, job)
        job = _preserve(old, job, command)
    if old is not None and _specification(old) == _specification(job):
        stored = old
    else:
        stored = _put_new_version(store, index, command, job, old)
    if command.scaling_event is not None:
        event = command.scaling_event.replace(create_index=index)
        store.jobs.add_scaling_event(job.key, command.scaling_group, event)
        store.touch("scaling_events")
    _put_job_evals(store, index, command.now_ns, stored, command.evals)
    if not any((each.namespace, each.job_id) == job.key for each in command.evals):
        refresh_status(store, index, job.key)
    return {"job_modify_index": stored.job_modify_index, "version": stored.version}


def register_many(store: StateStore, index: int, command: c.RegisterJobs) -> list[dict[str, Any]]:
    """Registers each job on its own; a refused one leaves the others alone and reports its error."""
    results: list[dict[str, Any]] = []
    for one in command.jobs:
        results.append(_registered(store, index, one))
    for each in command.alike:
        new = register_new(store, index, command.now_ns, each)
        if new is not None:
            results += repeat(new, len(each.ids))
        else:
            results += [_registered(store, index, one) for one in spelled_out(command.now_ns, each)]
    return results


def _registered(store: StateStore, index: int, command: c.RegisterJob) -> dict[str, Any]:
    try:
        return register(store, index, command)
    except Refused as refusal:
        return {"error": refusal.message, "status": refusal.status}


def _put_new_version(store: StateStore, index: int, command: c.RegisterJob, job: Job, old: Job | None) -> Job:
    stored = job.replace(
        version=old.version + 1 if old else 0,
        create_index=old.create_index if old else index,
        modify_index=index,
        job_modify_index=index,
        submit_time_ns=job.submit_time_ns or command.now_ns,
        status=old.status if old else "pending",
        status_description="",
        # Taking away needs no deployment that could prove it; a later failure must not bring the larger count back.
        stable=old is not None and old.stable and _only_shrinks(old, job),
        version_tag=None,
    )
    store.jobs.put_version(stored)
    store.jobs.ensure_summary(stored, index)
    if old is None:
        summary = store.jobs.summaries[stored.key]
        store.jobs.summaries[stored.key] = summary.replace(children=_children(store, stored))
    if old is None and stored.parent_id:
        _count_new_child(store, index, stored)
    if command.submission is not None:
        submission = command.submission.replace(
            namespace=job.namespace, job_id=job.id, version=stored.version, job_modify_index=index
        )
        store.jobs.submissions.setdefault(job.key, {})[stored.version] = submission
        store.touch("job_submission")
    store.touch("jobs", "job_version", "job_summary")
    return stored


def _count_new_child(store: StateStore, index: int, child: Job) -> None:
    parent = (child.namespace, child.parent_id)
    summary = store.jobs.summaries.get(parent)
    if summary is not None:
        children = summary.children.replace(pending=summary.children.pending + 1)
        store.jobs.summaries[parent] = summary.replace(children=children, modify_index=index)


def _put_job_evals(store: StateStore, index: int, now_ns: int, job: Job, evals: tuple[Evaluation, ...]) -> None:
    put_evals(store, index, now_ns, (e.replace(job_modify_index=job.job_modify_index) for e in evals))


def _check_enforced_index(wanted: int | None, old: Job | None) -> None:
    if wanted is None:
        return
    text = f"Enforcing job modify index {wanted}"
    if wanted == 0 and old is not None:
        raise Conflict(f"{text}: job already exists")
    if wanted != 0 and old is None:
        raise Conflict(f"{text}: job does not exist")
    if old is not None and wanted != old.job_modify_index:
        raise Conflict(f"{text}: job exists with conflicting job modify index: {old.job_modify_index}")


def _check_place(store: StateStore, job: Job) -> None:
    if job.namespace not in store.namespaces:
        raise Invalid(f'job "{job.id}" is in nonexistent namespace "{job.namespace}"', status=500)
    if job.node_pool not in store.node_pools:
        raise Invalid(f'job "{job.id}" is in nonexistent node pool "{job.node_pool}"', status=500)


def _check_stays_of_kind(old: Job, job: Job) -> None:
    if old.type != job.type:
        raise Invalid(f'cannot update job from type "{old.type}" to "{job.type}"', status=500)
    for word, was, is_now in (
        ("periodic", old.is_periodic(), job.is_periodic()),
        ("parameterized", old.parameterized_job is not None, job.parameterized_job is not None),
    ):
        if was and not is_now:
            raise Invalid(f"cannot update {word} job to being non-{word}", status=500)
        if is_now and not was:
            raise Invalid(f"cannot update non-{word} job to being {word}", status=500)


def _preserve(old: Job, job: Job, command: c.RegisterJob) -> Job:
    if not (command.preserve_counts or command.preserve_resources):
        return job
    groups = []
    for group in job.task_groups:
        before = old.group(group.name)
        if before is not None and command.preserve_counts:
            group = group.replace(count=before.count)
        if before is not None and command.preserve_resources:
            tasks = tuple(
                task.replace(resources=kept.resources) if (kept := before.task(task.name)) else task
                for task in group.tasks
            )
            group = group.replace(tasks=tasks)
        groups.append(group)
    return job.replace(task_groups=tuple(groups))


def _specification(job: Job) -> Job:
    """The job without the server's bookkeeping, for comparison."""
    return job.replace(
        status="",
        status_description="",
        stable=False,
        version=0,
        version_tag=None,
        submit_time_ns=0,
        create_index=0,
        modify_index=0,
        job_modify_index=0,
        nomad_token_id="",
        update=UpdateStrategy(),
    )


def _only_shrinks(old: Job, new: Job) -> bool:
    """Whether nothing differs but counts that fell."""
    counts = {group.name: group.count for group in old.task_groups}
    if any(group.count > counts.get(group.name, -1) for group in new.task_groups):
        return False
    return _specification(_uncounted(old)) == _specification(_uncounted(new))


def _uncounted(job: Job) -> Job:
    return job.replace(task_groups=tuple(group.replace(count=0) for group in job.task_groups))


def deregister(store: StateStore, index: int, command: c.DeregisterJob) -> dict[str, Any]:
    """Stops or purges a job; an unknown one is no error (value: found False)."""
    key = (command.namespace, command.job_id)
    job = store.jobs.current.get(key)
    if job is None:
        put_evals(store, index, command.now_ns, command.evals)
        return {"found": False, "job_modify_index": index}
    if command.no_shutdown_delay:
        for row in store.live_rows(key):
            extra = store.allocs.edit(row)
            extra.transition = (extra.transition or DesiredTransition()).replace(no_shutdown_delay=True)
            store.allocs.touch(row, index, command.now_ns, by_server=True)
        store.touch("allocs")
    if command.purge:
        remove_job(store, index, key)
        store.touch("jobs", "job_version", "job_summary", "job_submission", "scaling_events")
        put_evals(store, index, command.now_ns, command.evals)
        return {"found": True, "job_modify_index": index}
    stopped = job
    if not job.stop:
        stopped = job.replace(
            stop=True, version=job.version + 1, modify_index=index, job_modify_index=index, stable=False,
            version_tag=None, submit_time_ns=command.now_ns or job.submit_time_ns,
        )  # fmt: skip
        store.jobs.put_version(stopped)
        store.touch("jobs", "job_version")
    _put_job_evals(store, index, command.now_ns, stopped, command.evals)
    refresh_status(store, index, key)
    return {"found": True, "job_modify_index": stopped.job_modify_index}


def record_scaling_event(store: StateStore, index: int, command: c.RecordScalingEvent) -> None:
    """Remembers a scaling event that changed nothing."""
    key = (command.namespace, command.job_id)
    if key not in store.jobs.current:
        raise NotFound(f'job "{command.job_id}" not found')
    store.jobs.add_scaling_event(key, command.group, command.event.replace(create_index=index))
    store.touch("scaling_events")


def set_stability(store: StateStore, index: int, command: c.SetJobStability) -> None:
    """Marks a version as stable or not."""
    job = _version(store, command.namespace, command.job_id, command.version)
    store.jobs.rewrite(job.replace(stable=command.stable, modify_index=index))
    store.touch("jobs", "job_version")


def tag_version(store: StateStore, index: int, command: c.TagJobVersion) -> dict[str, Any]:
    """Sets or removes the tag of a version."""
    key = (command.namespace, command.job_id)
    tagged = next(
        (v for v in store.jobs.versions.get(key, ()) if v.version_tag and v.version_tag.name == command.name), None
    )
    if command.tag is None:
        if tagged is None:
            raise NotFound(f'tag "{command.name}" not found on job "{command.job_id}"', status=500)
        store.jobs.rewrite(tagged.replace(version_tag=None, modify_index=index))
    else:
        job = store.jobs.version(key, command.version)
        if job is None:
            raise NotFound(f'job "{command.job_id}" version {command.version} not found', status=500)
        if tagged is not None and tagged.version != job.version:
            text = f'tag "{command.name}" already exists on a different version of job "{command.job_id}"'
            raise Conflict(text)
        store.jobs.rewrite(job.replace(version_tag=command.tag, modify_index=index))
    store.touch("jobs", "job_version")
    return {}


def _version(store: StateStore, namespace: str, job_id: str, version: int) -> Job:
    job = store.jobs.version((namespace, job_id), version)
    if job is None:
        text = f'job "{job_id}" in namespace "{namespace}" at version {version} not found'
        raise NotFound(text, status=500)
    return job


def record_periodic_launch(store: StateStore, index: int, command: c.RecordPeriodicLaunch) -> None:
    """Remembers when a periodic job last launched a child."""
    store.jobs.periodic_launches[command.namespace, command.job_id] = command.launch_time_ns
    store.touch("periodic_launch")


def reconcile_summaries(store: StateStore, index: int, command: c.ReconcileSummaries) -> None:
    """Rebuilds every job's summary from its allocations, children and newest evaluation."""
    table = store.allocs
    for key, job in sorted(store.jobs.current.items()):
        lines = {group.name: {"queued": 0} for group in job.task_groups}
        for row in table.rows_by_job(key):
            if table.shape_of(row).job.create_index != job.create_index:
                continue  # of a purged job of the same name
            counter = CLIENT[table.client[row]]
            line = lines.setdefault(table.shape_of(row).group.name, {})
            name = COUNTER.get(counter, counter)
            line[name] = line.get(name, 0) + 1
        old = store.jobs.summaries[key]
        summary = {
            name: TaskGroupSummary(**{**counts, "queued": old.summary.get(name, TaskGroupSummary()).queued})
            for name, counts in lines.items()
        }
        children = _children(store, job)
        store.jobs.summaries[key] = old.replace(summary=summary, children=children, modify_index=index)
    store.touch("job_summary")


def _children(store: StateStore, parent: Job) -> JobChildrenSummary:
    """The stored children of a job by status; they outlive a purge of their parent."""
    jobs = (store.jobs.current.get((parent.namespace, child)) for child in store.jobs.children.get(parent.key, ()))
    statuses = Counter(child.status for child in jobs if child is not None)
    return JobChildrenSummary(**{word: statuses[word] for word in ("pending", "running", "dead")})
