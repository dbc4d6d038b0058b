"""Regular expressions in RE2's syntax whose search time grows with the text, never with the pattern's cunning.

Python's ``re`` backtracks: ``(a+)+$`` over thirty letters takes minutes, and filters and constraints come from
strangers. Here the pattern becomes a Thompson automaton and the set of its live states is carried along the text
(Thompson 1968; Cox, "Regular Expression Matching Can Be Simple And Fast"). Sets that were seen are kept with their
successors, which makes the usual step one dictionary look-up. Only *whether* it matches is answered, so greed and
captures mean nothing; backreferences and look-around do not exist, as in RE2.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import msgspec

from nomadpy.model.errors import Invalid

MAX_PATTERN_CHARS = 500
_MAX_REPEAT = 1000
_MAX_INSTRUCTIONS = 2000
_MAX_DEPTH = 50
# Successor sets kept for one pattern; beyond it they are forgotten and found again.
_MAX_KEPT = 20_000

Ranges = tuple[tuple[str, str], ...]


class CharSet(msgspec.Struct, frozen=True):
    """Some characters: ranges, general categories, or other sets; ``fold`` ignores case."""

    ranges: Ranges = ()
    categories: tuple[str, ...] = ()
    others: tuple[CharSet, ...] = ()
    negated: bool = False
    fold: bool = False

    def holds(self, char: str) -> bool:
        """Whether the character belongs to the set."""
        found = self._has(char) or (self.fold and (self._has(char.lower()) or self._has(char.upper())))
        return found != self.negated

    def _has(self, char: str) -> bool:
        return (
            any(low <= char <= high for low, high in self.ranges)
            or any(unicodedata.category(c).startswith(self.categories) for c in char[:1] if self.categories)
            or any(other.holds(char) for other in self.others)
        )


# The tree: ("set", CharSet) ("at", name) ("cat", nodes) ("alt", nodes) ("rep", node, low, high or None)
Node = tuple[Any, ...]

_DIGIT: Ranges = (("0", "9"),)
_WORD: Ranges = (("0", "9"), ("A", "Z"), ("_", "_"), ("a", "z"))
_SPACE: Ranges = (("\t", "\n"), ("\f", "\r"), (" ", " "))
_PERL = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_POSIX: dict[str, Ranges] = {
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": (("A", "Z"), ("a", "z")),
    "ascii": (("\0", "\x7f"),),
    "blank": (("\t", "\t"), (" ", " ")),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "digit": _DIGIT,
    "graph": (("!", "~"),),
    "lower": (("a", "z"),),
    "print": ((" ", "~"),),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "space": (("\t", "\r"), (" ", " ")),
    "upper": (("A", "Z"),),
    "word": _WORD,
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}
_CONTROLS = {"a": "\a", "f": "\f", "t": "\t", "n": "\n", "r": "\r", "v": "\v"}
_ANCHORS = {"A": "text-start", "z": "text-end", "b": "word-edge", "B": "no-word-edge"}
_MINOR_CATEGORIES = {"C": "cfos", "L": "lmotu", "M": "cen", "N": "dlo", "P": "cdefios", "S": "ckmo", "Z": "lps"}
_CATEGORIES = frozenset([major + minor for major, minors in _MINOR_CATEGORIES.items() for minor in ("", *minors)])


@lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether the pattern occurs anywhere in a text.

    Raises:
        Invalid: the pattern is malformed, too large, or uses what RE2 does not have; the message says where.

    >>> compile_pattern("^web-[0-9]+$")("web-12")
    True
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise Invalid(f"regular expression has {len(pattern)} characters; the limit is {MAX_PATTERN_CHARS}")
    return _Automaton(_Program(_PatternParser(pattern).parse()).code).search


# ---------------------------------------------------------------------- syntax


class _PatternParser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._i = 0
        self._flags: frozenset[str] = frozenset()

    def parse(self) -> Node:
        node = self._alternatives(0)
        if self._i < len(self._text):
            self._fail("unexpected )")
        return node

    def _alternatives(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            self._fail("groups are nested too deeply")
        branches = [self._sequence(depth)]
        while self._skip("|"):
            branches.append(self._sequence(depth))
        return branches[0] if len(branches) == 1 else ("alt", branches)

    def _sequence(self, depth: int) -> Node:
        nodes: list[Node] = []
        while self._i < len(self._text) and self._text[self._i] not in "|)":
            if self._skip("\\Q"):
                end = self._text.find("\\E", self._i)
                literal = self._text[self._i : end if end >= 0 else len(self._text)]
                nodes += [self._literal(char) for char in literal]
                self._i = len(self._text) if end < 0 else end + 2
                if literal:
                    nodes.append(self._repeated(nodes.pop()))
                continue
            node = self._atom(depth)
            if node is not None:
                nodes.append(self._repeated(node))
        return ("cat", nodes)

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        self._skip("?")
        if self._bounds() is not None:
            self._fail("a repetition cannot be repeated without a group")
        return ("rep", node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, low, high in (("*", 0, None), ("+", 1, None), ("?", 0, 1)):
            if self._skip(sign):
                return low, high
        end = self._text.find("}", self._i)
        if not self._text.startswith("{", self._i) or end < 0:
            return None
        low_text, comma, high_text = self._text[self._i + 1 : end].partition(",")
        if not _is_count(low_text) or (high_text and not _is_count(high_text)):
            return None  # RE2 reads such a brace as itself
        low = int(low_text)
        high = int(high_text) if high_text else None if comma else low
        if max(low, high or 0) > _MAX_REPEAT or (high is not None and high < low):
            self._fail(f"repetition counts must rise and stay within {_MAX_REPEAT}")
        self._i = end + 1
        return low, high

    def _atom(self, depth: int) -> Node | None:
        char = self._text[self._i]
        if char == "(":
            return self._group(depth)
        if char == "[":
            return ("set", self._class())
        self._i += 1
        if char == "\\":
            return self._escape()
        if char == ".":
            return ("set", CharSet(negated=True, ranges=() if "s" in self._flags else (("\n", "\n"),)))
        if char == "^":
            return ("at", "line-start" if "m" in self._flags else "text-start")
        if char == "$":
            return ("at", "line-end" if "m" in self._flags else "text-end")
        if char in "*+?":
            self._fail(f"nothing to repeat before {char}")
        return self._literal(char)

    def _literal(self, char: str) -> Node:
        return ("set", CharSet(ranges=((char, char),), fold="i" in self._flags))

    def _group(self, depth: int) -> Node | None:
        self._i += 1
        outer = self._flags
        if self._skip("?"):
            if self._skip("P<") or (self._text[self._i : self._i + 1] == "<" and self._skip("<")):
                end = self._text.find(">", self._i)
                if end < 0 or not self._text[self._i : end].isidentifier():
                    self._fail("a group name must be a word, closed by >")
                self._i = end + 1
            elif not self._flag_group():
                return None
        node = self._alternatives(depth + 1)
        if not self._skip(")"):
            self._fail("missing )")
        self._flags = outer
        return node

    def _flag_group(self) -> bool:
        """Read ``flags:`` or ``flags)``; true when a group follows, false when the flags hold from here on."""
        on = True
        while (char := self._text[self._i : self._i + 1]) not in (":", ")"):
            if char == "-" and on:
                on = False
            elif char and char in "imsU":
                self._flags = self._flags | {char} if on else self._flags - {char}
            else:
                self._fail("unknown group: look-around and backreferences do not exist here")
            self._i += 1
        self._i += 1
        return char == ":"

    def _escape(self) -> Node:
        char = self._text[self._i : self._i + 1]
        if char in _ANCHORS and char:
            self._i += 1
            return ("at", _ANCHORS[char])
        shared = self._shared_escape()
        if isinstance(shared, CharSet):
            return ("set", msgspec.structs.replace(shared, fold=False))
        return self._literal(shared)

    def _shared_escape(self) -> CharSet | str:
        """An escape that means the same inside and outside brackets; the backslash has been read."""
        char = self._text[self._i : self._i + 1]
        self._i += 1
        if char and char.lower() in _PERL:
            return CharSet(ranges=_PERL[char.lower()], negated=char.isupper())
        if char in ("p", "P"):
            return self._category(negated=char == "P")
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "x":
            return self._hexadecimal()
        if char and char in "01234567" and (char == "0" or self._text[self._i : self._i + 1] in tuple("01234567")):
            digits = char
            while len(digits) < 3 and self._text[self._i : self._i + 1] in tuple("01234567"):
                digits += self._text[self._i]
                self._i += 1
            return chr(int(digits, 8))
        if not char or char.isalnum():
            self._fail(f"unknown escape \\{char}")
        return char

    def _hexadecimal(self) -> str:
        if self._skip("{"):
            end = self._text.find("}", self._i)
            digits, after = self._text[self._i : max(end, self._i)], end + 1
        else:
            digits, after = self._text[self._i : self._i + 2], self._i + 2
            digits = digits if len(digits) == 2 else ""
        if not digits or len(digits) > 8 or any(d not in "0123456789abcdefABCDEF" for d in digits):
            self._fail("\\x needs two hexadecimal digits, or some in braces")
        code = int(digits, 16)
        if code > 0x10FFFF:
            self._fail("\\x names no character")
        self._i = after
        return chr(code)

    def _category(self, *, negated: bool) -> CharSet:
        if self._skip("{"):
            end = self._text.find("}", self._i)
            name = self._text[self._i : max(end, self._i)]
            self._i = end + 1
        else:
            name = self._text[self._i : self._i + 1]
            self._i += 1
        if name.startswith("^"):
            name, negated = name[1:], not negated
        if name not in _CATEGORIES:
            self._fail(f"unknown character category {name!r}: general categories such as Lu are known")
        return CharSet(categories=(name,), negated=negated)

    def _class(self) -> CharSet:
        self._i += 1
        negated = self._skip("^")
        ranges: list[tuple[str, str]] = []
        others: list[CharSet] = []
        first = True
        while first or not self._skip("]"):
            first = False
            item = self._class_item()
            if isinstance(item, CharSet):
                others.append(item)
                continue
            high: CharSet | str = item
            if self._text.startswith("-", self._i) and self._text[self._i + 1 : self._i + 2] not in ("]", ""):
                self._i += 1
                high = self._class_item()
            if isinstance(high, CharSet) or high < item:
                self._fail("a range in brackets must rise")
            ranges.append((item, high))
        return CharSet(ranges=tuple(ranges), others=tuple(others), negated=negated, fold="i" in self._flags)

    def _class_item(self) -> CharSet | str:
        if self._i >= len(self._text):
            self._fail("missing ]")
        if self._skip("[:"):
            end = self._text.find(":]", self._i)
            name = self._text[self._i : max(end, self._i)]
            inverse = name.startswith("^")
            if name.lstrip("^") not in _POSIX:
                self._fail(f"unknown class [:{name}:]")
            self._i = end + 2
            return CharSet(ranges=_POSIX[name.lstrip("^")], negated=inverse)
        if self._skip("\\"):
            return self._shared_escape()
        self._i += 1
        return self._text[self._i - 1]

    def _skip(self, text: str) -> bool:
        if self._text.startswith(text, self._i):
            self._i += len(text)
            return True
        return False

    def _fail(self, problem: str) -> NoReturn:
        raise Invalid(f"regular expression {self._text!r}, character {min(self._i, len(self._text)) + 1}: {problem}")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 6


# ---------------------------------------------------------------------- automaton


class _Program:
    """The tree as instructions: ("set", CharSet, next) ("at", name, next) ("split", a, b) ("match",).

    Built from the back: every piece is told the instruction that follows it.
    """

    def __init__(self, tree: Node) -> None:
        self.code: list[tuple[Any, ...]] = [("match",)]
        self.code.append(("split", self._emit(tree, 0), -1))

    def _add(self, *instruction: Any) -> int:
        if len(self.code) >= _MAX_INSTRUCTIONS:
            raise Invalid("regular expression is too large: its repetitions multiply")
        self.code.append(instruction)
        return len(self.code) - 1

    def _emit(self, node: Node, then: int) -> int:
        kind = node[0]
        if kind in ("set", "at"):
            return self._add(kind, node[1], then)
        if kind == "cat":
            for part in reversed(node[1]):
                then = self._emit(part, then)
            return then
        if kind == "alt":
            start = self._emit(node[1][-1], then)
            for part in reversed(node[1][:-1]):
                start = self._add("split", self._emit(part, then), start)
            return start
        return self._emit_repeat(node, then)

    def _emit_repeat(self, node: Node, then: int) -> int:
        _, part, low, high = node
        if high is None:
            loop = self._add("split", -1, then)
            self.code[loop] = ("split", self._emit(part, loop), then)
            start = loop
        else:
            start = then
            for _ in range(high - low):
                start = self._add("split", self._emit(part, start), then)
        for _ in range(low):
            before = start
            start = self._emit(part, before)
            if start == before:  # an empty part, which nested counts could repeat for ever
                break
        return start


# What stands beside a place in the text: nothing, a line break, a word character, anything else.
_EDGE, _BREAK, _WORDLIKE, _OTHER = range(4)
_State = tuple[frozenset[int], int]


class _Automaton:
    """Runs a program over texts. For one thread: the successors that are kept change."""

    def __init__(self, code: list[tuple[Any, ...]]) -> None:
        self._code = code
        self._start = code[-1][1]
        self._kept: dict[tuple[_State, str], _State | None] = {}

    def search(self, text: str) -> bool:
        """Whether the pattern occurs in the text."""
        state: _State = (frozenset((self._start,)), _EDGE)
        kept = self._kept
        for char in text:
            key = (state, char)
            if key not in kept:
                if len(kept) >= _MAX_KEPT:
                    kept.clear()
                kept[key] = self._step(state, char)
            after = kept[key]
            if after is None:
                return True
            state = after
        return self._live(state, _EDGE) is None

    def _step(self, state: _State, char: str) -> _State | None:
        """The state behind one more character, or None when the pattern has been found before it."""
        side = _side(char)
        live = self._live(state, side)
        if live is None:
            return None
        entries = {self._start}
        for pc in live:
            _, charset, then = self._code[pc]
            if charset.holds(char):
                entries.add(then)
        return frozenset(entries), side

    def _live(self, state: _State, after: int) -> list[int] | None:
        """The character instructions that can be reached here; None when the match is."""
        entries, before = state
        seen: set[int] = set()
        stack = list(entries)
        live = []
        while stack:
            pc = stack.pop()
            if pc in seen:
                continue
            seen.add(pc)
            instruction = self._code[pc]
            kind = instruction[0]
            if kind == "match":
                return None
            if kind == "set":
                live.append(pc)
            elif kind == "split":
                stack += instruction[1:]
            elif _holds_at(instruction[1], before, after):
                stack.append(instruction[2])
        return live


def _side(char: str) -> int:
    if char == "\n":
        return _BREAK
    return _WORDLIKE if char.isascii() and (char.isalnum() or char == "_") else _OTHER


def _holds_at(anchor: str, before: int, after: int) -> bool:
    match anchor:
        case "text-start":
            return before == _EDGE
        case "text-end":
            return after == _EDGE
        case "line-start":
            return before in (_EDGE, _BREAK)
        case "line-end":
            return after in (_EDGE, _BREAK)
        case "word-edge":
            return (before == _WORDLIKE) != (after == _WORDLIKE)
        case _:
            return (before == _WORDLIKE) == (after == _WORDLIKE)
