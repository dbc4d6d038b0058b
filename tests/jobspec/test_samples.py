"""The sample files in jobs/: each can be run as it is, and is what its name says."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from nomadpy.drivers.docker.options import TASK_SCHEMA as DOCKER
from nomadpy.drivers.exec import ExecDriver
from nomadpy.drivers.java import JavaDriver
from nomadpy.drivers.raw_exec import RawExecDriver
from nomadpy.drivers.schema import check
from nomadpy.jobspec import json_schema, load, problems, warnings
from nomadpy.jobspec.hcl import format as standard_layout
from nomadpy.model.job import Job

JOBS = Path(__file__).resolve().parent.parent.parent / "jobs"
SAMPLES = sorted(JOBS.glob("*.nomad.*"))
SCHEMAS = {
    "docker": DOCKER,
    "exec": ExecDriver.options,
    "java": JavaDriver.options,
    "raw_exec": RawExecDriver.options,
}


def sample(name: str) -> Job:
    return load(str(JOBS / name)).job


def test_there_are_enough() -> None:
    assert len(SAMPLES) >= 12
    assert {path for path in JOBS.iterdir() if path.is_file()} == set(SAMPLES)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_can_be_run(path: Path) -> None:
    found = load(str(path))
    assert found.warnings == ()
    assert problems(found.job) == []
    assert [told for told in warnings(found.job) if "not acted on" in told] == []
    assert found.job.id == path.name.split(".")[0]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_driver_takes_the_config(path: Path) -> None:
    tasks = [task for group in load(str(path)).job.task_groups for task in group.tasks]
    assert tasks
    for task in tasks:
        assert check(SCHEMAS[task.driver], task.config) == []


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_sample_begins_with_a_comment_that_says_how_to_run_it(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ")
    assert f"jobs/{path.name}" in text
    assert max(len(line) for line in text.splitlines()) <= 125


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.hcl")), ids=lambda path: path.name)
def test_sample_has_the_standard_layout(path: Path) -> None:
    text = path.read_text()
    assert standard_layout(text) == text


def test_yaml_twin_is_the_same_job() -> None:
    assert sample("web.nomad.yaml") == sample("web.nomad.hcl")


def test_yaml_sample_fits_the_published_schema() -> None:
    content = yaml.safe_load((JOBS / "web.nomad.yaml").read_text())
    jsonschema.validate(content, json_schema(), cls=jsonschema.Draft7Validator)


@pytest.mark.parametrize("kind", ["batch", "sysbatch", "system"])
def test_type_is_the_name(kind: str) -> None:
    assert sample(f"{kind}.nomad.hcl").type == kind


def test_what_the_others_show() -> None:
    assert sample("periodic.nomad.hcl").periodic is not None
    assert sample("parameterized.nomad.hcl").parameterized_job is not None
    assert sample("docker-web.nomad.hcl").task_groups[0].tasks[0].driver == "docker"
    assert sample("exec.nomad.hcl").task_groups[0].tasks[0].driver == "exec"
    assert [group.name for group in sample("multi-group.nomad.hcl").task_groups] == [
        "front",
        "queue-mail",
        "queue-images",
    ]
    hooks = [
        task.lifecycle.hook if task.lifecycle else "" for task in sample("lifecycle.nomad.hcl").task_groups[0].tasks
    ]
    assert sorted(hooks) == ["", "poststart", "poststop", "prestart", "prestart"]


def test_web_has_a_dynamic_port_named_http() -> None:
    (network,) = sample("web.nomad.hcl").task_groups[0].networks
    assert [port.label for port in network.dynamic_ports] == ["http"]
    assert network.reserved_ports == ()


def test_values_can_be_given() -> None:
    found = load(str(JOBS / "multi-group.nomad.hcl"), var_flags=["workers=3", 'queues=["a-b"]'])
    assert found.job.task_groups[1].count == 3
    assert found.job.task_groups[1].tasks[0].env == {"TITLE": "A B", "PAUSE": "5"}
    assert found.variable_flags == {"workers": "3"}
