"""The JSON Schema for editors: up to date, valid, and of one mind with the decoder."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from table_rows import unique

from nomadpy.jobspec import _json_schema, json_schema, parse_text
from nomadpy.jobspec.schema import rows
from nomadpy.jobspec.schema.rows import Attribute, Block

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def errors(job: Any, **others: Any) -> list[str]:
    return [each.message for each in VALIDATOR.iter_errors({"job": {"j": job}} | others)]


def in_task(body: dict[str, Any]) -> dict[str, Any]:
    return {"group": {"g": {"task": {"t": body}}}}


def test_published_file_is_up_to_date() -> None:
    wanted = _json_schema.text()
    assert _json_schema.FILE.read_text(encoding="utf-8") == wanted, "run python -m nomadpy.jobspec._json_schema"


def test_schema_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_names_are_known() -> None:
    assert errors(in_task({"driver": "exec", "config": {"anything": {"at": ["all"]}}})) == []
    (told,) = errors({"groop": {}})
    assert "'groop' was unexpected" in told
    assert VALIDATOR.is_valid({}) is False
    assert VALIDATOR.is_valid({"job": {}}) is False


@pytest.mark.parametrize(
    ("body", "is_valid"),
    [
        ({"kill_timeout": "1m30s"}, True),
        ({"kill_timeout": 5}, True),
        ({"kill_timeout": "soon"}, False),
        ({"leader": "${var.x}"}, True),
        ({"leader": "yes"}, False),
        ({"resources": {"cpu": "500"}}, True),
        ({"resources": {"cpu": 1.5}}, False),
        ({"resources": None}, True),
        ({"lifecycle": {"hook": "prestart"}}, True),
        ({"lifecycle": {}}, False),
        ({"lifecycle": {"hook": "sometime"}}, False),
        ({"template": [{"data": "x"}, {"data": "y"}]}, True),
        ({"action": {"a": {"command": "x"}}}, True),
        ({"dynamic": {"service": {"for_each": "${var.x}", "content": {"name": "${service.value}"}}}}, True),
        ({"dynamic": {"service": {"content": {}}}}, False),
    ],
)
def test_values(body: dict[str, Any], is_valid: bool) -> None:
    assert (errors(in_task(body)) == []) is is_valid


GOOD: dict[str, Any] = {
    rows.STRING: "${x}",
    rows.INTEGER: 7,
    rows.BOOLEAN: True,
    rows.DURATION: "5s",
    rows.STRINGS: ["x"],
    rows.INTEGERS: [1],
    rows.STRING_MAP: {"a": "b"},
    rows.STRINGS_MAP: {"a": ["b"]},
    rows.FREE_MAP: {"a": {"b": [1]}},
}


@pytest.mark.parametrize(("block", "row"), unique(Attribute))
def test_every_attribute_is_in_the_schema(block: Block, row: Attribute) -> None:
    definitions = [each for each in SCHEMA["definitions"].values() if row.name in each.get("properties", {})]
    own = [each for each in definitions if each.get("description") == block.help]
    assert own
    schema = {"definitions": SCHEMA["definitions"]} | own[0]["properties"][row.name]
    assert jsonschema.Draft7Validator(schema).is_valid(GOOD[row.kind])


def test_decoder_agrees_on_variables() -> None:
    text = """{"variable": {"n": {"type": "number", "default": 1}}, "variables": {"m": 2}, "locals": {"k": "${var.n}"},
      "job": {"j": {"priority": "${local.k}"}}}"""
    assert parse_text(text)["Priority"] == 1
    assert (
        errors({"priority": "${local.k}"}, variable={"n": {"type": "number", "default": 1}}, variables={"m": 2}) == []
    )
