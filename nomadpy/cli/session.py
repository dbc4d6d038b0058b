"""What every command works with: the agent's API, the terminal, and how results are put out."""

from __future__ import annotations

import json
import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nomadpy.cli.http import Api, Settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

# A pipe has no width. Nothing is wrapped there, so that a line stays a line for grep and awk.
_PIPE_WIDTH = 100_000


class Session:
    """One run of one command."""

    def __init__(self, settings: Settings, *, no_color: bool = False, force_color: bool = False) -> None:
        self.settings = settings
        self.api = Api(settings)
        self._no_color = no_color
        self._force_color = force_color

    @cached_property
    def console(self) -> Console:
        """The terminal or pipe on stdout."""
        from rich.console import Console

        environ = os.environ
        plain = self._no_color or any(environ.get(name) for name in ("NO_COLOR", "NOMAD_CLI_NO_COLOR"))
        forced = not plain and (self._force_color or bool(environ.get("NOMAD_CLI_FORCE_COLOR")))
        interactive = sys.stdout.isatty()
        width = None if interactive or environ.get("COLUMNS", "").isdigit() else _PIPE_WIDTH
        console = Console(
            no_color=plain,
            color_system=("standard" if forced and not interactive else "auto") if not plain else None,
            force_terminal=True if forced else None,
            force_interactive=interactive,
            width=width,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        if not interactive and not forced:
            # Bold and underline are control codes too, and rich would keep them when only colour is off.
            console._color_system = None
        return console

    @property
    def is_live(self) -> bool:
        """Whether a person is watching, so that lines may be redrawn."""
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, *renderables: RenderableType) -> None:
        """Print views one below the other, with an empty line between them."""
        for number, renderable in enumerate(renderables):
            if number:
                self.console.print()
            self.console.print(renderable)

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print one line of text, never wrapped."""
        self.console.print(text, style=style, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a line on stderr, so that it does not disturb a result that is piped."""
        print(text, file=sys.stderr)

    def put_out(self, value: Any, *, as_json: bool, template: str | None) -> bool:
        """Print ``value`` as JSON or through a template when one of them was asked for, and tell whether it was."""
        if template:
            from nomadpy.cli.template import render

            print(render(template, value))
            return True
        if as_json:
            print(json.dumps(value, indent=4, ensure_ascii=False))
            return True
        return False
