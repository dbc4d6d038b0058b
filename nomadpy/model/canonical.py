"""The values that Nomad fills in where a job says nothing, so that every stored job is complete.

Every source of jobs (HCL, YAML, the HTTP API) hands over the same thing: a plain dict with Go's names in which an
absent key, or a null, means "not said". That distinction is needed (``Count = 0`` is not "no count") and is gone once
the dict has become a ``Job``. So the defaults are filled into the dict, and only then is the record built:

>>> job = job_from_input({"ID": "web", "TaskGroups": [{"Name": "api", "Tasks": [{"Name": "srv"}]}]})
>>> job.priority, job.task_groups[0].count, job.task_groups[0].tasks[0].resources.cpu
(50, 1, 100)
"""

from __future__ import annotations

import typing
from typing import Any

import msgspec

from nomadpy.model.canonical_task import (
    fill_affinities,
    fill_cluster,
    fill_constraints,
    fill_ports,
    fill_service,
    fill_task,
)
from nomadpy.model.decode import accept_input_fields, build, extra_fields, normalize, parse
from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job, MigrateStrategy, ReschedulePolicy
from nomadpy.model.naming import Noun
from nomadpy.model.time import HOUR, MINUTE, SECOND
from nomadpy.model.wire import to_wire

Raw = dict[str, Any]

SERVICE, BATCH, SYSTEM, SYSBATCH = "service", "batch", "system", "sysbatch"
JOB_TYPES = (SERVICE, BATCH, SYSTEM, SYSBATCH)

UPDATE_DEFAULTS: Raw = {
    "Stagger": 30 * SECOND,
    "MaxParallel": 1,
    "HealthCheck": "checks",
    "MinHealthyTime": 10 * SECOND,
    "HealthyDeadline": 5 * MINUTE,
    "ProgressDeadline": 10 * MINUTE,
    "AutoRevert": False,
    "AutoPromote": False,
    "Canary": 0,
}
MIGRATE_DEFAULTS: Raw = {
    "MaxParallel": 1,
    "HealthCheck": "checks",
    "MinHealthyTime": 10 * SECOND,
    "HealthyDeadline": 5 * MINUTE,
}
_RESTART_LASTING: Raw = {"Attempts": 2, "Interval": 30 * MINUTE, "Delay": 15 * SECOND, "Mode": "fail"}
_RESTART_BATCH: Raw = {"Attempts": 3, "Interval": 24 * HOUR, "Delay": 15 * SECOND, "Mode": "fail"}
RESTART_DEFAULTS: dict[str, Raw] = {
    SERVICE: _RESTART_LASTING,
    SYSTEM: _RESTART_LASTING,
    BATCH: _RESTART_BATCH,
    SYSBATCH: _RESTART_BATCH,
}
RESCHEDULE_DEFAULTS: dict[str, Raw] = {
    SERVICE: {
        "Attempts": 0,
        "Interval": 0,
        "Delay": 30 * SECOND,
        "DelayFunction": "exponential",
        "MaxDelay": HOUR,
        "Unlimited": True,
    },
    BATCH: {
        "Attempts": 1,
        "Interval": 24 * HOUR,
        "Delay": 5 * SECOND,
        "DelayFunction": "constant",
        "MaxDelay": 0,
        "Unlimited": False,
    },
}

accept_input_fields(Job, {"Reschedule": ReschedulePolicy, "Migrate": MigrateStrategy})


class JobDefaults(Noun):
    """What the agent's configuration says for jobs that do not say it themselves."""

    region: str = "global"
    namespace: str = "default"
    priority: int = 50
    node_pool: str = "default"


def job_from_input(raw: Any, *, defaults: JobDefaults = JobDefaults()) -> Job:
    """The complete job of an input dict with Go's names. Raises Invalid (400) when a value has the wrong type.

    The result is not yet validated; see ``validate``.
    """
    return build(fill_job_defaults(raw, defaults=defaults), Job)


job_from_wire = job_from_input


