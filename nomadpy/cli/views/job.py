"""Views of jobs: the list, one job in detail, its allocations, versions and deployments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views import explain
from nomadpy.cli.views.base import (
    Columns,
    Details,
    ago,
    date,
    heading,
    moment_ns,
    plain,
    section,
    short,
    stack,
    state,
    when,
)
from nomadpy.cli.views.evaluation import in_progress

_COUNTS = ("Queued", "Starting", "Running", "Failed", "Complete", "Lost", "Unknown")


def job_list(jobs: list[dict[str, Any]], now_ns: int, *, verbose: bool = False, namespaces: bool = False) -> Columns:
    """The table of all jobs; ``namespaces`` adds the column that tells them apart."""
    headers = ["ID", "Type", "Priority", "Status", "Submit Date"]
    if namespaces:
        headers.insert(1, "Namespace")
    rows = []
    for job in jobs:
        row = [
            job["ID"],
            type_of(job),
            plain(job.get("Priority")),
            state_of(job),
            when(job.get("SubmitTime"), now_ns, True) if verbose else ago(job.get("SubmitTime"), now_ns),
        ]
        if namespaces:
            row.insert(1, (job.get("JobSummary") or {}).get("Namespace") or job.get("Namespace") or "default")
        rows.append(row)
    return Columns(headers, rows, flexible=["ID"])


def is_parent(job: dict[str, Any]) -> bool:
    """Whether a job only starts others. What was dispatched still carries the parameters, but runs itself.

    >>> is_parent({"ParameterizedJob": {"Payload": ""}})
    True
    >>> is_parent({"ParameterizedJob": {"Payload": ""}, "Dispatched": True})
    False
    """
    return bool(job.get("Periodic")) or bool(job.get("ParameterizedJob") and not job.get("Dispatched"))


def type_of(job: dict[str, Any]) -> str:
    """The type of a job with what makes it a parent, as in ``batch/periodic``."""
    extra = [
        name for name, field in (("periodic", "Periodic"), ("parameterized", "ParameterizedJob")) if job.get(field)
    ]
    return "/".join([str(job.get("Type", "")), *extra])


def state_of(job: dict[str, Any]) -> Text:
    """The state of a job; one that was stopped on purpose says so."""
    status = str(job.get("Status", ""))
    return state(status, f"{status} (stopped)") if job.get("Stop") else state(status)


def job_header(job: dict[str, Any], now_ns: int, next_launch: Any = None) -> Details:
    """The facts about one job."""
    periodic = job.get("Periodic") or None
    pairs: list[tuple[str, str | Text]] = [
        ("ID", job["ID"]),
        ("Name", plain(job.get("Name"))),
        ("Submit Date", date(job.get("SubmitTime"))),
        ("Type", str(job.get("Type", ""))),
        ("Priority", plain(job.get("Priority"))),
        ("Datacenters", plain(job.get("Datacenters"))),
        ("Namespace", job.get("Namespace") or "default"),
        ("Node Pool", job.get("NodePool") or "default"),
        ("Status", state_of(job)),
        ("Periodic", plain(bool(periodic))),
        ("Parameterized", plain(bool(job.get("ParameterizedJob") and not job.get("Dispatched")))),
        ("Version", plain(job.get("Version", 0))),
    ]
    if job.get("StatusDescription"):
        pairs.append(("Status Description", str(job["StatusDescription"])))
    if periodic and not job.get("Stop"):
        launch = f"{date(next_launch)} ({ago(next_launch, now_ns)})" if moment_ns(next_launch) else "none planned"
        pairs.append(("Next Periodic Launch", launch))
    if (job.get("UI") or {}).get("Description"):
        pairs.append(("Description", str(job["UI"]["Description"])))
    return Details(pairs)


def summary(content: dict[str, Any], title: str = "Summary") -> RenderableType:
    """The counts per task group."""
    groups = sorted((content.get("Summary") or {}).items())
    rows = [[name, *(str(counts.get(field, 0)) for field in _COUNTS)] for name, counts in groups]
    return section(title, Columns(["Task Group", *_COUNTS], rows, flexible=["Task Group"]))


def children_summary(content: dict[str, Any], title: str) -> RenderableType:
    """The counts of the launched instances of a periodic or parameterized job."""
    counts = content.get("Children") or {}
    fields = ("Pending", "Running", "Dead")
    return section(title, Columns(fields, [[str(counts.get(field, 0)) for field in fields]]))


def children(rows: list[dict[str, Any]]) -> Columns:
    """The launched instances of a periodic or parameterized job."""
    return Columns(["ID", "Status"], [[row["ID"], state_of(row)] for row in rows])


def parameterized(job: dict[str, Any]) -> RenderableType:
    """What a parameterized job wants to be given."""
    config = job.get("ParameterizedJob") or {}
    return section(
        "Parameterized Job",
        Details(
            [
                ("Payload", plain(config.get("Payload"))),
                ("Required Metadata", plain(config.get("MetaRequired"))),
                ("Optional Metadata", plain(config.get("MetaOptional"))),
            ]
        ),
    )


def allocations(
    stubs: Iterable[dict[str, Any]], now_ns: int, *, verbose: bool = False, empty: str = "No allocations placed"
) -> RenderableType:
    """The table of allocations, newest first."""
    newest = sorted(stubs, key=lambda stub: (stub.get("CreateIndex", 0), stub.get("CreateTime", 0)), reverse=True)
    if not newest:
        return Text(empty)
    headers = ["ID", "Node ID", "Task Group", "Version", "Desired", "Status", "Created", "Modified"]
    if verbose:
        headers[1:2] = ["Eval ID", "Node ID", "Node Name"]
    rows = []
    for stub in newest:
        node = [short(stub.get("NodeID", ""), verbose)]
        if verbose:
            node = [stub.get("EvalID", ""), *node, plain(stub.get("NodeName"))]
        rows.append(
            [
                short(stub["ID"], verbose),
                *node,
                stub.get("TaskGroup", ""),
                plain(version_of(stub)),
                state(stub.get("DesiredStatus", "")),
                state(stub.get("ClientStatus", "")),
                when(stub.get("CreateTime"), now_ns, verbose),
                when(stub.get("ModifyTime"), now_ns, verbose),
            ]
        )
    return Columns(headers, rows, flexible=["Task Group", "Node Name", "Created", "Modified"])


def version_of(allocation: dict[str, Any]) -> int:
    """The version of the job an allocation runs, whether it is a full allocation or a stub."""
    if "JobVersion" in allocation:
        return int(allocation["JobVersion"])
    return int((allocation.get("Job") or {}).get("Version") or 0)


def evaluations(rows: Iterable[dict[str, Any]], *, verbose: bool = False) -> Columns:
    """The table of a job's evaluations, newest first."""
    newest = sorted(rows, key=lambda row: row.get("CreateIndex", 0), reverse=True)
    return Columns(
        ["ID", "Priority", "Triggered By", "Status", "Placement Failures"],
        [
            [
                short(row["ID"], verbose),
                plain(row.get("Priority")),
                row.get("TriggeredBy", ""),
                state(row.get("Status", "")),
                in_progress(row),
            ]
            for row in newest
        ],
    )


def placement_failure(evaluation: dict[str, Any]) -> RenderableType | None:
    """Why the newest evaluation that failed could not place everything, or None when all was placed."""
    by_group = evaluation.get("FailedTGAllocs") or {}
    return Group(heading("Placement Failure"), explain.failures(by_group, indent="")) if by_group else None


def history(versions: list[dict[str, Any]], diffs: list[RenderableType]) -> RenderableType:
    """The versions of a job, each with the difference to the one before it where ``diffs`` has one."""
    parts: list[RenderableType] = []
    for number, job in enumerate(versions):
        tag = job.get("VersionTag") or {}
        pairs: list[tuple[str, str | Text]] = [
            ("Version", plain(job.get("Version", 0))),
            ("Stable", plain(bool(job.get("Stable")))),
            ("Submit Date", date(job.get("SubmitTime"))),
        ]
        if tag.get("Name"):
            pairs.append(("Tag Name", str(tag["Name"])))
        if tag.get("Description"):
            pairs.append(("Tag Description", str(tag["Description"])))
        block: list[RenderableType] = [Details(pairs)]
        if number < len(diffs):
            block += [heading("Diff"), diffs[number]]
        parts.append(Group(*block))
    return stack(*parts)
