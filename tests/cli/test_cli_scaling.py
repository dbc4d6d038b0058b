"""Restarting jobs, tags, scaling, node pools and namespaces against a canned agent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_payloads as p
import pytest

from nomadpy.cli import specfile
from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.verbs import job_restart

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_restart, "POLL_S", 0.0)


def asked(cluster: Any, method: str = "PUT") -> list[str]:
    return [one.path for one in cluster.requests if one.method == method]


def running(cluster: Any, count: int, **changes: Any) -> list[str]:
    """Lets the job have so many running allocations, that can be restarted and stopped; gives their ids."""
    ids = [f"{n:08x}-aaaa-4bbb-8ccc-000000000000" for n in range(count)]
    states = {"TaskStates": {"server": {"State": "running"}}}
    stubs = [{**p.alloc_stub(), "ID": ident, "Name": f"web.front[{n}]", **states} for n, ident in enumerate(ids)]
    for stub in stubs:
        stub.update(ClientStatus="running", DesiredStatus="run", TaskGroup="front")
    stubs[-1].update(changes)
    cluster.on("GET", "/v1/job/web/allocations", stubs)
    for ident in ids:
        cluster.on("PUT", f"/v1/client/allocation/{ident}/restart", {})
        cluster.on("PUT", f"/v1/allocation/{ident}/stop", {"EvalID": p.EVAL})
    return ids


# --- job restart ---


def test_restart_takes_the_running_allocations_in_batches(nomadpy: Run, cluster: Any) -> None:
    ids = running(cluster, 3, ClientStatus="complete")
    seen = nomadpy("job", "restart", "-batch-size", "50%", "web")
    assert seen.code == 0
    assert "Restarting 2 allocations" in seen.out
    assert "1 at a time" in seen.out
    assert asked(cluster) == [f"/v1/client/allocation/{ident}/restart" for ident in ids[:2]]
    assert cluster.asked("PUT", asked(cluster)[0]).body == {"TaskName": "", "AllTasks": False}


def test_restart_of_a_task_names_it(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/job/web", p.job(TaskGroups=[{"Name": "front", "Tasks": [{"Name": "server"}]}]))
    [ident] = running(cluster, 1)
    assert nomadpy("job", "restart", "-task", "server", "web").code == 0
    assert cluster.asked("PUT", f"/v1/client/allocation/{ident}/restart").body["TaskName"] == "server"
    assert 'no such task "x"; there are server' in nomadpy("job", "restart", "-task", "x", "web").err
    assert 'has no group "x"; it has front' in nomadpy("job", "restart", "-group", "x", "web").err


def test_rescheduling_waits_for_replacements_and_fails_with_them(nomadpy: Run, cluster: Any) -> None:
    [ident] = running(cluster, 1)
    cluster.on("GET", f"/v1/allocation/{ident}", {"ID": ident, "ClientStatus": "complete", "NextAllocation": p.ALLOC})
    cluster.on("GET", f"/v1/allocation/{p.ALLOC}", {"ID": p.ALLOC, "ClientStatus": "running"})
    seen = nomadpy("job", "restart", "-reschedule", "-no-shutdown-delay", "web")
    assert seen.code == 0
    assert f"was replaced by {p.ALLOC[:8]}" in seen.out
    assert cluster.asked("PUT", f"/v1/allocation/{ident}/stop").query["no_shutdown_delay"] == ["true"]
    cluster.on("GET", f"/v1/allocation/{p.ALLOC}", {"ID": p.ALLOC, "ClientStatus": "failed"})
    seen = nomadpy("job", "restart", "-reschedule", "web")
    assert seen.code == 1
    assert "is failed" in seen.err


def test_the_first_that_fails_ends_it(nomadpy: Run, cluster: Any) -> None:
    ids = running(cluster, 3)
    cluster.on("PUT", f"/v1/client/allocation/{ids[1]}/restart", (500, "node is away"))
    seen = nomadpy("job", "restart", "-on-error", "fail", "web")
    assert (seen.code, "node is away" in seen.err) == (1, True)
    assert asked(cluster)[-1].endswith(f"{ids[1]}/restart")


def test_system_jobs_are_not_placed_anew(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/job/web", p.job(Type="system"))
    assert "cannot be rescheduled" in nomadpy("job", "restart", "-reschedule", "web").err


@pytest.mark.parametrize(
    "flags",
    [
        ("-reschedule", "-all-tasks"),
        ("-task=a", "-all-tasks"),
        ("-no-shutdown-delay",),
        ("-batch-size=0",),
        ("-batch-size=101%",),
        ("-batch-wait=soon",),
        ("-batch-wait=ask",),
        ("-on-error=shrug",),
    ],
)
def test_wishes_that_make_no_sense_are_refused_before_anything_happens(
    nomadpy: Run, cluster: Any, flags: tuple[str, ...]
) -> None:
    running(cluster, 1)
    assert nomadpy("job", "restart", *flags, "web").code == 1
    assert asked(cluster) == []


# --- tags and history ---


def test_tags_are_set_and_taken_away(nomadpy: Run, cluster: Any) -> None:
    path = "/v1/job/web/versions/the%20one/tag"
    cluster.on("PUT", path, {"Name": "the one"})
    cluster.on("DELETE", path, {"Name": "the one"})
    assert nomadpy("job", "tag", "apply", "-name", "the one", "-version", "2", "-description", "x", "web").code == 0
    assert cluster.asked("PUT", path).body == {"Version": 2, "Description": "x"}
    assert 'Removed the tag "the one"' in nomadpy("job", "tag", "unset", "-name", "the one", "web").out
    assert "a tag needs a name" in nomadpy("job", "tag", "apply", "web").err


def test_history_compares_with_a_tag_or_a_version(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/job/web/versions", {"Versions": [p.job()], "Diffs": [p.plan()["Diff"]]})
    assert "\nDiff\n" in nomadpy("job", "history", "-diff-tag", "gold", "web").out
    assert cluster.asked("GET", "/v1/job/web/versions").query["diff_tag"] == ["gold"]
    nomadpy("job", "history", "-diff-version", "0", "web")
    query = cluster.asked("GET", "/v1/job/web/versions").query
    assert (query["diff_version"], query["diffs"]) == (["0"], ["true"])
    assert "exclude each other" in nomadpy("job", "history", "-diff-tag=a", "-diff-version=1", "web").err


# --- scaling ---


def test_policies_are_listed_and_shown(nomadpy: Run, cluster: Any) -> None:
    target = {"Namespace": "default", "Job": "web", "Group": "front"}
    stub = {"ID": p.ALLOC, "Enabled": True, "Type": "horizontal", "Target": target}
    cluster.on("GET", "/v1/scaling/policies", [stub])
    cluster.on("GET", f"/v1/scaling/policy/{p.ALLOC}", {**stub, "Min": 1, "Max": 4, "Policy": {"a": 1}})
    assert "default,web,front" in nomadpy("scaling", "policy", "list", "-job", "web").out
    assert cluster.asked("GET", "/v1/scaling/policies").query["job"] == ["web"]
    shown = nomadpy("scaling", "policy", "info", p.ALLOC[:4]).out
    assert "Max     = 4" in shown
    assert '"a": 1' in shown
    cluster.on("GET", "/v1/scaling/policies", [])
    assert "no scaling policy" in nomadpy("scaling", "policy", "info", "zz").err
    assert nomadpy("scaling", "policy", "list").out == "No policies found\n"


def test_scaling_events_come_newest_first_over_all_groups(nomadpy: Run, cluster: Any) -> None:
    def event(at_s: int, count: int) -> dict[str, Any]:
        return {"Time": at_s * 10**9, "Count": count, "PreviousCount": 1, "Message": "m", "EvalID": p.EVAL}

    groups = {"a": {"Desired": 2, "Events": [event(10, 2)]}, "b": {"Desired": 3, "Events": [event(20, 3)]}}
    cluster.on("GET", "/v1/job/web/scale", {"TaskGroups": groups})
    lines = nomadpy("job", "scaling-events", "web").out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["b", "3"], ["a", "2"]]
    assert nomadpy("job", "scale-status", "web").out.splitlines()[2].split()[:2] == ["b", "3"]


# --- node pools and namespaces ---

_POOL = """
node_pool "gpu" {
  description = "cards"
  meta {
    owner = "me"
  }
  scheduler_config {
    scheduler_algorithm = "spread"
  }
}
"""
_POOL_BODY = {
    "Name": "gpu",
    "Description": "cards",
    "Meta": {"owner": "me"},
    "SchedulerConfiguration": {"SchedulerAlgorithm": "spread"},
}


def test_a_node_pool_is_applied_from_a_file(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    cluster.on("PUT", "/v1/node/pools", {})
    hcl, other = tmp_path / "pool.hcl", tmp_path / "pool.json"
    hcl.write_text(_POOL)
    assert 'applied node pool "gpu"' in nomadpy("node", "pool", "apply", str(hcl)).out
    assert cluster.asked("PUT", "/v1/node/pools").body == _POOL_BODY
    other.write_text(json.dumps(_POOL_BODY))
    assert nomadpy("node", "pool", "apply", str(other)).code == 0
    hcl.write_text('node_pool "gpu" {\n  descriptio = 1\n}\n')
    assert 'there is no key "descriptio"' in nomadpy("node", "pool", "apply", str(hcl)).err


def test_the_example_of_a_pool_can_be_applied(nomadpy: Run, tmp_path: Path) -> None:
    for flags, name in (((), "pool.hcl"), (("-json",), "pool.json")):
        target = tmp_path / name
        assert nomadpy("node", "pool", "init", *flags, str(target)).code == 0
        found = specfile.read(str(target), as_json=False, label="node_pool", keys=specfile.NODE_POOL)
        assert found["Name"] == "example"
        assert "was left alone" in nomadpy("node", "pool", "init", str(target)).err


def test_node_pools_are_found_by_the_beginning_of_their_name(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/node/pools", [{"Name": "gpu", "Description": "cards"}])
    cluster.on("GET", "/v1/node/pool/gpu/nodes", [p.node_stub()])
    cluster.on("GET", "/v1/node/pool/gpu/jobs", [])
    cluster.on("DELETE", "/v1/node/pool/gpu", {})
    assert "Name        = gpu" in nomadpy("node", "pool", "info", "g").out
    assert p.NODE[:8] in nomadpy("node", "pool", "nodes", "g").out
    assert nomadpy("node", "pool", "jobs", "gpu").out == "No jobs\n"
    assert nomadpy("node", "pool", "delete", "gpu").code == 0
    cluster.on("GET", "/v1/node/pools", [{"Name": "ga"}, {"Name": "gb"}])
    assert '"g" could be ga, gb' in nomadpy("node", "pool", "info", "g").err


def test_a_namespace_keeps_what_is_not_named(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    cluster.on("GET", "/v1/namespace/team", {"Name": "team", "Meta": {"a": "b"}, "Description": "old"})
    cluster.on("GET", "/v1/namespace/new", (404, "Namespace not found"))
    cluster.on("PUT", "/v1/namespace", {})
    nomadpy("namespace", "apply", "-description", "new", "team")
    assert cluster.asked("PUT", "/v1/namespace").body == {"Name": "team", "Meta": {"a": "b"}, "Description": "new"}
    nomadpy("namespace", "apply", "new")
    assert cluster.asked("PUT", "/v1/namespace").body == {"Name": "new"}
    file = tmp_path / "ns.hcl"
    file.write_text('name = "x"\ncapabilities {\n  enabled_task_drivers = ["docker"]\n}\n')
    nomadpy("namespace", "apply", str(file))
    body = {"Name": "x", "Capabilities": {"EnabledTaskDrivers": ["docker"]}}
    assert cluster.asked("PUT", "/v1/namespace").body == body
    assert json.loads(nomadpy("namespace", "inspect", "team").out)["Name"] == "team"


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_files_that_describe_nothing_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(CommandFailed, match=r"is not JSON|must hold an object"):
        specfile.read(str(file), as_json=True, label="namespace", keys=specfile.NAMESPACE)


def test_a_deployment_is_unblocked(nomadpy: Run, cluster: Any) -> None:
    path = f"/v1/deployment/unblock/{p.DEPLOYMENT}"
    cluster.on("PUT", path, {})
    assert nomadpy("deployment", "unblock", p.DEPLOYMENT).code == 0
    assert cluster.asked("PUT", path).body == {"DeploymentID": p.DEPLOYMENT}
