"""The functions that every Go template has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote_plus

from nomadpy.jobspec.gotemplate.values import MISSING, is_true, kind, refuse_large, refuse_length, show, text, whole

_VERB = re.compile(r"%([-+ #0]*)(\d*|\*)(?:\.(\d*))?([a-zA-Z%])")
_MAX_WIDTH = 10_000
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&#34;", "'": "&#39;", "\0": "\ufffd"}


def equal(first: Any, *others: Any) -> bool:
    """Whether the first value is one of the others; values of different kinds never are equal."""
    if not others:
        raise ValueError("at least two values are compared")
    return any(_same(first, other) for other in others)


def _same(a: Any, b: Any) -> bool:
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(a: Any, b: Any) -> bool:
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
        if not numbers and not (isinstance(a, str) and isinstance(b, str)):
            raise ValueError(f"{kind(a)} and {kind(b)} have no order")
        return test(a, b)

    return compare


def index(value: Any, *keys: Any) -> Any:
    """An element of a list, text or object; further keys go deeper. An absent key of an object is no value."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, MISSING) if isinstance(key, str | int | float) else MISSING
        elif isinstance(value, list | str | range):
            if not 0 <= whole(key) < len(value):
                raise ValueError(f"index {key} is out of range, the length is {len(value)}")
            value = ord(value[key]) if isinstance(value, str) else value[key]
        else:
            raise ValueError(f"cannot index {kind(value)}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, list | str) or len(bounds) > (2 if isinstance(value, str) else 3):
        raise ValueError(f"cannot slice {kind(value)} so")
    low = whole(bounds[0]) if bounds else 0
    high = whole(bounds[1]) if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise ValueError(f"{low}:{high} is out of range, the length is {len(value)}")
    return value[low:high]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogateescape"))
    if value is None or isinstance(value, list | dict | range):
        return len(value or ())
    raise ValueError(f"{kind(value)} has no length")


def print_text(*values: Any) -> str:
    """Values side by side; Go puts a blank between two of them when neither is a text."""
    refuse_large(*values)
    out: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            out.append(" ")
        out.append(show(value))
    return "".join(out)


def _println(*values: Any) -> str:
    refuse_large(*values)
    return " ".join(show(value) for value in values) + "\n"


def printf(pattern: str, *values: Any) -> str:
    """Values laid out as the verbs of ``pattern`` say: v s d q t x X o b c f F e E g G U and %%."""
    refuse_length(len(text(pattern)) + refuse_large(*values))
    rest, total = list(values), 0

    def one(match: re.Match[str]) -> str:
        nonlocal total
        flags, width, precision, verb = match[1], match[2], match[3], match[4]
        if verb == "%":
            return "%"
        if width == "*":
            width = str(whole(rest.pop(0))) if rest else ""
            flags, width = (flags + "-", width[1:]) if width.startswith("-") else (flags, width)
        if int(width or 0) > _MAX_WIDTH or int(precision or 0) > _MAX_WIDTH:
            raise ValueError(f"a width of more than {_MAX_WIDTH} is refused")
        total += int(width or 0) + int(precision or 0)
        refuse_length(total)
        if not rest:
            return f"%!{verb}(MISSING)"
        return _laid_out(rest.pop(0), flags, width, precision, verb)

    result = _VERB.sub(one, pattern)
    return result + (f"%!(EXTRA {', '.join(_typed(value) for value in rest)})" if rest else "")


def _laid_out(value: Any, flags: str, width: str, precision: str | None, verb: str) -> str:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    point = f".{precision or 0}" if precision is not None else ""
    if verb == "v":
        return f"%{flags.replace('0', '').replace('#', '')}{width}s" % show(value)
    if verb in "dxXo" and isinstance(value, int) and numeric:
        return str(f"%{flags}{width}{point}{verb}" % value)
    if verb in "eEfFgG" and numeric and isinstance(value, float):
        if verb in "gG" and precision is None:
            return f"%{flags}{width}s" % show(value)
        return str(f"%{flags}{width}{point}{verb}" % value)
    plain = flags.replace("0", "").replace("#", "").replace("+", "")
    if verb == "t" and isinstance(value, bool):
        shown = show(value)
    elif verb == "q" and isinstance(value, str):
        shown = json.dumps(value, ensure_ascii=False)
    elif verb == "s" and (isinstance(value, str | list | dict)):
        shown = show(value)[: int(precision or 0) if precision is not None else None]
    elif verb in "xX" and isinstance(value, str):
        shown = value.encode("utf-8", "surrogatepass").hex()
        shown = shown.upper() if verb == "X" else shown
    elif verb in "bcU" and isinstance(value, int) and numeric:
        shown = {"b": f"{value:b}", "c": chr(value) if 0 <= value <= 0x10FFFF else "\ufffd", "U": f"U+{value:04X}"}[
            verb
        ]
    elif verb == "T":
        shown = _go_type(value)
    else:
        shown = f"%!{verb}({_typed(value)})"
    return f"%{plain}{width}s" % shown


def _typed(value: Any) -> str:
    return "<nil>" if value is None else f"{_go_type(value)}={show(value)}"


def _go_type(value: Any) -> str:
    names = {str: "string", bool: "bool", int: "int", float: "float64", list: "[]interface {}"}
    return names.get(type(value), "map[string]interface {}")


def _html(*values: Any) -> str:
    return "".join(_HTML.get(char, char) for char in print_text(*values))


BUILTINS: dict[str, Callable[..., Any]] = {
    "eq": equal,
    "ge": _ordered(lambda a, b: a >= b),
    "gt": _ordered(lambda a, b: a > b),
    "html": _html,
    "index": index,
    "js": lambda *values: json.dumps(print_text(*values))[1:-1].replace("<", "\\u003C").replace("'", "\\'"),
    "le": _ordered(lambda a, b: a <= b),
    "len": _length,
    "lt": _ordered(lambda a, b: a < b),
    "ne": lambda a, b: not equal(a, b),
    "not": lambda value: not is_true(value),
    "print": print_text,
    "printf": printf,
    "println": _println,
    "slice": _slice,
    "urlquery": lambda *values: quote_plus(print_text(*values), errors="surrogateescape"),
}
