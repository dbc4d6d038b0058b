"""Views of namespaces, node pools and the scheduler configuration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nomadpy.cli.views.base import Columns, Details, plain, section, stack


def namespaces(rows: Iterable[dict[str, Any]]) -> Columns:
    """The table of namespaces."""
    ordered = sorted(rows, key=lambda row: str(row.get("Name")))
    table = [[plain(row.get("Name")), plain(row.get("Description"))] for row in ordered]
    return Columns(["Name", "Description"], table, flexible=["Description"])


def namespace(found: dict[str, Any]) -> RenderableType:
    """One namespace."""
    capabilities = found.get("Capabilities") or {}
    facts = Details(
        [
            ("Name", plain(found.get("Name"))),
            ("Description", plain(found.get("Description"))),
            ("Quota", plain(found.get("Quota"))),
            ("Enabled Drivers", plain(capabilities.get("EnabledTaskDrivers") or "*")),
            ("Disabled Drivers", plain(capabilities.get("DisabledTaskDrivers"))),
            ("Default Node Pool", plain((found.get("NodePoolConfiguration") or {}).get("Default"))),
        ]
    )
    meta = found.get("Meta") or {}
    return stack(facts, Details(sorted(meta.items())) if meta else None)


def node_pools(rows: Iterable[dict[str, Any]]) -> Columns:
    """The table of node pools."""
    ordered = sorted(rows, key=lambda row: str(row.get("Name")))
    table = [[plain(row.get("Name")), plain(row.get("Description"))] for row in ordered]
    return Columns(["Name", "Description"], table, flexible=["Description"])


def node_pool(found: dict[str, Any]) -> RenderableType:
    """One node pool."""
    config = found.get("SchedulerConfiguration") or {}
    facts = Details([("Name", plain(found.get("Name"))), ("Description", plain(found.get("Description")))])
    meta = sorted((found.get("Meta") or {}).items())
    switches = [
        (label, plain(config.get(name)))
        for label, name in (
            ("Scheduler Algorithm", "SchedulerAlgorithm"),
            ("Memory Oversubscription", "MemoryOversubscriptionEnabled"),
        )
        if config.get(name) not in (None, "")
    ]
    return stack(
        facts,
        section("Metadata", Details((name, plain(value)) for name, value in meta)) if meta else Text("No metadata"),
        section("Scheduler Configuration", Details(switches)) if switches else Text("No scheduler configuration"),
    )


def scheduler(config: dict[str, Any]) -> Details:
    """The scheduler configuration."""
    preemption = config.get("PreemptionConfig") or {}
    return Details(
        [
            ("Scheduler Algorithm", plain(config.get("SchedulerAlgorithm"))),
            ("Memory Oversubscription", plain(bool(config.get("MemoryOversubscriptionEnabled")))),
            ("Reject Job Registration", plain(bool(config.get("RejectJobRegistration")))),
            ("Pause Eval Broker", plain(bool(config.get("PauseEvalBroker")))),
            ("Preemption System Scheduler", plain(bool(preemption.get("SystemSchedulerEnabled")))),
            ("Preemption Service Scheduler", plain(bool(preemption.get("ServiceSchedulerEnabled")))),
            ("Preemption Batch Scheduler", plain(bool(preemption.get("BatchSchedulerEnabled")))),
            ("Preemption SysBatch Scheduler", plain(bool(preemption.get("SysBatchSchedulerEnabled")))),
            ("Modify Index", plain(config.get("ModifyIndex", 0))),
        ]
    )


def agent_info(stats: dict[str, dict[str, str]]) -> RenderableType:
    """What an agent tells about itself, section by section."""
    parts: list[RenderableType] = []
    for name, values in sorted(stats.items()):
        lines = [Text(name, style="bold")]
        lines += [Text(f"  {key} = {value}") for key, value in sorted(values.items())]
        parts.append(Text("\n").join(lines))
    return stack(*parts)


def metrics(found: dict[str, Any]) -> RenderableType:
    """The metrics of the last interval."""
    gauges = [[one["Name"], _labels(one), f"{one.get('Value', 0):g}"] for one in found.get("Gauges") or []]
    samples = [
        [one["Name"], _labels(one), str(one.get("Count", 0)), f"{one.get('Mean', 0):g}", f"{one.get('Max', 0):g}"]
        for one in [*(found.get("Counters") or []), *(found.get("Samples") or [])]
    ]
    return stack(
        Text(f"Interval {found.get('Timestamp', '')}", style="bold"),
        Columns(["Gauge", "Labels", "Value"], gauges, flexible=["Labels"]) if gauges else None,
        Columns(["Sample", "Labels", "Count", "Mean", "Max"], samples, flexible=["Labels"]) if samples else None,
    )


def _labels(one: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in sorted((one.get("Labels") or {}).items())) or "-"
