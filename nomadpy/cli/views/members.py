"""Views of the members of gossip and of the keys that encrypt it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from nomadpy.cli.views import health
from nomadpy.cli.views.base import Columns, Details, plain, section, stack, state


def members(rows: Iterable[dict[str, Any]], leaders: dict[str, str]) -> Columns:
    """The table of servers; ``leaders`` maps a region to its leader's RPC address."""
    headers = ["Name", "Address", "Port", "Status", "Leader", "Raft Version", "Build", "Datacenter", "Region"]
    table = []
    for row in _ordered(rows):
        tags, leads = row.get("Tags") or {}, _leads(row, leaders)
        line: list[str | Text] = [
            _name(row),
            plain(row.get("Addr")),
            plain(row.get("Port")),
            state(row.get("Status", "")),
            Text(plain(leads), style="green" if leads else ""),
            plain(tags.get("raft_vsn")),
            plain(tags.get("build")),
            plain(tags.get("dc")),
            plain(tags.get("region")),
        ]
        table.append(line)
    return Columns(headers, table, flexible=["Name", "Datacenter"])


def detailed(
    rows: Iterable[dict[str, Any]], leaders: dict[str, str], reports: dict[str, dict[str, Any]]
) -> RenderableType:
    """Each server with everything that is known; ``reports`` are what the autopilot says, by server id."""
    return stack(*(_one(row, leaders, reports) for row in _ordered(rows)))


def _one(row: dict[str, Any], leaders: dict[str, str], reports: dict[str, dict[str, Any]]) -> RenderableType:
    tags = row.get("Tags") or {}
    leads, report = _leads(row, leaders), reports.get(tags.get("id", ""))
    pairs: list[tuple[str, str | Text]] = [
        ("Address", f"{plain(row.get('Addr'))}:{plain(row.get('Port'))}"),
        ("Status", state(row.get("Status", ""))),
        ("Leader", Text(plain(leads), style="green" if leads else "")),
    ]
    if report is not None:
        well = bool(report.get("Healthy"))
        pairs += [
            ("Votes", plain(bool(report.get("Voter")))),
            ("Raft", Text("healthy" if well else "not healthy", style="green" if well else "red")),
            ("Last Contact", plain(report.get("LastContact") or "0s")),
            ("Last Index", plain(report.get("LastIndex", 0))),
        ]
    pairs.append(("Tags", ", ".join(f"{name}={value}" for name, value in sorted(tags.items())) or "-"))
    figures = health.details(row.get("Health")).pairs
    return section(plain(row.get("Name")), Details([*pairs, *figures]))


def _ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row.get("Name")))


def _name(row: dict[str, Any]) -> Text:
    """The name, in the colour of its trouble when the server is away."""
    status = row.get("Status", "")
    return Text(plain(row.get("Name")), style="" if status == "alive" else state(status).style)


def _leads(row: dict[str, Any], leaders: dict[str, str]) -> bool:
    return row.get("Status") == "alive" and leaders.get((row.get("Tags") or {}).get("region", "")) == rpc_address(row)


def rpc_address(member: dict[str, Any]) -> str:
    """Where a server listens for agents, as ``/v1/status/leader`` writes it."""
    tags = member.get("Tags") or {}
    host = tags.get("rpc_addr") or member.get("Addr") or ""
    return f"[{host}]:{tags.get('port')}" if ":" in host else f"{host}:{tags.get('port')}"


def keys(answer: dict[str, Any]) -> Columns:
    """The gossip keys: which one encrypts, and how many members hold each."""
    total, primary = answer.get("NumNodes", 0), answer.get("PrimaryKeys") or {}
    rows: list[list[str | Text]] = []
    for key, count in sorted((answer.get("Keys") or {}).items()):
        everywhere = count == total
        uses = primary.get(key, 0)
        rows.append(
            [
                key,
                Text(f"{count}/{total}", style="green" if everywhere else "yellow"),
                Text(f"{uses}/{total}" if uses else "-", style="green" if uses == total else "yellow" if uses else ""),
            ]
        )
    return Columns(["Key", "Held By", "Encrypts At"], rows)
