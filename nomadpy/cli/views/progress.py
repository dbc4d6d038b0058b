"""What is shown while a job is followed: a board that is redrawn, or lines that are added when nobody watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views import explain
from nomadpy.cli.views.base import Columns, Indented, short, span, state

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_TERMINAL = ("complete", "failed", "lost")


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Everything that one look at the cluster showed."""

    evaluation: dict[str, Any] = field(default_factory=dict)
    allocations: tuple[dict[str, Any], ...] = ()
    deployment: dict[str, Any] | None = None

    @property
    def is_evaluated(self) -> bool:
        """Whether the scheduler is done with the evaluation."""
        return self.evaluation.get("Status") in ("complete", "failed", "canceled")

    @property
    def is_settled(self) -> bool:
        """Whether every allocation has started or ended, so that there is nothing left to wait for."""
        return all(
            one.get("ClientStatus") != "pending" for one in self.allocations if one.get("DesiredStatus") == "run"
        )


def board(sight: Sight, frame: int, elapsed_ns: int) -> RenderableType:
    """The board: the evaluation, the counts per task group, and the deployment when there is one."""
    wheel = SPINNER[frame % len(SPINNER)]
    is_evaluation = bool(sight.evaluation) or sight.deployment is None
    parts: list[RenderableType] = [_evaluation_line(sight, wheel, elapsed_ns)] if is_evaluation else []
    rows = _group_rows(sight)
    if rows:
        parts.append(Indented(Columns(["Task Group", "Desired", "Placed", "Running", "Healthy", "Failed"], rows)))
    if sight.deployment:
        parts.append(_deployment_line(sight.deployment, wheel))
    parts += _troubles(sight)
    return Group(*parts)


def _evaluation_line(sight: Sight, wheel: str, elapsed_ns: int) -> Text:
    evaluation = sight.evaluation
    status = str(evaluation.get("Status", "pending"))
    lead = Text("✓ " if status == "complete" else "✗ " if sight.is_evaluated else f"{wheel} ")
    lead.stylize("green" if status == "complete" else "red" if sight.is_evaluated else "cyan")
    return Text.assemble(
        lead, f"Evaluation {short(evaluation.get('ID', ''))} ", state(status), (f"  {span(elapsed_ns)}", "dim")
    )


def _deployment_line(deployment: dict[str, Any], wheel: str) -> Text:
    status = str(deployment.get("Status", ""))
    marks = {"successful": ("✓ ", "green"), "failed": ("✗ ", "red"), "cancelled": ("✗ ", "red")}
    mark, style = marks.get(status, (f"{wheel} ", "cyan"))
    described = deployment.get("StatusDescription") or status
    ident = short(deployment.get("ID", ""))
    line = Text.assemble((mark, style), f"Deployment {ident} ", state(status, described))
    return line.append(f"\n  {promotion_hint(deployment)}") if promotion_hint(deployment) else line


def promotion_hint(deployment: dict[str, Any]) -> str:
    """How to promote a deployment that waits for it, or nothing.

    >>> promotion_hint({"ID": "d4d4d4d4-1", "StatusDescription": "Deployment is running but requires manual promotion"})
    'Promote it with: nomadpy deployment promote d4d4d4d4'
    """
    if "manual promotion" not in str(deployment.get("StatusDescription")):
        return ""
    return f"Promote it with: nomadpy deployment promote {short(deployment['ID'])}"


def _group_rows(sight: Sight) -> list[list[str | Text]]:
    wanted = (sight.deployment or {}).get("TaskGroups") or {}
    names = sorted({*wanted, *(str(one.get("TaskGroup", "")) for one in sight.allocations)})
    rows: list[list[str | Text]] = []
    for name in names:
        group = wanted.get(name) or {}
        mine = [one for one in sight.allocations if one.get("TaskGroup") == name]
        running = sum(one.get("ClientStatus") == "running" for one in mine)
        failed = sum(one.get("ClientStatus") in ("failed", "lost") for one in mine)
        healthy = sum(bool((one.get("DeploymentStatus") or {}).get("Healthy")) for one in mine)
        rows.append(
            [
                name,
                str(group.get("DesiredTotal", len(mine))),
                str(len(mine)),
                str(running),
                str(healthy) if group else "-",
                Text(str(failed), style="red" if failed else ""),
            ]
        )
    return rows


def _troubles(sight: Sight) -> list[Text]:
    return [Text(f"  ! {line}", style="red") for line in troubles(sight)][:8]


