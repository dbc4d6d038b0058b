"""What a driver's ``config`` block may hold, declared as data: one table serves checking and reading.

Values come from three kinds of files. HCL gives blocks as a list of objects (``auth { … }`` is ``[{…}]``), YAML and
JSON give plain objects, and numbers often arrive as strings. A string that still holds ``${`` is not interpolated yet,
so it passes any scalar type.

>>> schema = {"command": Option(STRING, required=True), "tries": Option(INT)}
>>> check(schema, {"comand": "/bin/true", "tries": "many"})
['unknown option "comand"; did you mean "command"?', 'option "tries" must be a whole number, not "many"', \
'option "command" is required']
>>> read(schema, {"command": "/bin/true", "tries": "3"})
{'command': '/bin/true', 'tries': 3}
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

STRING, BOOL, INT, NUMBER, DURATION = "string", "bool", "int", "number", "duration"
LIST, MAP, BLOCK, BLOCKS, ANY = "list", "map", "block", "blocks", "any"

_WORDS = {
    STRING: "a string",
    BOOL: "true or false",
    INT: "a whole number",
    NUMBER: "a number",
    DURATION: 'a duration such as "30s"',
    LIST: "a list of strings",
    MAP: "a map of strings",
    BLOCK: "a block",
    BLOCKS: "a block that may be repeated",
}
_SCALARS = (str, int, float, bool)
_TRUE, _FALSE = ("true", "1", "t", "yes"), ("false", "0", "f", "no")
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h|d)")
_SECONDS_BY_UNIT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Option:
    """One option: what kind of value it takes, and for ``BLOCK`` and ``BLOCKS`` the options inside (``block=None``
    leaves the inside unchecked). ``help`` says in a few words what it is for."""

    type: str
    required: bool = False
    help: str = ""
    block: Mapping[str, Option] | None = None


Schema = Mapping[str, Option]


def check(schema: Schema, config: Mapping[str, Any], where: str = "") -> list[str]:
    """Every problem of ``config``, in the order written, missing options last; [] when it is fine. ``where`` is the
    name of the enclosing block, put before the option's name."""
    problems: list[str] = []
    for name, value in config.items():
        path = f"{where}.{name}" if where else str(name)
        option = schema.get(name)
        if option is None:
            problems.append(f'unknown option "{path}"{_suggestion(str(name), schema)}')
        elif value is not None:
            problems.extend(_problems_of_value(option, value, path))
    for name, option in schema.items():
        if option.required and config.get(name) in (None, ""):
            path = f"{where}.{name}" if where else name
            problems.append(f'option "{path}" is required')
    return problems


def read(schema: Schema, config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a checked ``config`` as plain values: numbers and booleans converted, durations in seconds,
    a ``BLOCK`` as one dict, ``BLOCKS`` as a list of dicts, maps as one dict of strings. Options that are absent or
    null stay absent. Raises ValueError for what ``check`` would have refused, and for a left-over ``${…}``."""
    values: dict[str, Any] = {}
    for name, value in config.items():
        option = schema.get(name)
        if option is not None and value is not None:
            values[name] = _read_value(option, value)
    return values


def duration_s(value: Any) -> float:
    """Seconds of a Go-style duration ("1m30s"), or of a plain number taken as nanoseconds as in Nomad's JSON.
    Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) / 1e9
    text = str(value).strip()
    sign = -1.0 if text.startswith("-") else 1.0
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    if not body or _DURATION_PART.sub("", body):
        raise ValueError(f'not a duration: "{text}"')
    return sign * sum(float(number) * _SECONDS_BY_UNIT[unit] for number, unit in _DURATION_PART.findall(body))


def _suggestion(name: str, schema: Schema) -> str:
    close = difflib.get_close_matches(name, list(schema), n=1, cutoff=0.7)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f" (known options: {', '.join(sorted(schema))})"


def _problems_of_value(option: Option, value: Any, path: str) -> list[str]:
    if option.type in (BLOCK, BLOCKS):
        return _problems_of_blocks(option, value, path)
    if option.type == ANY or (isinstance(value, str) and "${" in value and option.type not in (LIST, MAP)):
        return []
    if option.type == LIST and isinstance(value, list | tuple):
        return [
            f'option "{path}" must be a list of strings, but item {n} is {_shown(item)}'
            for n, item in enumerate(value)
            if not isinstance(item, _SCALARS)
        ]
    try:
        _read_value(option, value)
    except ValueError:
        return [f'option "{path}" must be {_WORDS[option.type]}, not {_shown(value)}']
    return []


def _problems_of_blocks(option: Option, value: Any, path: str) -> list[str]:
    blocks = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(block, Mapping) for block in blocks):
        return [f'option "{path}" must be {_WORDS[option.type]}, not {_shown(value)}']
    if option.type == BLOCK and len(blocks) > 1:
        return [f'option "{path}" may be given only once, not {len(blocks)} times']
    if option.block is None:
        return []
    inner = option.block
    return [problem for block in blocks for problem in check(inner, block, path)]


def _read_value(option: Option, value: Any) -> Any:
    match option.type:
        case "string":
            return _read_string(value)
        case "bool":
            return _read_bool(value)
        case "int":
            return _read_int(value)
        case "number":
            return float(_read_string(value))
        case "duration":
            return duration_s(value)
        case "list":
            return _read_list(value)
        case "map":
            return _read_map(value)
        case "block":
            blocks = _read_blocks(option, value)
            return blocks[0] if blocks else {}
        case "blocks":
            return _read_blocks(option, value)
        case _:
            return value


def _read_string(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _SCALARS):
        return str(value)
    raise ValueError(f"not a string: {value!r}")


def _read_bool(value: Any) -> bool:
    text = _read_string(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f"not a boolean: {value!r}")


def _read_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError(f"not a whole number: {value!r}")
    return int(value) if isinstance(value, int | float) else int(_read_string(value))


def _read_list(value: Any) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"not a list: {value!r}")
    return [_read_string(item) for item in value]


def _read_map(value: Any) -> dict[str, str]:
    blocks = list(value) if isinstance(value, list | tuple) else [value]
    merged: dict[str, str] = {}
    for block in blocks:
        if not isinstance(block, Mapping):
            raise ValueError(f"not a map: {value!r}")
        merged.update({str(key): _read_string(item) for key, item in block.items()})
    return merged


def _read_blocks(option: Option, value: Any) -> list[dict[str, Any]]:
    blocks = list(value) if isinstance(value, list | tuple) else [value]
    if not all(isinstance(block, Mapping) for block in blocks):
        raise ValueError(f"not a block: {value!r}")
    if option.block is None:
        return [dict(block) for block in blocks]
    inner = option.block
    return [read(inner, block) for block in blocks]


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a block"
    return "a list" if isinstance(value, list | tuple) else str(value)
