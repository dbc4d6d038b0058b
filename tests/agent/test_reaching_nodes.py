"""A node speaks for itself over the connection that it holds to some server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from nomadpy.agent.config import AgentConfig
from nomadpy.agent.network import REACH, ServerNetwork
from nomadpy.gossip.contract import ALIVE, FAILED, Member
from nomadpy.model.errors import Forbidden
from nomadpy.rpc.frames import CLIENT, SERVER
from nomadpy.rpc.handlers import NotConnected
from nomadpy.rpc.peers import HAS_NODE, NodeQuery


class Connection:
    """To a node that answers, hangs, or is gone."""

    def __init__(self, how: str) -> None:
        self._how = how

    async def call(self, word: Any, params: NodeQuery, *, timeout_s: float) -> None:
        if self._how == "gone":
            raise NotConnected("the connection ended")
        await trio.sleep(3600 if self._how == "hangs" else 0.1)


class OtherServers:
    """``Peers``: one holds the node's connection, the others do not, or do not answer."""

    def __init__(self, answers: dict[str, bool]) -> None:
        self.answers, self.asked = answers, list[tuple[str, str]]()

    async def call(self, server_id: str, word: Any, params: NodeQuery, *, timeout_s: float) -> bool:
        self.asked.append((server_id, word.name))
        if server_id not in self.answers:
            raise NotConnected(f"{server_id} is gone")
        return word is HAS_NODE or self.answers[server_id]


def member(server_id: str, status: str = ALIVE) -> Member:
    tags = {"role": "nomad", "region": "global", "id": server_id, "rpc_addr": "10.0.0.9", "port": "4647"}
    return Member(name=f"{server_id}.global", address="10.0.0.9", port=4648, status=status, tags=tags)


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerNetwork:
    made = ServerNetwork(
        AgentConfig(name="s1", data_dir=str(tmp_path)),
        server_id="me",
        listeners=[],
        rpc_addr="10.0.0.1:4647",
        serf_bind=("127.0.0.1", 0),
        serf_addr="10.0.0.1:4648",
    )
    there = [member("me"), member("s2"), member("s3"), member("dead", FAILED)]
    monkeypatch.setattr(made.gossip, "members", lambda: there)
    return made


@pytest.mark.parametrize(("how", "found"), [("answers", True), ("hangs", False), ("gone", False)])
async def test_a_node_that_is_connected_here_is_asked_here(
    autojump_clock: MockClock, network: ServerNetwork, monkeypatch: pytest.MonkeyPatch, how: str, found: bool
) -> None:
    others = OtherServers({"s2": True})
    monkeypatch.setattr(network, "peers", others)
    monkeypatch.setattr(network.roster, "get", lambda node_id: Connection(how))
    began_s = trio.current_time()
    assert await network.reaches("node") is found
    assert trio.current_time() - began_s < 2
    assert others.asked == []


@pytest.mark.parametrize(("answers", "found"), [({"s3": True}, True), ({"s3": False}, False), ({}, False)])
async def test_a_node_that_is_connected_elsewhere_is_asked_there(
    autojump_clock: MockClock,
    network: ServerNetwork,
    monkeypatch: pytest.MonkeyPatch,
    answers: dict[str, bool],
    found: bool,
) -> None:
    others = OtherServers(answers)
    monkeypatch.setattr(network, "peers", others)
    assert await network.reaches("node") is found
    assert {server_id for server_id, _ in others.asked} <= {"s2", "s3"}
    assert (("s3", REACH.name) in others.asked) is bool(answers)


async def test_only_servers_may_have_a_node_asked(autojump_clock: MockClock, network: ServerNetwork) -> None:
    ask = NodeQuery(node_id="node")
    with pytest.raises(Forbidden):
        await network._answer_reach(ask, SimpleNamespace(peer=SimpleNamespace(role=CLIENT)))  # type: ignore[arg-type]
    server: Any = SimpleNamespace(peer=SimpleNamespace(role=SERVER))
    assert await network._answer_reach(ask, server) is False