def troubles(sight: Sight) -> list[str]:
    """One line for each task that fails, with the last thing that happened to it."""
    lines = []
    for allocation in sight.allocations:
        for name, task in sorted((allocation.get("TaskStates") or {}).items()):
            events = task.get("Events") or []
            bad = [event for event in events if _is_bad(event)]
            if bad and (task.get("Failed") or task.get("State") != "running"):
                # These follow from what went wrong before, which tells more.
                causes = [event for event in bad if event.get("Type") not in ("Not Restarting", "Alloc Unhealthy")]
                last = (causes or bad)[-1]
                said = last.get("DisplayMessage") or last.get("Message") or ""
                lines.append(f"{short(allocation.get('ID', ''))} task {name}: {last.get('Type')}: {said}")
    return lines


_BAD_EVENTS = (
    "Driver Failure",
    "Failed Artifact Download",
    "Failed Validation",
    "Setup Failure",
    "Task hook failed",
    "Not Restarting",
    "Alloc Unhealthy",
)


def _is_bad(event: dict[str, Any]) -> bool:
    return event.get("Type") in _BAD_EVENTS or bool(event.get("FailsTask")) or _exited_badly(event)


def _exited_badly(event: dict[str, Any]) -> bool:
    details = event.get("Details") or {}
    return event.get("Type") == "Terminated" and str(details.get("exit_code", event.get("ExitCode", 0))) != "0"


def news(before: Sight, after: Sight) -> list[str]:
    """What has changed between two looks, one line each, for an output that cannot be redrawn."""
    lines: list[str] = []
    if not before.evaluation and after.evaluation:
        lines.append(f'Evaluation triggered by "{after.evaluation.get("TriggeredBy", "")}"')
    known = {one["ID"]: one for one in before.allocations}
    for allocation in after.allocations:
        earlier = known.get(allocation["ID"])
        lines += _allocation_news(earlier, allocation, int(after.evaluation.get("CreateIndex") or 0))
    lines += _deployment_news(before.deployment, after.deployment)
    seen = set(troubles(before))
    lines += [line for line in troubles(after) if line not in seen]
    if before.evaluation.get("Status") != after.evaluation.get("Status") and after.is_evaluated:
        lines.append(f'Evaluation status changed to "{after.evaluation["Status"]}"')
    return lines


def _allocation_news(before: dict[str, Any] | None, after: dict[str, Any], since: int) -> list[str]:
    ident, group = short(after["ID"]), after.get("TaskGroup", "")
    status = after.get("ClientStatus", "")
    if before is None:
        where = f'node "{short(after.get("NodeID", ""))}", group "{group}"'
        happened = "modified" if (after.get("CreateIndex") or since) < since else "created"
        lines = [f'Allocation "{ident}" {happened}: {where}']
        return lines if status == "pending" else [*lines, f'Allocation "{ident}" is {status}']
    lines = []
    if before.get("ClientStatus") != status:
        lines.append(f'Allocation "{ident}" is {status} (was {before.get("ClientStatus")})')
    health = (after.get("DeploymentStatus") or {}).get("Healthy")
    if health is not None and (before.get("DeploymentStatus") or {}).get("Healthy") != health:
        lines.append(f'Allocation "{ident}" is {"healthy" if health else "unhealthy"}')
    return lines


def _deployment_news(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    if after is None:
        return []
    lines = []
    if before is None:
        lines.append(f'Evaluation within deployment "{short(after["ID"])}"')
    if (before or {}).get("StatusDescription") != after.get("StatusDescription"):
        lines.append(f'Deployment "{short(after["ID"])}": {after.get("StatusDescription") or after.get("Status")}')
        lines += [promotion_hint(after)] * bool(promotion_hint(after))
    return lines


def blocked_note(evaluation: dict[str, Any]) -> Text | None:
    """The note that the rest waits for capacity, or None when nothing waits."""
    if not evaluation.get("BlockedEval"):
        return None
    return Text(
        f'Evaluation "{short(evaluation["BlockedEval"])}" waits for additional capacity to place the remainder.',
        style="yellow",
    )


def failed_placement(evaluation: dict[str, Any]) -> RenderableType | None:
    """Why the evaluation could not place everything, or None when it could."""
    by_group = evaluation.get("FailedTGAllocs") or {}
    if not by_group:
        return None
    title = Text("Not everything could be placed:", style="bold yellow")
    return Group(title, explain.failures(by_group))
