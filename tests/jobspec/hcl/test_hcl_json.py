"""The JSON form: the same bodies once the reader has said which names are blocks."""

from __future__ import annotations

import pytest

from nomadpy.jobspec import hcl

TEXT = """{
  "//": "a comment",
  "job": {"web": {
    "datacenters": ["dc${1 + 1}"],
    "meta": {"k${1}": "v", "node": "${node.class}"},
    "group": [{"a": {"count": 1}}, {"b": {"count": 2}, "c": [{"count": 3}, {"count": 4}]}],
    "update": null
  }}
}"""


def test_is_json_looks_past_blanks_only() -> None:
    assert hcl.is_json("  {}")
    assert hcl.is_json(b" {}")
    assert not hcl.is_json("\n{}")
    assert not hcl.is_json('job "x" {}')


def test_blocks_labels_and_templates() -> None:
    top = hcl.shape(hcl.parse_any(TEXT, "f.json"), {"job": 1})
    (job,) = top.blocks
    assert (job.type, job.labels) == ("job", ("web",))
    body = hcl.shape(job.body, {"group": 1, "update": 0})
    assert [block.labels for block in body.blocks] == [("a",), ("b",), ("c",), ("c",)]
    assert hcl.evaluate(body.attributes["datacenters"].expression, hcl.Scope()) == ("dc2",)
    meta = hcl.evaluate(body.attributes["meta"].expression, hcl.Scope())
    assert meta == {"k1": "v", "node": "${node.class}"}
    counts = [hcl.shape(block.body, {}).attributes["count"].expression for block in body.blocks]
    assert [hcl.evaluate(count, hcl.Scope()) for count in counts] == [1, 2, 3, 4]


def test_positions_point_into_the_file() -> None:
    top = hcl.shape(hcl.parse_any('{\n  "a": "x${upper([])}"\n}', "f.json"), {})
    with pytest.raises(hcl.HclErrors) as caught:
        hcl.evaluate(top.attributes["a"].expression, hcl.Scope())
    assert str(caught.value).startswith("f.json:2,18-20: Invalid function argument")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Invalid JSON object property name"),
        ('{"a" 1}', "Missing property value colon"),
        ('{"a": }', "Invalid JSON value"),
        ('{"a": 1,}', "Trailing comma"),
        ('{"a": 1 "b": 2}', "Missing separator"),
        ('{"a": "x}', "Invalid JSON string"),
        ('{"a": "\\ud800"}', "Invalid JSON string"),
        ('{"a": 1} x', "Extraneous data"),
        ('{"a": 1e99999}', "Invalid JSON number"),
        ('{"a": ' + "[" * 5000, "Nested too deeply"),
        ('{"a": ' * 5000, "Nested too deeply"),
    ],
)
def test_syntax_error(text: str, message: str) -> None:
    with pytest.raises(hcl.HclErrors, match=message):
        hcl.parse_any(text, "f.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"job": 1}', "Incorrect JSON value type"),
        ('{"job": {"x": "y"}}', "must be a JSON object"),
        ('{"a": 1, "a": 2}', "Duplicate argument"),
        ('{"a": "${"}', "Invalid expression"),
    ],
)
def test_shape_error(text: str, message: str) -> None:
    body = hcl.parse_any(text, "f.json")
    with pytest.raises(hcl.HclErrors, match=message):
        hcl.shape(body, {"job": 1})
