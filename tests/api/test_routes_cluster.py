"""Routes about nodes, pools, namespaces, the agent itself and its operator."""

from __future__ import annotations

import re
from typing import Any

import pytest
from agent import Agent, job, until

UNKNOWN = "00000000-1111-2222-3333-444444444444"


@pytest.fixture
def node_id(dev: Agent) -> str:
    return str(dev.get("/v1/nodes")[0]["ID"])


# --- nodes ---


def test_a_node_hides_its_secret_and_shows_the_legacy_drain(dev: Agent, node_id: str) -> None:
    found = dev.get(f"/v1/node/{node_id}")
    assert (found["SecretID"], found["Drain"], found["Status"]) == ("", False, "ready")
    assert found["Attributes"]["driver.raw_exec"] == "1"
    assert found["HTTPAddr"] == dev.address.removeprefix("http://")


def test_node_stubs(dev: Agent, node_id: str) -> None:
    (stub,) = dev.get("/v1/nodes")
    assert stub["Drivers"]["mock_driver"]["Healthy"] is True
    assert (stub["Address"], "NodeResources" in stub, "Attributes" in stub) == ("127.0.0.1", False, False)
    (full,) = dev.get("/v1/nodes", resources="True", os="true")
    assert full["NodeResources"]["Memory"]["MemoryMB"] > 0
    assert list(full["Attributes"]) == ["os.name"]
    assert [n["ID"] for n in dev.get("/v1/nodes", prefix=node_id[:4])] == [node_id]
    assert dev.get("/v1/nodes", filter='Name == "nobody"') == []


def test_allocations_of_a_node_are_shown_in_full(dev: Agent, node_id: str, job_id: str) -> None:
    dev.run(job(job_id))
    (stub,) = dev.wait_allocs(job_id)
    found = {one["ID"]: one for one in dev.get(f"/v1/node/{node_id}/allocations")}
    assert found[stub["ID"]]["Job"]["ID"] == job_id
    answer = dev.http.get(f"/v1/node/{UNKNOWN}/allocations")
    assert (answer.json(), answer.headers["X-Nomad-Index"]) == ([], "1")


def test_eligibility(dev: Agent, node_id: str, job_id: str) -> None:
    path = f"/v1/node/{node_id}/eligibility"
    answer = dev.put(path, {"Eligibility": "ineligible"})
    assert answer["NodeModifyIndex"] > 0
    try:
        dev.run(job(job_id))
        until(lambda: dev.get(f"/v1/job/{job_id}/summary")["Summary"]["g"]["Queued"] == 1, "the queued allocation")
    finally:
        dev.put(path, {"Eligibility": "eligible"})
    dev.wait_allocs(job_id)
    assert dev.put(path, {"Eligibility": "x"}, status=500) == 'invalid scheduling eligibility "x"'
    assert dev.put(f"/v1/node/{UNKNOWN}/eligibility", {"Eligibility": "eligible"}, status=500) == "node not found"


def test_evaluating_and_purging(dev: Agent, node_id: str) -> None:
    answer = dev.put(f"/v1/node/{node_id}/evaluate")
    assert {"EvalIDs", "NodeModifyIndex", "HeartbeatTTL", "NumNodes"} <= set(answer)
    for what in ("evaluate", "purge"):
        assert dev.put(f"/v1/node/{UNKNOWN}/{what}", status=500) == "node not found"


# --- pools and namespaces ---


def test_the_life_of_a_pool(dev: Agent) -> None:
    assert dev.put("/v1/node/pools", {"Name": "gpu", "Description": "cards"}) == ""
    assert dev.get("/v1/node/pool/gpu")["Description"] == "cards"
    assert [pool["Name"] for pool in dev.get("/v1/node/pools")] == ["all", "default", "gpu"]
    assert dev.get("/v1/node/pools", prefix="g")[0]["Name"] == "gpu"
    assert dev.get("/v1/node/pool/gpu/nodes") == []
    assert dev.get("/v1/node/pool/gpu/jobs") == []
    assert len(dev.get("/v1/node/pool/all/nodes")) == 1
    for part in ("nodes", "jobs"):
        assert dev.get(f"/v1/node/pool/gpu/{part}", status=400, prefix="x") == "prefix argument not allowed"
    text = dev.put("/v1/node/pool/gpu", {"Name": "other"}, status=400)
    assert text == "Node pool name does not match request path"
    assert dev.delete("/v1/node/pool/gpu") == ""
    assert dev.get("/v1/node/pool/gpu", status=404) == "node pool not found"


