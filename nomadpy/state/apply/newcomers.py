"""Plans of many jobs that had nothing, which travel as columns.

They only add allocations, so they are verified by one sum and stored as one run of rows, as ``fresh`` does it. What
follows for their evaluations, jobs, summaries and deployments follows from what is stored of them, in one step for
each. If something does not fit, nothing is changed, and each is spelled out as a plan of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.evaluation import DEPLOYMENT_RUNNING, EVAL_COMPLETE, Deployment, DeploymentState, Evaluation
from nomadpy.model.job import Job, TaskGroup, TaskGroupSummary
from nomadpy.state import commands as c
from nomadpy.state.apply.evals import refresh_status, set_queued
from nomadpy.state.apply.fresh import Usage
from nomadpy.state.first_rows import FirstRows, append_first
from nomadpy.state.store import StateStore
from nomadpy.state.told import Told

_U32, _F64 = np.dtype("<u4"), np.dtype("<f8")
_Numbers = npt.NDArray[np.uint32]
Key = tuple[str, str]
_Lines = dict[str, TaskGroupSummary]


class _Columns:
    """The columns of a command as lists. ``sound``: whether they belong together."""

    def __init__(self, rows: c.Newcomers) -> None:
        self.eval_ids, size = rows.eval_ids, len(rows.eval_ids)
        self.sound = False
        arrays = (rows.job_versions, rows.counts, rows.nodes, rows.state_of, rows.metric_of, rows.told_nodes)
        if any(len(each) % 4 for each in arrays) or len(rows.told_scores) % 8:
            return
        columns: list[list[int]] = [
            np.frombuffer(each, _U32).tolist()
            for each in (rows.job_versions, rows.counts, rows.state_of, rows.metric_of)
        ]
        self.versions, self.counts, self.state_of, self.metric_of = columns
        self.nodes: _Numbers = np.frombuffer(rows.nodes, _U32)
        self.states, self.deployment_ids, self.metrics = rows.states, rows.deployment_ids, rows.metrics
        self.told, self.told_nodes = rows.told, np.frombuffer(rows.told_nodes, _U32).tolist()
        self.told_scores: list[float] = np.frombuffer(rows.told_scores, _F64).tolist()
        self.sound = (
            all(len(each) == size for each in (*columns, rows.told))
            and sum(self.counts) == len(self.nodes)
            and all(self.counts)
            and len(self.deployment_ids) == size - self.state_of.count(0)
            and max(self.state_of, default=0) <= len(self.states)
            and max(self.metric_of, default=-1) < len(self.metrics)
            and len(self.told_nodes) == len(self.told_scores) == sum(self.told)
        )

    def told_of_each(self, store: StateStore) -> Iterator[Told]:
        """The metrics of each."""
        nodes, at = store.nodes.nodes, 0
        for base, told in zip(self.metric_of, self.told, strict=True):
            best = []
            for number, score in zip(self.told_nodes[at : at + told], self.told_scores[at : at + told], strict=True):
                node = nodes[number] if number < len(nodes) else None
                best.append((node.id if node is not None else "", score))
            at += told
            yield Told(self.metrics[base], tuple(best))

    def deployments(self) -> Iterator[tuple[str, DeploymentState | None]]:
        """The deployment of each and its group's state in it; ("", None) for none."""
        ids = iter(self.deployment_ids)
        for state in self.state_of:
            yield (next(ids), self.states[state - 1]) if state else ("", None)


_Found = tuple[Evaluation, Job, TaskGroup]


def _find(store: StateStore, eval_id: str, version: int) -> _Found | None:
    """What an evaluation was about; None when it is not stored, or its job is not what it was."""
    evaluation = store.evals.get(eval_id)
    if evaluation is None:
        return None
    key = (evaluation.namespace, evaluation.job_id)
    job = store.jobs.current.get(key)
    if job is None or job.version != version:
        job = store.jobs.version(key, version)
    return (evaluation, job, job.task_groups[0]) if job is not None and len(job.task_groups) == 1 else None


