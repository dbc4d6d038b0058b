"""The printf-style functions ``format`` and ``formatlist``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from nomadpy.jobspec.hcl.functions._codecs import json_encode
from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import ANY, BOOL, NUMBER, STRING, ConversionError, convert
from nomadpy.jobspec.hcl.values import HclList, Value, as_decimal, number_text

WIDTH_MAX = 10_000

_VERB = re.compile(
    r"%(?P<flags>[ +\-0#]*)(?P<width>\d*)(?:\.(?P<precision>\d*))?(?:\[(?P<index>\d+)\])?(?P<mode>.)", re.S
)
_ARGUMENTS = Parameter("args", ANY, null_allowed=True)
_FORMAT = Parameter("format", STRING)


@function("format", _FORMAT, variadic=_ARGUMENTS)
def format_(template: str, *arguments: Value) -> str:
    out: list[str] = []
    at = position = highest = 0
    while True:
        percent = template.find("%", at)
        if percent < 0:
            break
        out.append(template[at:percent])
        found = _VERB.match(template, percent)
        if found is None:
            raise ArgumentError(0, f"the template ends inside a verb at offset {percent}")
        at = found.end()
        if found["mode"] == "%":
            out.append("%")
            continue
        if found["index"] is not None:
            position = int(found["index"][:9]) - 1
        if not 0 <= position < len(arguments):
            verb = found.group()
            raise CallFailure(f'not enough arguments for "{verb}" at {percent}: need index {position + 1}')
        out.append(_formatted(found, arguments[position], position + 1))
        position += 1
        highest = max(highest, position)
    if highest < len(arguments):
        raise ArgumentError(highest + 1, f"too many arguments; only {highest} used by format string")
    out.append(template[at:])
    return "".join(out)


def _formatted(found: re.Match[str], value: Value, at: int) -> str:
    width, precision = found["width"], found["precision"]
    if int(width[:9] or 0) > WIDTH_MAX or int((precision or "0")[:9]) > WIDTH_MAX:
        raise ArgumentError(0, f"widths and precisions beyond {WIDTH_MAX} are not supported")
    mode = found["mode"]
    if mode == "v":
        text = _default(value, found, at)
    elif mode in "bdoxXeEfgG":
        text = _number(mode, found, _converted(value, NUMBER, found, at))
    elif mode == "s":
        text = _cut(str(_converted(value, STRING, found, at)), precision)
    elif mode == "q":
        text = json_encode(_cut(str(_converted(value, STRING, found, at)), precision))
    elif mode == "t":
        text = "true" if _converted(value, BOOL, found, at) else "false"
    else:
        raise ArgumentError(0, f"unsupported format verb {mode!r} at offset {found.start()}")
    return _padded(
        text, int(width or 0), found["flags"], is_number=mode in "bdoxXeEfgG" or _is_plain_number(value, mode)
    )


def _is_plain_number(value: Value, mode: str) -> bool:
    return mode == "v" and isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def _converted(value: Value, wanted: object, found: re.Match[str], at: int) -> Value:
    verb = found.group()
    if value is None:
        raise ArgumentError(at, f'unsupported value for "{verb}" at {found.start()}: null value cannot be formatted')
    try:
        return convert(value, wanted)  # type: ignore[arg-type]
    except ConversionError as wrong:
        raise ArgumentError(at, f'unsupported value for "{verb}" at {found.start()}: {wrong}') from wrong


def _cut(text: str, precision: str | None) -> str:
    from nomadpy.jobspec.hcl.functions._strings import graphemes

    return text if precision is None else "".join(list(graphemes(text))[: int(precision or 0)])


def _default(value: Value, found: re.Match[str], at: int) -> str:
    """``%v``: strings as they are, numbers shortest, anything else as JSON; ``%#v``: always JSON."""
    if "#" in found["flags"] or value is None or isinstance(value, (tuple, dict)):
        return json_encode(value)
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return _number("g", found, value)
    return _cut(str(convert(value, STRING)), found["precision"])


def _number(mode: str, found: re.Match[str], value: Value) -> str:
    assert isinstance(value, (int, Decimal))
    precision = None if found["precision"] is None else int(found["precision"] or 0)
    if mode in "bdoxX":
        text = _whole(mode, int(value), "#" in found["flags"])
    elif mode in "eE":
        text = _exponent(format(as_decimal(value), f".{6 if precision is None else precision}{mode}"))
    elif mode == "f":
        text = format(as_decimal(value), f".{6 if precision is None else precision}f")
    elif precision is None:
        text = _shortest(value, mode)
    else:
        text = _exponent(format(_rounded(value, precision), f".{precision or 1}{mode}"))
    if not text.startswith("-"):
        text = ("+" if "+" in found["flags"] else " " if " " in found["flags"] else "") + text
    return text


def _rounded(value: int | Decimal, precision: int) -> float | Decimal:
    # Decimal's own "g" keeps trailing zeros; a float's does not, and both agree up to 15 digits.
    return float(value) if precision <= 15 and abs(as_decimal(value).adjusted()) < 300 else as_decimal(value)


def _shortest(value: int | Decimal, mode: str) -> str:
    """Plain digits, or an exponent where 64-bit floats would use one (below 1e-4, from 1e21)."""
    exponent = as_decimal(value).adjusted()
    if value == 0 or -4 <= exponent < 21:
        return number_text(value)
    digits = "".join(map(str, as_decimal(value).normalize().as_tuple().digits))
    mantissa = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
    letter = "E" if mode == "G" else "e"
    sign = "-" if value < 0 else ""
    return f"{sign}{mantissa}{letter}{'-' if exponent < 0 else '+'}{abs(exponent):02d}"


def _exponent(text: str) -> str:
    """The exponent with at least two digits."""
    return re.sub(r"([eE][+-])(\d)\Z", r"\g<1>0\2", text)


def _whole(mode: str, number: int, prefixed: bool) -> str:
    prefix = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}.get(mode, "") if prefixed else ""
    digits = f"{abs(number):{mode}}"
    return f"{'-' if number < 0 else ''}{prefix}{digits}"


def _padded(text: str, width: int, flags: str, *, is_number: bool) -> str:
    if "-" in flags:
        return text.ljust(width)
    if "0" in flags:
        sign = text[0] if is_number and text[:1] in ("+", "-", " ") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


@function("formatlist", _FORMAT, variadic=_ARGUMENTS)
def format_list(template: str, *arguments: Value) -> HclList:
    """One formatted string for each position of the list arguments; other arguments are repeated."""
    lists = [value for value in arguments if isinstance(value, tuple)]
    lengths = {len(value) for value in lists}
    if len(lengths) > 1:
        at = next(n for n, value in enumerate(arguments) if isinstance(value, tuple) and len(value) != len(lists[0]))
        raise ArgumentError(at + 1, f"argument {at + 1} has a different length than the lists before it")
    n_rows = lengths.pop() if lengths else 1
    rows: list[str] = []
    n_made = 0
    for row in range(n_rows):
        rows.append(format_(template, *_row(arguments, row)))
        n_made += len(rows[-1])
        if n_made > 8 * 1024 * 1024:
            raise CallFailure("the results are too long")
    return HclList(rows)


def _row(arguments: Sequence[Value], row: int) -> list[Value]:
    return [value[row] if isinstance(value, tuple) else value for value in arguments]
