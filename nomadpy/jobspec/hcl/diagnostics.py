"""What is wrong with a file, and where: source ranges, diagnostics and their plain-text rendering."""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

import msgspec

from nomadpy.model.errors import Invalid

Severity = Literal["error", "warning"]

SHOWN_LINE_MAX = 200
SHOWN_ERRORS_MAX = 50
SHOWN_NAME_MAX = 200
SHOWN_TEXT_MAX = 2000
_LONG_NAME = re.compile(rf"\S{{{SHOWN_NAME_MAX + 1},}}")


class Source:
    """A file's text with its line index; compared by identity.

    ``first_line`` and ``first_column`` (both 1-based) place an embedded text, such as a JSON string or the
    text of a ``-var`` flag, inside the file that holds it.
    """

    def __init__(self, filename: str, text: str, *, first_line: int = 1, first_column: int = 1) -> None:
        self.filename = filename
        self.text = text
        self.first_line = first_line
        self.first_column = first_column

    def __repr__(self) -> str:
        return f"Source({self.filename!r}, {len(self.text)} characters)"

    @cached_property
    def _line_starts(self) -> list[int]:
        starts = [0]
        find = self.text.find
        at = find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = find("\n", at + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column, both 1-based; columns count code points."""
        row = bisect.bisect_right(self._line_starts, offset) - 1
        column = offset - self._line_starts[row] + 1
        if row == 0:
            column += self.first_column - 1
        return row + self.first_line, column

    def line(self, number: int) -> str | None:
        """The text of a line by its number in the file, without its newline; None if it is not held here."""
        row = number - self.first_line
        if not 0 <= row < len(self._line_starts):
            return None
        start = self._line_starts[row]
        end = self._line_starts[row + 1] - 1 if row + 1 < len(self._line_starts) else len(self.text)
        prefix = " " * (self.first_column - 1) if row == 0 else ""
        return prefix + self.text[start:end].rstrip("\r")


class SourceRange(msgspec.Struct, frozen=True, eq=False):
    """A half-open stretch of a source, in characters; lines, columns and bytes are worked out on demand."""

    source: Source
    start: int
    end: int

    @property
    def file(self) -> str:
        return self.source.filename

    @property
    def start_line(self) -> int:
        return self.source.position(self.start)[0]

    @property
    def start_column(self) -> int:
        return self.source.position(self.start)[1]

    @property
    def end_line(self) -> int:
        return self.source.position(self.end)[0]

    @property
    def end_column(self) -> int:
        return self.source.position(self.end)[1]

    @property
    def start_byte(self) -> int:
        return len(self.source.text[: self.start].encode("utf-8", "surrogatepass"))

    @property
    def end_byte(self) -> int:
        return len(self.source.text[: self.end].encode("utf-8", "surrogatepass"))

    @property
    def text(self) -> str:
        return self.source.text[self.start : self.end]

    def __str__(self) -> str:
        """``file:line,column-end_column``, with the end's line too where the range spans several lines."""
        line, column = self.source.position(self.start)
        end_line, end_column = self.source.position(self.end)
        if end_line == line:
            return f"{self.file}:{line},{column}-{end_column}"
        return f"{self.file}:{line},{column}-{end_line},{end_column}"


def span(first: SourceRange, last: SourceRange) -> SourceRange:
    """The range from the start of the first to the end of the last, both of one source."""
    return SourceRange(first.source, first.start, last.end)


class Diagnostic(msgspec.Struct, frozen=True, eq=False):
    """One thing that is wrong: a short summary, a sentence of detail, and where.

    Names and values in the texts are the author's and may be megabytes long, so they are clipped here, once for all.
    """

    severity: Severity
    summary: str
    detail: str
    range: SourceRange | None = None
    suggestion: str | None = None

    def __post_init__(self) -> None:
        for field in ("summary", "detail"):
            text: str = getattr(self, field)
            if len(text) > SHOWN_NAME_MAX:
                msgspec.structs.force_setattr(self, field, clip(text))

    def __str__(self) -> str:
        return render_line(self)


class HclErrors(Invalid):
    """A file, expression or set of variables that cannot be used, with every diagnostic found."""

    code = "hcl-invalid"

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        assert diagnostics
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(render_line(found) for found in self.diagnostics))


class SyntaxFailure(Exception):
    """Parsing of one item stopped; the body parser collects the diagnostic and goes on after it."""

    def __init__(self, summary: str, detail: str, where: SourceRange) -> None:
        super().__init__(summary)
        self.diagnostic = Diagnostic("error", summary, detail, where)


def error(summary: str, detail: str, where: SourceRange | None, suggestion: str | None = None) -> HclErrors:
    """A single-error exception, ready to raise."""
    return HclErrors([Diagnostic("error", summary, detail, where, suggestion)])


def warning(summary: str, detail: str, where: SourceRange | None) -> Diagnostic:
    """A diagnostic that does not stop the work."""
    return Diagnostic("warning", summary, detail, where)


def clip(text: str) -> str:
    """The text with overlong words cut in their middle, and cut in its own middle when it is still too long.

    >>> clip("a name of " + "x" * 5000 + "!")
    'a name of xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…(4921 more)…xxxxxxxxxxxxxxxxxxx!'
    """
    shown = _LONG_NAME.sub(lambda found: _cut_middle(found[0], 60, 20), text)
    return shown if len(shown) <= SHOWN_TEXT_MAX else _cut_middle(shown, SHOWN_TEXT_MAX - 200, 100)


def _cut_middle(text: str, n_first: int, n_last: int) -> str:
    return f"{text[:n_first]}…({len(text) - n_first - n_last} more)…{text[-n_last:]}"


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None.

    >>> suggest("datacentres", ["datacenters", "type"])
    'datacenters'
    """
    if len(name) > SHOWN_NAME_MAX:
        # Nobody meant that, and comparing takes time and memory in proportion to its length.
        return None
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.7)
    return close[0] if close else None


def render_line(found: Diagnostic) -> str:
    """One line: ``file:line,column-column: summary; detail Did you mean "x"?``."""
    where = f"{found.range}: " if found.range is not None else ""
    detail = f"; {found.detail}" if found.detail else ""
    hint = f' Did you mean "{found.suggestion}"?' if found.suggestion else ""
    return f"{where}{found.summary}{detail}{hint}"


def render(found: Diagnostic, source: str | None = None) -> str:
    """Several lines: the one-line form, the source line, and carets under the range.

    ``source`` is the file's text, for diagnostics whose own source is not the whole file.
    """
    header = render_line(found)
    if found.range is None:
        return header
    line_number, column = found.range.source.position(found.range.start)
    end_line, end_column = found.range.source.position(found.range.end)
    held = Source(found.range.file, source) if source is not None else found.range.source
    line = held.line(line_number)
    if line is None:
        return header
    offset = column - 1
    width = (end_column if end_line == line_number else len(line) + 1) - column
    if offset >= SHOWN_LINE_MAX:
        # A minified line would drown the message, so a window around the place is shown instead.
        cut = offset - SHOWN_LINE_MAX // 2
        line, offset = line[cut:], offset - cut
    line = line[:SHOWN_LINE_MAX]
    width = max(1, min(width, len(line) - offset))
    printable = "".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line)
    # Tabs are repeated in the caret line so that the carets line up whatever width a terminal gives them.
    indent = "".join("\t" if c == "\t" else " " for c in printable[:offset])
    gutter = str(line_number)
    return f"{header}\n  {gutter} | {printable}\n  {' ' * len(gutter)} | {indent}{'^' * width}"
