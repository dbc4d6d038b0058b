"""The screen of ``nomadpy top``: what it shows, and what a key does to it. No input or output happens here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from nomadpy.cli.views.base import Cell, Columns, ago, bar, plain, short, size, state
from nomadpy.cli.views.health import brief
from nomadpy.cli.views.job import state_of, type_of
from nomadpy.cli.views.node import promised

TABS = ("Nodes", "Jobs", "Allocations")
MIB = 1 << 20
# Header, cluster bars, tabs and the line of keys.
_FRAME_LINES = 5
# Names are cut first where the terminal is narrow: a row must stay one line.
_WIDE = 96
_CUT = ("Name", "Node", "ID")
_ALLOC_ORDER = {"failed": 0, "lost": 0, "pending": 1, "unknown": 1, "running": 2, "complete": 3}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the last look at the cluster gave."""

    address: str = ""
    nodes: tuple[dict[str, Any], ...] = ()
    jobs: tuple[dict[str, Any], ...] = ()
    allocations: tuple[dict[str, Any], ...] = ()
    problem: str = ""
    now_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Screen:
    """What is shown of the facts: the tab, the first row, the filter, and whether it is being typed."""

    tab: int = 0
    offset: int = 0
    filter: str = ""
    is_typing: bool = False
    is_left: bool = False

    def press(self, key: str, page: int = 10) -> Screen:
        """The screen after a key; ``page`` is how many rows fit."""
        return self._type(key) if self.is_typing else self._command(key, page)

    def _type(self, key: str) -> Screen:
        if key in ("enter", "escape"):
            return replace(self, is_typing=False, filter=self.filter if key == "enter" else "", offset=0)
        if key == "backspace":
            return replace(self, filter=self.filter[:-1], offset=0)
        return replace(self, filter=self.filter + key, offset=0) if len(key) == 1 and key.isprintable() else self

    def _command(self, key: str, page: int) -> Screen:
        moves = {"down": 1, "j": 1, "up": -1, "k": -1, "page-down": page, " ": page, "page-up": -page}
        if key in ("q", "Q", "interrupt"):
            return replace(self, is_left=True)
        if key in moves:
            return replace(self, offset=max(0, self.offset + moves[key]))
        if key in ("tab", "right", "left"):
            return replace(self, tab=(self.tab + (-1 if key == "left" else 1)) % len(TABS), offset=0)
        if key in ("1", "2", "3"):
            return replace(self, tab=int(key) - 1, offset=0)
        if key in ("g", "home"):
            return replace(self, offset=0)
        if key in ("G", "end"):
            return replace(self, offset=1 << 30)
        if key == "/":
            return replace(self, is_typing=True, filter="", offset=0)
        return replace(self, filter="", offset=0) if key == "escape" else self


class View:
    """The screen as text of at most ``height`` lines; with height None everything is shown once."""

    def __init__(self, facts: Facts, screen: Screen, height: int | None) -> None:
        self.facts = facts
        self.screen = screen
        self.height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, 240)
        headers, rows = table(self.facts, self.screen.tab, wide=width >= _WIDE)
        total = len(rows)
        rows = [row for row in rows if matches(row, self.screen.filter)]
        room = len(rows) if self.height is None else max(1, self.height - _FRAME_LINES)
        first = min(self.screen.offset, max(0, len(rows) - room))
        for line in [*headlines(self.facts, width), self._tabs(len(rows))]:
            line.truncate(width, overflow="ellipsis")
            yield line
        yield from console.render(Columns(headers, rows[first : first + room], cut=_CUT), options.update(width=width))
        if self.height is not None:
            for _ in range(room - min(room, len(rows) - first)):
                yield Text("")
            last = min(first + room, len(rows))
            yield self._keys(f"{first + 1}-{last} of {len(rows)}" if rows else f"0 of {total}", width)

    def _tabs(self, count: int) -> Text:
        parts: list[Text] = []
        for number, name in enumerate(TABS):
            chosen = number == self.screen.tab
            label = f" {number + 1} {name}{f' ({count})' if chosen else ''} "
            parts.append(Text(label, style="reverse bold" if chosen else "dim"))
        line = Text(" ").join(parts)
        if self.screen.filter or self.screen.is_typing:
            line.append(f"  /{self.screen.filter}{'▏' if self.screen.is_typing else ''}", style="yellow")
        return line

    def _keys(self, place: str, width: int) -> Text:
        keys = (
            "type to filter, enter keeps it"
            if self.screen.is_typing
            else "q quit  tab 1 2 3 switch  / filter  ↑↓ scroll"
        )
        line = Text(keys, style="dim")
        gap = max(1, width - line.cell_len - len(place))
        line.append(" " * gap + place)
        line.truncate(width)
        return line


