"""The view of a dry run: what would change in the job, and what the scheduler would do about it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views import explain
from nomadpy.cli.views.base import ago, heading, moment_ns

_MARKS = {"Added": ("+", "green"), "Deleted": ("-", "red"), "Edited": ("+/-", "yellow"), "None": ("", "")}
_DURATIONS = frozenset(
    (
        *("Delay", "Grace", "HealthyDeadline", "Interval", "KillTimeout", "LostAfter", "MaxClientDisconnect"),
        *("MaxDelay", "MinHealthyTime", "ProgressDeadline", "ShutdownDelay", "Splay", "Stagger", "StopOnClientAfter"),
        *("StopAfterClientDisconnect", "TTL", "Timeout"),
    )
)
_UPDATE_STYLES = {
    "create": "green",
    "canary": "yellow",
    "destroy": "red",
    "migrate": "blue",
    "in-place update": "cyan",
    "create/destroy update": "yellow",
    "ignore": "",
}
_ANNOTATION_STYLES = {
    "forces create": "green",
    "forces destroy": "red",
    "forces in-place update": "cyan",
    "forces create/destroy update": "yellow",
}


def job_diff(diff: dict[str, Any], *, verbose: bool = False) -> Group:
    """The difference of two jobs. What comes or goes as a whole, or does not change, is named but not opened unless
    ``verbose``: it would say no more than the job file does."""
    lines = [_marked(diff, f'Job: "{diff.get("ID", "")}"', 0)]
    if diff.get("Type") == "Edited" or verbose:
        lines += _content(diff, 1)
    for number, group in enumerate(diff.get("TaskGroups") or []):
        lines += [Text("")] * bool(number) + list(_group(group, verbose))
    return Group(*lines)


def _group(group: dict[str, Any], verbose: bool) -> Iterator[Text]:
    title = _marked(group, f'Task Group: "{group.get("Name", "")}"', 0)
    updates = sorted((group.get("Updates") or {}).items())
    if updates:
        parts = [Text(f"{count} {name}", style=_UPDATE_STYLES.get(name, "")) for name, count in updates]
        title = Text.assemble(title, " (", Text(", ").join(parts), ")")
    yield title
    if group.get("Type") == "Edited" or verbose:
        yield from _content(group, 1)
    for task in group.get("Tasks") or []:
        line = _marked(task, f'Task: "{task.get("Name", "")}"', 1)
        yield Text.assemble(line, _annotations(task))
        if task.get("Type") == "Edited" or verbose:
            yield from _content(task, 2)


def _content(node: dict[str, Any], depth: int) -> Iterator[Text]:
    # What is empty on both sides is only there to complete the structure.
    fields = [field for field in node.get("Fields") or [] if field.get("Old") or field.get("New")]
    objects = node.get("Objects") or []
    name_width = max((len(field["Name"]) for field in fields), default=0)
    for field in fields:
        yield _field(field, name_width, depth)
    for thing in objects:
        yield _marked(thing, f"{thing.get('Name', '')} {{", depth)
        yield from _content(thing, depth + 1)
        yield Text(_indent(depth) + "}")


def _field(field: dict[str, Any], name_width: int, depth: int) -> Text:
    kind, old, new = field.get("Type"), _readable(field, "Old"), _readable(field, "New")
    name = f"{field['Name']}: ".ljust(name_width + 2)
    value = {"Added": f'"{new}"', "Deleted": f'"{old}"', "Edited": f'"{old}" => "{new}"'}.get(str(kind), f'"{new}"')
    return Text.assemble(_marked(field, name + value, depth), _annotations(field))


def _readable(field: dict[str, Any], side: str) -> str:
    """A value of a field; lengths of time, which the API gives in nanoseconds, as they are written in a job file.

    >>> _readable({"Name": "Delay", "Old": "90000000000"}, "Old"), _readable({"Name": "Count", "Old": "3"}, "Old")
    ('1m30s', '3')
    """
    value = str(field.get(side) or "")
    if field.get("Name") not in _DURATIONS or not value.isdigit() or value == "0":
        return value
    from nomadpy.model.time import format_duration

    return format_duration(int(value))


def _annotations(node: dict[str, Any]) -> Text:
    words = node.get("Annotations") or []
    if not words:
        return Text("")
    parts = [Text(word, style=_ANNOTATION_STYLES.get(word, "")) for word in words]
    return Text.assemble(" (", Text(", ").join(parts), ")")


def _marked(node: dict[str, Any], text: str, depth: int) -> Text:
    mark, style = _MARKS.get(str(node.get("Type")), ("", ""))
    is_title = text.startswith(("Job:", "Task Group:", "Task:"))
    return Text.assemble(("  " * depth + mark.ljust(4), style), (text, "bold" if is_title else ""))


def _indent(depth: int) -> str:
    return "  " * depth + " " * 4


def dry_run(plan: dict[str, Any], job: dict[str, Any], now_ns: int) -> Group:
    """What the scheduler would do: whether everything fits, what would be preempted, when a periodic job starts."""
    lines: list[RenderableType] = [heading("Scheduler dry-run:")]
    failed = plan.get("FailedTGAllocs") or {}
    rolling = _rolling(plan)
    if failed:
        lines.append(Text("- WARNING: Failed to place all allocations.", style="bold yellow"))
        lines.append(explain.failures(failed))
    else:
        lines.append(Text("- All tasks successfully allocated.", style="bold green"))
    if rolling:
        lines.append(Text(f"- Rolling update, next evaluation will be in {rolling}.", style="green"))
    lines += _preempted(plan)
    launch = moment_ns(plan.get("NextPeriodicLaunch"))
    if launch:
        moment = dt.datetime.fromtimestamp(launch / 1e9, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines.append(
            Text(
                f"- If submitted now, next periodic launch would be at {moment} ({ago(launch, now_ns)}).", style="green"
            )
        )
    elif job.get("Periodic"):
        lines.append(Text("- The periodic schedule has no launch to come.", style="yellow"))
    return Group(*lines)


def _rolling(plan: dict[str, Any]) -> str:
    rolling = (one for one in plan.get("CreatedEvals") or [] if one.get("TriggeredBy") == "rolling-update")
    longest = max((one.get("Wait", 0) for one in rolling), default=0)
    return f"{longest / 1e9:g}s" if longest else ""


def _preempted(plan: dict[str, Any]) -> Iterator[Text]:
    stubs = (plan.get("Annotations") or {}).get("PreemptedAllocs") or []
    if not stubs:
        return
    what = "1 allocation" if len(stubs) == 1 else f"{len(stubs)} allocations"
    yield Text(f"- {what} of lower priority would be stopped to make room:", style="yellow")
    for stub in stubs[:10]:
        yield Text(f"  * {stub.get('ID', '')[:8]} of job {stub.get('JobID', '')}, group {stub.get('TaskGroup', '')}")
    if len(stubs) > 10:
        yield Text(f"  * and {len(stubs) - 10} more")


def index_hint(index: int, command: str) -> Group:
    """How to register exactly what was planned."""
    return Group(
        heading(f"Job Modify Index: {index}"),
        Text("To submit the job with version verification run:"),
        Text(""),
        Text(f"nomadpy job run -check-index {index} {command}"),
        Text(""),
        Text(
            "With -check-index the job is only registered if nobody changed it since this plan was made. "
            "If the index has moved on, plan again and look at the new result."
        ),
    )


def warnings(text: str) -> Text | None:
    """The warnings of the agent, or None when there are none."""
    return Text("Job Warnings:\n" + text.strip(), style="yellow") if text.strip() else None
