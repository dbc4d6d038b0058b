"""Input variables of a job file: their declarations, and the values that were given for them.

A value comes from the declaration's default, the environment (``NOMAD_VAR_<name>``), variable files in order,
or ``-var`` flags; the last assignment wins and only that one is converted and validated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal as OneOf

import msgspec

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, HclErrors, SourceRange, error, suggest, warning
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.json_syntax import parse_any, shape
from nomadpy.jobspec.hcl.locals import evaluate_locals
from nomadpy.jobspec.hcl.parser import parse_expression
from nomadpy.jobspec.hcl.scope import Budget, Scope, Surroundings, constant_scope
from nomadpy.jobspec.hcl.syntax import Block, Body
from nomadpy.jobspec.hcl.types import BOOL, ConversionError, convert
from nomadpy.jobspec.hcl.values import Value
from nomadpy.jobspec.hcl.variable_blocks import Validation, Variable, read_declarations

ENVIRONMENT_PREFIX = "NOMAD_VAR_"
TOP_LEVEL_LABELS = {"job": 1, "variable": 1, "variables": 0, "locals": 0}
_IDENTIFIER = re.compile(r"[^\W\d][\w-]*\Z")

Origin = OneOf["default", "environment", "file", "flag"]


class VariableSources(msgspec.Struct, frozen=True, kw_only=True):
    """Where values may come from, each in its own order of precedence.

    ``environment`` is the whole environment, of which only NOMAD_VAR_ names are read; ``files`` are (name, text)
    pairs; ``flags`` are ``name=value`` texts. ``strict`` makes values for undeclared variables errors instead of
    warnings.
    """

    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    files: Sequence[tuple[str, str | bytes]] = ()
    flags: Sequence[str] = ()
    strict: bool = True


class Assignment(msgspec.Struct, frozen=True, eq=False):
    """The winning value of a variable and where it came from; ``text`` is as given in environment and flags."""

    value: Value
    origin: Origin
    text: str | None = None
    range: SourceRange | None = None


class Resolved(msgspec.Struct, frozen=True, eq=False):
    """Everything the job block may refer to: a scope with ``var`` and ``local``."""

    scope: Scope
    variables: Mapping[str, Variable]
    assignments: Mapping[str, Assignment]
    warnings: tuple[Diagnostic, ...]


def resolve(body: Body, sources: VariableSources, surroundings: Surroundings) -> Resolved:
    """The scope in which a file's job block is to be evaluated.

    Raises HclErrors: for variable files that cannot be parsed (nothing else is looked at then), for the
    declarations, for unset, unconvertible or refused values, and for locals.
    """
    file_values = _read_files(sources.files)
    top = shape(body, TOP_LEVEL_LABELS)
    variables, found = read_declarations(top)
    assignments, more, warnings = _assign(variables, sources, file_values)
    found += more
    values: dict[str, Value] = {}
    for name, variable in variables.items():
        assignment = assignments.get(name)
        if assignment is not None:
            values[name] = assignment.value
            found += _validate(variable, assignment, surroundings.budget)
        elif not any(_names(each, name) for each in found):
            detail = (
                f'A used variable must be set or have a default value. Set it with -var "{name}=…", a variable '
                f"file or the environment variable {ENVIRONMENT_PREFIX}{name}."
            )
            found.append(Diagnostic("error", f'Unset variable "{name}"', detail, variable.range))
    if found:
        raise HclErrors(found)
    scope = Scope({"var": values}, surroundings)
    local_values = evaluate_locals(_blocks(top, "locals"), scope)
    return Resolved(scope.child({"local": local_values}), variables, assignments, tuple(warnings))


def _blocks(body: Body, type_: str) -> list[Block]:
    return [block for block in body.blocks if block.type == type_]


def _names(found: Diagnostic, name: str) -> bool:
    """Whether a diagnostic already speaks about this variable's value."""
    return f'"{name}"' in found.summary or f'"{name}"' in found.detail


# Reading the sources.


def _read_files(files: Iterable[tuple[str, str | bytes]]) -> list[tuple[str, Assignment]]:
    given: list[tuple[str, Assignment]] = []
    found: list[Diagnostic] = []
    for filename, text in files:
        try:
            given.extend(_read_file(filename, text))
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
    if found:
        raise HclErrors(found)
    return given


