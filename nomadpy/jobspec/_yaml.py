"""YAML job files: the same tree that HCL's JSON form gives, so that one decoder and one set of tables serve all forms.

Only data is read: no tags beyond YAML's plain types, at most NODES_MAX nodes with every alias counted at the size of
what it stands for. Plain scalars follow YAML 1.2's core schema, with two restrictions that keep texts texts: numbers
are decimal and have no leading zeros (``0644`` is a text), and only true and false are booleans (``on`` is a text).
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from nomadpy.jobspec import hcl
from nomadpy.jobspec.hcl.expression_parser import NESTING_MAX
from nomadpy.jobspec.hcl.lexer import read_source
from nomadpy.jobspec.hcl.syntax import Expression, Literal, ObjectExpression, TupleExpression
from nomadpy.jobspec.hcl.values import NumberError, parse_number

CHARACTERS_MAX = 2 * 1024 * 1024
NODES_MAX = 100_000

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_TAG = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
_COLLECTION_TAGS = frozenset((_TAG + "map", _TAG + "seq"))
_MERGE = "<<"


def parse_yaml(text: str | bytes, filename: str) -> hcl.Body:
    """The body of a file in YAML, to be shaped before use. Raises HclErrors."""
    source = read_source(text, filename)
    if len(source.text) > CHARACTERS_MAX:
        limit = CHARACTERS_MAX // (1024 * 1024)
        raise hcl.error("File too large", f"A YAML file may have at most {limit} Mi characters.", None)
    reader = _Reader(source)
    try:
        for event in yaml.parse(source.text, Loader=_Loader):
            reader.take(event)
    except yaml.YAMLError as wrong:
        reader.refuse(wrong)
    except UnicodeEncodeError as wrong:
        raise hcl.error("Invalid YAML", "The text is not valid Unicode.", None) from wrong
    return reader.body()


class _Open:
    """A mapping or list that has begun but not ended."""

    def __init__(self, start: hcl.SourceRange, anchor: str | None, *, is_mapping: bool) -> None:
        self.start = start
        self.anchor = anchor
        self.is_mapping = is_mapping
        self.nodes: list[Expression] = []
        self.size = 1


class _Reader:
    """Builds expressions from events, without recursion."""

    def __init__(self, source: hcl.Source) -> None:
        self.source = source
        self.open: list[_Open] = []
        self.root: Expression | None = None
        self.anchors: dict[str, tuple[Expression, int]] = {}
        self.n_nodes = 0

    # Errors.

    def fail(self, detail: str, where: hcl.SourceRange | None) -> NoReturn:
        raise hcl.error("Invalid YAML", detail, where)

    def refuse(self, wrong: yaml.YAMLError) -> NoReturn:
        mark = getattr(wrong, "problem_mark", None) or getattr(wrong, "context_mark", None)
        at = mark.index if mark is not None else getattr(wrong, "position", None)
        where = None
        if isinstance(at, int):
            at = min(at, len(self.source.text))
            where = hcl.SourceRange(self.source, at, min(at + 1, len(self.source.text)))
        parts = (getattr(wrong, "context", None), getattr(wrong, "problem", None) or getattr(wrong, "reason", None))
        detail = ": ".join(str(part) for part in parts if part) or str(wrong)
        raise hcl.error("Invalid YAML", detail[:1].upper() + detail[1:] + ".", where) from wrong

    # Events.

    def take(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self.scalar(event)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self.begin(event, is_mapping=kind is yaml.MappingStartEvent)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self.end(event)
        elif kind is yaml.AliasEvent:
            self.alias(event)
        elif kind is yaml.DocumentStartEvent and self.root is not None:
            self.fail("A job file is a single document; there is another one here.", self.range(event))

    def range(self, event: Any) -> hcl.SourceRange:
        return hcl.SourceRange(self.source, event.start_mark.index, event.end_mark.index)

    def begin(self, event: Any, *, is_mapping: bool) -> None:
        where = self.range(event)
        if event.tag is not None and event.tag not in _COLLECTION_TAGS and event.tag != "!":
            self.fail(f"The tag {event.tag} is not supported.", where)
        if len(self.open) >= NESTING_MAX:
            raise hcl.error("Nested too deeply", f"At most {NESTING_MAX} levels may be nested.", where)
        self.open.append(_Open(where, event.anchor, is_mapping=is_mapping))

    def end(self, event: Any) -> None:
        ended = self.open.pop()
        # A block collection's end mark stands at what follows it.
        last = ended.nodes[-1].range.end if ended.nodes and event.start_mark.index == event.end_mark.index else None
        end = max(ended.start.start, event.end_mark.index if last is None else last)
        where = hcl.SourceRange(self.source, ended.start.start, end)
        node: Expression
        if ended.is_mapping:
            node = ObjectExpression(items=self.items(ended.nodes), range=where)
        else:
            node = TupleExpression(items=tuple(ended.nodes), range=where)
        self.add(node, ended.anchor, ended.size)

    def alias(self, event: Any) -> None:
        where = self.range(event)
        if event.anchor not in self.anchors:
            self.fail(f'The anchor "{event.anchor}" is not defined before this place.', where)
        node, size = self.anchors[event.anchor]
        self.n_nodes += size
        self.add(node, None, size)

    def add(self, node: Expression, anchor: str | None, size: int) -> None:
        """Puts a finished node, which stands for ``size`` nodes, into the collection that is open."""
        self.n_nodes += 1
        if self.n_nodes > NODES_MAX:
            raise hcl.error("File too large", f"The file has more than {NODES_MAX} nodes, aliases counted.", node.range)
        if anchor is not None:
            self.anchors[anchor] = (node, size)
        if self.open:
            self.open[-1].nodes.append(node)
            self.open[-1].size += size
        else:
            self.root = node

    # Nodes.

    def scalar(self, event: Any) -> None:
        where = self.range(event)
        explicit = None if event.tag in (None, "!") else event.tag
        if explicit is not None and explicit not in _SCALAR_TAGS:
            self.fail(f"The tag {explicit} is not supported.", where)
        value: Any = event.value
        is_plain = event.tag is None and event.implicit[0]
        if is_plain or (explicit is not None and explicit != _TAG + "str"):
            value = self.resolve(event.value, where)
        if event.style in ("|", ">"):
            where = self.content_of_block(where)
        self.add(Literal(value=value, range=where), event.anchor, 1)

    def resolve(self, text: str, where: hcl.SourceRange) -> Any:
        if text in _WORDS:
            return _WORDS[text]
        if _NUMBER.match(text):
            try:
                return parse_number(text.removeprefix("+"))
            except NumberError as wrong:
                self.fail(str(wrong), where)
        return text

    def content_of_block(self, where: hcl.SourceRange) -> hcl.SourceRange:
        """From the first character after the indicator's line and the indentation, so that errors point at the text."""
        text, start = self.source.text, where.start
        start = text.find("\n", start, where.end) + 1 or start
        while start < where.end and text[start] in " \r\n":
            start += 1
        return hcl.SourceRange(self.source, min(start, where.end), where.end)

    def items(self, nodes: list[Expression]) -> tuple[tuple[Expression, Expression], ...]:
        """The pairs of a mapping, with merged mappings filled in behind its own keys."""
        own: dict[str, tuple[Expression, Expression]] = {}
        merged: list[ObjectExpression] = []
        for key, value in zip(nodes[::2], nodes[1::2], strict=True):
            if not isinstance(key, Literal):
                self.fail("A key must be a text.", key.range)
            name = self.name(key)
            if name == _MERGE:
                merged += self.to_merge(value)
            elif name in own:
                self.fail(f'The key "{name}" stands twice in one mapping.', key.range)
            else:
                own[name] = (Literal(value=name, range=key.range), value)
        for each in merged:
            for key, value in each.items:
                assert isinstance(key, Literal)
                own.setdefault(str(key.value), (key, value))
        return tuple(own.values())

    def name(self, key: Literal) -> str:
        """A key as it is written: ``1`` and ``true`` are names like others."""
        return key.value if isinstance(key.value, str) else key.range.text

    def to_merge(self, value: Expression) -> list[ObjectExpression]:
        candidates = value.items if isinstance(value, TupleExpression) else (value,)
        mappings = [each for each in candidates if isinstance(each, ObjectExpression)]
        if len(mappings) != len(candidates):
            self.fail("Only mappings can be merged.", value.range)
        self.n_nodes += sum(len(each.items) for each in mappings)
        return mappings

    def body(self) -> hcl.Body:
        root = self.root
        if not isinstance(root, ObjectExpression):
            where = None if root is None else root.range
            self.fail('A job file is a mapping that begins with "job:".', where)
        end = hcl.SourceRange(self.source, max(root.range.start, root.range.end - 1), root.range.end)
        return hcl.Body(attributes={}, blocks=(), end_range=end, json=(root,), range=root.range)
