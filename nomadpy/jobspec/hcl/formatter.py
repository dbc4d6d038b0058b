"""Canonical layout of an HCL file, in the manner of hclfmt.

Only blanks change: two for each level of indentation, one between most tokens, ``=`` and trailing comments
aligned over consecutive lines. Strings, heredocs and comments keep their text. It works on tokens, so nothing
that the syntax tree leaves out is lost.
"""

from __future__ import annotations

import msgspec

from nomadpy.jobspec.hcl import lexer
from nomadpy.jobspec.hcl.parser import parse

_OPENERS = frozenset({"{", "[", "("})
_CLOSERS = frozenset({"}", "]", ")"})
_TEMPLATE_ENDS = {lexer.OQUOTE: lexer.CQUOTE, lexer.OHEREDOC: lexer.CHEREDOC}
_STRING = "string"
_BEFORE_NEGATION = frozenset(
    {
        *("", "(", "{", "[", "=", ":", ",", "?", "=>", "+", "*", "/", "%", "-"),
        *("==", "!=", ">", ">=", "<", "<=", "&&", "||", "!"),
    }
)


class _Unit(msgspec.Struct):
    """A token, or a whole string or heredoc, with the number of blanks before it."""

    kind: str
    text: str
    blanks: int = 0


class _Line(msgspec.Struct):
    """A line in three cells; ``assign`` begins with the equals sign, ``comment`` is a trailing comment."""

    lead: list[_Unit]
    assign: list[_Unit]
    comment: list[_Unit]

    def units(self) -> list[_Unit]:
        return self.lead + self.assign + self.comment

    @property
    def is_multi_line(self) -> bool:
        return any("\n" in unit.text for unit in self.units())


def format(text: str | bytes, filename: str = "<input>") -> str:
    """The file in canonical layout; formatting it again changes nothing.

    Raises HclErrors if the file is not valid syntax.
    """
    parse(text, filename)
    source = lexer.read_source(text, filename)
    tokens, _ = lexer.tokenize(source)
    lines = [_cells(units) for units in _unit_lines(source.text, tokens)]
    _indent(lines)
    _align_assignments(lines)
    _align_comments(lines)
    return "\n".join(_rendered(line) for line in lines)


def _rendered(line: _Line) -> str:
    return "".join(" " * unit.blanks + unit.text for unit in line.units())


def _unit_lines(text: str, tokens: list[lexer.Token]) -> list[list[_Unit]]:
    """The units of each line, with the blanks between neighbours decided."""
    lines: list[list[_Unit]] = [[]]
    at = 0
    spacing = _Spacing()
    while tokens[at].kind != lexer.EOF:
        token = tokens[at]
        if token.kind == lexer.NEWLINE:
            lines.append([])
            spacing.new_line()
        else:
            last = _end_of_template(tokens, at)
            kind = token.kind if last == at else _STRING
            unit_text = text[token.start : tokens[last].end]
            unit = _Unit(kind, unit_text.rstrip() if kind == lexer.COMMENT else unit_text)
            unit.blanks = spacing.before(unit)
            lines[-1].append(unit)
            at = last
        at += 1
    return lines


def _end_of_template(tokens: list[lexer.Token], at: int) -> int:
    """The index of the token that closes the template which opens here, or this index."""
    if tokens[at].kind not in _TEMPLATE_ENDS:
        return at
    depth = 0
    while True:
        kind = tokens[at].kind
        depth += (kind in (lexer.OQUOTE, lexer.OHEREDOC)) - (kind in (lexer.CQUOTE, lexer.CHEREDOC))
        if depth == 0:
            return at
        at += 1


