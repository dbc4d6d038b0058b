"""The help page of one command."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption

_MAX_WIDTH = 100


def write_help(command: TyperCommand, path: str, formatter: Any) -> None:
    """Write usage, description, own flags and general flags into ``formatter``."""
    width = min(_MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns) - 1
    arguments = [parameter for parameter in command.params if isinstance(parameter, TyperArgument)]
    options = [parameter for parameter in command.params if isinstance(parameter, TyperOption) and not parameter.hidden]
    own = [option for option in options if not option.rich_help_panel]
    general = [option for option in options if option.rich_help_panel]
    usage = " ".join([path, *(["[options]"] if own else []), *(_usage(argument) for argument in arguments)])
    formatter.write(f"Usage: {usage}\n")
    for paragraph in (command.help or "").split("\n\n"):
        formatter.write("\n" + _paragraph(paragraph, width) + "\n")
    for title, group in (("Options", own), ("General options", general)):
        if group:
            formatter.write(f"\n{title}\n")
            _write_options(formatter, group, width)


def _paragraph(text: str, width: int) -> str:
    if text.startswith("  "):
        return text
    return textwrap.fill(" ".join(text.split()), width)


def _usage(argument: TyperArgument) -> str:
    name = argument.metavar or f"<{(argument.name or '').replace('_', '-')}>"
    if argument.nargs == -1:
        name += "..."
    return name if argument.required else f"[{name}]"


def _write_options(formatter: Any, options: list[TyperOption], width: int) -> None:
    spellings = [_spelling(option) for option in options]
    column = min(max(len(spelling) for spelling in spellings) + 4, 28)
    for option, spelling in zip(options, spellings, strict=True):
        text = textwrap.wrap(option.help or "", max(20, width - column)) or [""]
        lead = f"  {spelling}".ljust(column)
        if len(spelling) + 4 > column:
            formatter.write(f"  {spelling}{os.linesep}")
            lead = " " * column
        formatter.write(lead + ("\n" + " " * column).join(text) + "\n")


def _spelling(option: TyperOption) -> str:
    names = ", ".join(option.opts)
    return names if option.is_flag else f"{names} {option.metavar or '<value>'}"
