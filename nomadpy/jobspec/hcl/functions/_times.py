"""Functions over RFC 3339 timestamps. None of them reads a clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, Parameter, function
from nomadpy.jobspec.hcl.types import STRING

_TIMESTAMP = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_UNIT_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def _moment(at: int, text: str) -> tuple[datetime, int]:
    """The moment to the second in its own zone, and its nanoseconds."""
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ArgumentError(at, f"not a valid RFC 3339 timestamp: {text[:80]!r}")
    *numbers, fraction, zone = found.groups()
    try:
        if zone in "Zz":
            tz = UTC
        else:
            minutes = int(zone[1:3]) * 60 + int(zone[4:6])
            tz = timezone(timedelta(minutes=-minutes if zone[0] == "-" else minutes))
        year, month, day, hour, minute, second = map(int, numbers)
        moment = datetime(year, month, day, hour, minute, second, tzinfo=tz)
    except ValueError as wrong:
        raise ArgumentError(at, f"not a valid RFC 3339 timestamp: {wrong}") from wrong
    return moment, int((fraction or "").ljust(9, "0"))


@function("timeadd", Parameter("timestamp", STRING), Parameter("duration", STRING))
def time_add(timestamp: str, duration: str) -> str:
    """The timestamp moved by a duration such as ``-1h30m``, in its own zone."""
    moment, nanoseconds = _moment(0, timestamp)
    seconds, rest = divmod(nanoseconds + _duration_ns(duration), 1_000_000_000)
    try:
        moved = moment + timedelta(seconds=seconds)
    except OverflowError as wrong:
        raise ArgumentError(1, "the result is beyond the years 1 to 9999") from wrong
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return moved.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0") + fraction + _zone(moved, "Z", ":")


def _duration_ns(text: str) -> int:
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    if not unsigned or len(unsigned) > 100 or not re.fullmatch(f"(?:{_DURATION.pattern})+", unsigned, re.ASCII):
        raise ArgumentError(1, f"not a valid duration such as 1h30m: {text[:80]!r}")
    total = sum(int(Decimal(number) * _UNIT_NS[unit]) for number, unit in _DURATION.findall(unsigned))
    return -total if text.startswith("-") else total


def _zone(moment: datetime, utc: str, colon: str) -> str:
    offset = moment.utcoffset()
    assert offset is not None
    minutes = int(offset.total_seconds()) // 60
    if minutes == 0 and utc:
        return utc
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}{colon}{abs(minutes) % 60:02d}"


@function("formatdate", Parameter("format", STRING), Parameter("time", STRING))
def format_date(layout: str, timestamp: str) -> str:
    """The timestamp laid out by letters: ``YYYY MM DD hh mm ss ZZZZ`` and so on; quotes make literal text."""
    moment, _ = _moment(1, timestamp)
    out: list[str] = []
    for token in _tokens(layout):
        if token.startswith("'"):
            if len(token) < 2 or not token.endswith("'"):
                raise ArgumentError(0, "unterminated literal '")
            out.append("'" if token == "''" else token[1:-1].replace("''", "'"))
        elif token[0].isascii() and token[0].isalpha():
            out.append(_field(token, moment))
        else:
            out.append(token)
    return "".join(out)


def _tokens(layout: str) -> list[str]:
    pattern = re.compile(r"'(?:[^']|'')*'?|([A-Za-z])\1*|[^A-Za-z']+", re.DOTALL)
    return [found.group() for found in pattern.finditer(layout)]


def _field(token: str, moment: datetime) -> str:
    hour12 = moment.hour % 12 or 12
    fields = {
        "YYYY": f"{moment.year:04d}",
        "YY": f"{moment.year % 100:02d}",
        "MMMM": _MONTHS[moment.month - 1],
        "MMM": _MONTHS[moment.month - 1][:3],
        "MM": f"{moment.month:02d}",
        "M": str(moment.month),
        "DD": f"{moment.day:02d}",
        "D": str(moment.day),
        "EEEE": _DAYS[moment.weekday()],
        "EEE": _DAYS[moment.weekday()][:3],
        "hh": f"{moment.hour:02d}",
        "h": str(moment.hour),
        "HH": f"{hour12:02d}",
        "H": str(hour12),
        "AA": "AM" if moment.hour < 12 else "PM",
        "aa": "am" if moment.hour < 12 else "pm",
        "mm": f"{moment.minute:02d}",
        "m": str(moment.minute),
        "ss": f"{moment.second:02d}",
        "s": str(moment.second),
        "ZZZZZ": _zone(moment, "", ":"),
        "ZZZZ": _zone(moment, "", ""),
        "ZZZ": _zone(moment, "UTC", ""),
        "Z": _zone(moment, "Z", ":"),
    }
    found = fields.get(token)
    if found is None:
        wide = ", ".join(sorted(name for name in fields if name[0] == token[0]))
        raise ArgumentError(0, f"unsupported format verb {token!r}" + (f"; use {wide}" if wide else ""))
    return found
