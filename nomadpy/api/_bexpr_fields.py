"""What a filter may name in a record: the field names, and the types that comparisons need."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

Kind = Literal["string", "bool", "int", "float", "list", "map", "struct", "pointer", "any"]

# What a field holds that the wire form leaves out; nil for collections and pointers.
_ZEROS: Mapping[str, Any] = {"string": "", "bool": False, "int": 0, "float": 0.0, "struct": {}}
_SCALARS: Mapping[Any, Kind] = {str: "string", bytes: "string", bool: "bool", int: "int", float: "float"}


class Field(typing.NamedTuple):
    """One field of a struct: the Python attribute that holds it, and its type."""

    attribute: str
    tree: FieldTree


class FieldTree:
    """The type of one value.

    ``element`` is the type of a list's or map's values, or of what a pointer points to; ``fields`` are a struct's,
    by their JSON names. ``any`` stands for data without a fixed shape: its type is taken from the value.
    """

    __slots__ = ("_fields", "_of", "element", "kind")

    def __init__(
        self,
        kind: Kind,
        *,
        element: FieldTree | None = None,
        fields: Mapping[str, FieldTree] | None = None,
        of: type[msgspec.Struct] | None = None,
    ) -> None:
        self.kind = kind
        self.element = element
        self._of = of
        self._fields = None if fields is None else {name: Field(name, tree) for name, tree in fields.items()}

    @property
    def fields(self) -> Mapping[str, Field]:
        """A struct's fields; found at first use, because records may contain themselves."""
        if self._fields is None:
            self._fields = _fields_of(self._of) if self._of is not None else {}
        return self._fields

    @property
    def zero(self) -> Any:
        """What the field is when the wire form leaves it out."""
        return _ZEROS.get(self.kind)


@lru_cache(maxsize=512)
def field_tree(kind: type[msgspec.Struct]) -> FieldTree:
    """The description of a record type, under the names that its JSON has."""
    return FieldTree("struct", of=kind)


def _fields_of(kind: type[msgspec.Struct]) -> dict[str, Field]:
    return {field.encode_name: Field(field.name, _tree(field.type)) for field in msgspec.structs.fields(kind)}


def _tree(annotation: Any) -> FieldTree:
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            marks = [mark.extra for mark in annotation.__metadata__ if isinstance(mark, msgspec.Meta)]
            if any(mark and mark.get("go") in ("time", "duration") for mark in marks):
                # A moment or a duration in text: the record holds a number, the wire form a string.
                return FieldTree("any")
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            break
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        rest = [arm for arm in arguments if arm is not type(None)]
        return FieldTree("pointer", element=_tree(rest[0])) if len(rest) == 1 else FieldTree("any")
    if origin in (tuple, list, set, frozenset):
        return FieldTree("list", element=_tree(arguments[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return FieldTree("map", element=_tree(arguments[1]))
    if origin is Literal:
        return FieldTree(_SCALARS.get(type(arguments[0]), "any"))
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return field_tree(annotation)
    return FieldTree(_SCALARS.get(annotation, "any"))
