"""JSON, YAML and base64 in and out of templates, laid out as Go's encoders do."""

from __future__ import annotations

import base64
import binascii
import datetime
import json
from typing import Any

import yaml

from nomadpy.jobspec.gotemplate.values import (
    go_float,
    refuse_large,
    refuse_length,
    sorted_items,
    text,
    to_bytes,
    to_text,
)

_MAX_YAML = 1 << 20
_ESCAPED_FOR_HTML = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def to_json(value: Any, *, pretty: bool = False, escaped: bool = True) -> str:
    """A value as Go's JSON encoder writes it: keys in order, whole floats as whole numbers.

    >>> to_json({"b": 1.0, "a": ["<", None]})
    '{"a":["\\\\u003c",null],"b":1}'
    """
    refuse_large(value)
    separators = (",", ": ") if pretty else (",", ":")
    plain = _plain(value)
    shown = json.dumps(
        plain, ensure_ascii=False, indent="  " if pretty else None, separators=separators, allow_nan=False
    )
    for char, escape in _ESCAPED_FOR_HTML.items() if escaped else ():
        shown = shown.replace(char, escape)
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in sorted_items(value)}
    if isinstance(value, list | range):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"{value!r} has no JSON form")


def parse_json(source: str) -> Any:
    """The value of a JSON text. All its numbers are floats, as in Go. An empty text is an empty object.

    Raises:
        ValueError: it is no JSON.
    """
    refuse_length(len(text(source)))
    return json.loads(source, parse_int=float, parse_constant=_refuse_constant) if source else {}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def to_yaml(value: Any) -> str:
    """A value as YAML, keys in order, without the last line break."""
    refuse_large(value)
    shown: str = yaml.safe_dump(_plain(value), default_flow_style=False, allow_unicode=True, sort_keys=True)
    return shown.removesuffix("...\n").rstrip("\n")


def parse_yaml(source: str) -> Any:
    """The value of a YAML text. Raises ValueError when it is no YAML or larger than 1 MiB."""
    if len(text(source)) > _MAX_YAML:
        raise ValueError("a YAML text may have at most 1 MiB")
    try:
        value = yaml.safe_load(source)
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(str(error).replace("\n", " ")) from error
    # Aliases may make a small text large; this also finds a value that holds itself.
    refuse_large(value)
    return _from_yaml(value) if value is not None else {}


def _from_yaml(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key if isinstance(key, str | int | float) else str(key): _from_yaml(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple | set):
        return [_from_yaml(item) for item in value]
    if isinstance(value, datetime.date):
        return value.isoformat()
    return to_text(value) if isinstance(value, bytes) else value


def to_toml(value: Any) -> str:
    """An object as TOML: plain keys first, then tables."""
    refuse_large(value)
    if not isinstance(value, dict):
        raise ValueError("only an object has a TOML form")
    return "\n".join(_toml_lines(_plain(value), ()))


def _toml_lines(table: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_toml_key(key)} = {_toml_value(item)}" for key, item in table.items() if not _is_table(item)]
    for key, item in table.items():
        if not _is_table(item):
            continue
        inner = (*path, _toml_key(key))
        for part in [item] if isinstance(item, dict) else item:
            head = "[{}]" if isinstance(item, dict) else "[[{}]]"
            lines += ["", head.format(".".join(inner)), *_toml_lines(part, inner)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (
        bool(value) and isinstance(value, list) and all(isinstance(i, dict) for i in value)
    )


def _toml_key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=False)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(key)} = {_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if value is None:
        raise ValueError("TOML has no null")
    if isinstance(value, float):
        return go_float(value)
    return json.dumps(value, ensure_ascii=False)


def base64_encode(value: str, *, url: bool = False) -> str:
    """Base64 of a text, in the alphabet for URLs when asked."""
    return (base64.urlsafe_b64encode if url else base64.b64encode)(to_bytes(text(value))).decode()


def base64_decode(value: str, *, url: bool = False) -> str:
    """The text (or bytes) that base64 stands for. Raises ValueError."""
    # Go does not mind line breaks either.
    packed = text(value).replace("\n", "").replace("\r", "")
    try:
        return to_text(base64.b64decode(packed, altchars=b"-_" if url else None, validate=True))
    except binascii.Error as error:
        raise ValueError(f"this is not base64: {error}") from error
