"""Functions over sets."""

from __future__ import annotations

import itertools
import math
from typing import Any

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import ANY, convert, kind_of, set_of
from nomadpy.jobspec.hcl.values import HclList, HclSet, Value, make_set, sort_key

PRODUCT_LENGTH_MAX = 100_000

_SETS = Parameter("sets", set_of(ANY))


def _same_type(sets: tuple[HclSet, ...]) -> list[HclSet]:
    """The sets with their elements converted to one common type."""
    if not sets:
        raise CallFailure("at least one set is required")
    joined = convert(tuple(item for each in sets for item in each), Parameter("", set_of(ANY)).type)
    assert isinstance(joined, HclSet)
    if len({kind_of(item) for item in joined}) == 1 and joined:
        as_strings = isinstance(joined[0], str)
        if as_strings:
            from nomadpy.jobspec.hcl.types import STRING

            return [make_set(convert(item, STRING) for item in each) for each in sets]
    return list(sets)


@function("setintersection", variadic=_SETS)
def set_intersection(*sets: HclSet) -> HclSet:
    first, *others = _same_type(sets)
    keys = [{sort_key(item) for item in each} for each in others]
    return HclSet(item for item in first if all(sort_key(item) in each for each in keys))


@function("setunion", variadic=_SETS)
def set_union(*sets: HclSet) -> HclSet:
    return make_set(item for each in _same_type(sets) for item in each)


@function("setproduct", variadic=Parameter("sets", ANY))
def set_product(*given: Value) -> Value:
    """Every combination of one element of each; a set of tuples if all arguments are sets, else a list."""
    if len(given) < 2:
        raise CallFailure("at least two arguments are required")
    sequences: list[tuple[Any, ...]] = []
    for at, value in enumerate(given):
        if not isinstance(value, tuple):
            raise ArgumentError(at, f"a set or list is required, but have {kind_of(value)}")
        sequences.append(value)
    if math.prod(len(each) for each in sequences) > PRODUCT_LENGTH_MAX:
        raise CallFailure(f"the result would have more than {PRODUCT_LENGTH_MAX} elements")
    combined = itertools.product(*sequences)
    if all(isinstance(value, HclSet) for value in given):
        return make_set(combined)
    return HclList(combined)
