"""What is said about wrong job files, and where."""

from __future__ import annotations

import pytest

from nomadpy.jobspec import parse_text
from nomadpy.model.errors import Invalid


def complaints(text: str, filename: str = "t.hcl", **options: object) -> list[str]:
    with pytest.raises(Invalid) as caught:
        parse_text(text, filename=filename, **options)  # type: ignore[arg-type]
    assert caught.value.status == 400
    return caught.value.message.splitlines()


def in_task(line: str) -> str:
    return f'job "j" {{\n group "g" {{\n  task "t" {{\n{line}\n  }}\n }}\n}}\n'


@pytest.mark.parametrize(
    ("line", "place", "message"),
    [
        (
            "drivr = 1",
            "4,1-6",
            'Unsupported argument; An argument named "drivr" is not expected here. Did you mean "driver"?',
        ),
        ("resource {}", "4,1-9", 'Blocks of type "resource" are not expected here. Did you mean "resources"?'),
        ("resources = {}", "4,1-10", "It is a block: write resources { … } without an equals sign."),
        ('secret = ""', "4,1-7", 'It is a block: write secret "…" { … } without an equals sign.'),
        ("driver {}", "4,1-7", "It is an argument: write driver = …"),
        ("restart {}\nrestart {}", "5,1-8", 'Duplicate restart block; Only one "restart" block is allowed here.'),
        ("env = {}\nenv {}", "5,1-4", "Duplicate env block"),
        ("lifecycle {}", "4,12-13", 'Missing required argument; The argument "hook" is required'),
        ('logs "x" {}', "4,6-9", "Extraneous label for logs"),
        ("secret {}", "4,1-7", "Missing name for secret"),
        ('secret "a" "b" {}', "4,12-15", "Extraneous label for secret"),
        ('kill_timeout = "5"', "4,16-19", 'missing unit in duration "5"; did you mean "5s"?'),
        ('kill_timeout = "fast"', "4,16-22", 'invalid duration "fast"'),
        ("kill_timeout = null", "4,16-20", "Unsuitable duration value: nil"),
        ("kill_timeout = 1.5", "4,16-19", "a whole number is required, not 1.5"),
        ('leader = "yes"', "4,10-15", 'The argument "leader" must be true or false: a bool is required.'),
        ("user = [1]", "4,8-11", 'The argument "user" must be a string: string required, but have tuple.'),
        ("env = { A = [] }", "4,7-17", 'The argument "env" must be a map of strings: element "A"'),
        ("env {\n B {}\n}", "5,2-3", 'Blocks of type "B" are not expected here.'),
        ('resources { cpu = "${node.class}" }', "4,19-34", "known only at run time"),
        ("resources { cpu = 99999999999999999999 }", "4,19-39", "does not fit into 64 bits"),
        ("resources { cpu = 1.5 }", "4,19-22", 'The argument "cpu" must be a whole number'),
        ('constraint {\n version = "1"\n regexp = "x"\n}', "6,2-14", 'Only one of "version" and "regexp" may be set'),
        ('scaling "disk" {}', "4,", 'must be "cpu" or "mem", not "disk"'),
        ("user = var.nobody", "4,", 'This object does not have an attribute named "nobody"'),
        (
            'dynamic "servic" {\n for_each = []\n content {}\n}',
            "4,9-17",
            'Blocks of type "servic" are not expected here',
        ),
        ('dynamic "service" {\n content {}\n}', "6,1-2", 'The argument "for_each" is required'),
        ("config { image = upper(1, 2) }", "4,", "Too many function arguments"),
    ],
)
def test_in_a_task(line: str, place: str, message: str) -> None:
    (found,) = complaints(in_task(line))
    assert found.startswith(f"t.hcl:{place}")
    assert message in found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Missing job block; t.hcl needs a job block"),
        ('job "a" {}\njob "b" {}', "t.hcl:2,1-8: Duplicate job block; The job was already defined at t.hcl:1,1-8."),
        ("job {}", "t.hcl:1,1-4: Missing name for job"),
        ('x = 1\njob "a" {}', "t.hcl:1,1-2: Unsupported argument"),
        ('jobs "a" {}\njob "a" {}', 'Did you mean "job"?'),
        ('variable "v" {}\njob "a" {}', 'Unset variable "v"'),
        ('job "a" {\n group "g" {\n  volume "v" {}\n  volume "v" {}\n }\n}', "t.hcl:4,3-13: Duplicate volume block"),
    ],
)
def test_at_the_top(text: str, message: str) -> None:
    assert any(message in line for line in complaints(text))


def test_all_problems_are_told_in_file_order() -> None:
    lines = [
        "what = 1",
        "kill_timeout = 1.5",
        'resources { cpu = "x" }',
        "service { prt = 1 }",
        "lifecycle {}",
        "template { splay = 1.5 }",
    ]
    found = complaints("other {}\n" + in_task("\n".join(lines)))
    assert [line.split(",")[0] for line in found] == [f"t.hcl:{number}" for number in (1, 5, 6, 7, 8, 9, 10)]


def test_problems_of_variables_do_not_hide_those_of_the_structure() -> None:
    found = complaints('variable "v" {}\njbo "x" {}\njob "a" {}')
    assert len(found) == 2


def test_only_the_first_fifty_are_shown() -> None:
    found = complaints(in_task("\n".join(f"a{number} = 1" for number in range(80))))
    assert len(found) == 51
    assert found[-1] == "And 30 more; Only the first problems are shown."


def test_problems_in_generated_blocks_point_at_their_text() -> None:
    text = in_task('dynamic "service" {\n for_each = [1, 2]\n content {\n  prt = 1\n }\n}')
    (found,) = complaints(text)
    assert found.startswith("t.hcl:7,3-6: Unsupported argument")


def test_file_functions_need_a_directory() -> None:
    assert "filesystem function disabled" in complaints(in_task('user = file("/etc/hostname")'))[0]


def test_chance_needs_a_source() -> None:
    assert "uuidv4" in complaints(in_task("user = uuidv4()"))[0]


def test_json_form_has_positions_too() -> None:
    text = '{"job": {"j": {"group": {"g": {"task": {"t": {"drivr": "x", "env": 3}}}}}}}'
    found = complaints(text, "t.json")
    assert found[0].startswith('t.json:1,47-54: Unsupported argument; An argument named "drivr"')
    assert 'The argument "env" must be a map of strings' in found[1]
