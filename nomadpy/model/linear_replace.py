"""Replacing what a pattern of RE2's syntax finds, in time that grows with the text and never explodes.

The automaton of ``linear_regexp`` with captures: the threads of Pike's machine in order of preference, so that the
leftmost match wins, and among those the one that Go's regexp (Perl's rules: greedy unless told) would choose.
"""

from __future__ import annotations

import re
from typing import Any

from nomadpy.model.errors import Invalid
from nomadpy.model.linear_regexp import (
    MAX_PATTERN_CHARS,
    CharSet,
    Node,
    _holds_at,
    _PatternParser,
    _Program,
    _side,
)

_EDGE = 0
MAX_WORK = 5_000_000
_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")

Captures = tuple[int | None, ...]


def replace_all(pattern: str, replacement: str, text: str) -> str:
    """``text`` with every match replaced; ``$1``, ``${1}`` and ``${name}`` in ``replacement`` are what groups caught.

    Raises:
        Invalid: the pattern is wrong, or too much work for the length of the text.

    >>> replace_all("(a+)(?P<rest>b?)", "<$1|${rest}>", "xaab-a")
    'x<aa|b>-<a|>'
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise Invalid(f"regular expression has {len(pattern)} characters; the limit is {MAX_PATTERN_CHARS}")
    parser = _CapturingParser(pattern)
    tree = parser.parse()
    machine = _Machine(_CapturingProgram(("cap", 0, tree)), len(parser.names))
    out: list[str] = []
    at = copied = 0
    last_end = -1
    while at <= len(text):
        found = machine.match(text, at)
        if found is None:
            break
        start, end = found[0] or 0, found[1] or 0
        # As in Go, an empty match does not follow right behind another match.
        if start != end or start != last_end:
            out += [text[copied:start], _expand(replacement, parser.names, found, text)]
            copied = end
        last_end = end
        at = end if end > start else end + 1
    out.append(text[copied:])
    return "".join(out)


def _expand(replacement: str, names: list[str], found: Captures, text: str) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2] or match[3]
        if name.isdecimal():
            group = int(name) if len(name) < 4 else len(names)
        else:
            group = names.index(name) if name in names else len(names)
        if group >= len(names):
            return ""
        start, end = found[2 * group], found[2 * group + 1]
        return "" if start is None or end is None else text[start:end]

    return _REFERENCE.sub(one, replacement)


class _CapturingParser(_PatternParser):
    """Keeps which groups capture and which repetitions are lazy. ``names[0]`` is the whole match."""

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)
        self.names = [""]

    def _group(self, depth: int) -> Node | None:
        opened = self._text[self._i :]
        named = re.match(r"\((?:\?P?<(\w+)>)?(?!\?)", opened)
        if named is None:
            return super()._group(depth)
        number = len(self.names)
        self.names.append(named[1] or "")
        node = super()._group(depth)
        return None if node is None else ("cap", number, node)

    def _repeated(self, node: Node) -> Node:
        before = self._i
        repeated = super()._repeated(node)
        lazy = self._i - before > 1 and self._text[self._i - 1] == "?"
        swapped = "U" in self._flags
        return (*repeated, lazy != swapped) if repeated is not node else node


class _CapturingProgram(_Program):
    """The instructions of ``_Program`` and ("save", slot, next)."""

    def _emit(self, node: Node, then: int) -> int:
        if node[0] != "cap":
            return super()._emit(node, then)
        _, number, inner = node
        return self._add("save", 2 * number, self._emit(inner, self._add("save", 2 * number + 1, then)))

    def _emit_repeat(self, node: Node, then: int) -> int:
        *plain, lazy = node
        if not lazy:
            return super()._emit_repeat(tuple(plain), then)
        _, part, low, high = plain
        start = then
        if high is None:
            start = self._add("split", then, -1)
            self.code[start] = ("split", then, self._emit(part, start))
        for _ in range((high or low) - low):
            start = self._add("split", then, self._emit(part, start))
        for _ in range(low):
            start = self._emit(part, start)
        return start


class _Machine:
    """Runs the threads of a program side by side; each place of the program is visited once per character."""

    def __init__(self, program: _Program, n_groups: int) -> None:
        self._code = program.code
        self._start = program.code[-1][1]
        self._nothing: Captures = (None,) * (2 * n_groups)
        self._work = 0

    def match(self, text: str, at: int) -> Captures | None:
        """The slots of the first match that begins at ``at`` or later."""
        threads: list[tuple[int, Captures]] = []
        found: Captures | None = None
        for here in range(at, len(text) + 1):
            if not threads and found is not None:
                break
            before = _side(text[here - 1]) if here else _EDGE
            after = _side(text[here]) if here < len(text) else _EDGE
            entries = threads + ([(self._start, self._nothing)] if found is None else [])
            live, matched = self._close(entries, here, before, after)
            found = matched or found
            threads = self._advance(live, text[here]) if here < len(text) else []
        return found

    def _close(
        self, entries: list[tuple[int, Captures]], here: int, before: int, after: int
    ) -> tuple[list[tuple[int, Captures]], Captures | None]:
        """The character instructions that can be reached, best first; those behind a match are dropped."""
        seen: set[int] = set()
        live: list[tuple[int, Captures]] = []
        stack = entries[::-1]
        while stack:
            pc, slots = stack.pop()
            if pc in seen:
                continue
            seen.add(pc)
            instruction: tuple[Any, ...] = self._code[pc]
            kind = instruction[0]
            if kind == "match":
                return live, slots
            if kind == "set":
                live.append((pc, slots))
            elif kind == "split":
                stack += [(target, slots) for target in (instruction[2], instruction[1]) if target >= 0]
            elif kind == "save":
                slot = instruction[1]
                stack.append((instruction[2], (*slots[:slot], here, *slots[slot + 1 :])))
            elif _holds_at(instruction[1], before, after):
                stack.append((instruction[2], slots))
        self._spend(len(seen))
        return live, None

    def _advance(self, live: list[tuple[int, Captures]], char: str) -> list[tuple[int, Captures]]:
        moved = []
        for pc, slots in live:
            charset: CharSet = self._code[pc][1]
            if charset.holds(char):
                moved.append((self._code[pc][2], slots))
        return moved

    def _spend(self, amount: int) -> None:
        self._work += amount
        if self._work > MAX_WORK:
            raise Invalid("the regular expression is too much work for so long a text")
