"""The syntax tree of an HCL file: bodies, attributes, blocks and expressions, each with its source range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import TypeAlias

import msgspec

from nomadpy.jobspec.hcl.diagnostics import SourceRange


class Node(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """Anything that has a place in a file."""

    range: SourceRange


class Literal(Node, frozen=True, eq=False):
    """A number, bool or null, or a plain string that needs no evaluation."""

    value: int | Decimal | bool | str | None


class Interpolation(Node, frozen=True, eq=False):
    """``${expression}`` inside a template."""

    expression: Expression


class IfDirective(Node, frozen=True, eq=False):
    """``%{if condition}…%{else}…%{endif}``."""

    condition: Expression
    then: tuple[TemplatePart, ...]
    otherwise: tuple[TemplatePart, ...]


class ForDirective(Node, frozen=True, eq=False):
    """``%{for key, value in collection}…%{endfor}``."""

    key_name: str | None
    value_name: str
    collection: Expression
    parts: tuple[TemplatePart, ...]


class Template(Node, frozen=True, eq=False):
    """A string with at least one interpolation or directive; a lone interpolation keeps its value's type."""

    parts: tuple[TemplatePart, ...]


class Name(Node, frozen=True, eq=False):
    """A root variable."""

    name: str


class GetAttribute(Node, frozen=True, eq=False):
    """``.name``."""

    name: str


class GetIndex(Node, frozen=True, eq=False):
    """``[key]``, or the legacy ``.0``."""

    key: Expression


class Splat(Node, frozen=True, eq=False):
    """``[*]`` or ``.*`` and the steps that are taken in each element."""

    steps: tuple[Step, ...]


class Access(Node, frozen=True, eq=False):
    """A value followed by attribute, index and splat steps, kept flat however long the chain is."""

    target: Expression
    steps: tuple[Step, ...]


class Unary(Node, frozen=True, eq=False):
    operator: str
    operand: Expression


class Binary(Node, frozen=True, eq=False):
    operator: str
    left: Expression
    right: Expression


class Conditional(Node, frozen=True, eq=False):
    condition: Expression
    then: Expression
    otherwise: Expression


class Parentheses(Node, frozen=True, eq=False):
    inner: Expression


class TupleExpression(Node, frozen=True, eq=False):
    items: tuple[Expression, ...]


class ObjectExpression(Node, frozen=True, eq=False):
    """``{ key = value }``; a bare identifier as key has already become a Literal."""

    items: tuple[tuple[Expression, Expression], ...]


class For(Node, frozen=True, eq=False):
    """``[for k, v in c : value if cond]``, or with a key ``{for k, v in c : key => value... if cond}``."""

    key_name: str | None
    value_name: str
    collection: Expression
    key: Expression | None
    value: Expression
    condition: Expression | None
    grouped: bool


class Call(Node, frozen=True, eq=False):
    """A function call; ``expand_last`` is the ``...`` after the last argument."""

    name: str
    name_range: SourceRange
    arguments: tuple[Expression, ...]
    expand_last: bool


TemplatePart: TypeAlias = Literal | Interpolation | IfDirective | ForDirective
Step: TypeAlias = GetAttribute | GetIndex | Splat
Expression: TypeAlias = (
    Literal
    | Template
    | Name
    | Access
    | Unary
    | Binary
    | Conditional
    | Parentheses
    | TupleExpression
    | ObjectExpression
    | For
    | Call
)


class Attribute(Node, frozen=True, eq=False):
    """``name = expression``."""

    name: str
    name_range: SourceRange
    expression: Expression


class Block(Node, frozen=True, eq=False):
    """``type "label" { body }``; ``range`` covers only the header, up to the opening brace."""

    type: str
    type_range: SourceRange
    labels: tuple[str, ...]
    label_ranges: tuple[SourceRange, ...]
    body: Body


class Body(Node, frozen=True, eq=False):
    """Attributes in file order by name, and blocks in file order.

    ``json`` is set for a body that was read from JSON, where only the reader knows which names are blocks:
    call ``shape`` (nomadpy.jobspec.hcl.json_syntax) before looking at its attributes or blocks.
    ``end_range`` is the closing brace, where a missing argument can be reported.
    """

    attributes: Mapping[str, Attribute]
    blocks: tuple[Block, ...]
    end_range: SourceRange
    json: tuple[ObjectExpression, ...] | None = None


def walk(expression: Node) -> Iterator[Node]:
    """The node and every node below it, without recursion."""
    pending: list[object] = [expression]
    while pending:
        found = pending.pop()
        if isinstance(found, tuple):
            pending.extend(found)
        elif isinstance(found, Node):
            yield found
            pending.extend(getattr(found, field) for field in found.__struct_fields__)
