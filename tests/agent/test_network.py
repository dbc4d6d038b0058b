"""Where an agent looks for the other servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.known_servers import KnownServer
from nomadpy.agent.network import ServerNetwork
from nomadpy.gossip.contract import ALIVE, FAILED, Member


def server(server_id: str, host: str, status: str = ALIVE) -> Member:
    tags = {"role": "nomad", "region": "global", "id": server_id, "rpc_addr": host, "port": "4647"}
    return Member(name=f"{server_id}.global", address=host, port=4648, status=status, tags=tags)


def test_a_place_where_another_server_lives_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = ServerNetwork(
        AgentConfig(name="s1", data_dir=str(tmp_path)),
        server_id="me",
        listeners=[],
        rpc_addr="10.0.0.1:4647",
        serf_bind=("127.0.0.1", 0),
        serf_addr="10.0.0.1:4648",
    )
    members = [server("lives", "10.0.0.2"), server("failed", "10.0.0.3", FAILED), server("moved", "10.0.0.2", FAILED)]
    monkeypatch.setattr(network.gossip, "members", lambda: members)
    network._known.update({one: KnownServer(rpc=f"10.0.0.{n}:4647") for one, n in (("wiped", 2), ("away", 4))})
    asked = ("lives", "failed", "away", "moved", "wiped", "unheard of")
    assert [network.address_of(server_id) for server_id in asked] == [
        "10.0.0.2:4647",
        "10.0.0.3:4647",
        "10.0.0.4:4647",
        None,
        None,
        None,
    ]
