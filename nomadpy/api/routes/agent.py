"""Routes about this agent: who it is, how it is, what it logs and measures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from starlette.responses import Response, StreamingResponse

from nomadpy.api.call import EMPTY, Call
from nomadpy.api.forward import AGENT, SERVER, Elsewhere
from nomadpy.api.gossipview import own_view
from nomadpy.api.metrics import json_metrics, prometheus_text
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.api.routes.client import frame
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.ids import check_uuid
from nomadpy.model.wire import encode
from nomadpy.rpc.contract import StreamChunk
from nomadpy.server.cluster import SingleServer, cluster_of
from nomadpy.server.server import Server

_LEVELS = ("trace", "debug", "info", "warn", "error")
_HEARTBEAT_S = 1.0


async def self_(call: Call) -> Any:
    """The agent's configuration, its gossip member and its figures."""
    call.caller.require("", "agent:read")
    context = call.context
    return {"config": context.config, "member": own_view(context.server, context.gossip), "stats": context.stats()}


async def servers(call: Call) -> Any:
    """The servers that this agent's client talks to, the one in use first."""
    call.caller.require("", "agent:read")
    if call.context.client is None or call.context.client_servers is None:
        raise NomadError("client not enabled on this agent", status=501)
    return list(call.context.client_servers.servers())


async def set_servers(call: Call) -> Any:
    """Tells the client other servers; a connection that works is kept."""
    call.caller.require("", "agent:write")
    _ = call.client
    addresses = call.query.getlist("address")
    if not addresses or not all(addresses):
        raise Invalid("missing server address")
    if call.context.client_servers is None:
        raise NomadError("client not enabled on this agent", status=501)
    call.context.client_servers.set_servers(addresses)
    return EMPTY


async def reload(call: Call) -> Any:
    """Reads the configuration again, as SIGHUP does."""
    call.caller.require("", "agent:write")
    call.context.reload()
    return EMPTY


async def health(call: Call) -> Any:
    """Whether the agent's roles work; 500 when one does not."""
    kind = call.text("type")
    context, out = call.context, {}
    if kind in ("", "server") and (context.server is not None or kind):
        out["server"] = _server_health(call)
    if kind in ("", "client") and (context.client is not None or kind):
        out["client"] = _client_health(call)
    if kind not in ("", "server", "client"):
        raise Invalid(f'unknown agent health type "{kind}"; use server or client')
    healthy = all(one["ok"] for one in out.values())
    return out if healthy else Response(encode(out), status_code=500, media_type="text/plain; charset=utf-8")


def _server_health(call: Call) -> dict[str, Any]:
    if call.context.server is None:
        return {"ok": False, "message": "server not enabled"}
    known = bool(call.context.leader_address())
    return {"ok": True, "message": "ok"} if known else {"ok": False, "message": "no leader"}


def _client_health(call: Call) -> dict[str, Any]:
    context = call.context
    if context.client is None:
        return {"ok": False, "message": "client not enabled"}
    if context.server is not None:
        known = context.server.store.node(context.client.node_id) is not None
    else:
        known = context.forwarding is not None and context.forwarding.contact()[0]
    return {"ok": True, "message": "ok"} if known else {"ok": False, "message": "no known servers"}


async def schedulers(call: Call) -> Any:
    """What the agent's scheduler does."""
    call.caller.require("", "agent:read")
    if call.context.server is None:
        raise Invalid("Server only endpoint")
    server = call.server
    busy = "Scheduling" if server.broker.statistics().unacked else "WaitingToDequeue"
    worker = {
        "id": server.config.id or server.config.name,
        "enabled_schedulers": list(server.config.enabled_schedulers),
        "started": "",
        # Only the leader schedules; the other servers are ready to.
        "status": "Started" if server.leading else "Paused",
        "workload_status": busy if server.leading else "Paused",
    }
    return {"server_id": f"{server.config.name}.{server.config.region}", "schedulers": [worker]}


async def scheduler_workers(call: Call) -> Any:
    """How many workers schedule what."""
    call.caller.require("", "agent:read")
    if call.context.server is None:
        raise Invalid("Server only endpoint")
    config = call.server.config
    return {
        "server_id": f"{config.name}.{config.region}",
        "num_schedulers": 1,
        "enabled_schedulers": list(config.enabled_schedulers),
    }


