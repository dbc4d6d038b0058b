"""The views of ``job plan -why`` and of capacities: every node with what speaks for and against it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from nomadpy.cli.views.base import Cell, Columns, Indented, Paragraph, heading, short, stack

SHOWN = 5
# What may change by itself when other work ends; everything else lies in the node or in the job file.
_PASSING = frozenset(("cpu", "memory", "disk", "port", "cores", "allocations", "neighbours", "one per node"))


def explanations(by_group: dict[str, dict[str, Any]], *, verbose: bool = False) -> RenderableType:
    """All groups of a plan, each with its nodes."""
    return stack(*(_group(name, told, verbose) for name, told in sorted(by_group.items())))


def _group(name: str, told: dict[str, Any], verbose: bool) -> RenderableType:
    nodes = told.get("Nodes") or []
    names = labels(nodes, verbose)
    fitting = [node for node in nodes if node.get("Fits")]
    refused = [node for node in nodes if not node.get("Fits")]
    parts: list[RenderableType] = [Paragraph(_title(name, told))]
    for help_ in told.get("WouldHelp") or []:
        parts.append(Paragraph(Text.assemble(("  would help: ", "bold"), (str(help_.get("Text")), "cyan"))))
    if fitting:
        parts.append(Text(f"  Fits on {_count(told.get('FitCount') or 0)}, the best first:"))
        parts.append(Indented(_scores(fitting if verbose else fitting[:SHOWN], names)))
        left = int(told.get("FitCount") or 0) - len(fitting if verbose else fitting[:SHOWN])
        if left > 0:
            parts.append(Text(f"  and {left} more", style="dim"))
    count = int(told.get("NodeCount") or 0) - int(told.get("FitCount") or 0)
    if count:
        parts.append(Text(f"  Refused on {_count(count)}:"))
        is_cut = len(refused) < count
        parts.append(Indented(_refusals(told, names, verbose) if is_cut else _refused(refused, names)))
        if is_cut and refused:
            parts += [Text("  Examples:"), Indented(_refused(refused, names))]
    elif not fitting:
        parts.append(Text("  There is no node at all.", style="red"))
    return Group(*parts)


def _title(name: str, told: dict[str, Any]) -> Text:
    unplaced = int(told.get("Unplaced") or 0)
    if told.get("AfterPlan"):
        what, style = f"{unplaced} not placed; the nodes as the plan leaves them", "yellow"
    else:
        what, style = "placed; the nodes as the plan finds them", "green"
    return Text.assemble((f'Why: Task Group "{name}" ', "bold"), (f"({what})", style))


def _count(number: int) -> str:
    return f"{number} node{'' if number == 1 else 's'}"


def labels(nodes: Iterable[dict[str, Any]], verbose: bool) -> dict[str, str]:
    """Node id → what it is called: its name where that is its own, else the id.

    >>> labels([{"NodeID": "0a1b2c3d-1", "NodeName": "a"}, {"NodeID": "9a1b2c3d-1", "NodeName": ""}], False)
    {'0a1b2c3d-1': 'a', '9a1b2c3d-1': '9a1b2c3d'}
    """
    rows = list(nodes)
    often = Counter(row.get("NodeName") for row in rows)
    named = {}
    for row in rows:
        ident, name = str(row.get("NodeID")), str(row.get("NodeName") or "")
        if verbose:
            named[ident] = f"{ident} {name}".strip()
        else:
            named[ident] = name if name and often[name] == 1 else short(ident)
    return named


def _scores(nodes: list[dict[str, Any]], names: dict[str, str]) -> Columns:
    rows: list[list[Cell]] = []
    for node in nodes:
        parts = [f"{scorer} {value:+.3g}" for scorer, value in sorted((node.get("Scores") or {}).items()) if value]
        score = Text(f"{node.get('NormScore', 0) + 0.0:.3f}", style="green")
        rows.append([names[node["NodeID"]], score, str(node.get("Holds") or 0), ", ".join(parts) or "-"])
    return Columns(["Node", "Score", "Has", "From"], rows, flexible=["From"])


def _refused(nodes: list[dict[str, Any]], names: dict[str, str]) -> Columns:
    rows: list[list[Cell]] = []
    for node in nodes:
        lines = Text("\n").join(_obstacle(one) for one in node.get("Obstacles") or [])
        rows.append([names[node["NodeID"]], str(node.get("Holds") or 0), lines])
    return Columns(["Node", "Has", "Because"], rows, flexible=["Because"])


def _obstacle(obstacle: dict[str, Any]) -> Text:
    return Text(str(obstacle.get("Detail") or obstacle.get("Reason")), style=style_of(str(obstacle.get("Kind"))))


def style_of(kind: str) -> str:
    """Yellow for what may pass when other work ends, red for what lies in the node or in the job file.

    >>> style_of("memory"), style_of("constraint")
    ('yellow', 'red')
    """
    return "yellow" if kind in _PASSING else "red"


def _refusals(told: dict[str, Any], names: dict[str, str], verbose: bool) -> Columns:
    rows = []
    for refusal in told.get("Refusals") or []:
        examples = ", ".join(names.get(ident, short(ident, verbose)) for ident in refusal.get("Nodes") or [])
        rows.append([str(refusal.get("Count")), "\n".join(refusal.get("Reasons") or []), examples])
    return Columns(["Nodes", "Because", "Such as"], rows, flexible=["Because", "Such as"])


def capacity(answer: dict[str, Any], title: str = "Capacity") -> RenderableType:
    """How many more of each group fit, and what runs out first."""
    rows = [_room(name, group) for name, group in sorted((answer.get("Groups") or {}).items())]
    assumed = [Paragraph(f"  without node {ident}") for ident in answer.get("Without") or []]
    assumed += [Paragraph(f"  with {_extra(extra)}") for extra in answer.get("With") or []]
    table = Columns(["Task Group", "Fits more", "On nodes", "Runs out first"], rows, flexible=["Runs out first"])
    notes = [
        Paragraph(
            Text(
                f"  {group['Displaced']} of group {name} run on what is left out and need a part of that.",
                style="yellow",
            )
        )
        for name, group in sorted((answer.get("Groups") or {}).items())
        if group.get("Displaced")
    ]
    return Group(heading(title), *assumed, Indented(table), *notes)


def _room(name: str, group: dict[str, Any]) -> list[Cell]:
    fits = int(group.get("Fits") or 0)
    more = str(fits) if group.get("Exact") else f"at least {fits}"
    enough = fits > int(group.get("Displaced") or 0) or (fits and not group.get("Displaced"))
    limits = ", ".join(f"{dimension} ({count})" for dimension, count in (group.get("Limits") or {}).items())
    if not group.get("Suitable"):
        limits = "no ready node meets the job's conditions"
    nodes = f"{group.get('Nodes') or 0} of {group.get('Suitable') or 0}"
    return [name, Text(more, style="green" if enough else "red"), nodes, limits or "nothing"]


def _extra(extra: dict[str, Any]) -> str:
    like = f", like node {short(str(extra['Like']))}" if extra.get("Like") else ", about which nothing else is known"
    size = f"{extra.get('CPU')} MHz, {extra.get('MemoryMB')} MB memory, {extra.get('DiskMB')} MB disk"
    return f"{_count(int(extra.get('Count') or 0))} of {size}{like}"
