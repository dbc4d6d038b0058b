"""Routes about the servers among themselves: who votes, who leads, how they are doing."""

from __future__ import annotations

from typing import Any

from nomadpy.api.call import EMPTY, Call, Reply
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.model.autopilot import AutopilotConfig, LeadershipTransfer
from nomadpy.model.errors import Invalid
from nomadpy.server.cluster import cluster_of


async def raft_configuration(call: Call) -> Any:
    """The servers of the log, and who of them votes and leads."""
    call.caller.require("", "management")
    servers, index = cluster_of(call.server).servers()
    return {"Servers": servers, "Index": index}


async def remove_peer(call: Call) -> Any:
    """Removes a server that does not come back; neither the leader nor the only one can be removed."""
    call.caller.require("", "management")
    peer = call.text("id")
    if "address" in call.query or not peer:
        raise Invalid("Must specify the peer's ID to remove")
    await cluster_of(call.server).remove_peer(peer)
    return EMPTY


async def transfer_leadership(call: Call) -> Any:
    """Hands the leadership over to another voter; answers once it leads."""
    call.caller.require("", "management")
    peer, address = call.text("id"), call.text("address")
    if not peer and not address:
        raise Invalid("must specify id or address")
    if peer and address:
        raise Invalid("must specify either id or address")
    return await cluster_of(call.server).transfer_leadership(server=peer, address=address)


async def get_autopilot_config(call: Call) -> Any:
    """How the leader looks after the servers."""
    call.caller.require("", "operator:read")
    return call.server.store.autopilot_config


async def set_autopilot_config(call: Call) -> Any:
    """Replaces that; false when the configuration is no longer at the index that ``cas`` names."""
    config = await call.body(AutopilotConfig)
    cas = call.number("cas", "can not parse cas: it must be a number")
    return await call.server.fleet.set_autopilot_config(call.caller, config, cas=cas)


async def autopilot_health(call: Call) -> Reply:
    """How the servers are doing; 429 when not all of them are well."""
    call.caller.require("", "operator:read")
    report = cluster_of(call.server).health()
    return Reply(value=report, status=200 if report.healthy else 429)


_AUTOPILOT = "/v1/operator/autopilot/configuration"

OPERATIONS: tuple[Operation, ...] = (
    Operation(methods=READ, path="/v1/operator/raft/configuration", endpoint=raft_configuration),
    Operation(methods=("DELETE",), path="/v1/operator/raft/peer", endpoint=remove_peer, query=(Param("id"),)),
    Operation(methods=WRITE, path="/v1/operator/raft/transfer-leadership", endpoint=transfer_leadership,
              query=(Param("id"), Param("address")), answer=LeadershipTransfer),
    Operation(methods=READ, path=_AUTOPILOT, endpoint=get_autopilot_config, answer=AutopilotConfig),
    Operation(methods=WRITE, path=_AUTOPILOT, endpoint=set_autopilot_config, body=AutopilotConfig,
              query=(Param("cas", "integer"),)),
    Operation(methods=READ, path="/v1/operator/autopilot/health", endpoint=autopilot_health),
)  # fmt: skip
