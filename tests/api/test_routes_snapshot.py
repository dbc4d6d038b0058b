"""Saving the state over HTTP, and restoring it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent import Agent, job, running, until

PATH = "/v1/operator/snapshot"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Agent]:
    """An agent that nobody shares: a restore changes everything."""
    with running(tmp_path, "-dev") as agent:
        yield agent


def test_a_snapshot_names_its_checksum(dev: Agent) -> None:
    answer = dev.http.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/x-gzip"
    assert answer.headers["Digest"] == "sha-256=" + base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert int(answer.headers["X-Nomad-Index"]) > 0
    assert dev.http.get(PATH, params={"stale": "true"}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"junk"])
def test_what_is_no_snapshot_is_refused(dev: Agent, body: bytes) -> None:
    answer = dev.http.put(PATH, content=body)
    assert answer.status_code == 400
    assert answer.text.startswith("the snapshot is")


def test_a_snapshot_that_was_cut_off_is_refused_and_changes_nothing(dev: Agent) -> None:
    saved = dev.http.get(PATH).content
    cluster = dev.get("/v1/nodes")
    answer = dev.http.put(PATH, content=saved[: len(saved) // 2])
    assert (answer.status_code, answer.text) == (400, "the snapshot is cut off")
    assert [node["ID"] for node in dev.get("/v1/nodes")] == [node["ID"] for node in cluster]


def test_a_restore_brings_the_jobs_of_then_back_and_the_agent_goes_on(own: Agent) -> None:
    own.http.put("/v1/jobs", json={"Job": job("kept")}).raise_for_status()
    saved = own.http.get(PATH).content
    registered = own.http.put("/v1/jobs", json={"Job": job("later")})
    answer = own.http.put(PATH, content=saved)
    assert answer.status_code == 200
    index = int(answer.headers["X-Nomad-Index"])
    assert index > registered.json()["JobModifyIndex"]
    assert [found["ID"] for found in own.get("/v1/jobs")] == ["kept"]
    again = own.http.put("/v1/jobs", json={"Job": job("later")}).json()
    assert again["JobModifyIndex"] > index
    until(lambda: [a for a in own.get("/v1/job/later/allocations") if a["ClientStatus"] == "running"], "it runs")
