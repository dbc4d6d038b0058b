"""A saved state, restored in a cluster that began anew."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cluster_agents import NOMADPY, Cluster, Machine, is_alive, running_cluster, until
from hasty_settings import HASTY


def snapshot(word: str, server: Machine, file: Path) -> None:
    done = subprocess.run(
        [NOMADPY, "operator", "snapshot", word, f"-address=http://{server.address}:4646", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def index(cluster: Cluster) -> int:
    """The newest index of the jobs."""
    return max(int(job["ModifyIndex"]) for job in cluster.get("/v1/jobs"))


def jobs_of(server: Machine) -> set[str]:
    """What one server itself knows."""
    return {job["ID"] for job in server.api.get("/v1/jobs?stale=true")}


def lose_all_servers(cluster: Cluster) -> None:
    """New ones with the same names and addresses begin a cluster of their own."""
    for server in cluster.servers:
        server.kill()
    for server in cluster.servers:
        shutil.rmtree(server.data_dir)
        server.start()
    cluster.wait_whole()


def test_after_the_loss_of_all_servers_a_saved_state_finds_its_tasks_running(tmp_path: Path) -> None:
    file = tmp_path / "saved.snap"
    work = {"web": 2, "batch": 1}
    with running_cluster(tmp_path / "cluster", clients=2, more=HASTY) as cluster:
        for number in range(30):  # a log that is longer than that of the new cluster will be
            cluster.submit(cluster.witness_job("early", 0, Meta={"number": str(number)}))
        for job_id, count in work.items():
            cluster.submit(cluster.witness_job(job_id, count))
            cluster.wait_running(job_id, count)
        snapshot("save", cluster.servers[0], file)
        saved_at, starts = index(cluster), {job_id: cluster.witnessed(job_id) for job_id in work}
        lose_all_servers(cluster)
        # The new cluster is followed, and what it does not know is left alone.
        cluster.submit(cluster.witness_job("own", 1))
        (own,) = cluster.wait_running("own", 1)
        before = max(saved_at, index(cluster))
        # Any server takes it; the leader carries it out.
        snapshot("restore", cluster.followers()[0], file)
        assert {job["ID"] for job in cluster.get("/v1/jobs")} == {"early", "web", "batch"}
        cluster.wait_nodes([client.name for client in cluster.clients])
        for job_id, count in work.items():
            cluster.wait_running(job_id, count, timeout_s=60)
        # What the restored state does not know is stopped where it ran.
        (pid,) = [pid for alloc, pid in cluster.witnessed("own") if alloc == own["ID"]]
        until(lambda: not is_alive(pid), "the end of own")
        assert {job_id: cluster.witnessed(job_id) for job_id in work} == starts
        assert all(is_alive(pid) for job_id in work for _, pid in starts[job_id])
        answer = cluster.submit(cluster.witness_job("next", 1))
        assert int(answer["JobModifyIndex"]) > before
        cluster.wait_running("next", 1)
        everything = {"early", "web", "batch", "next"}
        cluster.servers[0].kill()
        cluster.servers[0].start().wait_up()
        for server in cluster.servers:
            until(lambda server=server: jobs_of(server) == everything, f"all jobs at {server.name}")  # type: ignore[misc]
