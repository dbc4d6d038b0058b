"""What servers answer while too few of them are there to elect a leader."""

from __future__ import annotations

import http.client
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster_agents import Cluster, Machine, until


@pytest.fixture
def lonely(hasty: Cluster) -> Iterator[Machine]:
    """A follower whose leader and other companion stand still."""
    leader, (here, other) = hasty.wait_leader(), hasty.followers()
    hasty.submit(hasty.witness_job("known", 0))
    until(lambda: "known" in {job["ID"] for job in here.api.get("/v1/jobs?stale=true")}, "the job everywhere")
    for server in (leader, other):
        server.send(signal.SIGSTOP)
    try:
        until(lambda: not here.api.get("/v1/status/leader"), "a server that knows of no leader")
        yield here
    finally:
        for server in (leader, other):
            server.send(signal.SIGCONT)
    hasty.wait_whole()


def ask(server: Machine, path: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    """Status, headers and text; gives up after 15 seconds."""
    connection = http.client.HTTPConnection(server.address, 4646, timeout=15)
    connection.request(method, path, body=b"{}" if method != "GET" else None)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


def test_without_a_leader_only_stale_reads_are_answered(lonely: Machine) -> None:
    status, headers, text = ask(lonely, "/v1/jobs?stale=true")
    assert status == 200
    assert '"known"' in text
    assert headers["x-nomad-knownleader"] == "false"
    assert int(headers["x-nomad-lastcontact"]) >= 0
    assert int(headers["x-nomad-index"]) > 0
    asked = (("/v1/jobs", "GET"), ("/v1/job/known?purge=true", "DELETE"))
    with ThreadPoolExecutor() as threads:
        answers = threads.map(lambda one: ask(lonely, *one), asked)
    for status, _, text in answers:
        assert (status, "No cluster leader" in text) == (500, True), text


def test_afterwards_everything_goes_on(hasty: Cluster) -> None:
    status, headers, _ = ask(hasty.followers()[0], "/v1/jobs")
    assert (status, headers["x-nomad-knownleader"]) == (200, "true")
