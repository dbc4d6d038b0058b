"""The story of a service on two nodes, by the command line and with real processes: new versions, a drain, a more
important job, a node out of reach that returns. Whatever stays is not restarted on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cluster"))

from cluster_agents import NOMADPY, Cluster, Machine, is_alive, running_cluster, until

SERVICE = """
variable "name" {}
variable "witness" {}
variable "release" { default = "1" }
variable "then" { default = "exec sleep 3600" }
variable "count" { default = 4 }
variable "canaries" { default = 0 }
variable "memory" { default = 16 }
variable "priority" { default = 50 }
variable "reconcile" { default = "best_score" }
variable "lost_after" { default = "1m" }

job "service" {
  id       = var.name
  name     = var.name
  priority = var.priority

  group "web" {
    count = var.count

    update {
      max_parallel      = 2
      canary            = var.canaries
      auto_revert       = true
      min_healthy_time  = "300ms"
      healthy_deadline  = "20s"
      progress_deadline = "40s"
    }
    migrate {
      min_healthy_time = "300ms"
      healthy_deadline = "20s"
    }
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }
    disconnect {
      lost_after = var.lost_after
      replace    = true
      reconcile  = var.reconcile
    }

    task "main" {
      driver = "raw_exec"
      config {
        command = "/bin/sh"
        args    = ["-c", "echo $NOMAD_JOB_ID $NOMAD_ALLOC_ID $$ >> ${var.witness}; ${var.then}"]
      }
      env {
        RELEASE = var.release
      }
      resources {
        cpu    = 20
        memory = var.memory
      }
      kill_timeout = "2s"
    }
  }
}
"""


class Story:
    """The cluster, and what its user types and looks at."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.file = cluster.directory / "service.nomad.hcl"
        self.file.write_text(SERVICE)
        self._env = {**os.environ, "NOMAD_ADDR": f"http://{cluster.servers[0].address}:4646"}

    def nomad(self, *words: str, code: int = 0) -> str:
        """What a command prints; it must end with the code."""
        done = subprocess.run([str(NOMADPY), *words], env=self._env, capture_output=True, text=True, timeout=40)
        text = done.stdout + done.stderr
        assert done.returncode == code, f"{' '.join(words)} ended with {done.returncode}:\n{text}"
        return done.stdout

    def job(self, verb: str, name: str, *flags: str, code: int = 0, **values: Any) -> str:
        """``job run`` or ``job plan`` with values of the file's variables."""
        values = {"name": name, "witness": self.cluster.witness_file, **values}
        variables = [word for key, value in values.items() for word in ("-var", f"{key}={value}")]
        return self.nomad("job", verb, *flags, *variables, str(self.file), code=code)

    def stubs(self, name: str, *, status: str, version: int | None = None) -> list[dict[str, Any]]:
        """Allocations of a client status, of one version or of all."""
        found = [stub for stub in self.cluster.allocs(name) if stub["ClientStatus"] == status]
        return [stub for stub in found if version is None or stub["JobVersion"] == version]

    def pids(self, name: str) -> dict[str, int]:
        """Processes of the allocations that run, from what they wrote down when they started. Each started once."""
        starts = self.cluster.witnessed(name)
        again = [alloc_id for alloc_id, n in Counter(alloc_id for alloc_id, _ in starts).items() if n > 1]
        assert not again, f"started more than once: {again}"
        running = {stub["ID"] for stub in self.stubs(name, status="running")}
        found = {alloc_id: pid for alloc_id, pid in starts if alloc_id in running}
        assert set(found) == running
        assert all(is_alive(pid) for pid in found.values())
        return found

    def settled(self, name: str, count: int, **where: Any) -> dict[str, int]:
        """The processes once exactly ``count`` allocations run, those of ``where`` (a node's id and a number)."""

        def look() -> dict[str, int]:
            stubs = self.stubs(name, status="running")
            assert len(stubs) == count, [(s["Name"], s["ClientStatus"], s["DesiredStatus"]) for s in stubs]
            assert all(stub["DesiredStatus"] == "run" for stub in stubs)
            nodes = Counter(stub["NodeID"] for stub in stubs)
            assert {node: nodes[node] for node in where} == where
            return self.pids(name)

        return until(look, f"{count} allocations of {name}", timeout_s=30)

    def deployment(self, name: str, version: int, status: str) -> dict[str, Any]:
        """The latest deployment, once it is the version's and has the status."""

        def look() -> dict[str, Any]:
            found: dict[str, Any] = self.cluster.get(f"/v1/job/{name}/deployment")
            assert (found["JobVersion"], found["Status"]) == (version, status), found["StatusDescription"]
            return found

        return until(look, f"deployment of version {version} of {name} {status}", timeout_s=40)

    def node_id(self, machine: Machine) -> str:
        """The id of a client's node."""
        return str(self.cluster.nodes()[machine.name]["ID"])


