"""Garbage collection of the state: what is finished, old, and needed by nobody."""

from __future__ import annotations

from collections.abc import Iterable

from nomadpy.model.alloc import FAILED, AllocListStub
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, ReschedulePolicy
from nomadpy.model.node import DOWN
from nomadpy.server.config import ServerConfig
from nomadpy.state import commands as c
from nomadpy.state.allocs import DESIRED_CODE
from nomadpy.state.store import StateStore

BATCH = 1000


def decide_collection(
    store: StateStore, config: ServerConfig, now_ns: int, *, force: bool = False
) -> Iterable[c.Command]:
    """The commands that remove what may go now. ``force`` ignores the thresholds, as ``system gc`` does."""

    def old(modify_time_ns: int, threshold_ns: int) -> bool:
        return force or modify_time_ns <= now_ns - threshold_ns

    jobs = [job for job in store.jobs.current.values() if _job_may_go(store, config, job, now_ns, force=force)]
    gone = {job.key for job in jobs}
    evals, allocs = [], []
    for evaluation in store.evals.values():
        in_gone_job = (evaluation.namespace, evaluation.job_id) in gone
        threshold = config.batch_eval_gc_threshold_ns if evaluation.type == "batch" else config.eval_gc_threshold_ns
        if evaluation.terminal() and (in_gone_job or old(evaluation.modify_time_ns, threshold)):
            rows = store.allocs.rows_by_eval(evaluation.id, (evaluation.namespace, evaluation.job_id))
            removable = [
                row for row in rows
                if (in_gone_job or old(int(store.allocs.modify_time[row]), threshold))
                and _alloc_may_go(store, evaluation, row, now_ns, in_gone_job=in_gone_job)
            ]  # fmt: skip
            allocs += removable
            if len(removable) == len(rows):
                evals.append(evaluation.id)
    for key in gone:
        allocs += store.allocs.rows_by_job(key)
    deployments = [
        d.id for d in store.deployments.values()
        if not d.active() and old(d.modify_time_ns, config.deployment_gc_threshold_ns)
        and not any(store.allocs.is_live(row) for row in store.allocs.rows_by_deployment(d.id, (d.namespace, d.job_id)))
    ]  # fmt: skip
    alloc_ids = [store.allocs.ids.uuid(row) for row in dict.fromkeys(allocs)]
    for at in range(0, max(len(alloc_ids), len(evals), len(jobs), len(deployments)), BATCH):
        part = slice(at, at + BATCH)
        yield c.Collect(
            now_ns=now_ns,
            eval_ids=tuple(evals[part]),
            alloc_ids=tuple(alloc_ids[part]),
            jobs=tuple(job.key for job in jobs[part]),
            deployment_ids=tuple(deployments[part]),
        )
    nodes = tuple(
        node.id for node in store.nodes
        if node.status == DOWN and old(node.status_updated_at * 10**9, config.node_gc_threshold_ns)
        and not any(not store.allocs.is_over(row) for row in store.allocs.rows_by_node(store.node_number(node.id)))
    )  # fmt: skip
    if nodes:
        yield c.DeregisterNodes(now_ns=now_ns, node_ids=nodes)


def _job_may_go(store: StateStore, config: ServerConfig, job: Job, now_ns: int, *, force: bool) -> bool:
    if job.status != "dead" or not (job.stop or _ends_by_itself(job)):
        return False
    if any(version.version_tag is not None for version in store.jobs.versions.get(job.key, ())):
        return False
    if any(not evaluation.terminal() for evaluation in store.job_evals(*job.key)):
        return False
    if any(not store.allocs.is_over(row) for row in store.allocs.rows_by_job(job.key)):
        return False
    newest = max(
        [job.submit_time_ns, *(int(store.allocs.modify_time[row]) for row in store.allocs.rows_by_job(job.key))]
    )
    return force or newest <= now_ns - config.job_gc_threshold_ns


def _ends_by_itself(job: Job) -> bool:
    """Whether a dead job is a finished one. A service or system job without allocations is in trouble, but wanted."""
    return job.type in ("batch", "sysbatch") and not job.is_periodic() and not job.is_parameterized()


def _alloc_may_go(store: StateStore, evaluation: Evaluation, row: int, now_ns: int, *, in_gone_job: bool) -> bool:
    table = store.allocs
    if not table.is_over(row):
        return False
    job = store.job(evaluation.namespace, evaluation.job_id)
    if in_gone_job or job is None or job.stop:
        return True
    if job.type in ("batch", "sysbatch"):
        # Finished work of the job counts as done as long as the job exists.
        return table.shape_of(row).job.job_modify_index != job.job_modify_index
    if job.status == "dead" or table.desired[row] != DESIRED_CODE["run"]:
        return True
    return not _may_be_rescheduled(store.alloc_stub_at(row), table.shape_of(row).group.reschedule_policy, now_ns)


def _may_be_rescheduled(alloc: AllocListStub, policy: ReschedulePolicy | None, now_ns: int) -> bool:
    """Whether the scheduler may still look at a failed allocation to place it anew."""
    if alloc.client_status != FAILED or alloc.next_allocation:
        return False
    if policy is None or not (policy.unlimited or policy.attempts > 0):
        return False
    if policy.unlimited or alloc.reschedule_tracker is None or not alloc.reschedule_tracker.events:
        return True
    return now_ns - alloc.reschedule_tracker.events[-1].reschedule_time_ns <= policy.interval_ns
