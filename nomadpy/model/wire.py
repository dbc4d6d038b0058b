"""JSON as Nomad's API prints it.

Inside the program an empty collection is ``()`` or ``{}``, a moment is an integer of nanoseconds, and bytes are bytes.
On the wire an empty collection of a record is ``null``, a moment is an RFC 3339 string, and bytes are base64. Records
derived from ``SparseNoun`` leave their empty fields out.

For each record type one function is written as source and compiled at first use, because a list of allocations visits
these records some hundred thousand times. The way back is in ``decode.py``; both are meant to be imported from here.
"""

from __future__ import annotations

import base64
import threading
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from nomadpy.model.decode import decode, from_wire
from nomadpy.model.job import Job
from nomadpy.model.naming import SparseNoun
from nomadpy.model.time import format_duration, format_moment

__all__ = ["decode", "encode", "encode_job", "from_wire", "to_wire"]

Encoder = Callable[[Any], Any]

_SCALARS = frozenset((str, int, float, bool, type(None)))
_FRAGMENTS_MAX = 4096

_builtins: dict[type, Encoder] = {}
_fragments: dict[type, Encoder] = {}
_unfinished: set[tuple[type, int]] = set()
_compiling = threading.RLock()
_job_texts: dict[int, tuple[Job, msgspec.Raw]] = {}


def to_wire(obj: Any) -> Any:
    """Plain dicts, lists and scalars with Nomad's names; records anywhere inside dicts and lists are converted too.

    Only fields of records turn from empty into null: a dict or list that the caller built stays as it is.
    """
    return _walk(obj, _builtins)


def encode(obj: Any, *, pretty: bool = False) -> bytes:
    """The JSON text of ``to_wire(obj)``; ``pretty`` indents by four spaces and ends with a newline.

    A job inside another record is written once and its text kept, so a list of allocations of one job is cheap.
    """
    text = msgspec.json.encode(_walk(obj, _fragments))
    return msgspec.json.format(text, indent=4) + b"\n" if pretty else text


def encode_job(job: Job) -> msgspec.Raw:
    """The job's JSON text, kept for as long as it is among the last few thousand job objects that were asked for."""
    kept = _job_texts.get(id(job))
    if kept is not None:
        return kept[1]
    text = msgspec.Raw(msgspec.json.encode(_encoder(Job, _fragments)(job)))
    if len(_job_texts) >= _FRAGMENTS_MAX:
        _job_texts.clear()
    # The entry holds the job itself, so no other object can get its id while the entry lives.
    _job_texts[id(job)] = (job, text)
    return text


def _walk(obj: Any, encoders: dict[type, Encoder]) -> Any:
    kind = type(obj)
    if kind in _SCALARS:
        return obj
    if isinstance(obj, msgspec.Struct):
        if kind is Job and encoders is _fragments:
            return encode_job(typing.cast(Job, obj))
        return _encoder(kind, encoders)(obj)
    if isinstance(obj, dict):
        return {key: _walk(value, encoders) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_walk(value, encoders) for value in obj]
    if isinstance(obj, (bytes, bytearray)):
        return _base64(bytes(obj))
    return obj


def _base64(data: bytes) -> str | None:
    return base64.b64encode(data).decode("ascii") if data else None


def _duration_text(ns: int) -> str:
    return format_duration(ns) if ns else ""


def _encoder(kind: type, encoders: dict[type, Encoder]) -> Encoder:
    """The compiled function for one record type."""
    known = encoders.get(kind)
    if known is not None:
        return known
    with _compiling:
        return _compile_once(kind, encoders)


def _compile_once(kind: type, encoders: dict[type, Encoder]) -> Encoder:
    mark = (kind, id(encoders))
    if kind in encoders:
        return encoders[kind]
    if mark in _unfinished:
        # A record that contains itself: its own function is published by the time this forwarder is called.
        return lambda obj: _encoder(kind, encoders)(obj)
    _unfinished.add(mark)
    try:
        encoders[kind] = compiled = _Source(encoders).compile(kind)
    finally:
        _unfinished.discard(mark)
    return compiled


