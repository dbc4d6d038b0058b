"""The JSON form of HCL: the same bodies and expressions, written as JSON.

JSON does not tell blocks from attributes, so a body read from it keeps its objects until the reader says which
names are blocks and how many labels they have: that is ``shape``. In an attribute's value every string is a
template, objects become object expressions (with templates as keys), and arrays tuples. In bodies a property
named ``//`` is a comment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, HclErrors, Source, SourceRange, error
from nomadpy.jobspec.hcl.expression_parser import NESTING_MAX
from nomadpy.jobspec.hcl.lexer import TOKENS_MAX, read_source
from nomadpy.jobspec.hcl.parser import parse, parse_template
from nomadpy.jobspec.hcl.syntax import (
    Attribute,
    Block,
    Body,
    Expression,
    Literal,
    ObjectExpression,
    TupleExpression,
)
from nomadpy.jobspec.hcl.values import NumberError, parse_number

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
      (?P<string>"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*+")
    | (?P<punctuation>[{}\[\]:,])
    | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_]+)
    | (?P<eof>\Z)
    | (?P<bad>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}


def is_json(text: str | bytes) -> bool:
    """Whether a file is in JSON form: its first character other than a blank is an opening brace."""
    if isinstance(text, bytes):
        return text.lstrip(b" ").startswith(b"{")
    return text.lstrip(" ").startswith("{")


def parse_any(text: str | bytes, filename: str) -> Body:
    """The body of a file in either form. Raises HclErrors."""
    return parse_json(text, filename) if is_json(text) else parse(text, filename)


def parse_json(text: str | bytes, filename: str) -> Body:
    """The body of a file in JSON form, to be shaped before use. Raises HclErrors."""
    source = read_source(text, filename)
    root = _Reader(source).document()
    objects = _objects(root)
    if objects is None:
        detail = "The root of a JSON file must be an object or an array of objects."
        raise error("Root object required", detail, root.range)
    return _json_body(objects, root.range)


def shape(body: Body, labels_by_type: Mapping[str, int]) -> Body:
    """The body with the named properties as blocks and all others as attributes.

    ``labels_by_type`` gives the number of labels of each block type. A native body is returned unchanged.
    Raises HclErrors with every property that has the wrong form.
    """
    if body.json is None:
        return body
    attributes: dict[str, Attribute] = {}
    blocks: list[Block] = []
    found: list[Diagnostic] = []
    for properties in body.json:
        for key, value in properties.items:
            assert isinstance(key, Literal)
            name = str(key.value)
            n_labels = labels_by_type.get(name)
            try:
                if n_labels is not None:
                    _add_blocks(name, key, value, n_labels, blocks)
                elif name != "//":
                    _add_attribute(name, key, value, attributes)
            except HclErrors as wrong:
                found.extend(wrong.diagnostics)
    if found:
        raise HclErrors(found)
    return Body(attributes=attributes, blocks=tuple(blocks), end_range=body.end_range, range=body.range)


def _add_attribute(name: str, key: Literal, value: Expression, attributes: dict[str, Attribute]) -> None:
    if name in attributes:
        detail = f'The argument "{name}" was already set at {attributes[name].name_range}.'
        raise error("Duplicate argument", detail, key.range)
    whole = SourceRange(key.range.source, key.range.start, value.range.end)
    attributes[name] = Attribute(name=name, name_range=key.range, expression=templated(value), range=whole)


def _add_blocks(type_: str, key: Literal, value: Expression, n_labels: int, blocks: list[Block]) -> None:
    """Descend one object level for each label; an array stands for several blocks at any level."""
    pending: list[tuple[Expression, tuple[Literal, ...]]] = [(value, ())]
    while pending:
        node, labels = pending.pop()
        if isinstance(node, Literal) and node.value is None:
            continue
        objects = _objects(node)
        if objects is None:
            what = "a JSON object" if n_labels == len(labels) else "a JSON object whose keys are labels"
            detail = f'The value of the block "{type_}" must be {what}, or an array of such objects.'
            raise error("Incorrect JSON value type", detail, node.range)
        if len(labels) < n_labels:
            inner = [
                (item, (*labels, label))
                for each in objects
                for label, item in each.items
                if isinstance(label, Literal) and label.value != "//"
            ]
            pending.extend(reversed(inner))
            continue
        # Each object of an array is a block of its own.
        for each in objects:
            blocks.append(_block(type_, key, labels, each))


def _block(type_: str, key: Literal, labels: tuple[Literal, ...], properties: ObjectExpression) -> Block:
    last = labels[-1] if labels else key
    return Block(
        type=type_,
        type_range=key.range,
        labels=tuple(str(label.value) for label in labels),
        label_ranges=tuple(label.range for label in labels),
        body=_json_body((properties,), properties.range),
        range=SourceRange(key.range.source, last.range.start, last.range.end),
    )


def _json_body(objects: tuple[ObjectExpression, ...], where: SourceRange) -> Body:
    end = SourceRange(where.source, max(where.start, where.end - 1), where.end)
    return Body(attributes={}, blocks=(), end_range=end, json=objects, range=where)


def _objects(node: Expression) -> tuple[ObjectExpression, ...] | None:
    if isinstance(node, ObjectExpression):
        return (node,)
    if isinstance(node, TupleExpression) and all(isinstance(item, ObjectExpression) for item in node.items):
        return tuple(item for item in node.items if isinstance(item, ObjectExpression))
    return None


def templated(node: Expression) -> Expression:
    """A JSON value as an expression, with every string read as a template. Raises HclErrors."""
    if isinstance(node, ObjectExpression):
        items = tuple((templated(key), templated(value)) for key, value in node.items)
        return ObjectExpression(items=items, range=node.range)
    if isinstance(node, TupleExpression):
        return TupleExpression(items=tuple(templated(item) for item in node.items), range=node.range)
    if isinstance(node, Literal) and isinstance(node.value, str) and "{" in node.value:
        # Positions inside the string are those of its decoded text, placed just after the opening quote, if any.
        line, column = node.range.source.position(node.range.start)
        quote = node.range.text[:1] in ('"', "'")
        inner = Source(node.range.file, node.value, first_line=line, first_column=column + quote)
        return parse_template(inner)
    return node


class _Reader:
    """JSON with positions, read into literal expressions."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.at = 0
        self.depth = 0
        self.n_tokens = 0
        self.advance()

    def advance(self) -> None:
        found = _TOKEN.match(self.source.text, self.at)
        assert found is not None
        assert found.lastgroup is not None
        self.kind = found.lastgroup
        self.start, self.at = found.span(self.kind)
        self.token = found.group(self.kind)
        self.n_tokens += 1
        if self.n_tokens > TOKENS_MAX:
            raise self.wrong("File too large", f"The file has more than {TOKENS_MAX} tokens.")

    def here(self) -> SourceRange:
        return SourceRange(self.source, self.start, self.at)

    def wrong(self, summary: str, detail: str) -> HclErrors:
        return error(summary, detail, self.here())

    def document(self) -> Expression:
        root = self.value()
        if self.kind != "eof":
            raise self.wrong("Extraneous data after value", "Extra characters appear after the JSON value.")
        return root

    def value(self) -> Expression:
        where = self.here()
        if self.kind == "string":
            text: str = self.string()
            return Literal(value=text, range=where)
        if self.kind == "number":
            try:
                number = parse_number(self.token)
            except NumberError as wrong:
                raise self.wrong("Invalid JSON number", str(wrong)) from wrong
            self.advance()
            return Literal(value=number, range=where)
        if self.kind == "word" and self.token in _WORDS:
            word = _WORDS[self.token]
            self.advance()
            return Literal(value=word, range=where)
        if self.kind == "punctuation" and self.token in "{[":
            if self.depth >= NESTING_MAX:
                raise self.wrong("Nested too deeply", f"At most {NESTING_MAX} levels may be nested.")
            self.depth += 1
            made = self.object() if self.token == "{" else self.array()
            self.depth -= 1
            return made
        if self.kind == "eof":
            raise self.wrong("Missing JSON value", "A JSON value was expected before the end of the file.")
        if self.token == '"':
            detail = "This string has no closing quote on its line, or an invalid escape sequence."
            raise self.wrong("Invalid JSON string", detail)
        raise self.wrong(
            "Invalid JSON value",
            "A JSON value must start with a brace, a bracket, a number, a string, or be true, false or null.",
        )

    def string(self) -> str:
        try:
            text: str = json.loads(self.token)
            text.encode("utf-8")
        except ValueError as wrong:
            raise self.wrong("Invalid JSON string", "The string is not valid Unicode text.") from wrong
        self.advance()
        return text

    def object(self) -> Expression:
        start = self.start
        items: list[tuple[Expression, Expression]] = []
        self.advance()
        while self.token != "}" or self.kind != "punctuation":
            if self.kind != "string":
                detail = "A JSON object's property name must be a string in double quotes."
                raise self.wrong("Invalid JSON object property name", detail)
            where = self.here()
            key = Literal(value=self.string(), range=where)
            self.expect_colon()
            items.append((key, self.value()))
            self.separator("}", "property")
        end = self.at
        self.advance()
        return ObjectExpression(items=tuple(items), range=SourceRange(self.source, start, end))

    def expect_colon(self) -> None:
        if self.kind != "punctuation" or self.token != ":":
            raise self.wrong("Missing property value colon", "A colon must follow a JSON object's property name.")
        self.advance()

    def array(self) -> Expression:
        start = self.start
        items: list[Expression] = []
        self.advance()
        while self.token != "]" or self.kind != "punctuation":
            items.append(self.value())
            self.separator("]", "element")
        end = self.at
        self.advance()
        return TupleExpression(items=tuple(items), range=SourceRange(self.source, start, end))

    def separator(self, closer: str, what: str) -> None:
        if self.kind == "punctuation" and self.token == closer:
            return
        if self.kind != "punctuation" or self.token != ",":
            detail = f"A comma or a closing {closer} was expected after this {what}."
            raise self.wrong("Missing separator", detail)
        self.advance()
        if self.kind == "punctuation" and self.token == closer:
            detail = f"JSON does not allow a comma after the last {what}."
            raise self.wrong("Trailing comma", detail)
