"""Views of evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views import explain
from nomadpy.cli.views.base import Columns, Details, heading, plain, section, short, stack, state, when


def evaluation_list(rows: Iterable[dict[str, Any]], *, verbose: bool = False) -> RenderableType:
    """The table of evaluations."""
    table = [
        [
            short(row["ID"], verbose),
            plain(row.get("Priority")),
            row.get("TriggeredBy", ""),
            plain(row.get("JobID")),
            plain(row.get("Namespace")),
            short(row.get("NodeID", ""), verbose) or "-",
            state(row.get("Status", "")),
            in_progress(row),
        ]
        for row in rows
    ]
    if not table:
        return Text("No evals found")
    headers = ["ID", "Priority", "Triggered By", "Job ID", "Namespace", "Node ID", "Status", "Placement Failures"]
    return Columns(headers, table, flexible=["Job ID", "Triggered By"])


def in_progress(row: dict[str, Any]) -> str:
    """Whether an evaluation failed to place something, once that is known."""
    waits = row.get("Status") in ("blocked", "pending")
    return "N/A - In Progress" if waits else plain(bool(row.get("FailedTGAllocs")))


def detail(evaluation: dict[str, Any], now_ns: int, *, verbose: bool = False) -> RenderableType:
    """One evaluation, what it led to, and why it could not place everything."""
    failed = evaluation.get("FailedTGAllocs") or {}
    pairs: list[tuple[str, str | Text]] = [
        ("ID", short(evaluation["ID"], verbose)),
        ("Create Time", when(evaluation.get("CreateTime"), now_ns, verbose)),
        ("Modify Time", when(evaluation.get("ModifyTime"), now_ns, verbose)),
        ("Status", state(evaluation.get("Status", ""))),
        ("Status Description", plain(evaluation.get("StatusDescription"))),
        ("Type", plain(evaluation.get("Type"))),
        ("TriggeredBy", plain(evaluation.get("TriggeredBy"))),
        ("Job ID", plain(evaluation.get("JobID"))),
        ("Namespace", plain(evaluation.get("Namespace"))),
        ("Node ID", short(evaluation.get("NodeID", ""), verbose) or "-"),
        ("Deployment ID", short(evaluation.get("DeploymentID", ""), verbose) or "-"),
        ("Priority", plain(evaluation.get("Priority"))),
        ("Placement Failures", plain(bool(failed))),
    ]
    for label, name in (("Previous Eval", "PreviousEval"), ("Next Eval", "NextEval"), ("Blocked Eval", "BlockedEval")):
        if evaluation.get(name):
            pairs.append((label, short(str(evaluation[name]), verbose)))
    return stack(Details(pairs), _failed(failed, evaluation, verbose), _related(evaluation, verbose))


def _failed(failed: dict[str, Any], evaluation: dict[str, Any], verbose: bool) -> RenderableType | None:
    if not failed:
        return None
    parts: list[RenderableType] = [heading("Failed Placements"), explain.failures(failed, indent="")]
    if evaluation.get("BlockedEval"):
        waiting = short(str(evaluation["BlockedEval"]), verbose)
        parts.append(Text(f'Evaluation "{waiting}" waits for additional capacity to place the remainder'))
    return Group(*parts)


def _related(evaluation: dict[str, Any], verbose: bool) -> RenderableType | None:
    rows = evaluation.get("RelatedEvals") or []
    if not rows:
        return None
    table = [
        [
            short(row["ID"], verbose),
            plain(row.get("Priority")),
            row.get("TriggeredBy", ""),
            short(row.get("NodeID", ""), verbose) or "-",
            state(row.get("Status", "")),
            plain(row.get("StatusDescription")),
        ]
        for row in rows
    ]
    headers = ["ID", "Priority", "Triggered By", "Node ID", "Status", "Description"]
    return section("Related Evaluations", Columns(headers, table, flexible=["Triggered By", "Description"]))
