"""Expansion of ``dynamic`` blocks into the ordinary blocks they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, HclErrors, error, suggest
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.json_syntax import shape
from nomadpy.jobspec.hcl.scope import Scope
from nomadpy.jobspec.hcl.syntax import Access, Attribute, Block, Body, Expression, Literal, Name
from nomadpy.jobspec.hcl.types import STRING, ConversionError, convert, kind_of
from nomadpy.jobspec.hcl.values import Value, elements

_ARGUMENTS = ("for_each", "iterator", "labels")


class ScopedBlock(msgspec.Struct, frozen=True, eq=False):
    """A block and the scope in which its body is to be evaluated."""

    block: Block
    scope: Scope


def expand_dynamic(
    body: Body,
    scope: Scope,
    is_block_allowed: Callable[[str], bool],
    labels_by_type: Mapping[str, int] | None = None,
) -> list[ScopedBlock]:
    """The blocks of a body in order, with each ``dynamic`` block replaced by what it generates.

    ``labels_by_type`` gives the number of labels of each block type; it is needed only for a JSON body that
    has not been shaped yet. Blocks other than dynamic ones pass through unchecked. Dynamic blocks inside
    generated content are found when that content's body is expanded in turn.

    Raises HclErrors with the errors of all dynamic blocks of this body.
    """
    shaped = shape(body, {**labels_by_type, "dynamic": 1}) if labels_by_type is not None else body
    expanded: list[ScopedBlock] = []
    found: list[Diagnostic] = []
    for block in shaped.blocks:
        if block.type != "dynamic":
            expanded.append(ScopedBlock(block, scope))
            continue
        try:
            expanded.extend(_generate(block, scope, is_block_allowed))
        except HclErrors as wrong:
            found.extend(wrong.diagnostics)
    if found:
        raise HclErrors(found)
    return expanded


def _generate(block: Block, scope: Scope, is_block_allowed: Callable[[str], bool]) -> list[ScopedBlock]:
    if len(block.labels) != 1:
        detail = "A dynamic block needs exactly one label, the type of the blocks to generate."
        raise error("Invalid dynamic block", detail, block.range)
    type_ = block.labels[0]
    if not is_block_allowed(type_) or type_ == "dynamic":
        detail = f'Blocks of type "{type_}" are not expected here.'
        raise error("Unsupported block type", detail, block.label_ranges[0])
    body = shape(block.body, {"content": 0})
    content = _content(body)
    _check_arguments(body)
    iterator = _iterator_name(body, type_)
    generated: list[ScopedBlock] = []
    for key, value in _collection(body, scope):
        inner = scope.child({iterator: {"key": key, "value": value}})
        scope.surroundings.budget.spend(10, block.range)
        labels = _labels(body, inner)
        made = Block(
            type=type_,
            type_range=block.label_ranges[0],
            labels=labels,
            label_ranges=(block.label_ranges[0],) * len(labels),
            body=content.body,
            range=block.range,
        )
        generated.append(ScopedBlock(made, inner))
    return generated


def _content(body: Body) -> Block:
    contents = [each for each in body.blocks if each.type == "content"]
    for each in body.blocks:
        if each.type != "content":
            detail = f'Blocks of type "{each.type}" are not expected here.'
            raise error("Unsupported block type", detail, each.type_range, suggest(each.type, ["content"]))
    if not contents:
        detail = "A dynamic block must have a content block with the body of each generated block."
        raise error("Missing content block", detail, body.end_range)
    if len(contents) > 1:
        detail = f"The content block was already given at {contents[0].range}."
        raise error("Duplicate content block", detail, contents[1].range)
    return contents[0]


def _check_arguments(body: Body) -> None:
    for name, attribute in body.attributes.items():
        if name not in _ARGUMENTS:
            detail = f'An argument named "{name}" is not expected here.'
            hint = suggest(name, _ARGUMENTS)
            raise error("Unsupported argument", detail, attribute.name_range, hint)
    if "for_each" not in body.attributes:
        detail = 'The argument "for_each" is required, but no definition was found.'
        raise error("Missing required argument", detail, body.end_range)


def _iterator_name(body: Body, default: str) -> str:
    given = body.attributes.get("iterator")
    if given is None:
        return default
    name = _bare_name(given.expression)
    if name is None:
        detail = "Dynamic iterator must be a single variable name."
        raise error("Invalid expression", detail, given.expression.range)
    return name


def _bare_name(expression: Expression) -> str | None:
    if isinstance(expression, Name):
        return expression.name
    # JSON can only say it with a string.
    if isinstance(expression, Literal) and isinstance(expression.value, str):
        return expression.value if expression.value.isidentifier() else None
    return None


def _collection(body: Body, scope: Scope) -> list[tuple[Value, Value]]:
    given: Attribute = body.attributes["for_each"]
    where = given.expression.range
    over = evaluate(given.expression, scope)
    if over is None:
        raise error("Invalid dynamic for_each value", "Cannot use a null value in for_each.", where)
    pairs = elements(over)
    if pairs is None:
        detail = f"Cannot use a {kind_of(over)} value in for_each. An iterable collection is required."
        target = given.expression
        if isinstance(target, (Name, Access)) and isinstance(over, str) and over.startswith("${"):
            detail += " This reference is known only at run time, when blocks can no longer be generated."
        raise error("Invalid dynamic for_each value", detail, where)
    return pairs


def _labels(body: Body, scope: Scope) -> tuple[str, ...]:
    given = body.attributes.get("labels")
    if given is None:
        return ()
    where = given.expression.range
    labels = evaluate(given.expression, scope)
    if not isinstance(labels, tuple):
        detail = f"A list of labels is required, but have {kind_of(labels)}."
        raise error("Invalid dynamic block labels", detail, where)
    texts: list[str] = []
    for label in labels:
        if label is None:
            raise error("Invalid dynamic block label", "Cannot use a null value as a dynamic block label.", where)
        try:
            text = convert(label, STRING)
        except ConversionError as wrong:
            detail = f"Unsuitable value for a dynamic block label: {wrong}."
            raise error("Invalid dynamic block label", detail, where) from wrong
        assert isinstance(text, str)
        texts.append(text)
    return tuple(texts)
