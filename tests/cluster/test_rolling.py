"""Agents are restarted one after the other, some with a newer version, while tasks run and jobs are submitted.

``NOMADPY_TEST_TASKS`` and ``NOMADPY_TEST_CLIENTS`` make it more of both.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from cluster_agents import ROOT, Cluster, Machine, is_alive
from trouble import picture

NEWER = [sys.executable, str(Path(__file__).with_name("newer_agent.py"))]
N_TASKS = int(os.environ.get("NOMADPY_TEST_TASKS", "6"))
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


def test_a_rolling_upgrade_fails_no_submit_and_restarts_no_task(cluster: Cluster) -> None:
    """Every agent is restarted: the followers, then the leader, then the clients. Half of them come back as a newer
    version, which adds a field to whatever agents tell each other and to what is written; they lead, too. Then those
    go back."""
    cluster.submit(cluster.witness_job("rolling", N_TASKS))
    cluster.wait_running("rolling", N_TASKS, timeout_s=120)
    before = picture(cluster, "rolling")
    newer = [*cluster.followers(), *cluster.clients[: len(cluster.clients) // 2]]
    with Submitter(cluster, "during") as submitter:
        for machine in [*cluster.followers(), cluster.wait_leader(), *cluster.clients]:
            _restart(cluster, machine, NEWER if machine in newer else OLDER)
        for machine in newer:
            _restart(cluster, machine, OLDER)
    assert submitter.problem is None, submitter.problem
    assert len(submitter.submitted) > 10
    stored = {job["ID"] for job in cluster.get("/v1/jobs")}
    assert set(submitter.submitted) <= stored
    assert all("this is a newer agent" in machine.log() for machine in newer)
    assert picture(cluster, "rolling") == before
    assert all(is_alive(pid) for _, pid in cluster.witnessed("rolling"))
    cluster.purge("rolling")


def _restart(cluster: Cluster, machine: Machine, entry: list[str]) -> None:
    assert machine.end(signal.SIGTERM) == 0
    machine.entry = entry
    machine.start()
    cluster.wait_whole()