@pytest.mark.parametrize("name", ["all", "default"])
def test_pools_that_cannot_be_changed(dev: Agent, name: str) -> None:
    text = dev.put("/v1/node/pools", {"Name": name, "Description": "x"}, status=400)
    assert text == f'modifying node pool "{name}" is not allowed'
    assert dev.delete(f"/v1/node/pool/{name}", status=500) == f'deleting node pool "{name}" is not allowed'


def test_pools_that_are_refused(dev: Agent) -> None:
    assert "missing node pool name" in dev.http.put("/v1/node/pools", json={}).text
    text = dev.put("/v1/node/pools", {"Name": "a b"}, status=400)
    assert text.startswith('invalid node pool "a b": ')


def test_the_life_of_a_namespace(dev: Agent, job_id: str) -> None:
    assert dev.put("/v1/namespace", {"Name": "team", "Description": "d"}) == ""
    assert dev.get("/v1/namespace/team")["Description"] == "d"
    assert dev.put("/v1/namespace/team", {"Name": "team", "Description": "e"}) == ""
    dev.put("/v1/jobs", {"Job": job(job_id)}, namespace="team")
    assert 'namespace "team" has non-terminal jobs' in dev.delete("/v1/namespace/team", status=500)
    dev.delete(f"/v1/job/{job_id}", namespace="team", purge="true")
    until(lambda: dev.http.delete("/v1/namespace/team").status_code == 200, "the removal")
    assert dev.get("/v1/namespace/team", status=404) == "Namespace not found"


def test_namespaces_that_are_refused(dev: Agent) -> None:
    text = dev.put("/v1/namespace", {"Name": "*"}, status=500)
    assert 'invalid name "*". Must match regex' in text
    assert dev.put("/v1/namespace/a", {"Name": "b"}, status=400) == "Namespace name does not match request path"
    assert dev.delete("/v1/namespace/default", status=500) == "can not delete default namespace"
    assert dev.get("/v1/namespace/", status=400) == "Missing Namespace Name"


# --- the agent ---


def test_self(dev: Agent, node_id: str) -> None:
    found = dev.get("/v1/agent/self")
    assert found["config"]["Region"] == "global"
    assert found["config"]["Version"]["Version"]
    assert found["member"]["Tags"]["role"] == "nomad"
    assert found["stats"]["client"]["node_id"] == node_id
    assert found["stats"]["nomad"]["leader"] == "true"


def test_members_and_the_leader_fit_together(dev: Agent) -> None:
    found = dev.get("/v1/agent/members")
    (member,) = found["Members"]
    assert member["Status"] == "alive"
    assert dev.get("/v1/status/leader") == f"{member['Addr']}:{member['Tags']['port']}"
    assert dev.get("/v1/status/peers") == [dev.get("/v1/status/leader")]
    assert dev.get("/v1/regions") == ["global"]
    assert dev.get("/v1/agent/servers") == dev.get("/v1/status/peers")


def test_joining_and_leaving(dev: Agent) -> None:
    member = dev.get("/v1/agent/members")["Members"][0]
    joined = dev.put("/v1/agent/join", address=f"{member['Addr']}:{member['Port']}")
    assert joined == {"num_joined": 1, "error": "", "warning": ""}
    assert dev.put("/v1/agent/join", address="nope")["num_joined"] == 0
    assert "nope" in dev.put("/v1/agent/join", address="nope")["error"]
    assert dev.put("/v1/agent/join", status=400) == "missing address to join"
    assert dev.put("/v1/agent/force-leave", node="nope") == ""
    assert dev.put("/v1/agent/force-leave", status=400) == "missing node to force leave"
    assert dev.put("/v1/agent/force-leave", status=400, node="x", prune="maybe") == "invalid prune value"
    assert dev.put("/v1/agent/servers", status=400) == "missing server address"


