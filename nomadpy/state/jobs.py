"""The jobs, their versions, summaries, submissions and scaling events."""

from __future__ import annotations

from nomadpy.model.job import Job, JobSubmission, JobSummary, ScalingEvent, TaskGroupSummary

Key = tuple[str, str]

SCALING_EVENTS_KEPT = 20
COUNTER = {"pending": "starting"}  # client status → summary field, where the names differ


class JobTable:
    """Everything about jobs, keyed by (namespace, id). Only ``apply`` writes."""

    def __init__(self, tracked_versions: int) -> None:
        self.tracked_versions = tracked_versions
        self.current: dict[Key, Job] = {}
        self.versions: dict[Key, tuple[Job, ...]] = {}
        self.submissions: dict[Key, dict[int, JobSubmission]] = {}
        self.summaries: dict[Key, JobSummary] = {}
        self.scaling_events: dict[Key, dict[str, tuple[ScalingEvent, ...]]] = {}
        self.periodic_launches: dict[Key, int] = {}
        self.children: dict[Key, dict[str, None]] = {}
        self.periodic: dict[Key, None] = {}  # jobs that launch others by the calendar
        self.everywhere: dict[Key, None] = {}  # jobs that run on every node that can run them

    def put_version(self, job: Job) -> None:
        """Stores a new version as the current one and trims the old ones. Tagged versions are kept for ever; the newest
        stable one is never the one that goes."""
        key = job.key
        kept = [job, *self.versions.get(key, ())]
        untagged = [version for version in kept if version.version_tag is None]
        newest_stable = next((version for version in untagged if version.stable), None)
        may_go = [version for version in untagged[1:] if version is not newest_stable]
        surplus = len(untagged) - max(self.tracked_versions, 1)
        for old in may_go[::-1][: max(surplus, 0)]:
            kept.remove(old)
            self.submissions.get(key, {}).pop(old.version, None)
        self.versions[key] = tuple(kept)
        self.current[key] = job
        if job.periodic is not None:
            self.periodic[key] = None
        if job.type in ("system", "sysbatch") and not (job.is_periodic() or job.is_parameterized()):
            self.everywhere[key] = None
        if job.parent_id:
            self.children.setdefault((job.namespace, job.parent_id), {})[job.id] = None

    def rewrite(self, job: Job) -> None:
        """Replaces the record of a version (status, stability or tag changed), current or not."""
        key = job.key
        versions = self.versions.get(key, ())
        if len(versions) == 1 and versions[0].version == job.version:
            self.versions[key] = (job,)
            self.current[key] = job
            return
        self.versions[key] = tuple(job if old.version == job.version else old for old in versions)
        if key in self.current and self.current[key].version == job.version:
            self.current[key] = job

    def version(self, key: Key, version: int) -> Job | None:
        """A tracked version of a job."""
        return next((job for job in self.versions.get(key, ()) if job.version == version), None)

    def remove(self, key: Key) -> None:
        """Forgets a job with all that hangs on it."""
        job = self.current.pop(key, None)
        for table in (self.versions, self.submissions, self.summaries, self.scaling_events, self.periodic_launches):
            table.pop(key, None)
        self.periodic.pop(key, None)
        self.everywhere.pop(key, None)
        if job is not None and job.parent_id:
            parent = (job.namespace, job.parent_id)
            siblings = self.children.get(parent, {})
            siblings.pop(job.id, None)
            if not siblings:
                self.children.pop(parent, None)

    def add_scaling_event(self, key: Key, group: str, event: ScalingEvent) -> None:
        """Remembers a scaling event, newest first."""
        events = self.scaling_events.setdefault(key, {})
        events[group] = (event, *events.get(group, ()))[:SCALING_EVENTS_KEPT]

    def ensure_summary(self, job: Job, index: int) -> None:
        """Gives the job's summary a line for each of its groups."""
        old = self.summaries.get(job.key)
        lines = dict(old.summary) if old else {}
        for group in job.task_groups:
            lines.setdefault(group.name, TaskGroupSummary())
        self.summaries[job.key] = JobSummary(
            job_id=job.id,
            namespace=job.namespace,
            summary=lines,
            children=old.children if old else JobSummary().children,
            create_index=old.create_index if old else index,
            modify_index=index,
        )

    def count(self, job: Job, group: str, index: int, **changes: int) -> None:
        """Adds to the counters of a group's summary line; none falls below zero. Allocations of a job that was purged
        do not count for the one that was registered under its name since."""
        key = job.key
        summary = self.summaries.get(key)
        if summary is None or summary.create_index != job.create_index:
            return
        line = summary.summary.get(group, TaskGroupSummary())
        line = line.replace(**{name: max(0, getattr(line, name) + by) for name, by in changes.items()})
        self.summaries[key] = summary.replace(summary={**summary.summary, group: line}, modify_index=index)
