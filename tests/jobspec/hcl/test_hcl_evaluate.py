"""Values of expressions: operators, references, templates, collections and conversions."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from nomadpy.jobspec import hcl

NAMES: dict[str, Any] = {
    "var": {
        "n": 3,
        "s": "text",
        "list": hcl.HclList((1, 2)),
        "map": hcl.HclMap({"b": 2, "a": 1}),
        "set": hcl.HclSet(("x", "y")),
        "null": None,
        "objects": ({"a": [1]}, {"a": [2]}),
        "nested": ({"a": (1, 5)}, {"a": (2, 6)}),
    }
}


def value_of(text: str, **names: Any) -> Any:
    return hcl.evaluate(hcl.parse_expression(text, "e"), hcl.Scope({**NAMES, **names}))


def error_of(text: str) -> str:
    with pytest.raises(hcl.HclErrors) as caught:
        value_of(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3 - 4 / 2", 5),
        ("0.1 + 0.2", Decimal("0.3")),
        ('"x${0.1 + 0.2}"', "x0.3"),
        ('"x${1/3}"', "x0." + "3" * 155),
        ("1.50", Decimal("1.5")),
        ("1.0", 1),
        ("123456789012345678901234567890 + 1", 123456789012345678901234567891),
        ("7 % 3", 1),
        ("-7 % 3", -1),
        ('"3" * "4"', 12),
        ("1 < 2 && 2 >= 2 || false", True),
        ("!true", False),
        ("--3", 3),
        ("1 == 1.0", True),
        ('1 == "1"', False),
        ("null == null", True),
        ("true == 1", False),
        ("[1] == [1]", True),
        ("{a = 1} == {a = 1}", True),
        ("var.list == [1, 2]", False),
        ("false && nope[0].x", False),
        ("true ? 1 : 2", 1),
        ('true ? 1 : "a"', "1"),
        ('"true" ? 1 : 2', 1),
        ("true ? [1] : []", (1,)),
        ("true ? 1 : var.missing", 1),
        ("false ? null : 2", 2),
        ("true ? 1 : false ? 2 : 3", 1),
    ],
)
def test_operators(text: str, expected: Any) -> None:
    found = value_of(text)
    assert found == expected
    assert isinstance(found, bool) is isinstance(expected, bool)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node.class", "${node.class}"),
        ("NOMAD_PORT_http", "${NOMAD_PORT_http}"),
        ('env["HOME"]', '${env["HOME"]}'),
        ('"${ attr.unique.network.ip-address }:80"', "${attr.unique.network.ip-address}:80"),
        ('"${env["A"]} ${upper(node.class)} ${var.n}"', '${env["A"]} ${NODE.CLASS} 3'),
        ("a.b.0.c", "${a.b.0.c}"),
        ('"$${x} %%{y} $$ % $x"', "${x} %{y} $$ % $x"),
        ('try(foo.bar[var.n], "fallback")', "fallback"),
        ("node.class.*.x[0]", "error"),
    ],
)
def test_unknown_roots_stand_for_themselves(text: str, expected: str) -> None:
    if expected == "error":
        assert "Unsupported attribute" in error_of(text)
    else:
        assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("var.list[0]", 1),
        ('var.list["1"]', 2),
        ("var.list.1", 2),
        ('var.map["a"]', 1),
        ("var.map.b", 2),
        ("var.nested[*].a", ((1, 5), (2, 6))),
        ("var.nested[*].a[1]", (5, 6)),
        ("var.nested.*.a[1]", (2, 6)),
        ("var.nested.0.a.1", 5),
        ("var.s[*]", ("text",)),
        ("var.null[*]", ()),
        ("[for x in var.list : x * 2]", (2, 4)),
        ("[for i, x in var.list : i if x > 1]", (1,)),
        ("[for k, v in var.map : k]", ("a", "b")),
        ("[for k, v in var.set : k]", ("x", "y")),
        ("{for k, v in var.map : v => k}", {"1": "a", "2": "b"}),
        ('{for w in ["a", "b", "ab"] : strlen(w) => w...}', {"1": ("a", "b"), "2": ("ab",)}),
        ('{a = 1, "b" : 2, (var.s) = 3, 4 = 5, true = 6}', {"a": 1, "b": 2, "text": 3, "4": 5, "true": 6}),
        ("[1, [2], {}]", (1, (2,), {})),
        ("[\n1,\n]", (1,)),
        ("max(var.list...)", 2),
        ("(var.n)", 3),
    ],
)
def test_references_and_collections(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r'"a\n\t\"\\\u00e9\U0001F600"', 'a\n\t"\\é\U0001f600'),
        ('"${var.list}"', (1, 2)),
        ('"${true}!"', "true!"),
        ('"a ${~ var.n ~} b"', "a3b"),
        ('"%{ if var.n > 1 }yes%{ else }no%{ endif }"', "yes"),
        ('"%{ if false }yes%{ endif }"', ""),
        ('"%{ for i, x in var.list }${i}=${x};%{ endfor }"', "0=1;1=2;"),
        ('"%{ if true ~} x %{~ endif }"', "x"),
        ("<<EOF\nline ${var.n}\n\\n $${x}\nEOF\n", "line 3\n\\n ${x}\n"),
        ("<<-EOF\n    a\n      b\n\n    ${var.n}\n    EOF\n", "a\n  b\n\n3\n"),
        ("<<-EOF\n  a\n${var.n}\nEOF\n", "  a\n3\n"),
        ("<<EOF\n%{ for x in var.list ~}\n- ${x}\n%{ endfor ~}\nend\nEOF\n", "- 1\n- 2\nend\n"),
        ('"${"nested ${"deep"}"}"', "nested deep"),
    ],
)
def test_templates(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("var.missing", 'Unsupported attribute; This object does not have an attribute named "missing".'),
        ("var.lisst", 'Did you mean "list"?'),
        ("node.class + 1", "Invalid operand; Unsuitable value for left operand: a number is required."),
        ("1 / 0", "Division by zero"),
        ("var.list[5]", "greater than or equal to the length"),
        ("var.list[-1]", "negative number"),
        ("var.list[0.5]", "whole numbers"),
        ("var.list.x", "Unsupported attribute"),
        ("var.set[0]", "Invalid index"),
        ("var.null.x", "Attempt to get attribute from null value"),
        ("var.null[0]", "Attempt to index null value"),
        ("var.s.x", "primitive-typed value (string)"),
        ('"a${null}"', "The expression result is null"),
        ('"a${[]}"', "Cannot include the given value in a string template"),
        ("[for x in 1 : x]", "Iteration over non-iterable value"),
        ("[for x in null : x]", "Iteration over null value"),
        ('{for x in ["a", "a"] : x => 1}', "Duplicate object key"),
        ("{for x in [null] : x => 1}", "Null value as key"),
        ("true ? [1] : {}", "Inconsistent conditional result types"),
        ("null ? 1 : 2", "Null condition"),
        ("[] ? 1 : 2", "Incorrect condition type"),
        ("upper(1, 2)", 'Too many function arguments; Function "upper" expects only 1 argument(s).'),
        ("upper()", 'Missing value for "str"'),
        ("upper([])", 'Invalid function argument; Invalid value for "str" parameter of upper: string required'),
        ("upper(null)", "argument must not be null"),
        ("upper(1...)", "Invalid expanding argument value"),
        ("9 * 1e2000", "Operation failed"),
    ],
)
def test_errors(text: str, message: str) -> None:
    assert message in error_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "[for a in range(1000) : [for b in range(1000) : [for c in range(1000) : c]]]",
        'try(join("", [for a in range(1000) : [for b in range(1000) : a]]), [for a in range(1000) : '
        "[for b in range(1000) : [for c in range(1000) : c]]])",
        'replace(replace(format("%09999d", 1), "0", format("%0999d", 1)), "0", format("%0999d", 1))',
        "pow(2, 100000000)",
        "range(100000)",
        'format("%999999999d", 1)',
        'indent(1000000000, "a\\nb")',
    ],
)
def test_growth_is_bounded(text: str) -> None:
    assert "failed" in error_of(text) or "too large" in error_of(text) or "Invalid function argument" in error_of(text)


def test_locals_that_double_are_bounded() -> None:
    lines = ["locals {", 'a0 = ["x"]', *(f"a{n + 1} = [local.a{n}, local.a{n}]" for n in range(60)), "}"]
    body = hcl.parse("\n".join(lines), "f.hcl")
    with pytest.raises(hcl.HclErrors, match="Evaluation too large"):
        hcl.resolve(body, hcl.VariableSources(), hcl.Surroundings())


def test_locals_that_nest_are_bounded() -> None:
    lines = ["locals {", "a0 = []", *(f"a{n + 1} = [local.a{n}]" for n in range(500)), "}"]
    body = hcl.parse("\n".join(lines), "f.hcl")
    with pytest.raises(hcl.HclErrors, match="Nested too deeply"):
        hcl.resolve(body, hcl.VariableSources(), hcl.Surroundings())


@pytest.mark.parametrize(
    ("value", "type_text", "expected"),
    [
        ("1", "number", 1),
        (1, "string", "1"),
        (True, "string", "true"),
        ("false", "bool", False),
        ("0", "bool", False),
        ((1, "a"), "list(string)", ("1", "a")),
        ((2, 1, 2), "set(number)", (1, 2)),
        ({"a": 1, "b": "x"}, "map(string)", {"a": "1", "b": "x"}),
        ((1, "a"), "list(any)", ("1", "a")),
        ({"a": "1", "c": 2}, "object({a = number, b = optional(string), d = optional(number, 5)})", None),
        (("1", 2), "tuple([number, string])", (1, "2")),
        (None, "list(string)", None),
    ],
)
def test_conversion(value: Any, type_text: str, expected: Any) -> None:
    if type_text.startswith("object"):
        expected = {"a": 1, "b": None, "d": 5}
    converted = hcl.convert(value, hcl.parse_type(hcl.parse_expression(type_text, "t")))
    assert hcl.to_python(converted) == hcl.to_python(expected)


@pytest.mark.parametrize(
    ("value", "type_text", "message"),
    [
        ("x", "number", "a number is required"),
        (True, "number", "number required"),
        (1, "bool", "bool required"),
        ("TRUE", "bool", 'use lowercase "true"'),
        ((1, {}), "list(string)", "element 1: string required"),
        ((1, True), "list(any)", "same type"),
        ({}, "object({a = number})", 'attribute "a" is required'),
        ((1,), "tuple([])", "tuple of 0 elements required"),
        ("x", "map(string)", "map of string required"),
    ],
)
def test_conversion_error(value: Any, type_text: str, message: str) -> None:
    with pytest.raises(hcl.ConversionError, match=message.replace("(", r"\(")):
        hcl.convert(value, hcl.parse_type(hcl.parse_expression(type_text, "t")))


@pytest.mark.parametrize(
    "text", ["list", "strng", "list(string, string)", "object([])", "tuple({})", "optional(string)", "1", "lst(string)"]
)
def test_invalid_type(text: str) -> None:
    with pytest.raises(hcl.HclErrors, match="Invalid type specification"):
        hcl.parse_type(hcl.parse_expression(text, "t"))


def test_constant_scope_refuses_names_and_calls() -> None:
    for text, message in {"x": "Variables not allowed", "upper(1)": "Function calls not allowed"}.items():
        with pytest.raises(hcl.HclErrors, match=message):
            hcl.evaluate(hcl.parse_expression(text, "e"), hcl.constant_scope())