class _Spacing:
    """Decides the blanks before each unit from its left neighbours and the open brackets."""

    def __init__(self) -> None:
        self.left = self.left2 = _Unit("", "")
        # For each open bracket: whether it holds a for expression, and its conditionals without a colon yet.
        self.frames: list[list[int]] = [[False, 0]]

    def new_line(self) -> None:
        self.left = self.left2 = _Unit("", "")

    def before(self, unit: _Unit) -> int:
        blanks = 0 if self.left.kind == "" else int(self.wanted(unit))
        self.track(unit)
        self.left2, self.left = self.left, unit
        return blanks

    def track(self, unit: _Unit) -> None:
        kind = unit.kind
        if kind in _OPENERS:
            self.frames.append([False, 0])
        elif kind in _CLOSERS and len(self.frames) > 1:
            self.frames.pop()
        elif kind == "?":
            self.frames[-1][1] += 1
        elif kind == ":" and self.frames[-1][1]:
            self.frames[-1][1] -= 1
        elif unit.text == "for" and self.left.kind in ("[", "{", ""):
            self.frames[-1][0] = True

    def wanted(self, right: _Unit) -> bool:
        left, kind = self.left.kind, right.kind
        if kind == "." and left == lexer.NUMBER and self.left2.kind != ".":
            # Without the blank, the index in `1 .5` would become a fraction.
            return True
        if left == "." or kind == "." or kind == "..." or kind == "," or left == "!":
            return False
        if left == ",":
            return True
        if kind in ("(", "[") and self.left.text in ("in", "if") and self.left2.kind != ".":
            return True
        if kind == "(" and left == lexer.IDENT:
            return False
        if kind == "[" and (left in (lexer.IDENT, lexer.NUMBER, _STRING) or left in _CLOSERS):
            return False
        if left == "-" and self.left2.kind in _BEFORE_NEGATION:
            return False
        if left == "{" or kind == "}":
            return not (left == "{" and kind == "}")
        if kind == ":":
            # Colons of conditionals and for expressions stand free; those of objects follow their key.
            return bool(self.frames[-1][0] or self.frames[-1][1])
        return left not in _OPENERS and kind not in _CLOSERS


def _bracket_change(units: list[_Unit]) -> int:
    return sum((unit.kind in _OPENERS) - (unit.kind in _CLOSERS) for unit in units)


def _cells(units: list[_Unit]) -> _Line:
    comment: list[_Unit] = []
    if len(units) > 1 and units[-1].kind == lexer.COMMENT and not units[-1].text.startswith("/*"):
        units, comment = units[:-1], units[-1:]
    for at, unit in enumerate(units):
        if unit.kind == "=":
            # An opening bracket without its end begins an expression of several lines, which stays unaligned.
            if at > 0 and _bracket_change(units[at:]) == 0:
                return _Line(units[:at], units[at:], comment)
            break
    return _Line(units, [], comment)


def _indent(lines: list[_Line]) -> None:
    """Indent by one level for each line that leaves brackets open, however many it opens."""
    opened: list[int] = []
    for line in lines:
        units = line.units()
        if not units:
            continue
        change = _bracket_change(units)
        if change > 0:
            units[0].blanks = 2 * len(opened)
            opened.append(change)
            continue
        closed = -change
        while closed > 0 and opened:
            if closed < opened[-1]:
                opened[-1] -= closed
                break
            closed -= opened.pop()
        units[0].blanks = 2 * len(opened)


def _width(units: list[_Unit]) -> int:
    return sum(unit.blanks + len(unit.text) for unit in units)


def _align_assignments(lines: list[_Line]) -> None:
    chain: list[_Line] = []
    for line in [*lines, _Line([], [], [])]:
        if line.assign:
            chain.append(line)
        if not line.assign or line.is_multi_line:
            widest = max((_width(each.lead) for each in chain), default=0)
            for each in chain:
                each.assign[0].blanks = widest - _width(each.lead) + 1
            chain = []


def _align_comments(lines: list[_Line]) -> None:
    chain: list[_Line] = []
    for line in [*lines, _Line([], [], [])]:
        aligned = bool(line.comment) and not line.is_multi_line
        if aligned:
            chain.append(line)
        else:
            widest = max((_width(each.lead + each.assign) for each in chain), default=0)
            for each in chain:
                each.comment[0].blanks = widest - _width(each.lead + each.assign) + 1
            chain = []
            if line.comment:
                line.comment[0].blanks = 1
