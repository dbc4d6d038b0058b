"""Hypothesis strategies made from the types of the model."""

from __future__ import annotations

import functools
import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st

from nomadpy.model.time import SECOND

# Without "$": a service name may refer to names of the job, which is a test of its own.
TEXT = st.text(st.sampled_from('abzAZ019-_/. \\"{}é\0\n'), max_size=6)
INT64 = st.integers(-(1 << 62), 1 << 62)
NUMBERS = st.one_of(st.integers(-5, 100), st.sampled_from((SECOND, 60 * SECOND, 1 << 50)), INT64)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), INT64, st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


@functools.cache
def of_type(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of a type of the model; collections are short."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        if arguments[0] is not int:
            return of_type(arguments[0])
        # The only marked integers are moments; RFC 3339 has years of four digits.
        return st.integers(0, 4_000_000_000 * SECOND)
    if origin in (types.UnionType, typing.Union):
        inner = next(arm for arm in arguments if arm is not type(None))
        return st.one_of(st.none(), of_type(inner))
    if origin is tuple:
        return st.lists(of_type(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        values = JSON if arguments[1] is Any else of_type(arguments[1])
        return st.dictionaries(TEXT, values, max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return records(annotation)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXT,
        int: NUMBERS,
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
        bytes: st.binary(max_size=5),
        Any: JSON,
    }
    return plain[annotation]


def records(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Records of which a few fields differ from the default."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}

    def build(names: set[str]) -> st.SearchStrategy[Any]:
        return st.builds(kind, **{name: of_type(fields[name]) for name in sorted(names)})

    return st.deferred(lambda: st.sets(st.sampled_from(sorted(fields)), max_size=6).flatmap(build))
