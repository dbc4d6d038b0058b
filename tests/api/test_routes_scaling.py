"""Scaling policies, tags of versions and fuzzy search, asked over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from agent import Agent, group, job

from nomadpy.model.scaling import policy_id

_POLICY = {"Min": 1, "Max": 5, "Enabled": True, "Policy": {"cooldown": "1m"}}


def register(dev: Agent, job_id: str, **changes: Any) -> Any:
    return dev.put("/v1/jobs", {"Job": job(job_id, **changes)})


def scaled(maximum: int = 5) -> dict[str, Any]:
    return {**group(), "Scaling": {**_POLICY, "Max": maximum}}


# --- scaling policies ---


def test_the_policies_of_a_job_are_listed_and_read(dev: Agent, job_id: str) -> None:
    registered = register(dev, job_id, TaskGroups=[scaled()])
    [stub] = dev.get("/v1/scaling/policies", job=job_id)
    assert stub == {
        "ID": policy_id("default", job_id, "g"),
        "Enabled": True,
        "Type": "horizontal",
        "Target": {"Namespace": "default", "Job": job_id, "Group": "g"},
        "CreateIndex": registered["JobModifyIndex"],
        "ModifyIndex": registered["JobModifyIndex"],
    }
    policy = dev.get(f"/v1/scaling/policy/{stub['ID']}")
    assert (policy["Min"], policy["Max"], policy["Policy"]) == (1, 5, {"cooldown": "1m"})


def test_a_policy_keeps_its_id_and_knows_when_it_changed(dev: Agent, job_id: str) -> None:
    first = register(dev, job_id, TaskGroups=[scaled()])["JobModifyIndex"]
    register(dev, job_id, TaskGroups=[scaled()], Priority=60)
    [same] = dev.get("/v1/scaling/policies", job=job_id)
    assert (same["CreateIndex"], same["ModifyIndex"]) == (first, first)
    third = register(dev, job_id, TaskGroups=[scaled(9)])["JobModifyIndex"]
    [changed] = dev.get("/v1/scaling/policies", job=job_id)
    assert (changed["ID"], changed["CreateIndex"], changed["ModifyIndex"]) == (same["ID"], first, third)


@pytest.mark.parametrize("query", [{"type": "vertical"}, {"job": "nobody"}, {"prefix": "zz"}, {"namespace": "other"}])
def test_the_list_of_policies_is_narrowed(dev: Agent, job_id: str, query: dict[str, str]) -> None:
    register(dev, job_id, TaskGroups=[scaled()])
    assert dev.get("/v1/scaling/policies", **query) == []


def test_an_unknown_policy_is_404_with_the_index_headers(dev: Agent) -> None:
    answer = dev.http.get("/v1/scaling/policy/none")
    assert (answer.status_code, answer.text) == (404, "policy not found")
    assert int(answer.headers["X-Nomad-Index"]) >= 1


# --- tags of versions ---


def test_a_version_is_tagged_reverted_to_and_untagged(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    register(dev, job_id, Priority=60)
    path = f"/v1/job/{job_id}/versions/golden/tag"
    told = dev.put(path, {"Version": 0, "Description": "works"})
    assert (told["Name"], told["Description"]) == ("golden", "works")
    assert told["TaggedTime"] > 0
    versions = dev.get(f"/v1/job/{job_id}/versions", diffs="true", diff_tag="golden")
    assert [(one["VersionTag"] or {}).get("Name") for one in versions["Versions"]] == [None, "golden"]
    assert [diff["Type"] for diff in versions["Diffs"]] == ["Edited", "None"]
    assert dev.delete(path)["Name"] == "golden"
    assert dev.get(f"/v1/job/{job_id}/versions")["Versions"][1]["VersionTag"] is None


def test_without_a_version_the_current_one_is_tagged(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    register(dev, job_id, Priority=60)
    dev.put(f"/v1/job/{job_id}/versions/now/tag", {})
    assert dev.get(f"/v1/job/{job_id}/versions")["Versions"][0]["VersionTag"]["Name"] == "now"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"Version": 7}, "version 7 not found"),
        ({"Version": 1}, 'tag "golden" already exists on a different version of job "'),
        ({"Version": 1, "Latest": True}, "version must be zero when tagging latest, got: 1"),
    ],
)
def test_tags_that_cannot_be_are_refused(dev: Agent, job_id: str, body: Any, text: str) -> None:
    register(dev, job_id)
    register(dev, job_id, Priority=60)
    path = f"/v1/job/{job_id}/versions/golden/tag"
    dev.put(path, {"Version": 0})
    assert text in dev.put(path, body, status=500)


def test_taking_away_a_tag_that_is_not_there_is_refused(dev: Agent, job_id: str) -> None:
    register(dev, job_id)
    assert dev.delete(f"/v1/job/{job_id}/versions/gold/tag", status=500) == f'tag "gold" not found on job "{job_id}"'


# --- fuzzy search ---


def test_fuzzy_search_finds_names_inside_jobs(dev: Agent, job_id: str) -> None:
    register(dev, job_id, TaskGroups=[{**group(), "Name": "FrontDoor"}])
    matches = dev.put("/v1/search/fuzzy", {"Text": "ontdo", "Context": "jobs"})["Matches"]
    assert matches == {"jobs": [], "groups": [{"ID": "FrontDoor", "Scope": ["default", job_id]}]}
    [found] = [one for one in dev.put("/v1/search/fuzzy", {"Text": job_id})["Matches"]["jobs"] if one["ID"] == job_id]
    assert found["Scope"] == ["default", job_id]


def test_fuzzy_search_puts_early_and_short_matches_first(dev: Agent, job_id: str) -> None:
    names = ("xx-needle", "needle-long", "needle")
    register(dev, job_id, TaskGroups=[{**group(), "Name": name} for name in names])
    found = dev.put("/v1/search/fuzzy", {"Text": "NEEDLE"})["Matches"]["groups"]
    assert [one["ID"] for one in found] == ["needle", "needle-long", "xx-needle"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"Text": "a"}, "fuzzy search query must be at least 2 characters, got 1"),
        ({"Text": "ab", "Context": "nonsense"}, "or 'all' for all contexts; got \"nonsense\""),
    ],
)
def test_fuzzy_questions_that_make_no_sense_are_refused(dev: Agent, body: Any, text: str) -> None:
    assert text in dev.put("/v1/search/fuzzy", body, status=500)
