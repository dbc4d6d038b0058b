"""Jobs from their registration to their end on a real agent: counts, updates, failures, kinds of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from agent import Agent, group, job, running, shell, task, until


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("agent"), "-dev") as agent:
        yield agent
        assert not agent.faults()


@pytest.fixture
def name(dev: Agent, request: pytest.FixtureRequest) -> Iterator[str]:
    made = str(request.node.name).replace("[", "-").replace("]", "")
    yield made
    dev.delete(f"/v1/job/{made}", purge="true")


def ids(stubs: list[dict[str, Any]]) -> set[str]:
    return {stub["ID"] for stub in stubs}


def status(dev: Agent, name: str) -> str:
    return str(dev.get("/v1/job/" + quote(name, safe=""))["Status"])


def test_counts_go_up_and_down(dev: Agent, name: str) -> None:
    dev.run(job(name, count=2))
    before = ids(dev.wait_allocs(name, 2))
    dev.run(job(name, count=4))
    grown = ids(dev.wait_allocs(name, 4))
    assert before < grown
    dev.run(job(name, count=1))
    assert ids(dev.wait_allocs(name, 1)) < grown
    dev.wait_allocs(name, 3, "complete")
    dev.run(job(name, count=0))
    dev.wait_allocs(name, 4, "complete")


def test_an_update_in_place_keeps_what_runs(dev: Agent, name: str) -> None:
    dev.run(job(name))
    (before,) = dev.wait_allocs(name)
    dev.run(job(name, Priority=60))
    after = until(lambda: [s for s in dev.allocs(name) if s["JobVersion"] == 1], "the new version")
    assert ids(after) == {before["ID"]}
    assert after[0]["ClientStatus"] == "running"


def test_a_destructive_update_replaces_what_runs(dev: Agent, name: str) -> None:
    dev.run(job(name))
    (before,) = dev.wait_allocs(name)
    dev.run(job(name, task(Env={"A": "b"})))
    dev.wait_allocs(name, 1, "complete")
    (after,) = dev.wait_allocs(name)
    assert dev.get(f"/v1/allocation/{after['ID']}")["PreviousAllocation"] == before["ID"]


def test_a_failed_task_is_restarted_in_place(dev: Agent, name: str) -> None:
    policy = {"Attempts": 2, "Interval": 60 * 10**9, "Delay": 1_000_000, "Mode": "fail"}
    spec = job(name, shell("echo run; exit 3"), type="batch", Group={"RestartPolicy": policy})
    dev.run(spec)
    (stub,) = dev.wait_allocs(name, 1, "failed")
    assert dev.logs(stub["ID"]) == "run\n" * 3
    state = stub["TaskStates"]["main"]
    assert (state["Restarts"], state["Failed"]) == (2, True)
    events = [event["Type"] for event in dev.get(f"/v1/allocation/{stub['ID']}")["TaskStates"]["main"]["Events"]]
    assert events[-1] == "Not Restarting" or "Not Restarting" in events


def test_a_failed_allocation_is_placed_anew(dev: Agent, name: str) -> None:
    policy = {"Attempts": 1, "Interval": 3600 * 10**9, "Delay": 5 * 10**9, "DelayFunction": "constant"}
    spec = job(name, shell("exit 1"), type="batch", Group={"ReschedulePolicy": policy})
    dev.run(spec)
    dev.wait_allocs(name, 2, "failed", timeout_s=25)
    first, second = dev.allocs(name)
    full = dev.get(f"/v1/allocation/{second['ID']}")
    assert full["PreviousAllocation"] == first["ID"]
    assert full["RescheduleTracker"]["Events"][0]["PrevAllocID"] == first["ID"]
    until(lambda: status(dev, name) == "dead", "the end of the job")


def test_a_batch_job_ends(dev: Agent, name: str) -> None:
    dev.run(job(name, shell("echo $NOMAD_JOB_ID $NOMAD_ALLOC_INDEX"), type="batch", count=3))
    dev.wait_allocs(name, 3, "complete")
    until(lambda: status(dev, name) == "dead", "the end of the job")
    assert sorted(dev.logs(one) for one in ids(dev.allocs(name))) == [f"{name} {i}\n" for i in range(3)]
    summary = dev.get(f"/v1/job/{name}/summary")["Summary"]["g"]
    assert (summary["Complete"], summary["Running"]) == (3, 0)


@pytest.mark.parametrize("kind", ["system", "sysbatch"])
def test_one_on_every_node(dev: Agent, name: str, kind: str) -> None:
    dev.run(job(name, shell("sleep 1000" if kind == "system" else "true"), type=kind))
    dev.wait_allocs(name, 1, "running" if kind == "system" else "complete")
    if kind == "sysbatch":
        until(lambda: status(dev, name) == "dead", "the end of the job")


def test_a_periodic_job_launches_children(dev: Agent, name: str) -> None:
    periodic = {"Enabled": True, "Spec": "* * * * * * *", "SpecType": "cron", "ProhibitOverlap": False}
    dev.run(job(name, shell("true"), type="batch", Periodic=periodic))

    def child() -> str:
        return next((stub["ID"] for stub in dev.get("/v1/jobs", prefix=f"{name}/periodic-")), "")

    found = until(child, "a launch")
    until(lambda: status(dev, found) == "dead", "the end of the child")
    assert status(dev, name) == "running"
    dev.delete(f"/v1/job/{name}")
    n_children = len(dev.get("/v1/jobs", prefix=f"{name}/periodic-"))
    assert until(lambda: status(dev, name) == "dead", "the end of the parent")
    assert len(dev.get("/v1/jobs", prefix=f"{name}/periodic-")) == n_children


def test_an_ineligible_node_keeps_what_runs_and_gets_nothing_new(dev: Agent, name: str) -> None:
    node = dev.get("/v1/nodes")[0]["ID"]
    dev.run(job(name))
    dev.wait_allocs(name)
    dev.put(f"/v1/node/{node}/eligibility", {"Eligibility": "ineligible"})
    try:
        dev.run(job(name, count=2))
        until(lambda: dev.get(f"/v1/job/{name}/summary")["Summary"]["g"]["Queued"] == 1, "the queued one")
        assert len(dev.wait_allocs(name)) == 1
    finally:
        dev.put(f"/v1/node/{node}/eligibility", {"Eligibility": "eligible"})
    dev.wait_allocs(name, 2)


def test_tasks_of_a_group_share_a_directory_and_a_lifecycle(dev: Agent, name: str) -> None:
    before = shell("echo prepared > $NOMAD_ALLOC_DIR/data/x", Name="before", Lifecycle={"Hook": "prestart"})
    main = shell("cat $NOMAD_ALLOC_DIR/data/x")
    dev.run(job(name, TaskGroups=[group(before, main)], type="batch"))
    (stub,) = dev.wait_allocs(name, 1, "complete")
    assert dev.logs(stub["ID"]) == "prepared\n"


def test_a_leader_takes_the_others_along(dev: Agent, name: str) -> None:
    dev.run(
        job(name, TaskGroups=[group(shell("sleep 0.3", Leader=True), shell("sleep 1000", Name="side"))], type="batch")
    )
    (stub,) = dev.wait_allocs(name, 1, "complete")
    assert stub["TaskStates"]["side"]["State"] == "dead"


@pytest.mark.docker
def test_a_container(dev: Agent, name: str) -> None:
    config = {"image": "busybox:nomadpy", "command": "sh", "args": ["-c", "echo in $NOMAD_TASK_NAME; sleep 1000"]}
    dev.run(job(name, task("docker", Config=config)))
    (stub,) = dev.wait_allocs(name, timeout_s=40)
    until(lambda: dev.logs(stub["ID"]) == "in main\n", "the log")
    dev.delete(f"/v1/job/{name}")
    dev.wait_allocs(name, 1, "complete", timeout_s=30)
