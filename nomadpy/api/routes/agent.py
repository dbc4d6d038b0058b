"""Routes about this agent: who it is, how it is, what it logs and measures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import trio
from starlette.responses import Response, StreamingResponse

from nomadpy.api.call import EMPTY, Call
from nomadpy.api.forward import AGENT, SERVER
from nomadpy.api.metrics import json_metrics, prometheus_text
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.api.routes.client import frame
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.wire import encode
from nomadpy.rpc.contract import StreamChunk

_LEVELS = ("trace", "debug", "info", "warn", "error")
_HEARTBEAT_S = 1.0


async def self_(call: Call) -> Any:
    """The agent's configuration, its gossip member and its figures."""
    call.caller.require("", "agent:read")
    context = call.context
    return {"config": context.config, "member": context.member, "stats": context.stats()}


async def members(call: Call) -> Any:
    """The servers that gossip knows."""
    call.caller.require("", "node:read")
    context = call.context
    return {
        "ServerName": context.node_name,
        "ServerRegion": context.region,
        "ServerDC": context.member.get("Tags", {}).get("dc", ""),
        "Members": [context.member] if context.server is not None else [],
    }


async def servers(call: Call) -> Any:
    """The servers that this agent's client talks to."""
    call.caller.require("", "agent:read")
    if call.context.client is None:
        raise NomadError("client not enabled on this agent", status=501)
    return [call.context.server.config.rpc_addr] if call.context.server is not None else []


async def set_servers(call: Call) -> Any:
    """Would tell the client other servers; this version's client talks to the server in its own agent."""
    call.caller.require("", "agent:write")
    _ = call.client
    if not call.query.getlist("address"):
        raise Invalid("missing server address")
    raise NomadError("this version's clients talk to the server in the same agent and to no other", status=501)


async def join(call: Call) -> Any:
    """Joins other servers; in this version a region has one, so only the agent itself can be found."""
    addresses, server = call.query.getlist("address"), call.server
    if not addresses:
        raise Invalid("missing address to join")
    host, _, _ = server.config.serf_addr.rpartition(":")
    others = [one for one in addresses if one not in (host, server.config.serf_addr)]
    errors = [f"{one} was not joined: this version runs one server in a region" for one in others]
    return {"num_joined": len(addresses) - len(others), "error": "; ".join(errors), "warning": ""}


async def force_leave(call: Call) -> Any:
    """Removes a failed server from the gossip pool, where this version has nobody but the agent itself."""
    call.caller.require("", "agent:write")
    _ = call.server
    if not call.text("node"):
        raise Invalid("missing node to force leave")
    try:
        call.flag("prune")
    except Invalid as error:
        raise Invalid("invalid prune value") from error
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
    server = call.context.server
    if server is None:
        return {"ok": False, "message": "server not enabled"}
    return {"ok": True, "message": "ok"} if server.log.is_leader else {"ok": False, "message": "no leader"}


def _client_health(call: Call) -> dict[str, Any]:
    client = call.context.client
    if client is None:
        return {"ok": False, "message": "client not enabled"}
    server = call.context.server
    known = server is not None and server.store.node(client.node_id) is not None
    return {"ok": True, "message": "ok"} if known else {"ok": False, "message": "no known servers"}


async def schedulers(call: Call) -> Any:
    """What the agent's scheduler does."""
    call.caller.require("", "agent:read")
    if call.context.server is None:
        raise Invalid("Server only endpoint")
    server = call.server
    worker = {
        "id": server.config.id or server.config.name,
        "enabled_schedulers": list(server.config.enabled_schedulers),
        "started": "",
        "status": "Started",
        "workload_status": "Scheduling" if server.broker.statistics().unacked else "WaitingToDequeue",
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


async def monitor(call: Call) -> StreamingResponse:
    """The agent's log as it is written, in frames or with ``plain=true`` as text."""
    call.caller.require("", "agent:read")
    if call.text("node_id") and call.text("server_id"):
        raise Invalid("Cannot target node and server simultaneously")
    level = call.text("log_level").lower() or "info"
    if level not in _LEVELS:
        raise Invalid(f"Unknown log level: {level}")
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
    """The leader's RPC address, "" when there is none."""
    server = call.server
    return server.config.rpc_addr if server.log.is_leader else ""


async def peers(call: Call) -> Any:
    """The RPC addresses of the servers that vote."""
    return [call.server.config.rpc_addr]


async def regions(call: Call) -> Any:
    """The regions that are known."""
    return [call.context.region]


OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/agent/self", endpoint=self_),
    Operation(at=AGENT, methods=READ, path="/v1/agent/members", endpoint=members),
    Operation(at=AGENT, methods=READ, path="/v1/agent/servers", endpoint=servers),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/servers", endpoint=set_servers, query=(Param("address"),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/join", endpoint=join, query=(Param("address"),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/force-leave", endpoint=force_leave,
              query=(Param("node"), Param("prune", "boolean"))),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/reload", endpoint=reload),
    Operation(at=AGENT, methods=READ, path="/v1/agent/health", endpoint=health, query=(Param("type"),)),
    Operation(at=AGENT, methods=READ, path="/v1/agent/schedulers", endpoint=schedulers),
    Operation(at=AGENT, methods=READ, path="/v1/agent/schedulers/config", endpoint=scheduler_workers),
    Operation(at=AGENT, methods=READ, path="/v1/agent/monitor", endpoint=monitor, stream=True,
              query=(Param("log_level"), Param("log_json", "boolean"), Param("plain", "boolean"))),
    Operation(at=AGENT, methods=READ, path="/v1/metrics", endpoint=metrics, query=(Param("format"),)),
    Operation(at=SERVER, methods=READ, path="/v1/status/leader", endpoint=leader),
    Operation(at=SERVER, methods=READ, path="/v1/status/peers", endpoint=peers),
    Operation(at=SERVER, methods=READ, path="/v1/regions", endpoint=regions),
)  # fmt: skip
