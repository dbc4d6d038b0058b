"""The drain of a node, asked over HTTP of an agent whose only node it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agent import Agent, job, until

UNKNOWN = "00000000-1111-2222-3333-444444444444"
HOUR = 3600 * 10**9
SECOND = 10**9


@pytest.fixture
def node_id(dev: Agent) -> Iterator[str]:
    """The agent's node, which takes work again afterwards."""
    found = str(dev.get("/v1/nodes")[0]["ID"])
    yield found
    dev.put(f"/v1/node/{found}/drain", {"DrainSpec": None, "MarkEligible": True})


@pytest.fixture
def busy(dev: Agent, node_id: str, job_id: str) -> str:
    """The node, with batch work on it that keeps a drain from ending."""
    dev.run(job(job_id, type="batch"))
    dev.wait_allocs(job_id)
    return node_id


def drain(dev: Agent, node: str, spec: Any, status: int = 200, **more: Any) -> Any:
    return dev.put(f"/v1/node/{node}/drain", {"DrainSpec": spec, **more}, status=status)


def messages(dev: Agent, node: str) -> list[tuple[str, str]]:
    return [(event["Message"], event["Subsystem"]) for event in dev.get(f"/v1/node/{node}")["Events"]]


def test_a_drain_as_the_node_shows_it(dev: Agent, busy: str) -> None:
    answer = drain(dev, busy, {"Deadline": HOUR, "IgnoreSystemJobs": True}, Meta={"message": "new disk"})
    assert set(answer) == {"NodeModifyIndex", "EvalIDs", "EvalCreateIndex", "Index"}
    assert answer["NodeModifyIndex"] == answer["Index"] > 0
    assert (answer["EvalIDs"], answer["EvalCreateIndex"]) == (None, 0)
    node = dev.get(f"/v1/node/{busy}")
    assert (node["Drain"], node["SchedulingEligibility"], node["ModifyIndex"]) == (True, "ineligible", answer["Index"])
    strategy, last = node["DrainStrategy"], node["LastDrain"]
    assert (strategy["Deadline"], strategy["IgnoreSystemJobs"]) == (HOUR, True)
    assert strategy["ForceDeadline"] > strategy["StartedAt"] == last["StartedAt"]
    assert (last["Status"], last["Meta"], last["AccessorID"]) == ("draining", {"message": "new disk"}, "")
    (stub,) = dev.get("/v1/nodes")
    assert (stub["Drain"], stub["LastDrain"]["Status"]) == (True, "draining")


def test_the_events_of_a_drain(dev: Agent, busy: str) -> None:
    drain(dev, busy, {"Deadline": HOUR})
    drain(dev, busy, {"Deadline": 2 * HOUR})
    drain(dev, busy, None)
    drain(dev, busy, None)
    assert messages(dev, busy)[-3:] == [
        ("Node drain strategy set", "Drain"),
        ("Node drain strategy updated", "Drain"),
        ("Node drain disabled", "Drain"),
    ]
    assert dev.get(f"/v1/node/{busy}")["LastDrain"]["Status"] == "canceled"


def test_a_draining_node_stays_ineligible(dev: Agent, busy: str) -> None:
    drain(dev, busy, {})
    text = dev.put(f"/v1/node/{busy}/eligibility", {"Eligibility": "eligible"}, status=500)
    assert text == "can not set node's scheduling eligibility to eligible while it is draining"
    drain(dev, busy, None)
    assert dev.get(f"/v1/node/{busy}")["SchedulingEligibility"] == "ineligible"


def test_marking_it_eligible_evaluates_what_it_could_run(dev: Agent, busy: str, job_id: str) -> None:
    drain(dev, busy, {})
    answer = drain(dev, busy, None, MarkEligible=True)
    assert dev.get(f"/v1/node/{busy}")["SchedulingEligibility"] == "eligible"
    found = [dev.get(f"/v1/evaluation/{eval_id}") for eval_id in answer["EvalIDs"]]
    assert ("node-update", job_id) in [(one["TriggeredBy"], one["JobID"]) for one in found]
    assert answer["EvalCreateIndex"] == answer["Index"]


