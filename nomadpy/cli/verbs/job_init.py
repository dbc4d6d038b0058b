"""``job init``: a job file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.session import Session

DEFAULT_NAME = "example.nomad.hcl"

SHORT = """\
job "example" {
  group "web" {
    network {
      port "http" {}
    }

    task "server" {
      driver = "raw_exec"

      config {
        command = "python3"
        args    = ["-m", "http.server", "${NOMAD_PORT_http}"]
      }

      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
"""

LONG = """\
# A job is what you want to have running. Register it with
#
#     nomadpy job run example.nomad.hcl
#
# and look at it with `nomadpy job status example`.
job "example" {
  # "service" keeps its tasks running. "batch" runs them to their end, "system" runs one copy on every node.
  type = "service"

  # Where the job may run; the default is every datacenter.
  datacenters = ["*"]

  # How a new version replaces the old one: one allocation at a time, each healthy for ten seconds before the next.
  update {
    max_parallel     = 1
    min_healthy_time = "10s"
    healthy_deadline = "3m"
  }

  # The tasks of a group run on the same node. A group may run several times.
  group "web" {
    count = 1

    # The node picks a free port. The task finds it in NOMAD_PORT_http.
    network {
      port "http" {}
    }

    # A task that fails is started again on its node, twice in half an hour; after that the group moves elsewhere.
    restart {
      attempts = 2
      interval = "30m"
      delay    = "15s"
      mode     = "fail"
    }

    task "server" {
      # raw_exec starts a program as it is; docker, exec and java give it walls of its own.
      driver = "raw_exec"

      config {
        command = "python3"
        args    = ["-m", "http.server", "${NOMAD_PORT_http}", "--directory", "${NOMAD_TASK_DIR}"]
      }

      # What the task may count on: cpu in MHz, memory in MB.
      resources {
        cpu    = 100
        memory = 64
      }
    }
  }
}
"""


def init(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="<file>")] = DEFAULT_NAME,
    *,
    short: Annotated[bool, typer.Option("-short", help="Without the comments.")] = False,
) -> None:
    """Write an example job file, which runs on an agent started with -dev. A file that exists is left alone."""
    target = Path(path)
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(SHORT if short else LONG)
    except FileExistsError as problem:
        raise CommandFailed(f"{path} exists already; it was left as it is") from problem
    session.say(f"Example job file written to {path}")
