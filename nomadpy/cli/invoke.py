"""Runs one command: typer reads its flags, this module gives them Nomad's spelling and turns failures into one line.

Flags are declared with a single dash (``-json``), as Nomad writes them; ``--json`` means the same. Every command also
takes the general flags, which become its ``Session``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption
from typer.exceptions import Abort, Exit, TyperException

from nomadpy.cli.commands import COMMANDS
from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.http import Settings
from nomadpy.cli.session import Session
from nomadpy.model.errors import NomadError

SHOWN_PROBLEMS = 20
GENERAL = "General options"


def _general(flag: str, text: str, metavar: str = "") -> Any:
    return typer.Option(flag, help=text, metavar=metavar or None, rich_help_panel=GENERAL)


def general_flags(
    *,
    address: Annotated[str | None, _general("-address", "Where the agent is, also unix:///path. [NOMAD_ADDR]")] = None,
    region: Annotated[str | None, _general("-region", "The region to ask. [NOMAD_REGION]")] = None,
    namespace: Annotated[str | None, _general("-namespace", "The namespace, or * for all. [NOMAD_NAMESPACE]")] = None,
    token: Annotated[str | None, _general("-token", "The secret of an ACL token. [NOMAD_TOKEN]")] = None,
    no_color: Annotated[bool, _general("-no-color", "No colours. [NO_COLOR, NOMAD_CLI_NO_COLOR]")] = False,
    force_color: Annotated[bool, _general("-force-color", "Colours in a pipe too. [NOMAD_CLI_FORCE_COLOR]")] = False,
    ca_cert: Annotated[str | None, _general("-ca-cert", "File of the authority to trust. [NOMAD_CACERT]")] = None,
    ca_path: Annotated[str | None, _general("-ca-path", "Directory of authorities. [NOMAD_CAPATH]")] = None,
    client_cert: Annotated[str | None, _general("-client-cert", "Own certificate. [NOMAD_CLIENT_CERT]")] = None,
    client_key: Annotated[str | None, _general("-client-key", "Own private key. [NOMAD_CLIENT_KEY]")] = None,
    tls_server_name: Annotated[
        str | None, _general("-tls-server-name", "Name in the certificate. [NOMAD_TLS_SERVER_NAME]")
    ] = None,
    tls_skip_verify: Annotated[
        bool, _general("-tls-skip-verify", "Trust any certificate. [NOMAD_SKIP_VERIFY]")
    ] = False,
) -> Session:
    """The session that the general flags describe."""
    flags = {name: value for name, value in locals().items() if name not in ("no_color", "force_color")}
    return Session(Settings.of(flags, os.environ), no_color=no_color, force_color=force_color)


def invoke(name: str, args: list[str]) -> int:
    """The exit code of the command called ``name``; failures are printed as one line, never as a traceback."""
    debug = os.environ.get("NOMADPY_DEBUG") == "1"
    try:
        command = load(name)
        result = command.main(args, prog_name=f"nomadpy {name}", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return 130
    except Abort:
        return 1
    except Exit as left:
        return left.exit_code
    except BrokenPipeError:
        return 0
    except (NomadError, TyperException, OSError) as problem:
        if debug:
            raise
        print(f"Error: {_message(problem)}", file=sys.stderr)
        if isinstance(problem, UsageProblem | TyperException):
            print(f"See: nomadpy {name} -help", file=sys.stderr)
        return _exit_code(name, problem)
    except Exception as problem:
        if debug:
            raise
        print(
            f"Error: a fault in nomadpy itself: {type(problem).__name__}: {problem} "
            "(NOMADPY_DEBUG=1 shows where it happened)",
            file=sys.stderr,
        )
        return _exit_code(name, problem)


def _exit_code(name: str, problem: BaseException) -> int:
    if isinstance(problem, CommandFailed):
        return problem.exit_code
    # Scripts tell "there are changes" (1) from "the plan failed" (255).
    return 255 if name == "job plan" else 1


def _message(problem: BaseException) -> str:
    if isinstance(problem, TyperException):
        return problem.format_message()
    if hasattr(problem, "diagnostics"):
        from nomadpy.jobspec.hcl import render

        return "\n\n".join(render(found) for found in problem.diagnostics[:SHOWN_PROBLEMS])
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    return str(problem)


def load(name: str) -> TyperCommand:
    """The typer command of a name of the table, with the general flags added."""
    module, _, function = COMMANDS[name].target.partition(":")
    body = getattr(importlib.import_module(f"nomadpy.cli.verbs.{module}"), function)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    takes_command_line = getattr(body, "passes_flags_on", False)
    app.command(
        name=name,
        cls=Verb,
        help=inspect.cleandoc(body.__doc__ or COMMANDS[name].summary),
        context_settings={
            "help_option_names": ["-help", "-h"],
            "allow_interspersed_args": not takes_command_line,
        },
    )(_with_session(body))
    command = typer.main.get_command(app)
    assert isinstance(command, TyperCommand)
    return command


def _with_session(body: Callable[..., Any]) -> Callable[..., Any]:
    """``body`` with its first parameter, the session, replaced by the general flags."""
    own = list(inspect.signature(body).parameters.values())[1:]
    general = list(inspect.signature(general_flags).parameters.values())
    names = {parameter.name for parameter in general}

    def call(**values: Any) -> Any:
        session = general_flags(**{name: values.pop(name) for name in names})
        try:
            return body(session, **values)
        finally:
            session.api.close()

    functools.update_wrapper(call, body, assigned=("__name__", "__doc__", "__module__"))
    hints = {**get_type_hints(general_flags, include_extras=True), **get_type_hints(body, include_extras=True)}
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in [*own, *general]
    ]
    del call.__wrapped__  # type: ignore[attr-defined]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: hints[parameter.name] for parameter in parameters}
    return call


class Verb(TyperCommand):
    """A command whose flags are spelled Nomad's way: ``-json``, ``--json``, ``-var=a=b``, ``-detach=false``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments; flags may stand before and after them unless the command passes a command line on."""
        return super().parse_args(ctx, self.spell(args, interspersed=ctx.allow_interspersed_args))

    def spell(self, args: list[str], *, interspersed: bool = True) -> list[str]:
        """``args`` with every flag in the one spelling that was declared. Raises UsageProblem for an unknown flag."""
        flags = self._flags()
        spelled: list[str] = []
        rest = list(args)
        while rest:
            arg = rest.pop(0)
            if arg == "--" or (not interspersed and not arg.startswith("-")):
                return [*spelled, arg, *rest]
            if not arg.startswith("-") or arg == "-" or arg[1:].replace(".", "").isdigit():
                spelled.append(arg)
                continue
            word, has_value, value = arg.lstrip("-").partition("=")
            if word in ("help", "h"):
                return ["-help"]
            option = flags.get(word)
            if option is None:
                raise UsageProblem(self._unknown(word, flags))
            spelled += self._one(option, word, value if has_value else None, rest)
        return spelled

    def _one(self, option: Any, word: str, value: str | None, rest: list[str]) -> list[str]:
        if not getattr(option, "is_flag", False) or (isinstance(option.nargs, int) and option.nargs != 1):
            if value is None and not rest:
                raise UsageProblem(f"the flag -{word} needs a value")
            return [f"-{word}", rest.pop(0) if value is None else value]
        if value is None or value.lower() in ("1", "t", "true"):
            return [f"-{word}"]
        if value.lower() in ("0", "f", "false"):
            return list(option.secondary_opts[:1])
        raise UsageProblem(f'the flag -{word} is true or false, not "{value}"')

    def _flags(self) -> dict[str, Any]:
        options = [parameter for parameter in self.params if isinstance(parameter, TyperOption)]
        flags = {spelling.lstrip("-"): option for option in options for spelling in option.opts}
        for option in options:
            flags.update((spelling.lstrip("-"), option) for spelling in option.secondary_opts)
        return flags

    @staticmethod
    def _unknown(word: str, flags: dict[str, Any]) -> str:
        near = get_close_matches(word, flags, 1, 0.6)
        return f"there is no flag -{word}." + (f" Did you mean -{near[0]}?" if near else "")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page: usage, what the command does, its own flags, and the general ones."""
        from nomadpy.cli.help import write_help

        write_help(self, ctx.command_path, formatter)