def check_target(call: Call) -> None:
    """Raises Elsewhere when the query names another agent by ``node_id`` or ``server_id``."""
    context, node_id, wanted = call.context, call.text("node_id"), call.text("server_id")
    if node_id and wanted:
        raise Invalid("Cannot target node and server simultaneously")
    if node_id:
        check_uuid(node_id)
    if node_id and (context.client is None or context.client.node_id != node_id):
        raise Elsewhere(AGENT, node_id)
    if wanted and not _is_this(context.server, wanted):
        if context.forwarding is None:
            raise NomadError(f"unknown Nomad server {wanted}")
        raise Elsewhere(AGENT, server=wanted)


def _is_this(server: Server | None, wanted: str) -> bool:
    if server is None:
        return False
    name = f"{server.config.name}.{server.config.region}"
    return wanted in (server.config.id, name, server.config.name) or (wanted == "leader" and server.leading)


async def monitor(call: Call) -> StreamingResponse:
    """The agent's log as it is written, in frames or with ``plain=true`` as text."""
    call.caller.require("", "agent:read")
    level = call.text("log_level").lower() or "info"
    if level not in _LEVELS:
        raise Invalid(f"Unknown log level: {level}")
    check_target(call)
    source = call.context.monitor
    if source is None:
        raise NomadError("this agent keeps no log to follow", status=501)
    plain = call.flag("plain", status=400)
    opened = source.follow(
        level, as_json=call.flag("log_json", status=400), include_location=call.flag("log_include_location")
    )
    lines = await opened.__aenter__()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield b""  # sends the headers: a quiet agent may log nothing for long
            while True:
                line = b""
                with trio.move_on_after(_HEARTBEAT_S):
                    line = await anext(lines)
                if plain and line:
                    yield line
                elif not plain:
                    yield frame(StreamChunk(data=line))
        finally:
            with trio.CancelScope(shield=True):
                await opened.__aexit__(None, None, None)

    media_type = "text/plain; charset=utf-8" if plain else "application/json"
    return StreamingResponse(body(), media_type=media_type, headers={"X-No-Compression": "1"})


async def metrics(call: Call) -> Any:
    """What the agent measures, as JSON or with ``format=prometheus`` as text."""
    if call.text("format") == "prometheus":
        if not call.context.prometheus_enabled:
            raise NomadError("Prometheus is not enabled", status=415)
        text, media_type = await prometheus_text(call.context)
        return Response(text, media_type=media_type)
    return await json_metrics(call.context)


async def leader(call: Call) -> Any:
    """The leader's RPC address, "" when nobody leads."""
    _ = call.server
    return call.context.leader_address()


async def peers(call: Call) -> Any:
    """The RPC addresses of the servers that vote, as far as this server knows them."""
    cluster = cluster_of(call.server)
    if isinstance(cluster, SingleServer) and not call.server.log.is_leader:
        return []  # it waits for the others
    found, _ = cluster.servers()
    return sorted(one.address for one in found if one.voter and one.address)


async def regions(call: Call) -> Any:
    """The regions that are known."""
    return [call.context.region]


OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/agent/self", endpoint=self_),
    Operation(at=AGENT, methods=READ, path="/v1/agent/servers", endpoint=servers),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/servers", endpoint=set_servers, query=(Param("address"),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/reload", endpoint=reload),
    Operation(at=AGENT, methods=READ, path="/v1/agent/health", endpoint=health, query=(Param("type"),)),
    Operation(at=AGENT, methods=READ, path="/v1/agent/schedulers", endpoint=schedulers),
    Operation(at=AGENT, methods=READ, path="/v1/agent/schedulers/config", endpoint=scheduler_workers),
    Operation(at=AGENT, methods=READ, path="/v1/agent/monitor", endpoint=monitor, stream=True,
              query=(Param("log_level"), Param("log_json", "boolean"), Param("plain", "boolean"), Param("node_id"),
                     Param("server_id"))),
    Operation(at=AGENT, methods=READ, path="/v1/metrics", endpoint=metrics, query=(Param("format"),)),
    Operation(at=SERVER, methods=READ, path="/v1/status/leader", endpoint=leader),
    Operation(at=SERVER, methods=READ, path="/v1/status/peers", endpoint=peers),
    Operation(at=SERVER, methods=READ, path="/v1/regions", endpoint=regions),
)  # fmt: skip