def test_health(dev: Agent) -> None:
    good = {"ok": True, "message": "ok"}
    assert dev.get("/v1/agent/health") == {"server": good, "client": good}
    assert dev.get("/v1/agent/health", type="server") == {"server": good}
    assert dev.http.get("/v1/agent/health", params={"type": "x"}).status_code == 400


def test_schedulers(dev: Agent) -> None:
    (worker,) = dev.get("/v1/agent/schedulers")["schedulers"]
    assert "batch" in worker["enabled_schedulers"]
    assert dev.get("/v1/agent/schedulers/config")["num_schedulers"] == 1


def test_following_the_agents_log(dev: Agent, job_id: str) -> None:
    with dev.http.stream("GET", "/v1/agent/monitor", params={"log_level": "debug", "plain": "true"}) as answer:
        dev.run(job(job_id))
        text = ""
        for piece in answer.iter_text():
            text += piece
            if "alloc.started" in text:
                break
    assert job_id in text
    assert dev.get("/v1/agent/monitor", status=400, log_level="loud") == "Unknown log level: loud"
    both = dev.get("/v1/agent/monitor", status=400, node_id="x", server_id="y")
    assert both == "Cannot target node and server simultaneously"


def test_following_the_agents_log_in_frames(dev: Agent) -> None:
    with dev.http.stream("GET", "/v1/agent/monitor", params={"log_level": "error"}) as answer:
        assert next(answer.iter_text()) == "{}"


def test_metrics(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id))
    found = dev.get("/v1/metrics")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 UTC", found["Timestamp"])
    gauges = {gauge["Name"]: gauge for gauge in found["Gauges"]}
    assert gauges["nomad.client.uptime"]["Value"] > 0
    assert "nomad.nomad.job_summary.running" in gauges
    lags = {g["Labels"]["quantile"]: g["Value"] for g in found["Gauges"] if g["Name"] == "nomad.nomadpy.loop_lag"}
    assert 0 <= lags["0.5"] <= lags["0.99"] <= lags["1"]
    assert (found["Counters"], found["Samples"], found["Points"]) == ([], [], [])


def test_metrics_for_prometheus(dev: Agent, job_id: str) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    dev.run(job(job_id, Meta={"odd": "x"}))
    answer = dev.http.get("/v1/metrics", params={"format": "prometheus"})
    assert "# HELP" in answer.text
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"nomad_client_uptime", "nomad_nomad_broker_total_ready"} <= names


# --- the operator ---


def test_the_schedulers_switches(dev: Agent) -> None:
    path = "/v1/operator/scheduler/configuration"
    before = dev.get(path)["SchedulerConfig"]
    assert before["SchedulerAlgorithm"] == "binpack"
    index = before["ModifyIndex"]
    assert dev.put(path, {"SchedulerAlgorithm": "spread"}, cas=index + 99)["Updated"] is False
    try:
        assert dev.put(path, {"SchedulerAlgorithm": "spread"}, cas=index)["Updated"] is True
        assert dev.get(path)["SchedulerConfig"]["SchedulerAlgorithm"] == "spread"
    finally:
        dev.put(path, before)
    assert "binpack, spread or balanced" in dev.put(path, {"SchedulerAlgorithm": "x"}, status=400)
    assert dev.http.put(path, params={"cas": "x"}, json={"SchedulerAlgorithm": "spread"}).status_code == 400


def test_raft(dev: Agent) -> None:
    (server,) = dev.get("/v1/operator/raft/configuration", stale="True")["Servers"]
    assert (server["Leader"], server["Voter"], server["RaftProtocol"]) == (True, True, "3")
    assert server["Address"] == dev.get("/v1/status/leader")
    text = dev.delete("/v1/operator/raft/peer", status=500, id="nope")
    assert text == 'id "nope" was not found in the Raft configuration'
    assert dev.delete("/v1/operator/raft/peer", status=400, address="x") == "Must specify the peer's ID to remove"


