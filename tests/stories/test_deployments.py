"""Deployments on a real agent: waves, canaries, a version that fails, a deadline that passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import Agent, durable, group, job, running, task, until

SECOND = 1_000_000_000


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("agent"), "-dev") as agent:
        yield agent
        assert not agent.faults()


def spec(name: str, version: int, *, count: int = 4, broken: bool = False, **update: Any) -> dict[str, Any]:
    strategy = {
        "MaxParallel": 2,
        "HealthCheck": "task_states",
        "MinHealthyTime": SECOND // 10,
        "HealthyDeadline": 20 * SECOND,
        "ProgressDeadline": 30 * SECOND,
        **update,
    }
    config = {"run_for": "0s", "exit_code": 1} if broken else {"run_for": "1h"}
    one = task("mock_driver", Config=config, Env={"VERSION": str(version)})
    return job(name, TaskGroups=[group(one, count=count, Update=strategy)])


def latest(agent: Agent, name: str) -> Any:
    return agent.get(f"/v1/job/{name}/deployment")


def wait_for(agent: Agent, name: str, status: str, version: int) -> Any:
    def look() -> Any:
        found = latest(agent, name)
        assert found
        assert (found["Status"], found["JobVersion"]) == (status, version), found
        return found

    return until(look, f"deployment of version {version} of {name} {status}", timeout_s=30)


def live(agent: Agent, name: str) -> list[int]:
    return sorted(a["JobVersion"] for a in agent.allocs(name) if a["DesiredStatus"] == "run")


def stable(agent: Agent, name: str) -> list[int]:
    versions = agent.get(f"/v1/job/{name}/versions")["Versions"]
    return sorted(version["Version"] for version in versions if version["Stable"])


def test_a_new_version_comes_in_waves_and_both_become_stable(dev: Agent) -> None:
    dev.run(spec("waves", 0))
    wait_for(dev, "waves", "successful", 0)
    answer = dev.run(spec("waves", 1))
    done = wait_for(dev, "waves", "successful", 1)
    assert done["StatusDescription"] == "Deployment completed successfully"
    state = done["TaskGroups"]["g"]
    assert (state["DesiredTotal"], state["PlacedAllocs"], state["HealthyAllocs"]) == (4, 4, 4)
    assert (live(dev, "waves"), stable(dev, "waves")) == ([1, 1, 1, 1], [0, 1])
    assert dev.get(f"/v1/evaluation/{answer['EvalID']}")["DeploymentID"] == done["ID"]
    starts = sorted(a["CreateIndex"] for a in dev.get(f"/v1/deployment/allocations/{done['ID']}"))
    assert starts[0] == starts[1] < starts[2], "two at first"


def test_canaries_wait_for_their_promotion(dev: Agent) -> None:
    dev.run(spec("birds", 0, Canary=1))
    wait_for(dev, "birds", "successful", 0)
    dev.run(spec("birds", 1, Canary=1))
    found = wait_for(dev, "birds", "running", 1)
    assert found["StatusDescription"] == "Deployment is running but requires manual promotion"
    until(lambda: latest(dev, "birds")["TaskGroups"]["g"]["HealthyAllocs"] == 1, "a healthy canary")
    assert live(dev, "birds") == [0, 0, 0, 0, 1]
    blocked = dev.put("/v1/job/birds/scale", {"Count": 5, "Target": {"Group": "g"}}, status=400)
    assert blocked == "job scaling blocked due to active deployment"
    answer = dev.put(f"/v1/deployment/promote/{found['ID']}", {"DeploymentID": found["ID"], "All": True})
    assert answer["EvalID"]
    wait_for(dev, "birds", "successful", 1)
    assert live(dev, "birds") == [1, 1, 1, 1]


def test_canaries_that_promote_themselves(dev: Agent) -> None:
    dev.run(spec("selves", 0, Canary=2, AutoPromote=True))
    wait_for(dev, "selves", "successful", 0)
    dev.run(spec("selves", 1, Canary=2, AutoPromote=True))
    wait_for(dev, "selves", "successful", 1)
    assert live(dev, "selves") == [1, 1, 1, 1]


def test_a_version_that_fails_goes_back_to_the_stable_one(dev: Agent) -> None:
    dev.run(spec("brave", 0, AutoRevert=True))
    wait_for(dev, "brave", "successful", 0)
    dev.run(spec("brave", 1, AutoRevert=True, broken=True))
    done = wait_for(dev, "brave", "successful", 2)
    failed = next(d for d in dev.get("/v1/job/brave/deployments") if d["JobVersion"] == 1)
    text = "Failed due to unhealthy allocations - rolling back to job version 0"
    assert (failed["Status"], failed["StatusDescription"]) == ("failed", text)
    assert live(dev, "brave") == [2, 2, 2, 2]
    assert done["TaskGroups"]["g"]["HealthyAllocs"] == done["TaskGroups"]["g"]["DesiredTotal"]


def test_a_version_that_never_gets_healthy_runs_into_its_deadline(dev: Agent) -> None:
    slow = spec("slow", 0, MinHealthyTime=SECOND // 2, HealthyDeadline=SECOND, ProgressDeadline=2 * SECOND)
    slow["TaskGroups"][0]["Tasks"][0]["Config"] = {"run_for": "1h", "start_block_for": "1h"}
    # The deployment would end with the first unhealthy one if no further try were allowed.
    slow["TaskGroups"][0]["ReschedulePolicy"] = {"Unlimited": True, "Delay": 5 * SECOND, "DelayFunction": "constant"}
    dev.run(slow)
    failed = wait_for(dev, "slow", "failed", 0)
    assert failed["StatusDescription"] == "Failed due to progress deadline"
    events = [e for a in dev.allocs("slow") for e in a["TaskStates"]["main"]["Events"]]
    assert "Task not running by healthy_deadline of 1s" in {e["DisplayMessage"] for e in events}


def test_people_pause_resume_and_fail(dev: Agent) -> None:
    dev.run(spec("people", 0, HealthCheck="manual"))
    found = wait_for(dev, "people", "running", 0)
    path, name = "/v1/deployment", found["ID"]
    allocs = [a["ID"] for a in dev.wait_allocs("people", 4)]
    dev.put(f"{path}/pause/{name}", {"DeploymentID": name, "Pause": True})
    assert latest(dev, "people")["StatusDescription"] == "Deployment is paused"
    dev.put(f"{path}/pause/{name}", {"DeploymentID": name, "Pause": False})
    assert latest(dev, "people")["StatusDescription"] == "Deployment is running"
    dev.put(f"{path}/allocation-health/{name}", {"DeploymentID": name, "HealthyAllocationIDs": allocs})
    wait_for(dev, "people", "successful", 0)
    dev.run(spec("people", 1, HealthCheck="manual"))
    found = wait_for(dev, "people", "running", 1)
    answer = dev.put(f"{path}/fail/{found['ID']}")
    assert answer["RevertedJobVersion"] is None
    assert wait_for(dev, "people", "failed", 1)["StatusDescription"] == "Deployment marked as failed"


def test_a_deployment_failed_by_hand_tells_which_version_comes_back(dev: Agent) -> None:
    dev.run(spec("told", 0, AutoRevert=True))
    wait_for(dev, "told", "successful", 0)
    dev.run(spec("told", 1, AutoRevert=True, MinHealthyTime=20 * SECOND, HealthyDeadline=25 * SECOND))
    found = wait_for(dev, "told", "running", 1)
    answer = dev.put(f"/v1/deployment/fail/{found['ID']}")
    assert answer["RevertedJobVersion"] == 0
    failed = dev.get(f"/v1/deployment/{found['ID']}")
    assert failed["StatusDescription"] == "Deployment marked as failed - rolling back to job version 0"
    wait_for(dev, "told", "successful", 2)


def test_refusals(dev: Agent) -> None:
    dev.run(spec("refused", 0, count=1, MaxParallel=1))
    name = wait_for(dev, "refused", "successful", 0)["ID"]
    body = {"DeploymentID": name}
    assert dev.put("/v1/deployment/pause/" + name, {}, status=400) == "DeploymentID must be specified"
    assert dev.put("/v1/deployment/pause/" + name, {"DeploymentID": "x"}, 400) == "Deployment ID does not match"
    for verb, more, text in (
        ("fail", {}, "can't fail terminal deployment"),
        ("pause", {"Pause": True}, "can't pause terminal deployment"),
        ("pause", {}, "can't resume terminal deployment"),
        ("promote", {"All": True}, "can't promote terminal deployment"),
        ("unblock", {}, "can't unblock terminal deployment"),
        ("allocation-health", {}, "must specify at least one healthy/unhealthy allocation ID"),
        (
            "allocation-health",
            {"HealthyAllocationIDs": ["x"]},
            "can't set health of allocations for a terminal deployment",
        ),
    ):
        assert dev.put(f"/v1/deployment/{verb}/{name}", {**body, **more}, status=500) == text
    unknown = "00000000-1111-2222-3333-444444444444"
    assert dev.put(f"/v1/deployment/fail/{unknown}", status=500) == "deployment not found"


def test_a_job_reverted_by_hand_is_deployed(dev: Agent) -> None:
    dev.run(spec("back", 0))
    wait_for(dev, "back", "successful", 0)
    dev.run(spec("back", 1))
    wait_for(dev, "back", "successful", 1)
    dev.put("/v1/job/back/revert", {"JobID": "back", "JobVersion": 0})
    wait_for(dev, "back", "successful", 2)
    assert live(dev, "back") == [2, 2, 2, 2]


def test_a_deployment_survives_the_agent(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        sleeper = job("firm", task("raw_exec"), count=3)
        update = {"MaxParallel": 1, "HealthCheck": "task_states", "MinHealthyTime": 3 * SECOND}
        sleeper["TaskGroups"][0]["Update"] = update
        agent.run(sleeper)
        agent.wait_allocs("firm", 3)
        agent.restart()
        wait_for(agent, "firm", "successful", 0)
        assert len(agent.allocs("firm")) == 3
        agent.delete("/v1/job/firm")
        agent.wait_allocs("firm", 3, "complete")
        assert not agent.faults()
