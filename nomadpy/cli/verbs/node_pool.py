"""Commands about node pools."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from nomadpy.cli import specfile
from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.flags import AsJSON, Template, Verbose
from nomadpy.cli.http import quoted
from nomadpy.cli.session import Session

Pool = Annotated[str, typer.Argument(metavar="<node pool>")]
DEFAULT_FILE = "pool.nomad.hcl"
_EXAMPLE = """\
node_pool "example" {
  description = "Nodes for one purpose"

  # Free words about the pool.
  meta {
    owner = "team-a"
  }

  # How work is placed in this pool; what is left out is as in the whole cluster.
  # scheduler_config {
  #   scheduler_algorithm             = "spread"
  #   memory_oversubscription_enabled = false
  # }
}
"""
_EXAMPLE_JSON = """\
{
  "Name": "example",
  "Description": "Nodes for one purpose",
  "Meta": {
    "owner": "team-a"
  }
}
"""


def list_(
    session: Session,
    *,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only those that match an expression.")] = None,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the node pools."""
    from nomadpy.cli.views import cluster as views

    rows = session.api.get("/v1/node/pools", filter=filter_)
    if not session.put_out(rows, as_json=as_json, template=template):
        session.show(views.node_pools(rows or []))


def find(session: Session, typed: str) -> dict[str, Any]:
    """The pool of a name that may be cut short. Raises CommandFailed when none or several match."""
    rows = session.api.get("/v1/node/pools", prefix=typed) or []
    found = [row for row in rows if row.get("Name") == typed] or rows
    if len(found) == 1:
        return dict(found[0])
    listing = ", ".join(sorted(str(row.get("Name")) for row in found))
    raise CommandFailed(f'"{typed}" could be {listing}' if found else f'there is no node pool "{typed}"')


def info(session: Session, pool: Pool, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show a node pool."""
    from nomadpy.cli.views import cluster as views

    found = find(session, pool)
    if not session.put_out(found, as_json=as_json, template=template):
        session.show(views.node_pool(found))


def apply(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="<file>")],
    *,
    as_json: Annotated[bool, typer.Option("-json", help="The file is JSON as the API takes it.")] = False,
) -> None:
    """Create or change a node pool as a file describes it; - reads it from stdin."""
    body = specfile.read(path, as_json=as_json, label="node_pool", keys=specfile.NODE_POOL)
    if not body.get("Name"):
        raise CommandFailed(f'{path} names no node pool; it begins with node_pool "name" {{')
    session.api.put("/v1/node/pools", body)
    session.say(f'Successfully applied node pool "{body["Name"]}"!')


def init(
    session: Session,
    path: Annotated[str | None, typer.Argument(metavar="<file>", show_default=False)] = None,
    *,
    as_json: Annotated[bool, typer.Option("-json", help="Write JSON instead of HCL.")] = False,
) -> None:
    """Write an example of a node pool to a file."""
    target = Path(path or (DEFAULT_FILE.replace(".hcl", ".json") if as_json else DEFAULT_FILE))
    try:
        with target.open("x") as file:
            file.write(_EXAMPLE_JSON if as_json else _EXAMPLE)
    except FileExistsError as problem:
        raise CommandFailed(f"{target} exists already and was left alone") from problem
    session.say(f"Example node pool written to {target}")


def delete(session: Session, pool: Pool) -> None:
    """Remove a node pool that has no nodes and no running jobs."""
    session.api.delete(f"/v1/node/pool/{quoted(pool)}")
    session.say(f'Successfully deleted node pool "{pool}"!')


def jobs(
    session: Session,
    pool: Pool,
    *,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only those that match an expression.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the jobs of a node pool."""
    from nomadpy.cli.views import job as views

    name = find(session, pool)["Name"]
    namespace = session.settings.namespace or "*"
    rows = session.api.get(f"/v1/node/pool/{quoted(name)}/jobs", filter=filter_, namespace=namespace) or []
    if session.put_out(rows, as_json=as_json, template=template):
        return
    if not rows:
        session.say("No jobs")
        return
    session.show(views.job_list(rows, time.time_ns(), verbose=verbose, namespaces=namespace == "*"))


def nodes(
    session: Session,
    pool: Pool,
    *,
    filter_: Annotated[str | None, typer.Option("-filter", help="Only those that match an expression.")] = None,
    verbose: Verbose = False,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """List the nodes of a node pool."""
    from nomadpy.cli.views import node as views

    name = find(session, pool)["Name"]
    rows = session.api.get(f"/v1/node/pool/{quoted(name)}/nodes", filter=filter_) or []
    if session.put_out(rows, as_json=as_json, template=template):
        return
    if not rows:
        session.say("No nodes")
        return
    session.show(views.node_list(rows, verbose=verbose))
