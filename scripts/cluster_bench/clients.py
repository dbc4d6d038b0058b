"""Many clients against three servers. They do not gossip: 2,000 members in few processes would measure only those."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from cluster_agents import Cluster, Machine, running_cluster

from cluster_bench.figures import Figure
from cluster_bench.raft_world import SCRIPTS, wait_for

CLIENTS, PROCESSES = 2000, 2
STEADY_S = 30.0
KILLS = 3
# After a killed server is back.
SETTLE_S = 5.0
CONFIG = 'log_level = "WARN"\nlimits { rpc_max_conns_per_client = 4000 }\n'
_TICK = os.sysconf("SC_CLK_TCK")


class Fleet:
    """One process with clients."""

    def __init__(self, first: int, count: int, servers: list[str]) -> None:
        paths = [SCRIPTS.parent, SCRIPTS.parent / "tests"]
        self._process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "cluster_bench" / "client_process.py"), str(first), str(count),
             ",".join(servers)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, paths))},
        )  # fmt: skip

    def ask(self, word: str) -> Any:
        """One word, one answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def fleets(cluster: Cluster, number: int) -> Iterator[list[Fleet]]:
    """So many clients, running."""
    servers = [f"{server.address}:4647" for server in cluster.servers]
    each = number // PROCESSES
    made = [Fleet(which * each, each, servers) for which in range(PROCESSES)]
    try:
        yield made
    finally:
        for fleet in made:
            fleet.end()


def total(fleet: list[Fleet], word: str) -> int:
    """A sum over all processes."""
    return sum(int(one.ask("look")[word]) for one in fleet)


def run(directory: Path, full: bool, number: int = CLIENTS) -> Iterator[Figure]:
    """Starts them, lets them be, gives them work, takes their leader away several times."""
    number -= number % PROCESSES
    with running_cluster(directory, more=CONFIG) as cluster:
        base = {server.name: rss_mb(server) for server in cluster.servers}
        began = time.monotonic()
        with fleets(cluster, number) as fleet:
            wait_for(lambda: total(fleet, "leased") == number, "leases for all", timeout_s=180, pause_s=0.5)
            yield Figure(f"{number} clients register and get a lease", time.monotonic() - began, "s")
            time.sleep(2)
            yield from steady(cluster, number, base)
            yield from busy(cluster, fleet, number)
            yield from without_leader(cluster, fleet, number)


def steady(cluster: Cluster, number: int, base: dict[str, float]) -> Iterator[Figure]:
    """What they cost when nothing happens."""
    leader = cluster.wait_leader()
    before = {server.name: cpu_s(server) for server in cluster.servers}
    time.sleep(STEADY_S)
    for server in cluster.servers:
        share = (cpu_s(server) - before[server.name]) / STEADY_S / (number / 1000) * 100
        role = "leader" if server is leader else "follower"
        yield Figure(f"idle clients, {role}, cpu per 1,000 clients", share, "%")
        memory = (rss_mb(server) - base[server.name]) / (number / 1000)
        yield Figure(
            f"idle clients, {role}, memory per 1,000 clients", memory, "MB", note=f"from {base[server.name]:.0f}"
        )
        yield lag(f"idle clients, {role}", server)


def busy(cluster: Cluster, fleet: list[Fleet], number: int) -> Iterator[Figure]:
    """A job of one allocation a client, several times over."""
    began = time.monotonic()
    for which in range(3):
        cluster.submit(job(f"work-{which}", number), timeout_s=60)
        wanted = (which + 1) * number
        wait_for(lambda wanted=wanted: total(fleet, "allocs") >= wanted, "allocations", timeout_s=120, pause_s=0.2)
    took = time.monotonic() - began
    yield Figure(f"3 jobs of {number} allocations placed and known to all clients", took, "s")
    leader = cluster.wait_leader()
    for server in cluster.servers:
        yield lag(f"busy clients, {'leader' if server is leader else 'follower'}", server)


def without_leader(cluster: Cluster, fleet: list[Fleet], number: int) -> Iterator[Figure]:
    """The leader is killed and everybody renews the lease at once."""
    took, middles, moved = [], [], []
    for which in range(KILLS):
        leader = cluster.wait_leader()
        connections = total(fleet, "connections")
        began = time.monotonic()
        leader.kill()
        middles.append(renew_all(fleet))
        took.append(time.monotonic() - began)
        moved.append(total(fleet, "connections") - connections)
        if which < KILLS - 1:
            leader.start()
            cluster.wait_whole()
            time.sleep(SETTLE_S)
    yield Figure(
        f"kill -9 of the leader until all {number} renewed their lease, median of {KILLS}", median(took), "s",
        at_most=10, note=" ".join(f"{one:.1f}" for one in took) + f"; half of them within {median(middles):.1f}",
    )  # fmt: skip
    yield Figure("new connections in that time", median(moved), "", note=" ".join(map(str, moved)))
    down = [node for node in cluster.get("/v1/nodes") if node["Status"] != "ready"]
    yield Figure("nodes that are not ready afterwards", len(down), "", at_most=0)


def renew_all(fleet: list[Fleet]) -> float:
    """Returns once all have renewed their lease: after how many seconds half of them had."""
    answers: list[dict[str, float]] = []
    threads = [threading.Thread(target=lambda one=one: answers.append(one.ask("renew"))) for one in fleet]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(answer["median_s"] for answer in answers)


def lag(what: str, server: Machine) -> Figure:
    """How late the server's event loop was in the last half minute."""
    gauges = server.api.get("/v1/metrics", timeout_s=30)["Gauges"]
    found = {g["Labels"]["quantile"]: g["Value"] for g in gauges if g["Name"] == "nomad.nomadpy.loop_lag"}
    note = f"p50 {found['0.5']:.1f}, longest {found['1']:.0f}"
    return Figure(f"{what}, event loop late, p99", found["0.99"], "ms", at_most=50, note=note)


def cpu_s(server: Machine) -> float:
    """CPU time of a server so far."""
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss_mb(server: Machine) -> float:
    """Its memory."""
    assert server.process is not None
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def job(job_id: str, count: int) -> dict[str, Any]:
    """A job without updates in waves: everything is placed at once."""
    task = {"Name": "t", "Driver": "raw_exec", "Config": {"command": "x"}, "Resources": {"CPU": 100, "MemoryMB": 64}}
    task |= {"LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1}}
    group = {"Name": "g", "Count": count, "Tasks": [task], "EphemeralDisk": {"SizeMB": 10}}
    return {"ID": job_id, "Name": job_id, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [group]}