def decode_job(data: bytes | str, *, defaults: JobDefaults = JobDefaults()) -> Job:
    """The complete job of a JSON text, which is the bare job or ``{"Job": …}``. Raises Invalid (400)."""
    raw = parse(data)
    if isinstance(raw, dict):
        wrapped = next((value for key, value in raw.items() if key.lower() == "job"), None)
        raw = raw if wrapped is None else wrapped
    return job_from_input(raw, defaults=defaults)


def canonicalize(job: Job, *, defaults: JobDefaults = JobDefaults()) -> Job:
    """The job with everything filled in that is still empty. A canonical job stays as it is."""
    raw = to_wire(job)
    raw["Name"] = job.name or job.id
    for group in raw["TaskGroups"] or ():
        for task in group["Tasks"] or ():
            # A task that asks for nothing at all was made without resources; nobody asks for 0 MHz and 0 MB.
            if not any(task["Resources"].values()):
                del task["Resources"]
    return job_from_input(raw, defaults=defaults)


def fill_job_defaults(raw: Any, *, defaults: JobDefaults = JobDefaults()) -> Raw:
    """A complete copy of an input dict: exact keys, no nulls, job-level policies pushed down into the groups.

    Raises Invalid (400) when a value has the wrong type.
    """
    if not isinstance(raw, dict):
        raise Invalid("Job must be specified as an object")
    job: Raw = normalize(raw, Job)
    build(job, Job)
    _fill_job(job, defaults)
    return job


def input_form(job: Raw | Job) -> Raw:
    """The job as ``/v1/jobs/parse`` answers: every key of a job's record, null where the input said nothing."""
    raw = to_wire(job) if isinstance(job, Job) else job
    filled = _with_nulls(normalize(raw, Job), Job)
    return typing.cast(Raw, filled)


def _with_nulls(value: Any, annotation: Any) -> Any:
    arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
    if value is None:
        return None
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        kinds = {field.encode_name: field.type for field in msgspec.structs.fields(annotation)}
        kinds |= extra_fields(annotation)
        return {name: _with_nulls(value.get(name), kind) for name, kind in kinds.items()}
    if isinstance(value, list) and arms:
        return [_with_nulls(item, arms[0]) for item in value]
    if isinstance(value, dict) and typing.get_origin(annotation) is dict:
        return {key: _with_nulls(item, arms[1]) for key, item in value.items()}
    if type(None) in typing.get_args(annotation) and len(arms) == 1:
        return _with_nulls(value, arms[0])
    return value


# --- job ------------------------------------------------------------------------------------------------------------


def _fill_job(job: Raw, defaults: JobDefaults) -> None:
    job.setdefault("Name", job.get("ID", ""))
    for key, value in (
        ("Type", SERVICE),
        ("Region", defaults.region),
        ("Namespace", defaults.namespace),
        ("Priority", defaults.priority),
        ("NodePool", defaults.node_pool),
        ("Datacenters", ["*"]),
    ):
        if not job.get(key):
            job[key] = value
    if job["Region"] == "global":
        job["Region"] = defaults.region
    fill_constraints(job)
    fill_affinities(job)
    _fill_spreads(job)
    _fill_launchers(job)
    _fill_regions(job)
    policies = _JobPolicies(job)
    for group in job.get("TaskGroups") or ():
        _fill_group(group, job, policies)
    policies.keep_at_job(job)


def _fill_spreads(block: Raw) -> None:
    for spread in block.get("Spreads") or ():
        spread.setdefault("Weight", 50)


def _fill_launchers(job: Raw) -> None:
    periodic, parameterized = job.get("Periodic"), job.get("ParameterizedJob")
    if periodic is not None:
        periodic["SpecType"] = periodic.get("SpecType") or "cron"
        periodic["TimeZone"] = periodic.get("TimeZone") or "UTC"
    if parameterized is not None:
        parameterized["Payload"] = parameterized.get("Payload") or "optional"


def _fill_regions(job: Raw) -> None:
    multiregion = job.get("Multiregion")
    if multiregion is not None:
        multiregion.setdefault("Strategy", {})
        for region in multiregion.get("Regions") or ():
            region.setdefault("Count", 1)


