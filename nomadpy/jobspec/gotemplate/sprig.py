"""The plain ones of the sprig functions, by sprig's names with the prefix that template blocks give them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any

from nomadpy.jobspec.gotemplate import encodings as enc
from nomadpy.jobspec.gotemplate.values import (
    MISSING,
    in_range,
    is_true,
    refuse_length,
    show,
    sorted_items,
    text,
    to_bytes,
    whole,
)

_FIRST_LETTER = re.compile(r"(?<![\w'])[^\W\d_]")


def go_title(value: str) -> str:
    """Every word with a capital; the rest of a word stays as it is."""
    return _FIRST_LETTER.sub(lambda match: match[0].title(), value)


def _default(default: Any, value: Any = None) -> Any:
    return value if is_true(value) else default


def _coalesce(*values: Any) -> Any:
    return next((value for value in values if is_true(value)), None)


def _quoted(*values: Any) -> str:
    return " ".join(enc.to_json(show(value), escaped=False) for value in values if value is not None)


def _repeat(times: int, value: str) -> str:
    refuse_length(max(0, whole(times)) * len(text(value)))
    return value * times


def _trunc(length: int, value: str) -> str:
    return text(value)[:length] if whole(length) >= 0 else text(value)[length:]


def _replace(old: str, new: str, value: str) -> str:
    refuse_length(len(text(value)) + value.count(text(old)) * len(text(new)))
    return value.replace(old, new)


def _indent(n_spaces: int, value: str) -> str:
    refuse_length(len(text(value)) + whole(n_spaces) * (value.count("\n") + 1))
    return " " * n_spaces + value.replace("\n", "\n" + " " * n_spaces)


def _join(separator: str, values: Any) -> str:
    shown = [show(value) for value in values or ()]
    refuse_length(sum(map(len, shown)) + len(text(separator)) * len(shown))
    return separator.join(shown)


def _to_int(value: Any) -> int:
    """What sprig's int makes of anything: 0 where there is no number."""
    try:
        return int(in_range(int(value if not isinstance(value, str) else int(value, 0))))
    except (ValueError, TypeError, OverflowError):
        return 0


def _to_float(value: Any) -> float:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _folded(operation: Callable[[int, int], int]) -> Callable[..., int | float]:
    def calculate(first: Any, *rest: Any) -> int | float:
        total = _to_int(first)
        for value in rest:
            total = int(in_range(operation(total, _to_int(value))))
        return total

    return calculate


def _quotient(a: int, b: int) -> int:
    if b == 0:
        raise ValueError("division by zero")
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _dict(*pairs: Any) -> dict[str, Any]:
    return {show(key): value for key, value in zip(pairs[::2], (*pairs[1::2], ""), strict=False)}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is needed")
    return value


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _folded(lambda a, b: a + b),
    "add1": lambda value: in_range(_to_int(value) + 1),
    "b64dec": enc.base64_decode,
    "b64enc": enc.base64_encode,
    "cat": lambda *values: " ".join(show(value) for value in values if value is not None),
    "ceil": lambda value: float(-(-_to_float(value) // 1)),
    "coalesce": _coalesce,
    "contains": lambda part, value: text(part) in text(value),
    "default": _default,
    "dict": _dict,
    "div": _folded(_quotient),
    "empty": lambda value: not is_true(value),
    "first": lambda values: _listed(values)[0] if values else None,
    "float64": _to_float,
    "floor": lambda value: float(_to_float(value) // 1),
    "get": lambda table, key: table.get(text(key), ""),
    "has": lambda wanted, values: wanted in (values or []),
    "hasKey": lambda table, key: text(key) in table,
    "hasPrefix": lambda prefix, value: text(value).startswith(text(prefix)),
    "hasSuffix": lambda suffix, value: text(value).endswith(text(suffix)),
    "indent": _indent,
    "int": _to_int,
    "int64": _to_int,
    "join": _join,
    "keys": lambda table: [key for key, _ in sorted_items(table)],
    "last": lambda values: _listed(values)[-1] if values else None,
    "list": lambda *values: list(values),
    "lower": lambda value: text(value).lower(),
    "max": lambda *values: max(map(_to_int, values)),
    "min": lambda *values: min(map(_to_int, values)),
    "mod": _folded(lambda a, b: a - b * _quotient(a, b)),
    "mul": _folded(lambda a, b: a * b),
    "nindent": lambda n_spaces, value: "\n" + _indent(n_spaces, value),
    "quote": _quoted,
    "repeat": _repeat,
    "replace": _replace,
    "sha256sum": lambda value: hashlib.sha256(to_bytes(text(value))).hexdigest(),
    "sortAlpha": lambda values: sorted(show(value) for value in _listed(values)),
    "splitList": lambda separator, value: text(value).split(separator) if separator else list(value),
    "squote": lambda *values: " ".join(f"'{show(value)}'" for value in values if value is not None),
    "sub": lambda a, b: in_range(_to_int(a) - _to_int(b)),
    "ternary": lambda yes, no, test: yes if is_true(test) else no,
    "title": lambda value: go_title(text(value)),
    "toJson": lambda value: enc.to_json(value),
    "toString": lambda value: show(MISSING if value is None else value),
    "trim": lambda value: text(value).strip(),
    "trimAll": lambda signs, value: text(value).strip(signs) if signs else value,
    "trimPrefix": lambda prefix, value: text(value).removeprefix(text(prefix)),
    "trimSuffix": lambda suffix, value: text(value).removesuffix(text(suffix)),
    "trunc": _trunc,
    "uniq": lambda values: list(dict.fromkeys(show(value) for value in _listed(values))),
    "upper": lambda value: text(value).upper(),
}

SPRIG: dict[str, Callable[..., Any]] = {f"sprig_{name}": function for name, function in _FUNCTIONS.items()}
