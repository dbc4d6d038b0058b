"""JSON as Go reads it, into the records of the model.

Keys match in any case, unknown keys are ignored, null leaves the default, whatever follows the first JSON value is not
looked at. First the text becomes plain dicts and lists, then a reader per record type gives the keys their exact names
and drops nulls, then msgspec builds the records and checks the types. Every failure is ``Invalid`` with Go's wording.

``Any`` stays plain data, with two limits: nesting of at most ``DEPTH_MAX``, and whole numbers beyond 64 bits become
floats, as they do in Go.
"""

from __future__ import annotations

import re
import threading
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from nomadpy.model.errors import Invalid
from nomadpy.model.time import parse_duration, parse_moment

T = TypeVar("T")
Reader = Callable[[Any], Any]

DEPTH_MAX = 100
_INT64_MAX = (1 << 63) - 1

_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)")
_EXPECTED = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_PLACE = re.compile(r" - at `(?:key in )?\$?([^`]*)`$")
_GO_FOUND = {"str": "string", "int": "number", "float": "number"}
_GO_WANTED = {"str": "string", "float": "float64", "object": "object", "array": "slice", "bytes": "[]uint8"}

_readers: dict[Any, Reader | None] = {}
_unfinished: set[Any] = set()
_making = threading.RLock()
_extra_fields: dict[type, dict[str, Any]] = {}


def decode(data: bytes | str, type: type[T]) -> T:
    """The record in a JSON text. Raises Invalid (400) for everything that is wrong with it."""
    return from_wire(parse(data), type)


def from_wire(obj: Any, type: type[T]) -> T:
    """The record in plain data, which stays unchanged. Raises Invalid (400) when the data does not fit."""
    return build(normalize(obj, type), type)


def parse(data: bytes | str) -> Any:
    """Plain data of the first JSON value in the text. Raises Invalid (400) when there is none."""
    if not data or data.isspace():
        raise Invalid("Request body is empty")
    try:
        raw = data.encode() if isinstance(data, str) else data
        return _parse_first(raw)
    except RecursionError:
        raise Invalid("json: exceeded max depth") from None
    except UnicodeError as error:
        raise Invalid(f"json: the text is not valid UTF-8: {getattr(error, 'reason', error)}") from None
    except msgspec.DecodeError as error:
        raise Invalid(f"json: {error}") from None


