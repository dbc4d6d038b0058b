"""Files on disk: their forms, their variables, and what is recorded of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nomadpy.jobspec import JobFile, load, problems, submission, warnings
from nomadpy.model.errors import Invalid

HCL = 'job "j" {\n  group "g" {\n    task "t" {\n      driver = "raw_exec"\n    }\n  }\n}\n'
YAML = "job:\n  j:\n    group:\n      g:\n        task:\n          t: {driver: raw_exec}\n"
HCL_JSON = '{"job": {"j": {"group": {"g": {"task": {"t": {"driver": "raw_exec"}}}}}}}'
API_JSON = '{"ID": "j", "Name": "j", "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t", "Driver": "raw_exec"}]}]}'


def written(directory: Path, name: str, text: str) -> str:
    path = directory / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "text", "format"),
    [
        ("a.nomad.hcl", HCL, "hcl2"),
        ("a.nomad", HCL, "hcl2"),
        ("a.yaml", YAML, "yaml"),
        ("a.nomad.yml", YAML, "yaml"),
        ("a.json", HCL_JSON, "hcl2"),
        ("b.nomad.json", "\n" + HCL_JSON, "hcl2"),
        ("a.json", API_JSON, "json"),
        ("b.json", f'{{"Job": {API_JSON}}}', "json"),
    ],
)
def test_form_is_detected(tmp_path: Path, name: str, text: str, format: str) -> None:
    found = load(written(tmp_path, name, text))
    assert (found.format, found.source) == (format, text)
    assert found.job == load(written(tmp_path, "same.nomad.hcl", HCL)).job


@pytest.mark.parametrize(("format", "text"), [("hcl", HCL), ("yaml", YAML), ("json", API_JSON)])
def test_form_may_be_said(format: str, text: str) -> None:
    assert load("-", format=format, stdin=text.encode()).job.id == "j"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.hcl", None, "Cannot read .*none.hcl: No such file or directory"),
        ("a.hcl", b"  \n", "a.hcl is empty; a job file is expected"),
        ("a.hcl", b'job "\xff" {}', "must be encoded as UTF-8"),
        ("a.yaml", b"job: \xff", "must be encoded as UTF-8"),
        ("a.json", b'{"ID": 3}', "a.json: json: cannot unmarshal number into Go struct field Job.ID of type string"),
        ("a.json", b'{"Job": {}}', "a.json holds no job"),
        ("a.json", b'{"job": ', "a.json:1,9"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Invalid, match=message):
        load(str(path))


def test_directory_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="Is a directory"):
        load(str(tmp_path))


def test_unknown_format() -> None:
    with pytest.raises(Invalid, match='There is no job file format "toml"'):
        load("-", format="toml", stdin=b"x")


@pytest.fixture
def with_variables(tmp_path: Path) -> JobFile:
    declared = 'variables {\n  a = "x"\n  b = 1\n  c = ["x"]\n  d = "x"\n}\n'
    path = written(tmp_path, "v.nomad.hcl", declared + HCL.replace("{\n", "{\n  name = var.a\n", 1))
    values = written(tmp_path, "v.vars", 'd = "file"\n')
    return load(path, var_files=[values], var_flags=["a=1 & 2", 'c=["y"]'], env={"NOMAD_VAR_b": "2", "b": "3"})


def test_variables_are_recorded_by_where_they_came_from(with_variables: JobFile) -> None:
    assert with_variables.job.name == "1 & 2"
    assert with_variables.variable_flags == {"a": "1 & 2", "b": "2"}
    assert with_variables.variables == 'd = "file"\nc = ["y"]'


def test_submission_escapes_flags(with_variables: JobFile) -> None:
    made = submission(with_variables)
    assert made.variable_flags == {"a": "1+%26+2", "b": "2"}
    assert (made.format, made.job_id, made.namespace) == ("hcl2", "j", "default")
    assert made.source == with_variables.source
    assert made.variables == with_variables.variables


def test_values_for_undeclared_variables(tmp_path: Path) -> None:
    path = written(tmp_path, "a.hcl", HCL)
    with pytest.raises(Invalid, match="Undefined variable"):
        load(path, var_flags=["x=1"])
    (told,) = load(path, var_flags=["x=1"], strict=False).warnings
    assert 'A variable named "x" was set by a -var option' in told


def test_files_beside_the_job_file(tmp_path: Path) -> None:
    written(tmp_path, "name.txt", "beside")
    path = written(tmp_path, "a.hcl", HCL.replace("{\n", '{\n  name = file("name.txt")\n', 1))
    assert load(path).job.name == "beside"


def test_problems_and_warnings_of_a_job(tmp_path: Path) -> None:
    text = json.loads(API_JSON)
    job = load(written(tmp_path, "a.json", json.dumps(text | {"Priority": 1000}))).job
    assert any("priority" in problem for problem in problems(job))
    text["TaskGroups"][0]["Scaling"] = {"Min": 1, "Max": 2}
    assert any("not acted on" in told for told in warnings(load(written(tmp_path, "b.json", json.dumps(text))).job))


def test_import_is_cheap() -> None:
    code = (
        "import sys, nomadpy.jobspec; print([m for m in sys.modules if m.startswith(('nomadpy.', 'yaml', 'msgspec'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.strip() == "['nomadpy.jobspec']"
