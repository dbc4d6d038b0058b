"""Views of deployments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views.base import Columns, Details, ago, date, heading, moment_ns, plain, short, state


def deployment_list(rows: Iterable[dict[str, Any]], *, verbose: bool = False) -> RenderableType:
    """The table of deployments, newest first."""
    newest = sorted(rows, key=lambda row: row.get("CreateIndex", 0), reverse=True)
    if not newest:
        return Text("No deployments found")
    return Columns(
        ["ID", "Job ID", "Job Version", "Status", "Description"],
        [
            [
                short(row["ID"], verbose),
                row.get("JobID", ""),
                plain(row.get("JobVersion", 0)),
                state(row.get("Status", "")),
                plain(row.get("StatusDescription")),
            ]
            for row in newest
        ],
        flexible=["Job ID", "Description"],
    )


def detail(deployment: dict[str, Any], now_ns: int, *, verbose: bool = False) -> RenderableType:
    """One deployment with its task groups."""
    pairs: list[tuple[str, str | Text]] = [
        ("ID", short(deployment["ID"], verbose)),
        ("Job ID", plain(deployment.get("JobID"))),
        ("Job Version", plain(deployment.get("JobVersion", 0))),
        ("Status", state(deployment.get("Status", ""))),
        ("Description", plain(deployment.get("StatusDescription"))),
    ]
    groups = sorted((deployment.get("TaskGroups") or {}).items())
    if not groups:
        return Details(pairs)
    return Group(Details(pairs), Text(""), heading("Deployed"), _groups(groups, now_ns, verbose))


def _groups(groups: list[tuple[str, dict[str, Any]]], now_ns: int, verbose: bool) -> Columns:
    has_canaries = any(group.get("DesiredCanaries") for _, group in groups)
    reverts = any(group.get("AutoRevert") for _, group in groups)
    headers = ["Task Group", "Desired", "Placed", "Healthy", "Unhealthy", "Progress Deadline"]
    if has_canaries:
        headers[1:1] = ["Promoted"]
        headers.insert(3, "Canaries")
    if reverts:
        headers.insert(1, "Auto Revert")
    rows = []
    for name, group in groups:
        values = {
            "Task Group": name,
            "Auto Revert": plain(bool(group.get("AutoRevert"))),
            "Promoted": plain(bool(group.get("Promoted"))) if group.get("DesiredCanaries") else "N/A",
            "Desired": plain(group.get("DesiredTotal", 0)),
            "Canaries": plain(group.get("DesiredCanaries", 0)),
            "Placed": plain(group.get("PlacedAllocs", 0)),
            "Healthy": plain(group.get("HealthyAllocs", 0)),
            "Unhealthy": plain(group.get("UnhealthyAllocs", 0)),
            "Progress Deadline": _deadline(group, now_ns, verbose),
        }
        rows.append([values[header] for header in headers])
    return Columns(headers, rows, flexible=["Task Group"])


def _deadline(group: dict[str, Any], now_ns: int, verbose: bool) -> str:
    at = moment_ns(group.get("RequireProgressBy"))
    if not at:
        return "N/A"
    return date(at) if verbose else ago(at, now_ns)