def place_newcomers(store: StateStore, index: int, now_ns: int, view_index: int, rows: c.Newcomers) -> bool:
    """Carries it all out if all of it fits; False, with nothing changed, otherwise."""
    if not rows.eval_ids:
        return True
    columns = _Columns(rows)
    if not columns.sound or len(set(rows.eval_ids)) < len(rows.eval_ids):
        return False
    found: list[_Found] = []
    for eval_id, version in zip(rows.eval_ids, columns.versions, strict=True):
        each = _find(store, eval_id, version)
        if each is None:
            return False
        found.append(each)
    demands = _demands(found)
    usage = Usage(columns.nodes, columns.counts, demands)
    if not usage.fits(store):
        return False
    usage.book(store)
    _store(store, index, now_ns, view_index, columns, found, demands)
    return True


def _demands(found: Sequence[_Found]) -> list[Demand]:
    """What an allocation of each takes; jobs that are alike share their groups."""
    known: dict[int, Demand] = {}
    out = []
    for _, _, group in found:
        demand = known.get(id(group))
        if demand is None:
            demand = known[id(group)] = group_demand(group)
        out.append(demand)
    return out


def _store(
    store: StateStore,
    index: int,
    now_ns: int,
    view_index: int,
    columns: _Columns,
    found: Sequence[_Found],
    demands: Sequence[Demand],
) -> None:
    deployments = list(columns.deployments())
    names: _Numbers = np.arange(len(columns.nodes), dtype=np.uint32)
    starts = np.cumsum(columns.counts) - columns.counts
    names -= np.repeat(starts, columns.counts).astype(np.uint32)
    keys = [(evaluation.namespace, evaluation.job_id) for evaluation, _, _ in found]
    rows = FirstRows(
        keys=keys,
        jobs=[job for _, job, _ in found],
        groups=[group for _, _, group in found],
        demands=demands,
        counts=columns.counts,
        nodes=columns.nodes,
        name_indexes=names,
        eval_ids=columns.eval_ids,
        deployment_ids=[deployment_id for deployment_id, _ in deployments],
        metrics=list(columns.told_of_each(store)),
    )
    append_first(store.allocs, rows, index=index, now_ns=now_ns)
    followers = _Followers(store, index, now_ns, view_index)
    for key, each, count, (deployment_id, state) in zip(keys, found, columns.counts, deployments, strict=True):
        evaluation, job, group = each
        if state is not None:
            _open(store, index, now_ns, deployment_id, evaluation, job, group, state, count)
        done = followers.complete(key, evaluation, group, deployment_id)
        if not followers.count(key, job, group.name, count):
            set_queued(store, index, done)
        followers.runs(key, job)
    store.changed_evals.extend(columns.eval_ids)
    store.touch("allocs", "job_summary", "evals")


def _done(
    evaluation: Evaluation, queued: dict[str, int], deployment_id: str, view_index: int, index: int, now_ns: int
) -> Evaluation:
    return replace(
        evaluation,
        status=EVAL_COMPLETE,
        status_description="",
        failed_tg_allocs={},
        queued_allocations=queued,
        plan_annotations=None,
        deployment_id=deployment_id,
        snapshot_index=view_index,
        modify_index=index,
        modify_time_ns=now_ns,
    )


class _Followers:
    """What follows from placements for evaluations, summaries and jobs. Jobs that were registered together share the
    lines of their summaries, and go on sharing them."""

    def __init__(self, store: StateStore, index: int, now_ns: int, view_index: int) -> None:
        self._store, self._index, self._now_ns, self._view_index = store, index, now_ns, view_index
        self._lines: dict[tuple[int, str, int], tuple[_Lines, _Lines]] = {}
        self._none_queued: dict[str, dict[str, int]] = {}

    def complete(self, key: Key, evaluation: Evaluation, group: TaskGroup, deployment_id: str) -> Evaluation:
        """Stores the evaluation as complete."""
        store = self._store
        queued = self._none_queued.get(group.name)
        if queued is None:
            queued = self._none_queued[group.name] = {group.name: 0}
        done = _done(evaluation, queued, deployment_id, self._view_index, self._index, self._now_ns)
        if not evaluation.terminal():
            if store.open_evals[key] == 1:
                del store.open_evals[key]
            else:
                store.open_evals[key] -= 1
        store.evals[done.id] = done
        return done

    def count(self, key: Key, job: Job, group: str, placed: int) -> bool:
        """Notes that so many allocations of a job's group start, and that none is waited for. False for a job that was
        purged since: its allocations do not count for the one that was registered under its name."""
        summaries = self._store.jobs.summaries
        summary = summaries.get(key)
        if summary is None or summary.create_index != job.create_index:
            return False
        lines = summary.summary
        at = (id(lines), group, placed)
        known = self._lines.get(at)
        if known is None:
            line = lines.get(group, _NOTHING)
            line = line.replace(starting=line.starting + placed, queued=0)
            # As long as the old lines are kept nothing else can have their identity.
            known = self._lines[at] = lines, {**lines, group: line}
        summaries[key] = replace(summary, summary=known[1], modify_index=self._index)
        return True

    def runs(self, key: Key, job: Job) -> None:
        """Gives a job that has got allocations its status."""
        jobs = self._store.jobs
        if (
            jobs.current.get(key) is not job
            or job.parent_id
            or job.type not in ("service", "batch")
            or job.periodic is not None
            or job.parameterized_job is not None
        ):
            refresh_status(self._store, self._index, key)
        elif job.status != "running":
            runs = jobs.current[key] = replace(job, status="running", modify_index=self._index)
            versions = jobs.versions[key]
            jobs.versions[key] = (runs, *versions[1:])
            self._store.touch("jobs")


