"""Commands about namespaces, and ``status``, which finds out what an id belongs to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.session import Session


def namespace_list(session: Session, *, as_json: AsJSON = False, template: Template = None) -> None:
    """List the namespaces."""
    from nomadpy.cli.views import cluster as views

    rows = session.api.get("/v1/namespaces")
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.namespaces(rows or []))


def namespace_status(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="<namespace>")],
    *,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Show a namespace. Its name may be cut short."""
    from nomadpy.cli.views import cluster as views

    rows = session.api.get("/v1/namespaces", prefix=name) or []
    exact = [row for row in rows if row.get("Name") == name] or rows
    if len(exact) != 1:
        listing = ", ".join(sorted(str(row.get("Name")) for row in exact))
        raise CommandFailed(f'"{name}" could be {listing}' if exact else f'there is no namespace "{name}"')
    if not session.put_out(exact[0], as_json=as_json, template=template):
        session.show(views.namespace(exact[0]))


_COMMANDS = {
    "allocs": "alloc status",
    "deployment": "deployment status",
    "evals": "eval status",
    "jobs": "job status",
    "namespaces": "namespace status",
    "nodes": "node status",
}


def status(
    session: Session,
    ident: Annotated[str | None, typer.Argument(metavar="<id>", show_default=False)] = None,
    *,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> int:
    """Show whatever an id belongs to: a job, allocation, node, evaluation, deployment or namespace.

    Without an id the jobs are listed.
    """
    from nomadpy.cli.verbs import job_read

    if ident is None:
        job_read.status(session, None, verbose=verbose, as_json=as_json, template=template)
        return 0
    answer = session.api.put("/v1/search", {"Prefix": ident, "Context": "all"}) or {}
    return _show(session, ident, _choose(ident, answer.get("Matches") or {}), verbose, as_json, template)


def _choose(ident: str, matches: dict[str, list[str] | None]) -> str:
    found = {context: ids for context, ids in matches.items() if ids and context in _COMMANDS}
    if not found:
        raise CommandFailed(f'nothing has an id that begins with "{ident}"')
    exact = [context for context, ids in found.items() if ids and ident in ids]
    if len(exact) == 1:
        return exact[0]
    if len(found) > 1:
        lines = "\n".join(f"  {context}: {', '.join(ids or [])}" for context, ids in sorted(found.items()))
        raise CommandFailed(f'"{ident}" could be several things:\n{lines}')
    return next(iter(found))


def _show(session: Session, ident: str, context: str, verbose: bool, as_json: bool, template: str | None) -> int:
    import importlib

    from nomadpy.cli.commands import COMMANDS

    module, _, name = COMMANDS[_COMMANDS[context]].target.partition(":")
    command: Any = getattr(importlib.import_module(f"nomadpy.cli.verbs.{module}"), name)
    flags = {} if context == "namespaces" else {"verbose": verbose}
    return int(command(session, ident, as_json=as_json, template=template, **flags) or 0)
