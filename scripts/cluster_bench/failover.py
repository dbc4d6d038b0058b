"""Killed leaders and lost machines."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from cluster_agents import Api, Cluster, Failed, NoAnswer, running_cluster

from cluster_bench.figures import Figure

KILLS, DEATHS = 10, 3


def run(directory: Path, full: bool) -> Iterator[Figure]:
    """The median of ten killed leaders and of three lost machines."""
    with running_cluster(directory, clients=2) as cluster:
        gaps = [kill_leader(cluster, number) for number in range(KILLS)]
        yield Figure(
            f"kill -9 of the leader to the next write, median of {KILLS}", median(gaps), "s", at_most=1,
            note=" ".join(f"{gap:.2f}" for gap in sorted(gaps)),
        )  # fmt: skip
        waits = [lose_machine(cluster, number) for number in range(DEATHS)]
        yield Figure(
            f"a machine dies until its 3 allocations run elsewhere, of {DEATHS}", median(waits), "s", at_most=5,
            note=" ".join(f"{wait:.2f}" for wait in sorted(waits)),
        )  # fmt: skip


def kill_leader(cluster: Cluster, number: int) -> float:
    """Seconds until another server accepts a write; the cluster is whole again afterwards."""
    leader = cluster.wait_leader()
    others = [server for server in cluster.servers if server is not leader]
    spec = {"ID": f"probe-{number}", "Datacenters": ["dc1"], "TaskGroups": [{"Name": "g", "Count": 0, "Tasks": [
        {"Name": "t", "Driver": "raw_exec", "Config": {"command": "/bin/true"}}]}]}  # fmt: skip
    leader.kill()
    began = time.monotonic()
    for server in itertools.cycle(others):
        try:
            Api(server.address).put("/v1/jobs", {"Job": spec}, timeout_s=8)
            break
        except (NoAnswer, Failed):
            time.sleep(0.01)
    took = time.monotonic() - began
    leader.start()
    cluster.wait_whole()
    return took


def lose_machine(cluster: Cluster, number: int) -> float:
    """Seconds until what ran on a client runs on the other one."""
    job_id = f"work-{number}"
    gone, stays = cluster.clients
    cluster.submit(cluster.witness_job(job_id, 3, Constraints=[on(gone.name)]))
    cluster.wait_running(job_id, 3)
    # The same allocations may now run anywhere.
    spec = cluster.witness_job(job_id, 3)
    cluster.submit(spec)
    cluster.wait_running(job_id, 3)
    nodes = {name: node["ID"] for name, node in cluster.nodes().items()}
    lost = sum(stub["NodeID"] == nodes[gone.name] for stub in cluster.wait_running(job_id, 3))
    assert lost, f"nothing of {job_id} runs on {gone.name}"
    gone.die()
    began = time.monotonic()
    while True:
        running = [s for s in cluster.allocs(job_id) if s["ClientStatus"] == "running" and s["DesiredStatus"] == "run"]
        if len(running) == 3 and all(stub["NodeID"] == nodes[stays.name] for stub in running):
            break
        assert time.monotonic() - began < 60, "nothing was replaced"
        time.sleep(0.05)
    took = time.monotonic() - began
    gone.start()
    cluster.wait_whole()
    cluster.purge(job_id)
    return took


def on(name: str) -> dict[str, str]:
    """A constraint to one node."""
    return {"LTarget": "${node.unique.name}", "RTarget": name, "Operand": "="}
