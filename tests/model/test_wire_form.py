"""The wire form of records and its reading, the way Go does both."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_strategies import JSON, records

from nomadpy.model.alloc import Allocation, TaskState
from nomadpy.model.canonical import decode_job, job_from_input
from nomadpy.model.errors import Invalid
from nomadpy.model.evaluation import Evaluation, JobDiff, ObjectDiff
from nomadpy.model.job import Job, JobSubmission, Task, TaskGroup
from nomadpy.model.naming import OMIT_EMPTY, Noun
from nomadpy.model.node import Node, NodePool
from nomadpy.model.resources import NetworkResource, Port
from nomadpy.model.time import DurationText, Moment
from nomadpy.model.wire import decode, encode, encode_job, from_wire, to_wire

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Lock(Noun):
    ttl: DurationText = 0
    items: Annotated[dict[str, str], OMIT_EMPTY] = {}
    at: Moment = 0


class RegisterRequest(Noun):
    job: dict[str, Any] | None = None
    enforce_index: bool = False
    submission: JobSubmission | None = None


def test_empty_collections_of_records_are_null() -> None:
    wire = to_wire(Job(id="x"))
    assert wire["ID"] == "x"
    assert wire["Datacenters"] is None
    assert wire["Meta"] is None
    assert wire["Payload"] is None
    assert wire["Update"]["MaxParallel"] == 0


def test_collections_that_are_not_in_a_record_stay() -> None:
    assert to_wire([]) == []
    assert encode([]) == b"[]"
    assert to_wire({"Versions": [TaskState()], "Diffs": []})["Diffs"] == []


def test_sparse_records_leave_empty_fields_out() -> None:
    assert to_wire(Port(label="http")) == {"Label": "http"}
    assert to_wire(Evaluation(id="e", wait_until_ns=0)) == {"ID": "e"}
    assert set(to_wire(Allocation())) == {"DesiredTransition"}
    assert to_wire(NetworkResource(dynamic_ports=(Port(label="a", to=-1),))) == {
        "DynamicPorts": [{"Label": "a", "To": -1}]
    }


def test_moments_are_rfc3339_and_durations_integers() -> None:
    wire = to_wire(TaskState(started_at_ns=1_700_000_000_250_000_000))
    assert wire["StartedAt"] == "2023-11-14T22:13:20.25Z"
    assert wire["FinishedAt"] == "0001-01-01T00:00:00Z"
    assert to_wire(Task(kill_timeout_ns=5))["KillTimeout"] == 5


def test_single_fields_may_be_marked() -> None:
    assert to_wire(Lock()) == {"TTL": "", "At": "0001-01-01T00:00:00Z"}
    assert to_wire(Lock(ttl=90_000_000_000, items={"a": "b"}))["TTL"] == "1m30s"
    assert decode(b'{"TTL":"1m30s"}', Lock) == decode(b'{"TTL":90000000000}', Lock)


def test_config_passes_untouched() -> None:
    config = {"args": [], "labels": {}, "nested": [{"a": None}]}
    assert to_wire(Task(config=config))["Config"] == config


def test_pretty_is_indented_by_four_and_ends_with_a_newline() -> None:
    assert encode({"a": [1]}, pretty=True) == b'{\n    "a": [\n        1\n    ]\n}\n'


def test_a_record_may_contain_itself() -> None:
    diff = JobDiff(objects=(ObjectDiff(name="a", objects=(ObjectDiff(name="b"),)),))
    assert decode(encode(diff), JobDiff) == diff


def test_a_job_inside_allocations_is_written_once() -> None:
    job = Job(id="web", meta={"a": "b"})
    text = encode([Allocation(id="1", job=job), Allocation(id="2", job=job)])
    assert encode_job(job) is encode_job(job)
    assert [alloc["Job"]["Meta"] for alloc in json.loads(text)] == [{"a": "b"}] * 2
    assert encode(job) == bytes(encode_job(job))


@QUICK
@given(records(Job))
def test_job_round_trip(job: Job) -> None:
    assert decode(encode(job), Job) == job
    assert from_wire(to_wire(job), Job) == job


@QUICK
@given(st.one_of(records(Allocation), records(Evaluation), records(Node), records(NodePool)))
def test_record_round_trip(record: Any) -> None:
    assert decode(encode(record), type(record)) == record


def test_keys_match_in_any_case_and_unknown_keys_are_ignored() -> None:
    job = decode(b'{"id":"a","PRIORITY":7,"nonsense":1,"taskgroups":[{"name":"g"}]}', Job)
    assert (job.id, job.priority, job.task_groups[0].name) == ("a", 7, "g")


def test_null_leaves_the_default() -> None:
    group = decode(b'{"Count":null,"Tasks":null,"Meta":{"a":null},"Constraints":[null]}', TaskGroup)
    assert group.count == 1
    assert group.tasks == ()
    assert group.meta == {"a": ""}
    assert len(group.constraints) == 1
    assert decode(b"null", Job) == Job()


def test_what_follows_the_first_value_is_not_looked_at() -> None:
    assert decode(b'{"ID":"a"} {"ID":"b"}', Job).id == "a"
    assert decode(b'{"ID":"a"}x', Job).id == "a"
    assert decode('{"ID":"é"} é', Job).id == "é"


def test_requests_of_the_api_decode_too() -> None:
    request = decode(b'{"job":{"id":"x"},"enforceindex":true,"Submission":{"source":"s"}}', RegisterRequest)
    assert request.job is not None
    assert job_from_input(request.job).id == "x"
    assert request.enforce_index
    assert request.submission == JobSubmission(source="s")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Request body is empty"),
        (b"  \n", "Request body is empty"),
        (
            b'{"TaskGroups":[{"Count":"x"}]}',
            "cannot unmarshal string into Go struct field Job.TaskGroups.Count of type",
        ),
        (b'{"Meta":{"a":1}}', "cannot unmarshal number into Go struct field Job.Meta"),
        (b'{"Priority":1.5}', "cannot unmarshal number into Go struct field Job.Priority of type int"),
        (b'{"Priority":99999999999999999999}', "number out of range into Go struct field Job.Priority"),
        (b"[]", "cannot unmarshal array into Go value of type Job"),
        (b'{"Payload":"%"}', "Job.Payload"),
        (b'{"ID":', "truncated"),
        (b'{"ID":"\xff"}', "UTF-8"),
        (b"\0", "malformed"),
        (b"[" * 100_000, "max depth"),
        ("\ud800", "UTF-8"),
        (b'{"TaskGroups":[{"Tasks":[{"Config":{"a":' + b"[" * 500 + b"]" * 500 + b"}}]}]}", "max depth"),
    ],
)
def test_bad_input_is_refused_with_its_place(data: bytes | str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        decode(data, Job)
    assert message in str(caught.value)
    assert caught.value.status == 400


def test_a_bad_moment_is_refused() -> None:
    with pytest.raises(Invalid, match="RFC 3339"):
        decode(b'{"StartedAt":"yesterday"}', TaskState)
    with pytest.raises(Invalid, match="duration"):
        decode(b'{"TTL":"soon"}', Lock)


@QUICK
@given(st.one_of(st.binary(max_size=40), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for kind in (Job, Allocation, Evaluation):
        try:
            decode(data, kind)
        except Invalid:
            continue


SHAPED = st.dictionaries(
    st.sampled_from(
        ("ID", "name", "Type", "Update", "Reschedule", "Migrate", "TaskGroups", "Periodic", "Meta", "Datacenters")
    ),
    JSON,
    max_size=5,
)
GROUPS = st.dictionaries(
    st.sampled_from(("Name", "Count", "Tasks", "Services", "Scaling", "Networks", "RestartPolicy", "Volumes")),
    st.one_of(
        JSON,
        st.lists(
            st.dictionaries(
                st.sampled_from(("Name", "Driver", "Resources", "Templates", "CheckRestart", "Checks", "Identities")),
                JSON,
            ),
            max_size=2,
        ),
    ),
    max_size=5,
)


@QUICK
@given(SHAPED, st.lists(GROUPS, max_size=2))
def test_any_job_shaped_json_is_a_job_or_refused(job: dict[str, Any], groups: list[dict[str, Any]]) -> None:
    try:
        made = decode_job(json.dumps({**job, "TaskGroups": groups or job.get("TaskGroups")}))
    except Invalid:
        return
    assert decode_job(encode(made)) == made
