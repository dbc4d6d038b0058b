"""Views of nodes: the list, and one node with its resources, drivers, events and allocations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nomadpy.cli.views.base import (
    Columns,
    Details,
    ago,
    date,
    moment_ns,
    plain,
    section,
    short,
    size,
    span,
    stack,
    state,
)
from nomadpy.cli.views.health import brief

MIB = 1 << 20


def node_list(
    nodes: Iterable[dict[str, Any]], *, verbose: bool = False, counts: dict[str, int] | None = None
) -> Columns:
    """The table of nodes; ``counts`` adds how many allocations run on each."""
    headers = ["ID", "Node Pool", "DC", "Name", "Class", "Drain", "Eligibility", "Status"]
    if verbose:
        headers[4:4] = ["Address", "Version"]
    nodes = list(nodes)
    with_health = any(node.get("Health") for node in nodes)
    if with_health:
        headers.append("Health")
    if counts is not None:
        headers.append("Running Allocs")
    rows = []
    for node in nodes:
        row: list[str | Text] = [
            short(node["ID"], verbose),
            plain(node.get("NodePool") or "default"),
            plain(node.get("Datacenter")),
            plain(node.get("Name")),
            plain(node.get("NodeClass") or "<none>"),
            plain(bool(node.get("Drain"))),
            state(node.get("SchedulingEligibility", "")),
            state(node.get("Status", "")),
        ]
        if verbose:
            row[4:4] = [plain(node.get("Address")), plain(node.get("Version"))]
        if with_health:
            row.append(brief(node.get("Health")))
        if counts is not None:
            row.append(str(counts.get(node["ID"], 0)))
        rows.append(row)
    return Columns(headers, rows, flexible=["Name", "DC", "Node Pool", "Class"])


def header(node: dict[str, Any], stats: dict[str, Any] | None, now_ns: int, *, verbose: bool = False) -> Details:
    """The facts about one node; ``stats`` are its host statistics, or None when it could not be asked."""
    drivers = node.get("Drivers") or {}
    usable = sorted(name for name, one in drivers.items() if one.get("Detected") and one.get("Healthy"))
    broken = sorted(name for name, one in drivers.items() if one.get("Detected") and not one.get("Healthy"))
    pairs: list[tuple[str, str | Text]] = [
        ("ID", short(node["ID"], verbose)),
        ("Name", plain(node.get("Name"))),
        ("Node Pool", plain(node.get("NodePool") or "default")),
        ("Class", plain(node.get("NodeClass") or "<none>")),
        ("DC", plain(node.get("Datacenter"))),
        ("Drain", _drain(node, now_ns)),
        ("Eligibility", state(node.get("SchedulingEligibility", ""))),
        ("Status", state(node.get("Status", ""))),
    ]
    if node.get("StatusDescription"):
        pairs.append(("Status Description", str(node["StatusDescription"])))
    if verbose:
        pairs.append(("Address", plain(node.get("HTTPAddr"))))
    if stats and stats.get("Uptime"):
        pairs.append(("Uptime", span(int(stats["Uptime"]) * 1_000_000_000)))
    pairs.append(("Drivers", plain(usable)))
    if broken:
        pairs.append(("Unhealthy Drivers", Text(plain(broken), style="red")))
    volumes = sorted(node.get("HostVolumes") or {})
    if volumes:
        pairs.append(("Host Volumes", plain(volumes)))
    return Details(pairs)


def _drain(node: dict[str, Any], now_ns: int) -> str:
    strategy = node.get("DrainStrategy")
    if not strategy:
        return plain(bool(node.get("Drain")))
    force = moment_ns(strategy.get("ForceDeadline"))
    limit = f"; force at {date(force)} ({ago(force, now_ns)})" if force else "; no deadline"
    return f"true{limit}" + ("; ignoring system jobs" if strategy.get("IgnoreSystemJobs") else "")


def resources(node: dict[str, Any], allocations: Iterable[dict[str, Any]]) -> RenderableType:
    """How much of the node is promised to allocations that are not yet over."""
    total = node.get("NodeResources") or {}
    reserved = node.get("ReservedResources") or {}
    cpu = _at(total, "Cpu", "CpuShares") - _at(reserved, "Cpu", "CpuShares")
    memory = _at(total, "Memory", "MemoryMB") - _at(reserved, "Memory", "MemoryMB")
    disk = _at(total, "Disk", "DiskMB") - _at(reserved, "Disk", "DiskMB")
    used = {"CPU": 0, "MemoryMB": 0, "DiskMB": 0}
    for allocation in allocations:
        if allocation.get("ClientStatus") in ("pending", "running", "unknown"):
            for name, amount in promised(allocation).items():
                used[name] += amount
    row = [
        f"{used['CPU']}/{cpu} MHz",
        f"{size(used['MemoryMB'] * MIB)}/{size(memory * MIB)}",
        f"{size(used['DiskMB'] * MIB)}/{size(disk * MIB)}",
    ]
    return section("Allocated Resources", Columns(["CPU", "Memory", "Disk"], [row]))


def promised(allocation: dict[str, Any]) -> dict[str, int]:
    """What an allocation was promised: CPU in MHz, MemoryMB and DiskMB."""
    parts = allocation.get("AllocatedResources") or {}
    tasks = (parts.get("Tasks") or {}).values()
    return {
        "CPU": sum(_at(task, "Cpu", "CpuShares") for task in tasks),
        "MemoryMB": sum(_at(task, "Memory", "MemoryMB") for task in tasks),
        "DiskMB": _at(parts, "Shared", "DiskMB"),
    }


def _at(value: Any, *path: str) -> int:
    for name in path:
        value = (value or {}).get(name)
    return int(value or 0)


def host_usage(stats: dict[str, Any], node: dict[str, Any]) -> RenderableType:
    """What the machine as a whole uses, whoever uses it."""
    memory = stats.get("Memory") or {}
    disk = stats.get("AllocDirStats") or {}
    cores = stats.get("CPU") or []
    busy = sum(core.get("TotalPercent", 0.0) for core in cores) / max(1, len(cores))
    total_mhz = _at(node.get("NodeResources"), "Cpu", "CpuShares")
    row = [
        f"{stats.get('CPUTicksConsumed', 0):.0f}/{total_mhz} MHz ({busy:.0f} %)",
        f"{size(memory.get('Used', 0))}/{size(memory.get('Total', 0))}",
        f"{size(disk.get('Used', 0))}/{size(disk.get('Size', 0))}",
    ]
    return section("Host Resource Utilization", Columns(["CPU", "Memory", "Disk"], [row]))


def drivers(node: dict[str, Any], now_ns: int) -> RenderableType:
    """The drivers, whether they were found, whether they work."""
    rows = [
        [
            name,
            plain(bool(one.get("Detected"))),
            Text(plain(bool(one.get("Healthy"))), style="green" if one.get("Healthy") else ""),
            plain(one.get("HealthDescription")),
            ago(one.get("UpdateTime"), now_ns),
        ]
        for name, one in sorted((node.get("Drivers") or {}).items())
    ]
    return section("Drivers", Columns(["Driver", "Detected", "Healthy", "Message", "Time"], rows, flexible=["Message"]))


def events(node: dict[str, Any], now_ns: int, *, verbose: bool = False) -> RenderableType:
    """What happened to the node lately, newest first."""
    newest = sorted(node.get("Events") or [], key=lambda event: moment_ns(event.get("Timestamp")), reverse=True)
    rows = [
        [
            date(event.get("Timestamp")) if verbose else ago(event.get("Timestamp"), now_ns),
            plain(event.get("Subsystem")),
            plain(event.get("Message")),
        ]
        for event in newest
    ]
    return section("Node Events", Columns(["Time", "Subsystem", "Message"], rows, flexible=["Message"]))


def attributes(node: dict[str, Any]) -> RenderableType:
    """Attributes and metadata, sorted."""
    return stack(
        section("Attributes", Details(sorted((node.get("Attributes") or {}).items()))),
        section("Meta", Details(sorted((node.get("Meta") or {}).items()))) if node.get("Meta") else None,
    )
