"""One real agent for all tests of the routes; it may be asked anything, and must not have stumbled over it."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "stories"))

from agent import Agent, running

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("agent"), "-dev") as agent:
        yield agent


@pytest.fixture
def dev(shared_agent: Agent) -> Iterator[Agent]:
    """The shared agent; what the test asked must not have been an unhandled fault."""
    before = len(shared_agent.log())
    yield shared_agent
    assert not shared_agent.faults(before)


@pytest.fixture
def job_id(dev: Agent) -> Iterator[str]:
    """An id that no other test uses; the job is gone afterwards."""
    name = f"job-{next(_numbers)}"
    yield name
    dev.http.delete(f"/v1/job/{name}", params={"purge": "true"})
