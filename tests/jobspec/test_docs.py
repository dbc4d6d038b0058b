"""The pages about job files say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nomadpy.jobspec import _reference, parse_text
from nomadpy.jobspec.hcl import function_names

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
HCL = DOCS / "job-files.md"
YAML = DOCS / "yaml.md"


def code(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_reference_is_up_to_date() -> None:
    wanted = _reference.text()
    assert _reference.PAGE.read_text(encoding="utf-8") == wanted, "run python -m nomadpy.jobspec._reference"


def test_first_example_is_a_job() -> None:
    assert parse_text(code(HCL, "hcl")[0])["ID"] == "web"


def test_variables_of_the_example() -> None:
    raw = parse_text(code(HCL, "hcl")[1] + 'job "j" { meta { t = "${local.title} ${var.count}" } }')
    assert raw["Meta"] == {"t": "BUSYBOX:1 2"}


def test_dynamic_example() -> None:
    raw = parse_text(f'job "j" {{\n{code(HCL, "hcl")[3]}\n}}')
    assert [each["Name"] for each in raw["TaskGroups"]] == ["queue-mail", "queue-video"]


def test_yaml_example_is_a_job() -> None:
    raw = parse_text(code(YAML, "yaml")[0], filename="a.yaml")
    assert raw["TaskGroups"][0]["Count"] == 2
    assert raw["TaskGroups"][0]["Networks"] == [{"DynamicPorts": [{"Label": "http"}]}]


def test_all_functions_are_listed() -> None:
    listed = re.findall(r"`([a-z0-9_\s]+)`", HCL.read_text().split("Functions:")[1].split("##")[0])
    assert {name for names in listed for name in names.split()} == function_names()


@pytest.mark.parametrize("page", [HCL, YAML], ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []
