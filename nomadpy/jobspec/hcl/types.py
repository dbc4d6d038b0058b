"""Types of the language: what they are called, how expressions name them, and conversion of values to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

import msgspec

from nomadpy.jobspec.hcl.diagnostics import error, suggest
from nomadpy.jobspec.hcl.syntax import Call, Expression, Literal, Name, ObjectExpression, TupleExpression
from nomadpy.jobspec.hcl.values import (
    HclList,
    HclMap,
    HclSet,
    NumberError,
    Value,
    is_number,
    make_set,
    number_text,
    parse_number,
)


class Type(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A type constraint; ``kind`` is the word that names it in the language.

    ``defaults`` holds the optional attributes of an object and what each is when absent.
    """

    kind: str
    element: Type | None = None
    attributes: Mapping[str, Type] = msgspec.field(default_factory=dict)
    defaults: Mapping[str, object] = msgspec.field(default_factory=dict)
    items: tuple[Type, ...] = ()

    def __str__(self) -> str:
        """In words, as messages name it: ``list of string``."""
        if self.kind == "any":
            return "any type"
        if self.element is not None:
            return f"{self.kind} of {self.element}"
        return self.kind


STRING, NUMBER, BOOL, ANY = Type("string"), Type("number"), Type("bool"), Type("any")
PRIMITIVES = {"string": STRING, "number": NUMBER, "bool": BOOL, "any": ANY}


def list_of(element: Type) -> Type:
    return Type("list", element)


def set_of(element: Type) -> Type:
    return Type("set", element)


def map_of(element: Type) -> Type:
    return Type("map", element)


class ConversionError(ValueError):
    """A value does not fit a type; the message names the place inside the value."""


def parse_type(expression: Expression) -> Type:
    """The type that an expression such as ``list(string)`` names.

    Raises HclErrors ("Invalid type specification").
    """
    if isinstance(expression, Name):
        found = PRIMITIVES.get(expression.name)
        if found is not None:
            return found
        if expression.name in ("list", "set", "map"):
            detail = f"The {expression.name} type constructor requires one argument specifying the element type."
            raise error("Invalid type specification", detail, expression.range)
        if expression.name in ("object", "tuple"):
            detail = f"The {expression.name} type constructor requires one argument."
            raise error("Invalid type specification", detail, expression.range)
        known = [*PRIMITIVES, "list", "set", "map", "object", "tuple"]
        detail = f'The keyword "{expression.name}" is not a valid type specification.'
        raise error("Invalid type specification", detail, expression.range, suggest(expression.name, known))
    if isinstance(expression, Call):
        return _constructed_type(expression)
    detail = "A type specification is either a primitive type keyword (bool, number, string) or a call of a "
    raise error("Invalid type specification", detail + "type constructor.", expression.range)


def _constructed_type(call: Call) -> Type:
    if call.name == "optional":
        detail = 'Keyword "optional" is valid only as a modifier for object type attributes.'
        raise error("Invalid type specification", detail, call.range)
    if call.name not in ("list", "set", "map", "object", "tuple"):
        detail = f'Keyword "{call.name}" is not a valid type constructor.'
        hint = suggest(call.name, ["list", "set", "map", "object", "tuple"])
        raise error("Invalid type specification", detail, call.name_range, hint)
    if len(call.arguments) != 1:
        detail = f"The {call.name} type constructor requires one argument."
        raise error("Invalid type specification", detail, call.range)
    argument = call.arguments[0]
    if call.name == "object":
        return _object_type(argument)
    if call.name == "tuple":
        if not isinstance(argument, TupleExpression):
            detail = "Tuple type constructor requires a list of element types."
            raise error("Invalid type specification", detail, argument.range)
        return Type("tuple", items=tuple(parse_type(item) for item in argument.items))
    return Type(call.name, parse_type(argument))


