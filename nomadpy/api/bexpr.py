"""Filter expressions of the list routes, such as ``Status == "running" and Meta.team is not empty``.

    filter    = or
    or        = and { "or" and }
    and       = not { "and" not }
    not       = "not" not | "(" or ")" | ("any" | "all") selector "as" names "{" or "}" | match
    match     = selector ("==" | "!=" | ["not"] "contains" | ["not"] "matches") value
              | selector "is" ["not"] ("empty" | "nil")
              | value ["not"] "in" selector
    selector  = name { "." name | "[" string "]" } | '"/' pointer '"'          pointer: RFC 6901
    value     = string | `raw string` | number | selector, meant literally
    names     = name | name "," name                    over maps: key, value; over lists: index, value

A compiled filter runs over wire-form dictionaries with Nomad's field names. What it cannot see in them, such as
the type of a field that was left out because it is zero, it takes from a ``FieldTree``.

Rules that a reader might not expect: a comparison is typed by the field, so ``Priority == "50"`` is a number's
comparison and ``Priority == high`` an error. A missing map key or a nil is no error: the positive operators are
false on it and the negative ones true. A name that the struct does not have is an error when it is evaluated,
so ``false and Nonsense == 1`` over no rows is fine, as it is in Nomad.

``matches`` runs in time proportional to the text, whatever the pattern; see ``model.linear_regexp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from nomadpy.api._bexpr_fields import FieldTree, field_tree
from nomadpy.api._bexpr_syntax import (
    AllOf,
    AnyOf,
    Expression,
    ForEach,
    Match,
    Negation,
    Operator,
    Selector,
    parse,
)
from nomadpy.model.errors import Invalid
from nomadpy.model.linear_regexp import compile_pattern

__all__ = ["FieldTree", "Filter", "compile_filter", "field_tree"]

# A value and what is known of its type; the value is _MISSING where a map has no such key.
_Found = tuple[Any, FieldTree | None]
# Names bound by any/all, with what they stand for.
_Bindings = Mapping[str, _Found]
_Test = Callable[[_Found, _Bindings], bool]
_Check = Callable[[Any, FieldTree | None], bool]

_MISSING: Final = object()
_NO_BINDINGS: Final[_Bindings] = {}
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_STRING = FieldTree("string")
_INT = FieldTree("int")


class Filter:
    """A compiled expression. Immutable; any thread may use it."""

    __slots__ = ("_schema", "_test", "expression")

    def __init__(self, expression: str, test: _Test, schema: FieldTree | None) -> None:
        self.expression = expression
        self._test = test
        self._schema = schema

    def matches(self, obj: Mapping[str, Any] | msgspec.Struct) -> bool:
        """Whether the object, in wire form or as the record itself, passes.

        Raises:
            Invalid: a selector names no field, or an operator or value does not fit the field's type.
        """
        return self._test((obj, self._schema), _NO_BINDINGS)


def compile_filter(expression: str, schema: FieldTree | None = None) -> Filter:
    """The filter that an expression describes; ``schema`` is the ``field_tree`` of what it will see.

    Without a schema every dictionary counts as a map, so that no name in one is ever unknown.

    Raises:
        Invalid: the expression is malformed; the message says where and what would be right.

    >>> compile_filter('Meta.team == "x" or Priority == 50').matches({"Priority": 50, "Meta": None})
    True
    """
    return Filter(expression, _compile(parse(expression)), schema)


def _compile(node: Expression) -> _Test:
    match node:
        case AnyOf(parts=parts):
            tests = [_compile(part) for part in parts]
            return lambda root, names: any(test(root, names) for test in tests)
        case AllOf(parts=parts):
            tests = [_compile(part) for part in parts]
            return lambda root, names: all(test(root, names) for test in tests)
        case Negation(part=part):
            test = _compile(part)
            return lambda root, names: not test(root, names)
        case ForEach():
            return _compile_for_each(node)
        case Match():
            return _compile_match(node)


def _compile_match(node: Match) -> _Test:
    selector, negated = node.selector, node.negated
    asks_absence = node.operator in (Operator.EMPTY, Operator.NIL)
    when_absent = asks_absence != negated
    check = _check(node)

    def test(root: _Found, names: _Bindings) -> bool:
        value, known = _find(root, names, selector)
        if known is not None and known.kind == "pointer":
            known = known.element
        if value is _MISSING or value is None:
            return when_absent
        return check(value, known) != negated

    return test


def _compile_for_each(node: ForEach) -> _Test:
    test, names_given = _compile(node.part), node.names
    choose = all if node.every else any

    def run(root: _Found, names: _Bindings) -> bool:
        value, known = _find(root, names, node.selector)
        if known is not None and known.kind == "pointer":
            known = known.element
        element = known.element if known is not None else None
        pairs: Iterable[tuple[_Found, _Found]]
        if value is _MISSING or value is None:
            pairs = ()
        elif isinstance(value, Mapping):
            pairs = (((key, _STRING), (item, element)) for key, item in value.items())
        elif _is_list(value):
            pairs = (((i, _INT), (item, element)) for i, item in enumerate(value))
        else:
            raise _misfit(node.selector, "any and all need a list or a map", known, value)
        # A single name stands for a map's keys, but for a list's elements.
        alone = 0 if isinstance(value, Mapping) else 1
        return choose(test(root, {**names, **_bind(names_given, pair, alone)}) for pair in pairs)

    return run


def _bind(given: tuple[str, ...], pair: tuple[_Found, _Found], alone: int) -> dict[str, _Found]:
    meanings = pair if len(given) == 2 else (pair[alone],)
    return {name: meaning for name, meaning in zip(given, meanings, strict=True) if name}


# ---------------------------------------------------------------------- selectors


def _find(root: _Found, names: _Bindings, selector: Selector) -> _Found:
    """Follow a selector from a bound name, or else from the object."""
    path = selector.path
    found = names.get(path[0])
    if found is None:
        found = _step(root, path[0], selector)
    for part in path[1:]:
        found = _step(found, part, selector)
    return found


def _step(found: _Found, part: str, selector: Selector) -> _Found:
    value, known = found
    if known is not None and known.kind == "pointer":
        known = known.element
    if (known is None or known.kind == "any") and isinstance(value, msgspec.Struct):
        known = field_tree(type(value))
    if known is not None and known.kind == "struct":
        return _field(value, known, part, selector)
    element = known.element if known is not None else None
    if value is None or value is _MISSING:
        if known is None or known.kind in ("map", "list", "any"):
            return _MISSING, element
    elif isinstance(value, Mapping):
        return value.get(part, _MISSING), element
    elif _is_list(value) and part.isascii() and part.isdecimal() and len(part) < 10:
        i = int(part)
        return (value[i] if i < len(value) else _MISSING), element
    raise _misfit(selector, f"it has no {part!r}", known, value)


def _field(value: Any, known: FieldTree, part: str, selector: Selector) -> _Found:
    field = known.fields.get(part)
    if field is None:
        raise Invalid(f"filter selector {selector.text!r}: no field is called {part!r}")
    if value is None or value is _MISSING:
        return _MISSING, field.tree
    if isinstance(value, Mapping):
        # The wire form leaves zero fields of some records out, though the stored record has them.
        return value.get(part, field.tree.zero), field.tree
    return getattr(value, field.attribute), field.tree


# ---------------------------------------------------------------------- operators


def _check(node: Match) -> _Check:
    """The positive form of the operator, for values that are there."""
    selector, text = node.selector, node.value
    match node.operator:
        case Operator.EQUAL:
            return lambda value, known: _equal(selector, text, value, known)
        case Operator.IN:
            return lambda value, known: _contains(selector, text, value, known)
        case Operator.MATCHES:
            search = compile_pattern(text)
            return lambda value, known: search(_string(selector, value, known))
        case Operator.EMPTY:
            return lambda value, known: _is_empty(selector, value, known)
        case Operator.NIL:
            # What is nil never comes this far.
            return lambda value, known: False


def _equal(selector: Selector, text: str, value: Any, known: FieldTree | None) -> bool:
    kind = _kind(value, known)
    if kind == "string":
        return str(value) == text
    if kind == "bool":
        return bool(value) == _bool(selector, text)
    if kind == "int":
        return bool(value == _int(selector, text))
    if kind == "float":
        return bool(value == _float(selector, text))
    raise _misfit(selector, "== compares only text, numbers and booleans", known, value)


def _contains(selector: Selector, text: str, value: Any, known: FieldTree | None) -> bool:
    if isinstance(value, str):
        return text in value
    if isinstance(value, Mapping) and _kind(value, known) == "map":
        return text in value
    if _is_list(value):
        element = known.element if known is not None else None
        return any(item is not None and _equal(selector, text, item, element) for item in value)
    raise _misfit(selector, "in and contains need text, a list or a map", known, value)


def _string(selector: Selector, value: Any, known: FieldTree | None) -> str:
    if isinstance(value, str):
        return value
    raise _misfit(selector, "matches needs text", known, value)


def _is_empty(selector: Selector, value: Any, known: FieldTree | None) -> bool:
    if isinstance(value, (str, bytes)) or _is_list(value) or _kind(value, known) == "map":
        return len(value) == 0
    raise _misfit(selector, "is empty needs text, a list or a map", known, value)


def _kind(value: Any, known: FieldTree | None) -> str:
    if known is not None and known.kind == "pointer":
        known = known.element
    if known is not None and known.kind != "any":
        return known.kind
    if isinstance(value, bool):
        return "bool"
    for kind, name in ((str, "string"), (int, "int"), (float, "float"), (Mapping, "map"), (bytes, "string")):
        if isinstance(value, kind):
            return name
    return "list" if _is_list(value) else "struct"


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset))


def _misfit(selector: Selector, problem: str, known: FieldTree | None, value: Any) -> Invalid:
    return Invalid(f"filter selector {selector.text!r}: {problem}; the field is a {_kind(value, known)}")


# ---------------------------------------------------------------------- values


def _bool(selector: Selector, text: str) -> bool:
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise _wrong_value(selector, text, "true or false")


@lru_cache(maxsize=1024)
def _int(selector: Selector, text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise _wrong_value(selector, text, "a whole number") from None


@lru_cache(maxsize=1024)
def _float(selector: Selector, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong_value(selector, text, "a number") from None


def _wrong_value(selector: Selector, text: str, expected: str) -> Invalid:
    return Invalid(f"filter value {text!r} does not fit {selector.text!r}, which needs {expected}")
