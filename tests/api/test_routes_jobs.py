"""Routes about jobs, asked over HTTP."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

import pytest
from agent import Agent, group, job, shell, task, until

ODD_IDS = (
    "a/b", "a%2Fb", "100%", "a/b/c", "naïve-日本", "back\\slash", "new\nline", "q?x=1&y", "a//b", "a/../b", "ends/",
    "./dot", "x/evaluate/y",
)  # fmt: skip


def register(dev: Agent, job_id: str, **changes: Any) -> Any:
    return dev.run(job(job_id, **changes))


# --- register, read, list ---


def test_registering_answers_with_the_evaluation_and_the_index(dev: Agent, job_id: str) -> None:
    answer = dev.http.put("/v1/jobs", json={"Job": job(job_id)})
    said = answer.json()
    assert answer.status_code == 200
    assert said["JobModifyIndex"] == said["EvalCreateIndex"] == said["Index"] > 0
    assert answer.headers["X-Nomad-Index"] == str(said["Index"])
    assert dev.get(f"/v1/evaluation/{said['EvalID']}")["TriggeredBy"] == "job-register"


def test_post_registers_as_put_does(dev: Agent, job_id: str) -> None:
    assert dev.http.post("/v1/jobs", json={"Job": job(job_id)}).status_code == 200
    assert dev.http.post(f"/v1/job/{job_id}", json={"Job": job(job_id)}).status_code == 200


def test_keys_match_in_any_case_and_unknown_ones_are_ignored(dev: Agent, job_id: str) -> None:
    spec = {"id": job_id, "TYPE": "batch", "datacenters": ["dc1"], "Nonsense": 1, "taskgroups": [group()]}
    dev.put("/v1/jobs", {"job": spec, "Whatever": [1]})
    assert dev.get(f"/v1/job/{job_id}")["Type"] == "batch"


def test_a_job_is_printed_with_every_field_and_null_for_empty_collections(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    found = dev.get(f"/v1/job/{job_id}")
    assert found["Constraints"] is None
    assert found["Meta"] is None
    assert found["Periodic"] is None
    assert found["StatusDescription"] == ""
    assert found["Priority"] == 50
    assert found["TaskGroups"][0]["Tasks"][0]["KillTimeout"] == 1_000_000_000


def test_reads_have_the_headers_of_reads(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    answer = dev.http.get(f"/v1/job/{job_id}")
    assert int(answer.headers["X-Nomad-Index"]) == answer.json()["ModifyIndex"]
    assert answer.headers["X-Nomad-KnownLeader"] == "true"
    assert answer.headers["X-Nomad-LastContact"] == "0"
    assert answer.headers["Content-Type"] == "application/json"


def test_an_unknown_job_is_404_with_the_index_headers(dev: Agent) -> None:
    answer = dev.http.get("/v1/job/nobody")
    assert (answer.status_code, answer.text) == (404, "job not found")
    assert "X-Nomad-Index" in answer.headers
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("suffix", ["", "/summary", "/scale", "/versions", "/services", "/actions"])
def test_reads_below_an_unknown_job_are_404(dev: Agent, suffix: str) -> None:
    assert "not found" in dev.get(f"/v1/job/nobody{suffix}", status=404)


@pytest.mark.parametrize("suffix", ["/allocations", "/evaluations", "/deployments"])
def test_lists_below_an_unknown_job_are_empty(dev: Agent, suffix: str) -> None:
    assert dev.get(f"/v1/job/nobody{suffix}") == []


def test_a_job_without_deployments_has_null_as_its_newest(dev: Agent, job_id: str) -> None:
    register(dev, job_id, type="batch")
    assert dev.get(f"/v1/job/{job_id}/deployment") is None


def test_the_stub_in_the_list(dev: Agent, job_id: str) -> None:
    register(dev, job_id, Meta={"team": "red"})
    stub = next(stub for stub in dev.get("/v1/jobs", prefix=job_id) if stub["ID"] == job_id)
    assert stub["JobSummary"]["Children"] == {"Pending": 0, "Running": 0, "Dead": 0}
    assert set(stub["JobSummary"]["Summary"]["g"]) == {
        "Queued", "Complete", "Failed", "Running", "Starting", "Lost", "Unknown",
    }  # fmt: skip
    assert (stub["Periodic"], stub["ParameterizedJob"], "Meta" in stub) == (False, False, False)
    assert dev.get("/v1/jobs", prefix=job_id, meta="true")[0]["Meta"] == {"team": "red"}


@pytest.mark.parametrize("odd", ODD_IDS)
def test_job_ids_may_hold_anything_but_blanks(dev: Agent, odd: str) -> None:
    path = "/v1/job/" + quote(odd, safe="")
    dev.run(job(odd, type="batch", Stop=True))
    try:
        assert dev.get(path)["ID"] == odd
        assert dev.get(path + "/summary")["JobID"] == odd
        assert dev.get(path + "/evaluations")[0]["JobID"] == odd
        assert [stub["ID"] for stub in dev.get("/v1/jobs", prefix=odd)] == [odd]
    finally:
        assert dev.delete(path, purge="true")["EvalID"]
    dev.get(path, status=404)


def test_a_slash_may_be_sent_as_it_is(dev: Agent) -> None:
    dev.run(job("raw/slash"))
    assert dev.get("/v1/job/raw/slash")["ID"] == "raw/slash"
    dev.delete("/v1/job/raw/slash", purge="true")


@pytest.mark.parametrize(("odd", "why"), [("a b", "space"), ("a\0b", "null"), ("", "Job ID hasn't been provided")])
def test_job_ids_that_are_refused(dev: Agent, odd: str, why: str) -> None:
    answer = dev.http.put("/v1/jobs", json={"Job": job(odd)})
    assert answer.status_code in (400, 500)
    assert why in answer.text


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ("", 400, "Request body is empty"),
        ("{}", 400, "Job must be specified"),
        ('{"Job": null}', 400, "Job must be specified"),
        ('{"Job": {}}', 400, "Job must be specified"),
        ('{"Job": {"Name": "x"}}', 400, "Job ID hasn't been provided"),
        ('{"Job": ', 400, "json: Input data was truncated"),
        ('{"Job": []}', 400, "cannot unmarshal array into Go struct field"),
        ('{"Job": {"ID": 5}}', 400, "cannot unmarshal number into Go struct field"),
        ('{"Job": {"ID": "x", "Priority": "high"}}', 400, "Priority of type int"),
        ('{"Job": {"ID": "x", "TaskGroups": [{"Count": "one"}]}}', 400, "TaskGroups.Count of type int"),
        ('{"Job": {"ID": "x"}}', 500, "Missing job task groups"),
    ],
)
def test_bodies_that_are_refused(dev: Agent, body: str, status: int, text: str) -> None:
    answer = dev.http.put("/v1/jobs", content=body)
    assert answer.status_code == status, answer.text
    assert text in answer.text


def test_the_path_and_the_body_must_name_the_same_job(dev: Agent, job_id: str) -> None:
    assert dev.put("/v1/job/other", {"Job": job(job_id)}, status=400) == "Job ID does not match name"


def test_what_stands_after_the_first_value_is_not_looked_at(dev: Agent, job_id: str) -> None:
    import json

    assert dev.http.put("/v1/jobs", content=json.dumps({"Job": job(job_id)}) + "}} trailing").status_code == 200


def test_compare_and_set(dev: Agent, job_id: str) -> None:
    dev.put("/v1/jobs", {"Job": job(job_id), "EnforceIndex": True, "JobModifyIndex": 0})
    for index in (0, 1):
        body = {"Job": job(job_id, Priority=60), "EnforceIndex": True, "JobModifyIndex": index}
        assert "Enforcing job modify index" in dev.put("/v1/jobs", body, status=500)
    index = dev.get(f"/v1/job/{job_id}")["JobModifyIndex"]
    dev.put("/v1/jobs", {"Job": job(job_id, Priority=60), "EnforceIndex": True, "JobModifyIndex": index})
    assert dev.get(f"/v1/job/{job_id}")["Priority"] == 60


def test_an_unchanged_job_keeps_its_version(dev: Agent, job_id: str) -> None:
    first, second = register(dev, job_id), register(dev, job_id)
    assert second["JobModifyIndex"] == first["JobModifyIndex"]
    assert second["EvalID"] != first["EvalID"]
    assert dev.get(f"/v1/job/{job_id}")["Version"] == 0


def test_preserving_counts(dev: Agent, job_id: str) -> None:
    register(dev, job_id, count=3)
    dev.put("/v1/jobs", {"Job": job(job_id, count=1, Priority=55), "PreserveCounts": True})
    found = dev.get(f"/v1/job/{job_id}")
    assert (found["Priority"], found["TaskGroups"][0]["Count"]) == (55, 3)


def test_the_priority_of_the_evaluation(dev: Agent, job_id: str) -> None:
    answer = dev.put("/v1/jobs", {"Job": job(job_id), "EvalPriority": 77})
    assert dev.get(f"/v1/evaluation/{answer['EvalID']}")["Priority"] == 77
    refused = dev.put("/v1/jobs", {"Job": job(job_id), "EvalPriority": 101}, status=400)
    assert refused == "Eval priority must be between 1 and 100 inclusively"


def test_unknown_namespaces_and_pools_are_refused(dev: Agent, job_id: str) -> None:
    text = dev.put("/v1/jobs", {"Job": job(job_id)}, status=500, namespace="nope")
    assert f'job "{job_id}" is in nonexistent namespace "nope"' in text
    text = dev.put("/v1/jobs", {"Job": job(job_id, NodePool="nope")}, status=500)
    assert f'job "{job_id}" is in nonexistent node pool "nope"' in text
    dev.get(f"/v1/job/{job_id}", status=404)


def test_a_job_may_not_change_its_kind(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    text = dev.put("/v1/jobs", {"Job": job(job_id, type="batch")}, status=500)
    assert 'cannot update job from type "service" to "batch"' in text


# --- deregister ---


def test_stopping_and_purging(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    answer = dev.delete(f"/v1/job/{job_id}")
    assert dev.get(f"/v1/evaluation/{answer['EvalID']}")["TriggeredBy"] == "job-deregister"
    stopped = dev.get(f"/v1/job/{job_id}")
    assert (stopped["Stop"], stopped["Version"]) == (True, 1)
    assert dev.delete(f"/v1/job/{job_id}", purge="true")["EvalID"]
    dev.get(f"/v1/job/{job_id}", status=404)
    assert dev.get(f"/v1/job/{job_id}/submission", status=404, version=0) == "job source not found"


def test_stopping_an_unknown_job_is_no_error(dev: Agent) -> None:
    assert dev.delete("/v1/job/nobody")["EvalID"] == ""


def test_bad_parameters_of_a_stop(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    assert "Failed to parse value of" in dev.delete(f"/v1/job/{job_id}", status=500, purge="maybe")
    for priority in ("0x", "-1", "101"):
        text = dev.delete(f"/v1/job/{job_id}", status=400, eval_priority=priority)
        assert text == "Eval priority must be between 1 and 100 inclusively"
    assert dev.get(f"/v1/job/{job_id}")["Stop"] is False


# --- parse, validate, plan ---

HCL = """
job "example" {
  type = "batch"
  group "g" {
    task "t" {
      driver = "raw_exec"
      config { command = "/bin/true" }
    }
  }
}
"""


def test_parsing_a_job_file(dev: Agent) -> None:
    bare = dev.put("/v1/jobs/parse", {"JobHCL": HCL})
    assert (bare["ID"], bare["Type"], bare["Priority"]) == ("example", "batch", None)
    full = dev.put("/v1/jobs/parse", {"JobHCL": HCL, "Canonicalize": True})
    assert (full["Priority"], full["Namespace"], full["Region"]) == (50, "default", "global")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Job spec is empty"),
        ("job {", "Failed to parse job: "),
        ('job "x" { bogus = 1 }', "bogus"),
        ("\x00", "Failed to parse job: "),
        ("nothing = 1", "Failed to parse job: "),
    ],
)
def test_job_files_that_do_not_parse(dev: Agent, text: str, why: str) -> None:
    assert why in dev.put("/v1/jobs/parse", {"JobHCL": text}, status=400)


def test_either_form_of_a_parsed_job_can_be_registered(dev: Agent) -> None:
    for canonicalize in (False, True):
        parsed = dev.put("/v1/jobs/parse", {"JobHCL": HCL, "Canonicalize": canonicalize})
        assert dev.run(parsed)["EvalID"]
    dev.delete("/v1/job/example", purge="true")


def test_validating(dev: Agent, job_id: str) -> None:
    good = dev.put("/v1/validate/job", {"Job": job(job_id)})
    assert (good["ValidationErrors"], good["Error"], good["DriverConfigValidated"]) == (None, "", True)
    bad = dev.put("/v1/validate/job", {"Job": {"ID": job_id, "Type": "nonsense"}})
    assert any("Missing job task groups" in error for error in bad["ValidationErrors"])
    assert bad["Error"].startswith(f"{len(bad['ValidationErrors'])} errors occurred:")
    assert dev.put("/v1/validate/job", {}, status=400) == "Job must be specified"


def test_planning_stores_nothing(dev: Agent, job_id: str) -> None:
    plan = dev.put(f"/v1/job/{job_id}/plan", {"Job": job(job_id), "Diff": True})
    assert plan["Diff"]["Type"] == "Added"
    assert plan["Annotations"]["DesiredTGUpdates"]["g"]["Place"] == 1
    assert (plan["JobModifyIndex"], plan["FailedTGAllocs"]) == (0, None)
    dev.get(f"/v1/job/{job_id}", status=404)


def test_plans_that_are_refused(dev: Agent, job_id: str) -> None:
    path = f"/v1/job/{job_id}/plan"
    assert dev.put(path, {}, status=400) == "Job must be specified"
    assert dev.put(path, {"Job": job("other")}, status=400) == "Job ID does not match"
    assert dev.put(path, {"Job": {"ID": ""}}, status=400) == "Job must have a valid ID"


def test_a_plan_says_what_does_not_fit(dev: Agent, job_id: str) -> None:
    huge = job(job_id, task(Resources={"CPU": 10, "MemoryMB": 10_000_000}))
    plan = dev.put(f"/v1/job/{job_id}/plan", {"Job": huge, "Diff": True})
    assert plan["FailedTGAllocs"]["g"]["DimensionExhausted"] == {"memory": 1}


# --- evaluate, versions, revert, stability, submissions ---


def test_another_look(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    assert dev.http.put(f"/v1/job/{job_id}/evaluate").json()["EvalID"]
    assert dev.put(f"/v1/job/{job_id}/evaluate", {"JobID": "x"}, status=400) == "JobID not same as job name"
    assert dev.put("/v1/job/nobody/evaluate", status=500) == "job not found"


def test_versions_and_their_differences(dev: Agent, job_id: str) -> None:
    for priority in (50, 60, 70):
        register(dev, job_id, Priority=priority)
    answer = dev.http.get(f"/v1/job/{job_id}/versions", params={"diffs": "true"})
    found = answer.json()
    assert [one["Version"] for one in found["Versions"]] == [2, 1, 0]
    assert len(found["Diffs"]) == 2
    priority = next(f for f in found["Diffs"][0]["Fields"] if f["Name"] == "Priority")
    assert (priority["Old"], priority["New"]) == ("60", "70")
    assert int(answer.headers["X-Nomad-Index"]) == max(one["ModifyIndex"] for one in found["Versions"])
    assert dev.get(f"/v1/job/{job_id}/versions")["Diffs"] is None
    assert dev.get(f"/v1/job/{job_id}/versions", status=500, diffs="true", diff_version=9) == "version 9 not found"
    assert dev.get(f"/v1/job/{job_id}/versions", status=500, diffs="true", diff_tag="x") == 'tag "x" not found'


def test_going_back(dev: Agent, job_id: str) -> None:
    for priority in (50, 60):
        register(dev, job_id, Priority=priority)
    path = f"/v1/job/{job_id}/revert"
    assert dev.put(path, {"JobVersion": 0}, status=400) == "JobID must be specified"
    assert dev.put(path, {"JobID": "x", "JobVersion": 0}, status=400) == "Job ID does not match"
    assert dev.put(path, {"JobID": job_id, "JobVersion": 1}, status=500) == "can't revert to current version"
    text = dev.put(path, {"JobID": job_id, "JobVersion": 0, "EnforcePriorVersion": 10}, status=500)
    assert text == "Current job has version 1; enforcing version 10"
    text = dev.put(path, {"JobID": job_id, "JobVersion": 7}, status=500)
    assert text == f'job "{job_id}" in namespace "default" at version 7 not found'
    dev.put(path, {"JobID": job_id, "JobVersion": 0})
    assert dev.get(f"/v1/job/{job_id}")["Priority"] == 50
    assert dev.put("/v1/job/nobody/revert", {"JobID": "nobody"}, status=500) == 'job "nobody" not found'


def test_stability(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    answer = dev.put(f"/v1/job/{job_id}/stable", {"JobID": job_id, "JobVersion": 0, "Stable": True})
    assert answer["Index"] > 0
    assert dev.get(f"/v1/job/{job_id}")["Stable"] is True


def test_the_text_a_job_came_from(dev: Agent, job_id: str) -> None:
    source = {"Source": HCL, "Format": "hcl2", "VariableFlags": {"a": "b"}}
    dev.put("/v1/jobs", {"Job": job(job_id), "Submission": source})
    found = dev.get(f"/v1/job/{job_id}/submission", version=0)
    assert (found["Source"], found["Format"], found["VariableFlags"]) == (HCL, "hcl2", {"a": "b"})
    assert (found["JobID"], found["Version"]) == (job_id, 0)
    bad = "Unable to parse job submission version parameter"
    assert dev.get(f"/v1/job/{job_id}/submission", status=400) == bad
    assert dev.get(f"/v1/job/{job_id}/submission", status=400, version="x") == bad
    assert dev.get(f"/v1/job/{job_id}/submission", status=404, version=3) == "job source not found"


# --- scale ---


def test_scaling(dev: Agent, job_id: str) -> None:
    register(dev, job_id, type="batch")
    dev.wait_allocs(job_id)
    answer = dev.put(f"/v1/job/{job_id}/scale", {"Count": 2, "Target": {"Job": job_id, "Group": "g"}, "Message": "up"})
    assert dev.get(f"/v1/evaluation/{answer['EvalID']}")["TriggeredBy"] == "job-scaling"
    dev.wait_allocs(job_id, 2)
    status = dev.get(f"/v1/job/{job_id}/scale")
    line = status["TaskGroups"]["g"]
    assert (line["Desired"], line["Running"], line["Events"][0]["Message"]) == (2, 2, "up")
    assert line["Events"][0]["PreviousCount"] == 1


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"Count": 1}, 400, "missing task group name for scaling action"),
        (
            {"Count": 1, "Target": {"Group": "nope"}},
            400,
            'task group "nope" specified for scaling does not exist in job',
        ),
        ({"Count": 1, "Target": {"Group": "g", "Job": "x"}}, 400, "job ID in payload did not match URL"),
        ({"Count": 1, "Target": {"Group": "g", "Namespace": "x"}}, 400, "namespace in payload did not match header"),
        ({"Count": -1, "Target": {"Group": "g"}}, 400, "scaling action count can't be negative"),
        (
            {"Count": 1, "Error": True, "Target": {"Group": "g"}},
            400,
            "scaling action should not contain count if error is true",
        ),
        ({"Count": "x", "Target": {"Group": "g"}}, 400, "Count of type int"),
    ],
)
def test_scalings_that_are_refused(dev: Agent, job_id: str, body: Any, status: int, text: str) -> None:
    register(dev, job_id)
    assert text in dev.put(f"/v1/job/{job_id}/scale", body, status=status)
    assert dev.get(f"/v1/job/{job_id}")["Version"] == 0


def test_scaling_an_unknown_job(dev: Agent) -> None:
    text = dev.put("/v1/job/nobody/scale", {"Count": 1, "Target": {"Group": "g"}}, status=404)
    assert text == 'job "nobody" not found'


def test_a_scaling_event_without_a_count(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    body = {"Target": {"Group": "g"}, "Error": True, "Message": "no metrics", "Meta": {"why": {"deep": [1]}}}
    assert dev.put(f"/v1/job/{job_id}/scale", body)["EvalID"] == ""
    event = dev.get(f"/v1/job/{job_id}/scale")["TaskGroups"]["g"]["Events"][0]
    assert (event["Error"], event["Count"], event["Meta"]) == (True, None, {"why": {"deep": [1]}})


# --- dispatch, periodic ---


def parameterized(job_id: str, **rules: Any) -> dict[str, Any]:
    return job(job_id, task(Config={"run_for": "1ms"}), type="batch", ParameterizedJob=rules or {"Payload": "optional"})


def test_dispatching(dev: Agent, job_id: str) -> None:
    assert dev.run(parameterized(job_id, Payload="optional", MetaRequired=["a"], MetaOptional=["b"]))["EvalID"] == ""
    body = {"Meta": {"a": "1"}, "Payload": base64.b64encode(b"hello").decode(), "IdPrefixTemplate": "pre"}
    answer = dev.put(f"/v1/job/{job_id}/dispatch", body)
    child_id = answer["DispatchedJobID"]
    assert child_id.startswith(f"{job_id}/dispatch-pre-")
    child = dev.get("/v1/job/" + quote(child_id, safe=""))
    assert (child["ParentID"], child["Dispatched"], child["Meta"]) == (job_id, True, {"a": "1"})
    assert base64.b64decode(child["Payload"]) == b"hello"
    until(lambda: dev.get("/v1/job/" + quote(child_id, safe=""))["Status"] == "dead", "the end of the child")
    assert dev.get(f"/v1/job/{job_id}/summary")["Children"]["Dead"] == 1
    dev.delete("/v1/job/" + quote(child_id, safe=""), purge="true")


def test_raw_payloads(dev: Agent, job_id: str) -> None:
    dev.run(parameterized(job_id))
    answer = dev.http.post(f"/v1/job/{job_id}/dispatch/payload", content=b"\x00raw")
    child = dev.get("/v1/job/" + quote(answer.json()["DispatchedJobID"], safe=""))
    assert base64.b64decode(child["Payload"]) == b"\x00raw"


def test_a_repeated_token_starts_one_child(dev: Agent, job_id: str) -> None:
    dev.run(parameterized(job_id))
    first = dev.put(f"/v1/job/{job_id}/dispatch", {}, idempotency_token="once")
    second = dev.put(f"/v1/job/{job_id}/dispatch", {}, idempotency_token="once")
    assert second["DispatchedJobID"] == first["DispatchedJobID"]
    assert (bool(first["EvalID"]), second["EvalID"]) == (True, "")


@pytest.mark.parametrize(
    ("rules", "body", "text"),
    [
        ({"Payload": "required"}, {}, "Payload is not provided but required by parameterized job"),
        ({"Payload": "forbidden"}, {"Payload": "aGk="}, "Payload provided but forbidden by parameterized job"),
        (
            {"Payload": "optional"},
            {"Payload": base64.b64encode(b"x" * 16_385).decode()},
            "Payload exceeds maximum size; 16385 > 16384",
        ),
        ({"Payload": ""}, {"Meta": {"x": "1"}}, "Dispatch request included unpermitted metadata keys: [x]"),
        ({"MetaRequired": ["x"]}, {}, "Dispatch did not provide required meta keys: [x]"),
        ({"Payload": ""}, {"Priority": 101}, "dispatch job priority must be between [1, 100]"),
    ],
)
def test_dispatches_that_are_refused(dev: Agent, job_id: str, rules: Any, body: Any, text: str) -> None:
    dev.run(parameterized(job_id, **rules))
    assert text in dev.put(f"/v1/job/{job_id}/dispatch", body, status=500)


def test_what_cannot_be_dispatched(dev: Agent, job_id: str) -> None:
    assert dev.put("/v1/job/nobody/dispatch", status=500) == "parameterized job not found"
    register(dev, job_id)
    text = f'Specified job "{job_id}" is not a parameterized job'
    assert dev.put(f"/v1/job/{job_id}/dispatch", status=500) == text
    assert dev.put(f"/v1/job/{job_id}/dispatch", {"JobID": "x"}, status=400) == "Job ID does not match"


def test_forcing_a_periodic_job(dev: Agent, job_id: str) -> None:
    periodic = {"Enabled": True, "Spec": "0 0 1 1 *", "SpecType": "cron"}
    spec = job(job_id, task(Config={"run_for": "1ms"}), type="batch", Periodic=periodic)
    assert dev.run(spec)["EvalID"] == ""
    assert dev.put(f"/v1/job/{job_id}/evaluate", status=500) == "can't evaluate periodic job"
    answer = dev.put(f"/v1/job/{job_id}/periodic/force")
    child = dev.get(f"/v1/evaluation/{answer['EvalID']}")["JobID"]
    assert child.startswith(f"{job_id}/periodic-")
    assert dev.put("/v1/job/nobody/periodic/force", status=500) == "job not found"


def test_only_periodic_jobs_can_be_forced(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    assert dev.put(f"/v1/job/{job_id}/periodic/force", status=500) == "can't force launch non-periodic job"


# --- statuses, actions ---


def test_statuses(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    dev.wait_allocs(job_id)
    (found,) = dev.http.post("/v1/jobs/statuses", json={"Jobs": [{"ID": job_id}, {"ID": "nobody"}]}).json()
    assert (found["ID"], found["GroupCountSum"], len(found["Allocs"])) == (job_id, 1, 1)
    assert found["Allocs"][0]["ClientStatus"] == "running"
    everything = dev.get("/v1/jobs/statuses")
    indexes = [one["ModifyIndex"] for one in everything]
    assert indexes == sorted(indexes, reverse=True)
    assert [one["ModifyIndex"] for one in dev.get("/v1/jobs/statuses", reverse="true")] == sorted(indexes)


def test_actions(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, shell("sleep 100", Actions=[{"Name": "hi", "Command": "/bin/echo", "Args": ["x"]}])))
    assert dev.get(f"/v1/job/{job_id}/actions") == [
        {"Name": "hi", "Command": "/bin/echo", "Args": ["x"], "TaskName": "main", "TaskGroupName": "g"}
    ]


# --- why, and how many more ---


def test_a_plan_explains_itself_when_asked(dev: Agent, job_id: str) -> None:
    windows = {"LTarget": "${attr.kernel.name}", "Operand": "=", "RTarget": "windows"}
    spec = job(job_id, Constraints=[windows])
    told = dev.put(f"/v1/job/{job_id}/plan", {"Job": spec, "Why": True})["Why"]["g"]
    [node] = told["Nodes"]
    assert node["Obstacles"][0]["Detail"].endswith('${attr.kernel.name} is "linux" there')
    assert told["WouldHelp"][0]["Kind"] == "constraint"
    plain = dev.put(f"/v1/job/{job_id}/plan", {"Job": spec})
    assert "Why" not in plain
    assert "Capacity" not in plain
    assert plain["FailedTGAllocs"]["g"]["WouldHelp"] == told["WouldHelp"]


def test_a_plan_counts_what_fits_after_it(dev: Agent, job_id: str) -> None:
    wish = {"Job": job(job_id), "With": ["100000,100000×2"], "Without": [dev.get("/v1/nodes")[0]["Name"]]}
    room = dev.put(f"/v1/job/{job_id}/plan", wish)["Capacity"]
    assert room["Groups"]["g"]["Nodes"] == 2
    assert (room["With"][0]["CPU"], room["With"][0]["Count"], len(room["Without"])) == (100000, 2, 1)


def test_a_registered_job_is_asked_how_many_more_fit(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    now = dev.get(f"/v1/job/{job_id}/capacity")["Groups"]["g"]
    more = dev.get(f"/v1/job/{job_id}/capacity", **{"with": "100000,100000"})["Groups"]["g"]
    assert 0 < now["Fits"] < more["Fits"]
    assert (now["Exact"], now["Suitable"], more["Suitable"]) == (True, 1, 2)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"without": "nobody"}, 'no node has the id or name "nobody"'),
        ({"with": "many"}, '"many" is not CPU,MEM×N'),
        ({"with": "1,2x100000"}, "asks for 100000 nodes"),
    ],
)
def test_questions_about_unknown_nodes_are_refused(dev: Agent, job_id: str, query: dict[str, str], text: str) -> None:
    register(dev, job_id)
    assert text in dev.get(f"/v1/job/{job_id}/capacity", status=400, **query)


def test_the_capacity_of_an_unknown_job_is_404(dev: Agent) -> None:
    assert dev.get("/v1/job/nobody/capacity", status=404) == "job not found"
