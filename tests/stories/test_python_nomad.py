"""python-nomad, a client that others wrote, drives a real agent through its own methods."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nomad
import pytest
from agent import Agent, job, running, shell, until

UNKNOWN = "00000000-1111-2222-3333-444444444444"
Missing = nomad.api.exceptions.URLNotFoundNomadException
Failed = nomad.api.exceptions.BaseNomadException


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("agent"), "-dev") as agent:
        yield agent
        assert not agent.faults()


@pytest.fixture(scope="module")
def api(dev: Agent) -> Any:
    host, _, port = dev.address.removeprefix("http://").rpartition(":")
    return nomad.Nomad(host=host, port=int(port), timeout=10)


@pytest.fixture(scope="module")
def alloc(api: Any) -> Any:
    """The allocation of the job ``example``, running."""
    api.job.register_job(
        "example", {"Job": job("example", shell("echo hello; trap : USR1; while :; do sleep 0.1; done"))}
    )
    until(lambda: api.job["example"]["Status"] == "running", "the job")
    return until(
        lambda: next((a for a in api.job.get_allocations("example") if a["ClientStatus"] == "running"), None), "it"
    )


def test_from_a_job_to_its_log_and_its_end(dev: Agent, api: Any) -> None:
    response = api.job.register_job("whole", {"Job": job("whole", shell("echo hello; sleep 1000"))})
    assert api.evaluation.get_evaluation(response["EvalID"])["JobID"] == "whole"
    allocations = until(lambda: api.job.get_allocations("whole"), "an allocation")
    until(lambda: api.allocation[allocations[0]["ID"]]["ClientStatus"] == "running", "the task")
    frame = until(
        lambda: api.client.stream_logs.stream(allocations[0]["ID"], "main", "stdout", plain=True, follow=False), "log"
    )
    assert frame == "hello\n"
    assert api.job.deregister_job("whole")["EvalID"]
    until(lambda: api.allocation[allocations[0]["ID"]]["ClientStatus"] == "complete", "the end")
    api.job.deregister_job("whole", purge=True)
    assert "whole" not in api.job


def test_container_protocol(api: Any, alloc: Any) -> None:
    assert "example" in api.jobs
    assert "example" in api.job
    assert api.jobs["example"]["ID"] == "example"
    assert UNKNOWN not in api.allocation
    assert alloc["ID"] in api.allocation
    with pytest.raises(KeyError):
        api.job["nobody"]
    for part in (api.evaluation, api.deployment, api.node):
        assert UNKNOWN not in part
    assert [one["ID"] for one in api.jobs] == [one["ID"] for one in api.jobs.get_jobs()]


def test_job_reads(api: Any, alloc: Any) -> None:
    assert api.job.get_evaluations("example")[0]["JobID"] == "example"
    assert api.job.get_summary("example")["JobID"] == "example"
    assert api.job.get_versions("example")["Versions"][0]["ID"] == "example"
    assert isinstance(api.job.get_deployments("example"), list)
    assert api.job.get_deployment("example")["JobID"] == "example"
    with pytest.raises(Missing):
        api.job.get_versions("nobody")
    assert [one["ID"] for one in api.jobs.get_jobs(prefix="exam")] == ["example"]


def test_job_writes(api: Any, alloc: Any) -> None:
    assert api.job.evaluate_job("example")["EvalID"]
    spec = api.job.get_job("example")
    assert "Index" in api.job.plan_job("example", {"Job": spec, "Diff": True})
    assert api.job.stable_job("example", 0, True)["Index"]
    with pytest.raises(Failed, match="can't revert to current version"):
        api.job.revert_job("example", spec["Version"])
    hcl = 'job "x" { group "g" { task "t" { driver = "raw_exec" } } }'
    parsed = api.jobs.parse(hcl)
    assert (parsed["Name"], parsed["Type"]) == ("x", None) or parsed["Type"] == "service"
    assert api.validate.validate_job({"Job": spec}).json()["Error"] == ""
    with pytest.raises(nomad.api.exceptions.BadRequestNomadException):
        api.validate.validate_job({})


def test_dispatch(api: Any) -> None:
    api.job.register_job(
        "param", {"Job": job("param", shell("true"), type="batch", ParameterizedJob={"MetaRequired": ["time"]})}
    )
    first = api.job.dispatch_job("param", meta={"time": "1"}, payload=None, id_prefix_template="run")
    assert first["DispatchedJobID"].startswith("param/dispatch-run-")
    assert api.job.get_job(first["DispatchedJobID"])["ParentID"] == "param"
    with pytest.raises(Failed, match="required meta"):
        api.job.dispatch_job("param")


def test_allocations_and_evaluations(api: Any, alloc: Any) -> None:
    assert alloc["ID"] in [one["ID"] for one in api.allocations.get_allocations()]
    assert api.allocations.get_allocations(prefix=alloc["ID"][:2])
    assert api.allocations.get_allocations(resources=True)[0]["AllocatedResources"]
    with pytest.raises(Missing):
        api.allocation.get_allocation(UNKNOWN)
    evaluation = api.evaluations.get_evaluations()[0]
    assert api.evaluations.get_evaluations(prefix=evaluation["ID"][:2])
    assert isinstance(api.evaluation.get_allocations(evaluation["ID"]), list)
    with pytest.raises(Missing):
        api.evaluation.get_evaluation(UNKNOWN)
    assert isinstance(api.deployments.get_deployments(), list)


def test_client_routes(api: Any, alloc: Any) -> None:
    alloc_id = alloc["ID"]
    assert "alloc" in [one["Name"] for one in api.client.ls.list_files(alloc_id)]
    assert api.client.stat.stat_file(alloc_id)["IsDir"] is True
    assert api.client.stats.read_stats()["Memory"]
    assert api.client.allocation.read_allocation_stats(alloc_id)["ResourceUsage"]
    assert api.client.cat.read_file(alloc_id, path="alloc/logs/main.stdout.0") == "hello\n"
    assert api.client.read_at.read_file_offset(alloc_id, 1, 2, path="alloc/logs/main.stdout.0") == "el"
    with pytest.raises(nomad.api.exceptions.BadRequestNomadException):
        api.client.stream_file.stream(alloc_id, 1, "start", "/nope/x")
    for one in ("main", None):
        api.client.allocation.signal_allocation(alloc_id, "SIGUSR1", task=one)
    with pytest.raises(Failed, match="invalid signal"):
        api.client.allocation.signal_allocation(alloc_id, "INVALID-SIGNAL")
    api.client.gc_all_allocations.garbage_collect()
    api.client.gc_all_allocations.garbage_collect(api.nodes.get_nodes()[0]["ID"])


def test_nodes(api: Any) -> None:
    (stub,) = api.nodes.get_nodes()
    assert api.nodes.get_nodes(prefix=stub["ID"][:8])
    assert api.nodes.get_nodes(resources=True)[0]["NodeResources"]
    assert api.nodes.get_nodes(os=True)[0]["Attributes"]["os.name"]
    assert api.node.get_node(stub["ID"])["SchedulingEligibility"] == "eligible"
    assert isinstance(api.node.get_allocations(stub["ID"]), list)
    assert "EvalIDs" in api.node.evaluate_node(stub["ID"])
    for wanted in ("ineligible", "eligible"):
        api.node.eligible_node(stub["ID"], eligible=wanted == "eligible")
        assert api.node[stub["ID"]]["SchedulingEligibility"] == wanted


def test_agent_and_operator(api: Any, alloc: Any) -> None:
    assert isinstance(api.agent.get_agent(), dict)
    assert len(api.agent.get_members()["Members"]) == 1
    assert isinstance(api.agent.get_servers(), list)
    assert api.agent.join_agent("nope")["num_joined"] == 0
    assert api.agent.force_leave("nope") == 200
    assert api.operator.get_configuration(stale=True)["Servers"]
    with pytest.raises(Failed):
        api.operator.delete_peer("192.168.33.10:4646")
    assert "global" in api.regions.get_regions()
    assert api.status.leader.get_leader() in api.status.peers.get_peers()
    assert api.system.initiate_garbage_collection() is True
    assert api.system.reconcile_summaries() is True
    assert "nomad.client.uptime" in str(api.metrics.get_metrics())
    assert "example" in api.search.search("example", "jobs")["Matches"]["jobs"]
    with pytest.raises(nomad.api.exceptions.InvalidParameters):
        api.search.search("example", "nonsense")


def test_namespaces(api: Any) -> None:
    api.namespace.create_namespace({"Name": "pynomad", "Description": "d"})
    assert "pynomad" in [one["Name"] for one in api.namespaces.get_namespaces()]
    assert api.namespace.get_namespace("pynomad")["Description"] == "d"
    api.namespace.delete_namespace("pynomad")
    assert "pynomad" not in api.namespace


def test_the_client_under_test_is_the_real_one() -> None:
    assert Path(nomad.__file__).is_relative_to(Path(sys.prefix))
