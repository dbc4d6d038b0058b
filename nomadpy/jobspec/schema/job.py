"""Jobs and groups, and what they hand down to their tasks."""

from __future__ import annotations

import copy

from nomadpy.jobspec.schema.identity import CONSUL, SECRET, VAULT
from nomadpy.jobspec.schema.network import NETWORK, VOLUME
from nomadpy.jobspec.schema.policies import (
    AFFINITY,
    CONSTRAINT,
    DISCONNECT,
    GROUP_SCALING,
    MIGRATE,
    PARAMETERIZED,
    PERIODIC,
    RESCHEDULE,
    RESTART,
    SPREAD,
    UPDATE,
)
from nomadpy.jobspec.schema.rows import (
    Block,
    Raw,
    Report,
    boolean,
    duration,
    integer,
    keyed,
    labelled,
    many,
    one,
    string,
    string_map,
    strings,
)
from nomadpy.jobspec.schema.service import SERVICE
from nomadpy.jobspec.schema.task import TASK


def _hand_down(raw: Raw, tasks: list[Raw]) -> None:
    """Gives each task the vault block, unless it has its own, and further secrets."""
    vault, secrets = raw.pop("Vault", None), raw.pop("Secrets", None)
    for task in tasks:
        if vault is not None and "Vault" not in task:
            task["Vault"] = copy.deepcopy(vault)
        if secrets:
            task["Secrets"] = [*task.get("Secrets", []), *copy.deepcopy(secrets)]


EPHEMERAL_DISK = Block(
    "EphemeralDisk",
    "The scratch space that the group's tasks share.",
    integer("size", "MB; 300 if absent.", key="SizeMB"),
    boolean("sticky", "Prefer the same node for a replacement, and move the data there."),
    boolean("migrate", "Copy the data between nodes, too."),
)

GROUP = Block(
    "TaskGroup",
    "Tasks that always run together on one node.",
    integer("count", "How many such sets; 1 if absent."),
    many("constraint", CONSTRAINT, key="Constraints"),
    many("affinity", AFFINITY, key="Affinities"),
    many("spread", SPREAD, key="Spreads"),
    labelled("task", TASK, key="Tasks"),
    many("network", NETWORK, key="Networks"),
    many("service", SERVICE, key="Services"),
    keyed("volume", VOLUME, key="Volumes"),
    one("restart", RESTART, key="RestartPolicy"),
    one("reschedule", RESCHEDULE, key="ReschedulePolicy"),
    one("update", UPDATE),
    one("migrate", MIGRATE),
    one("disconnect", DISCONNECT),
    one("ephemeral_disk", EPHEMERAL_DISK),
    one("scaling", GROUP_SCALING),
    one("consul", CONSUL),
    one("vault", VAULT),
    labelled("secret", SECRET, key="Secrets"),
    string_map("meta", "Metadata; wins over that of the job."),
    duration("shutdown_delay", "The wait between deregistering the group's services and stopping its tasks."),
    duration("max_run_duration", "When a batch allocation is stopped."),
    duration("stop_after_client_disconnect", "Deprecated; use the disconnect block."),
    duration("max_client_disconnect", "Deprecated; use the disconnect block."),
    boolean("prevent_reschedule_on_lost", "Deprecated; use the disconnect block."),
    finish=lambda raw, report: _hand_down(raw, raw.get("Tasks", [])),
)

MULTIREGION = Block(
    "Multiregion",
    "Several regions that run the job.",
    one(
        "strategy",
        Block(
            "MultiregionStrategy",
            "In which order regions are updated.",
            integer("max_parallel", "Regions at the same time."),
            string("on_failure", "What a failed region does to the others.", choices="fail_all fail_local"),
        ),
    ),
    labelled(
        "region",
        Block(
            "MultiregionRegion",
            "One region.",
            integer("count", "The count of groups that state none."),
            strings("datacenters", "Where the job may run."),
            string("node_pool", "The pool of nodes that may run it."),
            string_map("meta", "Metadata of the job in this region."),
        ),
        key="Regions",
    ),
)

UI = Block(
    "JobUIConfig",
    "What a web interface shows.",
    string("description", "At most 1000 characters."),
    many(
        "link",
        Block("JobUILink", "A link.", string("label", "Its text."), string("url", "Its address.", key="Url")),
        key="Links",
    ),
)


def _finish_job(raw: Raw, report: Report) -> None:
    label = raw.pop("label")
    raw.setdefault("ID", label)
    raw.setdefault("Name", label)
    groups = [{"Name": task["Name"], "Tasks": [task]} for task in raw.pop("tasks", [])]
    groups += raw.get("TaskGroups", [])
    if groups:
        raw["TaskGroups"] = groups
    _hand_down(raw, [task for group in groups for task in group.get("Tasks", [])])


JOB = Block(
    "Job",
    "What should run.",
    string("id", "The job's id; the label if absent.", key="ID"),
    string("name", "A name for people; the label if absent."),
    string("type", "service if absent.", choices="service batch system sysbatch"),
    string("region", "The agent's region if absent."),
    string("namespace", "default if absent."),
    strings("datacenters", "Where it may run, with * as a wildcard; everywhere if absent."),
    string("node_pool", "The pool of nodes that may run it; default if absent."),
    integer("priority", "1 to 100; 50 if absent."),
    boolean("all_at_once", "Place all allocations of a plan or none."),
    string_map("meta", "Metadata."),
    many("constraint", CONSTRAINT, key="Constraints"),
    many("affinity", AFFINITY, key="Affinities"),
    many("spread", SPREAD, key="Spreads"),
    labelled("group", GROUP, key="TaskGroups"),
    labelled("task", TASK, key="tasks"),
    one("update", UPDATE),
    one("migrate", MIGRATE),
    one("reschedule", RESCHEDULE),
    one("periodic", PERIODIC),
    one("parameterized", PARAMETERIZED, key="ParameterizedJob"),
    one("multiregion", MULTIREGION),
    one("vault", VAULT),
    labelled("secret", SECRET, key="Secrets"),
    one("ui", UI, key="UI"),
    finish=_finish_job,
)
