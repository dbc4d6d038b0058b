"""Every attribute and block of the schema tables, one by one: decoded under its key, and known to the model."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
from table_rows import blocks, unique

from nomadpy.jobspec import hcl
from nomadpy.jobspec._decode import decode
from nomadpy.jobspec.schema import rows
from nomadpy.jobspec.schema.rows import Attribute, Block, Child
from nomadpy.model import canonical, job, resources, service
from nomadpy.model import decode as model_decode

SAMPLES: dict[str, tuple[str, Any]] = {
    rows.STRING: ('"x"', "x"),
    rows.INTEGER: ("7", 7),
    rows.BOOLEAN: ("true", True),
    rows.DURATION: ('"1m30s"', 90_000_000_000),
    rows.STRINGS: ('["x", 1]', ["x", "1"]),
    rows.INTEGERS: ('[1, "2"]', [1, 2]),
    rows.STRING_MAP: ('{ "a.b" = 1 }', {"a.b": "1"}),
    rows.STRINGS_MAP: ('{ a = ["x"] }', {"a": ["x"]}),
    rows.FREE_MAP: ("{ a = 1.5 }", {"a": 1.5}),
}
# What a kind of row may become in the model's records.
TYPES: dict[str, set[Any]] = {
    rows.STRING: {str},
    rows.INTEGER: {int},
    rows.BOOLEAN: {bool},
    rows.DURATION: {int},
    rows.STRINGS: {tuple[str, ...]},
    rows.INTEGERS: {tuple[int, ...]},
    rows.STRING_MAP: {dict[str, str]},
    rows.STRINGS_MAP: {dict[str, tuple[str, ...]]},
    rows.FREE_MAP: {dict[str, Any]},
}
COMPARISONS = {"version", "semver", "regexp", "set_contains", "set_contains_all", "set_contains_any"}
# Conditions are turned into operator and value, ports are sorted; the rest is read and then has no effect.
NOT_IN_RECORD = {
    "Constraint": COMPARISONS | {"distinct_hosts", "distinct_property", "is_set", "is_not_set"},
    "Affinity": COMPARISONS,
    "NetworkResource": {"ports", "legacy_ports"},
    "Job": {"tasks", "Vault", "Secrets"},
    "TaskGroup": {"Vault", "Secrets"},
    "LogConfig": {"Enabled"},
    "ServiceCheck": {"Advertise"},
}


def bare(block: Block) -> Block:
    """The same rows without the finishing, which may move values elsewhere, and with nothing required."""
    attributes = [row._replace(required=False) for row in block.attributes.values()]
    return Block(block.record, block.help, *attributes, *block.children.values())


def decoded(text: str, block: Block) -> dict[str, Any]:
    raw, found = decode(hcl.parse(text, "t.hcl"), block, hcl.Scope())
    assert [str(each) for each in found] == []
    return raw


def record_of(block: Block) -> Any:
    return next(getattr(module, block.record) for module in (job, resources, service) if hasattr(module, block.record))


def fields_of(block: Block) -> dict[str, Any]:
    assert canonical.fill_job_defaults, "imported because it makes the model read further fields"
    record = record_of(block)
    fields = {field.encode_name: field.type for field in msgspec.structs.fields(record)}
    return fields | model_decode.extra_fields(record)


def without_none(annotation: Any) -> Any:
    arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
    return arms[0] if type(None) in typing.get_args(annotation) else annotation


def test_there_are_many_attributes() -> None:
    assert len(unique(Attribute)) > 280
    assert len(unique(Child)) > 75


@pytest.mark.parametrize(("block", "row"), unique(Attribute))
def test_attribute_is_decoded_under_its_key(block: Block, row: Attribute) -> None:
    text, value = SAMPLES[row.kind]
    assert decoded(f"{row.name} = {text}", bare(block)) == {row.key: value}


@pytest.mark.parametrize(("block", "row"), [each for each in unique(Attribute) if each.values[1].kind in rows.MAPS])
def test_map_may_be_a_block_too(block: Block, row: Attribute) -> None:
    text = 'a = ["x"]' if row.kind == rows.STRINGS_MAP else 'a = "x"'
    value = ["x"] if row.kind == rows.STRINGS_MAP else "x"
    assert decoded(f"{row.name} {{\n{text}\n}}", bare(block)) == {row.key: {"a": value}}


@pytest.mark.parametrize(("block", "child"), unique(Child))
def test_block_is_decoded_under_its_key(block: Block, child: Child) -> None:
    outer = Block("", "", child._replace(block=bare(child.block)))
    label = ' "x"' if child.n_labels else ""
    one = {child.label_key: "x"} if child.label_key else {}
    wanted: Any = [one] if child.many else {"x": one} if child.keyed else one
    assert decoded(f"{child.name}{label} {{}}", outer) == {child.key: wanted}


@pytest.mark.parametrize(("block", "row"), [each for each in unique(Attribute) if each.values[0].record])
def test_model_has_the_field(block: Block, row: Attribute) -> None:
    if row.key in NOT_IN_RECORD.get(block.record, set()):
        return
    assert without_none(fields_of(block)[row.key]) in TYPES[row.kind]


@pytest.mark.parametrize(("block", "child"), [each for each in unique(Child) if each.values[0].record])
def test_model_has_the_record(block: Block, child: Child) -> None:
    if child.key in NOT_IN_RECORD.get(block.record, set()):
        return
    wanted: Any = record_of(child.block) if child.block.record else dict[str, Any]
    if child.many:
        wanted = tuple[wanted, ...]
    elif child.keyed:
        wanted = dict[str, wanted]
    assert without_none(fields_of(block)[child.key]) == wanted


def test_help_is_a_sentence() -> None:
    helps = [block.help for _, block in blocks()] + [
        row.help for _, block in blocks() for row in block.attributes.values()
    ]
    assert [help for help in helps if help and not help.endswith((".", ")"))] == []


def test_exceptions_exist() -> None:
    for record, keys in NOT_IN_RECORD.items():
        known = {
            row.key
            for _, block in blocks()
            if block.record == record
            for row in (*block.attributes.values(), *block.children.values())
        }
        assert keys <= known
