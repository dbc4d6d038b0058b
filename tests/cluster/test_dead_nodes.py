"""A client machine that dies is replaced within seconds; an agent that only restarts moves and restarts nothing."""

from __future__ import annotations

import signal
import time

import pytest
from cluster_agents import Cluster, is_alive
from trouble import kill_node, picture


def test_a_dead_machine_is_replaced_within_seconds(cluster: Cluster) -> None:
    cluster.submit(cluster.witness_job("replaced", 6))
    cluster.wait_running("replaced", 6)
    took_s = kill_node(cluster, cluster.clients[0], "replaced", 6)
    print(f"replaced after {took_s:.2f} s")
    assert took_s < 15, took_s
    gone = [stub for stub in cluster.allocs("replaced") if stub["DesiredStatus"] == "stop"]
    assert len(gone) == len(cluster.witnessed("replaced")) - 6 > 0, "somewhere else something was replaced, too"
    cluster.purge("replaced")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_restarts_moves_nothing(cluster: Cluster, number: int) -> None:
    job_id = f"stays-{number}"
    cluster.submit(cluster.witness_job(job_id, 6))
    cluster.wait_running(job_id, 6)
    before = picture(cluster, job_id)
    for client in cluster.clients[:2]:
        client.end(number)
        time.sleep(0.3)  # how long nobody starts it again
        client.start()
    cluster.wait_whole()
    time.sleep(5.0)  # longer than it takes to replace a dead machine
    assert picture(cluster, job_id) == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    cluster.purge(job_id)
