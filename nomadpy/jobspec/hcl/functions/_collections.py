"""Functions over lists, maps and objects."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import ANY, NUMBER, STRING, ConversionError, convert, kind_of, list_of, type_of, unify
from nomadpy.jobspec.hcl.values import (
    HclList,
    HclMap,
    HclSet,
    Value,
    check_number,
    equal,
    sort_key,
    whole_if_possible,
)

Number = int | Decimal
Sequence = tuple[Value, ...]

RANGE_LENGTH_MAX = 1024

_LIST = Parameter("list", ANY)


def _sequence(at: int, value: Value) -> Sequence:
    if not isinstance(value, tuple):
        raise ArgumentError(at, f"a list, set or tuple is required, but have {kind_of(value)}")
    return value


def _mapping(at: int, value: Value) -> dict[str, Value]:
    if not isinstance(value, dict):
        raise ArgumentError(at, f"a map or object is required, but have {kind_of(value)}")
    return value


def _whole(at: int, number: Number, least: int) -> int:
    if not isinstance(number, int) or number < least:
        raise ArgumentError(at, f"must be a whole number of at least {least}")
    return number


@function("length", Parameter("collection", ANY))
def length(collection: Value) -> int:
    if not isinstance(collection, (tuple, dict)):
        raise ArgumentError(0, f"a collection is required, but have {kind_of(collection)}; for strings use strlen")
    return len(collection)


@function("chunklist", _LIST, Parameter("size", NUMBER))
def chunklist(items: Value, size: Number) -> HclList:
    """Lists of at most ``size`` elements each; one list of everything for size 0."""
    sequence = _sequence(0, items)
    step = _whole(1, size, 0) or max(len(sequence), 1)
    return HclList(HclList(sequence[at : at + step]) for at in range(0, len(sequence), step))


@function("coalesce", variadic=Parameter("vals", ANY, null_allowed=True))
def coalesce(*values: Value) -> Value:
    """The first argument that is not null and not an empty string."""
    wanted = unify([type_of(value) for value in values])
    if wanted is None:
        raise CallFailure("all arguments must have the same type")
    for value in values:
        if value is not None and value != "":
            return convert(value, wanted)
    raise CallFailure("no non-null, non-empty-string arguments")


@function("coalescelist", variadic=Parameter("vals", ANY, null_allowed=True))
def coalesce_list(*values: Value) -> Value:
    """The first argument that is a list with elements."""
    for at, value in enumerate(values):
        if value is not None and _sequence(at, value):
            return value
    raise CallFailure("no non-null, non-empty-list arguments")


@function("compact", Parameter("list", list_of(STRING)))
def compact(items: Sequence) -> HclList:
    return HclList(item for item in items if item not in (None, ""))


@function("concat", variadic=Parameter("seqs", ANY))
def concat(*sequences: Value) -> Value:
    if not sequences:
        raise CallFailure("at least one argument is required")
    joined: list[Value] = []
    for at, value in enumerate(sequences):
        joined.extend(_sequence(at, value))
    is_list = all(isinstance(value, HclList) for value in sequences)
    return convert(tuple(joined), list_of(ANY)) if is_list else tuple(joined)


@function("contains", _LIST, Parameter("value", ANY, null_allowed=True))
def contains(items: Value, wanted: Value) -> bool:
    """Whether an element equals the value, which is first converted to the element's type if it can be."""
    return any(_same(item, wanted) for item in _sequence(0, items))


def _same(item: Value, wanted: Value) -> bool:
    if equal(item, wanted):
        return True
    if item is None or wanted is None:
        return False
    common = unify([type_of(item), type_of(wanted)])
    return common is not None and equal(convert(item, common), convert(wanted, common))


@function("distinct", _LIST)
def distinct(items: Value) -> HclList:
    seen: set[Any] = set()
    kept: list[Value] = []
    for item in _sequence(0, items):
        key = sort_key(item)
        if key not in seen:
            seen.add(key)
            kept.append(item)
    return HclList(kept)


@function("element", _LIST, Parameter("index", NUMBER))
def element(items: Value, index: Number) -> Value:
    """The element at an index that wraps around; negative indexes count from the end."""
    sequence = _sequence(0, items)
    if isinstance(items, HclSet):
        raise ArgumentError(0, "a set has no order to take an element from")
    if not isinstance(index, int):
        raise ArgumentError(1, "must be a whole number")
    if not sequence:
        raise ArgumentError(0, "cannot use the element function with an empty list")
    return sequence[index % len(sequence)]


@function("flatten", _LIST)
def flatten(items: Value) -> Value:
    flat: list[Value] = []
    pending = list(reversed(_sequence(0, items)))
    while pending:
        item = pending.pop()
        if isinstance(item, tuple):
            pending.extend(reversed(item))
        else:
            flat.append(item)
    return tuple(flat)