def _object_type(argument: Expression) -> Type:
    if not isinstance(argument, ObjectExpression):
        detail = "Object type constructor requires a map whose keys are attribute names."
        raise error("Invalid type specification", detail, argument.range)
    attributes: dict[str, Type] = {}
    defaults: dict[str, object] = {}
    for key, given in argument.items:
        if not isinstance(key, Literal) or not isinstance(key.value, str):
            detail = "Object constructor map keys must be attribute names."
            raise error("Invalid type specification", detail, key.range)
        if isinstance(given, Call) and given.name == "optional":
            if not 1 <= len(given.arguments) <= 2:
                detail = "Optional attribute modifier requires the attribute type and at most one default."
                raise error("Invalid type specification", detail, given.range)
            attributes[key.value] = parse_type(given.arguments[0])
            defaults[key.value] = _optional_default(given, attributes[key.value])
        else:
            attributes[key.value] = parse_type(given)
    return Type("object", attributes=attributes, defaults=defaults)


def _optional_default(modifier: Call, type_: Type) -> Value:
    if len(modifier.arguments) == 1:
        return None
    # Imported here because evaluation itself needs types.
    from nomadpy.jobspec.hcl.evaluate import evaluate
    from nomadpy.jobspec.hcl.scope import constant_scope

    try:
        return convert(evaluate(modifier.arguments[1], constant_scope()), type_)
    except ConversionError as wrong:
        detail = f"This default value is not compatible with the attribute's type constraint: {wrong}."
        raise error("Invalid default value for optional attribute", detail, modifier.range) from wrong


def type_of(value: Value) -> Type:
    """The type of a value; a null's is ``any``, as is the element type of an empty collection."""
    if value is None:
        return ANY
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, (int, Decimal)):
        return NUMBER
    if isinstance(value, str):
        return STRING
    if isinstance(value, HclSet):
        return set_of(unify([type_of(item) for item in value]) or ANY)
    if isinstance(value, HclList):
        return list_of(unify([type_of(item) for item in value]) or ANY)
    if isinstance(value, tuple):
        return Type("tuple", items=tuple(type_of(item) for item in value))
    if isinstance(value, HclMap):
        return map_of(unify([type_of(item) for item in value.values()]) or ANY)
    return Type("object", attributes={key: type_of(item) for key, item in value.items()})


def kind_of(value: Value) -> str:
    """The word for a value's type in messages."""
    if value is None:
        return "null"
    if isinstance(value, HclSet):
        return "set"
    if isinstance(value, HclList):
        return "list"
    if isinstance(value, HclMap):
        return "map"
    if isinstance(value, tuple):
        return "tuple"
    if isinstance(value, dict):
        return "object"
    return type_of(value).kind


def unify(types: Sequence[Type]) -> Type | None:
    """The type that values of all these types convert to without loss, or None. ``any`` fits every type."""
    distinct: list[Type] = []
    for each in types:
        if each.kind != "any" and each not in distinct:
            distinct.append(each)
    if not distinct:
        return ANY
    if len(distinct) == 1:
        return distinct[0]
    kinds = {each.kind for each in distinct}
    if kinds <= {"string", "number", "bool"}:
        return STRING if "string" in kinds else None
    if kinds <= {"tuple", "list", "set"}:
        return _unify_sequences(distinct, kinds)
    if kinds <= {"object", "map"}:
        return _unify_mappings(distinct, kinds)
    return None


def _unify_sequences(types: list[Type], kinds: set[str]) -> Type | None:
    if kinds == {"tuple"} and len({len(each.items) for each in types}) == 1:
        columns = [unify(column) for column in zip(*(each.items for each in types), strict=True)]
        if all(column is not None for column in columns):
            return Type("tuple", items=tuple(column for column in columns if column is not None))
    inner = [item for each in types for item in (each.items if each.element is None else (each.element,))]
    element = unify(inner)
    if element is None:
        return None
    return set_of(element) if kinds == {"set"} else list_of(element)


def _unify_mappings(types: list[Type], kinds: set[str]) -> Type | None:
    if kinds == {"object"} and len({frozenset(each.attributes) for each in types}) == 1:
        unified = {name: unify([each.attributes[name] for each in types]) for name in types[0].attributes}
        if all(each is not None for each in unified.values()):
            return Type("object", attributes={n: each for n, each in unified.items() if each is not None})
    inner = [item for each in types for item in (each.attributes.values() if each.element is None else (each.element,))]
    element = unify(inner)
    return None if element is None else map_of(element)


