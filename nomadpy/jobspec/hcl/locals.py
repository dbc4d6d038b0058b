"""Local values: each evaluated once, after the locals it refers to, whatever their order in the file."""

from __future__ import annotations

from collections.abc import Iterable

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, HclErrors, SourceRange
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.json_syntax import shape
from nomadpy.jobspec.hcl.scope import Scope
from nomadpy.jobspec.hcl.syntax import (
    Access,
    Attribute,
    Block,
    Expression,
    GetAttribute,
    GetIndex,
    Literal,
    Name,
    walk,
)
from nomadpy.jobspec.hcl.values import Value


def evaluate_locals(blocks: Iterable[Block], scope: Scope) -> dict[str, Value]:
    """The values of all ``locals`` blocks by name. Raises HclErrors, for cycles too."""
    attributes, found = _collect(blocks)
    references = {name: _references(each.expression) for name, each in attributes.items()}
    needs = {name: named & attributes.keys() for name, (named, _) in references.items()}
    unnamed = {name for name, (_, has_unnamed) in references.items() if has_unnamed}
    values: dict[str, Value] = {}
    failed: set[str] = set()
    pending = list(attributes)
    while pending:
        ready = [name for name in pending if needs[name] <= values.keys() | failed]
        # What reads `local` as a whole, or by a computed name, goes last, one by one.
        ready = [name for name in ready if name not in unnamed] or ready[:1]
        if not ready:
            found.append(_cycle(pending, needs, attributes))
            break
        for name in ready:
            if needs[name] & failed:
                # Its own error would only repeat that of the local it needs.
                failed.add(name)
                continue
            try:
                values[name] = evaluate(attributes[name].expression, scope.child({"local": values}))
            except HclErrors as wrong:
                failed.add(name)
                found.extend(wrong.diagnostics)
        pending = [name for name in pending if name not in values and name not in failed]
    if found:
        raise HclErrors(found)
    return values


def _collect(blocks: Iterable[Block]) -> tuple[dict[str, Attribute], list[Diagnostic]]:
    attributes: dict[str, Attribute] = {}
    found: list[Diagnostic] = []

    def complain(summary: str, detail: str, where: SourceRange) -> None:
        found.append(Diagnostic("error", summary, detail, where))

    for block in blocks:
        if block.labels:
            complain("Extraneous label for locals", "A locals block has no labels.", block.label_ranges[0])
        body = shape(block.body, {})
        for nested in body.blocks:
            detail = f'Blocks of type "{nested.type}" are not expected here.'
            complain("Unsupported block type", detail, nested.type_range)
        for name, attribute in body.attributes.items():
            previous = attributes.get(name)
            if previous is not None:
                detail = f'The local value "{name}" was already defined at {previous.name_range}.'
                complain("Duplicate value in locals", detail, attribute.name_range)
            attributes.setdefault(name, attribute)
    return attributes, found


def _references(expression: Expression) -> tuple[set[str], bool]:
    """Names read as ``local.name`` or ``local["name"]``, and whether locals are read in any other way."""
    names: set[str] = set()
    named_roots: set[int] = set()
    has_unnamed = False
    # An access comes before its own root in the walk.
    for node in walk(expression):
        if isinstance(node, Access) and isinstance(node.target, Name) and node.target.name == "local":
            first = node.steps[0]
            if isinstance(first, GetAttribute):
                names.add(first.name)
                named_roots.add(id(node.target))
            elif isinstance(first, GetIndex) and isinstance(first.key, Literal):
                names.add(str(first.key.value))
                named_roots.add(id(node.target))
        elif isinstance(node, Name) and node.name == "local" and id(node) not in named_roots:
            has_unnamed = True
    return names, has_unnamed


def _cycle(pending: list[str], needs: dict[str, set[str]], attributes: dict[str, Attribute]) -> Diagnostic:
    """One cycle among the locals that wait for each other."""
    waiting = set(pending)
    path = [pending[0]]
    while True:
        following = min(needs[path[-1]] & waiting)
        if following in path:
            cycle = [*path[path.index(following) :], following]
            break
        path.append(following)
    shown = " -> ".join(f"local.{name}" for name in cycle[:20])
    detail = f"These local values refer to each other: {shown}."
    return Diagnostic("error", "Circular reference in locals", detail, attributes[cycle[0]].name_range)
