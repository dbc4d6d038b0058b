"""What all reads have in common: blocking, pages, filters, flags, encodings, paths and methods."""

from __future__ import annotations

import gzip
import json
import threading
import time
from typing import Any

import httpx
import pytest
from agent import Agent, job, until

UNKNOWN = "00000000-1111-2222-3333-444444444444"


# --- blocking ---


def in_background(dev: Agent, path: str, **params: Any) -> tuple[threading.Thread, list[httpx.Response]]:
    """Asks again and again, as clients do, because a wait may end without a change that matters to it."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        answer = httpx.get(dev.address + path, params=params, timeout=30)
        while answer.status_code == 404 or answer.json() == []:
            params["index"] = answer.headers["X-Nomad-Index"]
            answer = httpx.get(dev.address + path, params=params, timeout=30)
        answers.append(answer)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, answers


def test_a_blocking_read_wakes_when_its_table_changes(dev: Agent, job_id: str) -> None:
    index = int(dev.http.get("/v1/jobs").headers["X-Nomad-Index"])
    thread, answers = in_background(dev, "/v1/jobs", index=index, wait="20s", prefix=job_id)
    thread.join(0.2)
    assert thread.is_alive()
    dev.run(job(job_id))
    thread.join(5)
    (answer,) = answers
    assert [stub["ID"] for stub in answer.json()] == [job_id]
    assert int(answer.headers["X-Nomad-Index"]) > index


def test_a_blocking_read_of_one_object_ignores_others(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, Stop=True))
    index = until(lambda: dev.get(f"/v1/job/{job_id}")["ModifyIndex"], "the job")
    dev.run(job(f"{job_id}-other", Stop=True))
    started = time.monotonic()
    answer = dev.http.get(f"/v1/job/{job_id}/submission", params={"version": 0, "index": 1, "wait": "100ms"})
    assert answer.status_code == 404
    answer = dev.http.get(f"/v1/job/{job_id}", params={"index": index + 1000, "wait": "300ms"})
    assert answer.status_code == 200
    assert 0.2 < time.monotonic() - started < 3
    dev.delete(f"/v1/job/{job_id}-other", purge="true")


def test_a_blocking_read_of_nothing_wakes_when_it_appears(dev: Agent, job_id: str) -> None:
    index = int(dev.http.get(f"/v1/job/{job_id}").headers["X-Nomad-Index"])
    thread, answers = in_background(dev, f"/v1/job/{job_id}", index=max(index, 1), wait="20s")
    thread.join(0.2)
    assert thread.is_alive()
    dev.run(job(job_id))
    thread.join(5)
    assert answers[0].status_code == 200


def test_the_end_of_the_wait_is_no_error(dev: Agent) -> None:
    started = time.monotonic()
    answer = dev.http.get("/v1/deployments", params={"index": 10**9, "wait": "300ms"})
    assert answer.status_code == 200
    assert 0.29 < time.monotonic() - started < 3


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/allocations", "/v1/nodes", "/v1/evaluations", "/v1/namespaces"])
def test_bad_parameters_of_blocking(dev: Agent, path: str) -> None:
    for bad in ("x", "-1", "1.5", "1e3", "99999999999999999999999", "٣"):
        assert dev.get(path, status=400, index=bad) == "Invalid index"
    for bad in ("x", "-1s", "10", "1 s"):
        assert dev.get(path, status=400, wait=bad) == "Invalid wait time"
    assert dev.http.get(path, params={"index": 2**64 - 1, "wait": "1ms"}).status_code == 200


@pytest.mark.parametrize(("value", "ok"), [("", 1), ("true", 1), ("0", 1), ("T", 1), ("maybe", 0), ("2", 0)])
def test_stale(dev: Agent, value: str, ok: bool) -> None:
    answer = dev.http.get("/v1/jobs", params={"stale": value})
    assert answer.status_code == (200 if ok else 400)
    if not ok:
        assert answer.text == "Expect `true` or `false` for `stale` query string parameter"


def test_regions(dev: Agent) -> None:
    assert dev.http.get("/v1/jobs", params={"region": "global"}).status_code == 200
    assert dev.get("/v1/jobs", status=500, region="mars") == "No path to region"


def test_every_index_grows_and_is_never_zero_again(dev: Agent, job_id: str) -> None:
    paths = ("/v1/jobs", "/v1/evaluations", "/v1/nodes", "/v1/namespaces", "/v1/node/pools")
    before = {path: int(dev.http.get(path).headers["X-Nomad-Index"]) for path in paths}
    dev.run(job(job_id))
    dev.delete(f"/v1/job/{job_id}", purge="true")
    after = {path: int(dev.http.get(path).headers["X-Nomad-Index"]) for path in paths}
    assert after["/v1/jobs"] > before["/v1/jobs"]
    assert all(after[path] >= before[path] > 0 for path in ("/v1/nodes", "/v1/namespaces", "/v1/node/pools"))


# --- pages, order, filters ---


@pytest.fixture(scope="module")
def five(shared_agent: Agent) -> Any:
    """Five stopped jobs in two namespaces whose names sort badly beside a dot."""
    shared_agent.put("/v1/namespace", {"Name": "pg-a"})
    shared_agent.put("/v1/namespace", {"Name": "pg"})
    names = [("pg", "page-x"), ("pg", "page.y"), ("pg-a", "page-a"), ("pg-a", "page-b"), ("default", "page-9")]
    for namespace, name in names:
        shared_agent.put("/v1/jobs", {"Job": job(name, Stop=True, Meta={"n": name})}, namespace=namespace)
    yield sorted(names)
    for namespace, name in names:
        shared_agent.delete(f"/v1/job/{name}", namespace=namespace, purge="true")
    shared_agent.put("/v1/system/gc")


def walk(dev: Agent, path: str, **params: Any) -> list[Any]:
    """All rows of a list, two at a time."""
    rows: list[Any] = []
    while True:
        answer = dev.http.get(path, params={**params, "per_page": 2})
        assert answer.status_code == 200, answer.text
        assert len(answer.json()) <= 2
        rows += answer.json()
        token = answer.headers.get("X-Nomad-NextToken")
        if not token:
            return rows
        params["next_token"] = token


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_of_jobs(dev: Agent, five: Any, reverse: bool) -> None:
    found = walk(dev, "/v1/jobs", namespace="*", prefix="page", reverse=str(reverse).lower())
    assert [(stub["Namespace"], stub["ID"]) for stub in found] == (five[::-1] if reverse else five)


@pytest.mark.parametrize("path", ["/v1/evaluations", "/v1/allocations", "/v1/deployments", "/v1/jobs/statuses"])
@pytest.mark.parametrize("reverse", ["true", "false"])
def test_pages_hold_the_same_as_the_whole_list(dev: Agent, five: Any, path: str, reverse: str) -> None:
    whole = dev.get(path, namespace="*", reverse=reverse)
    assert [row["ID"] for row in walk(dev, path, namespace="*", reverse=reverse)] == [row["ID"] for row in whole]


def test_lists_by_age_and_by_id(dev: Agent, five: Any) -> None:
    evals = dev.get("/v1/evaluations", namespace="*")
    ages = [one["CreateIndex"] for one in evals]
    assert ages == sorted(ages)
    prefix = evals[0]["ID"][:2]
    ids = [one["ID"] for one in dev.get("/v1/evaluations", namespace="*", prefix=prefix)]
    assert ids == sorted(ids)
    assert all(one.startswith(prefix) for one in ids)


def test_a_token_whose_row_is_gone_goes_on_behind_it(dev: Agent, five: Any) -> None:
    found = dev.get("/v1/jobs", namespace="*", prefix="page", next_token="pg.page-z")
    assert [stub["ID"] for stub in found] == ["page.y", "page-a", "page-b"]


@pytest.mark.parametrize("bad", ["x", "-1", "1.5", str(2**31)])
def test_bad_page_sizes(dev: Agent, bad: str) -> None:
    assert dev.get("/v1/jobs", status=400, per_page=bad) == "Expect a number for `per_page` query string parameter"


def test_a_token_of_the_wrong_kind(dev: Agent) -> None:
    assert "next_token" in dev.get("/v1/evaluations", status=400, next_token="not-a-number.x")


def test_filters_see_the_whole_object_and_come_before_the_page(dev: Agent, five: Any) -> None:
    answer = dev.http.get("/v1/jobs", params={"namespace": "*", "filter": 'Meta.n == "page-b"', "per_page": 1})
    assert [stub["ID"] for stub in answer.json()] == ["page-b"]
    assert "X-Nomad-NextToken" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/nodes", "/v1/evaluations", "/v1/allocations", "/v1/deployments"])
def test_filters_that_do_not_parse(dev: Agent, path: str) -> None:
    for bad in ("((", "ID ==", 'ID == "x" and', "\0"):
        text = dev.get(path, status=400, filter=bad)
        assert text.startswith("failed to create result paginator: failed to read filter expression: ")


def test_filters_that_name_nothing(dev: Agent, five: Any) -> None:
    text = dev.get("/v1/jobs", status=400, namespace="*", filter='Bogus == "x"')
    assert text.startswith(("failed to read result page: ", "failed to create result paginator"))


def test_evaluation_filters_do_not_mix(dev: Agent) -> None:
    text = dev.get("/v1/evaluations", status=400, filter='Status == "complete"', job="x")
    assert text == "Filter expression cannot be used with other filter parameters"


def test_namespaces_of_lists(dev: Agent, five: Any) -> None:
    assert [stub["ID"] for stub in dev.get("/v1/jobs", namespace="pg")] == ["page-x", "page.y"]
    assert {stub["Namespace"] for stub in dev.get("/v1/jobs", namespace="*", prefix="page")} == {
        "pg",
        "pg-a",
        "default",
    }
    assert dev.get("/v1/jobs", namespace="nope") == []
    assert dev.get("/v1/job/page-x", status=404) == "job not found"
    assert dev.get("/v1/job/page-x", namespace="pg")["ID"] == "page-x"
    assert dev.get("/v1/job/page-x", status=404, namespace="*") == "job not found"


# --- flags and ids ---


@pytest.mark.parametrize(
    ("path", "flag", "status", "prefix"),
    [
        ("/v1/allocations", "resources", 500, ""),
        ("/v1/allocations", "task_states", 500, ""),
        ("/v1/jobs", "meta", 500, ""),
        ("/v1/nodes", "resources", 400, "Failed to parse node list fields: "),
        ("/v1/nodes", "os", 400, "Failed to parse node list fields: "),
    ],
)
def test_bad_flags(dev: Agent, path: str, flag: str, status: int, prefix: str) -> None:
    text = dev.get(path, status=status, **{flag: "maybe"})
    assert text.startswith(f'{prefix}Failed to parse value of "{flag}" (maybe) as a bool: ')
    for good in ("True", "False", "1", "", "f"):
        assert dev.http.get(path, params={flag: good}).status_code == 200


@pytest.mark.parametrize("kind", ["allocation", "evaluation", "deployment", "node"])
def test_ids_of_the_wrong_length_are_500(dev: Agent, kind: str) -> None:
    for bad in ("x", UNKNOWN[:8], UNKNOWN + "0"):
        assert "index error: UUID must be 36 characters" in dev.get(f"/v1/{kind}/{bad}", status=500)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("allocation", "alloc not found"),
        ("evaluation", "eval not found"),
        ("deployment", "deployment not found"),
        ("node", "node not found"),
    ],
)
def test_unknown_ids_are_404(dev: Agent, kind: str, text: str) -> None:
    answer = dev.http.get(f"/v1/{kind}/{UNKNOWN}")
    assert (answer.status_code, answer.text) == (404, text)
    assert "X-Nomad-Index" in answer.headers


@pytest.mark.parametrize("path", ["/v1/allocations", "/v1/evaluations", "/v1/deployments", "/v1/nodes"])
def test_prefixes_of_odd_length_are_500(dev: Agent, path: str) -> None:
    assert "Input (without hyphens) must be even length" in dev.get(path, status=500, prefix="abc")
    assert isinstance(dev.get(path, prefix="ab"), list)
    assert dev.get(path, prefix=UNKNOWN) == []


def test_an_evaluation_and_its_relatives(dev: Agent, job_id: str) -> None:
    eval_id = dev.run(job(job_id))["EvalID"]
    dev.wait_allocs(job_id)
    found = dev.get(f"/v1/evaluation/{eval_id}", related="true")
    assert found["JobID"] == job_id
    assert "Wait" not in found  # an evaluation leaves out what is empty
    assert [stub["JobID"] for stub in dev.get(f"/v1/evaluation/{eval_id}/allocations")] == [job_id]
    assert dev.get(f"/v1/evaluation/{UNKNOWN}/allocations") == []
    assert dev.get("/v1/evaluations/count", filter=f'JobID == "{job_id}"')["Count"] == 1


# --- encodings, paths, methods ---


def test_pretty(dev: Agent) -> None:
    for value in ("", "1", "true"):
        text = dev.http.get("/v1/nodes", params={"pretty": value}).text
        assert text.startswith('[\n    {\n        "')
        assert text.endswith("]\n")
    assert "\n" not in dev.http.get("/v1/nodes", params={"pretty": "0"}).text


def test_gzip(dev: Agent) -> None:
    plain = dev.http.get("/v1/nodes", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    with dev.http.stream("GET", "/v1/nodes", headers={"Accept-Encoding": "gzip"}) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert json.loads(gzip.decompress(b"".join(packed.iter_raw()))) == plain.json()


def test_no_html_escaping(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, Stop=True, Meta={"a": "<&>"}))
    assert '"a":"<&>"' in dev.http.get(f"/v1/job/{job_id}").text


def test_the_root_leads_to_the_pages(dev: Agent) -> None:
    answer = dev.http.get("/")
    assert (answer.status_code, answer.headers["Location"]) == (307, "/ui/")


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/", "/v1/nothing", "/v2/jobs", "/v1/jobs/x/y", "/v1/node/"])
def test_unknown_paths_are_404_without_a_body(dev: Agent, path: str) -> None:
    answer = dev.http.get(path)
    assert (answer.status_code, answer.content) == (404, b"")


@pytest.mark.parametrize(
    ("path", "clean"),
    [("//v1//jobs", "/v1/jobs"), ("/v1/./jobs?a=b", "/v1/jobs?a=b"), ("/v1/x/../jobs", "/v1/jobs")],
)
def test_paths_are_cleaned_by_a_redirect(dev: Agent, path: str, clean: str) -> None:
    import http.client

    connection = http.client.HTTPConnection(dev.address.removeprefix("http://"))
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, clean)
    connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/jobs"), ("GET", "/v1/jobs/parse"), ("PUT", "/v1/nodes"), ("POST", "/v1/evaluation/x"),
        ("DELETE", "/v1/allocations"), ("GET", "/v1/validate/job"), ("POST", "/v1/system/gc"), ("PUT", "/v1/regions"),
        ("GET", "/v1/job/x/plan"), ("PATCH", "/v1/job/x"), ("PUT", "/v1/metrics"), ("GET", "/v1/search"),
    ],
)  # fmt: skip
def test_wrong_methods(dev: Agent, method: str, path: str) -> None:
    answer = dev.http.request(method, path)
    assert (answer.status_code, answer.text) == (405, "Invalid method")


def test_head_is_a_get_without_the_body(dev: Agent) -> None:
    answer = dev.http.head("/v1/jobs")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "X-Nomad-Index" in answer.headers


@pytest.mark.parametrize("path", ["/v1/sentinel/policies", "/v1/quotas", "/v1/quota/x", "/v1/recommendations"])
def test_the_paid_edition(dev: Agent, path: str) -> None:
    assert dev.get(path, status=501) == "Nomad Enterprise only endpoint"


@pytest.mark.parametrize("path", ["/v1/acl/tokens", "/v1/vars", "/v1/services", "/v1/event/stream", "/v1/volumes"])
def test_what_is_not_built_yet_says_so(dev: Agent, path: str) -> None:
    assert dev.get(path, status=501) == f"{path} is not supported by this version of nomadpy"
