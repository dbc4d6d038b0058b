"""How job files become the model's input, beyond one attribute at a time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from nomadpy.jobspec import parse_text


def task(body: str) -> dict[str, Any]:
    raw = parse_text(f'job "j" {{\n group "g" {{\n  task "t" {{\n{body}\n  }}\n }}\n}}')
    return dict(raw["TaskGroups"][0]["Tasks"][0])


def group(body: str) -> dict[str, Any]:
    return dict(parse_text(f'job "j" {{\n group "g" {{\n{body}\n }}\n}}')["TaskGroups"][0])


def test_what_is_not_said_has_no_key() -> None:
    assert parse_text('job "j" {\n group "g" {\n  task "t" {}\n }\n}') == {
        "ID": "j",
        "Name": "j",
        "TaskGroups": [{"Name": "g", "Tasks": [{"Name": "t"}]}],
    }


def test_null_is_as_if_not_said() -> None:
    assert task("user = null\nenv = { A = null, B = 1 }") == {"Name": "t", "Env": {"B": "1"}}


def test_id_wins_over_the_label() -> None:
    raw = parse_text('job "j" { id = "other" }')
    assert (raw["ID"], raw["Name"]) == ("other", "j")


def test_numbers_and_texts_convert() -> None:
    assert task('resources { cpu = "500" }\nuser = 7\nleader = "true"') == {
        "Name": "t",
        "Resources": {"CPU": 500},
        "User": "7",
        "Leader": True,
    }


@pytest.mark.parametrize(
    ("text", "ns"), [('"1h30m"', 5400 * 10**9), ("250", 250), ('"-1s"', -(10**9)), ('"1.5ms"', 1_500_000)]
)
def test_durations(text: str, ns: int) -> None:
    assert task(f"kill_timeout = {text}")["KillTimeout"] == ns


def test_references_of_run_time_survive() -> None:
    made = task('env {\n A = "${node.unique.name}"\n B = attr.kernel.name\n C = "$${x}"\n}')
    assert made["Env"] == {"A": "${node.unique.name}", "B": "${attr.kernel.name}", "C": "${x}"}


def test_literal_objects_and_blocks_of_config_look_alike() -> None:
    as_block = task('config {\n labels {\n  a = "b"\n }\n}')["Config"]
    as_argument = task('config {\n labels = { a = "b" }\n}')["Config"]
    assert as_block == as_argument == {"labels": [{"a": "b"}]}


def test_config_keeps_shapes_and_numbers() -> None:
    made = task('config {\n a = 1\n b = 1.5\n c = [1, "x", { d = true }]\n e "l" "m" {\n  f = null\n }\n}')["Config"]
    assert made == {"a": 1, "b": 1.5, "c": [1, "x", {"d": True}], "e": [{"l": [{"m": [{"f": None}]}]}]}
    assert isinstance(made["a"], int)


def test_a_map_of_variables_may_be_the_config() -> None:
    text = 'variables {\n c = { image = "x" }\n}\njob "j" {\n group "g" {\n  task "t" {\n   config = var.c\n  }\n }\n}'
    assert parse_text(text)["TaskGroups"][0]["Tasks"][0]["Config"] == {"image": "x"}


def test_tasks_of_a_job_become_groups_that_come_first() -> None:
    raw = parse_text('job "j" {\n group "g" {}\n task "a" { driver = "exec" }\n task "b" {}\n}')
    assert [each["Name"] for each in raw["TaskGroups"]] == ["a", "b", "g"]
    assert raw["TaskGroups"][0]["Tasks"] == [{"Name": "a", "Driver": "exec"}]


def test_vault_is_handed_down_but_never_merged() -> None:
    raw = parse_text(
        'job "j" {\n vault { role = "job" }\n secret "s" { path = "p" }\n'
        ' group "g" {\n  vault { role = "group" }\n  task "a" {}\n  task "b" {\n   vault { cluster = "c" }\n  }\n }\n'
        ' group "h" {\n  task "c" {\n   secret "own" {}\n  }\n }\n}'
    )
    a, b = raw["TaskGroups"][0]["Tasks"]
    (c,) = raw["TaskGroups"][1]["Tasks"]
    assert [each["Vault"].get("Role") for each in (a, b, c)] == ["group", None, "job"]
    assert [secret["Name"] for secret in c["Secrets"]] == ["own", "s"]
    assert a["Vault"] is not raw.get("Vault")


def test_static_ports_are_reserved() -> None:
    made = group('network {\n port "a" {}\n port "b" { static = 80 }\n reserved_ports "c" { static = 1 }\n}')
    assert made["Networks"] == [{"DynamicPorts": [{"Label": "a"}], "ReservedPorts": [{"Label": "b", "Value": 80}]}]


def test_legacy_reserved_ports_count_where_there_are_no_others() -> None:
    made = group('network {\n reserved_ports "c" { static = 1 }\n}')
    assert made["Networks"] == [{"ReservedPorts": [{"Label": "c", "Value": 1}]}]


def test_periodic_is_of_type_cron() -> None:
    raw = parse_text('job "j" {\n periodic { cron = "@daily" }\n}')
    assert raw["Periodic"] == {"Spec": "@daily", "SpecType": "cron"}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("is_set = true", {"Operand": "is_set"}),
        ("is_set = false", {"Operand": "is_not_set"}),
        ("distinct_hosts = false", {"Operand": "distinct_hosts", "RTarget": "false"}),
        ('semver = ">= 1"', {"Operand": "semver", "RTarget": ">= 1"}),
        ('operator = ">"\nvalue = 3', {"Operand": ">", "RTarget": "3"}),
    ],
)
def test_conditions(line: str, wanted: dict[str, Any]) -> None:
    assert group(f"constraint {{\n{line}\n}}")["Constraints"] == [wanted]


def test_dynamic_blocks_nest() -> None:
    raw = parse_text(
        'job "j" {\n dynamic "group" {\n  for_each = { a = [80, 81], b = [] }\n  labels = [group.key]\n  content {\n'
        '   dynamic "task" {\n    for_each = group.value\n    iterator = it\n    labels = ["t${it.value}"]\n'
        "    content {\n     env { PORT = it.value + strlen(group.key) }\n    }\n   }\n  }\n }\n}"
    )
    tasks = {each["Name"]: [t["Env"]["PORT"] for t in each.get("Tasks", [])] for each in raw["TaskGroups"]}
    assert tasks == {"a": ["81", "82"], "b": []}


def test_json_form_means_the_same() -> None:
    text = """{"variable": {"n": {"default": 2}},
      "job": {"j": {"datacenters": ["a"], "meta": {"x": "${var.n}"},
        "group": [{"g": {"count": "${var.n}",
          "network": {"port": {"http": {}, "adm": {"static": 9}}},
          "task": {"t": {"driver": "docker", "env": {"P": 1},
            "config": [{"image": "i", "labels": {"a": "b"}}]}}}}]}}}"""
    hcl = """variable "n" { default = 2 }
      job "j" {
        datacenters = ["a"]
        meta { x = var.n }
        group "g" {
          count = var.n
          network {
            port "http" {}
            port "adm" { static = 9 }
          }
          task "t" {
            driver = "docker"
            config {
              image = "i"
              labels { a = "b" }
            }
            env { P = 1 }
          }
        }
      }"""
    assert parse_text(text) == parse_text(hcl)


def test_variables_of_all_sources() -> None:
    text = """variables {
      a = "default"
      b = "default"
      c = "default"
    }
    variable "d" { type = list(string) }
    job "j" { meta = { a = var.a, b = var.b, c = var.c, d = join("+", var.d) } }"""
    raw = parse_text(
        text, env={"NOMAD_VAR_b": "env", "NOMAD_VAR_c": "env"}, variables='c = "file"', var_flags=['d=["x","y"]']
    )
    assert raw["Meta"] == {"a": "default", "b": "env", "c": "file", "d": "x+y"}


def test_undeclared_values_matter_only_when_strict() -> None:
    text = 'job "j" {}'
    assert parse_text(text, variables="x = 1")["ID"] == "j"
    with pytest.raises(Exception, match="Undefined variable"):
        parse_text(text, variables="x = 1", strict=True)


def test_files_are_read_from_the_base_directory(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("hi")
    raw = parse_text('job "j" { meta { page = file("page") } }', base_dir=str(tmp_path))
    assert raw["Meta"] == {"page": "hi"}


def test_chance_comes_from_outside() -> None:
    made = [parse_text('job "j" { meta { id = uuidv4() } }', rng=random.Random(7))["Meta"] for _ in range(2)]
    assert made[0] == made[1]
    assert len(made[0]["id"]) == 36
