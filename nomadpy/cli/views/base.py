"""The pieces every view is made of: columns, details, headings, moments, sizes and the colours of states.

A view turns JSON of the API into something rich can draw. It reads no clock and prints nothing: the moment "now" is an
argument, in Unix nanoseconds.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.text import Text

SECOND_NS = 1_000_000_000
GAP = 2
SHORT_ID = 8

_STATE_STYLES = {
    "running": "green",
    "ready": "green",
    "alive": "green",
    "eligible": "green",
    "successful": "green",
    "complete": "blue",
    "pending": "yellow",
    "blocked": "yellow",
    "initializing": "yellow",
    "paused": "yellow",
    "draining": "yellow",
    "ineligible": "yellow",
    "disconnected": "yellow",
    "unknown": "yellow",
    "leaving": "yellow",
    "queued": "yellow",
    "failed": "red",
    "lost": "red",
    "down": "red",
    "dead": "dim",
    "left": "dim",
    "stop": "dim",
    "evict": "dim",
    "canceled": "dim",
    "cancelled": "dim",
}

Cell = str | Text

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_RFC3339 = re.compile(r"^([\d-]+T[\d:]+)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$")


def state(text: str, label: str | None = None) -> Text:
    """A state word in its colour; ``label`` is what is shown when it is longer than the word itself."""
    return Text(label or text, style=_STATE_STYLES.get(text, ""))


def plain(value: Any) -> str:
    """A value as it reads in a cell: nothing is a dash, truth is lower case, lists are joined.

    >>> plain(None), plain(""), plain(True), plain(["a", "b"]), plain(0)
    ('-', '-', 'true', 'a,b', '0')
    """
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(str(one) for one in value) or "-"
    return str(value)


def short(ident: str, verbose: bool = False) -> str:
    """The first eight characters of an id, or all of it.

    >>> short("0a1b2c3d-0000-0000-0000-000000000000")
    '0a1b2c3d'
    """
    return ident if verbose else ident[:SHORT_ID]


def moment_ns(value: Any) -> int:
    """Unix nanoseconds of a moment of the API, which is an integer or an RFC 3339 string; 0 means never.

    >>> moment_ns("1970-01-01T00:00:01.5Z"), moment_ns("0001-01-01T00:00:00Z"), moment_ns(None), moment_ns(7)
    (1500000000, 0, 0, 7)
    """
    if isinstance(value, int):
        return value
    if not value or str(value).startswith("0001-01-01"):
        return 0
    match = _RFC3339.match(str(value))
    if not match:
        return 0
    delta = dt.datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")) - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND_NS + int((match[2] or "0")[:9].ljust(9, "0"))


def span(ns: int) -> str:
    """A length of time in its two largest units.

    >>> [span(n * SECOND_NS) for n in (0, 59, 60, 3_725, 90_000, 3_000_000, 40_000_000)]
    ['0s', '59s', '1m', '1h2m', '1d1h', '1mo4d', '1y3mo']
    """
    rest = max(0, ns) // SECOND_NS
    parts: list[tuple[int, str]] = []
    for unit, seconds in (("y", 31_536_000), ("mo", 2_592_000), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(rest, seconds)
        if count or (parts and len(parts) < 2):
            parts.append((count, unit))
            rest = left
        if len(parts) == 2:
            break
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"


def ago(value: Any, now_ns: int) -> str:
    """How long ago a moment was, or how soon it will be.

    >>> ago(10 * SECOND_NS, 15 * SECOND_NS), ago(20 * SECOND_NS, 15 * SECOND_NS), ago(0, 99)
    ('5s ago', 'in 5s', '-')
    """
    at = moment_ns(value)
    if not at:
        return "-"
    return f"in {span(at - now_ns)}" if at > now_ns + SECOND_NS else f"{span(now_ns - at)} ago"


def date(value: Any) -> str:
    """A moment in local time, to the second.

    >>> date(0)
    '-'
    """
    at = moment_ns(value)
    if not at:
        return "-"
    return dt.datetime.fromtimestamp(at / SECOND_NS).astimezone().strftime("%Y-%m-%dT%H:%M:%S%z")


def when(value: Any, now_ns: int, verbose: bool) -> str:
    """A date when ``verbose``, else how long ago."""
    return date(value) if verbose else ago(value, now_ns)


def size(count: float) -> str:
    """Bytes in binary units.

    >>> size(0), size(1536), size(300 * 2**20), size(3 * 2**40)
    ('0 B', '1.5 KiB', '300 MiB', '3.0 TiB')
    """
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 100 or value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def bar(used: float, total: float, width: int) -> Text:
    """A usage bar of ``width`` cells, green below 70 %, yellow below 90 %, else red."""
    share = 0.0 if total <= 0 else min(1.0, max(0.0, used / total))
    filled = round(share * width)
    style = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    return Text.assemble(("█" * filled, style), ("░" * (width - filled), "dim"))


def heading(text: str) -> Text:
    """The title of a section."""
    return Text(text, style="bold")


def stack(*parts: RenderableType | None) -> Group:
    """Parts one below the other with an empty line between; None is left out."""
    present = [part for part in parts if part is not None]
    spaced: list[RenderableType] = []
    for number, part in enumerate(present):
        spaced += [Text(""), part] if number else [part]
    return Group(*spaced)


def section(title: str, body: RenderableType) -> Group:
    """A heading with its content right below."""
    return Group(heading(title), body)


class Details:
    """Names and values, aligned at the ``=``; long values wrap below themselves."""

    def __init__(self, pairs: Iterable[tuple[str, Cell]]) -> None:
        self.pairs = [(name, _text(value)) for name, value in pairs]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        indent = max((cell_len(name) for name, _ in self.pairs), default=0) + 3
        for name, value in self.pairs:
            lead = Text.assemble((name.ljust(indent - 3), "bold"), " = ")
            room = max(10, options.max_width - indent)
            for number, line in enumerate(_fold(value, room, console)):
                yield from _line(console, (lead if number == 0 else Text(" " * indent)) + line)


class Paragraph:
    """Text that is wrapped where it has to be; further lines begin ``hanging`` cells to the right."""

    def __init__(self, text: Cell, hanging: int = 4) -> None:
        self.text = _text(text)
        self.hanging = hanging

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if cell_len(self.text.plain) <= options.max_width:
            yield from _line(console, self.text.copy())
            return
        for number, line in enumerate(_fold(self.text, max(1, options.max_width - self.hanging), console)):
            yield from _line(console, line if number == 0 else Text(" " * self.hanging) + line)


class Indented:
    """A view moved to the right by ``cells``."""

    def __init__(self, inner: RenderableType, cells: int = 2) -> None:
        self.inner = inner
        self.cells = cells

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        narrower = options.update(width=max(1, options.max_width - self.cells))
        for line in console.render_lines(self.inner, narrower, pad=False):
            if any(segment.text for segment in line):
                yield Segment(" " * self.cells)
            yield from line
            yield Segment.line()


class Columns:
    """A table of text without borders.

    Columns are as wide as their content. Where that is too much, the ``flexible`` ones (by header) wrap. If that does
    not help, every row becomes a block of names and values, because half an id is of no use to anybody. A table with
    ``cut`` columns keeps one line a row instead: those columns are cut with an ellipsis first, then all others. No
    line is ever wider than the terminal; a pipe is as wide as needed.
    """

    def __init__(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Cell]],
        flexible: Sequence[str] = (),
        cut: Sequence[str] = (),
    ) -> None:
        self.headers = list(headers)
        self.rows = [[_text(cell) for cell in row] for row in rows]
        self.flexible = [number for number, header in enumerate(headers) if header in flexible]
        self.cut = [number for number, header in enumerate(headers) if header in cut]
        assert all(len(row) == len(self.headers) for row in self.rows)

    def layout(self, available: int) -> tuple[list[int], int] | None:
        """The width of each column and of the gaps on ``available`` cells, or None when it does not fit."""
        natural = [cell_len(header) for header in self.headers]
        for row in self.rows:
            for number, cell in enumerate(row):
                natural[number] = max(natural[number], *(cell_len(part) for part in cell.plain.split("\n")))
        floors = {number: max(8, cell_len(self.headers[number])) for number in [*self.flexible, *self.cut]}
        for gap in (GAP, 1):
            widths = list(natural)
            room = available - gap * (len(widths) - 1)
            _shrink(widths, room, floors)
            if self.cut:
                _shrink(widths, room, dict.fromkeys(range(len(widths)), 4))
            if sum(widths) <= room or (self.cut and gap == 1):
                return widths, gap
        return None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        layout = self.layout(options.max_width)
        if layout is None:
            yield from self._blocks(console, options)
            return
        widths, gap = layout
        head = [Text(header, style="bold") for header in self.headers]
        for row in [head, *self.rows]:
            folded = [self._cell(number, cell, widths[number], console) for number, cell in enumerate(row)]
            for level in range(max(len(lines) for lines in folded)):
                line = Text()
                for number, lines in enumerate(folded):
                    part = lines[level] if level < len(lines) else Text("")
                    line.append_text(part)
                    line.append(" " * (widths[number] - cell_len(part.plain) + gap))
                line.truncate(options.max_width)
                yield from _line(console, line)

    def _blocks(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, row in enumerate(self.rows):
            if number:
                yield from _line(console, Text(""))
            yield from console.render(Details(zip(self.headers, row, strict=True)), options)

    def _cell(self, number: int, cell: Text, width: int, console: Console) -> list[Text]:
        if number in self.flexible:
            return _fold(cell, width, console)
        lines = []
        for line in cell.split("\n") or [Text("")]:
            cut = line.copy()
            cut.truncate(width, overflow="ellipsis")
            lines.append(cut)
        return lines


def _shrink(widths: list[int], room: int, floors: dict[int, int]) -> None:
    """Take cells from the widest of the columns named in ``floors`` until all fit or none may shrink further."""
    while sum(widths) > room:
        candidates = [number for number, floor in floors.items() if widths[number] > floor]
        if not candidates:
            return
        widest = max(candidates, key=lambda number: widths[number])
        widths[widest] -= 1


def _fold(text: Text, width: int, console: Console) -> list[Text]:
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        if cell_len(line.plain) <= width:
            lines.append(line)
            continue
        for part in line.wrap(console, width, overflow="fold"):
            part.rstrip()
            lines.append(part)
    return lines or [Text("")]


def _line(console: Console, line: Text) -> Iterable[Segment]:
    """One line as it is: no padding, no blanks at its end, and never wrapped again."""
    line.rstrip()
    yield from line.render(console, end="\n")


def harmless(text: str) -> str:
    """Text of strangers without the characters that would steer the terminal.

    >>> harmless("a\\x1b[31mb\\r\\tc\\n")
    'a[31mb\\tc\\n'
    """
    return "".join(char for char in text if char in "\n\t" or (char.isprintable()))


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(harmless(cell))
