"""Views of one allocation: facts, tasks with usage and events, addresses, and how it was placed."""

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
    harmless,
    heading,
    moment_ns,
    plain,
    section,
    short,
    size,
    stack,
    state,
    when,
)
from nomadpy.cli.views.job import version_of

MIB = 1 << 20
_LIFECYCLE_ORDER = {"prestart": 0, "": 1, "poststart": 2, "poststop": 3}


def header(allocation: dict[str, Any], now_ns: int, *, verbose: bool = False) -> Details:
    """The facts about an allocation."""
    pairs: list[tuple[str, str | Text]] = [
        ("ID", short(allocation["ID"], verbose)),
        ("Eval ID", short(allocation.get("EvalID", ""), verbose) or "-"),
        ("Name", plain(allocation.get("Name"))),
        ("Node ID", short(allocation.get("NodeID", ""), verbose) or "-"),
        ("Node Name", plain(allocation.get("NodeName"))),
        ("Job ID", plain(allocation.get("JobID"))),
        ("Job Version", plain(version_of(allocation))),
        ("Namespace", allocation.get("Namespace") or "default"),
        ("Client Status", state(allocation.get("ClientStatus", ""))),
        ("Client Description", plain(allocation.get("ClientDescription"))),
        ("Desired Status", state(allocation.get("DesiredStatus", ""))),
        ("Desired Description", plain(allocation.get("DesiredDescription"))),
        ("Created", when(allocation.get("CreateTime"), now_ns, verbose)),
        ("Modified", when(allocation.get("ModifyTime"), now_ns, verbose)),
    ]
    pairs += _deployment(allocation, verbose)
    for label, name in (
        ("Replacement Alloc ID", "NextAllocation"),
        ("Previous Alloc ID", "PreviousAllocation"),
        ("Preempted By", "PreemptedByAllocation"),
        ("Reschedule Eval ID", "FollowupEvalID"),
    ):
        if allocation.get(name):
            pairs.append((label, short(str(allocation[name]), verbose)))
    tracker = (allocation.get("RescheduleTracker") or {}).get("Events") or []
    if tracker:
        pairs.append(("Reschedule Attempts", str(len(tracker))))
    return Details(pairs)


def _deployment(allocation: dict[str, Any], verbose: bool) -> list[tuple[str, str | Text]]:
    if not allocation.get("DeploymentID"):
        return []
    status = allocation.get("DeploymentStatus") or {}
    health = status.get("Healthy")
    word = "unset" if health is None else "healthy" if health else "unhealthy"
    pairs: list[tuple[str, str | Text]] = [
        ("Deployment ID", short(allocation["DeploymentID"], verbose)),
        ("Deployment Health", Text(word, style={"healthy": "green", "unhealthy": "red"}.get(word, ""))),
    ]
    return [*pairs, ("Canary", "true")] if status.get("Canary") else pairs


def addresses(allocation: dict[str, Any]) -> RenderableType | None:
    """Where the ports of the allocation are reachable, or None when it has none."""
    shared = (allocation.get("AllocatedResources") or {}).get("Shared") or {}
    ports = shared.get("Ports") or []
    if not ports:
        return None
    rows = []
    for port in ports:
        inside = port.get("To") or 0
        address = f"{port.get('HostIP', '')}:{port.get('Value', '')}"
        rows.append([plain(port.get("Label")), "yes", f"{address} -> {inside}" if inside > 0 else address])
    return section("Allocation Addresses", Columns(["Label", "Dynamic", "Address"], _dynamic(rows, allocation)))


def _dynamic(rows: list[list[str]], allocation: dict[str, Any]) -> list[list[str]]:
    networks = ((allocation.get("AllocatedResources") or {}).get("Shared") or {}).get("Networks") or []
    static = {port.get("Label") for network in networks for port in network.get("ReservedPorts") or []}
    return [[label, "no" if label in static else "yes", address] for label, _, address in rows]


