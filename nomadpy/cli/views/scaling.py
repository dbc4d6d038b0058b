"""Views of scaling policies, of counts by group, and of scaling events."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nomadpy.cli.views.base import Cell, Columns, Details, moment_ns, plain, section, short, stack, when


def policy_list(rows: Iterable[dict[str, Any]], *, verbose: bool = False) -> RenderableType:
    """The table of scaling policies."""
    table: list[list[Cell]] = []
    for row in rows:
        target = row.get("Target") or {}
        enabled = bool(row.get("Enabled"))
        names = ",".join(str(target[part]) for part in ("Namespace", "Job", "Group", "Task") if target.get(part))
        shown = Text(plain(enabled), style="green" if enabled else "yellow")
        table.append([short(row["ID"], verbose), shown, plain(row.get("Type")), names])
    if not table:
        return Text("No policies found")
    return Columns(["ID", "Enabled", "Type", "Target"], table, flexible=["Target"])


def policy(found: dict[str, Any], *, verbose: bool = False) -> RenderableType:
    """One scaling policy, with what it tells an autoscaler."""
    target = ", ".join(f"{name}: {value}" for name, value in sorted((found.get("Target") or {}).items()))
    facts = Details(
        [
            ("ID", short(found["ID"], verbose)),
            ("Enabled", plain(bool(found.get("Enabled")))),
            ("Type", plain(found.get("Type"))),
            ("Target", target or "-"),
            ("Min", plain(found.get("Min"))),
            ("Max", plain(found.get("Max"))),
        ]
    )
    rule = found.get("Policy")
    return stack(facts, section("Policy", Text(json.dumps(rule, indent=2))) if rule else None)


def status(found: dict[str, Any]) -> RenderableType:
    """What each group of a job wants and has."""
    rows = [
        [name, *(str(one.get(field) or 0) for field in ("Desired", "Placed", "Running", "Healthy", "Unhealthy"))]
        for name, one in sorted((found.get("TaskGroups") or {}).items())
    ]
    return Columns(
        ["Task Group", "Desired", "Placed", "Running", "Healthy", "Unhealthy"], rows, flexible=["Task Group"]
    )


def events(groups: dict[str, list[dict[str, Any]]], now_ns: int, *, verbose: bool = False) -> RenderableType:
    """What was scaled when, newest first."""
    flat = [(moment_ns(event.get("Time")), name, event) for name, each in groups.items() for event in each]
    flat.sort(key=lambda entry: (-entry[0], entry[1]))
    rows: list[list[Cell]] = [
        [
            name,
            plain(event.get("Count")),
            plain(event.get("PreviousCount")),
            Text(plain(bool(event.get("Error"))), style="red" if event.get("Error") else ""),
            plain(event.get("Message")),
            short(str(event.get("EvalID") or ""), verbose) or "-",
            when(at, now_ns, verbose),
        ]
        for at, name, event in flat
    ]
    if not rows:
        return Text("No events found")
    headers = ["Task Group", "Count", "Previous", "Error", "Message", "Eval ID", "Date"]
    return Columns(headers, rows, flexible=["Message", "Task Group"])