def told(text: str) -> list[str]:
    """Lines of a command that follows something, without times and ids."""
    return [line.partition(": ")[2] for line in text.splitlines() if line.startswith("20")]


# --- chapters ---------------------------------------------------------------------------------------------------------


def canaries_are_promoted(story: Story) -> None:
    said = story.job("run", "web")
    assert "Deployment completed successfully" in said
    first = story.settled("web", 4)

    story.job("run", "web", "-detach", release="2", canaries=1)
    waiting = story.deployment("web", 1, "running")
    beside = story.settled("web", 5)
    assert first.items() <= beside.items(), "the old version runs on beside the canary"
    assert waiting["StatusDescription"] == "Deployment is running but requires manual promotion"
    (canary,) = set(beside) - set(first)
    until(lambda: story.deployment("web", 1, "running")["TaskGroups"]["web"]["HealthyAllocs"], "a healthy canary")

    said = story.nomad("job", "promote", "web")
    assert "Deployment completed successfully" in said
    second = story.settled("web", 4)
    assert second[canary] == beside[canary], "the canary became one of the four"
    assert not set(second) & set(first)
    assert not any(is_alive(pid) for pid in first.values())


def a_version_that_fails_is_taken_back(story: Story) -> None:
    before = story.settled("web", 4)
    said = story.job("run", "web", release="3", canaries=1, then="exit 3", code=1)
    assert "Exit Code: 3" in said
    assert "Failed due to unhealthy allocations - rolling back to job version 1" in said
    story.deployment("web", 3, "successful")
    assert story.settled("web", 4) == before, "nothing of the version that works was touched"
    stable = {v["Version"]: v["Stable"] for v in story.cluster.get("/v1/job/web/versions")["Versions"]}
    assert stable == {0: True, 1: True, 2: False, 3: True}


def a_node_is_emptied(story: Story) -> None:
    before = story.settled("web", 4)
    here, there = (story.node_id(machine) for machine in story.cluster.clients)
    leaving = {stub["ID"] for stub in story.stubs("web", status="running") if stub["NodeID"] == here}
    assert leaving, "both nodes have some"
    said = told(story.nomad("node", "drain", "-enable", "-yes", "-m", "new disk", here))
    assert said[0] == f"Allocations on the node: {len(leaving)} service"
    stops = [line for line in said if line.endswith("of job web has stopped (complete)")]
    assert len(stops) == len(leaving)
    assert said[-1] == "Everything that had to leave the node has stopped"
    after = story.settled("web", 4, **{there: 4})
    assert {a: p for a, p in before.items() if a not in leaving}.items() <= after.items()
    judged = {s["ID"]: (s["DeploymentStatus"] or {}).get("Timestamp", "") for s in story.cluster.allocs("web")}
    ends = sorted(s["TaskStates"]["main"]["FinishedAt"] for s in story.cluster.allocs("web") if s["ID"] in leaving)
    arrived = sorted(judged[alloc_id] for alloc_id in set(after) - set(before))
    assert all(healthy <= end for healthy, end in zip(arrived, ends[1:], strict=False)), "one at a time"
    assert "Node drain complete" in story.nomad("node", "status", here)
    story.nomad("node", "eligibility", "-enable", here)