def tasks(
    allocation: dict[str, Any], stats: dict[str, Any] | None, *, last_words: dict[str, str] | None = None
) -> RenderableType | None:
    """Every task with its resources, usage and recent events, in the order in which they start.

    ``last_words`` are the last lines on stderr of those that failed, which mostly tell why.
    """
    states = allocation.get("TaskStates") or {}
    usage = (stats or {}).get("Tasks") or {}
    parts: list[RenderableType] = []
    for name in _order(allocation, states):
        parts.append(_task(allocation, name, states.get(name) or {}, usage.get(name)))
        if (last_words or {}).get(name):
            parts.append(section("Last Lines on stderr:", Text(harmless((last_words or {})[name]))))
    return stack(*parts) if parts else None


def _order(allocation: dict[str, Any], states: dict[str, Any]) -> list[str]:
    cycles = (allocation.get("AllocatedResources") or {}).get("TaskLifecycles") or {}
    names = {*states, *cycles}
    return sorted(names, key=lambda name: (_LIFECYCLE_ORDER.get((cycles.get(name) or {}).get("Hook", ""), 1), name))


def _task(allocation: dict[str, Any], name: str, task: dict[str, Any], usage: dict[str, Any] | None) -> RenderableType:
    cycle = ((allocation.get("AllocatedResources") or {}).get("TaskLifecycles") or {}).get(name) or {}
    kind = f" ({cycle['Hook']}{' sidecar' if cycle.get('Sidecar') else ''})" if cycle.get("Hook") else ""
    status = str(task.get("State") or "pending")
    title = Text.assemble(
        (f'Task "{name}"{kind} is ', "bold"), state("failed" if task.get("Failed") else status, f'"{status}"')
    )
    return Group(
        title,
        section("Task Resources", _task_resources(allocation, name, usage)),
        Text(""),
        heading("Task Events:"),
        Details(
            [
                ("Started At", date(task.get("StartedAt"))),
                ("Finished At", date(task.get("FinishedAt"))),
                ("Total Restarts", plain(task.get("Restarts", 0))),
                ("Last Restart", date(task.get("LastRestart"))),
            ]
        ),
        Text(""),
        section("Recent Events:", events(task.get("Events") or [])),
    )


def _task_resources(allocation: dict[str, Any], name: str, usage: dict[str, Any] | None) -> Columns:
    parts = allocation.get("AllocatedResources") or {}
    mine = (parts.get("Tasks") or {}).get(name) or {}
    cpu = (mine.get("Cpu") or {}).get("CpuShares", 0)
    memory = mine.get("Memory") or {}
    disk = (parts.get("Shared") or {}).get("DiskMB", 0)
    used = (usage or {}).get("ResourceUsage") or {}
    cpu_text, memory_text = f"{cpu} MHz", size(memory.get("MemoryMB", 0) * MIB)
    if used:
        cpu_text = f"{(used.get('CpuStats') or {}).get('TotalTicks', 0):.0f}/{cpu_text}"
        memory_text = f"{size(memory_in_use(used))}/{memory_text}"
    headers, row = ["CPU", "Memory", "Disk"], [cpu_text, memory_text, size(disk * MIB)]
    if memory.get("MemoryMaxMB"):
        headers.insert(2, "Memory Max")
        row.insert(2, size(memory["MemoryMaxMB"] * MIB))
    return Columns(headers, [row])


def memory_in_use(usage: dict[str, Any]) -> int:
    """The bytes a task uses: what the driver calls usage, or else what is resident."""
    memory = usage.get("MemoryStats") or {}
    return int(memory.get("Usage") or memory.get("RSS") or 0)


def events(rows: Iterable[dict[str, Any]]) -> Columns:
    """What happened to a task, newest first."""
    # The newest stands last in what is reported; of several at the same moment that order decides.
    numbered = sorted(enumerate(rows), key=lambda pair: (moment_ns(pair[1].get("Time")), pair[0]), reverse=True)
    newest = [event for _, event in numbered]
    return Columns(
        ["Time", "Type", "Description"],
        [
            [date(event.get("Time")), Text(event.get("Type", ""), style=_event_style(event)), describe(event)]
            for event in newest
        ],
        flexible=["Description"],
    )


