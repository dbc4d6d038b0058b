"""``nomadpy top``: the cluster on one screen, renewed every two seconds."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, Unreachable
from nomadpy.cli.http import Api
from nomadpy.cli.session import Session
from nomadpy.cli.views.top import Facts, Screen, View
from nomadpy.model.errors import NomadError

# A screen of a very large cluster shows the newest; what is cut off is said in the problem line.
MAX_ALLOCATIONS = 5_000
_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[5~": "page-up",
    "\x1b[6~": "page-down",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[Z": "left",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1b": "escape",
    "\x03": "interrupt",
}


def top(
    session: Session,
    *,
    interval: Annotated[float, typer.Option("-interval", help="Seconds between two looks.")] = 2.0,
    tab: Annotated[str, typer.Option("-tab", help="What to show first: nodes, jobs or allocations.")] = "nodes",
) -> None:
    """Watch nodes, jobs and allocations live.

    Keys: q quits; tab, 1, 2 and 3 switch; / filters; the arrows, j and k scroll. Without a terminal it prints what
    there is and ends.
    """
    names = ("nodes", "jobs", "allocations")
    if tab not in names:
        raise CommandFailed(f'-tab is nodes, jobs or allocations, not "{tab}"')
    facts = look(session.api)
    if not (session.is_live and sys.stdin.isatty()):
        for number in range(len(names)):
            session.show(View(facts, Screen(tab=number), None))
            session.say()
        return
    _watch(session, facts, Screen(tab=names.index(tab)), max(0.2, interval))


def look(api: Api) -> Facts:
    """One look at the cluster. Raises NomadError when the agent does not answer."""
    nodes = api.get("/v1/nodes", resources=True, health=True) or []
    jobs = api.get("/v1/jobs", namespace=api.settings.namespace or "*") or []
    allocations = (
        api.get(
            "/v1/allocations",
            namespace=api.settings.namespace or "*",
            resources=True,
            reverse=True,
            per_page=MAX_ALLOCATIONS,
        )
        or []
    )
    return Facts(
        address=api.settings.address,
        nodes=tuple(nodes),
        jobs=tuple(jobs),
        allocations=tuple(allocations),
        problem=f"only the newest {MAX_ALLOCATIONS} allocations are shown"
        if len(allocations) >= MAX_ALLOCATIONS
        else "",
        now_ns=time.time_ns(),
    )


def _watch(session: Session, facts: Facts, screen: Screen, interval_s: float) -> None:
    from rich.live import Live

    console = session.console
    next_look_s = time.monotonic() + interval_s
    with _keyboard(), Live(console=console, screen=True, auto_refresh=False) as live:
        while not screen.is_left:
            live.update(View(facts, screen, console.height), refresh=True)
            for key in _keys(max(0.0, next_look_s - time.monotonic())):
                screen = screen.press(key, page=max(1, console.height - 6))
            if time.monotonic() >= next_look_s:
                facts = _look_again(session.api, facts)
                next_look_s = time.monotonic() + interval_s


def _look_again(api: Api, before: Facts) -> Facts:
    from dataclasses import replace

    try:
        return look(api)
    except Unreachable:
        return replace(before, problem=f"the agent at {api.settings.address} does not answer; trying again")
    except NomadError as problem:
        return replace(before, problem=str(problem))


def _keys(wait_s: float) -> list[str]:
    """The keys that were pressed, or nothing after ``wait_s``."""
    try:
        ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    except InterruptedError:
        return []
    return split_keys(os.read(sys.stdin.fileno(), 256).decode(errors="ignore")) if ready else []


def split_keys(raw: str) -> list[str]:
    """The names of the keys in what a terminal sent at once; sequences that mean nothing here are dropped.

    >>> split_keys("j\\x1b[B/ab\\r"), split_keys("\\x1b"), split_keys("\\x1b[15~q")
    (['j', 'down', '/', 'a', 'b', 'enter'], ['escape'], ['q'])
    """
    sent = re.findall(r"\x1b\[[\d;]*[A-Za-z~]|\x1bO[A-Za-z]|.|\n", raw)
    return [_KEYS.get(one, one) for one in sent if len(one) == 1 or one in _KEYS]


@contextmanager
def _keyboard() -> Iterator[None]:
    """Keys arrive one by one and are not shown, until the block is left."""
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before: Any = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
