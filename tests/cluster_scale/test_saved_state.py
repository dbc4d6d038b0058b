"""The state of one cluster, restored in another one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cluster_agents import NOMADPY, Cluster, Machine, running_cluster, until
from conftest import HASTY


def snapshot(word: str, server: Machine, file: Path) -> None:
    done = subprocess.run(
        [NOMADPY, "operator", "snapshot", word, f"-address=http://{server.address}:4646", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def save(directory: Path, file: Path) -> int:
    """A cluster of one server with work, saved; gives its index."""
    with running_cluster(directory, servers=1, clients=1, more=HASTY) as cluster:
        for job_id, count in (("web", 2), ("batch", 1)):
            cluster.submit(cluster.witness_job(job_id, count))
            cluster.wait_running(job_id, count)
        snapshot("save", cluster.servers[0], file)
        return index(cluster)


def index(cluster: Cluster) -> int:
    """The newest index of the jobs."""
    return max(int(job["ModifyIndex"]) for job in cluster.get("/v1/jobs"))


def test_a_saved_state_runs_in_another_cluster(tmp_path: Path) -> None:
    file = tmp_path / "saved.snap"
    saved_at = save(tmp_path / "old", file)
    with running_cluster(tmp_path / "new", clients=2, more=HASTY) as cluster:
        cluster.submit(cluster.witness_job("own", 1))
        (own,) = cluster.wait_running("own", 1)
        before = max(saved_at, index(cluster))
        # Any server takes it; the leader carries it out.
        snapshot("restore", cluster.followers()[0], file)
        assert {job["ID"] for job in cluster.get("/v1/jobs")} == {"web", "batch"}
        cluster.wait_nodes([client.name for client in cluster.clients])
        for job_id, count in (("web", 2), ("batch", 1)):
            cluster.wait_running(job_id, count, timeout_s=60)
        # What the restored state does not know is stopped where it ran.
        until(lambda: own["ID"] not in {stub["ID"] for stub in cluster.get("/v1/allocations")}, "the end of own")
        answer = cluster.submit(cluster.witness_job("next", 1))
        assert int(answer["JobModifyIndex"]) > before
        cluster.wait_running("next", 1)
        states = [{job["ID"] for job in server.api.get("/v1/jobs?stale=true")} for server in cluster.servers]
        assert states == [{"web", "batch", "next"}] * 3
        cluster.servers[0].kill()
        cluster.servers[0].start()
        cluster.wait_whole()
        assert {job["ID"] for job in cluster.servers[0].api.get("/v1/jobs?stale=true")} == {"web", "batch", "next"}
