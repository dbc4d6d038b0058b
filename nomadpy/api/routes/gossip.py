"""Routes about gossip: who is there, joining, letting go, and the keys that encrypt it."""

from __future__ import annotations

from typing import Any

import trio

from nomadpy.api.call import EMPTY, Call
from nomadpy.api.forward import AGENT, SERVER, Elsewhere
from nomadpy.api.gossipview import member_view, own_view
from nomadpy.api.router import READ, WRITE, Operation, Param
from nomadpy.gossip.contract import ALIVE, SUSPECT, Gossip, KeyringReport
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.naming import Noun

# In a pool of usual size a dead member is called failed within about three seconds.
_VERDICT_S = 10.0
_LOOK_S = 0.05


class KeyringRequest(Noun):
    """A gossip key as base64 text."""

    key: str = ""


async def members(call: Call) -> Any:
    """The servers that gossip knows; with ``clients=true`` the clients as well."""
    call.caller.require("", "node:read")
    context = call.context
    with_clients = call.flag("clients", status=400)
    if context.server is None and context.forwarding is not None:
        raise Elsewhere(SERVER)
    known = context.gossip.members() if context.gossip is not None else []
    shown = [member_view(one) for one in known if one.is_server or with_clients]
    if context.gossip is None and context.server is not None:
        shown = [own_view(context.server)]
    return {
        "ServerName": context.node_name,
        "ServerRegion": context.region,
        "ServerDC": str(context.config.get("Datacenter", "")),
        "Members": shown,
    }


async def join(call: Call) -> Any:
    """Joins the agents at these addresses; says how many answered, and why each other one did not."""
    addresses, server = call.query.getlist("address"), call.server
    if not addresses:
        raise Invalid("missing address to join")
    if call.context.gossip is not None:
        joined, errors = await call.context.gossip.join(addresses)
    else:
        own = (server.config.serf_addr, server.config.serf_addr.rpartition(":")[0])
        errors = [f"cannot join {one}: this agent runs alone (-dev)" for one in addresses if one not in own]
        joined = len(addresses) - len(errors)
    return {"num_joined": joined, "error": "; ".join(errors), "warning": ""}


async def force_leave(call: Call) -> Any:
    """Declares a failed server as gone on purpose, so that nobody waits for it; ``prune`` forgets it at once. One that
    is alive stays, and the answer is the same: look at the members."""
    call.caller.require("", "agent:write")
    server, name = call.server, call.text("node")
    if not name:
        raise Invalid("missing node to force leave")
    try:
        prune = call.flag("prune")
    except Invalid as error:
        raise Invalid("invalid prune value") from error
    gossip = call.context.gossip
    own = f"{server.config.name}.{server.config.region}"
    if name in (own, server.config.name):
        raise Invalid(f"{own} is the agent that was asked, and it is alive: stop it, then ask another server")
    if gossip is not None and await _is_gone(gossip, name):
        gossip.force_leave(name, prune=prune)
    return EMPTY


async def _is_gone(gossip: Gossip, name: str) -> bool:
    """Whether the server failed or left. One that died a moment ago still counts as alive: it is asked at once. What
    lives would contradict and stay, as with Nomad; but the leader might take the false farewell for a true one before
    that, so nothing is said of it at all. Nor is of the unknown: whoever is not there need not leave."""
    found = gossip.member(name)
    if found is not None and not found.is_server:
        raise Invalid(f"{name} is a client: purge the node (/v1/node/:id/purge) instead")
    asked = trio.current_time()
    with trio.move_on_after(_VERDICT_S):
        while found is not None and found.status in (ALIVE, SUSPECT):
            gossip.confirm(name)
            await trio.sleep(_LOOK_S)
            found = gossip.member(name)
            if (gossip.answered(name) or asked) > asked:
                break
    return found is not None and found.status not in (ALIVE, SUSPECT)


# --- keys -----------------------------------------------------------------------------------------------------------


async def keyring_list(call: Call) -> Any:
    """The gossip keys, and how many members hold each."""
    return await _order(call, "list", "")


async def keyring_install(call: Call) -> Any:
    """Gives all members a further key, with which they can read."""
    return await _change(call, "install")


async def keyring_use(call: Call) -> Any:
    """Has all members encrypt with a key that was installed."""
    return await _change(call, "use")


async def keyring_remove(call: Call) -> Any:
    """Takes a key away from all members; not the one in use."""
    return await _change(call, "remove")


async def _change(call: Call, action: str) -> Any:
    key = (await call.body(KeyringRequest)).key
    if not key:
        raise Invalid('missing key: the body is {"Key": "<base64>"}')
    report = await _order(call, action, key)
    if report.messages:
        told = "; ".join(f"{name}: {text}" for name, text in sorted(report.messages.items()))
        raise NomadError(f"{len(report.messages)}/{report.num_nodes} members reported failure: {told}")
    return report


async def _order(call: Call, action: str, key: str) -> KeyringReport:
    call.caller.require("", "agent:write")
    _ = call.server
    gossip = call.context.gossip
    if gossip is None:
        raise Invalid("this agent runs alone (-dev), so it does not gossip and has no keys", status=500)
    return await gossip.keyring(action, key)


_KEYRING = "/v1/agent/keyring"

OPERATIONS: tuple[Operation, ...] = (
    Operation(at=AGENT, methods=READ, path="/v1/agent/members", endpoint=members,
              query=(Param("clients", "boolean", "List clients as well."),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/join", endpoint=join, query=(Param("address"),)),
    Operation(at=AGENT, methods=WRITE, path="/v1/agent/force-leave", endpoint=force_leave,
              query=(Param("node"), Param("prune", "boolean"))),
    Operation(at=AGENT, methods=READ, path=f"{_KEYRING}/list", endpoint=keyring_list, answer=KeyringReport),
    Operation(at=AGENT, methods=WRITE, path=f"{_KEYRING}/install", endpoint=keyring_install, body=KeyringRequest,
              answer=KeyringReport),
    Operation(at=AGENT, methods=WRITE, path=f"{_KEYRING}/use", endpoint=keyring_use, body=KeyringRequest,
              answer=KeyringReport),
    Operation(at=AGENT, methods=WRITE, path=f"{_KEYRING}/remove", endpoint=keyring_remove, body=KeyringRequest,
              answer=KeyringReport),
)  # fmt: skip