_NOTHING = TaskGroupSummary()


def _open(
    store: StateStore,
    index: int,
    now_ns: int,
    deployment_id: str,
    evaluation: Evaluation,
    job: Job,
    group: TaskGroup,
    state: DeploymentState,
    count: int,
) -> None:
    """Stores the deployment with what was placed for it."""
    progress_by_ns = now_ns + state.progress_deadline_ns if state.progress_deadline_ns else 0
    placed = state.replace(placed_allocs=count, require_progress_by_ns=state.require_progress_by_ns or progress_by_ns)
    made = _deployment(deployment_id, evaluation, job, {group.name: placed})
    store.deployments[deployment_id] = replace(
        made,
        status_description=made.running_text(),
        create_index=index,
        create_time_ns=now_ns,
        modify_index=index,
        modify_time_ns=now_ns,
    )
    store.deployments_by_job.setdefault(job.key, {})[deployment_id] = None
    store.changed_deployments.append(deployment_id)
    store.touch("deployments")


def _deployment(deployment_id: str, evaluation: Evaluation, job: Job, groups: dict[str, DeploymentState]) -> Deployment:
    return Deployment(
        id=deployment_id,
        namespace=job.namespace,
        job_id=job.id,
        job_version=job.version,
        job_modify_index=job.modify_index,
        job_spec_modify_index=job.job_modify_index,
        job_create_index=job.create_index,
        task_groups=groups,
        status=DEPLOYMENT_RUNNING,
        eval_priority=evaluation.priority,
    )


def spell_out(store: StateStore, view_index: int, rows: c.Newcomers) -> list[tuple[c.PlanResult, Evaluation] | None]:
    """The plan and the complete evaluation of each; None for those that cannot be carried out at all."""
    columns = _Columns(rows)
    if not columns.sound:
        return [None] * len(rows.eval_ids)
    out: list[tuple[c.PlanResult, Evaluation] | None] = []
    start = 0
    every = zip(
        rows.eval_ids,
        columns.versions,
        columns.counts,
        columns.deployments(),
        columns.told_of_each(store),
        strict=True,
    )
    for eval_id, version, count, (deployment_id, state), told in every:
        nodes = columns.nodes[start : start + count]
        start += count
        found = _find(store, eval_id, version)
        if found is None:
            out.append(None)
            continue
        evaluation, job, group = found
        block = c.PlaceBlock(
            namespace=job.namespace,
            job_id=job.id,
            job_version=version,
            group=group.name,
            eval_id=eval_id,
            deployment_id=deployment_id,
            nodes=nodes.tobytes(),
            name_indexes=np.arange(count, dtype=_U32).tobytes(),
            metrics=told.record(),
        )
        opened = _deployment(deployment_id, evaluation, job, {group.name: state}) if state is not None else None
        plan = c.PlanResult(
            eval_id=eval_id,
            namespace=job.namespace,
            job_id=job.id,
            all_at_once=job.all_at_once,
            places=(block,),
            deployment=opened,
        )
        done = _done(evaluation, {group.name: 0}, deployment_id, view_index, 0, 0)
        out.append((plan, done))
    return out
