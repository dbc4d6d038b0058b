"""Troubles with a beginning and a measured end, for the tests and for ``scripts/bench_failover``."""

from __future__ import annotations

import time
from typing import Any

from call_history import DONE, SWAP, WRITE
from cluster_agents import Cluster, Machine, until
from register_writers import Writers


def kill_leader(cluster: Cluster, writers: Writers) -> float:
    """Kills the leader's agent while the writers write; seconds until the first write that began afterwards was
    acknowledged. The server is then started again and has caught up."""
    leader = cluster.wait_leader()
    at = time.monotonic()
    leader.kill()

    def next_write() -> float | None:
        ends = [op.ended for op in writers.history.of(DONE, WRITE, SWAP) if op.began > at]
        return min(ends) - at if ends else None

    gap_s = until(next_write, "a write after the leader's death", timeout_s=60)
    leader.start()
    cluster.wait_whole()
    return gap_s


def kill_node(cluster: Cluster, node: Machine, job_id: str, count: int) -> float:
    """Ends a client's agent and tasks at once; seconds until ``count`` allocations of the job run elsewhere. The client
    is then started again and is ready."""
    node_id = cluster.nodes()[node.name]["ID"]
    at = time.monotonic()
    node.die()

    def replaced() -> float | None:
        running = [
            stub
            for stub in cluster.allocs(job_id)
            if stub["ClientStatus"] == "running" and stub["DesiredStatus"] == "run" and stub["NodeID"] != node_id
        ]
        return time.monotonic() - at if len(running) == count else None

    took_s = until(replaced, f"{count} allocations without {node.name}", timeout_s=90)
    node.start()
    cluster.wait_nodes([node.name])
    return took_s


def picture(cluster: Cluster, job_id: str) -> dict[str, Any]:
    """What must stay the same while nothing may be touched: which allocations run where, and every start of a task."""
    stubs = cluster.wait_running(job_id, len(cluster.witnessed(job_id)))
    return {
        "where": sorted((stub["ID"], stub["NodeID"]) for stub in stubs),
        "starts": cluster.witnessed(job_id),
        "restarts": {stub["ID"]: stub["TaskStates"]["main"]["Restarts"] for stub in stubs},
        "all": sorted(stub["ID"] for stub in cluster.allocs(job_id)),
    }
