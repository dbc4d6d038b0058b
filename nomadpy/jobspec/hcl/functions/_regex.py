"""Search and replace with RE2's meaning and in time proportional to text times pattern.

Python's ``re`` backtracks, so one pattern in a job file could keep a server busy for ever. Here its parser is
kept, but the pattern runs as a Pike machine: all alternatives advance together, in order of preference, each
with its own captures (Cox, "Regular Expression Matching: the Virtual Machine Approach"). As in RE2 there are no
backreferences and no lookaround, ``$`` means the very end, classes are ASCII, and an empty match right after
another match does not count. Not supported: ``\\p{…}``, ``\\C``, ``\\Q…\\E`` and the ``U`` flag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure

PATTERN_LENGTH_MAX = 1000
INSTRUCTIONS_MAX = 2000
# About two seconds.
STEPS_MAX = 3_000_000

Captures = tuple[int, ...]
Test = Callable[[str], bool]

_POSIX = {
    "[:alpha:]": "a-zA-Z",
    "[:digit:]": "0-9",
    "[:alnum:]": "a-zA-Z0-9",
    "[:upper:]": "A-Z",
    "[:lower:]": "a-z",
    "[:space:]": r"\s",
    "[:word:]": r"\w",
    "[:xdigit:]": "0-9a-fA-F",
    "[:punct:]": r"!-/:-@\[-`{-~",
}
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_CATEGORIES: dict[str, Test] = {
    "CATEGORY_DIGIT": lambda char: "0" <= char <= "9",
    "CATEGORY_NOT_DIGIT": lambda char: not "0" <= char <= "9",
    "CATEGORY_WORD": lambda char: char in _WORD,
    "CATEGORY_NOT_WORD": lambda char: char not in _WORD,
    "CATEGORY_SPACE": lambda char: char in "\t\n\v\f\r ",
    "CATEGORY_NOT_SPACE": lambda char: char not in "\t\n\v\f\r ",
}


class Pattern:
    """A compiled pattern; ``groups`` maps group names to numbers. Raises ArgumentError for a bad one."""

    def __init__(self, pattern: str) -> None:
        if len(pattern) > PATTERN_LENGTH_MAX:
            raise ArgumentError(1, f"a pattern may have at most {PATTERN_LENGTH_MAX} characters")
        try:
            tree = _parser.parse(_translated(pattern), re.ASCII)
        except (re.error, RecursionError, OverflowError, ValueError) as wrong:
            raise ArgumentError(1, f"not a valid regular expression: {wrong}") from wrong
        self.groups: dict[str, int] = dict(tree.state.groupdict)
        self.n_groups: int = tree.state.groups
        self._code: list[tuple[Any, ...]] = []
        self._emit_all(tree, tree.state.flags)
        self._add("match")
        self._steps = 0

    def matches(self, text: str) -> Iterator[Captures]:
        """Start and end of every group for each match, leftmost first; -1 where a group took no part."""
        at, previous_end = 0, -1
        while at <= len(text):
            found = self._search(text, at)
            if found is None:
                return
            start, end = found[0], found[1]
            if end > start or start != previous_end:
                yield found
            previous_end = end
            at = end if end > start else end + 1

    # Compilation.

    def _add(self, *instruction: Any) -> int:
        if len(self._code) >= INSTRUCTIONS_MAX:
            raise ArgumentError(1, "the regular expression is too large")
        self._code.append(instruction)
        return len(self._code) - 1

    def _emit_all(self, nodes: Any, flags: int) -> None:
        for node in nodes:
            self._emit(str(node[0]), node[1], flags)

    def _emit(self, name: str, argument: Any, flags: int) -> None:
        if name in ("LITERAL", "NOT_LITERAL", "IN", "ANY"):
            self._add("char", _test(name, argument, flags))
        elif name == "AT":
            self._add("at", _anchor(str(argument), flags))
        elif name == "SUBPATTERN":
            number, added, removed, inner = argument
            if number is not None:
                self._add("save", 2 * number)
            self._emit_all(inner, (flags | added) & ~removed)
            if number is not None:
                self._add("save", 2 * number + 1)
        elif name == "BRANCH":
            self._emit_branches(argument[1], flags)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, inner = argument
            self._emit_repeat(least, most, inner, flags, greedy=name == "MAX_REPEAT")
        else:
            raise ArgumentError(1, "lookaround, backreferences and possessive repeats are not supported")

    def _emit_branches(self, branches: list[Any], flags: int) -> None:
        jumps: list[int] = []
        for branch in branches[:-1]:
            split = self._add("split", 0, 0)
            self._emit_all(branch, flags)
            jumps.append(self._add("jump", 0))
            self._code[split] = ("split", split + 1, len(self._code))
        self._emit_all(branches[-1], flags)
        for jump in jumps:
            self._code[jump] = ("jump", len(self._code))

    def _emit_repeat(self, least: int, most: Any, inner: Any, flags: int, *, greedy: bool) -> None:
        # A bounded repeat is written out, so INSTRUCTIONS_MAX bounds it as well.
        for _ in range(least):
            self._emit_all(inner, flags)
        if most is _parser.MAXREPEAT:
            split = self._add("split", 0, 0)
            self._emit_all(inner, flags)
            self._add("jump", split)
            self._set_split(split, greedy)
            return
        splits: list[int] = []
        for _ in range(most - least):
            splits.append(self._add("split", 0, 0))
            self._emit_all(inner, flags)
        for split in splits:
            self._set_split(split, greedy)

    def _set_split(self, split: int, greedy: bool) -> None:
        into, past = split + 1, len(self._code)
        self._code[split] = ("split", into, past) if greedy else ("split", past, into)

    # The machine.

    def _search(self, text: str, start: int) -> Captures | None:
        found: Captures | None = None
        threads: list[tuple[int, Captures]] = []
        empty = (-1,) * (2 * self.n_groups)
        for at in range(start, len(text) + 1):
            if found is None:
                threads.append((0, (at, *empty[1:])))
            elif not threads:
                break
            live = self._closure(threads, text, at)
            threads = []
            char = text[at] if at < len(text) else None
            for where, captures in live:
                instruction = self._code[where]
                if instruction[0] == "match":
                    # Threads of lower preference can no longer win.
                    found = (captures[0], at, *captures[2:])
                    break
                if char is not None and instruction[1](char):
                    threads.append((where + 1, captures))
        return found

    def _closure(self, threads: list[tuple[int, Captures]], text: str, at: int) -> list[tuple[int, Captures]]:
        """The threads that wait for a character or have matched, in order of preference."""
        live: list[tuple[int, Captures]] = []
        seen: set[int] = set()
        pending = threads[::-1]
        while pending:
            where, captures = pending.pop()
            if where in seen:
                continue
            seen.add(where)
            instruction = self._code[where]
            kind = instruction[0]
            if kind == "jump":
                pending.append((instruction[1], captures))
            elif kind == "split":
                pending.append((instruction[2], captures))
                pending.append((instruction[1], captures))
            elif kind == "save":
                slot = instruction[1]
                pending.append((where + 1, (*captures[:slot], at, *captures[slot + 1 :])))
            elif kind == "at":
                if instruction[1](text, at):
                    pending.append((where + 1, captures))
            else:
                live.append((where, captures))
        self._steps += len(seen) + 1
        if self._steps > STEPS_MAX:
            raise CallFailure("the search takes too many steps; use a shorter text or a simpler pattern")
        return live


def _translated(pattern: str) -> str:
    """RE2's spelling in Python's: ``(?<name>…)``, ``\\z`` and POSIX classes."""
    for posix, ranges in _POSIX.items():
        pattern = pattern.replace(posix, ranges)

    def escape(found: re.Match[str]) -> str:
        if found.group() == "\\z":
            return "\\Z"
        if found.group() in ("\\Z", "\\p", "\\P", "\\C", "\\Q", "\\E"):
            raise ArgumentError(1, f"not a valid regular expression: {found.group()} is not supported")
        return found.group()

    pattern = re.sub(r"\\.", escape, pattern, flags=re.DOTALL)
    return re.sub(r"\(\?<(?=[A-Za-z_])", "(?P<", pattern)


def _test(name: str, argument: Any, flags: int) -> Test:
    """Whether a character fits one position of the pattern."""
    if name == "ANY":
        return (lambda char: True) if flags & re.DOTALL else (lambda char: char != "\n")
    if name == "IN":
        plain = _class_test(argument)
    else:
        wanted = chr(argument)
        plain = lambda char: char == wanted  # noqa: E731
    if flags & re.IGNORECASE:
        exact = plain
        plain = lambda char: exact(char) or exact(char.lower()) or exact(char.upper())  # noqa: E731
    if name == "NOT_LITERAL":
        return lambda char: not plain(char)
    return plain


def _class_test(items: list[Any]) -> Test:
    ranges: list[tuple[str, str]] = []
    categories: list[Test] = []
    negated = False
    for kind, argument in items:
        name = str(kind)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            ranges.append((chr(argument), chr(argument)))
        elif name == "RANGE":
            ranges.append((chr(argument[0]), chr(argument[1])))
        else:
            categories.append(_CATEGORIES[str(argument)])

    def test(char: str) -> bool:
        inside = any(low <= char <= high for low, high in ranges) or any(each(char) for each in categories)
        return inside != negated

    return test


def _anchor(name: str, flags: int) -> Callable[[str, int], bool]:
    def is_boundary(text: str, at: int) -> bool:
        before = at > 0 and text[at - 1] in _WORD
        return before != (at < len(text) and text[at] in _WORD)

    if name == "AT_BOUNDARY":
        return is_boundary
    if name == "AT_NON_BOUNDARY":
        return lambda text, at: not is_boundary(text, at)
    lines = bool(flags & re.MULTILINE)
    if name == "AT_BEGINNING" and lines:
        return lambda text, at: at == 0 or text[at - 1] == "\n"
    if name == "AT_END" and lines:
        return lambda text, at: at == len(text) or text[at] == "\n"
    if name in ("AT_BEGINNING", "AT_BEGINNING_STRING"):
        return lambda text, at: at == 0
    return lambda text, at: at == len(text)
