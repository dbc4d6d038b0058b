"""Declarations of input variables: ``variable`` blocks and the ``variables`` shorthand."""

from __future__ import annotations

import re

import msgspec

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, HclErrors, SourceRange, error, suggest
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.json_syntax import shape
from nomadpy.jobspec.hcl.parser import parse_expression
from nomadpy.jobspec.hcl.scope import constant_scope
from nomadpy.jobspec.hcl.syntax import (
    Access,
    Attribute,
    Block,
    Body,
    Call,
    Expression,
    GetAttribute,
    Literal,
    Name,
    walk,
)
from nomadpy.jobspec.hcl.types import ANY, ConversionError, Type, convert, parse_type, type_of
from nomadpy.jobspec.hcl.values import Value

_FILE_FUNCTIONS = frozenset(
    {"abspath", "basename", "dirname", "file", "filebase64", "fileexists", "fileset", "pathexpand"}
)
_IDENTIFIER = re.compile(r"[^\W\d][\w-]*\Z")


class Validation(msgspec.Struct, frozen=True, eq=False):
    """A rule that a variable's value must keep."""

    condition: Expression
    error_message: str
    range: SourceRange


class Variable(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A declared variable.

    ``type`` is what values are converted to. ``is_literal_text`` says that text from flags and the environment
    is the value itself, not an expression: so for strings, numbers, and where nothing tells the type.
    """

    name: str
    type: Type
    is_literal_text: bool
    has_default: bool
    default: Value
    description: str
    validations: tuple[Validation, ...]
    range: SourceRange


def read_declarations(body: Body) -> tuple[dict[str, Variable], list[Diagnostic]]:
    """Variables by name, in file order, and everything that is wrong with their declarations."""
    variables: dict[str, Variable] = {}
    found: list[Diagnostic] = []
    for block in body.blocks:
        try:
            if block.type == "variable":
                _declare(_variable(block), variables)
            elif block.type == "variables":
                _shorthand(block, variables, found)
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
    return variables, found


def _declare(variable: Variable, variables: dict[str, Variable]) -> None:
    previous = variables.get(variable.name)
    if previous is not None:
        detail = f'The variable "{variable.name}" was already declared at {previous.range}.'
        raise error("Duplicate variable", detail, variable.range)
    variables[variable.name] = variable


def _shorthand(block: Block, variables: dict[str, Variable], found: list[Diagnostic]) -> None:
    if block.labels:
        detail = "A variables block has no labels."
        raise error("Extraneous label for variables", detail, block.label_ranges[0])
    body = shape(block.body, {})
    for nested in body.blocks:
        detail = f'Blocks of type "{nested.type}" are not expected here.'
        found.append(Diagnostic("error", "Unsupported block type", detail, nested.type_range))
    for name, attribute in body.attributes.items():
        try:
            default = evaluate(attribute.expression, constant_scope())
            type_, is_literal = _type_of_default(default)
            variable = Variable(
                name=name,
                type=type_,
                is_literal_text=is_literal,
                has_default=True,
                default=default,
                description="",
                validations=(),
                range=attribute.range,
            )
            _declare(variable, variables)
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)


def _variable(block: Block) -> Variable:
    name = _name(block)
    body = shape(block.body, {"validation": 0})
    _refuse_unexpected(body, ("type", "default", "description"), ("validation",))
    default_given = body.attributes.get("default")
    default = evaluate(default_given.expression, constant_scope()) if default_given is not None else None
    type_given = body.attributes.get("type")
    if type_given is not None:
        type_ = _declared_type(type_given.expression)
        is_literal = type_.kind in ("string", "number")
    else:
        type_, is_literal = _type_of_default(default)
    if default_given is not None:
        try:
            default = convert(default, type_)
        except ConversionError as wrong:
            detail = f"This default value is not compatible with the variable's type constraint: {wrong}."
            raise error("Invalid default value for variable", detail, default_given.expression.range) from wrong
    return Variable(
        name=name,
        type=type_,
        is_literal_text=is_literal,
        has_default=default_given is not None,
        default=default,
        description=_literal_text(body.attributes.get("description"), "description"),
        validations=tuple(_validation(each, name) for each in body.blocks),
        range=block.range,
    )


def _name(block: Block) -> str:
    if len(block.labels) != 1:
        summary = "Missing name for variable" if not block.labels else "Extraneous label for variable"
        raise error(summary, "A variable block has exactly one label, the variable's name.", block.range)
    name = block.labels[0]
    if not _IDENTIFIER.match(name):
        detail = "A name must start with a letter or underscore and may only have letters, digits, _ and -."
        raise error("Invalid variable name", detail, block.label_ranges[0])
    return name


def _refuse_unexpected(body: Body, arguments: tuple[str, ...], blocks: tuple[str, ...]) -> None:
    found: list[Diagnostic] = []
    for name, attribute in body.attributes.items():
        if name not in arguments:
            detail = f'An argument named "{name}" is not expected here.'
            hint = suggest(name, arguments)
            found.append(Diagnostic("error", "Unsupported argument", detail, attribute.name_range, hint))
    for block in body.blocks:
        if block.type not in blocks:
            detail = f'Blocks of type "{block.type}" are not expected here.'
            hint = suggest(block.type, blocks)
            found.append(Diagnostic("error", "Unsupported block type", detail, block.type_range, hint))
    if found:
        raise HclErrors(found)


def _declared_type(expression: Expression) -> Type:
    if isinstance(expression, Literal) and isinstance(expression.value, str):
        # JSON has no other way to write a type than as a string.
        line, column = expression.range.source.position(expression.range.start)
        inner = parse_expression(expression.value, expression.range.file, first_line=line, first_column=column + 1)
        return parse_type(inner)
    return parse_type(expression)


def _type_of_default(default: Value) -> tuple[Type, bool]:
    """The type that a default implies, and whether given text is taken literally.

    A tuple or object as default does not fix the length or the attributes of other values.
    """
    if default is None:
        return ANY, True
    if isinstance(default, (tuple, dict)):
        return ANY, False
    type_ = type_of(default)
    return type_, type_.kind in ("string", "number")


def _literal_text(attribute: Attribute | None, name: str) -> str:
    if attribute is None:
        return ""
    expression = attribute.expression
    if isinstance(expression, Literal) and isinstance(expression.value, str):
        return expression.value
    raise error(f"Invalid {name}", f"The {name} must be a literal string.", expression.range)


def _validation(block: Block, name: str) -> Validation:
    body = shape(block.body, {})
    _refuse_unexpected(body, ("condition", "error_message"), ())
    for argument in ("condition", "error_message"):
        if argument not in body.attributes:
            detail = f'The argument "{argument}" is required, but no definition was found.'
            raise error("Missing required argument", detail, block.range)
    message_given = body.attributes["error_message"]
    message = _literal_text(message_given, "error_message")
    if not message.strip():
        detail = "At least one non-empty error message string must be given."
        raise error("Invalid validation error message", detail, message_given.expression.range)
    condition = body.attributes["condition"].expression
    _check_references(condition, name)
    return Validation(condition, message, block.range)


def _check_references(condition: Expression, name: str) -> None:
    summary = "Invalid variable validation condition"
    only_own = f'The condition for variable "{name}" may only refer to the variable itself, using var.{name}.'
    inner_names = {getattr(node, field, None) for node in walk(condition) for field in ("key_name", "value_name")}
    refers_to_own = False
    own_roots: set[int] = set()
    for node in walk(condition):
        if isinstance(node, Access) and isinstance(node.target, Name) and node.target.name == "var":
            first = node.steps[0]
            if not isinstance(first, GetAttribute) or first.name != name:
                raise error(summary, only_own, node.range)
            refers_to_own = True
            own_roots.add(id(node.target))
        elif isinstance(node, Call) and node.name in _FILE_FUNCTIONS:
            detail = f"The function {node.name} may not be used in a validation, because it looks at files."
            raise error(summary, detail, node.name_range)
        elif isinstance(node, Name) and id(node) not in own_roots and node.name not in inner_names:
            raise error(summary, only_own, node.range)
    if not refers_to_own:
        detail = f'The condition for variable "{name}" must refer to var.{name} in order to test incoming values.'
        raise error(summary, detail, condition.range)
