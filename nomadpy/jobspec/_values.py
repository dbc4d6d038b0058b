"""From the values of expressions to the values of the API's JSON, by the kinds that the schema tables name."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from nomadpy.jobspec import hcl
from nomadpy.jobspec.schema import rows
from nomadpy.model.time import parse_duration

_INT64_MAX = (1 << 63) - 1

WANTED = {
    rows.STRING: "a string",
    rows.INTEGER: "a whole number",
    rows.BOOLEAN: "true or false",
    rows.DURATION: 'a duration such as "30s" or "1h30m"',
    rows.STRINGS: "a list of strings",
    rows.INTEGERS: "a list of whole numbers",
    rows.STRING_MAP: "a map of strings",
    rows.STRINGS_MAP: "a map of lists of strings",
    rows.FREE_MAP: "a map",
}

_STRINGS = hcl.list_of(hcl.STRING)
_NUMBERS = hcl.list_of(hcl.NUMBER)
_STRING_MAP = hcl.map_of(hcl.STRING)
_STRINGS_MAP = hcl.map_of(_STRINGS)


def convert(value: hcl.Value, kind: str) -> Any:
    """The value as plain data of that kind; nulls inside maps are left out, null itself stays None.

    Raises ConversionError, whose message says what would be right.
    """
    if kind == rows.DURATION:
        return _duration(value)
    if value is None:
        return None
    if kind == rows.STRING:
        return hcl.convert(value, hcl.STRING)
    if kind == rows.INTEGER:
        return _whole(hcl.convert(value, hcl.NUMBER))
    if kind == rows.BOOLEAN:
        return hcl.convert(value, hcl.BOOL)
    if kind == rows.STRINGS:
        return _no_nulls(hcl.convert(value, _STRINGS))
    if kind == rows.INTEGERS:
        return [_whole(item) for item in _no_nulls(hcl.convert(value, _NUMBERS))]
    return _map(value, kind)


def _map(value: hcl.Value, kind: str) -> Any:
    if kind == rows.STRING_MAP:
        return _without_nulls(hcl.convert(value, _STRING_MAP))
    if kind == rows.STRINGS_MAP:
        return {name: _no_nulls(items) for name, items in _without_nulls(hcl.convert(value, _STRINGS_MAP)).items()}
    if not isinstance(value, dict):
        raise hcl.ConversionError(f"map required, but have {hcl.kind_of(value)}")
    return hcl.to_python(value)


def _whole(value: hcl.Value) -> int:
    if isinstance(value, Decimal):
        raise hcl.ConversionError(f"a whole number is required, not {hcl.number_text(value)}")
    assert isinstance(value, int)
    if not -_INT64_MAX <= value <= _INT64_MAX:
        raise hcl.ConversionError("the number does not fit into 64 bits")
    return value


def _no_nulls(value: hcl.Value) -> list[Any]:
    assert isinstance(value, tuple)
    if None in value:
        raise hcl.ConversionError("an element of the list is null")
    return list(value)


def _without_nulls(value: hcl.Value) -> dict[str, Any]:
    assert isinstance(value, dict)
    return {name: item for name, item in value.items() if item is not None}


def _duration(value: hcl.Value) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal, str)):
        shown = "nil" if value is None else hcl.kind_of(value)
        raise hcl.ConversionError(f"Unsuitable duration value: {shown}")
    if not isinstance(value, str):
        return _whole(value)
    try:
        return parse_duration(value)
    except ValueError as wrong:
        if "missing unit" in str(wrong):
            raise hcl.ConversionError(f'{wrong}; did you mean "{value}s"?') from wrong
        raise hcl.ConversionError(str(wrong)) from wrong
