"""Views of the servers among themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nomadpy.cli.views.base import Columns, Details, plain, stack, state


def peers(rows: Iterable[dict[str, Any]]) -> Columns:
    """The table of the servers of the replicated log."""
    table: list[list[str | Text]] = []
    for row in sorted(rows, key=lambda row: str(row.get("Node"))):
        leads = bool(row.get("Leader"))
        table.append(
            [
                plain(row.get("Node")),
                plain(row.get("ID")),
                plain(row.get("Address")),
                Text("leader" if leads else "follower", style="green" if leads else ""),
                plain(bool(row.get("Voter"))),
                plain(row.get("RaftProtocol")),
            ]
        )
    return Columns(["Node", "ID", "Address", "State", "Voter", "RaftProtocol"], table, flexible=["Node"])


def autopilot(config: dict[str, Any]) -> Details:
    """How the leader looks after the servers."""
    return Details(
        [
            ("CleanupDeadServers", plain(bool(config.get("CleanupDeadServers")))),
            ("LastContactThreshold", plain(config.get("LastContactThreshold"))),
            ("MaxTrailingLogs", plain(config.get("MaxTrailingLogs", 0))),
            ("MinQuorum", plain(config.get("MinQuorum", 0))),
            ("ServerStabilizationTime", plain(config.get("ServerStabilizationTime"))),
            ("EnableRedundancyZones", plain(bool(config.get("EnableRedundancyZones")))),
            ("DisableUpgradeMigration", plain(bool(config.get("DisableUpgradeMigration")))),
            ("EnableCustomUpgrades", plain(bool(config.get("EnableCustomUpgrades")))),
            ("Modify Index", plain(config.get("ModifyIndex", 0))),
        ]
    )


def health(report: dict[str, Any]) -> RenderableType:
    """How the servers are doing: all together, then each one."""
    facts = Details(
        [
            ("Healthy", plain(bool(report.get("Healthy")))),
            ("Failure Tolerance", plain(report.get("FailureTolerance", 0))),
            ("Leader", plain(report.get("Leader"))),
            ("Voters", plain(report.get("Voters"))),
        ]
    )
    table: list[list[str | Text]] = []
    for row in sorted(report.get("Servers") or [], key=lambda row: str(row.get("Name"))):
        well = bool(row.get("Healthy"))
        table.append(
            [
                plain(row.get("Name")),
                plain(row.get("ID")),
                plain(row.get("Address")),
                state(row.get("SerfStatus", "")),
                plain(row.get("Version")),
                plain(bool(row.get("Leader"))),
                plain(bool(row.get("Voter"))),
                Text(plain(well), style="green" if well else "red"),
                plain(row.get("LastContact") or "0s"),
                plain(row.get("LastTerm", 0)),
                plain(row.get("LastIndex", 0)),
                plain(row.get("StableSince")),
            ]
        )
    headers = ["Name", "ID", "Address", "SerfStatus", "Version", "Leader", "Voter", "Healthy", "LastContact"]
    headers += ["LastTerm", "LastIndex", "StableSince"]
    return stack(facts, Columns(headers, table, flexible=["Name", "ID"]))
