"""``nomadpy agent``: reads flags and files, sets up logging, and runs the agent."""

from __future__ import annotations

import logging
import shutil
import sys

import trio

from nomadpy.agent.agent import Agent
from nomadpy.agent.config import AgentConfig
from nomadpy.agent.flags import HELP, configure
from nomadpy.agent.logs import set_level, set_up
from nomadpy.client.allocdir import mounts_below
from nomadpy.model.errors import NomadError

log = logging.getLogger(__name__)


def run(args: list[str]) -> int:
    """The exit code: 0 after an orderly stop, 1 with one clear line when the agent could not run."""
    if any(arg in ("-h", "-help", "--help") for arg in args):
        print(HELP)
        return 0
    config = AgentConfig()
    try:
        config = configure(args)
        tap = set_up(config.log_level, as_json=config.log_json, include_location=config.log_include_location)
    except NomadError as error:
        remove_made(config)
        return _fail(error)

    def reload() -> str:
        # The directory is named, so that reading the configuration again does not make another one.
        level = configure([*args, "-data-dir", config.data_dir]).log_level
        set_level(level)
        return level

    agent = Agent(config, tap, reload=reload)
    try:
        trio.run(agent.run)
    except BaseExceptionGroup as group:
        told = _told(group)
        if told is None:
            raise
        remove_made(config)
        return _fail(told)
    except NomadError as error:
        remove_made(config)
        return _fail(error)
    remove_made(config)
    return 0


def remove_made(config: AgentConfig) -> None:
    """Takes away the data directory that was made because nobody named one; a failure is only logged.

    Called once everything has stopped, and not after a crash: then what is left there may explain it.
    """
    if not config.made_data_dir:
        return
    fields = {"path": config.data_dir}
    mounts = mounts_below(config.data_dir)
    if mounts:
        # Removing would reach through a mount into files that are not the agent's.
        log.warning("agent.data_dir_kept", extra={"fields": {**fields, "mounts": mounts}})
        return
    try:
        shutil.rmtree(config.data_dir)
    except OSError as error:
        log.warning("agent.data_dir_kept", extra={"fields": {**fields, "error": str(error)}})


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
