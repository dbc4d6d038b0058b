"""Commands that change namespaces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nomadpy.cli import specfile
from nomadpy.cli.failures import ApiError, CommandFailed
from nomadpy.cli.flags import Template
from nomadpy.cli.http import quoted
from nomadpy.cli.session import Session

Name = Annotated[str, typer.Argument(metavar="<namespace>")]


def apply(
    session: Session,
    name_or_file: Annotated[str, typer.Argument(metavar="<namespace|file>")],
    *,
    description: Annotated[str | None, typer.Option("-description", help="What the namespace is for.")] = None,
    quota: Annotated[str | None, typer.Option("-quota", help="Accepted; there are no quotas to attach.")] = None,
    as_json: Annotated[bool, typer.Option("-json", help="The file is JSON as the API takes it.")] = False,
) -> None:
    """Create or change a namespace, by name with -description or as a file describes it.

    A name keeps what the namespace has and is not named; a file replaces all of it.
    """
    del quota
    if as_json or name_or_file == "-" or Path(name_or_file).is_file():
        body = specfile.read(name_or_file, as_json=as_json, label="namespace", keys=specfile.NAMESPACE)
    else:
        body = {"Name": name_or_file, **_stored(session, name_or_file)}
    if description is not None:
        body["Description"] = description
    if not body.get("Name"):
        raise CommandFailed(f"{name_or_file} names no namespace")
    session.api.put("/v1/namespace", body)
    session.say(f'Successfully applied namespace "{body["Name"]}"!')


def _stored(session: Session, name: str) -> dict[str, Any]:
    try:
        return dict(session.api.get(f"/v1/namespace/{quoted(name)}"))
    except ApiError as problem:
        if problem.status != 404:
            raise
        # A namespace that does not exist yet is created.
        return {}


def delete(session: Session, name: Name) -> None:
    """Remove a namespace in which no job runs any more."""
    session.api.delete(f"/v1/namespace/{quoted(name)}")
    session.say(f'Successfully deleted namespace "{name}"!')


def inspect(session: Session, name: Name, *, template: Template = None) -> None:
    """Print a namespace as JSON."""
    session.put_out(session.api.get(f"/v1/namespace/{quoted(name)}"), as_json=True, template=template)
