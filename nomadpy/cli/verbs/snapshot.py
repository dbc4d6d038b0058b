"""Commands that save the state of a cluster to a file, restore it, and look into such a file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.flags import AsJSON
from nomadpy.cli.session import Session

_ROUTE = "/v1/operator/snapshot"


def save(
    session: Session,
    file: Annotated[
        Path | None, typer.Argument(metavar="[<file>]", help="nomad-state-<time>.snap if left out.")
    ] = None,
    *,
    stale: Annotated[bool, typer.Option("-stale", help="Whatever server is asked answers from its own state.")] = False,
) -> None:
    """Save the whole state of the cluster to a file.

    It holds jobs, nodes with their secrets, allocations, evaluations and deployments: keep it safe.
    """
    from nomadpy.state.archive import unpack

    path = file or Path(time.strftime("nomad-state-%Y%m%d-%H%M%S.snap"))
    archive, headers = session.api.download(_ROUTE, stale=stale or None)
    said = headers.get("Digest", "")
    found = "sha-256=" + base64.b64encode(hashlib.sha256(archive).digest()).decode()
    if said != found:
        raise CommandFailed(
            f"the snapshot did not arrive as it was sent: the agent said {said or 'nothing'}, not {found}"
        )
    meta = unpack(archive).meta
    _store(path, archive)
    session.say(f"State file written to {path} (index {meta.index}, {len(archive)} bytes)")


def _store(path: Path, data: bytes) -> None:
    """Either the whole file appears under its name, durably, or nothing does."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CommandFailed(f"cannot write {path}: {error.strerror or error}") from error


def _load(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror or error}") from error


def restore(
    session: Session, file: Annotated[Path, typer.Argument(metavar="<file>", help="What snapshot save wrote.")]
) -> None:
    """Replace the whole state of the cluster by a saved one.

    What happened since it was saved is forgotten: allocations that it does not know are stopped, and jobs are as they
    were then. The file is checked before anything changes.
    """
    from nomadpy.state.archive import unpack

    archive = _load(file)
    meta = unpack(archive).meta
    answer = json.loads(session.api.send("PUT", _ROUTE, body=archive))
    session.say(f"Snapshot of index {meta.index} restored; the cluster goes on at index {answer['Index']}")


def inspect(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="<file>", help="What snapshot save wrote.")],
    *,
    as_json: AsJSON = False,
) -> None:
    """Show what a saved state holds, after checking it."""
    from nomadpy.state.archive import unpack
    from nomadpy.state.snapshot import contents

    archive = unpack(_load(file))
    meta, found = archive.meta, contents(archive.state)
    facts: dict[str, Any] = {
        "ID": meta.id,
        "Size": meta.size,
        "Index": meta.index,
        "Term": meta.term,
        "Version": found.version,
        "Schema": meta.schema,
        "ClusterID": meta.cluster_id,
    }
    if as_json:
        tables = [{"Name": one.name, "Count": one.count, "Bytes": one.bytes} for one in found.tables]
        print(json.dumps({**facts, "Tables": tables}, indent=4))
        return
    for name, value in facts.items():
        session.say(f"{name:<10}= {value}")
    session.say()
    session.say(f"{'Table':<24}{'Count':>10}{'Bytes':>14}")
    for one in sorted(found.tables, key=lambda table: -table.bytes):
        session.say(f"{one.name:<24}{one.count or '-':>10}{one.bytes:>14}")
