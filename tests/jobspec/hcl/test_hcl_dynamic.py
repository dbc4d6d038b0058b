"""Dynamic blocks become ordinary blocks with their own scopes."""

from __future__ import annotations

import pytest

from nomadpy.jobspec import hcl

SCOPE = hcl.Scope({"var": {"names": ("x", "y"), "ports": {"http": 80}}})
ALLOWED = {"group", "port"}


def expand(text: str) -> list[hcl.ScopedBlock]:
    return hcl.expand_dynamic(hcl.parse_any(text, "f.hcl"), SCOPE, ALLOWED.__contains__, {"group": 1, "port": 1})


def test_blocks_keep_their_order_and_get_labels() -> None:
    found = expand(
        'group "a" {}\ndynamic "group" {\n for_each = var.names\n labels = ["g-${group.key}-${group.value}"]\n'
        ' content { v = "${group.value} ${node.id}" }\n}\ngroup "z" {}\n'
    )
    assert [each.block.labels for each in found] == [("a",), ("g-0-x",), ("g-1-y",), ("z",)]
    value = hcl.evaluate(found[1].block.body.attributes["v"].expression, found[1].scope)
    assert value == "x ${node.id}"


def test_iterator_renames_the_object() -> None:
    text = (
        'dynamic "port" {\n for_each = var.ports\n iterator = it\n labels = [it.key]\n content { static = it.value }\n}'
    )
    (found,) = expand(text)
    assert found.block.labels == ("http",)
    assert hcl.evaluate(found.block.body.attributes["static"].expression, found.scope) == 80


def test_nested_dynamic_blocks_see_the_outer_iterator() -> None:
    text = """dynamic "group" {
      for_each = var.names
      labels = [group.value]
      content {
        dynamic "port" {
          for_each = [1]
          labels = ["${group.value}-${port.value}"]
          content {}
        }
      }
    }"""
    outer = expand(text)
    inner = hcl.expand_dynamic(outer[1].block.body, outer[1].scope, ALLOWED.__contains__)
    assert inner[0].block.labels == ("y-1",)


def test_json_form() -> None:
    found = expand(
        '{"dynamic": {"port": {"for_each": "${var.ports}", "labels": ["${port.key}"], "content": {"static": 1}}}}'
    )
    assert [each.block.labels for each in found] == [("http",)]
    assert "static" in hcl.shape(found[0].block.body, {}).attributes


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("content {}", 'The argument "for_each" is required'),
        ("for_each = [1]", "Missing content block"),
        ("for_each = [1]\ncontent {}\ncontent {}", "Duplicate content block"),
        ("for_each = 1\ncontent {}", "Cannot use a number value in for_each"),
        ("for_each = null\ncontent {}", "Cannot use a null value in for_each"),
        ("for_each = node.class\ncontent {}", "known only at run time"),
        ("for_each = [1]\nlabels = 1\ncontent {}", "A list of labels is required"),
        ("for_each = [1]\nlabels = [null]\ncontent {}", "null value as a dynamic block label"),
        ("for_each = [1]\niterator = 1\ncontent {}", "single variable name"),
        ("for_eech = [1]\ncontent {}", 'Did you mean "for_each"?'),
        ("for_each = [1]\nother {}\ncontent {}", 'Blocks of type "other" are not expected here'),
    ],
)
def test_error(inside: str, message: str) -> None:
    with pytest.raises(hcl.HclErrors) as caught:
        expand(f'dynamic "group" {{\n{inside}\n}}')
    assert message in str(caught.value)


def test_unexpected_type_and_missing_label() -> None:
    with pytest.raises(hcl.HclErrors, match='Blocks of type "nope" are not expected here'):
        expand('dynamic "nope" {\n for_each = []\n content {}\n}')
    with pytest.raises(hcl.HclErrors, match="exactly one label"):
        expand("dynamic {\n for_each = []\n content {}\n}")
