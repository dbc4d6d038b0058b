"""The console script ``nomadpy``: finds the command that was typed and imports nothing that it does not need.

Start-up time is most of the time a person waits for ``nomadpy version`` or ``nomadpy job status``. So this module
imports only the table of commands; typer, rich and the HTTP client come with the one command that is run.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from nomadpy.cli import commands


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the command line ``argv`` (``sys.argv[1:]`` by default) and leave with its exit code."""
    code = run(sys.argv[1:] if argv is None else argv)
    _flush()
    raise SystemExit(code)


def run(argv: list[str]) -> int:
    """The exit code of one command line; whatever it has to say is on stdout and stderr."""
    words = ["version"] if argv[:1] in (["-v"], ["-version"], ["--version"]) else list(argv)
    wants_help = False
    while words and words[0] in ("help", "-h", "-help", "--help"):
        words, wants_help = words[1:], True
    if not words:
        from nomadpy.cli.overview import print_overview

        return print_overview()
    found = commands.resolve(words)
    if found is None:
        return _no_such_command(words)
    name, rest = found
    if name == "version" and not rest and not wants_help:
        from nomadpy import __version__

        print(f"nomadpy v{__version__}")
        return 0
    if name == "agent":
        return _agent(["-help"] if wants_help else rest)
    from nomadpy.cli.invoke import invoke

    return invoke(name, ["-help"] if wants_help else rest)


def _agent(args: list[str]) -> int:
    # The agent has flags of its own and configuration files behind them, so it reads its own command line.
    from nomadpy.agent.main import run as run_agent

    return int(run_agent(args))


def _no_such_command(words: list[str]) -> int:
    from nomadpy.cli.overview import print_group, suggestion

    plain = [word for word in words if not word.startswith("-")]
    for length in (2, 1):
        group = " ".join(plain[:length])
        if len(plain) >= length and group in commands.GROUPS:
            if len(plain) == length:
                asked = any(word.lstrip("-") in ("h", "help") for word in words)
                return print_group(group, asked=asked)
            break
    print(suggestion(words), file=sys.stderr)
    return 1


def _flush() -> None:
    # A reader that went away (`nomadpy job status | head -1`) is no error; Python would print one at exit.
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
