"""Filter expressions: what they accept, what they mean, and how they refuse."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nomadpy.api.bexpr import FieldTree, compile_filter, field_tree
from nomadpy.model.errors import Invalid


class Task(msgspec.Struct, rename="pascal"):
    name: str = ""
    driver: str = "docker"
    config: dict[str, Any] = {}


class Periodic(msgspec.Struct, rename="pascal"):
    enabled: bool = False


class Job(msgspec.Struct, rename="pascal"):
    name: str = ""
    priority: int = 50
    stop: bool = False
    weight: float = 0.5
    meta: dict[str, str] = {}
    tags: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    periodic: Periodic | None = None
    healthy: bool | None = None


JOB = Job(
    name="web-eu",
    meta={"team": "a", "key with space": "x", "a/b": "slash"},
    tags=("edge", "blue"),
    tasks=(Task(name="nginx", config={"ports": ["http"], "depth": {"x": 3}}), Task(name="log", driver="exec")),
    periodic=Periodic(enabled=True),
)
WIRE = msgspec.to_builtins(JOB)

TRUE = [
    'Name == "web-eu"',
    "Name==`web-eu`",
    "Name == web-eu",
    "Name != other",
    "Priority == 50",
    'Priority == "50"',
    "Priority == 0x32",
    "Priority != -3",
    "Weight == 0.5",
    "Weight == 5e-1",
    "Stop == false",
    "Stop != T",
    '"eu" in Name',
    'Name contains "eb-"',
    'Name not contains "zz"',
    "team in Meta",
    '"nobody" not in Meta',
    "Tags contains blue",
    "Tags not contains red",
    "edge in Tags",
    "Meta.team == a",
    'Meta["key with space"] == x',
    "Meta[`key with space`] == x",
    '"/Meta/team" == "a"',
    '"/Meta/a~1b" == "slash"',
    '"/Meta/key with space" is not empty',
    "Meta is not empty",
    "Name is not empty",
    "Periodic is not nil",
    "Periodic.Enabled == true",
    "Healthy is nil",
    "Tasks.0.Name == nginx",
    'Tasks.1.Driver matches "^ex"',
    "Name matches `^web-(eu|us)$`",
    "Name not matches `^db`",
    "any Tags as t { t == blue }",
    "all Tags as t { t is not empty }",
    "not all Tags as t { t == blue }",
    "any Tags as i, t { i == 1 and t == blue }",
    'any Meta as k { k == "team" }',
    "any Meta as k, v { k == team and v == a }",
    "any Meta as _, v { v == slash }",
    "any Tasks as t { t.Driver == exec and t.Name == log }",
    'any Tasks as t { "http" in t.Config.ports }',
    "any Tasks as t { t.Config.depth.x == 3 }",
    "any Tasks as t { any Tags as g { g == blue } and t.Name == log }",
    "Stop == true or Name == web-eu and Priority == 50",
    "(Stop == true or Name == web-eu) and Priority == 50",
    "not Stop == true",
    "not not Name == web-eu",
    "not (Stop == true and Nonsense == 1)",
    'Name == "web\\u002deu"',
    "\n Name\t==\n web-eu ",
]


@pytest.mark.parametrize("expression", TRUE)
@pytest.mark.parametrize("obj", [JOB, WIRE], ids=["record", "wire"])
def test_true_of_the_example_and_false_when_negated(expression: str, obj: Any) -> None:
    schema = field_tree(Job)
    assert compile_filter(expression, schema).matches(obj)
    assert not compile_filter(f"not ({expression})", schema).matches(obj)


@pytest.mark.parametrize(
    ("expression", "outcome"),
    [
        ("Meta.none == x", False),
        ("Meta.none != x", True),
        ("x in Meta.none", False),
        ("x not in Meta.none", True),
        ("Meta.none contains x", False),
        ("Meta.none not contains x", True),
        ("Meta.none matches x", False),
        ("Meta.none not matches x", True),
        ("Meta.none is empty", True),
        ("Meta.none is not empty", False),
        ("Tags.7 == x", False),
        ("Tasks.9.Name != x", True),
    ],
)
def test_a_missing_key_is_no_error(expression: str, outcome: bool) -> None:
    assert compile_filter(expression, field_tree(Job)).matches(JOB) is outcome


@pytest.mark.parametrize(
    ("expression", "outcome"),
    [
        ("Tags contains x", False),
        ("Tags is empty", True),
        ("Meta.x == y", False),
        ("Meta.x != y", True),
        ("any Tags as t { t == x }", False),
        ("all Tags as t { t == x }", True),
        ("Periodic is nil", True),
        ("Periodic.Enabled == true", False),
        ("Periodic.Enabled != true", True),
        ("Healthy == true", False),
        ("Healthy is not nil", False),
    ],
)
@pytest.mark.parametrize("obj", [Job(), {**msgspec.to_builtins(Job()), "Tags": None, "Meta": None}])
def test_nil_counts_as_missing(expression: str, outcome: bool, obj: Any) -> None:
    assert compile_filter(expression, field_tree(Job)).matches(obj) is outcome


def test_fields_left_out_of_the_wire_form_are_zero() -> None:
    schema = field_tree(Job)
    assert compile_filter('Name == "" and Priority == 0 and Stop == false and Tags is empty', schema).matches({})


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("Nonsense == 1", "'Nonsense'"),
        ("name == web", "'name'"),
        ("Name.Deeper == 1", "'Deeper'"),
        ("Periodic.Nonsense == 1", "'Nonsense'"),
        ("Tasks.Name == x", "'Name'"),
        ("any Tasks as t { t.Nonsense == 1 }", "'Nonsense'"),
        ("Priority == high", "a whole number"),
        ("Priority == 1.5", "a whole number"),
        ("Weight == x", "a number"),
        ("Stop == maybe", "true or false"),
        ("Meta == x", "a map"),
        ("Tags == x", "a list"),
        ("Periodic == x", "a struct"),
        ("5 in Priority", "a int"),
        ('Priority matches "5"', "needs text"),
        ("Priority is empty", "needs text"),
        ("any Name as x { x == 1 }", "a list or a map"),
        ("x in Tasks", "a struct"),
    ],
)
def test_unknown_names_and_wrong_types_are_refused_when_matching(expression: str, problem: str) -> None:
    compiled = compile_filter(expression, field_tree(Job))
    with pytest.raises(Invalid) as caught:
        compiled.matches(JOB)
    assert problem in caught.value.message


def test_an_unknown_name_behind_nil_is_still_refused() -> None:
    with pytest.raises(Invalid, match="Nonsense"):
        compile_filter("Periodic.Nonsense == 1", field_tree(Job)).matches(Job())


@pytest.mark.parametrize(
    ("expression", "position"),
    [
        ("", 1),
        ("   ", 4),
        ("Name", 5),
        ("Name ==", 8),
        ("Name = x", 6),
        ("Name == x or", 13),
        ("Name == x y", 11),
        ("(Name == x", 11),
        ("Name == x)", 10),
        ('Name == "x', 9),
        ("Name == `x", 9),
        ("Name == 12ab", 9),
        ("Name is full", 9),
        ("Name not x", 10),
        ("Meta[x] == y", 6),
        ("Meta. == y", 7),
        ("any Tags { x == y }", 10),
        ("any Tags as { x == y }", 13),
        ("any Tags as t x", 15),
        ("any Tags as t { t == x", 23),
        ('Name == "\\q"', 10),
        ('Name == "\\uD800"', 10),
        ('"x" == Name', 1),
        ("5 == Name", 1),
    ],
)
def test_malformed_expressions_name_the_place(expression: str, position: int) -> None:
    with pytest.raises(Invalid, match=rf"^filter expression, character {position}: "):
        compile_filter(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "(" * 1000 + "A == 1" + ")" * 1000,
        "not " * 5000 + "A == 1",
        "A == " + "1" * 20_000,
        "A matches `" + "a" * 600 + "`",
    ],
)
def test_excess_is_refused(expression: str) -> None:
    with pytest.raises(Invalid):
        compile_filter(expression)


def test_a_long_chain_is_no_nesting() -> None:
    expression = " or ".join(f"A == {i}" for i in range(1000))
    assert compile_filter(expression).matches({"A": 999})


def test_without_a_schema_types_come_from_the_values() -> None:
    obj = {"N": 5, "F": 1.5, "B": True, "S": "x", "L": [1, 2], "D": {"k": None}, "Z": None}
    for text in ("N == 5", "F == 1.5", "B == 1", "S == x", "2 in L", "k in D", "Z is nil", "D.k is nil", "Q is empty"):
        assert compile_filter(text).matches(obj), text


def test_a_described_tree_works_like_a_record() -> None:
    tree = FieldTree("struct", fields={"N": FieldTree("int"), "P": FieldTree("pointer", element=FieldTree("string"))})
    assert compile_filter("N == 0 and P is nil", tree).matches({})
    assert compile_filter("P == x", tree).matches({"P": "x"})
    with pytest.raises(Invalid, match="'Q'"):
        compile_filter("Q == 1", tree).matches({})


WORDS = st.sampled_from(
    ["Name", "Meta", "Tags", "Tasks", "Priority", ".", "[", "]", "(", ")", "{", "}", "==", "!=", "in", "not", "and"]
    + [
        "or",
        "is",
        "empty",
        "nil",
        "contains",
        "matches",
        "any",
        "all",
        "as",
        "t",
        '"x"',
        "`[a`",
        "5",
        "-1.5",
        '"/a"',
        ",",
    ]
)


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=14).map(" ".join)))
@example('Name matches "("')
def test_only_invalid_is_ever_raised(expression: str) -> None:
    for obj in (JOB, WIRE, Job()):
        try:
            compile_filter(expression, field_tree(Job)).matches(obj)
        except Invalid as error:
            assert error.message  # noqa: PT017


@given(st.dictionaries(st.text(max_size=3), st.text(max_size=5)), st.text(max_size=3), st.text(max_size=5))
def test_a_quoted_key_and_value_compare_as_the_dictionary_does(meta: dict[str, str], key: str, value: str) -> None:
    def quote(text: str) -> str:
        return '"' + "".join(f"\\U{ord(char):08x}" for char in text) + '"'

    expression = f"Meta[{quote(key)}] == {quote(value)}"
    assert compile_filter(expression, field_tree(Job)).matches(Job(meta=meta)) == (meta.get(key) == value)
