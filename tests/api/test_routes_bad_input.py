"""Bad input of every kind gets the right status and a sentence, changes nothing, and leaves the agent up."""

from __future__ import annotations

import json
import socket
from typing import Any
from urllib.parse import quote

import pytest
from agent import Agent, group, job, shell, task, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

MB = 1 << 20


def world(dev: Agent) -> Any:
    """What a refused request may not change."""
    paths = ("/v1/jobs", "/v1/evaluations", "/v1/namespaces", "/v1/node/pools", "/v1/operator/scheduler/configuration")
    return [dev.http.get(path, params={"namespace": "*"}).json() for path in paths]


@pytest.fixture
def unchanged(dev: Agent) -> Any:
    """The state must be the same after the test."""
    until(lambda: dev.http.put("/v1/system/gc").is_success, "a clean state")
    before = world(dev)
    yield
    assert world(dev) == before


def refused(answer: Any, *statuses: int) -> str:
    """The sentence of a refusal."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text[:300]}"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert len(answer.text) > 8
    assert "Internal Server Error" not in answer.text
    assert "Traceback" not in answer.text
    return str(answer.text)


# --- jobs that cannot be ---

JOBS: list[tuple[dict[str, Any], str]] = [
    ({"TaskGroups": []}, "Missing job task groups"),
    ({"TaskGroups": [group(), group()]}, "redefines 'g'"),
    ({"TaskGroups": [group(task(), task())]}, "redefines 'main'"),
    ({"TaskGroups": [group(count=-1)]}, "Task group count can't be negative"),
    ({"TaskGroups": [group(task(Driver=""))]}, "Missing task driver"),
    ({"TaskGroups": [group(task(Name=""))]}, "Missing task name"),
    ({"TaskGroups": [group(task(Name="a/b"))]}, "slash"),
    ({"Type": "weird"}, "weird"),
    ({"Priority": 101}, "job priority must be between"),
    ({"Priority": -5}, "riority"),
    ({"Constraints": [{"LTarget": "${attr.kernel.name}", "RTarget": "((", "Operand": "regexp"}]}, "egular expression"),
    ({"Constraints": [{"LTarget": "${x}", "RTarget": "not a version", "Operand": "version"}]}, "ersion"),
    ({"Constraints": [{"LTarget": "x", "Operand": "~~"}]}, "~~"),
    ({"Periodic": {"Enabled": True, "Spec": "not cron", "SpecType": "cron"}, "Type": "batch"}, "cron"),
    ({"Periodic": {"Enabled": True, "Spec": "* * * * *", "TimeZone": "Mars/Olympus"}, "Type": "batch"}, "Mars"),
    ({"Datacenters": [""]}, "atacenter"),
    ({"TaskGroups": [group(task(Resources={"CPU": -1, "MemoryMB": 1}))]}, "CPU"),
    ({"TaskGroups": [group(task(KillTimeout=-1))]}, "ill"),
    ({"Region": "mars"}, "mars"),
]


@pytest.mark.parametrize(("changes", "why"), JOBS, ids=[why for _, why in JOBS])
def test_jobs_that_do_not_validate(dev: Agent, unchanged: Any, changes: Any, why: str) -> None:
    text = refused(dev.http.put("/v1/jobs", json={"Job": {**job("bad"), **changes}}), 400, 500)
    assert why in text


# --- bodies that are no requests ---

BODIES: list[bytes] = [
    b"",
    b" ",
    b"{",
    b"[",
    b"null",
    b"5",
    b'"text"',
    b"\xff\xfe",
    b'{"Job": "\xff"}',
    b'{"Job": {"ID": "\\ud800"}}',
    b"\0" * 100,
    b"{" * 5000,
    b"[" * 100_000,
    b'{"Job":' * 50_000,
    b'{"Job": {"ID": 1e999}}',
    b'{"Job": {"ID": "x", "Priority": 99999999999999999999999}}',
    b'{"Job": {"ID": "x", "TaskGroups": {}}}',
    b'{"Job": {"ID": "x", "TaskGroups": [null]}}',
    b'{"Job": {"ID": "x", "Meta": {"a": 1}}}',
    b"<job/>",
    b"job: {id: x}",
]
WRITES = ("/v1/jobs", "/v1/jobs/parse", "/v1/validate/job", "/v1/job/x/plan", "/v1/job/x/revert", "/v1/job/x/scale",
          "/v1/search", "/v1/job/x/stable")  # fmt: skip


@pytest.mark.parametrize("path", WRITES)
def test_bodies_that_are_no_requests(dev: Agent, unchanged: Any, path: str) -> None:
    for body in BODIES:
        answer = dev.http.put(path, content=body)
        assert answer.status_code in (200, 400, 404, 500), (body[:40], answer.status_code, answer.text[:200])
        if answer.status_code == 200:
            assert path in ("/v1/validate/job", "/v1/search"), (path, body[:40], answer.text[:200])
        else:
            refused(answer, 400, 404, 500)


def test_a_deeply_nested_driver_config(dev: Agent, unchanged: Any) -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"a": deep}
    assert "depth" in refused(dev.http.put("/v1/jobs", json={"Job": job("deep", task(Config=deep))}), 400)


def test_a_job_of_ten_megabytes(dev: Agent) -> None:
    big = job("big", task(Env={f"K{i}": "x" * 1000 for i in range(10_000)}), Stop=True)
    answer = dev.http.put("/v1/jobs", json={"Job": big})
    assert answer.status_code in (200, 413), answer.text[:200]
    if answer.status_code == 200:
        assert len(dev.http.get("/v1/job/big").content) > 10_000_000
        dev.delete("/v1/job/big", purge="true")


def test_a_source_that_is_too_large_is_dropped_with_a_warning(dev: Agent, job_id: str) -> None:
    body = {"Job": job(job_id), "Submission": {"Source": "x" * (MB + 1), "Format": "hcl2"}}
    assert "exceeds the limit" in dev.put("/v1/jobs", body)["Warnings"]
    assert dev.get(f"/v1/job/{job_id}/submission", status=404, version=0) == "job source not found"


HCL = (
    'job "x" {',
    'job "x" { group "g" { count = "many" } }',
    'job "x" { datacenters = [1, }',
    'job "x" { type = var.nope }',
    'job "x" { meta { a = file("/etc/passwd") } }',
    'job "x" { nonsense { } }',
    "x" * 100_000,
    "\0",
    'job "x" { meta { a = ' + "(" * 20_000 + " } }",
    "- a\n- b: [",
    '{"job": ',
)


@pytest.mark.parametrize("text", HCL, ids=[text[:30] for text in HCL])
def test_job_files_that_are_none(dev: Agent, unchanged: Any, text: str) -> None:
    assert refused(dev.http.put("/v1/jobs/parse", json={"JobHCL": text}), 400).startswith("Failed to parse job: ")


# --- what cannot run says why ---


def last_events(dev: Agent, alloc_id: str) -> str:
    found = dev.get(f"/v1/allocation/{alloc_id}")
    return "\n".join(event["DisplayMessage"] for event in found["TaskStates"]["main"]["Events"])


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (task("raw_exec", Config={"command": "/no/such/program"}), "/no/such/program"),
        (task("raw_exec", Config={}), "command"),
        (task("raw_exec", Config={"command": "/bin/true", "bogus": 1}), "bogus"),
        (task("raw_exec", Config={"command": ["/bin/true"]}), "command"),
        (task("raw_exec", User="nobody-of-this-name", Config={"command": "/bin/true"}), "nobody-of-this-name"),
        (task("mock_driver", Config={"start_error": "the moon is full"}), "the moon is full"),
        (shell("true", Artifacts=[{"GetterSource": "http://127.0.0.1:9/x"}]), ""),
    ],
    ids=["no program", "no command", "unknown option", "wrong type", "no user", "mock", "artifact"],
)
def test_tasks_that_cannot_start_say_why(dev: Agent, job_id: str, spec: Any, why: str) -> None:
    dev.run(job(job_id, spec, type="batch"))
    (stub,) = dev.wait_allocs(job_id, 1, "failed")
    assert why in last_events(dev, stub["ID"])


@pytest.mark.java
def test_a_jar_that_is_missing(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, task("java", Config={"jar_path": "local/none.jar"}), type="batch"))
    (stub,) = dev.wait_allocs(job_id, 1, "failed")
    events = last_events(dev, stub["ID"]) + dev.logs(stub["ID"], kind="stderr")
    assert "none.jar" in events


@pytest.mark.docker
def test_an_image_that_is_missing(dev: Agent, job_id: str) -> None:
    config = {"image": "127.0.0.1:9/none:x", "image_pull_timeout": "5s"}
    dev.run(job(job_id, task("docker", Config=config), type="batch"))
    (stub,) = dev.wait_allocs(job_id, 1, "failed", timeout_s=40)
    assert "none:x" in last_events(dev, stub["ID"])


def test_a_driver_that_is_not_there_leaves_a_blocked_evaluation(dev: Agent, job_id: str) -> None:
    eval_id = dev.run(job(job_id, task("warp", Config={})))["EvalID"]
    found = until(lambda: (e := dev.get(f"/v1/evaluation/{eval_id}")).get("BlockedEval") and e, "the decision")
    assert found["FailedTGAllocs"]["g"]["ConstraintFiltered"] == {"missing drivers": 1}
    blocked = dev.get(f"/v1/evaluation/{found['BlockedEval']}")
    assert (blocked["Status"], blocked["TriggeredBy"]) == ("blocked", "queued-allocs")


def test_a_port_that_is_taken_leaves_a_blocked_evaluation(dev: Agent, job_id: str) -> None:
    network = {"Networks": [{"ReservedPorts": [{"Label": "p", "Value": 23_456}]}]}
    dev.run(job(job_id, count=3, Group=network))
    # A host has one or two addresses in its default network, and each lends the port once.
    until(lambda: dev.get(f"/v1/job/{job_id}/summary")["Summary"]["g"]["Queued"] >= 1, "the queued one")
    evals = dev.get(f"/v1/job/{job_id}/evaluations")
    assert any("collision" in json.dumps(e.get("FailedTGAllocs", {})) for e in evals)


# --- the connection itself ---


def raw(dev: Agent, data: bytes) -> bytes:
    host, _, port = dev.address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=15) as peer:
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        out = b""
        try:
            while piece := peer.recv(65536):
                out += piece
        except OSError:
            pass
        return out


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\0\r\n\r\n",
        b"GET /v1/jobs\r\n\r\n",
        b"GET " + b"/" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000,
        b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 2_000_000,
        b"PUT /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"PUT /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET /v1/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_connections_that_speak_nonsense(dev: Agent, data: bytes) -> None:
    answer = raw(dev, data)
    assert answer == b"" or answer.split(b" ")[1][:1] == b"4" or answer.split(b" ")[1] == b"505"
    assert dev.http.get("/v1/regions").status_code == 200


# --- anything at all ---

GETS = (
    "/v1/jobs", "/v1/allocations", "/v1/evaluations", "/v1/deployments", "/v1/nodes", "/v1/node/pools",
    "/v1/namespaces", "/v1/job/{}", "/v1/job/{}/allocations", "/v1/job/{}/versions", "/v1/job/{}/submission",
    "/v1/allocation/{}",
    "/v1/evaluation/{}", "/v1/deployment/{}", "/v1/node/{}", "/v1/node/{}/allocations", "/v1/node/pool/{}",
    "/v1/namespace/{}", "/v1/client/fs/ls/{}", "/v1/client/fs/logs/{}", "/v1/client/fs/readat/{}", "/v1/jobs/statuses",
    "/v1/client/allocation/{}/stats", "/v1/client/stats", "/v1/agent/health", "/v1/evaluations/count", "/{}", "/v1/{}",
)  # fmt: skip
PARAMS = (
    "prefix", "filter", "per_page", "next_token", "reverse", "namespace", "region", "stale", "pretty", "meta", "all",
    "resources", "task_states", "os", "diffs", "diff_tag", "diff_version", "version", "path", "offset", "limit",
    "task", "type", "origin", "node_id", "related", "status", "job", "plain",
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "true", "false", "*", "-1", "0", "1", "ab", "global", "2147483648", "default.x", "1.x", "\0"]),
    st.sampled_from(
        ['ID == "x"', "not", 'Meta["a"] is empty', 'any TaskGroups as t { t.Name == "g" }', "ID matches `(`"]
    ),
)
NAMES = st.one_of(st.text(min_size=1, max_size=20), st.uuids().map(str), st.sampled_from([".", "..", "%", "//", "\0"]))
fuzzy = settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@fuzzy
@given(path=st.sampled_from(GETS), name=NAMES, query=st.dictionaries(st.sampled_from(PARAMS), VALUES, max_size=4))
def test_reads_of_anything(dev: Agent, path: str, name: str, query: dict[str, str]) -> None:
    before = len(dev.log())
    encoded = {key: value.encode("utf-8", "surrogatepass") for key, value in query.items()}
    url = path.replace("{}", quote(name.encode("utf-8", "surrogatepass"), safe=""))
    answer = dev.http.get(url, params=encoded)
    assert answer.status_code in (200, 301, 307, 400, 404, 405, 500, 501)
    assert answer.status_code != 500 or answer.text not in ("", "Internal Server Error")
    assert not dev.faults(before)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
KEYS = (
    "ID", "Name", "Type", "Priority", "Region", "Datacenters", "TaskGroups", "Count", "Tasks", "Driver", "Config",
    "Meta", "Constraints", "Periodic", "Update", "Networks", "Resources", "Affinities", "Spreads", "Services",
    "KillTimeout", "ParameterizedJob", "RestartPolicy", "ReschedulePolicy", "EphemeralDisk", "Multiregion", "Scaling",
    "Volumes", "Env",
)  # fmt: skip
SPECS = st.recursive(
    JSON,
    lambda inner: st.one_of(st.dictionaries(st.sampled_from(KEYS), inner, max_size=5), st.lists(inner, max_size=2)),
    max_leaves=20,
)  # fmt: skip


@fuzzy
@given(spec=SPECS, path=st.sampled_from(["/v1/validate/job", "/v1/job/x/plan"]))
def test_jobs_of_anything(dev: Agent, spec: Any, path: str) -> None:
    before = len(dev.log())
    answer = dev.http.put(path, json={"Job": spec})
    assert answer.status_code in (200, 400, 500)
    assert answer.status_code == 200 or answer.text not in ("", "Internal Server Error")
    assert not dev.faults(before), answer.text


@fuzzy
@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1, max_size=2), where=st.integers(0, 2))
def test_nearly_good_jobs(dev: Agent, changes: dict[str, Any], where: int) -> None:
    before = len(dev.log())
    spec = job("near")
    place = (spec, spec["TaskGroups"][0], spec["TaskGroups"][0]["Tasks"][0])[where]
    place.update(changes)
    for path in ("/v1/validate/job", "/v1/job/near/plan"):
        answer = dev.http.put(path, json={"Job": spec})
        assert answer.status_code in (200, 400, 500)
        assert answer.text not in ("", "Internal Server Error")
    assert not dev.faults(before), changes
