"""Servers that were away, are new, or take another one's place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from cluster_agents import NOMADPY, Cluster, Machine, running_cluster, until
from hasty_settings import HASTY


def peers(cluster: Cluster, among: list[Machine] | None = None) -> dict[str, dict[str, Any]]:
    """The raft configuration as the leader sees it, by node name."""
    leader = cluster.wait_leader(among)
    found = leader.api.get("/v1/operator/raft/configuration")["Servers"]
    return {peer["Node"].partition(".")[0]: peer for peer in found}


def wait_voters(cluster: Cluster, names: list[str], among: list[Machine] | None = None) -> dict[str, dict[str, Any]]:
    """Waits until exactly these vote."""

    def look() -> dict[str, dict[str, Any]]:
        found = peers(cluster, among)
        assert sorted(found) == names, found
        assert all(peer["Voter"] for peer in found.values()), found
        return found

    return until(look, f"{names} that vote", timeout_s=60)


def write(cluster: Cluster, prefix: str, count: int) -> set[str]:
    """Registers jobs without allocations; gives their ids."""
    ids = {f"{prefix}-{number}" for number in range(count)}
    for job_id in sorted(ids):
        cluster.submit(cluster.witness_job(job_id, 0))
    return ids


def jobs_of(server: Machine) -> set[str]:
    """What one server itself knows."""
    return {job["ID"] for job in server.api.get("/v1/jobs?stale=true")}


def knows(server: Machine, ids: set[str]) -> None:
    """Waits until a server has these jobs."""
    until(lambda: ids <= jobs_of(server), f"{server.name} that knows all jobs", timeout_s=30)


def installed(server: Machine) -> int:
    """How often a server took over a state, from its own disk or from a leader."""
    return server.log().count("state.replaced")


def test_a_server_that_was_away_for_long_gets_a_snapshot(hasty: Cluster) -> None:
    away = hasty.followers()[0]
    hasty.submit(hasty.witness_job("stays", 1))
    hasty.wait_running("stays", 1)
    away.kill()
    ids = write(hasty, "missed", 60)
    before = installed(away)
    away.start().wait_up()
    knows(away, ids)
    # Its own snapshot was too old: it got one over the wire on top.
    until(lambda: installed(away) >= before + 1, "a snapshot of the leader")
    assert ids <= jobs_of(away)
    later = write(hasty, "later", 3)
    knows(away, later)
    hasty.purge("stays")


def test_a_new_server_takes_the_place_of_one_whose_disk_is_lost(hasty: Cluster) -> None:
    lost = hasty.followers()[0]
    names = sorted(server.name for server in hasty.servers)
    old_id = peers(hasty)[lost.name]["ID"]
    ids = write(hasty, "kept", 50)
    lost.kill()
    shutil.rmtree(lost.data_dir)
    before = installed(lost)
    lost.start().wait_up()

    def replaced() -> bool:
        found = wait_voters(hasty, names)
        assert found[lost.name]["ID"] != old_id
        return True

    until(replaced, "a configuration with the new server and without the old one", timeout_s=60)
    knows(lost, ids)
    assert installed(lost) == before + 1
    # It carries its share: the other follower may die.
    other = next(server for server in hasty.followers() if server is not lost)
    other.kill()
    knows(lost, write(hasty, "two", 2))


def test_one_server_grows_to_three_and_survives_its_own_death(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "grows", servers=1, clients=1, more=HASTY) as cluster:
        first = cluster.servers[0]
        config = cluster.directory / "server.hcl"
        cluster.submit(cluster.witness_job("web", 1))
        (alloc,) = cluster.wait_running("web", 1)
        ids = write(cluster, "early", 50)
        for number in (11, 12):
            flags = ["-server", "-retry-join", first.address, "-config", str(config)]
            name = f"s{number}"
            cluster.servers.append(Machine(cluster.net, number, name, cluster.directory / name, flags).start())
        wait_voters(cluster, ["s1", "s11", "s12"])
        others = cluster.servers[1:]
        for server in others:
            knows(server, ids)
        first.kill()
        cluster.wait_leader(others)
        ids = write(cluster, "after", 3)
        for server in others:
            knows(server, ids)
        # The client finds the servers that it heard of, though it was told of the first one only.
        cluster.submit(cluster.witness_job("more", 1))
        cluster.wait_running("more", 1)
        assert [stub["ID"] for stub in cluster.wait_running("web", 1)] == [alloc["ID"]]
        assert len(cluster.witnessed("web")) == 1


def test_the_leadership_is_transferred_by_command(hasty: Cluster) -> None:
    leader = hasty.wait_leader()
    to = hasty.followers()[0]
    words = ["operator", "raft", "transfer-leadership", f"-peer-id={peers(hasty)[to.name]['ID']}"]

    def handed_over() -> bool:
        done = subprocess.run(
            [NOMADPY, *words, f"-address=http://{leader.address}:4646"], capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, "leads" in done.stdout) == (0, True), done.stdout + done.stderr
        return hasty.leader() is to

    # A busy machine may hold an election of its own in between.
    until(handed_over, "the chosen leader", timeout_s=60)
    knows(leader, write(hasty, "transferred", 2))
