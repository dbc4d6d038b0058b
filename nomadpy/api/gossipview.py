"""Members of gossip as the API shows them: Nomad's shape, and what gossip knows of a machine's health."""

from __future__ import annotations

from typing import Any

from nomadpy.gossip.contract import ALIVE, SUSPECT, Gossip, Health, Member
from nomadpy.model.version import NOMAD_COMPATIBILITY_VERSION
from nomadpy.server.server import Server

_VERSIONS = {
    "ProtocolMin": 1,
    "ProtocolMax": 5,
    "ProtocolCur": 2,
    "DelegateMin": 2,
    "DelegateMax": 5,
    "DelegateCur": 4,
}
"""What Nomad's members say of the gossip protocol; tools print these numbers, nothing depends on them."""


def nobody() -> dict[str, Any]:
    """The member that an agent without a server shows for itself."""
    return {"Name": "", "Addr": "", "Port": 0, "Tags": None, "Status": "none", **dict.fromkeys(_VERSIONS, 0)}


def member_view(member: Member) -> dict[str, Any]:
    """A member. Nomad knows no suspicion: who is suspected still counts as alive. ``Health`` is ours."""
    return {
        "Name": member.name,
        "Addr": member.address,
        "Port": member.port,
        "Tags": {"revision": "", **member.tags} if member.is_server else dict(member.tags),
        "Status": ALIVE if member.status == SUSPECT else member.status,
        **_VERSIONS,
        "Health": health_view(member.health),
    }


def own_view(server: Server | None, gossip: Gossip | None = None) -> dict[str, Any]:
    """The agent itself: as gossip knows it, and made up where there is no gossip."""
    if server is None:
        return nobody()
    me = gossip.member(gossip.name) if gossip is not None else None
    return member_view(me or _alone(server))


def _alone(server: Server) -> Member:
    config = server.config
    host, _, port = config.rpc_addr.rpartition(":")
    _, _, serf_port = config.serf_addr.rpartition(":")
    tags = {"role": "nomad", "region": config.region, "dc": config.datacenter, "id": config.id}
    tags |= {"rpc_addr": host.strip("[]"), "port": port, "build": NOMAD_COMPATIBILITY_VERSION}
    tags |= {"vsn": "1", "raft_vsn": "3", "bootstrap": "1"}
    name = f"{config.name}.{config.region}"
    return Member(name=name, address=host.strip("[]"), port=int(serf_port or 0), tags=tags)


def health_view(health: Health | None) -> dict[str, Any] | None:
    """A machine's digest: shares between 0 and 1, null for what is not measured; None when nothing was heard."""
    if health is None:
        return None
    return {
        "CPU": health.cpu,
        "Memory": health.memory,
        "Disk": health.disk,
        "IOPressure": health.io_pressure if health.io_pressure >= 0 else None,
        "UnhealthyDrivers": list(health.drivers),
    }


def members_of_nodes(gossip: Gossip | None) -> dict[str, Member]:
    """Node id → the member that speaks for the node: a client, or a server with a client in the same agent."""
    found: dict[str, Member] = {}
    for member in gossip.members() if gossip is not None else ():
        node_id = member.tags.get("node", "") if member.is_server else member.tags.get("id", "")
        if node_id:
            found[node_id] = member
    return found


def node_health(member: Member | None) -> dict[str, Any] | None:
    """The ``Health`` of a node: its member's digest and what gossip says of it (alive, suspect, failed, …)."""
    if member is None:
        return None
    figures = health_view(member.health) or health_view(Health())
    assert figures is not None
    if member.health is None:
        figures = dict.fromkeys(figures)
    return {"Gossip": member.status, **figures}