def test_zero_is_no_deadline_and_unknown_keys_have_no_effect(dev: Agent, busy: str) -> None:
    drain(dev, busy, {"Duration": "-100000000"}, Nonsense=[1])
    node = dev.get(f"/v1/node/{busy}")
    assert node["Drain"] is True
    assert node["DrainStrategy"]["Deadline"] == 0
    assert node["DrainStrategy"]["ForceDeadline"] == "0001-01-01T00:00:00Z"


def test_keys_in_any_case_post_and_durations_as_text(dev: Agent, busy: str) -> None:
    answer = dev.http.post(f"/v1/node/{busy}/drain", json={"drainspec": {"deadline": "90m", "ignoresystemjobs": True}})
    assert answer.status_code == 200
    strategy = dev.get(f"/v1/node/{busy}")["DrainStrategy"]
    assert (strategy["Deadline"], strategy["IgnoreSystemJobs"]) == (90 * 60 * SECOND, True)


def test_the_longest_deadline_that_can_be_said(dev: Agent, busy: str) -> None:
    drain(dev, busy, {"Deadline": 2**63 - 1})
    assert dev.get(f"/v1/node/{busy}")["DrainStrategy"]["Deadline"] == 2**63 - 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", "Request body is empty"),
        ('{"DrainSpec": 5}', "cannot unmarshal number into Go struct field"),
        ('{"DrainSpec": {"Deadline": "soon"}}', "Deadline"),
        ('{"DrainSpec": {"Deadline": 9223372036854775808}}', "Deadline"),
        ('{"DrainSpec": {"IgnoreSystemJobs": "yes"}}', "IgnoreSystemJobs of type bool"),
        ('{"Meta": {"a": 1}}', "Meta"),
    ],
)
def test_bodies_that_are_refused(dev: Agent, node_id: str, body: str, text: str) -> None:
    answer = dev.http.put(f"/v1/node/{node_id}/drain", content=body)
    assert answer.status_code == 400, answer.text
    assert text in answer.text
    assert dev.get(f"/v1/node/{node_id}")["Drain"] is False


def test_nodes_that_are_not_there(dev: Agent) -> None:
    assert drain(dev, UNKNOWN, {}, status=500) == "node not found"
    assert dev.http.put("/v1/node/x/drain", json={"DrainSpec": {}}).status_code in (400, 500)
    assert dev.http.get(f"/v1/node/{UNKNOWN}/drain").status_code == 405


def test_a_forced_drain_empties_the_node_and_work_comes_back(dev: Agent, node_id: str, job_id: str) -> None:
    dev.run(job(job_id, count=2))
    running = {stub["ID"] for stub in dev.wait_allocs(job_id, 2)}
    drain(dev, node_id, {"Deadline": -1})
    dev.wait_allocs(job_id, 2, status="complete")
    node = dev.get(f"/v1/node/{node_id}")
    assert (node["Drain"], node["SchedulingEligibility"], node["LastDrain"]["Status"]) == (
        False,
        "ineligible",
        "complete",
    )
    assert node["Events"][-1]["Details"] == {"deadline_reached": "true"}
    triggers = [one["TriggeredBy"] for one in dev.get(f"/v1/job/{job_id}/evaluations")]
    assert "node-drain" in triggers
    drain(dev, node_id, None, MarkEligible=True)
    assert not running & {stub["ID"] for stub in dev.wait_allocs(job_id, 2)}


def test_a_deadline_that_passes_ends_the_drain(dev: Agent, busy: str, job_id: str) -> None:
    drain(dev, busy, {"Deadline": 1_500_000_000})
    until(lambda: not dev.get(f"/v1/node/{busy}")["Drain"], "the end of the drain", timeout_s=10)
    (stub,) = dev.wait_allocs(job_id, status="complete")
    assert stub["DesiredStatus"] == "stop"
    assert stub["DesiredTransition"]["MigrateDisablePlacement"] is True


def test_a_read_that_waits_hears_of_a_drain(dev: Agent, busy: str) -> None:
    index = dev.get(f"/v1/node/{busy}")["ModifyIndex"]
    drain(dev, busy, {"Deadline": HOUR})
    assert dev.get(f"/v1/node/{busy}", index=index, wait="10s")["Drain"] is True