def describe(event: dict[str, Any]) -> str:
    """What an event says, in one line."""
    said = event.get("DisplayMessage") or event.get("Message") or event.get("DriverError") or ""
    return plain(" ".join(str(said).split()))


def _event_style(event: dict[str, Any]) -> str:
    kind = str(event.get("Type", ""))
    code = str((event.get("Details") or {}).get("exit_code") or event.get("ExitCode") or 0)
    if "Fail" in kind or kind in ("Not Restarting", "Alloc Unhealthy") or (kind == "Terminated" and code != "0"):
        return "red"
    return "yellow" if kind in ("Restarting", "Killing", "Restart Signaled") else ""


def checks(results: dict[str, Any]) -> RenderableType | None:
    """The latest results of the health checks, or None when there are none."""
    if not results:
        return None
    colours = {"success": "green", "failure": "red"}
    rows: list[list[str | Text]] = []
    for one in sorted(results.values(), key=lambda one: (str(one.get("Service")), str(one.get("Check")))):
        status = str(one.get("Status", ""))
        rows.append(
            [
                plain(one.get("Service")),
                plain(one.get("Check")),
                Text(status, style=colours.get(status, "yellow")),
                " ".join(str(one.get("Output") or "-").split()),
            ]
        )
    return section("Nomad Service Checks", Columns(["Service", "Check", "Status", "Output"], rows, flexible=["Output"]))


def placement(metrics: dict[str, Any], *, verbose: bool = False) -> RenderableType:
    """How the scheduler came to choose the node."""
    facts = Details(
        [
            ("Nodes Evaluated", plain(metrics.get("NodesEvaluated", 0))),
            ("Nodes Filtered", plain(metrics.get("NodesFiltered", 0))),
            ("Nodes Exhausted", plain(metrics.get("NodesExhausted", 0))),
            ("Time Taken", f"{metrics.get('AllocationTime', 0) / 1e6:.3g} ms"),
        ]
    )
    notes = [Text(f"  * {line}") for line in explain.reasons(metrics)]
    table = explain.scores(metrics, verbose)
    parts: list[RenderableType] = [facts, *notes]
    if table:
        parts += [Text(""), table]
    return section("Placement Metrics", Group(*parts))


def usage_table(allocation: dict[str, Any], stats: dict[str, Any], now_ns: int) -> RenderableType:
    """What every task uses at the moment."""
    rows = []
    for name, one in sorted((stats.get("Tasks") or {}).items()):
        used = one.get("ResourceUsage") or {}
        cpu = used.get("CpuStats") or {}
        memory = used.get("MemoryStats") or {}
        mine = ((allocation.get("AllocatedResources") or {}).get("Tasks") or {}).get(name) or {}
        rows.append(
            [
                name,
                f"{cpu.get('TotalTicks', 0):.0f}/{(mine.get('Cpu') or {}).get('CpuShares', 0)} MHz",
                f"{cpu.get('Percent', 0):.1f} %",
                f"{size(memory_in_use(used))}/{size((mine.get('Memory') or {}).get('MemoryMB', 0) * MIB)}",
                size(memory.get("RSS", 0)),
                str(cpu.get("ThrottledPeriods", 0)),
                ago(one.get("Timestamp"), now_ns),
            ]
        )
    return Columns(["Task", "CPU", "CPU %", "Memory", "RSS", "Throttled", "Measured"], rows, flexible=["Task"])


def files(rows: Iterable[dict[str, Any]], *, human: bool = True) -> Columns:
    """The listing of a directory, directories first."""
    ordered = sorted(rows, key=lambda one: (not one.get("IsDir"), str(one.get("Name"))))
    return Columns(
        ["Mode", "Size", "Modified Time", "Name"],
        [
            [
                plain(one.get("FileMode")),
                size(one.get("Size", 0)) if human else plain(one.get("Size", 0)),
                date(one.get("ModTime")),
                Text(
                    f"{one.get('Name', '')}{'/' if one.get('IsDir') else ''}", style="blue" if one.get("IsDir") else ""
                ),
            ]
            for one in ordered
        ],
    )
