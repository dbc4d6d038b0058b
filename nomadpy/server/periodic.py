"""Launching children of periodic jobs.

Level-triggered: what is due follows from the stored jobs, their last launches and the clock, so a new leader needs no
hand-over. A launch that was missed while no server led happens once, as soon as one leads.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from nomadpy.model.cron import next_launch
from nomadpy.model.evaluation import TRIGGER_PERIODIC_JOB
from nomadpy.model.job import Job, PeriodicConfig
from nomadpy.model.time import SECOND
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

if TYPE_CHECKING:
    from nomadpy.server.server import Server

log = logging.getLogger(__name__)

_MISSED_MAX = 100


def child_of(parent: Job, launch_ns: int) -> Job:
    """The job that one launch runs: ``<parent>/periodic-<unix seconds>``."""
    child_id = f"{parent.id}/periodic-{launch_ns // SECOND}"
    return parent.replace(
        id=child_id,
        name=child_id,
        parent_id=parent.id,
        periodic=None,
        status="",
        stable=False,
        version=0,
        version_tag=None,
        submit_time_ns=0,
        create_index=0,
        modify_index=0,
        job_modify_index=0,
    )


def due_ns(store: StateStore, job: Job) -> int:
    """When the job launches next, in Unix nanoseconds; 0 when it does not."""
    if job.periodic is None or not job.periodic.enabled or job.stop or job.is_parameterized():
        return 0
    since = max(job.submit_time_ns, store.jobs.periodic_launches.get(job.key, 0))
    return _next_launch(job.periodic, since)


@functools.lru_cache(maxsize=16_384)
def _next_launch(periodic: PeriodicConfig, since_ns: int) -> int:
    """As the calendar says. A registered job can only have a bad zone when this machine lost its time zones; it does
    not launch then, and the log says so once."""
    try:
        return next_launch(periodic, since_ns)
    except ValueError as error:
        log.error("periodic.bad_schedule", extra={"fields": {"spec": periodic.spec, "error": str(error)}})
        return 0


def next_launch_ns(store: StateStore, now_ns: int) -> int | None:
    """When the next launch of any job is due."""
    times = (due_ns(store, store.jobs.current[key]) for key in store.jobs.periodic)
    return min((t for t in times if t), default=None)


def launch_commands(server: Server, now_ns: int) -> list[c.Command]:
    """What to propose now: for each job that is due one child, unless an earlier one still runs and may not overlap."""
    commands: list[c.Command] = []
    for job in [server.store.jobs.current[key] for key in server.store.jobs.periodic]:
        due = due_ns(server.store, job)
        if not due or due > now_ns:
            continue
        latest = _latest_missed(job, due, now_ns)
        assert job.periodic is not None
        if not (job.periodic.prohibit_overlap and has_running_child(server.store, job)):
            commands.append(launch(server, job, latest))
        commands.append(
            c.RecordPeriodicLaunch(now_ns=now_ns, namespace=job.namespace, job_id=job.id, launch_time_ns=latest)
        )
    return commands


def launch(server: Server, job: Job, launch_ns: int) -> c.RegisterJob:
    """The registration of one child with its evaluation."""
    child = child_of(job, launch_ns)
    evaluation = server.new_eval(
        namespace=job.namespace, job_id=child.id, type=job.type, priority=job.priority, trigger=TRIGGER_PERIODIC_JOB
    )
    return c.RegisterJob(now_ns=server.wall_ns(), job=child, evals=(evaluation,))


def has_running_child(store: StateStore, job: Job) -> bool:
    """Whether a child has an evaluation or an allocation that is not over."""
    for child_id in store.jobs.children.get(job.key, {}):
        if any(not e.terminal() for e in store.job_evals(job.namespace, child_id)):
            return True
        if any(True for _ in store.live_rows((job.namespace, child_id))):
            return True
    return False


def _latest_missed(job: Job, due: int, now_ns: int) -> int:
    """Of all launches that are due, the newest; after a long absence simply now, for all of them together."""
    assert job.periodic is not None
    for _ in range(_MISSED_MAX):
        following = _next_launch(job.periodic, due)
        if not following or following > now_ns:
            return due
        due = following
    return now_ns // SECOND * SECOND
