"""Declarations, sources and their precedence, validations, and locals."""

from __future__ import annotations

from typing import Any

import pytest

from nomadpy.jobspec import hcl


def resolve(text: str, **sources: Any) -> hcl.Resolved:
    return hcl.resolve(hcl.parse_any(text, "f.hcl"), hcl.VariableSources(**sources), hcl.Surroundings())


def values(text: str, **sources: Any) -> Any:
    return hcl.to_python(resolve(text, **sources).scope.get("var"))


def error_of(text: str, **sources: Any) -> str:
    with pytest.raises(hcl.HclErrors) as caught:
        resolve(text, **sources)
    return str(caught.value)


def test_later_sources_win() -> None:
    text = 'variable "a" {\n default = "default"\n}\n'
    environment = {"NOMAD_VAR_a": "environment", "NOMAD_VAR_other": "ignored"}
    files = [("1.hcl", 'a = "first"'), ("2.json", '{"a": "second"}')]
    assert values(text) == {"a": "default"}
    assert values(text, environment=environment) == {"a": "environment"}
    assert values(text, environment=environment, files=files) == {"a": "second"}
    found = resolve(text, environment=environment, files=files, flags=["a=1", "a=two=2"])
    assert (found.assignments["a"].value, found.assignments["a"].origin) == ("two=2", "flag")


@pytest.mark.parametrize(
    ("declaration", "text", "expected"),
    [
        ("type = string", "[1]", "[1]"),
        ("type = number", "5", 5),
        ("", "a b", "a b"),
        ("type = bool", "true", True),
        ("type = list(string)", '["a", 1]', ["a", "1"]),
        ("type = map(number)", '{a = "1"}', {"a": 1}),
        ("type = any", "[1]", [1]),
        ("default = 3", "4", 4),
        ("default = true", "false", False),
        ("default = [1]", "[1, 2, 3]", [1, 2, 3]),
        ('type = "number"', "5", 5),
    ],
)
def test_text_is_literal_or_an_expression_by_type(declaration: str, text: str, expected: Any) -> None:
    block = f'variable "x" {{\n{declaration}\n}}'
    assert values(block, flags=[f"x={text}"]) == {"x": expected}
    assert values(block, environment={"NOMAD_VAR_x": text}) == {"x": expected}


def test_shorthand_declares_with_defaults() -> None:
    assert values('variables {\n a = 1\n b = ["x"]\n}', flags=["a=2"]) == {"a": 2, "b": ["x"]}


def test_undeclared_values_are_errors_only_when_strict() -> None:
    files = [("v.hcl", "ab = 1")]
    strict = error_of('variable "abc" {\n default = 1\n}', files=files, flags=["q=1"])
    assert 'v.hcl:1,1-7: Undefined variable; A variable named "ab"' in strict
    assert 'A variable named "q" was set by a -var option' in strict
    found = resolve("variables { abc = 1 }", files=files, flags=["q=1"], strict=False)
    assert [each.severity for each in found.warnings] == ["warning", "warning"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('variable "x" {}', 'Unset variable "x"'),
        ('variable "x" {\n type = nope\n}', "Invalid type specification"),
        ('variable "x" {\n type = number\n default = "a"\n}', "Invalid default value for variable"),
        ('variable "x" {\n default = upper("a")\n}', "Function calls not allowed"),
        ('variable "x" {\n default = var.y\n}', "Variables not allowed"),
        ('variable "x" {\n default = 1\n}\nvariable "x" {\n default = 1\n}', "Duplicate variable"),
        ('variable "1x" {\n default = 1\n}', "Invalid variable name"),
        ("variable {\n default = 1\n}", "Missing name for variable"),
        ('variable "x" {\n default = 1\n defalt = 2\n}', 'Did you mean "default"?'),
        ('variable "x" {\n default = 1\n other {}\n}', "Unsupported block type"),
        ('variable "x" {\n default = 1\n description = 5\n}', "Invalid description"),
    ],
)
def test_declaration_error(text: str, message: str) -> None:
    assert message in error_of(text)


def test_value_errors() -> None:
    text = 'variable "x" {\n type = number\n}'
    assert "does not fit its type constraint: a number is required" in error_of(text, flags=["x=a"])
    assert "Invalid -var option" in error_of(text, flags=["x"])
    assert "Variables not allowed" in error_of('variable "x" {\n type = bool\n}', flags=["x=yes"])
    with_declaration = error_of(text, files=[("v.hcl", 'variable "x" {}')])
    assert "Variable declaration in a .var file" in with_declaration
    # A variable file that cannot be parsed stops everything else.
    assert error_of('variable "x" {}', files=[("v.hcl", "x = ")]).startswith("v.hcl:1,5-5: Invalid expression")


VALIDATED = """variable "x" {
  type = number
  validation {
    condition     = %s
    error_message = "Must be small."
  }
}"""


def test_validation() -> None:
    assert values(VALIDATED % "var.x < 5", flags=["x=1"]) == {"x": 1}
    broken = error_of(VALIDATED % "var.x < 5", flags=["x=9"])
    assert "Invalid value for variable; Must be small. This was checked by the validation rule" in broken
    assert "must refer to var.x" in error_of(VALIDATED % "true", flags=["x=1"])
    assert "may only refer to the variable itself" in error_of(VALIDATED % "var.x < var.y", flags=["x=1"])
    assert "may only refer to the variable itself" in error_of(VALIDATED % "var.x < local.y", flags=["x=1"])
    assert "looks at files" in error_of(VALIDATED % 'fileexists("${var.x}")', flags=["x=1"])
    assert "Invalid variable validation result" in error_of(VALIDATED % "var.x", flags=["x=7"])
    assert values(VALIDATED % "length([for y in [var.x] : y if y > 0]) == 1", flags=["x=1"]) == {"x": 1}
    blank = VALIDATED.replace("Must be small.", " ") % "var.x < 5"
    assert "Invalid validation error message" in error_of(blank, flags=["x=1"])


def test_locals_in_any_order() -> None:
    found = resolve("variables { n = 2 }\nlocals {\n a = local.b + var.n\n k = keys(local)\n}\nlocals {\n b = 1\n}")
    assert found.scope.get("local") == {"a": 3, "b": 1, "k": ("a", "b")}


def test_locals_errors() -> None:
    cycle = error_of("locals {\n a = local.b\n b = local.a\n c = local.a\n}")
    assert "local.a -> local.b -> local.a" in cycle
    assert error_of("locals {\n a = 1 + []\n b = local.a\n}").count("Invalid operand") == 1
    assert 'attribute named "x"' in error_of("locals {\n a = local.x\n}")
    assert "Duplicate value in locals" in error_of("locals { a = 1 }\nlocals { a = 2 }")


def test_unknown_roots_survive_in_locals() -> None:
    assert resolve('locals { a = "${node.class}-x" }').scope.get("local") == {"a": "${node.class}-x"}