class _JobPolicies:
    """The policies that a job states for all of its groups; a group's own attributes win, one by one."""

    def __init__(self, job: Raw) -> None:
        self.type: str = job["Type"]
        self.update = _stated_update(job.get("Update"))
        self.migrate: Raw | None = _checked(job.pop("Migrate", None), MigrateStrategy)
        self.reschedule: Raw | None = _checked(job.pop("Reschedule", None), ReschedulePolicy)

    def keep_at_job(self, job: Raw) -> None:
        """Leaves at the job only what Nomad keeps there: the pace of an update."""
        if self.type in (SERVICE, SYSTEM):
            stated = UPDATE_DEFAULTS | (self.update or {})
            # All zeros would read as "no update block" the next time; a stagger of 0 is refused in the groups anyway.
            stagger = stated["Stagger"] or UPDATE_DEFAULTS["Stagger"]
            job["Update"] = {"Stagger": stagger, "MaxParallel": stated["MaxParallel"]}
        else:
            job.pop("Update", None)

    def fill(self, group: Raw) -> None:
        """Merges type defaults, the job's attributes and the group's attributes."""
        _merge(group, "Update", UPDATE_DEFAULTS, self.update, always=self.type in (SERVICE, SYSTEM))
        _merge(group, "Migrate", MIGRATE_DEFAULTS, self.migrate, always=self.type == SERVICE)
        restart = RESTART_DEFAULTS.get(self.type, _RESTART_LASTING)
        _merge(group, "RestartPolicy", restart, None, always=True)
        reschedule = RESCHEDULE_DEFAULTS.get(self.type, {})
        _merge(group, "ReschedulePolicy", reschedule, self.reschedule, always=bool(reschedule))


def _stated_update(update: Raw | None) -> Raw | None:
    """The update block of a job, or None when it says nothing.

    A stored job, sent again, carries only ``Stagger`` and ``MaxParallel`` there and zeros for everything else; the
    empty ``HealthCheck`` gives that form away, because no person could have written it.
    """
    if not update or not any(update.values()):
        return None
    if update.get("HealthCheck") == "":
        update = {key: update[key] for key in ("Stagger", "MaxParallel") if key in update}
    return update if any(update.values()) else None


def _checked(value: Raw | None, kind: type) -> Raw | None:
    if value is not None:
        build(value, kind)
    return value


def _merge(group: Raw, key: str, by_type: Raw, by_job: Raw | None, *, always: bool) -> None:
    by_group = group.get(key)
    if always or by_job is not None or by_group is not None:
        group[key] = {**by_type, **(by_job or {}), **(by_group or {})}


# --- group ----------------------------------------------------------------------------------------------------------


def _fill_group(group: Raw, job: Raw, policies: _JobPolicies) -> None:
    _fill_count(group, job)
    policies.fill(group)
    group.setdefault("EphemeralDisk", {})
    fill_constraints(group)
    fill_affinities(group)
    _fill_spreads(group)
    fill_ports(group)
    fill_cluster(group)
    disconnect = group.get("Disconnect")
    if disconnect is not None:
        disconnect.setdefault("Replace", True)
        disconnect["Reconcile"] = disconnect.get("Reconcile") or "best_score"
    for label, volume in (group.get("Volumes") or {}).items():
        volume["Name"] = volume.get("Name") or label
    for service in group.get("Services") or ():
        fill_service(service, job, group, None)
    for task in group.get("Tasks") or ():
        fill_task(task, job, group)


def _fill_count(group: Raw, job: Raw) -> None:
    scaling = group.get("Scaling")
    if scaling is None:
        group.setdefault("Count", 1)
        return
    group.setdefault("Count", scaling.get("Min", 1))
    scaling.setdefault("Min", group["Count"])
    scaling["Type"] = scaling.get("Type") or "horizontal"
    scaling["Target"] = {"Namespace": job["Namespace"], "Job": job.get("ID", ""), "Group": group.get("Name", "")}