def _parse_first(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        trailing = _TRAILING.search(str(error))
        if not trailing:
            raise
        # The number counts the offending byte itself.
        return msgspec.json.decode(raw[: int(trailing[1]) - 1])


def normalize(obj: Any, type: Any) -> Any:
    """Plain data with exact keys and without nulls, ready for ``build``; dicts of records are fresh copies."""
    reader = reader_of(type)
    if obj is None:
        # Go leaves the zero value for a null; for a record that is the record with nothing set.
        return {} if _is_record(type) else None
    return obj if reader is None else reader(obj)


def build(obj: Any, type: type[T]) -> T:
    """The record in normalized data. Raises Invalid (400) in Go's wording when a value has the wrong type."""
    try:
        return msgspec.convert(obj, type)
    except msgspec.ValidationError as error:
        name = getattr(type, "__name__", str(type))
        raise Invalid(go_message(str(error), name)) from None
    except RecursionError:
        raise Invalid("json: exceeded max depth") from None


def accept_input_fields(record: type, fields: dict[str, Any]) -> None:
    """Makes ``normalize`` keep further keys of a record, which requests may carry although no answer does.

    ``fields`` maps the exact name to its type. Call before the record is first read (at import).
    """
    _extra_fields[record] = fields
    _readers.clear()


def extra_fields(record: type) -> dict[str, Any]:
    """The keys that requests may carry in a record beyond its own fields, and their types."""
    return _extra_fields.get(record, {})


def go_message(text: str, root: str) -> str:
    """msgspec's complaint in the words of Go's encoding/json.

    >>> go_message("Expected `int`, got `str` - at `$.TaskGroups[0].Count`", "Job")
    'json: cannot unmarshal string into Go struct field Job.TaskGroups.Count of type int'
    """
    expected, place = _EXPECTED.search(text), _PLACE.search(text)
    path = re.sub(r"\[[^\]]*\]", "", place[1] if place else "")
    if not expected:
        return f"json: {_PLACE.sub('', text)}" + (f" (field {root}{path})" if path else "")
    wanted = expected[1].split(" | ")[0]
    wanted = _GO_WANTED.get(wanted, wanted)
    found = _GO_FOUND.get(expected[2], expected[2])
    if path:
        return f"json: cannot unmarshal {found} into Go struct field {root}{path} of type {wanted}"
    return f"json: cannot unmarshal {found} into Go value of type {root}"


# --- readers --------------------------------------------------------------------------------------------------------


def reader_of(annotation: Any) -> Reader | None:
    """The function that readies plain data for a type; None where nothing needs to be done."""
    try:
        return _readers[annotation]
    except KeyError:
        with _making:
            return _make_once(annotation)


def _make_once(annotation: Any) -> Reader | None:
    if annotation in _readers:
        return _readers[annotation]
    if annotation in _unfinished:
        # A record that contains itself: its own reader is published by the time this forwarder is called.
        return lambda value: _apply(annotation, value)
    _unfinished.add(annotation)
    try:
        _readers[annotation] = reader = _make_reader(annotation)
    finally:
        _unfinished.discard(annotation)
    return reader


def _apply(annotation: Any, value: Any) -> Any:
    reader = reader_of(annotation)
    return value if reader is None else reader(value)


def _make_reader(annotation: Any) -> Reader | None:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _marked_reader(annotation)
    if isinstance(annotation, typing.NewType):
        return reader_of(annotation.__supertype__)
    if origin in (types.UnionType, typing.Union):
        rest = [arm for arm in arguments if arm is not type(None)]
        return reader_of(rest[0]) if len(rest) == 1 else None
    if origin in (tuple, list, set, frozenset):
        return _list_reader(arguments[0])
    if origin is dict:
        return _dict_reader(arguments[1])
    if annotation is Any or annotation in (dict, list):
        return _free
    if annotation is int:
        return _int64
    if _is_record(annotation):
        return _record_reader(annotation)
    return None


def _marked_reader(annotation: Any) -> Reader | None:
    for mark in annotation.__metadata__:
        go = (mark.extra or {}).get("go", "") if isinstance(mark, msgspec.Meta) else ""
        if go == "time":
            return _moment
        if go.startswith("duration"):
            return _duration
    return reader_of(annotation.__origin__)


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _record_reader(record: type) -> Reader:
    readers: dict[str, Reader | None] = {
        field.encode_name: reader_of(field.type) for field in msgspec.structs.fields(record)
    }
    readers |= {name: reader_of(kind) for name, kind in _extra_fields.get(record, {}).items()}
    folded = {name.lower(): name for name in readers}
    unknown = object()

    def read(value: Any) -> Any:
        if type(value) is not dict:
            return value
        out = {}
        for key, item in value.items():
            if item is None:
                continue
            reader: Any = readers.get(key, unknown)
            if reader is unknown:
                name = folded.get(key.lower()) if type(key) is str else None
                if name is None:
                    continue
                key, reader = name, readers[name]
            out[key] = item if reader is None else reader(item)
        return out

    return read


def _list_reader(element: Any) -> Reader:
    reader, zero = reader_of(element), _zero(element)

    def read(value: Any) -> Any:
        if type(value) not in (list, tuple):
            return value
        if None in value and zero is not None:
            value = [zero if item is None else item for item in value]
        return value if reader is None else [item if item is None else reader(item) for item in value]

    return read


def _dict_reader(element: Any) -> Reader:
    if element is Any:
        return _free
    reader, zero = reader_of(element), _zero(element)

    def read(value: Any) -> Any:
        if type(value) is not dict:
            return value
        if zero is not None and None in value.values():
            value = {key: zero if item is None else item for key, item in value.items()}
        if reader is None:
            return value
        return {key: item if item is None else reader(item) for key, item in value.items()}

    return read


def _zero(element: Any) -> Any:
    """What Go puts where a list or a map holds a null; None where a null may stay."""
    if element in (str, int, float, bool):
        return element()
    origin = typing.get_origin(element)
    if _is_record(element):
        return {}
    return [] if origin in (tuple, list) else {} if origin is dict else None


class _OutOfRange:
    """Stands for a number that does not fit 64 bits, so that msgspec reports its place."""


class _NotRFC3339:
    """Stands for a text that is no moment, so that msgspec reports its place."""


class _NotDuration:
    """Stands for a text that is no duration, so that msgspec reports its place."""


_GO_FOUND |= {
    "_OutOfRange": "number out of range",
    "_NotRFC3339": "something that is not an RFC 3339 time",
    "_NotDuration": "something that is not a duration",
}


def _int64(value: Any) -> Any:
    kind = type(value)
    if kind is int:
        return value if -_INT64_MAX <= value <= _INT64_MAX else _OutOfRange()
    if kind is float and value.is_integer():
        return int(value) if abs(value) < _INT64_MAX else _OutOfRange()
    return value


def _moment(value: Any) -> Any:
    if type(value) is not str:
        return _NotRFC3339()
    try:
        return parse_moment(value)
    except ValueError:
        return _NotRFC3339()


def _duration(value: Any) -> Any:
    if type(value) is not str:
        return _int64(value)
    try:
        return parse_duration(value) if value else 0
    except ValueError:
        return _NotDuration()


def _free(value: Any, depth: int = 0) -> Any:
    """Plain data of any shape, kept as it is unless a number in it is too large."""
    kind = type(value)
    if kind is dict or kind is list or kind is tuple:
        if depth > DEPTH_MAX:
            raise Invalid("json: exceeded max depth")
        if kind is dict:
            return {key: _free(item, depth + 1) for key, item in value.items()}
        return [_free(item, depth + 1) for item in value]
    if kind is int and not -_INT64_MAX <= value <= _INT64_MAX:
        return _float(value)
    return value


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise Invalid("json: cannot unmarshal number into Go value of type float64") from None
