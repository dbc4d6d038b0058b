"""Whatever the OpenAPI document allows can be sent, and nothing of it is an unhandled fault."""

from __future__ import annotations

import time
from typing import Any

import pytest
import schemathesis
from agent import Agent
from hypothesis import HealthCheck, Phase, given, settings

SECONDS = 60.0
# They answer for as long as the caller listens.
ENDLESS = ("/v1/agent/monitor", "/v1/client/fs/logs/{alloc_id}", "/v1/client/fs/stream/{alloc_id}")
# They would take the node away from the other tests.
KEPT = ("/v1/node/{node_id}/purge", "/v1/agent/reload")


@pytest.mark.slow
def test_everything_that_the_document_allows(dev: Agent) -> None:
    schema = schemathesis.openapi.from_dict(dev.get("/v1/openapi.json"))
    schema.config.base_url = dev.address
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [one for one in operations if one.path not in ENDLESS + KEPT]
    assert len(operations) > 90
    deadline = time.monotonic() + SECONDS
    n_asked = 0
    for number, operation in enumerate(operations):
        share_s = max(0.05, (deadline - time.monotonic()) / (len(operations) - number))
        n_asked += ask(dev, operation, time.monotonic() + share_s)
    assert n_asked > 5 * len(operations)
    assert dev.get("/v1/regions") == ["global"]


def ask(dev: Agent, operation: Any, deadline: float) -> int:
    """Asks one operation in many ways until the deadline; gives how often."""
    n_asked = 0

    @settings(
        max_examples=40,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(case=operation.as_strategy())
    def examine(case: Any) -> None:
        nonlocal n_asked
        if time.monotonic() > deadline:
            return
        n_asked += 1
        if isinstance(case.query, dict):
            case.query.pop("wait", None)  # otherwise a request may rightly last for minutes
            case.query.pop("index", None)
        before = len(dev.log())
        answer = case.call(timeout=20)
        assert answer.status_code < 500 or answer.status_code in (500, 501), (answer.status_code, answer.text[:200])
        assert answer.content != b"Internal Server Error"
        assert not dev.faults(before)

    examine()
    return n_asked
