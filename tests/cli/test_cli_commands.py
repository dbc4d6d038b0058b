"""Commands against a canned agent: what they ask, what they print, and how they exit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cli_payloads as p
import pytest

from nomadpy.cli import follow
from nomadpy.cli.verbs.job_read import next_launch

Run = Callable[..., Any]


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    path = tmp_path / "web.json"
    path.write_text(json.dumps({"Job": {"ID": "web", "Type": "service", "TaskGroups": []}}))
    return str(path)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL_S", 0.0)
    monkeypatch.setattr(follow, "SLOW_POLL_S", 0.0)


def test_job_status_lists_and_shows(nomadpy: Run, cluster: Any) -> None:
    del cluster
    listed = nomadpy("job", "status").out
    assert [line.split()[0] for line in listed.splitlines()] == ["ID", "web", "web-two", "nightly"]
    shown = nomadpy("job", "status", "web").out
    for title in ("Summary", "Latest Deployment", "Deployed", "Allocations"):
        assert f"\n\n{title}\n" in shown
    assert "\x1b" not in shown


def test_short_status_asks_for_nothing_more(nomadpy: Run, cluster: Any) -> None:
    assert "Allocations" not in nomadpy("job", "status", "-short", "web").out
    assert {one.path for one in cluster.requests} == {"/v1/jobs", "/v1/job/web"}


def test_a_pipe_never_wraps_and_columns_can(nomadpy: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = "x" * 150
    cluster.on("GET", "/v1/jobs", [p.job_stub(wide)])
    assert wide in nomadpy("job", "status").out
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, nomadpy("job", "status").out.splitlines())) <= 80


@pytest.mark.parametrize("variable", ["NO_COLOR", "NOMAD_CLI_NO_COLOR"])
def test_colour_is_forced_and_forbidden(
    nomadpy: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    del cluster
    monkeypatch.setenv("NOMAD_CLI_FORCE_COLOR", "1")
    assert "\x1b[32mrunning" in nomadpy("job", "status").out
    monkeypatch.setenv(variable, "1")
    assert "\x1b" not in nomadpy("job", "status").out
    assert "\x1b[32mrunning" in nomadpy("job", "status", "-force-color").out or variable


def test_json_and_templates(nomadpy: Run, cluster: Any) -> None:
    del cluster
    assert json.loads(nomadpy("job", "status", "-json", "web").out)["ID"] == "web"
    assert nomadpy("job", "status", "-t", "{{range .}}{{.ID}};{{end}}").out == "web;web-two;nightly;\n"
    assert nomadpy("node", "status", "-t={{len .}}").out == "2\n"
    wrong = nomadpy("job", "status", "-t", "{{upper}}")
    assert (wrong.code, "there is no function upper" in wrong.err) == (1, True)


def test_an_exact_id_wins_and_an_ambiguous_one_is_told(nomadpy: Run, cluster: Any) -> None:
    del cluster
    assert nomadpy("job", "status", "web").code == 0
    seen = nomadpy("job", "status", "we")
    assert seen.code == 1
    assert '"we" could be 2 jobs' in seen.err
    assert "web-two" in seen.err
    assert 'no job has an id that begins with "zz"' in nomadpy("job", "status", "zz").err
    assert 'no periodic job has an id that begins with "zz"' in nomadpy("job", "periodic", "force", "zz").err
    assert 'no parameterized job has an id that begins with "zz"' in nomadpy("job", "dispatch", "zz").err


def test_uuid_prefixes_are_cut_to_an_even_length(nomadpy: Run, cluster: Any) -> None:
    assert nomadpy("alloc", "status", "a1a1a").code == 0
    assert cluster.asked("GET", "/v1/allocations").query["prefix"] == ["a1a1"]
    seen = nomadpy("alloc", "status", "a1a1")
    assert seen.code == 1
    assert "a1a1" in seen.err
    assert p.OTHER_ALLOC in seen.err
    assert "at least two" in nomadpy("node", "status", "f").err
    assert 'no node has an id that begins with "xy"' in nomadpy("node", "status", "xy").err


def test_job_run_follows_until_the_deployment_is_done(nomadpy: Run, cluster: Any, job_file: str) -> None:
    steps = iter(["running", "running", "successful"])
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", lambda _: p.deployment(Status=next(steps)))
    seen = nomadpy("job", "run", job_file)
    assert seen.code == 0
    assert "\x1b" not in seen.out
    assert "==> " in seen.out
    assert 'Evaluation status changed to "complete"' in seen.out
    body = cluster.asked("PUT", "/v1/jobs").body
    assert body["Job"]["ID"] == "web"
    assert body["Submission"]["Format"] == "json"
    assert "EnforceIndex" not in body


def test_job_run_with_a_failed_deployment_exits_with_1(nomadpy: Run, cluster: Any, job_file: str) -> None:
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", p.deployment(Status="failed", StatusDescription="unhealthy"))
    assert nomadpy("run", job_file).code == 1


def test_a_rollback_is_followed_too(nomadpy: Run, cluster: Any, job_file: str) -> None:
    said = "Failed due to unhealthy allocations - rolling back to job version 2"
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", p.deployment(Status="failed", StatusDescription=said))
    rollback = p.deployment(ID=p.EVAL, JobVersion=4, Status="running", StatusDescription="Deployment is running")
    latest = iter([None, p.deployment(), rollback])
    cluster.on("GET", "/v1/job/web/deployment", lambda _: next(latest))
    steps = iter(["running", "successful"])
    over = "Deployment completed successfully"
    cluster.on(
        "GET", f"/v1/deployment/{p.EVAL}", lambda _: rollback | {"Status": next(steps), "StatusDescription": over}
    )
    cluster.on("GET", f"/v1/deployment/allocations/{p.EVAL}", [])
    seen = nomadpy("job", "run", job_file)
    assert seen.code == 1, "what was asked for did not happen"
    assert "Version 3 failed; following version 4." in seen.out
    assert f'Deployment "{p.EVAL[:8]}": {over}' in seen.out
    assert cluster.asked("GET", "/v1/job/web/deployment").query["namespace"] == ["default"]


def test_a_rollback_that_waits_for_its_promotion_is_not_waited_for(nomadpy: Run, cluster: Any) -> None:
    said = "Deployment marked as failed - rolling back to job version 2"
    failed = p.deployment(Status="failed", StatusDescription=said)
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", failed)
    waits = "Deployment is running but requires manual promotion"
    waiting = p.deployment(ID=p.EVAL, JobVersion=4, Status="running", StatusDescription=waits)
    cluster.on("GET", "/v1/job/web/deployment", waiting)
    cluster.on("GET", f"/v1/deployment/{p.EVAL}", waiting)
    cluster.on("GET", f"/v1/deployment/allocations/{p.EVAL}", [])
    assert nomadpy("deployment", "status", "-monitor", p.DEPLOYMENT).code == 1


def test_deployment_status_follows_with_monitor(nomadpy: Run, cluster: Any) -> None:
    steps = iter(["running", "running", "running", "successful"])
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", lambda _: p.deployment(Status=next(steps)))
    looks = iter([[p.alloc_stub()], [p.alloc_stub()], [p.alloc_stub(), p.alloc_stub(p.OTHER_ALLOC)]])
    latest: list[Any] = []
    cluster.on("GET", f"/v1/deployment/allocations/{p.DEPLOYMENT}", lambda _: next(looks, latest))
    seen = nomadpy("deployment", "status", "-monitor", p.DEPLOYMENT)
    assert seen.code == 0
    assert f'Allocation "{p.OTHER_ALLOC[:8]}" created' in seen.out
    assert f'Allocation "{p.ALLOC[:8]}" created' not in seen.out, "it was there before"


def test_job_run_says_why_something_was_not_placed(nomadpy: Run, cluster: Any, job_file: str) -> None:
    failed = p.evaluation(FailedTGAllocs={"front": p.failed_metrics()}, BlockedEval=p.EVAL)
    cluster.on("GET", f"/v1/evaluation/{p.EVAL}", failed)
    seen = nomadpy("job", "run", job_file)
    assert seen.code == 2
    assert '* Constraint "missing drivers": 1 nodes excluded by filter' in seen.out
    assert "waits for additional capacity" in seen.out


def test_job_run_without_a_deployment_waits_until_all_have_started(nomadpy: Run, cluster: Any, job_file: str) -> None:
    states = iter(["pending", "pending", "running"])
    cluster.on("GET", f"/v1/evaluation/{p.EVAL}", p.evaluation(DeploymentID=""))
    path = f"/v1/evaluation/{p.EVAL}/allocations"
    cluster.on("GET", path, lambda _: [p.alloc_stub(ClientStatus=next(states))])
    seen = nomadpy("job", "run", job_file)
    assert seen.code == 0
    assert 'Allocation "a1a1a1a1" is running (was pending)' in seen.out


def test_job_run_detached_with_an_index(nomadpy: Run, cluster: Any, job_file: str) -> None:
    seen = nomadpy("job", "run", "-detach", "-check-index=7", "-preserve-counts", job_file)
    assert seen.out == f"Job registration successful\nEvaluation ID: {p.EVAL}\n"
    body = cluster.asked("PUT", "/v1/jobs").body
    assert (body["EnforceIndex"], body["JobModifyIndex"], body["PreserveCounts"]) == (True, 7, True)


def test_a_lost_race_is_explained(nomadpy: Run, cluster: Any, job_file: str) -> None:
    said = "Enforcing job modify index 7: job exists with conflicting job modify index: 9"
    cluster.on("PUT", "/v1/jobs", (500, said))
    seen = nomadpy("job", "run", "-check-index", "7", job_file)
    assert seen.code == 1
    assert said in seen.err
    assert "run `nomadpy job plan` again" in seen.err


def test_warnings_of_the_agent_are_shown(nomadpy: Run, cluster: Any, job_file: str) -> None:
    cluster.on("PUT", "/v1/jobs", {"EvalID": "", "Warnings": "1 warning:\n\n* beware"})
    assert "* beware" in nomadpy("job", "run", job_file).out


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 1),
        ({"Annotations": {"DesiredTGUpdates": {"front": {"Ignore": 2}}}}, 0),
        ({"Annotations": {"DesiredTGUpdates": {"front": {"InPlaceUpdate": 2}}}}, 0),
        ({"Annotations": None, "FailedTGAllocs": {"front": p.failed_metrics()}}, 1),
    ],
)
def test_exit_codes_of_plan(nomadpy: Run, cluster: Any, job_file: str, change: dict[str, Any], code: int) -> None:
    cluster.on("PUT", "/v1/job/web/plan", {**p.plan(), **change})
    seen = nomadpy("job", "plan", job_file)
    assert seen.code == code
    assert "Job Modify Index: 10" in seen.out
    assert f"nomadpy job run -check-index 10 {job_file}" in seen.out
    assert cluster.asked("PUT", "/v1/job/web/plan").body["Diff"] is True


def test_a_plan_that_fails_exits_with_255(nomadpy: Run, cluster: Any, job_file: str) -> None:
    cluster.on("PUT", "/v1/job/web/plan", (500, "1 error occurred:\n\t* Missing job datacenters\n\n"))
    seen = nomadpy("plan", job_file)
    assert seen.code == 255
    assert "Missing job datacenters" in seen.err
    assert nomadpy("plan", "/no/such/file").code == 255


def test_a_missing_file_and_a_file_without_a_job(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    del cluster
    assert "Cannot read /no/such/file: No such file" in nomadpy("run", "/no/such/file").err
    path = tmp_path / "x.json"
    path.write_text("[1]")
    assert "holds no job" in nomadpy("run", "-json", str(path)).err
    path.write_text("{")
    assert "x.json" in nomadpy("run", str(path)).err
    path.write_text(" ")
    assert "is empty" in nomadpy("run", str(path)).err
    assert "Is a directory" in nomadpy("run", str(tmp_path)).err


def test_a_job_comes_from_stdin(nomadpy: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"ID": "web"}')))
    assert nomadpy("job", "run", "-json", "-detach", "-").code == 0
    assert cluster.asked("PUT", "/v1/jobs").body["Job"] == {"ID": "web"}


def test_validate(nomadpy: Run, cluster: Any, job_file: str) -> None:
    cluster.on("PUT", "/v1/validate/job", {"ValidationErrors": None, "Error": "", "Warnings": ""})
    assert nomadpy("validate", job_file).out == "Job validation successful\n"
    cluster.on("PUT", "/v1/validate/job", {"ValidationErrors": ["a is wrong", "b is wrong"], "Error": "x"})
    seen = nomadpy("job", "validate", job_file)
    assert seen.code == 1
    assert "  * a is wrong\n  * b is wrong" in seen.err
    nested = "Task group g: 1 error occurred:\n\t* Task t: 1 error occurred:\n\t* bad\n\n\n\n"
    cluster.on("PUT", "/v1/validate/job", {"ValidationErrors": [nested, "b is wrong"], "Error": "x"})
    assert nomadpy("job", "validate", job_file).err.endswith("occurred:\n\t* bad\n  * b is wrong\n")


def test_job_stop(nomadpy: Run, cluster: Any) -> None:
    cluster.on("DELETE", "/v1/job/web", {"EvalID": p.EVAL})
    assert nomadpy("stop", "-purge", "-detach", "web").out == f"Evaluation ID: {p.EVAL}\n"
    assert cluster.asked("DELETE", "/v1/job/web").query == {"namespace": ["default"], "purge": ["true"]}


def test_job_start_only_starts_what_is_stopped(nomadpy: Run, cluster: Any) -> None:
    assert "is not stopped" in nomadpy("job", "start", "web").err
    cluster.on("GET", "/v1/job/web", p.job(Stop=True, Status="dead"))
    assert nomadpy("job", "start", "-detach", "web").code == 0
    assert cluster.asked("PUT", "/v1/jobs").body["Job"]["Stop"] is False


def test_job_scale(nomadpy: Run, cluster: Any) -> None:
    cluster.on("PUT", "/v1/job/web/scale", {"EvalID": p.EVAL})
    cluster.on("GET", "/v1/job/web/scale", {"TaskGroups": {"front": {}}})
    assert nomadpy("job", "scale", "-detach", "web", "5").code == 0
    body = cluster.asked("PUT", "/v1/job/web/scale").body
    assert (body["Count"], body["Target"]) == (5, {"Job": "web", "Group": "front"})
    cluster.on("GET", "/v1/job/web/scale", {"TaskGroups": {"front": {}, "back": {}}})
    assert "name one of back, front" in nomadpy("job", "scale", "web", "5").err
    assert "must be a number" in nomadpy("job", "scale", "web", "front", "many").err


def test_job_revert_by_tag(nomadpy: Run, cluster: Any) -> None:
    versions = [p.job(Version=3), p.job(Version=1, VersionTag={"Name": "golden"})]
    cluster.on("GET", "/v1/job/web/versions", {"Versions": versions, "Diffs": [p.plan()["Diff"]]})
    cluster.on("PUT", "/v1/job/web/revert", {"EvalID": ""})
    assert nomadpy("job", "revert", "web", "golden").code == 0
    assert cluster.asked("PUT", "/v1/job/web/revert").body["JobVersion"] == 1
    assert 'no version with the tag "x"' in nomadpy("job", "revert", "web", "x").err
    shown = nomadpy("job", "history", "-p", "web").out
    assert shown.count("Version     = ") == 2
    assert '+/- Priority: "50" => "60"' in shown
    assert "it has 3, 1" in nomadpy("job", "history", "-version", "9", "web").err


def test_job_dispatch(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    payload = tmp_path / "p"
    payload.write_bytes(b"hello")
    cluster.on("PUT", "/v1/job/web/dispatch", {"DispatchedJobID": "web/dispatch-1-ab", "EvalID": p.EVAL})
    seen = nomadpy("job", "dispatch", "-detach", "-meta", "a=b=c", "-idempotency-token=t", "web", str(payload))
    assert "Dispatched Job ID = web/dispatch-1-ab" in seen.out
    request = cluster.asked("PUT", "/v1/job/web/dispatch")
    assert (request.body["Payload"], request.body["Meta"]) == ("aGVsbG8=", {"a": "b=c"})
    assert request.query["idempotency_token"] == ["t"]
    assert "ParameterizedJob" in cluster.asked("GET", "/v1/jobs").query["filter"][0]


def test_errors_of_the_api_are_shown(nomadpy: Run, cluster: Any) -> None:
    cluster.on("PUT", "/v1/job/nightly/periodic/force", (500, "can't force launch non-periodic job"))
    seen = nomadpy("job", "periodic", "force", "nightly")
    assert seen.code == 1
    assert seen.err.startswith("Error: can't force launch non-periodic job (HTTP 500")


def test_inspect_and_its_source(nomadpy: Run, cluster: Any) -> None:
    assert json.loads(nomadpy("inspect", "web").out)["Job"]["ID"] == "web"
    cluster.on("GET", "/v1/job/web/submission", {"Source": 'job "web" {}\n', "Format": "hcl2"})
    assert nomadpy("job", "inspect", "-hcl", "web").out == 'job "web" {}\n'


def test_node_status_and_eligibility(nomadpy: Run, cluster: Any) -> None:
    assert "Host Resource Utilization" in nomadpy("node", "status", "f7b2c").out
    cluster.on("PUT", f"/v1/node/{p.NODE}/eligibility", {})
    assert nomadpy("node", "eligibility", "-disable", "f7b2c").code == 0
    assert cluster.asked("PUT", f"/v1/node/{p.NODE}/eligibility").body["Eligibility"] == "ineligible"
    assert "either -enable or -disable" in nomadpy("node", "eligibility", "f7b2c").err


def test_a_node_that_cannot_be_asked_still_shows(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/client/stats", (404, "No path to node"))
    seen = nomadpy("node", "status", "f7b2c")
    assert seen.code == 0
    assert "could not be asked" in seen.err
    assert "Allocated Resources" in seen.out


def test_alloc_status(nomadpy: Run, cluster: Any) -> None:
    del cluster
    shown = nomadpy("alloc", "status", "-verbose", "a1a1a1").out
    assert "Placement Metrics" in shown
    assert "120/500 MHz" in shown
    assert "Placement Metrics" not in nomadpy("alloc", "status", "a1a1a1").out
    assert "shipper  running" in nomadpy("alloc", "status", "-short", "a1a1a1").out


def test_alloc_writes(nomadpy: Run, cluster: Any) -> None:
    base = f"/v1/client/allocation/{p.ALLOC}"
    for what in ("restart", "signal"):
        cluster.on("PUT", f"{base}/{what}", {"Index": 0})
    cluster.on("PUT", f"/v1/allocation/{p.ALLOC}/stop", {"EvalID": p.EVAL})
    assert nomadpy("alloc", "restart", "a1a1a1", "httpd").code == 0
    assert cluster.asked("PUT", f"{base}/restart").body == {"TaskName": "httpd", "AllTasks": False}
    assert nomadpy("alloc", "signal", "-s", "SIGHUP", "a1a1a1").code == 0
    assert cluster.asked("PUT", f"{base}/signal").body == {"Task": "", "Signal": "SIGHUP"}
    assert nomadpy("alloc", "stop", "-detach", "a1a1a1").out == f"{p.EVAL}\n"
    assert "it has httpd, shipper" in nomadpy("alloc", "restart", "a1a1a1", "nope").err


LOG = b"".join(b"line %d\n" % number for number in range(20))


def test_alloc_logs(nomadpy: Run, cluster: Any) -> None:
    path = f"/v1/client/fs/logs/{p.ALLOC}"
    cluster.on("GET", path, LOG)
    assert nomadpy("logs", "a1a1a1", "httpd").out == LOG.decode()
    assert cluster.asked("GET", path).query["type"] == ["stdout"]
    assert nomadpy("logs", "-stderr", "-tail", "-n", "2", "-task", "httpd", "a1a1a1").out == "line 18\nline 19\n"
    query = cluster.asked("GET", path).query
    assert (query["type"], query["origin"], query["offset"]) == (["stderr"], ["end"], ["240"])
    assert nomadpy("logs", "-f", "-tail", "a1a1a1", "httpd").out.count("\n") == 10
    assert cluster.asked("GET", path).query["follow"] == ["true"]
    assert "several tasks; name one of httpd, shipper" in nomadpy("logs", "a1a1a1").err
    assert "exclude each other" in nomadpy("logs", "-n", "1", "-c", "1", "a1a1a1", "httpd").err


def test_logs_of_a_job_take_a_running_allocation(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", f"/v1/client/fs/logs/{p.ALLOC}", LOG)
    assert nomadpy("alloc", "logs", "-job", "web", "httpd").out == LOG.decode()


def test_logs_of_a_job_take_an_allocation_that_has_the_task(nomadpy: Run, cluster: Any) -> None:
    others = [p.alloc_stub(f"{n:08d}-0000-0000-0000-000000000000", TaskStates={"db": {}}) for n in range(8)]
    mine = p.alloc_stub(ClientStatus="complete", TaskStates={"httpd": {}, "shipper": {}})
    cluster.on("GET", "/v1/job/web/allocations", [*others, mine])
    cluster.on("GET", f"/v1/client/fs/logs/{p.ALLOC}", LOG)
    assert nomadpy("logs", "-job", "-task", "httpd", "web").out == LOG.decode()
    said = nomadpy("logs", "-job", "-task", "nope", "web").err
    assert 'no allocation of job "web" has a task "nope"; they have db, httpd, shipper' in said


def test_alloc_fs(nomadpy: Run, cluster: Any) -> None:
    file = {"Name": "a.txt", "IsDir": False, "Size": 2048, "FileMode": "-rw-r--r--", "ModTime": "2026-09-21T14:00:00Z"}
    folder = {**file, "Name": "alloc", "IsDir": True}
    stat = f"/v1/client/fs/stat/{p.ALLOC}"
    cluster.on("GET", stat, lambda request: folder if request.query["path"] == ["/"] else file)
    cluster.on("GET", f"/v1/client/fs/ls/{p.ALLOC}", [file, folder])
    cluster.on("GET", f"/v1/client/fs/cat/{p.ALLOC}", b"hello")
    cluster.on("GET", f"/v1/client/fs/stream/{p.ALLOC}", b'{"Data":"YQpiCmMK"}{}')
    listed = nomadpy("alloc", "fs", "a1a1a1").out.splitlines()
    assert [line.split()[-1] for line in listed] == ["Name", "alloc/", "a.txt"]
    assert nomadpy("fs", "a1a1a1", "alloc/a.txt").out == "hello"
    assert "2 KiB" in nomadpy("fs", "-stat", "a1a1a1", "alloc/a.txt").out
    assert nomadpy("fs", "-tail", "-n", "1", "a1a1a1", "alloc/a.txt").out == "c\n"


def test_status_finds_out_what_an_id_is(nomadpy: Run, cluster: Any) -> None:
    cluster.on("PUT", "/v1/search", {"Matches": {"nodes": [p.NODE], "jobs": None}})
    assert "Host Resource Utilization" in nomadpy("status", "f7b2c").out
    cluster.on("PUT", "/v1/search", {"Matches": {"nodes": [p.NODE], "allocs": [p.ALLOC]}})
    assert "could be several things" in nomadpy("status", "f7").err
    cluster.on("PUT", "/v1/search", {"Matches": {}})
    assert 'nothing has an id that begins with "zz"' in nomadpy("status", "zz").err
    assert "nightly" in nomadpy("status").out


def test_server_members_and_the_missing_leader(nomadpy: Run, cluster: Any) -> None:
    tags = {"region": "global", "port": "4647", "dc": "dc1", "build": "0.1.0", "raft_vsn": "3"}
    member = {"Name": "a.global", "Addr": "10.0.0.1", "Port": 4648, "Status": "alive", "Tags": tags}
    cluster.on("GET", "/v1/agent/members", {"Members": [member]})
    cluster.on("GET", "/v1/status/leader", "10.0.0.1:4647")
    assert "alive   true" in nomadpy("server", "members").out
    cluster.on("GET", "/v1/status/leader", "")
    seen = nomadpy("server", "members")
    assert seen.code == 1
    assert 'region "global" has no leader' in seen.err


def test_scheduler_configuration_is_changed_by_compare_and_set(nomadpy: Run, cluster: Any) -> None:
    path = "/v1/operator/scheduler/configuration"
    config = {"SchedulerAlgorithm": "binpack", "PreemptionConfig": {"SystemSchedulerEnabled": True}, "ModifyIndex": 9}
    cluster.on("GET", path, {"SchedulerConfig": config})
    cluster.on("PUT", path, {"Updated": True})
    args = ("-scheduler-algorithm", "spread", "-preempt-service-scheduler=true")
    assert nomadpy("operator", "scheduler", "set-config", *args).code == 0
    request = cluster.asked("PUT", path)
    assert request.query["cas"] == ["9"]
    assert request.body["SchedulerAlgorithm"] == "spread"
    assert request.body["PreemptionConfig"] == {"SystemSchedulerEnabled": True, "ServiceSchedulerEnabled": True}
    assert "Scheduler Algorithm" in nomadpy("operator", "scheduler", "get-config").out
    cluster.on("PUT", path, {"Updated": False})
    assert "since index 9" in nomadpy("operator", "scheduler", "set-config", *args).err


def test_raft_peers(nomadpy: Run, cluster: Any) -> None:
    path = "/v1/operator/raft"
    peer = {"ID": "s1", "Node": "one.global", "Address": "10.0.0.1:4647", "Leader": True, "Voter": True}
    cluster.on("GET", f"{path}/configuration", {"Servers": [peer, {**peer, "ID": "s2", "Leader": False}], "Index": 4})
    seen = nomadpy("operator", "raft", "list-peers").out
    assert [word in seen for word in ("one.global", "s2", "leader", "follower")] == [True] * 4
    cluster.on("DELETE", f"{path}/peer", b"")
    assert nomadpy("operator", "raft", "remove-peer", "-peer-id", "s2").out == 'Removed peer with id "s2"\n'
    assert cluster.asked("DELETE", f"{path}/peer").query["id"] == ["s2"]
    assert "-peer-id is needed" in nomadpy("operator", "raft", "remove-peer").err
    moved = {"From": {"ID": "s1"}, "To": {"ID": "s2"}, "Noop": False, "Err": None}
    cluster.on("PUT", f"{path}/transfer-leadership", moved)
    transfer = ("operator", "raft", "transfer-leadership")
    seen = nomadpy(*transfer, "-peer-id=s2")
    assert (seen.err, seen.out) == ("", "Server s2 leads now\n")
    assert cluster.asked("PUT", f"{path}/transfer-leadership").query == {"id": ["s2"], **_region(cluster)}
    cluster.on("PUT", f"{path}/transfer-leadership", {**moved, "Err": "too far behind"})
    assert "not transferred: too far behind" in nomadpy(*transfer, "-peer-address", "10.0.0.2:4647").err
    assert "either -peer-id or -peer-address" in nomadpy(*transfer).err


def _region(cluster: Any) -> dict[str, list[str]]:
    """Parameters that every request of this session carries."""
    return {name: value for name, value in cluster.requests[-1].query.items() if name in ("region", "namespace")}


def test_the_autopilot_is_changed_by_compare_and_set(nomadpy: Run, cluster: Any) -> None:
    path = "/v1/operator/autopilot/configuration"
    config = {"CleanupDeadServers": True, "LastContactThreshold": "1s", "MinQuorum": 0, "ModifyIndex": 9}
    cluster.on("GET", path, config)
    cluster.on("PUT", path, True)
    args = ("operator", "autopilot", "set-config", "-cleanup-dead-servers=false", "-min-quorum", "3")
    assert nomadpy(*args).code == 0
    request = cluster.asked("PUT", path)
    assert request.query["cas"] == ["9"]
    assert request.body == {**config, "CleanupDeadServers": False, "MinQuorum": 3}
    assert "LastContactThreshold" in nomadpy("operator", "autopilot", "get-config").out
    cluster.on("PUT", path, False)
    assert "since index 9" in nomadpy(*args).err
    assert "expected true or false" in nomadpy("operator", "autopilot", "set-config", "-cleanup-dead-servers=no").err


def test_the_servers_health_is_shown_also_when_it_is_bad(nomadpy: Run, cluster: Any) -> None:
    path = "/v1/operator/autopilot/health"
    server = {"ID": "s1", "Name": "one.global", "SerfStatus": "alive", "Healthy": True, "LastContact": "50ms"}
    report = {"Healthy": True, "FailureTolerance": 1, "Servers": [server], "Leader": "s1", "Voters": ["s1"]}
    cluster.on("GET", path, report)
    seen = nomadpy("operator", "autopilot", "health")
    assert (seen.code, "one.global" in seen.out, "50ms" in seen.out) == (0, True, True)
    bad = {**report, "Healthy": False, "Servers": [{**server, "Healthy": False, "SerfStatus": "failed"}]}
    cluster.on("GET", path, lambda _request: (429, json.dumps(bad)))
    seen = nomadpy("operator", "autopilot", "health")
    assert (seen.code, "failed" in seen.out) == (2, True)
    assert json.loads(nomadpy("operator", "autopilot", "state", "-json").out)["Healthy"] is False
    cluster.on("GET", path, lambda _request: (429, "too many connections"))
    assert "too many connections" in nomadpy("operator", "autopilot", "health").err


def test_operator_api(nomadpy: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(nomadpy("operator", "api", "jobs?prefix=web").out)[0]["ID"] == "web"
    cluster.on("POST", "/v1/search", b"ok")
    assert nomadpy("operator", "api", "-d", "{}", "-H", "X-Extra: 1", "/v1/search").out == "ok"
    assert cluster.asked("POST", "/v1/search").headers["X-Extra"] == "1"
    monkeypatch.setenv("NOMAD_TOKEN", "s3cr3t")
    seen = nomadpy("operator", "api", "-dryrun", "jobs").out
    assert "$NOMAD_TOKEN" in seen
    assert "s3cr3t" not in seen


def test_monitor_prints_the_log(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/agent/monitor", b'{}{"Data":"aGVsbG8K"}')
    assert nomadpy("monitor", "-log-level=debug").out == "hello\n"
    assert cluster.asked("GET", "/v1/agent/monitor").query["log_level"] == ["debug"]


def test_top_in_a_pipe_prints_once(nomadpy: Run, cluster: Any) -> None:
    del cluster
    seen = nomadpy("top")
    assert seen.code == 0
    assert "1/2 ready" in seen.out
    assert "web.front[0]" in seen.out


def test_init_writes_a_file_once(nomadpy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert nomadpy("init").code == 0
    assert nomadpy("job", "init", "-short", "short.hcl").code == 0
    assert "exists already" in nomadpy("init").err
    assert nomadpy("fmt", "-check", "example.nomad.hcl", "short.hcl").code == 0


def test_fmt(nomadpy: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.nomad.hcl"
    path.write_text('job "a" {\ntype="batch"\n}\n')
    assert nomadpy("fmt", "-check", str(path)).code == 1
    assert path.read_text() == 'job "a" {\ntype="batch"\n}\n'
    assert "+  type" in nomadpy("fmt", "-diff", str(tmp_path)).out
    assert path.read_text() == 'job "a" {\n  type = "batch"\n}\n'
    path.write_text('job "a" {\n')
    assert "Unclosed" in nomadpy("fmt", str(path)).err


def test_following_outlives_an_agent_that_is_away(nomadpy: Run, cluster: Any, job_file: str) -> None:
    answers = iter([(500, "No cluster leader"), (500, "No cluster leader"), p.evaluation()])
    cluster.on("GET", f"/v1/evaluation/{p.EVAL}", lambda _: next(answers))
    assert nomadpy("run", job_file).code == 0


def test_following_gives_up_on_other_errors(nomadpy: Run, cluster: Any, job_file: str) -> None:
    cluster.on("GET", f"/v1/evaluation/{p.EVAL}", (404, "eval not found"))
    seen = nomadpy("run", job_file)
    assert seen.code == 1
    assert "eval not found" in seen.err


def test_a_periodic_job_tells_when_it_starts(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "cron.json"
    periodic = {"Enabled": True, "Spec": "0 0 * * *", "SpecType": "cron"}
    path.write_text(json.dumps({"ID": "cron", "Type": "batch", "Periodic": periodic}))
    cluster.on("PUT", "/v1/jobs", {"EvalID": "", "Warnings": ""})
    assert "Approximate next launch time: 20" in nomadpy("run", str(path)).out


def test_the_told_launch_is_the_one_the_server_makes() -> None:
    # Six fields begin with minutes and end with a year: this is every quarter of an hour, not every 15 seconds.
    noon_ns = 1_795_348_800 * 1_000_000_000
    job = {"Periodic": {"Enabled": True, "Spec": "*/15 * * * * *"}}
    assert next_launch(job, noon_ns) == noon_ns + 15 * 60 * 1_000_000_000
    assert next_launch({"Periodic": {"Enabled": True, "Spec": "@fortnightly"}}, noon_ns) == 0


HCL = """
variable "count" { type = number }

