"""``nomadpy agent``: reads flags and files, sets up logging, and runs the agent."""

from __future__ import annotations

import logging
import sys

import trio

from nomadpy.agent.agent import Agent
from nomadpy.agent.flags import HELP, configure
from nomadpy.agent.logs import set_level, set_up
from nomadpy.model.errors import NomadError

log = logging.getLogger(__name__)


def run(args: list[str]) -> int:
    """The exit code: 0 after an orderly stop, 1 with one clear line when the agent could not run."""
    if any(arg in ("-h", "-help", "--help") for arg in args):
        print(HELP)
        return 0
    try:
        config = configure(args)
        tap = set_up(config.log_level, as_json=config.log_json, include_location=config.log_include_location)
    except NomadError as error:
        return _fail(error)

    def reload() -> str:
        level = configure(args).log_level
        set_level(level)
        return level

    agent = Agent(config, tap, reload=reload)
    try:
        trio.run(agent.run)
    except BaseExceptionGroup as group:
        told = _told(group)
        if told is None:
            raise
        return _fail(told)
    except NomadError as error:
        return _fail(error)
    return 0


def _fail(error: NomadError) -> int:
    print(f"nomadpy agent: {error.message}", file=sys.stderr)
    return 1


def _told(group: BaseExceptionGroup) -> NomadError | None:
    """The first error of ours in a group that holds nothing else: it explains itself, a traceback would not."""
    ours, others = group.split(NomadError)
    if others is not None or ours is None:
        return None
    one: BaseException = ours
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one if isinstance(one, NomadError) else None