class _Source:
    """Writes the function that turns one record type into a dict; ``names`` are the globals that its text refers to."""

    def __init__(self, encoders: dict[type, Encoder]) -> None:
        self.encoders = encoders
        self.names: dict[str, Any] = {
            "base64_text": _base64,
            "moment": format_moment,
            "duration": _duration_text,
            "walk": lambda obj: _walk(obj, encoders),
        }

    def compile(self, kind: type) -> Encoder:
        sparse = issubclass(kind, SparseNoun)
        always: list[str] = []
        perhaps: list[str] = []
        for field in msgspec.structs.fields(kind):
            text, test = self.field(field.type, f"o.{field.name}", sparse=sparse)
            if test:
                perhaps.append(f" if {test}: d[{field.encode_name!r}] = {text}\n")
            else:
                always.append(f"{field.encode_name!r}: {text}")
        source = "def encoder(o):\n d = {" + ", ".join(always) + "}\n" + "".join(perhaps) + " return d\n"
        exec(source, self.names)
        return typing.cast(Encoder, self.names["encoder"])

    def field(self, annotation: Any, value: str, *, sparse: bool) -> tuple[str, str]:
        """The text of the field's value, and of the test that decides whether it is printed ("" for always)."""
        bare, marks = _unwrap(annotation)
        text = self.value(annotation, value)
        pointer, inner = _optional(bare)
        collection = not pointer and typing.get_origin(inner) in (tuple, list, dict)
        if sparse or "omitempty" in marks:
            if pointer:
                return text, f"{value} is not None"
            embedded = isinstance(inner, type) and issubclass(inner, msgspec.Struct)
            return text, "" if embedded else value
        return (f"({text} or None)" if collection else text), ""

    def value(self, annotation: Any, value: str) -> str:
        bare, marks = _unwrap(annotation)
        pointer, inner = _optional(bare)
        if pointer:
            text = self.value(inner, value)
            return text if text == value else f"(None if {value} is None else {text})"
        if "time" in marks:
            return f"moment({value})"
        if "duration" in marks:
            return f"duration({value})"
        origin, arguments = typing.get_origin(bare), typing.get_args(bare)
        if origin in (tuple, list):
            element = self.value(arguments[0], "x")
            return f"[*{value}]" if element == "x" else f"[{element} for x in {value}]"
        if origin is dict:
            # A dict of anything is somebody else's data (driver config, scaling policy) and passes as it is.
            element = "x" if arguments[1] is Any else self.value(arguments[1], "x")
            return value if element == "x" else f"{{k: {element} for k, x in {value}.items()}}"
        return self.leaf(bare, value)

    def leaf(self, bare: Any, value: str) -> str:
        if bare in _SCALARS or typing.get_origin(bare) is typing.Literal:
            return value
        if bare is bytes:
            return f"base64_text({value})"
        if bare is Job and self.encoders is _fragments:
            self.names["job_text"] = encode_job
            return f"job_text({value})"
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            name = f"record_{bare.__module__.replace('.', '_')}_{bare.__qualname__.replace('.', '_')}"
            self.names[name] = _encoder(bare, self.encoders)
            return f"{name}({value})"
        return f"walk({value})"


def _unwrap(annotation: Any) -> tuple[Any, frozenset[str]]:
    """The annotation without its metadata, and the Go marks (``extra={"go": …}``) that the metadata carried."""
    marks: set[str] = set()
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            for mark in annotation.__metadata__:
                if isinstance(mark, msgspec.Meta) and mark.extra and "go" in mark.extra:
                    marks.add(mark.extra["go"])
            annotation = annotation.__origin__
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        else:
            return annotation, frozenset(marks)


def _optional(bare: Any) -> tuple[bool, Any]:
    """(True, T) for ``T | None``, else (False, the annotation)."""
    if typing.get_origin(bare) in (types.UnionType, typing.Union):
        rest = [arm for arm in typing.get_args(bare) if arm is not type(None)]
        if len(rest) == 1:
            return True, rest[0]
    return False, bare
