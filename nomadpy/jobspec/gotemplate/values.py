"""Values as Go sees them: what is true, how they print, how large they are."""

from __future__ import annotations

import math
import re
from typing import Any, Final

from nomadpy.model.errors import Invalid

MAX_TEXT = 8 << 20
_MAX_PARTS = 500_000
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
# A byte that is no UTF-8 travels as one of U+DC80…U+DCFF (PEP 383); every other lone surrogate is no character.
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class TemplateFailed(Invalid):
    """A template is wrong or cannot be rendered. ``line`` counts from 1; 0 when no place is known."""

    code = "template"

    def __init__(self, problem: str, *, line: int = 0, name: str = "template") -> None:
        super().__init__("")
        self.problem = problem
        self.line = 0
        self.placed(line, name)

    def placed(self, line: int, name: str) -> TemplateFailed:
        """The same failure, told with the template's name and, where none was known, a line."""
        self.line = self.line or line
        self.message = f"{name}:{self.line}: {self.problem}" if self.line else f"{name}: {self.problem}"
        self.args = (self.message,)
        return self


class Missing:
    """The value of a field that an object does not have."""

    def __repr__(self) -> str:
        return "<no value>"


MISSING: Final = Missing()


def is_true(value: Any) -> bool:
    """Whether Go calls a value true: not zero, not empty, not nil."""
    return value is not MISSING and bool(value)


def show(value: Any) -> str:
    """A value as Go prints it. Raises TemplateFailed when the text would be too large.

    >>> show([1, "a", None]), show({"b": True, "a": 1.5}), show(3.0)
    ('[1 a <nil>]', 'map[a:1.5 b:true]', '3')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict):
        refuse_large(value)
    return _shown(value)


def _shown(value: Any) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return go_float(value)
    if isinstance(value, list):
        return "[" + " ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{_shown(key)}:{_shown(item)}" for key, item in sorted_items(value)) + "]"
    return str(value)


def go_float(value: float) -> str:
    """A float as Go's %v has it: the shortest digits, with an exponent below 1e-4 and from 1e+06 on.

    >>> go_float(0.1), go_float(1e21), go_float(1234567.0), go_float(1e-7), go_float(-0.5)
    ('0.1', '1e+21', '1.234567e+06', '1e-07', '-0.5')
    """
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    sign, digits, exponent = _decimal(value)
    point = exponent + 1
    if exponent < -4 or exponent >= 6:
        mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        return f"{sign}{mantissa}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    whole = digits[:point].ljust(point, "0")
    return f"{sign}{whole}.{digits[point:]}" if len(digits) > point else sign + whole


def _decimal(value: float) -> tuple[str, str, int]:
    mantissa, _, exponent = f"{abs(value)!r}".partition("e")
    whole, _, part = mantissa.partition(".")
    part = "" if part == "0" else part
    digits = (whole + part).lstrip("0")
    leading = len(whole + part) - len(digits)
    power = len(whole) - 1 - leading + int(exponent or 0)
    return "-" if value < 0 else "", digits.rstrip("0") or "0", power


def sorted_items(value: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """The pairs of an object in the order of their keys; keys of different kinds are ordered by their text."""
    try:
        return sorted(value.items(), key=lambda pair: pair[0])
    except TypeError:
        return sorted(value.items(), key=lambda pair: str(pair[0]))


def kind(value: Any) -> str:
    """What a value is, in words."""
    if value is None or value is MISSING:
        return "nothing"
    return {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}.get(type(value), "a number")


def weight(value: Any) -> int:
    """Roughly how many characters a value prints as; lists and objects count with all they hold.

    Raises TemplateFailed as soon as it is more than any text may have.
    """
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | dict):
        return 1
    total, n_parts = 0, 0
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        n_parts += 1
        if isinstance(part, dict):
            stack += part.values()
            total += sum(len(key) if isinstance(key, str) else 1 for key in part)
        elif isinstance(part, list):
            stack += part
        total += len(part) if isinstance(part, str) else 1
        if total > MAX_TEXT or n_parts > _MAX_PARTS:
            raise TemplateFailed(f"a value is larger than the {MAX_TEXT >> 20} MiB that a text may have")
    return total


def refuse_large(*values: Any) -> int:
    """The weight of some values together. Raises TemplateFailed when no text may be so large."""
    total = sum(weight(value) for value in values)
    refuse_length(total)
    return total


def refuse_length(length: int) -> None:
    """Raises TemplateFailed when a text of that length may not be made."""
    if length > MAX_TEXT:
        raise TemplateFailed(f"a text would be larger than {MAX_TEXT >> 20} MiB")


def to_bytes(text: str) -> bytes:
    """A text as it is written to a file: UTF-8, with bytes that never were characters as they came."""
    return _LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape")


def to_text(data: bytes) -> str:
    """The inverse of ``to_bytes``."""
    return data.decode("utf-8", "surrogateescape")


def whole(value: Any) -> int:
    """A whole number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{kind(value)} is not a whole number")
    return value


def number(value: Any) -> int | float:
    """A number. Raises ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{kind(value)} is not a number")
    return value


def in_range(value: int | float) -> int | float:
    """A result of arithmetic as Go can hold it. Raises ValueError when a whole number needs more than 64 bits."""
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise ValueError("the result needs more than 64 bits")
    return value


def text(value: Any) -> str:
    """A text. Raises ValueError for anything else, as Go's functions refuse it."""
    if not isinstance(value, str):
        raise ValueError(f"{kind(value)} is not a text")
    return value