@function("slice", _LIST, Parameter("start_index", NUMBER), Parameter("end_index", NUMBER))
def slice_(items: Value, start: Number, end: Number) -> Value:
    sequence = _sequence(0, items)
    if isinstance(items, HclSet):
        raise ArgumentError(0, "a set has no order to slice")
    first, last = _whole(1, start, 0), _whole(2, end, 0)
    if last > len(sequence):
        raise ArgumentError(2, f"end index must not be greater than the length of the list, {len(sequence)}")
    if first > last:
        raise ArgumentError(1, "start index must not be greater than end index")
    part = sequence[first:last]
    return HclList(part) if isinstance(items, HclList) else tuple(part)


@function("sort", Parameter("list", list_of(STRING)))
def sort(items: Sequence) -> HclList:
    if None in items:
        raise ArgumentError(0, "contains a null value")
    return HclList(sorted(items))


@function("range", variadic=Parameter("params", NUMBER))
def range_(*given: Number) -> HclList:
    """``range(limit)``, ``range(start, limit)`` or ``range(start, limit, step)``, at most 1024 numbers."""
    if not 1 <= len(given) <= 3:
        raise CallFailure("must have one, two, or three arguments")
    start: Number = 0 if len(given) == 1 else given[0]
    limit = given[0] if len(given) == 1 else given[1]
    step: Number = given[2] if len(given) == 3 else (1 if start <= limit else -1)
    if step == 0 or (step > 0 and start > limit) or (step < 0 and start < limit):
        raise CallFailure("the step must lead from the start towards the limit")
    numbers: list[Number] = []
    number = start
    while number < limit if step > 0 else number > limit:
        if len(numbers) >= RANGE_LENGTH_MAX:
            raise CallFailure(f"more than {RANGE_LENGTH_MAX} values were generated; use a smaller range")
        numbers.append(number)
        total = number + step
        number = check_number(total) if isinstance(total, int) else whole_if_possible(total)
    return HclList(numbers)


@function("index", Parameter("collection", ANY), Parameter("key", ANY))
def index(collection: Value, key: Value) -> Value:
    """The element at a key, as ``collection[key]`` is."""
    if isinstance(collection, dict):
        name = convert(key, STRING)
        if name not in collection:
            raise ArgumentError(1, f'there is no element with the key "{name}"')
        assert isinstance(name, str)
        return collection[name]
    if not isinstance(collection, tuple) or isinstance(collection, HclSet):
        raise ArgumentError(0, f"a list, tuple, map or object is required, but have {kind_of(collection)}")
    at = convert(key, NUMBER)
    if not isinstance(at, int) or not 0 <= at < len(collection):
        raise ArgumentError(1, "there is no element at this index")
    return collection[at]


@function("keys", Parameter("inputMap", ANY))
def keys(mapping: Value) -> Value:
    names = sorted(_mapping(0, mapping))
    return HclList(names) if isinstance(mapping, HclMap) else tuple(names)


@function("values", Parameter("mapping", ANY))
def values(mapping: Value) -> Value:
    entries = _mapping(0, mapping)
    ordered = [entries[name] for name in sorted(entries)]
    return HclList(ordered) if isinstance(mapping, HclMap) else tuple(ordered)


@function("lookup", Parameter("inputMap", ANY), Parameter("key", STRING), Parameter("default", ANY, null_allowed=True))
def lookup(mapping: Value, key: str, default: Value) -> Value:
    entries = _mapping(0, mapping)
    if key in entries:
        return entries[key]
    if isinstance(mapping, HclMap) and entries and default is not None:
        try:
            return convert(default, unify([type_of(item) for item in entries.values()]) or ANY)
        except ConversionError as wrong:
            raise ArgumentError(2, f"the default must have the map's element type: {wrong}") from wrong
    return default


@function("merge", variadic=Parameter("maps", ANY, null_allowed=True))
def merge(*maps: Value) -> Value:
    """All entries; later maps win. The result is a map only if every argument is one of the same type."""
    merged: dict[str, Value] = {}
    for at, mapping in enumerate(maps):
        if mapping is not None:
            merged.update(_mapping(at, mapping))
    is_map = bool(maps) and all(mapping is None or isinstance(mapping, HclMap) for mapping in maps)
    if is_map and unify([type_of(item) for item in merged.values()]) is not None:
        return HclMap(merged)
    return merged


@function("zipmap", Parameter("keys", list_of(STRING)), Parameter("values", ANY))
def zipmap(names: Sequence, items: Value) -> Value:
    sequence = _sequence(1, items)
    if len(names) != len(sequence):
        raise CallFailure(f"number of keys ({len(names)}) does not match number of values ({len(sequence)})")
    entries: dict[str, Value] = {}
    for name, item in zip(names, sequence, strict=True):
        if not isinstance(name, str):
            raise ArgumentError(0, "contains a null value")
        entries[name] = item
    return HclMap(entries) if isinstance(items, HclList) else entries