def _read_file(filename: str, text: str | bytes) -> list[tuple[str, Assignment]]:
    body = shape(parse_any(text, filename), {})
    for block in body.blocks:
        if block.type in ("variable", "variables"):
            name = block.labels[0] if block.labels else "name"
            detail = (
                "A variable file only assigns values; variables are declared in the job file. To assign a value, "
                f"write: {name} = …"
            )
            raise error("Variable declaration in a .var file", detail, block.range)
        detail = f'A variable file only has arguments of the form name = value, but this is a "{block.type}" block.'
        raise error("Unexpected block in a variable file", detail, block.range)
    scope = constant_scope()
    given: list[tuple[str, Assignment]] = []
    found: list[Diagnostic] = []
    for name, attribute in body.attributes.items():
        try:
            value = evaluate(attribute.expression, scope)
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
        else:
            given.append((name, Assignment(value, "file", range=attribute.range)))
    if found:
        raise HclErrors(found)
    return given


def _assign(
    variables: Mapping[str, Variable],
    sources: VariableSources,
    file_values: Sequence[tuple[str, Assignment]],
) -> tuple[dict[str, Assignment], list[Diagnostic], list[Diagnostic]]:
    """The winning assignments, converted; the errors; the warnings."""
    found: list[Diagnostic] = []
    undeclared: list[Diagnostic] = []
    latest: dict[str, tuple[Origin, str | Assignment]] = {}
    for name in variables:
        text = sources.environment.get(ENVIRONMENT_PREFIX + name)
        if text is not None:
            latest[name] = ("environment", text)
    for name, assignment in file_values:
        if name in variables:
            latest[name] = ("file", assignment)
        else:
            undeclared.append(_undeclared(name, "a variable file", variables, assignment.range))
    for flag in sources.flags:
        name, equals, text = flag.partition("=")
        name = name.strip()
        if not equals or not _IDENTIFIER.match(name):
            detail = f"A variable is set with -var 'name=value', but {flag[:80]!r} was given."
            found.append(Diagnostic("error", "Invalid -var option", detail))
        elif name in variables:
            latest[name] = ("flag", text)
        else:
            undeclared.append(_undeclared(name, "a -var option", variables, None))
    warnings = []
    if sources.strict:
        found += undeclared
    else:
        warnings = [warning(each.summary, each.detail, each.range) for each in undeclared]
    assignments: dict[str, Assignment] = {}
    for name, variable in variables.items():
        try:
            assignment_or_none = _winner(variable, latest.get(name))
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
        else:
            if assignment_or_none is not None:
                assignments[name] = assignment_or_none
    return assignments, found, warnings


def _undeclared(name: str, how: str, variables: Mapping[str, Variable], where: SourceRange | None) -> Diagnostic:
    detail = f'A variable named "{name}" was set by {how}, but the job file does not declare it.'
    return Diagnostic("error", "Undefined variable", detail, where, suggest(name, variables))


def _winner(variable: Variable, latest: tuple[Origin, str | Assignment] | None) -> Assignment | None:
    if latest is None:
        if not variable.has_default:
            return None
        return Assignment(variable.default, "default", range=variable.range)
    origin, given = latest
    if isinstance(given, Assignment):
        return Assignment(_converted(variable, given.value, given.range), origin, range=given.range)
    if variable.is_literal_text:
        return Assignment(_converted(variable, given, None), origin, given)
    expression = parse_expression(given, f"<value of var.{variable.name} from {origin}>")
    value = evaluate(expression, constant_scope())
    return Assignment(_converted(variable, value, expression.range), origin, given, expression.range)


def _converted(variable: Variable, value: Value, where: SourceRange | None) -> Value:
    try:
        return convert(value, variable.type)
    except ConversionError as wrong:
        detail = f'The value for variable "{variable.name}" does not fit its type constraint: {wrong}.'
        raise error("Invalid value for variable", detail, where or variable.range) from wrong


def _validate(variable: Variable, assignment: Assignment, budget: Budget) -> list[Diagnostic]:
    """The rules that the value breaks. File functions are not available to rules."""
    scope = Scope({"var": {variable.name: assignment.value}}, Surroundings(budget=budget))
    found: list[Diagnostic] = []
    for rule in variable.validations:
        try:
            found.extend(_broken(variable, rule, assignment, evaluate(rule.condition, scope)))
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
    return found


def _broken(variable: Variable, rule: Validation, assignment: Assignment, result: Value) -> list[Diagnostic]:
    where = rule.condition.range
    summary = "Invalid variable validation result"
    if result is None:
        detail = "Validation condition expression must return either true or false, not null."
        return [Diagnostic("error", summary, detail, where)]
    try:
        if convert(result, BOOL) is True:
            return []
    except ConversionError as wrong:
        return [Diagnostic("error", summary, f"Invalid validation condition result value: {wrong}.", where)]
    told = rule.error_message if rule.error_message.rstrip()[-1] in ".!?" else f"{rule.error_message}."
    detail = f'{told} This was checked by the validation rule of variable "{variable.name}" at {rule.range}.'
    return [Diagnostic("error", "Invalid value for variable", detail, assignment.range or variable.range)]
