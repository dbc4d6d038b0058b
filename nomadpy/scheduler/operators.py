"""The operators of constraints and affinities, on two resolved sides. None stands for a side that did not resolve."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from nomadpy.model.patterns import compile_regexp, parse_version_constraint

DISTINCT_HOSTS, DISTINCT_PROPERTY = "distinct_hosts", "distinct_property"


def holds(operand: str, left: str | None, right: str | None) -> bool:
    """Whether the condition is true. An operator that does not exist is never true.

    >>> holds("!=", None, "linux"), holds("<", "9", "10"), holds("<", "9a", "10a")
    (True, True, False)
    """
    match operand:
        case "!=" | "not":
            return left != right
        case "is_set":
            return left is not None
        case "is_not_set":
            return left is None
    if left is None or right is None:
        return False
    decide = _BOTH_SIDES.get(operand)
    return decide is not None and decide(left, right)


def _ordered(operand: str, left: str, right: str) -> bool:
    """Compares as integers when both are, else as floats, else byte by byte."""
    a: int | float | bytes
    b: int | float | bytes
    numbers = _integers(left, right) or _floats(left, right)
    a, b = numbers if numbers else (left.encode(), right.encode())
    match operand:
        case "<":
            return a < b  # type: ignore[operator]  # both sides have the same type
        case "<=":
            return a <= b  # type: ignore[operator]
        case ">":
            return a > b  # type: ignore[operator]
    return a >= b  # type: ignore[operator]


# Whole numbers of 64 bits, as in Nomad; longer ones count as floats, which keeps them from taking time.
_INTEGER = re.compile(r"[+-]?0{0,400}[0-9]{1,18}\Z")
_FLOAT_LENGTH_MAX = 400  # of the text of a number; matching takes time that grows with the square of it
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z|[+-]?(?:inf|infinity)\Z", re.IGNORECASE)


def _integers(left: str, right: str) -> tuple[int, int] | None:
    if _INTEGER.match(left) and _INTEGER.match(right):
        return int(left), int(right)
    return None


def _floats(left: str, right: str) -> tuple[float, float] | None:
    if max(len(left), len(right)) <= _FLOAT_LENGTH_MAX and _FLOAT.match(left) and _FLOAT.match(right):
        return float(left), float(right)
    return None


def _matches(left: str, right: str) -> bool:
    try:
        return compile_regexp(right)(left)
    except ValueError:
        return False


def _in_version(left: str, right: str, *, strict: bool) -> bool:
    try:
        return parse_version_constraint(right, strict=strict).matches(left)
    except ValueError:
        return False


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")]


def _contains_all(left: str, right: str) -> bool:
    have = set(_items(left))
    return all(item in have for item in _items(right))


def _contains_any(left: str, right: str) -> bool:
    have = set(_items(left))
    return any(item in have for item in _items(right))


def _equal(left: str, right: str) -> bool:
    return left == right


_BOTH_SIDES: dict[str, Callable[[str, str], bool]] = {
    "=": _equal,
    "==": _equal,
    "is": _equal,
    "<": functools.partial(_ordered, "<"),
    "<=": functools.partial(_ordered, "<="),
    ">": functools.partial(_ordered, ">"),
    ">=": functools.partial(_ordered, ">="),
    "regexp": _matches,
    "version": functools.partial(_in_version, strict=False),
    "semver": functools.partial(_in_version, strict=True),
    "set_contains": _contains_all,
    "set_contains_all": _contains_all,
    "set_contains_any": _contains_any,
}


def is_true(text: str, *, default: bool) -> bool:
    """A boolean in Go's spelling; ``default`` when the text is none."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    return default