def test_the_only_server_stays_where_it_is(dev: Agent) -> None:
    (server,) = dev.get("/v1/operator/raft/configuration")["Servers"]
    text = dev.delete("/v1/operator/raft/peer", status=500, id=server["ID"])
    assert text == "the only server of a region cannot be removed"
    path = "/v1/operator/raft/transfer-leadership"
    for query in ({"id": server["ID"]}, {"address": server["Address"]}):
        answer = dev.http.put(path, params=query).json()
        assert answer == {
            "From": {"ID": server["ID"], "Address": server["Address"]},
            "To": {"ID": server["ID"], "Address": server["Address"]},
            "Noop": True,
            "Err": None,
        }
    for query, text in (
        ({}, "must specify id or address"),
        ({"id": "a", "address": "b"}, "must specify either id or address"),
        ({"id": "nope"}, 'id "nope" was not found in the Raft configuration'),
        ({"address": "1.2.3.4:5"}, 'address "1.2.3.4:5" was not found in the Raft configuration'),
    ):
        refused = dev.http.put(path, params=query)
        assert (refused.status_code, refused.text) == (400, text)


def test_the_autopilots_configuration(dev: Agent) -> None:
    path = "/v1/operator/autopilot/configuration"
    before = dev.get(path)
    assert (before["CleanupDeadServers"], before["MaxTrailingLogs"], before["MinQuorum"]) == (True, 250, 0)
    assert (before["LastContactThreshold"], before["ServerStabilizationTime"]) == ("1s", "10s")
    changed = {**before, "MinQuorum": 3, "LastContactThreshold": "500ms"}
    lost = dev.http.put(path, params={"cas": before["ModifyIndex"] + 1}, json=changed)
    assert lost.json() is False
    assert dev.http.put(path, params={"cas": before["ModifyIndex"]}, json=changed).json() is True
    after = dev.get(path)
    assert (after["MinQuorum"], after["LastContactThreshold"]) == (3, "500ms")
    assert after["ModifyIndex"] > before["ModifyIndex"]
    assert "MaxTrailingLogs must be at least 1" in dev.put(path, {"MaxTrailingLogs": 0}, status=400)
    assert dev.http.put(path, params={"cas": "x"}, json=changed).status_code == 400
    assert dev.http.put(path, json={"LastContactThreshold": "soon"}).status_code == 400
    assert dev.http.put(path, json=before).json() is True


def test_the_servers_are_well(dev: Agent) -> None:
    report = dev.get("/v1/operator/autopilot/health")
    (server,) = report["Servers"]
    assert (report["Healthy"], report["FailureTolerance"], report["Voters"]) == (True, 0, [server["ID"]])
    assert report["Leader"] == server["ID"]
    assert (server["Healthy"], server["Voter"], server["Leader"], server["SerfStatus"]) == (True, True, True, "alive")
    assert server["LastIndex"] > 0


def test_housekeeping(dev: Agent) -> None:
    assert dev.http.put("/v1/system/gc").content == b""
    assert dev.http.put("/v1/system/reconcile/summaries").status_code == 200
    assert dev.http.get("/v1/operator/license").status_code == 204


def test_searching(dev: Agent, job_id: str, node_id: str) -> None:
    dev.run(job(job_id))
    found = dev.put("/v1/search", {"Prefix": job_id, "Context": "jobs"})
    assert job_id in found["Matches"]["jobs"]
    assert found["Truncations"]["jobs"] is False
    assert dev.put("/v1/search", {"Prefix": node_id[:5], "Context": "all"})["Matches"]["nodes"] == [node_id]
    assert "context must be one of" in dev.put("/v1/search", {"Prefix": "x", "Context": "nope"}, status=500)


def test_the_openapi_document(dev: Agent) -> None:
    found = dev.get("/v1/openapi.json")
    assert found["openapi"].startswith("3.1")
    names = [o["operationId"] for path in found["paths"].values() for o in path.values() if isinstance(o, dict)]
    assert len(names) == len(set(names))
    references: set[Any] = set(re.findall(r'"#/components/schemas/([^"]+)"', dev.http.get("/v1/openapi.json").text))
    assert references <= set(found["components"]["schemas"])
