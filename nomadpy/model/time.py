"""Durations and moments, as Nomad prints and reads them.

Inside the program a duration is an integer of nanoseconds and a moment is an integer of Unix nanoseconds (0 means
"never"). On the wire a moment typed ``Moment`` is an RFC 3339 string; a plain integer stays one.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, NewType

import msgspec

Moment = Annotated[int, msgspec.Meta(extra={"go": "time"})]
"""Unix nanoseconds inside, RFC 3339 on the wire; 0 is Go's zero time."""

DurationText = Annotated[int, msgspec.Meta(extra={"go": "duration"})]
"""Nanoseconds inside, Go's form (``1h0m0s``) on the wire, "" for zero; read from that form or from an integer."""

DurationInput = Annotated[int, msgspec.Meta(extra={"go": "duration-int"})]
"""Nanoseconds inside and on the wire; read from an integer or from Go's form."""

NANOSECOND = 1
MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

Nanoseconds = NewType("Nanoseconds", int)

_UNITS = {
    "ns": NANOSECOND,
    "us": MICROSECOND,
    "µs": MICROSECOND,
    "μs": MICROSECOND,
    "ms": MILLISECOND,
    "s": SECOND,
    "m": MINUTE,
    "h": HOUR,
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_ZERO_TIME = "0001-01-01T00:00:00Z"
_RFC3339 = re.compile(r"^(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|z|[+-]\d\d:\d\d)$")


def parse_duration(text: str) -> int:
    """Nanoseconds of a Go duration such as ``1h30m``, ``-1.5s`` or ``0``.

    Raises ValueError with Go's wording when the text is not one.

    >>> parse_duration("1m30s"), parse_duration("250ms"), parse_duration("-1.5h"), parse_duration("0")
    (90000000000, 250000000, -5400000000000, 0)
    """
    body = text[1:] if text[:1] in ("+", "-") else text
    if body == "0":
        return 0
    total, at = 0, 0
    for match in _PART.finditer(body):
        if match.start() != at:
            break
        whole, _, fraction = match[1].partition(".")
        unit = _UNITS[match[2]]
        total += int(whole or "0") * unit
        if fraction:
            total += int(fraction) * unit // 10 ** len(fraction)
        at = match.end()
    if not body or at != len(body):
        missing = bool(re.fullmatch(r"\d+(\.\d*)?", body))
        problem = "missing unit in duration" if missing else "invalid duration"
        raise ValueError(f'time: {problem} "{text}"')
    if total >= 1 << 63:
        raise ValueError(f'time: invalid duration "{text}"')
    return -total if text[:1] == "-" else total


def format_duration(ns: int) -> str:
    """A duration in Go's form.

    >>> [format_duration(n) for n in (0, 5 * SECOND, 90 * SECOND, 1500 * MILLISECOND, HOUR, 250 * MILLISECOND, 7)]
    ['0s', '5s', '1m30s', '1.5s', '1h0m0s', '250ms', '7ns']
    """
    if ns == 0:
        return "0s"
    if ns < 0:
        return "-" + format_duration(-ns)
    for unit, name in ((MICROSECOND, "ns"), (MILLISECOND, "µs"), (SECOND, "ms")):
        if ns < unit:
            return _decimal(ns, _UNITS[name]) + name
    hours, rest = divmod(ns, HOUR)
    minutes, rest = divmod(rest, MINUTE)
    text = _decimal(rest, SECOND) + "s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0")


def format_moment(ns: int) -> str:
    """An RFC 3339 string in UTC with as many digits of the second as are needed; 0 is Go's zero time.

    >>> format_moment(0), format_moment(1_700_000_000_250_000_000)
    ('0001-01-01T00:00:00Z', '2023-11-14T22:13:20.25Z')
    """
    if ns == 0:
        return _ZERO_TIME
    seconds, nanos = divmod(ns, SECOND)
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=seconds)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    return f"{text}.{nanos:09d}".rstrip("0") + "Z" if nanos else text + "Z"


def parse_moment(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 string; Go's zero time is 0. Raises ValueError when it is not one."""
    if text == _ZERO_TIME:
        return 0
    match = _RFC3339.match(text)
    if not match:
        raise ValueError(f'parsing time "{text}" as RFC 3339')
    zone = "+00:00" if match[4] in "Zz" else match[4]
    moment = dt.datetime.fromisoformat(f"{match[1]}T{match[2]}{zone}")
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    seconds = delta.days * 86_400 + delta.seconds
    return seconds * SECOND + int((match[3] or "0").ljust(9, "0"))
