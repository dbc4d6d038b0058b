"""The agent's log: structured lines on standard error, and a tap for ``nomadpy monitor``.

Modules log an event name and facts: ``log.info("alloc.started", extra={"fields": {"alloc": …}})``. Here they become a
line for people, or with ``-log-json`` one JSON object.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nomadpy.model.errors import Invalid

TRACE = 5
LEVELS = {"trace": TRACE, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_NAMES = {TRACE: "TRACE", logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN"}
_TAP_LINES = 512


def level_of(text: str) -> int:
    """The number of a level's name. Raises Invalid when there is no such level."""
    try:
        return LEVELS[text.lower()]
    except KeyError:
        raise Invalid(f'invalid log level "{text}"; use one of {", ".join(LEVELS)}') from None


class LineFormatter(logging.Formatter):
    """``2026-01-02T03:04:05.678Z [INFO]  client.alloc_runner: alloc.started: alloc=… node=…``"""

    def __init__(self, *, include_location: bool = False) -> None:
        super().__init__()
        self._include_location = include_location

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line, and its traceback below when it has one."""
        where = f" ({record.filename}:{record.lineno})" if self._include_location else ""
        facts = " ".join(f"{name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{_stamp(record)} {f'[{_level(record)}]':<7} {_room(record)}{where}: {record.getMessage()}"
        line = f"{line}: {facts}" if facts else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys of Nomad's JSON log."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        out = {
            "@level": _level(record).lower(),
            "@message": record.getMessage(),
            "@module": _room(record),
            "@timestamp": _stamp(record),
            **_fields(record),
        }
        if record.exc_info:
            out["exception"] = self.formatException(record.exc_info)
        return json.dumps(out, default=str)


class LogTap(logging.Handler):
    """Gives every record to those who follow the log. Implements ``api.context.MonitorSource``.

    A follower that reads too slowly loses lines, and is told how many; the agent never waits for it.
    """

    def __init__(self) -> None:
        super().__init__(level=TRACE)
        self._followers: dict[_Follower, None] = {}
        self._token: trio.lowlevel.TrioToken | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Hands the record to the followers; other threads go by way of the loop."""
        if not self._followers:
            return
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            if self._token is not None:
                self._token.run_sync_soon(self._give, record)
        else:
            self._give(record)

    def _give(self, record: logging.LogRecord) -> None:
        for follower in list(self._followers):
            follower.give(record)

    @asynccontextmanager
    async def follow(self, level: str, *, as_json: bool, include_location: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        """Lines of at least the level, from now on."""
        formatter = JsonFormatter() if as_json else LineFormatter(include_location=include_location)
        follower = _Follower(level_of(level), formatter)
        self._token = trio.lowlevel.current_trio_token()
        root = logging.getLogger()
        before = root.level
        self._followers[follower] = None
        root.setLevel(min(before, follower.level))
        try:
            yield follower.lines()
        finally:
            del self._followers[follower]
            root.setLevel(min([f.level for f in self._followers] + [_console_level(root)]))


class _Follower:
    def __init__(self, level: int, formatter: logging.Formatter) -> None:
        self.level = level
        self._formatter = formatter
        self._send, self._receive = trio.open_memory_channel[bytes](_TAP_LINES)
        self._lost = 0

    def give(self, record: logging.LogRecord) -> None:
        if record.levelno < self.level:
            return
        line = self._formatter.format(record).encode() + b"\n"
        try:
            if self._lost:
                self._send.send_nowait(f"[{self._lost} lines were lost: reading was too slow]\n".encode())
                self._lost = 0
            self._send.send_nowait(line)
        except trio.WouldBlock:
            self._lost += 1

    def lines(self) -> AsyncIterator[bytes]:
        return aiter(self._receive)


def set_up(level: str, *, as_json: bool, include_location: bool = False) -> LogTap:
    """Starts logging to standard error; returns the tap for followers."""
    root = logging.getLogger()
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(JsonFormatter() if as_json else LineFormatter(include_location=include_location))
    console.setLevel(level_of(level))
    tap = LogTap()
    root.handlers[:] = [console, tap]
    root.setLevel(level_of(level))
    for chatty in ("httpx", "httpcore", "urllib3", "docker", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return tap


def set_level(level: str) -> None:
    """Changes what goes to standard error, as after SIGHUP."""
    root = logging.getLogger()
    root.setLevel(level_of(level))
    root.handlers[0].setLevel(level_of(level))


def _console_level(root: logging.Logger) -> int:
    return root.handlers[0].level


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno, "ERROR")


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix("nomadpy.")


def _stamp(record: logging.LogRecord) -> str:
    moment = dt.datetime.fromtimestamp(record.created, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text) if text == "" or any(c in text for c in ' "=\n') else text