def a_more_important_job_takes_room(story: Story) -> None:
    web = story.settled("web", 4)
    node = story.cluster.get(f"/v1/node/{story.node_id(story.cluster.clients[0])}")
    most = int(node["NodeResources"]["Memory"]["MemoryMB"] * 0.6)
    story.job("run", "sums", "-detach", count=2, memory=most, priority=20)
    sums = story.settled("sums", 2)
    rush = {"count": 1, "memory": most, "priority": 80}
    assert 'Dimension "memory" exhausted on 2 nodes' in story.job("plan", "rush", code=1, **rush)

    story.nomad("operator", "scheduler", "set-config", "-preempt-service-scheduler=true")
    assert "1 allocation of lower priority would be stopped to make room" in story.job("plan", "rush", code=1, **rush)
    story.job("run", "rush", **rush)
    (rushing,) = story.settled("rush", 1)
    left = story.settled("sums", 1)
    assert left.items() <= sums.items()
    (evicted,) = set(sums) - set(left)
    assert not is_alive(sums[evicted])
    record = story.cluster.get(f"/v1/allocation/{evicted}")
    assert (record["DesiredStatus"], record["PreemptedByAllocation"]) == ("evict", rushing)
    assert record["DesiredDescription"] == f"Preempted by alloc ID {rushing}"
    assert story.cluster.get(f"/v1/allocation/{rushing}")["PreemptedAllocations"] == [evicted]
    assert 'Dimension "memory" exhausted on 2 nodes' in story.nomad("job", "status", "sums"), "it waits for room"

    story.nomad("job", "stop", "-yes", "rush")
    back = story.settled("sums", 2)
    assert left.items() <= back.items()
    assert evicted not in back
    assert story.settled("web", 4) == web, "who asks for little is not worth evicting"
    story.cluster.purge("sums", "rush")


def a_node_is_out_of_reach_and_returns(story: Story) -> None:
    away, other = story.cluster.clients
    here, there = story.node_id(away), story.node_id(other)
    story.nomad("node", "eligibility", "-disable", there)
    for name, changes in {
        "firm": {"reconcile": "keep_original"},
        "loose": {"reconcile": "keep_replacement"},
        "plain": {"lost_after": "0s"},
    }.items():
        story.job("run", name, "-detach", count=2, **changes)
    names = ("firm", "loose", "plain")
    before = {name: story.settled(name, 2, **{here: 2}) for name in names}
    story.nomad("node", "eligibility", "-enable", there)

    away.send(signal.SIGSTOP)  # the agent alone: its tasks go on, and nobody can ask for them
    try:
        story.cluster.wait_nodes([away.name], "disconnected")
        meanwhile = {name: story.settled(name, 2, **{there: 2}) for name in names}
        assert {s["ID"] for s in story.stubs("firm", status="unknown")} == set(before["firm"])
        assert {s["ID"] for s in story.stubs("loose", status="unknown")} == set(before["loose"])
        assert {s["ID"] for s in story.stubs("plain", status="lost")} == set(before["plain"])
        assert "unknown" in story.nomad("job", "status", "firm")
        assert all(is_alive(pid) for name in names for pid in before[name].values())
    finally:
        away.send(signal.SIGCONT)
    story.cluster.wait_nodes([away.name])

    assert story.settled("firm", 2, **{here: 2}) == before["firm"], "the originals stay, and were never restarted"
    assert story.settled("loose", 2, **{there: 2}) == meanwhile["loose"], "the replacements stay"
    assert story.settled("plain", 2, **{there: 2}) == meanwhile["plain"], "what was lost is not taken back"
    gone = [*meanwhile["firm"].values(), *before["loose"].values(), *before["plain"].values()]
    until(lambda: not any(is_alive(pid) for pid in gone), "the end of what nobody wants twice")
    for name in names:
        statuses = {each["Status"] for each in story.cluster.get(f"/v1/job/{name}/evaluations")}
        assert not statuses & {"blocked", "failed"}
    assert "Node reregistered by heartbeat" in story.nomad("node", "status", here)
    story.cluster.purge(*names)


@pytest.mark.slow
def test_the_story_of_a_service(tmp_path: Path) -> None:
    with running_cluster(tmp_path, servers=1, clients=2) as cluster:
        story = Story(cluster)
        canaries_are_promoted(story)
        a_version_that_fails_is_taken_back(story)
        a_node_is_emptied(story)
        a_more_important_job_takes_room(story)
        before = story.settled("web", 4)
        a_node_is_out_of_reach_and_returns(story)
        assert len(story.settled("web", 4)) == len(before)
        cluster.purge("web")
        assert [line for machine in cluster.machines for line in machine.faults()] == []
