"""Finding the other agents: what an entry of ``start_join`` and ``retry_join`` stands for, and how long it is tried."""

from __future__ import annotations

import logging
import shlex
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from nomadpy.agent.config import Join
from nomadpy.model.errors import Invalid, Unavailable
from nomadpy.model.time import SECOND

log = logging.getLogger(__name__)

Joiner = Callable[[list[str]], Awaitable[tuple[int, list[str]]]]
"""Tries addresses; (how many answered, a sentence for each that did not)."""

_COMMAND_TIMEOUT_S = 10.0
_AGAIN_S = 5.0


def with_port(address: str, port: int) -> str:
    """``host:port`` of an address that may lack the port.

    >>> with_port("10.0.0.1", 4647), with_port("db:9", 4647), with_port("fe80::1", 4647)
    ('10.0.0.1:4647', 'db:9', '[fe80::1]:4647')
    """
    host, colon, last = address.rpartition(":")
    if colon and last.isdigit() and (":" not in host or host.startswith("[")):
        return address
    return f"[{address}]:{port}" if ":" in address and not address.startswith("[") else f"{address}:{port}"


async def expand(entries: tuple[str, ...], port: int) -> list[str]:
    """The addresses that the entries stand for, in their order and each once. Raises Invalid for an entry that cannot
    be understood, Unavailable for a file or command that gives nothing."""
    found: dict[str, None] = {}
    for entry in entries:
        kind, equals, rest = entry.partition("=")
        if not equals:
            lines = [entry]
        elif kind == "file":
            lines = await trio.to_thread.run_sync(_read, rest)
        elif kind == "exec":
            lines = await _run(rest)
        else:
            raise Invalid(
                f'"{entry}" is no address to join: use host, host:port, file=PATH or exec=COMMAND (a command can ask a '
                "cloud provider)"
            )
        found.update((with_port(line, port), None) for line in lines)
    return list(found)


def _read(path: str) -> list[str]:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"the addresses in {path} cannot be read: {error}") from error
    return _lines(text)


async def _run(command: str) -> list[str]:
    try:
        words = shlex.split(command)
        with trio.fail_after(_COMMAND_TIMEOUT_S):
            done = await trio.run_process(words, capture_stdout=True, capture_stderr=True, check=False)
    except (OSError, ValueError, IndexError, trio.TooSlowError) as error:
        reason = str(error) or f"it took longer than {_COMMAND_TIMEOUT_S:g} s"
        raise Unavailable(f'the command "{command}" that names addresses failed: {reason}') from error
    if done.returncode != 0:
        raise Unavailable(f'the command "{command}" that names addresses {_ended(done)}')
    return _lines(done.stdout.decode(errors="replace"))


def _ended(done: subprocess.CompletedProcess[bytes]) -> str:
    said = done.stderr.decode(errors="replace").strip().splitlines()
    return f"ended with {done.returncode}" + (f": {said[-1]}" if said else "")


def _lines(text: str) -> list[str]:
    """Words, without comments."""
    return [word for line in text.splitlines() for word in line.partition("#")[0].replace(",", " ").split()]


async def join_at_start(join: Join, port: int, joiner: Joiner) -> None:
    """Joins once. Raises Unavailable when nobody answers."""
    if not join.start_join:
        return
    count, errors = await joiner(await expand(join.start_join, port))
    if not count:
        raise Unavailable("none of the agents to join at the start answered: " + "; ".join(errors))


async def keep_joining(join: Join, port: int, joiner: Joiner, *, until_alone: Callable[[], Awaitable[None]]) -> None:
    """Joins as soon as somebody answers, and again when ``until_alone`` says that too few are left. Raises Unavailable
    when ``retry_max`` tries in a row have failed."""
    if not join.retry_join:
        return
    failed, joined = 0, False
    told: list[str] = []
    pause_s = join.retry_interval_ns / SECOND
    while True:
        try:
            count, errors = await joiner(await expand(join.retry_join, port))
        except Unavailable as error:
            count, errors = 0, [error.message]
        if count:
            log.log(
                logging.DEBUG if joined and not failed else logging.INFO,
                "join.done",
                extra={"fields": {"agents": count}},
            )
            failed, told, joined = 0, [], True
            await until_alone()
            await trio.sleep(min(pause_s, _AGAIN_S))
            continue
        failed += 1
        # Said again when something else is wrong, and every half hour or so.
        level = logging.DEBUG if errors == told and failed % 90 else logging.WARNING
        told = errors
        log.log(level, "join.failed", extra={"fields": {"tries": failed, "errors": errors, "retry_s": pause_s}})
        if join.retry_max and failed >= join.retry_max:
            raise Unavailable(f"no agent could be joined in {failed} tries: " + "; ".join(errors))
        # The first tries follow each other fast: all agents of a new cluster often start in the same moment.
        await trio.sleep(min(pause_s, 1.0 if failed < 30 else pause_s))
