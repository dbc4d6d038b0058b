"""``template`` blocks: files and variables that are rendered before a task starts.

All of a task's templates are rendered before the first is written. A file that ``file`` names and that is not there
yet is waited for, as Nomad does; everything else that cannot be rendered fails the task.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial

import msgspec
import trio

from nomadpy.client import events as ev
from nomadpy.client.env_file import parse_env_file
from nomadpy.client.hooks import HookContext, HookFailed, HookResult, PrestartOnly
from nomadpy.client.sandbox import Owner, Place, locate, read_file, write_file
from nomadpy.jobspec.gotemplate import MissingFile, Surroundings, TemplateFailed, consul_functions
from nomadpy.jobspec.gotemplate import Template as GoTemplate
from nomadpy.jobspec.gotemplate.values import MAX_TEXT, to_bytes, to_text
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.job import RestartPolicy, Task, Template

_LOOK_AGAIN_S = 1.0
_SHOWN_MAX = 3


class _Rendered(msgspec.Struct, frozen=True):
    """A template's result and where it goes."""

    template: Template
    place: Place
    text: str
    env: Mapping[str, str]


class TemplateHook(PrestartOnly):
    """Renders a task's templates, once unless its restart policy has ``render_templates``."""

    name = "templates"

    def applies(self, task: Task) -> bool:
        """Tasks with templates."""
        return bool(task.templates)

    async def prestart(self, context: HookContext) -> HookResult:
        """Writes every file; the variables of ``env`` templates are the result's."""
        try:
            rendered = await self._render_when_complete(context)
            await trio.to_thread.run_sync(_write, rendered)
        except TemplateFailed as error:
            raise _failure(context, error.message) from error
        except Invalid as error:
            event = ev.hook_failed(context.now_ns(), "template", error.message)
            raise HookFailed(event, recoverable=False) from error
        except OSError as error:
            event = ev.hook_failed(context.now_ns(), "template", f"failed to write a template: {error}")
            raise HookFailed(event, recoverable=True) from error
        env = {name: value for one in rendered for name, value in one.env.items()}
        policy = context.task.restart_policy or context.group.restart_policy or RestartPolicy()
        return HookResult(env=env, once=not policy.render_templates)

    async def _render_when_complete(self, context: HookContext) -> list[_Rendered]:
        told: list[str] = []
        while True:
            rendered, missing = await trio.to_thread.run_sync(_render_all, context, context.now_ns())
            if not missing:
                return rendered
            if missing != told:
                context.tell(ev.template(context.now_ns(), _missing_text(missing)))
                told = missing
            await trio.sleep(_LOOK_AGAIN_S)


def _failure(context: HookContext, message: str) -> HookFailed:
    event = ev.template(context.now_ns(), f"Template failed: {message}", fails_task=True)
    return HookFailed(event, recoverable=False)


def _missing_text(missing: list[str]) -> str:
    shown = ", ".join(missing[:_SHOWN_MAX])
    more = len(missing) - _SHOWN_MAX
    return f"Missing: {shown}" + (f", and {more} more" if more > 0 else "")


def _render_all(context: HookContext, now_ns: int) -> tuple[list[_Rendered], list[str]]:
    """(the results, the names of what is not there yet)."""
    rendered, missing = [], []
    for template in context.task.templates:
        try:
            rendered.append(_render(context, template, now_ns))
        except MissingFile as error:
            missing.append(error.problem)
    return rendered, sorted(set(missing))


def _render(context: HookContext, template: Template, now_ns: int) -> _Rendered:
    place = _locate(context, template.dest_path)
    if not place.inside:
        raise Invalid(f'template destination "{template.dest_path}" is a directory')
    source = _source(context, template)
    parsed = GoTemplate(source, left=template.left_delim, right=template.right_delim, name=_name(template))
    around = Surroundings(
        env={**context.names.node, **context.names.env},
        now_ns=now_ns,
        read_file=partial(_read_for_template, context),
        denied=frozenset(context.config.template.function_denylist),
    )
    text = parsed.render(None, consul_functions(around), missing_is_error=template.err_missing_key)
    env = {}
    if template.envvars:
        try:
            env = parse_env_file(text)
        except Invalid as error:
            raise TemplateFailed(error.message, name=_name(template)) from error
    return _Rendered(template, place, text, env)


def _name(template: Template) -> str:
    return template.source_path or f"template for {template.dest_path}"


def _locate(context: HookContext, written: str) -> Place:
    return locate(written, dirs=context.dirs, names=context.names, fs_isolation=context.fs_isolation)


def _source(context: HookContext, template: Template) -> str:
    if not template.source_path:
        return template.embedded_tmpl
    try:
        return to_text(_read(context, template.source_path))
    except OSError as error:
        reason = error.strerror or str(error)
        raise TemplateFailed(f"the source cannot be read: {reason}", name=template.source_path) from error


def _read_for_template(context: HookContext, path: str) -> bytes:
    try:
        return _read(context, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"file({path})") from error
    except OSError as error:
        raise TemplateFailed(f"file {path} cannot be read: {error.strerror or error}") from error
    except NomadError as error:
        raise TemplateFailed(f"file {path} cannot be read: {error.message}") from error


def _read(context: HookContext, path: str) -> bytes:
    try:
        return read_file(_locate(context, path), limit=MAX_TEXT)
    except (Invalid, FileNotFoundError, NotADirectoryError):
        if not context.config.template.disable_file_sandbox or not os.path.isabs(path):
            raise
        return read_file(Place("/", os.path.normpath(path).lstrip("/")), limit=MAX_TEXT)


def _write(rendered: list[_Rendered]) -> None:
    for one in rendered:
        template = one.template
        owner = Owner(
            template.uid if template.uid is not None else -1, template.gid if template.gid is not None else -1
        )
        write_file(one.place, to_bytes(one.text), mode=int(template.perms or "0644", 8), owner=owner)
