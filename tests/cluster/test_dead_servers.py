"""Servers are killed while clients write: the next leader writes soon, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import signal
from statistics import median

from call_history import DONE, SWAP, WRITE, indexes_are_one_order
from cluster_agents import Cluster
from register_writers import Writers, check
from trouble import kill_leader

N_WRITERS = 64


def test_a_killed_leader_is_replaced_under_64_writers(cluster: Cluster) -> None:
    with Writers(cluster, N_WRITERS, keys=16, name="leader") as writers:
        gaps = [kill_leader(cluster, writers) for _ in range(2)]
    history = writers.stop()
    print(f"next write after {[round(gap, 2) for gap in gaps]} s, {len(history.of(DONE, WRITE, SWAP))} writes")
    assert len(history.of(DONE, WRITE, SWAP)) > 100
    assert indexes_are_one_order(history.ops)
    check(cluster, history)
    assert max(gaps) < 5, gaps
    assert median(gaps) < 3, gaps


def test_all_servers_killed_at_once_lose_nothing(cluster: Cluster) -> None:
    rounds = int(os.environ.get("NOMADPY_TEST_ROUNDS", "2"))
    with Writers(cluster, 24, keys=8, name="all") as writers:
        for _ in range(rounds):
            writers.wait_more(100)
            for server in cluster.servers:
                server.send(signal.SIGKILL)
            for server in cluster.servers:
                server.kill()
                server.start()
        writers.wait_more(100)
    history = writers.stop()
    assert indexes_are_one_order(history.ops)
    check(cluster, history)
