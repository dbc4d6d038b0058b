"""When a periodic job starts next.

Cron expressions have five fields (minute hour day-of-month month day-of-week), six (and a year), or seven (seconds
first, year last), or are one of the words such as ``@daily``. ``L``, ``LW``, ``15W`` and ``MON#2`` have their usual
meaning. Day-of-month and day-of-week, both restricted, are alternatives. cronsim walks the calendar; years and the
weekday nearest to a date, which it lacks, are added here.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
import zoneinfo

from cronsim import CronSim, CronSimError

from nomadpy.model.job import PeriodicConfig
from nomadpy.model.time import SECOND

_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_YEARS = range(1970, 2100)
_LONG_NAMES = {name.upper(): name[:3].upper() for name in (*calendar.month_name[1:], *calendar.day_name)}
_NEAREST = re.compile(r"(\d{1,2})W\Z")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# Months, weekdays and years repeat after 28 years; a spec that finds nothing from here never will, its years aside.
_CHECK_FROM = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def next_launch(periodic: PeriodicConfig, after_ns: int, *, local: dt.tzinfo = dt.UTC) -> int:
    """Unix nanoseconds of the first launch later than ``after_ns``, 0 when there is none.

    ``local`` is what the time zone "Local" means on this machine. Raises ValueError for a bad expression or zone.
    """
    zone = time_zone(periodic.time_zone, local=local)
    specs = (periodic.spec, *periodic.specs) if periodic.spec else periodic.specs
    launches = [launch for spec in specs if (launch := next_time(spec, after_ns, zone))]
    return min(launches, default=0)


def next_time(spec: str, after_ns: int, zone: dt.tzinfo = dt.UTC) -> int:
    """Unix nanoseconds of the first time later than ``after_ns`` that the expression names, 0 when there is none.

    Raises ValueError for a bad expression.
    """
    after = (_EPOCH + dt.timedelta(seconds=after_ns // SECOND)).astimezone(zone)
    try:
        found = next(_Calendar(spec, after))
    except StopIteration:
        return 0
    delta = found.astimezone(dt.UTC) - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND


def check_cron(spec: str) -> None:
    """Raises ValueError, saying what is wrong, unless the text is a cron expression."""
    _Calendar(spec, _CHECK_FROM)


def time_zone(name: str, *, local: dt.tzinfo = dt.UTC) -> dt.tzinfo:
    """The zone of an IANA name, UTC for "". Raises ValueError when it is not known here."""
    if name in ("", "UTC"):
        return dt.UTC
    if name == "Local":
        return local
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"unknown time zone {name}") from None


class _Calendar(CronSim):
    """cronsim's calendar, limited to some years and able to find the weekday nearest to a day of the month."""

    def __init__(self, spec: str, after: dt.datetime) -> None:
        fields = _fields(spec)
        self.years = _years(fields.pop())
        days = fields[3].split(",")
        self.nearest = {int(match[1]) for day in days if (match := _NEAREST.match(day))}
        if any(not 1 <= day <= 31 for day in self.nearest):
            raise ValueError(f"bad day-of-month in {spec!r}")
        plain = [day for day in days if not _NEAREST.match(day)]
        fields[3] = ",".join(plain) if plain else "1"
        seconds = fields.pop(0)
        try:
            super().__init__(" ".join(fields) if seconds == "0" else " ".join([seconds, *fields]), after)
        except CronSimError as error:
            raise ValueError(f"{str(error)[:1].lower()}{str(error)[1:]} in {spec!r}") from None
        except (AssertionError, ValueError):
            raise ValueError(f"syntax error in {spec!r}") from None
        if not plain:
            self.days = set()

    def advance_month(self) -> None:
        while True:
            if self.years is not None and self.dt.year not in self.years:
                later = [year for year in self.years if year > self.dt.year]
                if not later:
                    raise StopIteration
                self.dt = dt.datetime(min(later), 1, 1, tzinfo=self.dt.tzinfo)
            super().advance_month()
            if self.years is None or self.dt.year in self.years:
                return

    def match_dom(self, d: dt.date) -> bool:
        return bool(super().match_dom(d)) or any(_nearest_weekday(d, day) == d.day for day in self.nearest)


def _fields(spec: str) -> list[str]:
    """Seconds, minutes, hours, days, months, weekdays and years."""
    text = _WORDS.get(spec.strip().lower(), spec)
    fields = [_short_names(field) for field in text.upper().replace("?", "*").split()]
    if len(fields) == 5:
        return ["0", *fields, "*"]
    if len(fields) == 6:
        return ["0", *fields]
    if len(fields) == 7:
        return fields
    problem = "missing field(s)" if len(fields) < 5 else "too many fields"
    raise ValueError(f"{problem} in {spec!r}")


def _short_names(field: str) -> str:
    return re.sub(r"[A-Z]{4,}", lambda match: _LONG_NAMES.get(match[0], match[0]), field)


def _years(field: str) -> frozenset[int] | None:
    """The years that a field allows, None for all. Raises ValueError when it is malformed."""
    if field == "*":
        return None
    years: set[int] = set()
    for term in field.split(","):
        match = re.match(r"(?:\*|(\d{4})(?:-(\d{4}))?)(?:/(\d{1,3}))?\Z", term)
        if not match or match[3] == "0":
            raise ValueError(f"syntax error in year field {term!r}")
        first = int(match[1] or _YEARS.start)
        last = int(match[2] or (first if match[1] and not match[3] else _YEARS.stop - 1))
        if first not in _YEARS or last not in _YEARS or last < first:
            raise ValueError(f"year out of range in {term!r}")
        years.update(range(first, last + 1, int(match[3] or 1)))
    return frozenset(years)


def _nearest_weekday(date: dt.date, day: int) -> int:
    """The day of ``date``'s month that is the weekday nearest to ``day``, without leaving the month; 0 when it has no
    such day."""
    last = calendar.monthrange(date.year, date.month)[1]
    if day > last:
        return 0
    weekday = calendar.weekday(date.year, date.month, day)
    if weekday == calendar.SATURDAY:
        return day - 1 if day > 1 else day + 2
    if weekday == calendar.SUNDAY:
        return day + 1 if day < last else day - 2
    return day