job "web" {
  group "front" {
    count = var.count
    task "httpd" { driver = "raw_exec" }
  }
}
"""


def test_a_job_file_in_hcl_is_read_here(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    path, values = tmp_path / "web.nomad.hcl", tmp_path / "values.hcl"
    path.write_text(HCL)
    values.write_text("count = 4\n")
    assert nomadpy("job", "run", "-detach", "-var", "count=3", str(path)).code == 0
    body = cluster.asked("PUT", "/v1/jobs").body
    assert (body["Job"]["ID"], body["Job"]["TaskGroups"][0]["Count"]) == ("web", 3)
    assert body["Submission"]["Source"] == HCL
    assert body["Submission"]["VariableFlags"] == {"count": "3"}
    assert nomadpy("job", "run", "-detach", f"-var-file={values}", str(path)).code == 0
    assert cluster.asked("PUT", "/v1/jobs").body["Job"]["TaskGroups"][0]["Count"] == 4
    assert json.loads(nomadpy("run", "-output", "-var=count=1", str(path)).out)["Job"]["ID"] == "web"


def test_mistakes_in_a_job_file_are_pointed_at(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "web.nomad.hcl"
    path.write_text('job "web" {\n  grup "x" {}\n}\n')
    seen = nomadpy("job", "run", str(path))
    assert seen.code == 1
    assert "web.nomad.hcl:2" in seen.err
    assert 'Did you mean "group"?' in seen.err
    assert "^" in seen.err
    assert nomadpy("job", "plan", str(path)).code == 255
    assert "-var wants name=value" in nomadpy("run", "-var", "x", str(path)).err
    assert cluster.requests == []


def test_undeclared_variables_are_refused_unless_told(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    del cluster
    path = tmp_path / "web.nomad.hcl"
    path.write_text('job "web" {\n  group "g" {\n    task "t" { driver = "raw_exec" }\n  }\n}\n')
    assert nomadpy("run", "-detach", "-var=x=1", str(path)).code == 1
    assert nomadpy("run", "-detach", "-hcl2-strict=false", "-var=x=1", str(path)).code == 0


def test_what_was_dispatched_shows_its_own_allocations(nomadpy: Run, cluster: Any) -> None:
    dispatched = p.job(ParameterizedJob={"Payload": "optional"}, Dispatched=True)
    cluster.on("GET", "/v1/job/web", dispatched)
    shown = nomadpy("job", "status", "web").out
    assert "\nAllocations\n" in shown
    assert "Dispatched Jobs" not in shown
    cluster.on("GET", "/v1/job/web", {**dispatched, "Dispatched": False})
    assert "Children Job Summary" in nomadpy("job", "status", "web").out


def test_a_job_file_in_yaml(nomadpy: Run, cluster: Any, tmp_path: Path) -> None:
    path = tmp_path / "web.yaml"
    task = "{driver: raw_exec, config: {command: /bin/echo}}"
    path.write_text(f"job:\n  web:\n    group:\n      front:\n        task:\n          httpd: {task}\n")
    assert nomadpy("run", "-detach", str(path)).code == 0
    body = cluster.asked("PUT", "/v1/jobs").body
    assert body["Job"]["TaskGroups"][0]["Tasks"][0]["Driver"] == "raw_exec"
    assert body["Submission"]["Format"] == "yaml"


def test_a_failed_task_is_shown_with_its_last_words(nomadpy: Run, cluster: Any) -> None:
    tasks = {"httpd": {"State": "dead", "Failed": True, "Events": []}}
    cluster.on("GET", f"/v1/allocation/{p.ALLOC}", p.alloc(ClientStatus="failed", TaskStates=tasks))
    assert "Last Lines" not in nomadpy("alloc", "status", "a1a1a1").out
    cluster.on("GET", f"/v1/client/fs/logs/{p.ALLOC}", LOG)
    shown = nomadpy("alloc", "status", "a1a1a1").out
    assert "Last Lines on stderr:\nline 15\nline 16\nline 17\nline 18\nline 19\n" in shown


def test_plan_asks_for_why_and_capacity_and_shows_both(nomadpy: Run, cluster: Any, job_file: str) -> None:
    answer = {**p.plan(), "Why": {"front": p.explanation()}, "Capacity": {"Groups": {"front": p.room()}}}
    cluster.on("PUT", "/v1/job/web/plan", answer)
    seen = nomadpy("job", "plan", "-why", "-without", "n1", "-with", "4000,8192x3", job_file)
    assert seen.code == 1
    assert 'Why: Task Group "front"' in seen.out
    assert "Capacity after this plan" in seen.out
    body = cluster.asked("PUT", "/v1/job/web/plan").body
    assert (body["Why"], body["Capacity"], body["Without"], body["With"]) == (True, True, ["n1"], ["4000,8192x3"])
    printed = nomadpy("job", "plan", "-json-output", job_file)
    assert json.loads(printed.out) == answer
    assert "Why" not in cluster.asked("PUT", "/v1/job/web/plan").body


def test_capacity_of_a_registered_job(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/job/web/capacity", {"Groups": {"front": p.room()}})
    seen = nomadpy("job", "capacity", "-without", "n1", "-without", "n2", "-with=1,2", "web")
    assert "front       7" in seen.out
    query = cluster.asked("GET", "/v1/job/web/capacity").query
    assert (query["without"], query["with"]) == (["n1", "n2"], ["1,2"])


def _members() -> list[dict[str, Any]]:
    tags = {"region": "global", "port": "4647", "build": "2.0.0"}
    return [
        {
            "Name": f"s{number}.global",
            "Addr": f"10.0.0.{number}",
            "Port": 4648,
            "Status": "alive" if number < 3 else "failed",
            "Tags": {**tags, "id": f"id-{number}"},
            "Health": {"CPU": 0.95, "Memory": 0.1, "Disk": 0.2, "IOPressure": None, "UnhealthyDrivers": ["docker"]},
        }
        for number in (1, 2, 3)
    ]


def test_server_members_in_detail_show_raft_and_health(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/agent/members", {"Members": _members()})
    cluster.on("GET", "/v1/status/leader", "10.0.0.2:4647")
    report = {"Servers": [{"ID": "id-2", "Healthy": True, "Voter": True}, {"ID": "id-3", "Healthy": False}]}
    cluster.on("GET", "/v1/operator/autopilot/health", (429, json.dumps(report)))
    seen = nomadpy("server", "members", "-detailed")
    assert seen.code == 0
    first, second, third = seen.out.split("\n\n")
    assert "Raft" not in first
    assert "Leader            = true" in second
    assert "Raft              = healthy" in second
    assert "Raft              = not healthy" in third
    assert "95%" in third
    assert "IO Pressure       = not measured" in third
    assert "Unhealthy Drivers = docker" in third


def test_a_failed_server_does_not_lead_even_if_it_is_still_named(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/agent/members", {"Members": _members()})
    cluster.on("GET", "/v1/status/leader", "10.0.0.3:4647")
    assert [line.split()[4] for line in nomadpy("server", "members").out.splitlines()[1:]] == ["false"] * 3


def test_joining_says_whom_it_did_not_find(nomadpy: Run, cluster: Any) -> None:
    cluster.on("PUT", "/v1/agent/join", {"num_joined": 1, "error": "cannot join x: no"})
    seen = nomadpy("server", "join", "10.0.0.1", "x")
    assert (seen.code, seen.out) == (1, "Joined 1 servers successfully\n")
    assert "cannot join x: no" in seen.err
    assert cluster.asked("PUT", "/v1/agent/join").query["address"] == ["10.0.0.1", "x"]
    cluster.on("PUT", "/v1/agent/join", {"num_joined": 0, "error": "cannot join x: no"})
    assert nomadpy("server", "join", "x").code == 1


def test_a_server_is_let_go_by_either_name(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/agent/members", {"Members": _members()})
    cluster.on("PUT", "/v1/agent/force-leave", None)
    assert nomadpy("server", "force-leave", "-prune", "s3").out == "Server s3.global was forgotten\n"
    assert cluster.asked("PUT", "/v1/agent/force-leave").query == {"node": ["s3.global"], "prune": ["true"]}
    seen = nomadpy("server", "force-leave", "s1")
    assert (seen.code, "s1.global is alive and stays" in seen.err) == (1, True)
    seen = nomadpy("server-force-leave", "s9")
    assert (seen.code, "s1.global, s2.global, s3.global" in seen.err) == (1, True)


def test_gossip_keys(nomadpy: Run, cluster: Any) -> None:
    key = nomadpy("operator", "gossip", "keyring", "generate").out.strip()
    assert len(nomadpy("operator", "keygen").out.strip()) == len(key) == 44
    answer = {"Keys": {key: 3, "b2xk": 2}, "PrimaryKeys": {key: 3}, "NumNodes": 3, "Messages": None}
    cluster.on("GET", "/v1/agent/keyring/list", answer)
    listed = nomadpy("operator", "gossip", "keyring", "list").out.splitlines()
    assert sorted(line.split() for line in listed[1:]) == sorted([[key, "3/3", "3/3"], ["b2xk", "2/3", "-"]])
    assert nomadpy("operator", "keyring", "-list-keys").out.splitlines() == listed
    cluster.on("GET", "/v1/agent/members", {"Members": _members()})
    for action in ("install", "use", "remove"):
        cluster.on("PUT", f"/v1/agent/keyring/{action}", {})
        seen = nomadpy("operator", "gossip", "keyring", action, key)
        assert (seen.code, "not told, because gossip does not reach them: s3.global;" in seen.err) == (0, True)
        assert nomadpy("operator", "gossip", "keyring", f"-{action}", key).code == 0
        assert cluster.asked("PUT", f"/v1/agent/keyring/{action}").body == {"Key": key}
        assert nomadpy("operator", "gossip", "keyring", action).code == 1
    cluster.on("GET", "/v1/agent/keyring/list", {**answer, "Messages": {"s3.global": "no answer"}})
    seen = nomadpy("operator", "gossip", "keyring", "list")
    assert (seen.code, "s3.global: no answer" in seen.err) == (1, True)


def test_the_servers_of_a_client(nomadpy: Run, cluster: Any) -> None:
    cluster.on("GET", "/v1/agent/servers", ["10.0.0.1:4647", "10.0.0.2:4647"])
    cluster.on("PUT", "/v1/agent/servers", None)
    assert nomadpy("node", "config", "-servers").out == "10.0.0.1:4647\n10.0.0.2:4647\n"
    assert nomadpy("node", "config", "-update-servers", "a", "b:1").code == 0
    assert cluster.asked("PUT", "/v1/agent/servers").query["address"] == ["a", "b:1"]
    assert nomadpy("node", "config").code == nomadpy("node", "config", "x").code == 1


def test_the_health_of_nodes_is_shown_where_it_is_asked_for(nomadpy: Run, cluster: Any) -> None:
    health = {"Gossip": "alive", "CPU": 0.2, "Memory": 0.8, "Disk": 0.1, "IOPressure": None, "UnhealthyDrivers": []}
    nodes = [p.node_stub(Health=health), p.node_stub(Health={**health, "Gossip": "failed"}), p.node_stub(Health=None)]
    cluster.on("GET", "/v1/nodes", nodes)
    lines = nomadpy("node", "status", "-health").out.splitlines()
    assert [line.split()[-1] for line in lines] == ["Health", "80%", "failed", "-"]
    assert cluster.asked("GET", "/v1/nodes").query["health"] == ["true"]
    cluster.on("GET", f"/v1/node/{p.NODE}", p.node(Health=health))
    assert "Memory            = ████████░░  80%" in nomadpy("node", "status", p.NODE).out