def convert(value: Value, wanted: Type) -> Value:
    """The value as that type: numbers and bools to and from strings, tuples to lists, objects to maps.

    Null converts to every type. Raises ConversionError.
    """
    if value is None or wanted.kind == "any":
        return value
    kind = wanted.kind
    if kind == "string":
        return _to_string(value)
    if kind == "number":
        return _to_number(value)
    if kind == "bool":
        return _to_bool(value)
    if kind in ("list", "set"):
        return _to_sequence(value, wanted)
    if kind == "map":
        return _to_map(value, wanted)
    if kind == "tuple":
        return _to_tuple(value, wanted)
    return _to_object(value, wanted)


def _to_string(value: Value) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal)):
        return number_text(value)
    raise ConversionError(f"string required, but have {kind_of(value)}")


def _to_number(value: Value) -> int | Decimal:
    if is_number(value):
        assert isinstance(value, (int, Decimal))
        return value
    if isinstance(value, str):
        try:
            return parse_number(value)
        except NumberError as wrong:
            raise ConversionError("a number is required") from wrong
    raise ConversionError(f"number required, but have {kind_of(value)}")


def _to_bool(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value in ("true", "1"):
            return True
        if value in ("false", "0"):
            return False
        if value.lower() in ("true", "false"):
            raise ConversionError(f'a bool is required; to convert from string, use lowercase "{value.lower()}"')
        raise ConversionError("a bool is required")
    raise ConversionError(f"bool required, but have {kind_of(value)}")


def _element_type(wanted: Type, items: Sequence[Value]) -> Type:
    assert wanted.element is not None
    if wanted.element.kind != "any":
        return wanted.element
    element = unify([type_of(item) for item in items])
    if element is None:
        raise ConversionError(f"all {wanted.kind} elements must have the same type")
    return element


def _inside(place: str, value: Value, wanted: Type) -> Value:
    try:
        return convert(value, wanted)
    except ConversionError as wrong:
        raise ConversionError(f"{place}: {wrong}") from wrong


def _to_sequence(value: Value, wanted: Type) -> Value:
    if not isinstance(value, tuple):
        raise ConversionError(f"{wanted} required, but have {kind_of(value)}")
    element = _element_type(wanted, value)
    items = [_inside(f"element {at}", item, element) for at, item in enumerate(value)]
    return make_set(items) if wanted.kind == "set" else HclList(items)


def _to_map(value: Value, wanted: Type) -> Value:
    if not isinstance(value, dict):
        raise ConversionError(f"{wanted} required, but have {kind_of(value)}")
    element = _element_type(wanted, list(value.values()))
    return HclMap((key, _inside(f'element "{key}"', item, element)) for key, item in value.items())


def _to_tuple(value: Value, wanted: Type) -> Value:
    if not isinstance(value, tuple) or isinstance(value, HclSet):
        raise ConversionError(f"tuple required, but have {kind_of(value)}")
    if len(value) != len(wanted.items):
        raise ConversionError(f"tuple of {len(wanted.items)} elements required, but have {len(value)}")
    pairs = zip(value, wanted.items, strict=True)
    return tuple(_inside(f"element {at}", item, each) for at, (item, each) in enumerate(pairs))


def _to_object(value: Value, wanted: Type) -> Value:
    if not isinstance(value, dict):
        raise ConversionError(f"object required, but have {kind_of(value)}")
    converted: dict[str, Value] = {}
    for name, each in wanted.attributes.items():
        given = value.get(name)
        if given is None and name in wanted.defaults:
            converted[name] = wanted.defaults[name]  # type: ignore[assignment]
        elif name in value:
            converted[name] = _inside(f'attribute "{name}"', given, each)
        else:
            raise ConversionError(f'attribute "{name}" is required')
    return converted
