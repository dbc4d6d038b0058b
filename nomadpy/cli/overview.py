"""What is printed when no command, a group, or an unknown command was typed. Plain text, so that it is instant."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches

from nomadpy.cli import commands

_BOLD, _CYAN, _DIM, _OFF = "\x1b[1m", "\x1b[36m", "\x1b[2m", "\x1b[0m"


def print_overview() -> int:
    """Print the front page; the exit code is 0."""
    paint = _painter()
    lines = [
        f"{paint(_BOLD, 'nomadpy')} runs jobs on one machine or many.",
        "",
        f"{paint(_BOLD, 'Usage')}  nomadpy <command> [options] [arguments]",
    ]
    for title, names in commands.OVERVIEW:
        lines += ["", paint(_BOLD, title), *(_entry(paint, name, commands.COMMANDS[name].summary) for name in names)]
    lines += ["", paint(_BOLD, "All groups")]
    lines += [_entry(paint, name, text) for name, text in commands.GROUPS.items() if " " not in name]
    single = [name for name in commands.COMMANDS if " " not in name]
    lines += [
        "",
        paint(_BOLD, "Others"),
        "  " + ", ".join(sorted(single)),
        "",
        paint(_DIM, "nomadpy <group> lists its commands; nomadpy <command> -help explains one."),
        paint(_DIM, "The agent is found by -address or NOMAD_ADDR (default http://127.0.0.1:4646)."),
    ]
    print("\n".join(lines))
    return 0


def print_group(group: str, *, asked: bool) -> int:
    """Print the commands of a group; the exit code is 0 when help was asked for, else 1."""
    paint = _painter()
    lines = [
        f"{commands.GROUPS[group]}.",
        "",
        f"{paint(_BOLD, 'Usage')}  nomadpy {group} <command> [options] [arguments]",
        "",
        *(_entry(paint, name, command.summary) for name, command in commands.below(group).items()),
        "",
        paint(_DIM, "nomadpy <command> -help explains one of them."),
    ]
    print("\n".join(lines))
    return 0 if asked else 1


def suggestion(words: list[str]) -> str:
    """One line about a command that does not exist, with the nearest one that does.

    >>> suggestion(["jbo", "run", "x.hcl"])
    'Error: there is no command "jbo run". Did you mean "nomadpy job run"?'
    >>> suggestion(["job", "runn"])
    'Error: there is no command "job runn". Did you mean "nomadpy job run"?'
    """
    plain = [word for word in words if not word.startswith("-")] or words
    names = [*commands.COMMANDS, *commands.ALIASES, *commands.GROUPS]
    for length in (3, 2, 1):
        typed = " ".join(plain[:length])
        near = get_close_matches(typed, [name for name in names if name.count(" ") == length - 1], 1, 0.7)
        if len(plain) >= length and near and near[0] != typed:
            return f'Error: there is no command "{typed}". Did you mean "nomadpy {near[0]}"?'
    known = plain[0] in commands.GROUPS
    typed = " ".join(plain[:2]) if known else plain[0]
    listing = f"nomadpy {plain[0]}" if known else "nomadpy"
    return f'Error: there is no command "{typed}". "{listing}" lists what there is.'


def _entry(paint: _Painter, name: str, text: str) -> str:
    return f"  {paint(_CYAN, name.ljust(20))}  {text}"


class _Painter:
    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled

    def __call__(self, code: str, text: str) -> str:
        return f"{code}{text}{_OFF}" if self.enabled else text


def _painter() -> _Painter:
    environ = os.environ
    plain = any(environ.get(name) for name in ("NO_COLOR", "NOMAD_CLI_NO_COLOR")) or environ.get("TERM") == "dumb"
    forced = bool(environ.get("NOMAD_CLI_FORCE_COLOR"))
    return _Painter(not plain and (forced or sys.stdout.isatty()))
