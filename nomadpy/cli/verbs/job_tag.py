"""Names for versions of a job."""

from __future__ import annotations

from typing import Annotated

import typer

from nomadpy.cli.failures import UsageProblem
from nomadpy.cli.http import job_path, quoted
from nomadpy.cli.lookup import find_job
from nomadpy.cli.session import Session

Job = Annotated[str, typer.Argument(metavar="<job>")]
Name = Annotated[str, typer.Option("-name", help="The name of the tag.")]


def apply(
    session: Session,
    job: Job,
    *,
    name: Name = "",
    description: Annotated[str, typer.Option("-description", help="What the version is about.")] = "",
    version: Annotated[int | None, typer.Option("-version", help="The version; the current one by default.")] = None,
) -> None:
    """Give a version of a job a name. A version that has one is kept, and can be reverted to by it."""
    path, job_id, namespace = _path(session, job, name)
    body = {"Version": version, "Description": description}
    session.api.put(path, body, namespace=namespace)
    which = "the current version" if version is None else f"version {version}"
    session.say(f'Tagged {which} of job "{job_id}" as "{name}"')


def unset(session: Session, job: Job, *, name: Name = "") -> None:
    """Take a name away; the version stays as long as any other."""
    path, job_id, namespace = _path(session, job, name)
    session.api.delete(path, namespace=namespace)
    session.say(f'Removed the tag "{name}" of job "{job_id}"')


def _path(session: Session, typed: str, name: str) -> tuple[str, str, str]:
    if not name:
        raise UsageProblem("a tag needs a name: -name")
    job_id, namespace = find_job(session, typed)
    return job_path(job_id, "versions", quoted(name), "tag"), job_id, namespace
