"""A JSON Schema of YAML job files for editors, made from the schema tables.

It describes HCL's JSON form as well. ``python -m nomadpy.jobspec._json_schema`` writes it beside this file. It is no
second judge: it knows which names exist and roughly which values fit, while the decoder and the model's rules decide.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nomadpy.jobspec.schema import rows
from nomadpy.jobspec.schema.job import JOB
from nomadpy.jobspec.schema.rows import Attribute, Block, Child

FILE = Path(__file__).with_name("job.schema.json")

Schema = dict[str, Any]

_TEMPLATE: Schema = {"type": "string", "pattern": r"[$%]\{"}
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_WHOLE: Schema = {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^-?[0-9]+$|[$%]\{"}]}
_DURATION_PATTERN = r"^[-+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$|^0$|[$%]\{"

_KINDS: dict[str, Schema] = {
    rows.STRING: _SCALAR,
    rows.INTEGER: _WHOLE,
    rows.BOOLEAN: {"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": r"^(true|false|0|1)$|[$%]\{"}]},
    rows.DURATION: {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": _DURATION_PATTERN}]},
    rows.STRINGS: {"anyOf": [{"type": "array", "items": _SCALAR}, _TEMPLATE]},
    rows.INTEGERS: {"anyOf": [{"type": "array", "items": _WHOLE}, _TEMPLATE]},
    rows.STRING_MAP: {"anyOf": [{"type": "object", "additionalProperties": _SCALAR}, _TEMPLATE, {"type": "null"}]},
    rows.STRINGS_MAP: {
        "anyOf": [
            {"type": "object", "additionalProperties": {"type": "array", "items": _SCALAR}},
            _TEMPLATE,
            {"type": "null"},
        ]
    },
    rows.FREE_MAP: {"anyOf": [{"type": "object"}, _TEMPLATE, {"type": "null"}]},
}

_VARIABLE: Schema = {
    "type": "object",
    "description": "An input variable.",
    "additionalProperties": False,
    "properties": {
        "type": {"type": "string", "description": "Such as string, number, bool, list(string) or map(number)."},
        "default": {"description": "The value when none is given."},
        "description": {"type": "string"},
        "validation": {
            "type": ["object", "array"],
            "description": "A rule: condition, such as ${var.n > 0}, and error_message.",
        },
    },
}


def json_schema() -> Schema:
    """The schema (draft 7) of a YAML job file."""
    made = _Definitions()
    job = made.reference(Child("job", "Job", JOB))
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Job file",
        "description": "A job in YAML, with the same names as in HCL; blocks with a label are keyed by it.",
        "type": "object",
        "required": ["job"],
        "additionalProperties": False,
        "properties": {
            "job": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": job},
            "variable": {"type": "object", "additionalProperties": {"anyOf": [_VARIABLE, {"type": "null"}]}},
            "variables": {"type": "object", "description": "Variables by name, each with its default."},
            "locals": {"type": "object", "description": "Named expressions, read as ${local.name}."},
        },
        "definitions": made.definitions | {_kind_name(kind): schema for kind, schema in _KINDS.items()},
    }


class _Definitions:
    """One definition for each block of the tables, however often it is used."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {}
        self.names: dict[int, str] = {}

    def reference(self, child: Child, owner: str = "") -> Schema:
        name = self.names.get(id(child.block))
        if name is None:
            name = child.name if child.name not in self.definitions else f"{owner}_{child.name}"
            assert name not in self.definitions
            self.names[id(child.block)] = name
            self.definitions[name] = {}
            self.definitions[name] |= self.body(child.block, name)
        return {"$ref": f"#/definitions/{name}"}

    def body(self, block: Block, name: str) -> Schema:
        properties = {row.name: _value(row) for row in block.attributes.values()}
        properties |= {child.name: self.child(child, name) for child in block.children.values()}
        if block.children:
            generated = {child.name: self.generated(child, name) for child in block.children.values()}
            properties[_DYNAMIC] = _repeated(
                {"type": "object", "additionalProperties": False, "properties": generated},
                "Blocks made from a collection.",
            )
        made: Schema = {
            "type": "object",
            "description": block.help,
            "additionalProperties": False,
            "properties": properties,
        }
        if block.required:
            made["required"] = [row.name for row in block.required]
        return made

    def child(self, child: Child, owner: str) -> Schema:
        one = self.reference(child, owner)
        if child.n_labels:
            by_label = {"type": "object", "additionalProperties": {"anyOf": [one, {"type": "null"}]}}
            return _repeated(by_label, f"{child.block.help} Keyed by label.")
        if child.many:
            return _repeated(one, child.block.help)
        return {"description": child.block.help, "anyOf": [one, {"type": "null"}]}

    def generated(self, child: Child, owner: str) -> Schema:
        return {
            "type": "object",
            "required": ["for_each", "content"],
            "additionalProperties": False,
            "properties": {
                "for_each": {"description": "The collection: one block is made for each element."},
                "iterator": {"type": "string", "description": "The element's name, with .key and .value."},
                "labels": {"description": "The block's labels."},
                "content": self.reference(child, owner),
            },
        }


_DYNAMIC = "dynamic"


def _repeated(one: Schema, help: str) -> Schema:
    return {"description": help, "anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]}


def _value(row: Attribute) -> Schema:
    if row.choices:
        made: Schema = {"anyOf": [{"enum": list(row.choices)}, _TEMPLATE]}
    elif row.kind == rows.STRING:
        made = _SCALAR
    else:
        # In draft 7 nothing may stand beside a reference itself.
        made = {"allOf": [{"$ref": f"#/definitions/{_kind_name(row.kind)}"}]}
    return ({"description": row.help} if row.help else {}) | made


def _kind_name(kind: str) -> str:
    return "any_" + kind.replace(" ", "_")


def text() -> str:
    """The schema as the published file holds it."""
    return json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