def headlines(facts: Facts, width: int) -> Iterator[Text]:
    """The two lines above the tabs: the counts, and how much of the cluster is promised."""
    ready = sum(node.get("Status") == "ready" for node in facts.nodes)
    running = sum(job.get("Status") == "running" for job in facts.jobs)
    counts = dict.fromkeys(("running", "pending", "failed"), 0)
    for allocation in facts.allocations:
        status = allocation.get("ClientStatus", "")
        counts[status] = counts.get(status, 0) + 1
    line = Text.assemble(
        f"nodes {ready}/{len(facts.nodes)} ready  jobs {running}/{len(facts.jobs)} running  allocs ",
        (f"{counts['running']} running ", "green"),
        (f"{counts['pending']} pending ", "yellow" if counts["pending"] else ""),
        (f"{counts['failed']} failed", "red" if counts["failed"] else ""),
    )
    # Where everything runs comes last and goes first when the terminal is narrow.
    if line.cell_len + len(facts.address) + 2 <= width:
        line.append(f"  {facts.address}", style="dim")
    yield line
    if facts.problem:
        yield Text(facts.problem, style="red")
        return
    cpu, memory = _cluster(facts)
    cells = max(8, min(30, (width - 50) // 2))
    yield Text.assemble(
        "CPU ",
        bar(cpu[0], cpu[1], cells),
        f" {cpu[0]}/{cpu[1]} MHz  Memory ",
        bar(memory[0], memory[1], cells),
        f" {size(memory[0] * MIB)}/{size(memory[1] * MIB)}",
    )


def _cluster(facts: Facts) -> tuple[tuple[int, int], tuple[int, int]]:
    used = used_by_node(facts)
    cpu = [0, 0]
    memory = [0, 0]
    for node in facts.nodes:
        if node.get("Status") == "ready":
            has = capacity(node)
            takes = used.get(node["ID"], (0, 0, 0))
            cpu = [cpu[0] + takes[0], cpu[1] + has[0]]
            memory = [memory[0] + takes[1], memory[1] + has[1]]
    return (cpu[0], cpu[1]), (memory[0], memory[1])


def used_by_node(facts: Facts) -> dict[str, tuple[int, int, int]]:
    """What is promised on each node: CPU in MHz, memory in MB, and the number of allocations."""
    used: dict[str, tuple[int, int, int]] = {}
    for allocation in facts.allocations:
        if allocation.get("ClientStatus") in ("pending", "running", "unknown"):
            asks = promised(allocation)
            cpu, memory, count = used.get(allocation.get("NodeID", ""), (0, 0, 0))
            used[allocation.get("NodeID", "")] = (cpu + asks["CPU"], memory + asks["MemoryMB"], count + 1)
    return used


def capacity(node: dict[str, Any]) -> tuple[int, int]:
    """What a node can promise: CPU in MHz and memory in MB."""
    total, kept = node.get("NodeResources") or {}, node.get("ReservedResources") or {}
    cpu = (total.get("Cpu") or {}).get("CpuShares", 0) - (kept.get("Cpu") or {}).get("CpuShares", 0)
    memory = (total.get("Memory") or {}).get("MemoryMB", 0) - (kept.get("Memory") or {}).get("MemoryMB", 0)
    return cpu, memory


def matches(row: list[Cell], wanted: str) -> bool:
    """Whether a row holds the text, whatever the case."""
    return not wanted or wanted.lower() in " ".join(str(cell) for cell in row).lower()


def table(facts: Facts, tab: int, *, wide: bool = True) -> tuple[list[str], list[list[Cell]]]:
    """The headers and rows of a tab; only a wide screen has room for the health of nodes."""
    return _nodes(facts, wide) if tab == 0 else (_jobs, _allocations)[tab - 1](facts)


def _nodes(facts: Facts, wide: bool) -> tuple[list[str], list[list[Cell]]]:
    used = used_by_node(facts)
    rows: list[list[Cell]] = []
    with_health = wide and any(node.get("Health") for node in facts.nodes)
    for node in sorted(facts.nodes, key=lambda node: str(node.get("Name"))):
        cpu, memory = capacity(node)
        takes = used.get(node["ID"], (0, 0, 0))
        draining = "draining" if node.get("Drain") else node.get("SchedulingEligibility", "")
        rows.append(
            [
                short(node["ID"]),
                plain(node.get("Name")),
                plain(node.get("Datacenter")),
                state(node.get("Status", "")),
                state(draining),
                Text.assemble(bar(takes[0], cpu, 6), f" {_percent(takes[0], cpu)}"),
                Text.assemble(bar(takes[1], memory, 6), f" {_percent(takes[1], memory)}"),
                str(takes[2]),
                *([brief(node.get("Health"))] if with_health else []),
            ]
        )
    headers = ["ID", "Name", "DC", "Status", "Eligibility", "CPU", "Memory", "Allocs"]
    return headers + (["Health"] if with_health else []), rows


def _percent(used: int, total: int) -> str:
    return f"{round(100 * used / total):>3} %" if total else "  - "


def _jobs(facts: Facts) -> tuple[list[str], list[list[Cell]]]:
    rows: list[list[Cell]] = []
    for job in facts.jobs:
        groups = ((job.get("JobSummary") or {}).get("Summary") or {}).values()
        sums = [sum(group.get(name, 0) for group in groups) for name in ("Queued", "Starting", "Running", "Failed")]
        coloured = [Text(str(sums[3]), style="red" if sums[3] else "")]
        rows.append(
            [
                job["ID"],
                type_of(job),
                plain(job.get("Priority")),
                state_of(job),
                Text(str(sums[0]), style="yellow" if sums[0] else ""),
                *(str(count) for count in sums[1:3]),
                *coloured,
                ago(job.get("SubmitTime"), facts.now_ns),
            ]
        )
    return ["ID", "Type", "Pri", "Status", "Queued", "Starting", "Running", "Failed", "Submitted"], rows


def _allocations(facts: Facts) -> tuple[list[str], list[list[Cell]]]:
    ordered = sorted(
        facts.allocations,
        key=lambda one: (_ALLOC_ORDER.get(one.get("ClientStatus", ""), 2), -int(one.get("ModifyIndex", 0))),
    )
    rows: list[list[Cell]] = []
    for one in ordered:
        asks = promised(one)
        restarts = sum(task.get("Restarts", 0) for task in (one.get("TaskStates") or {}).values())
        rows.append(
            [
                short(one["ID"]),
                plain(one.get("Name")),
                plain(one.get("NodeName")),
                state(one.get("ClientStatus", "")),
                Text(str(restarts), style="yellow" if restarts else ""),
                f"{asks['CPU']} MHz",
                size(asks["MemoryMB"] * MIB),
                ago(one.get("ModifyTime"), facts.now_ns),
            ]
        )
    return ["ID", "Name", "Node", "Status", "Restarts", "CPU", "Memory", "Changed"], rows
