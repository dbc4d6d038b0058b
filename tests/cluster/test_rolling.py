"""Agents are restarted one after the other, some with a newer version, while tasks run and jobs are submitted."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from cluster_agents import ROOT, Cluster, is_alive
from trouble import picture

NEWER = [sys.executable, str(Path(__file__).with_name("newer_agent.py"))]
OLDER = [str(ROOT / ".venv" / "bin" / "nomadpy")]


class Submitter:
    """Registers one job after the other with the patience of a careful client, until stopped."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self.submitted: list[str] = []
        self.problem: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Submitter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        for server in self._cluster.servers:
            server.api.leave()

    def _work(self) -> None:
        while not self._stop.wait(0.2):
            job_id = f"{self._name}-{len(self.submitted)}"
            try:
                self._cluster.submit(self._cluster.witness_job(job_id, 0), timeout_s=20)
            except Exception as error:  # noqa: BLE001 - the test shows it
                self.problem = error
                return
            self.submitted.append(job_id)


def _check(cluster: Cluster, submitter: Submitter, job_id: str, before: dict[str, object]) -> None:
    assert submitter.problem is None, submitter.problem
    assert len(submitter.submitted) > 10
    stored = {job["ID"] for job in cluster.get("/v1/jobs")}
    assert set(submitter.submitted) <= stored
    assert picture(cluster, job_id) == before
    assert all(is_alive(pid) for _, pid in cluster.witnessed(job_id))
    cluster.purge(job_id)


def test_a_rolling_restart_fails_no_submit_and_restarts_no_task(cluster: Cluster) -> None:
    cluster.submit(cluster.witness_job("rolling", 6))
    cluster.wait_running("rolling", 6)
    before = picture(cluster, "rolling")
    with Submitter(cluster, "during") as submitter:
        for machine in [*cluster.followers(), cluster.wait_leader(), *cluster.clients]:
            assert machine.end(signal.SIGTERM) == 0
            machine.start()
            cluster.wait_whole()
    _check(cluster, submitter, "rolling", before)


def test_a_rolling_upgrade_with_words_that_older_agents_do_not_know(cluster: Cluster) -> None:
    """The newer version adds a field to what agents tell each other. Some servers go first, then a client, and back."""
    cluster.submit(cluster.witness_job("upgrade", 6))
    cluster.wait_running("upgrade", 6)
    before = picture(cluster, "upgrade")
    with Submitter(cluster, "upgrade") as submitter:
        for entry in (NEWER, OLDER):
            for machine in (*cluster.servers[:2], cluster.clients[0]):
                machine.end(signal.SIGTERM)
                machine.entry = entry
                machine.start()
                cluster.wait_whole()
    assert "a newer agent" in cluster.servers[0].log()
    _check(cluster, submitter, "upgrade", before)
