"""Times written by Go's reference time, ``Mon Jan 2 15:04:05 MST 2006``. Always in UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Longer words first, as one alternative must not eat the beginning of another.
_PARTS = re.compile(
    r"January|Jan|Monday|Mon|MST|2006|Z07:00|Z0700|-07:00|-0700|-07|002|01|02|03|04|05|06|15|PM|pm|_2|[.,](?:0+|9+)(?!\d)"
    r"|1|2|3|4|5"
)


def format_time(now_ns: int, layout: str) -> str:
    """A Unix time in nanoseconds by a layout of Go's package time.

    >>> format_time(1_700_000_000_120_000_000, "2006-01-02T15:04:05.999Z07:00")
    '2023-11-14T22:13:20.12Z'
    >>> format_time(1_700_000_000_000_000_000, "Mon Jan _2 3:04PM 2006")
    'Tue Nov 14 10:13PM 2023'
    """
    moment = _EPOCH + timedelta(seconds=now_ns // 10**9)
    fraction = f"{now_ns % 10**9:09d}"
    return _PARTS.sub(lambda match: _part(match[0], moment, fraction), layout)


def _part(word: str, moment: datetime, fraction: str) -> str:
    if word[0] in ".,":
        digits = fraction[: len(word) - 1]
        if word[1] == "9":
            digits = digits.rstrip("0")
        return word[0] + digits if digits else ""
    hour = (moment.hour - 1) % 12 + 1
    fixed = {"MST": "UTC", "Z07:00": "Z", "Z0700": "Z", "-07:00": "+00:00", "-0700": "+0000", "-07": "+00"}
    numbers = {
        "1": moment.month,
        "2": moment.day,
        "3": hour,
        "4": moment.minute,
        "5": moment.second,
    }
    if word in fixed:
        return fixed[word]
    if word in numbers:
        return str(numbers[word])
    if word == "_2":
        return f"{moment.day:2d}"
    if word == "03":
        return f"{hour:02d}"
    codes = {"January": "%B", "Jan": "%b", "Monday": "%A", "Mon": "%a", "2006": "%Y", "002": "%j", "01": "%m"}
    codes |= {"02": "%d", "04": "%M", "05": "%S", "06": "%y", "15": "%H", "PM": "%p", "pm": "%p"}
    shown = moment.strftime(codes[word])
    return shown.lower() if word == "pm" else shown
