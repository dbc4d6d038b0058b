"""From a syntax tree and the schema tables to the raw dict that the model takes, with every problem found on the way.

Raw means: Go's names, and no key for what the file does not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from nomadpy.jobspec import _values, hcl
from nomadpy.jobspec.hcl.syntax import ObjectExpression, TupleExpression
from nomadpy.jobspec.schema import rows
from nomadpy.jobspec.schema.rows import Attribute, Block, Child, Raw

# So many problems are told at once; whoever has more of them starts with these.
PROBLEMS_MAX = 50

DYNAMIC = "dynamic"


def decode(body: hcl.Body, wanted: Block, scope: hcl.Scope) -> tuple[Raw, list[hcl.Diagnostic]]:
    """What a body says, and everything that is wrong with it in the order of the file."""
    decoder = _Decoder()
    return decoder.body(body, wanted, scope, {}), decoder.found


def decode_labelled(block: hcl.Block, child: Child, scope: hcl.Scope) -> tuple[Raw, list[hcl.Diagnostic]]:
    """The same for a whole block, whose labels are checked too."""
    decoder = _Decoder()
    return decoder.block(hcl.ScopedBlock(block, scope), child), decoder.found


def raise_if_any(found: list[hcl.Diagnostic]) -> None:
    """Raises HclErrors with the problems, in the order of the file."""
    if not found:
        return
    # What is wrong inside a dynamic block is wrong in all that it generates.
    distinct = {(_start(each), each.summary, each.detail): each for each in found}
    in_order = sorted(distinct.values(), key=_start)
    if len(in_order) > PROBLEMS_MAX:
        rest = len(in_order) - PROBLEMS_MAX
        more = hcl.Diagnostic("error", f"And {rest} more", "Only the first problems are shown.")
        in_order = [*in_order[:PROBLEMS_MAX], more]
    raise hcl.HclErrors(in_order)


def _start(found: hcl.Diagnostic) -> int:
    return found.range.start if found.range is not None else -1


class _Decoder:
    def __init__(self) -> None:
        self.found: list[hcl.Diagnostic] = []

    def complain(self, summary: str, detail: str, where: hcl.SourceRange, hint: str | None = None) -> None:
        self.found.append(hcl.Diagnostic("error", summary, detail, where, hint))

    # Bodies.

    def body(self, given: hcl.Body, wanted: Block, scope: hcl.Scope, raw: Raw) -> Raw:
        """``raw`` with everything added to it that the body says."""
        try:
            shaped = hcl.shape(_with_empty_blocks(given, wanted), _labels_by_type(given, wanted))
        except hcl.HclErrors as wrong:
            self.found.extend(wrong.diagnostics)
            return raw
        self.arguments(shaped, wanted, scope, raw)
        n_found = len(self.found)
        for each in self.expanded(shaped, wanted, scope):
            self.nested(each, wanted, raw)
        for row in wanted.required:
            if row.name not in shaped.attributes:
                detail = f'The argument "{row.name}" is required, but no definition was found.'
                self.complain("Missing required argument", detail, given.end_range)
        # What is incomplete because of other problems would only be misjudged.
        if wanted.finish is not None and len(self.found) == n_found:
            wanted.finish(raw, self.reporter(shaped))
        return raw

    def reporter(self, body: hcl.Body) -> rows.Report:
        def report(summary: str, detail: str, name: str = "") -> None:
            attribute = body.attributes.get(name)
            self.complain(summary, detail, body.range if attribute is None else attribute.range)

        return report

    def expanded(self, body: hcl.Body, wanted: Block, scope: hcl.Scope) -> list[hcl.ScopedBlock]:
        if not any(block.type == DYNAMIC for block in body.blocks):
            return [hcl.ScopedBlock(block, scope) for block in body.blocks]
        try:
            return hcl.expand_dynamic(body, scope, wanted.children.__contains__)
        except hcl.HclErrors as wrong:
            self.found.extend(wrong.diagnostics)
            return [hcl.ScopedBlock(block, scope) for block in body.blocks if block.type != DYNAMIC]

    # Arguments.

    def arguments(self, body: hcl.Body, wanted: Block, scope: hcl.Scope, raw: Raw) -> None:
        for name, attribute in body.attributes.items():
            row = wanted.attributes.get(name)
            if row is None:
                self.unknown_argument(attribute, wanted)
                continue
            value = self.argument(attribute, row, scope)
            if value is not None:
                raw[row.key] = value

    def unknown_argument(self, attribute: hcl.Attribute, wanted: Block) -> None:
        name = attribute.name
        detail = f'An argument named "{name}" is not expected here.'
        child = wanted.children.get(name)
        if child is not None:
            form = f'{name} "…" {{ … }}' if child.n_labels else f"{name} {{ … }}"
            detail += f" It is a block: write {form} without an equals sign."
        hint = None if child is not None else hcl.suggest(name, wanted.names)
        self.complain("Unsupported argument", detail, attribute.name_range, hint)

    def argument(self, attribute: hcl.Attribute, row: Attribute, scope: hcl.Scope) -> Any:
        try:
            value = hcl.evaluate(attribute.expression, scope)
            return _values.convert(value, row.kind)
        except hcl.HclErrors as wrong:
            self.found.extend(wrong.diagnostics)
        except hcl.ConversionError as wrong:
            detail = f'The argument "{row.name}" must be {_values.WANTED[row.kind]}: {wrong}.'
            if isinstance(value, str) and value.startswith("${") and row.kind != rows.STRING:
                detail += " A reference that is known only at run time cannot be used here."
            self.complain("Unsuitable value type", detail, attribute.expression.range)
        return None

    # Nested blocks.

    def nested(self, each: hcl.ScopedBlock, wanted: Block, raw: Raw) -> None:
        block = each.block
        row = wanted.attributes.get(block.type)
        if row is not None and row.kind in rows.MAPS:
            self.map_block(each, row, raw)
            return
        child = wanted.children.get(block.type)
        if child is None:
            self.unknown_block(block, wanted)
            return
        if not child.many and not child.keyed and child.key in raw:
            self.duplicate(block)
            return
        value = self.block(each, child)
        if child.many:
            raw.setdefault(child.key, []).append(value)
        elif child.keyed:
            self.add_keyed(block, value, raw.setdefault(child.key, {}))
        else:
            raw[child.key] = value

    def add_keyed(self, block: hcl.Block, value: Raw, by_label: Raw) -> None:
        for label in block.labels[:1]:
            if label in by_label:
                detail = f'There is another "{block.type}" block with the label "{label}".'
                self.complain(f"Duplicate {block.type} block", detail, block.range)
            by_label[label] = value

    def block(self, each: hcl.ScopedBlock, child: Child) -> Raw:
        """What a block says, with its label."""
        raw: Raw = {}
        block = each.block
        if len(block.labels) < child.n_labels:
            detail = f'A block of type "{block.type}" needs a label: {block.type} "name" {{ … }}.'
            self.complain(f"Missing name for {block.type}", detail, block.range)
        elif len(block.labels) > child.n_labels:
            count = "no labels" if not child.n_labels else "only one label"
            detail = f'A block of type "{block.type}" has {count}.'
            self.complain(f"Extraneous label for {block.type}", detail, block.label_ranges[child.n_labels])
        if child.label_key is not None:
            raw[child.label_key] = block.labels[0] if block.labels else ""
        return self.body(block.body, child.block, each.scope, raw)

    def unknown_block(self, block: hcl.Block, wanted: Block) -> None:
        detail = f'Blocks of type "{block.type}" are not expected here.'
        if block.type in wanted.attributes:
            detail += f" It is an argument: write {block.type} = …"
            self.complain("Unsupported block type", detail, block.type_range)
        else:
            known = [*wanted.children, *wanted.maps]
            self.complain("Unsupported block type", detail, block.type_range, hcl.suggest(block.type, known))

    def duplicate(self, block: hcl.Block) -> None:
        detail = f'Only one "{block.type}" block is allowed here. Another was defined before.'
        self.complain(f"Duplicate {block.type} block", detail, block.range)

    # Blocks of free names.

    def map_block(self, each: hcl.ScopedBlock, row: Attribute, raw: Raw) -> None:
        block = each.block
        if row.key in raw:
            self.duplicate(block)
            return
        if block.labels:
            detail = f'A block of type "{block.type}" has no labels.'
            self.complain(f"Extraneous label for {block.type}", detail, block.label_ranges[0])
        if row.kind == rows.FREE_MAP:
            raw[row.key] = self.free(block.body, each.scope)
            return
        body = hcl.shape(block.body, {})
        for nested in body.blocks:
            detail = f'Blocks of type "{nested.type}" are not expected here.'
            self.complain("Unsupported block type", detail, nested.type_range)
        kind = rows.STRING if row.kind == rows.STRING_MAP else rows.STRINGS
        values = {
            name: self.argument(attribute, Attribute(name, name, kind), each.scope)
            for name, attribute in body.attributes.items()
        }
        raw[row.key] = {name: value for name, value in values.items() if value is not None}

    def free(self, given: hcl.Body, scope: hcl.Scope) -> Raw:
        """Arguments as they are; nested blocks, and arguments that are literal objects, as lists of objects."""
        body = hcl.shape(given, {})
        out: Raw = {}
        for name, attribute in body.attributes.items():
            try:
                value = hcl.to_python(hcl.evaluate(attribute.expression, scope))
            except hcl.HclErrors as wrong:
                self.found.extend(wrong.diagnostics)
                continue
            out[name] = [value] if isinstance(attribute.expression, ObjectExpression) else value
        for block in body.blocks:
            value = self.free(block.body, scope)
            for label in reversed(block.labels):
                value = {label: [value]}
            if block.type in body.attributes:
                self.duplicate(block)
            else:
                out.setdefault(block.type, []).append(value)
        return out


def _with_empty_blocks(body: hcl.Body, wanted: Block) -> hcl.Body:
    """In YAML a key may have nothing behind it (``http:``); where a block is wanted, that is an empty one."""
    if body.json is None or not any(name in wanted.children for name, _ in _properties(body)):
        return body
    objects = tuple(
        ObjectExpression(
            items=tuple((key, _filled(value, wanted.children.get(_text(key)))) for key, value in each.items),
            range=each.range,
        )
        for each in body.json
    )
    return msgspec.structs.replace(body, json=objects)


def _filled(value: hcl.Expression, child: Child | None) -> hcl.Expression:
    if child is None:
        return value
    if child.n_labels and isinstance(value, ObjectExpression):
        return ObjectExpression(items=tuple((key, _or_empty(item)) for key, item in value.items), range=value.range)
    return value if child.n_labels else _or_empty(value)


def _or_empty(value: hcl.Expression) -> hcl.Expression:
    is_absent = isinstance(value, hcl.Literal) and value.value is None and value.range.start == value.range.end
    return ObjectExpression(items=(), range=value.range) if is_absent else value


def _labels_by_type(body: hcl.Body, wanted: Block) -> dict[str, int]:
    """How JSON is to be cut into blocks; a map is a block only where its value is written out as an object."""
    if body.json is None:
        return {}
    labels = {name: child.n_labels for name, child in wanted.children.items()} | {DYNAMIC: 1}
    for name, value in _properties(body):
        if name in wanted.maps and _is_objects(value):
            labels[name] = 0
    return labels


def _properties(body: hcl.Body) -> Iterator[tuple[str, hcl.Expression]]:
    for properties in body.json or ():
        for key, value in properties.items:
            yield _text(key), value


def _text(key: hcl.Expression) -> str:
    return str(key.value) if isinstance(key, hcl.Literal) else ""


def _is_objects(value: hcl.Expression) -> bool:
    if isinstance(value, TupleExpression):
        return bool(value.items) and all(isinstance(item, ObjectExpression) for item in value.items)
    return isinstance(value, ObjectExpression)
