"""Why something was not placed, in words: the counters of an allocation's metrics and of a failed evaluation."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.text import Text

from nomadpy.cli.views.base import Columns, Paragraph, short


def reasons(metrics: dict[str, Any]) -> list[str]:
    """One sentence for each obstacle that the scheduler counted.

    >>> reasons({"NodesEvaluated": 3, "NodesFiltered": 3, "ConstraintFiltered": {"missing drivers": 3}})
    ['Constraint "missing drivers": 3 nodes excluded by filter']
    >>> reasons({"NodesEvaluated": 0, "NodesAvailable": {"dc9": 0}, "NodesInPool": 4})
    ['No nodes were eligible for evaluation', 'No nodes are available in datacenter "dc9"']
    """
    found: list[str] = []
    if not metrics.get("NodesEvaluated"):
        found.append("No nodes were eligible for evaluation")
    if metrics.get("NodePool") and metrics.get("NodesInPool") == 0:
        found.append(f'No nodes are available in node pool "{metrics["NodePool"]}"')
    for datacenter, count in sorted((metrics.get("NodesAvailable") or {}).items()):
        if not count:
            found.append(f'No nodes are available in datacenter "{datacenter}"')
    for name, count in sorted((metrics.get("ClassFiltered") or {}).items()):
        found.append(f'Class "{name}": {count} nodes excluded by filter')
    for name, count in sorted((metrics.get("ConstraintFiltered") or {}).items()):
        found.append(f'Constraint "{name}": {count} nodes excluded by filter')
    if metrics.get("NodesExhausted"):
        found.append(f"Resources exhausted on {metrics['NodesExhausted']} nodes")
    for name, count in sorted((metrics.get("ClassExhausted") or {}).items()):
        found.append(f'Class "{name}" exhausted on {count} nodes')
    for name, count in sorted((metrics.get("DimensionExhausted") or {}).items()):
        found.append(f'Dimension "{name}" exhausted on {count} nodes')
    found += [f'Quota limit hit "{name}"' for name in metrics.get("QuotaExhausted") or []]
    return found


def helps(metrics: dict[str, Any]) -> list[str]:
    """What the scheduler found would have let it place one more, smallest change first.

    >>> helps({"WouldHelp": [{"Text": "port http=80 free on n1"}]}), helps({})
    (['port http=80 free on n1'], [])
    """
    return [str(each.get("Text")) for each in metrics.get("WouldHelp") or []]


def unplaced(group: str, metrics: dict[str, Any]) -> str:
    """The sentence that opens the explanation of a group.

    >>> unplaced("web", {"CoalescedFailures": 2})
    'Task Group "web" (failed to place 3 allocations):'
    """
    count = 1 + int(metrics.get("CoalescedFailures") or 0)
    return f'Task Group "{group}" (failed to place {count} allocation{"" if count == 1 else "s"}):'


def failures(by_group: dict[str, dict[str, Any]], indent: str = "  ") -> Group:
    """All groups that were not placed, each with its reasons and what would have helped, as they were recorded."""
    lines: list[Paragraph] = []
    for group, metrics in sorted(by_group.items()):
        hanging = len(indent) + 4
        lines.append(Paragraph(Text(f"{indent}{unplaced(group, metrics)}", style="yellow"), hanging))
        lines += [Paragraph(Text(f"{indent}  * {reason}"), hanging) for reason in reasons(metrics)]
        lines += [Paragraph(Text(f"{indent}  * Would help: {text}", style="cyan"), hanging) for text in helps(metrics)]
    return Group(*lines)


def scores(metrics: dict[str, Any], verbose: bool) -> Columns | None:
    """The table of the best nodes and what each scorer said, or None when nothing was scored."""
    rows = metrics.get("ScoreMetaData") or []
    if not rows:
        return None
    names = sorted({name for row in rows for name in row.get("Scores") or {}})
    table = [
        [
            short(row.get("NodeID", ""), verbose),
            *(_score((row.get("Scores") or {}).get(name, 0)) for name in names),
            _score(row.get("NormScore", 0)),
        ]
        for row in rows
    ]
    return Columns(["Node", *names, "final score"], table)


def _score(value: float) -> str:
    # Adding zero turns the negative zero of some scorers into a plain one.
    return f"{value + 0.0:.3g}"
