"""Every operator of constraints, with its quirks, and what the references resolve to."""

from __future__ import annotations

import pytest
from scheduler_world import make_node

from nomadpy.scheduler.facts import matches_any
from nomadpy.scheduler.operators import holds, is_true
from nomadpy.scheduler.targets import escapes_class, resolve

TRUE = [
    ("=", "linux", "linux"),
    ("==", "linux", "linux"),
    ("is", "a", "a"),
    ("!=", "a", "b"),
    ("not", "a", "b"),
    ("!=", None, "linux"),
    ("<", "9", "10"),
    ("<", "9.5", "10"),
    ("<", "10a", "9a"),
    ("<=", "10", "10"),
    (">", "1e3", "999"),
    (">=", "b", "a"),
    ("regexp", "x86_64", "^(x86|amd)"),
    ("regexp", "abc", "[[:alpha:]]+$"),
    ("version", "1.7.3", "~> 1.4"),
    ("version", "1.7", ">= 1.2, < 2.0"),
    ("version", "1.2-beta1", ">= 1.2-alpha1"),
    ("semver", "2.0.0-rc1", ">= 1.0.0"),
    ("set_contains", "a, b,c", "b , a"),
    ("set_contains_all", "a,b", "a"),
    ("set_contains_any", "a,b", "z,b"),
    ("is_set", "", ""),
    ("is_not_set", None, ""),
]
FALSE = [
    ("=", None, "linux"),
    ("!=", None, None),
    ("<", None, "1"),
    ("<", "10", "9"),
    ("regexp", "abc", "("),
    ("version", "nonsense", ">= 1"),
    ("version", "1.2", "nonsense"),
    ("version", "2.0.0-rc1", ">= 1.0"),
    ("version", "2.0", "~> 1.4"),
    ("semver", "1.4.0", "~> 1.4"),
    ("set_contains", "a,b", "a,c"),
    ("set_contains_any", "a,b", "c"),
    ("is_set", None, ""),
    ("is_not_set", "", ""),
    ("resembles", "a", "a"),
]


@pytest.mark.parametrize(("operand", "left", "right"), TRUE)
def test_operator_holds(operand: str, left: str | None, right: str | None) -> None:
    assert holds(operand, left, right)


@pytest.mark.parametrize(("operand", "left", "right"), FALSE)
def test_operator_does_not_hold(operand: str, left: str | None, right: str | None) -> None:
    assert not holds(operand, left, right)


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("plain", "plain"),
        ("v${attr.kernel.name}", "v${attr.kernel.name}"),
        ("${attr.kernel.name}", "linux"),
        ("${attr.kernel.name} ", None),
        ("${attr.missing}", None),
        ("${meta.rack}", "r1"),
        ("${node.class}", "big"),
        ("${node.datacenter}", "dc1"),
        ("${node.unique.name}", "node-0"),
        ("${node.nonsense}", None),
    ],
)
def test_references(target: str, value: str | None) -> None:
    assert resolve(target, make_node(meta={"rack": "r1"}, node_class="big")) == value


def test_unique_references_escape_the_class() -> None:
    assert escapes_class("${attr.unique.hostname}")
    assert escapes_class("${node.unique.id}")
    assert not escapes_class("${attr.kernel.name}")


@pytest.mark.parametrize(
    ("name", "glob", "matches"),
    [("dc1", "dc1", True), ("dc1", "*", True), ("dc1", "d*1", True), ("dc1", "d*2", False), ("aba", "ab*ba", False)],
)
def test_datacenter_patterns(name: str, glob: str, matches: bool) -> None:
    assert matches_any(name, (glob,)) is matches


def test_booleans_in_gos_spelling() -> None:
    assert is_true("T", default=False)
    assert not is_true("false", default=True)
    assert is_true("perhaps", default=True)
