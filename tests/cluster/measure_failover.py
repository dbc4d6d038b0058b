"""How long a cluster is without a leader, and how soon the work of a dead machine runs elsewhere: medians of several
real deaths. ``scripts/bench_failover`` runs it."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median

from cluster_agents import Cluster, Machine, running_cluster, tidy_when_told_to_stop
from register_writers import Writers, check
from trouble import kill_leader, kill_node

JOB = "work"


def measure(cluster: Cluster, rounds: int) -> None:
    """Prints a line for each kind of death."""
    with Writers(cluster, 64, keys=16, name="bench") as writers:
        gaps_s = []
        for _ in range(rounds):
            writers.wait_more(200)
            gaps_s.append(kill_leader(cluster, writers))
    check(cluster, writers.history)
    _print("kill -9 of the leader under 64 writers, until the next acknowledged write", gaps_s)
    cluster.submit(cluster.witness_job(JOB, 6))
    cluster.wait_running(JOB, 6)
    nodes = [cluster.clients[number % len(cluster.clients)] for number in range(rounds)]
    _print("kill -9 of a client and its tasks, until all runs elsewhere", [_replaced(cluster, node) for node in nodes])


def _replaced(cluster: Cluster, node: Machine) -> float:
    # A new job spreads the work again, so that the next machine has some of it.
    took_s = kill_node(cluster, node, JOB, 6)
    cluster.purge(JOB)
    cluster.submit(cluster.witness_job(JOB, 6))
    cluster.wait_running(JOB, 6)
    return took_s


def _print(what: str, times_s: list[float]) -> None:
    every = " ".join(f"{time_s:.2f}" for time_s in sorted(times_s))
    print(f"{what}: median {median(times_s):.2f} s ({every})", flush=True)


def main() -> None:
    """The script."""
    parser = argparse.ArgumentParser(prog="scripts/bench_failover", description=__doc__)
    parser.add_argument("-rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    tidy_when_told_to_stop()
    with (
        tempfile.TemporaryDirectory(prefix="nomadpy-failover-") as directory,
        running_cluster(Path(directory), clients=3) as cluster,
    ):
        measure(cluster, rounds)


if __name__ == "__main__":
    main()
