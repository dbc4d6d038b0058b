"""Commands for those who run the cluster."""

from __future__ import annotations

import base64
import sys
from typing import Annotated, Any

import typer

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.flags import AsJSON, Template
from nomadpy.cli.session import Session

_SCHEDULER = "/v1/operator/scheduler/configuration"


def api(
    session: Session,
    path: Annotated[str, typer.Argument(metavar="<path>")],
    *,
    method: Annotated[str | None, typer.Option("-X", help="The method; GET, or POST when data is sent.")] = None,
    data: Annotated[str | None, typer.Option("-d", help="The body; @file reads a file, - reads stdin.")] = None,
    header: Annotated[list[str] | None, typer.Option("-H", help="A further header, as in curl; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("-dryrun", help="Print a curl command instead.")] = False,
    verbose: Annotated[bool, typer.Option("-verbose", "-v", help="Tell on stderr what is asked.")] = False,
) -> None:
    """Send one request to the HTTP API and print the answer as it comes.

    The path may leave out the leading /v1. Region, namespace and token are added as for every command.
    """
    target = _api_path(path)
    body = None if data is None else _body(data)
    verb = (method or ("GET" if body is None else "POST")).upper()
    extra = _headers(header or [])
    if dry_run:
        print(_curl(session, verb, target, body, extra))
        return
    if verbose:
        session.warn(f"> {verb} {session.settings.address.rstrip('/')}{session.api.target(target, {})}")
    sys.stdout.flush()
    answer = session.api.send(verb, target, body=body, extra=extra)
    sys.stdout.buffer.write(answer)
    if answer and sys.stdout.isatty() and not answer.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _api_path(path: str) -> str:
    """The path of a request from what was typed.

    >>> _api_path("jobs"), _api_path("/v1/jobs?prefix=a"), _api_path("http://127.0.0.1:4646/v1/jobs")
    ('/v1/jobs', '/v1/jobs?prefix=a', '/v1/jobs')
    """
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    path = "/" + path.lstrip("/")
    return path if path.startswith(("/v1", "/ui", "/.well-known")) else f"/v1{path}"


def _body(data: str) -> bytes:
    if data == "-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        with open(data[1:], "rb") as file:
            return file.read()
    return data.encode()


def _headers(texts: list[str]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, separator, value = text.partition(":")
        if not separator:
            raise UsageProblem(f'-H wants "Name: value", not "{text}"')
        headers[name.strip()] = value.strip()
    return headers


def _curl(session: Session, verb: str, target: str, body: bytes | None, extra: dict[str, str]) -> str:
    import shlex

    address = session.settings.address
    words = ["curl", "-X", verb]
    if address.startswith("unix://"):
        words += ["--unix-socket", address.removeprefix("unix://")]
        address = "http://localhost"
    for name, value in extra.items():
        words += ["-H", f"{name}: {value}"]
    command = shlex.join(words)
    if session.settings.token:
        # The secret itself does not belong into a terminal's history.
        command += ' -H "X-Nomad-Token: $NOMAD_TOKEN"'
    if body is not None:
        command += f" --data-binary {shlex.quote(body.decode(errors='replace'))}"
    return f"{command} {shlex.quote(address.rstrip('/') + session.api.target(target, {}))}"


def scheduler_get(session: Session, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show how the scheduler is configured."""
    from nomadpy.cli.views import cluster as views

    answer = session.api.get(_SCHEDULER)
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.scheduler(answer["SchedulerConfig"]))


def scheduler_set(
    session: Session,
    *,
    algorithm: Annotated[str | None, typer.Option("-scheduler-algorithm", help="binpack, spread or balanced.")] = None,
    oversubscription: Annotated[
        str | None, typer.Option("-memory-oversubscription", help="true or false.", metavar="<bool>")
    ] = None,
    reject: Annotated[str | None, typer.Option("-reject-job-registration", help="true or false.")] = None,
    pause: Annotated[str | None, typer.Option("-pause-eval-broker", help="true or false.")] = None,
    batch: Annotated[str | None, typer.Option("-preempt-batch-scheduler", help="true or false.")] = None,
    service: Annotated[str | None, typer.Option("-preempt-service-scheduler", help="true or false.")] = None,
    sysbatch: Annotated[str | None, typer.Option("-preempt-sysbatch-scheduler", help="true or false.")] = None,
    system: Annotated[str | None, typer.Option("-preempt-system-scheduler", help="true or false.")] = None,
    check_index: Annotated[int | None, typer.Option("-check-index", help="Only if it is at this index.")] = None,
) -> None:
    """Change how the scheduler is configured. What is not named stays as it is."""
    config = dict(session.api.get(_SCHEDULER)["SchedulerConfig"])
    index = config.get("ModifyIndex", 0) if check_index is None else check_index
    preemption = dict(config.get("PreemptionConfig") or {})
    _change(config, "MemoryOversubscriptionEnabled", oversubscription)
    _change(config, "RejectJobRegistration", reject)
    _change(config, "PauseEvalBroker", pause)
    _change(preemption, "BatchSchedulerEnabled", batch)
    _change(preemption, "ServiceSchedulerEnabled", service)
    _change(preemption, "SysBatchSchedulerEnabled", sysbatch)
    _change(preemption, "SystemSchedulerEnabled", system)
    config.update({"PreemptionConfig": preemption}, **({"SchedulerAlgorithm": algorithm} if algorithm else {}))
    answer = session.api.put(_SCHEDULER, config, cas=index)
    if not answer.get("Updated"):
        raise CommandFailed(f"somebody changed the configuration since index {index}; look at it and try again")
    session.say("Scheduler configuration updated!")


def _change(config: dict[str, Any], name: str, text: str | None) -> None:
    if text is None:
        return
    if text.lower() not in ("true", "false"):
        raise UsageProblem(f'expected true or false, not "{text}"')
    config[name] = text.lower() == "true"


def metrics(
    session: Session,
    *,
    pretty: Annotated[bool, typer.Option("-pretty", help="Indent the JSON.")] = False,
    format_: Annotated[str | None, typer.Option("-format", help="json or prometheus, as the agent gives it.")] = None,
    as_json: AsJSON = False,
    template: Template = None,
) -> None:
    """Print the metrics of the agent that is asked."""
    from nomadpy.cli.views import cluster as views

    if format_ == "prometheus":
        print(session.api.send("GET", "/v1/metrics", query={"format": "prometheus"}).decode(), end="")
        return
    answer = session.api.get("/v1/metrics")
    wants_json = as_json or pretty or format_ == "json"
    if not session.put_out(answer, as_json=wants_json, template=template):
        session.show(views.metrics(answer))


def agent_info(session: Session, *, as_json: AsJSON = False, template: Template = None) -> None:
    """Show what the asked agent knows about itself."""
    from nomadpy.cli.views import cluster as views

    answer = session.api.get("/v1/agent/self")
    if not session.put_out(answer, as_json=as_json, template=template):
        session.show(views.agent_info(answer.get("stats") or {}))


def monitor(
    session: Session,
    *,
    level: Annotated[
        str, typer.Option("-log-level", help="The least level: trace, debug, info, warn, error.")
    ] = "info",
    node_id: Annotated[str | None, typer.Option("-node-id", help="The log of this client.")] = None,
    server_id: Annotated[str | None, typer.Option("-server-id", help="The log of this server, or leader.")] = None,
    as_json: Annotated[bool, typer.Option("-json", help="One JSON object a line.")] = False,
) -> None:
    """Stream the log of an agent until it is interrupted."""
    from nomadpy.cli.lookup import find_id

    query: dict[str, Any] = {"log_level": level, "log_json": as_json or None, "server_id": server_id}
    if node_id:
        query["node_id"] = find_id(session, "node", node_id)
    for frame in session.api.frames("/v1/agent/monitor", **query):
        if frame.get("Data"):
            sys.stdout.buffer.write(base64.b64decode(frame["Data"]))
            sys.stdout.buffer.flush()


def system_gc(session: Session) -> None:
    """Collect everything now that is over and no longer needed."""
    session.api.put("/v1/system/gc", {})
    session.say("Garbage collection was started")


def reconcile_summaries(session: Session) -> None:
    """Count the summaries of all jobs anew."""
    session.api.put("/v1/system/reconcile/summaries", {})
    session.say("The job summaries were counted anew")
