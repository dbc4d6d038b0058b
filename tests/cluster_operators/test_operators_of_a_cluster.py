"""What operators ask of a cluster of real processes, and what happens to agents that do not belong to it."""

from __future__ import annotations

import os
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_agents import NOMADPY, Cluster, Failed, Machine, until

from nomadpy.agent.logs import LogTap
from nomadpy.agent.main import run as run_agent

Join = Callable[..., Machine]
OTHER_KEY = "J+ey04+mZsbOGINtCLVuYbU0+tgqyJtu22VvYmUpFs8="


def members(cluster: Cluster, query: str = "") -> dict[str, dict[str, Any]]:
    found = cluster.servers[0].api.get(f"/v1/agent/members{query}")["Members"]
    return {one["Name"]: one for one in found}


def begin(address: str, *words: str) -> subprocess.Popen[str]:
    env = {**os.environ, "NOMAD_ADDR": f"http://{address}:4646", "NO_COLOR": "1"}
    return subprocess.Popen(
        [str(NOMADPY), *words],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def nomadpy(address: str, *words: str) -> subprocess.CompletedProcess[str]:
    process = begin(address, *words)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def logged(machine: Machine, words: str) -> None:
    until(lambda: words in machine.log(), f'"{words}" in the log of {machine.name}')


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_everybody_tells_the_same_about_the_servers(operated: Cluster) -> None:
    leader = operated.wait_leader()
    for machine in operated.machines:
        found = machine.api.get("/v1/agent/members")["Members"]
        assert [(one["Name"], one["Status"]) for one in found] == [(f"s{n}.global", "alive") for n in (1, 2, 3)]
        assert machine.api.get("/v1/status/leader") == f"{leader.address}:4647"
        assert machine.api.get("/v1/status/peers") == sorted(f"{one.address}:4647" for one in operated.servers)
        assert machine.api.get("/v1/regions") == ["global"]
        assert all(one["ok"] for one in machine.api.get("/v1/agent/health").values())
    client = operated.clients[0]
    assert client.api.get("/v1/agent/servers")[0] in [f"{one.address}:4647" for one in operated.servers]
    with pytest.raises(Failed, match="client not enabled on this agent"):
        leader.api.get("/v1/agent/servers")


def test_the_health_of_a_node_is_known(operated: Cluster) -> None:
    def look() -> Any:
        (stub,) = operated.get("/v1/nodes?health=true")
        assert stub["Health"]["Gossip"] == "alive"
        assert stub["Health"]["Memory"] > 0, "measured once"
        return stub

    stub = until(look, "the health of the node")
    assert operated.get(f"/v1/node/{stub['ID']}?health=true")["Health"].keys() == stub["Health"].keys()
    assert members(operated, "?clients=true")[stub["ID"]]["Tags"]["name"] == stub["Name"]


def test_whatever_agent_is_asked_a_task_is_heard_seen_and_entered(operated: Cluster) -> None:
    spec = operated.witness_job("heard", 1)
    spec["TaskGroups"][0]["Tasks"][0]["Config"]["args"][1] = "while :; do echo tick; sleep 0.2; done"
    operated.submit(spec)
    (alloc,) = operated.wait_running("heard", 1)
    words = ["alloc", "exec", alloc["ID"], "/bin/sh", "-c", "echo in $NOMAD_TASK_NAME; exit 7"]
    commands = [begin(machine.address, *words) for machine in operated.machines]
    for machine in operated.machines:
        url = f"http://{machine.address}:4646/v1/client/fs/logs/{alloc['ID']}?task=main&type=stdout&plain=true&follow=true"
        with urllib.request.urlopen(url, timeout=20) as followed:
            assert [followed.readline() for _ in range(3)] == [b"tick\n"] * 3
        files = machine.api.get(f"/v1/client/fs/ls/{alloc['ID']}?path=alloc/logs")
        assert "main.stdout.0" in [one["Name"] for one in files]
    for command in commands:
        said, complaint = command.communicate(timeout=60)
        assert (command.returncode, said) == (7, "in main\n"), complaint
    operated.purge("heard")


def test_gossip_keys_are_changed_everywhere(operated: Cluster) -> None:
    api = operated.servers[1].api
    (first,) = api.get("/v1/agent/keyring/list")["Keys"]
    for action in ("install", "use"):
        report = api.put(f"/v1/agent/keyring/{action}", {"Key": OTHER_KEY})
        assert report["Keys"] == {first: 4, OTHER_KEY: 4}
    assert report["PrimaryKeys"] == {OTHER_KEY: 4}
    with pytest.raises(Failed, match="the primary key cannot be removed"):
        api.put("/v1/agent/keyring/remove", {"Key": OTHER_KEY})
    api.put("/v1/agent/keyring/use", {"Key": first})
    assert api.put("/v1/agent/keyring/remove", {"Key": OTHER_KEY})["Keys"] == {first: 4}
    with pytest.raises(Failed, match="a gossip key must be base64 text"):
        api.put("/v1/agent/keyring/install", {"Key": "?"})
    with pytest.raises(Failed, match="server not enabled on this agent"):
        operated.clients[0].api.get("/v1/agent/keyring/list")


def test_metrics_tell_of_raft_gossip_and_the_port(operated: Cluster) -> None:
    leader, follower = operated.wait_leader(), operated.followers()[0]
    seen = {gauge["Name"]: gauge["Value"] for gauge in leader.api.get("/v1/metrics")["Gauges"]}
    assert seen["nomad.raft.is_leader"] == seen["nomad.autopilot.healthy"] == 1
    assert seen["nomad.raft.peers"] == 3
    assert min(seen[name] for name in ("nomad.raft.apply", "nomad.raft.commitTime", "nomad.raft.syncs")) > 0
    assert min(seen[f"nomad.nomad.rpc.{name}"] for name in ("accept_conn", "raft_handoff", "connections_open")) > 0
    assert seen["nomad.memberlist.udp.received"] > 0
    assert "nomad.raft.leader.lastContact" not in seen
    rows = follower.api.get("/v1/metrics")["Gauges"]
    assert "nomad.raft.leader.lastContact" in {gauge["Name"] for gauge in rows}
    alive = [g["Value"] for g in rows if g["Labels"] == {"role": "server", "status": "alive"}]
    assert alive == [3]


# --- letting go -------------------------------------------------------------------------------------------------------


def test_living_servers_are_not_forced_to_leave(operated: Cluster) -> None:
    first, second = operated.servers[:2]
    seen = nomadpy(first.address, "server", "force-leave", first.name)
    assert (seen.returncode, "is the agent that was asked" in seen.stderr) == (1, True)
    seen = nomadpy(first.address, "server", "force-leave", second.name)
    assert (seen.returncode, "s2.global is alive and stays" in seen.stderr) == (1, True)
    assert not first.api.put("/v1/agent/force-leave?node=s2.global&prune=true"), "no error, as with Nomad"
    seen = nomadpy(first.address, "server", "force-leave", "nobody")
    assert (seen.returncode, "there are: s1.global, s2.global, s3.global" in seen.stderr) == (1, True)
    (node,) = operated.get("/v1/nodes")
    with pytest.raises(Failed, match="is a client: purge the node"):
        first.api.put(f"/v1/agent/force-leave?node={node['ID']}")
    first.api.put("/v1/agent/force-leave?node=nobody")
    assert {one["Status"] for one in members(operated).values()} == {"alive"}


def test_a_failed_server_is_let_go_and_may_come_back(operated: Cluster) -> None:
    gone = next(one for one in operated.followers() if one is not operated.servers[0])
    gone.kill()
    name = f"{gone.name}.global"
    # At once: the others have not noticed its death.
    assert members(operated)[name]["Status"] == "alive"
    seen = nomadpy(operated.servers[0].address, "server", "force-leave", gone.name)
    assert (seen.returncode, seen.stdout) == (0, f"Server {name} was let go\n")
    until(lambda: members(operated)[name]["Status"] == "left", "the farewell")
    until(lambda: len(operated.get("/v1/operator/raft/configuration")["Servers"]) == 2, "two servers in the log")
    assert nomadpy(operated.servers[0].address, "server", "members").returncode == 0
    gone.start().wait_up()

    def votes_again() -> bool:
        servers = operated.get("/v1/operator/raft/configuration")["Servers"]
        assert sorted(one["Voter"] for one in servers) == [True] * 3, servers
        return bool(members(operated)[name]["Status"] == "alive")

    until(votes_again, "three voters", timeout_s=40)
    operated.wait_whole()


def test_the_only_server_cannot_be_removed(operated: Cluster, tmp_path: Path) -> None:
    alone = Machine(operated.net, 30, "alone", tmp_path / "alone", ["-server", "-bootstrap-expect", "1"]).start()
    try:
        alone.wait_up()
        until(lambda: alone.api.get("/v1/status/leader"), "a leader")
        (server,) = alone.api.get("/v1/operator/raft/configuration")["Servers"]
        with pytest.raises(Failed, match="the only server of a region cannot be removed"):
            alone.api.call("DELETE", f"/v1/operator/raft/peer?id={server['ID']}")
        assert alone.api.get("/v1/operator/autopilot/health")["Healthy"] is True
    finally:
        alone.api.close()
        alone.kill()


# --- who does not belong here -----------------------------------------------------------------------------------------


def test_strangers_are_refused_with_a_sentence_at_both_ends(operated: Cluster, joining: Join) -> None:
    first = operated.servers[0]
    server = ("-server", "-bootstrap-expect", "3")
    wrong_key = joining(10, "wrongkey", *server, encrypt=OTHER_KEY)
    no_key = joining(11, "nokey", *server, encrypt="")
    abroad = joining(12, "abroad", *server, "-region", "eu")
    twin = joining(13, "s2", *server)
    lone = joining(14, "lone", "-server", "-bootstrap-expect", "1")
    abroad_client = joining(15, "abroad-client", "-client", "-region", "eu")
    logged(wrong_key, "is its gossip key the same?")
    logged(first, "the keys (encrypt) differ")
    logged(no_key, "it encrypts gossip, but this agent has no key (encrypt)")
    logged(first, "it hung up on hearing that gossip is encrypted here")
    for machine in (abroad, first):
        logged(machine, "abroad.eu is of region eu, this agent of global")
    for machine in (twin, first):
        logged(machine, "the name s2.global is taken by another living agent")
    for machine in (lone, first):
        logged(machine, "two clusters never become one")
    logged(first, "abroad-client is of region eu, this agent of global")
    logged(abroad_client, "is of region global, this agent of eu")
    assert sorted(members(operated)) == ["s1.global", "s2.global", "s3.global"]
    assert len(operated.get("/v1/operator/raft/configuration")["Servers"]) == 3
    assert [node["Name"] for node in operated.get("/v1/nodes")] == ["c1"]


def test_a_client_with_another_gossip_key_works_by_its_lease_and_says_what_is_wrong(
    operated: Cluster, joining: Join
) -> None:
    client = joining(16, "otherkey", "-client", encrypt=OTHER_KEY)
    logged(client, "gossip.not_joined")
    until(lambda: "otherkey" in operated.nodes(), "the registration")
    assert {n["Name"]: n["Health"] for n in operated.get("/v1/nodes?health=true")}["otherkey"] is None
    client.kill()
    operated.wait_nodes(["otherkey"], "down", timeout_s=40)
    node_id = operated.nodes()["otherkey"]["ID"]
    operated.ask("PUT", f"/v1/node/{node_id}/purge")


def test_servers_that_expect_different_numbers_do_not_begin(operated: Cluster, tmp_path: Path) -> None:
    address = operated.net.address(21)
    pair = [
        Machine(operated.net, 20 + n, f"e{n}", tmp_path / f"e{n}",
                ["-server", "-bootstrap-expect", str(n + 1), "-retry-join", address]).start()
        for n in (1, 2)
    ]  # fmt: skip
    try:
        for machine in pair:
            logged(machine, "it must be the same")
            assert machine.wait_up().api.get("/v1/status/leader") == ""
            assert machine.api.get("/v1/status/peers") == []
    finally:
        for machine in pair:
            machine.api.close()
            machine.kill()


@pytest.mark.parametrize(
    ("flags", "config", "sentence"),
    [
        (["-bootstrap-expect", "x"], "", "-bootstrap-expect takes a number"),
        (["-bootstrap-expect", "-1"], "", "bootstrap_expect must not be negative"),
        ([], "", "set -bootstrap-expect to the number of servers"),
        (["-bootstrap-expect", "1"], 'server { encrypt = "abc" }', "encrypt: a gossip key must be base64 text"),
        (["-bootstrap-expect", "1"],
         'tls { rpc = true\n ca_file = "/no/ca.pem"\n cert_file = "/no/c.pem"\n key_file = "/no/k.pem"\n}',
         "tls.ca_file: /no/ca.pem cannot be read: No such file or directory"),
        (["-bootstrap-expect", "1", "-retry-join", "provider=aws"], "", '"provider=aws" is no address to join'),
    ],
)  # fmt: skip
def test_a_server_that_cannot_run_says_why(
    flags: list[str], config: str, sentence: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("nomadpy.agent.main.set_up", lambda *_, **__: LogTap())  # the log of the tests stays as it is
    file = tmp_path / "agent.hcl"
    file.write_text(config)
    ports = ["-http-port", "0", "-rpc-port", "0", "-serf-port", "0"]
    words = ["-server", "-bind", "127.0.0.1", "-data-dir", str(tmp_path / "data"), "-config", str(file)]
    assert run_agent([*words, *ports, *flags]) == 1
    said = capsys.readouterr().err
    assert (sentence in said, len(said.splitlines())) == (True, 1), said


def test_a_data_directory_is_for_one_agent(operated: Cluster) -> None:
    used = operated.servers[0].data_dir
    seen = nomadpy(
        "127.0.0.1", "agent", "-server", "-bootstrap-expect", "1", "-bind", "127.0.0.1", "-data-dir", str(used)
    )
    assert seen.returncode == 1
    assert "is in use by another agent" in seen.stderr
    assert operated.servers[0].running
