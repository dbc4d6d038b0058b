"""The functions that template blocks know besides Go's: consul-template's, by its names and orders of arguments.

What needs a catalogue, a key-value store or a secret store is refused by name, with what is missing.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from nomadpy.jobspec.gotemplate import encodings as enc
from nomadpy.jobspec.gotemplate.builtins import equal
from nomadpy.jobspec.gotemplate.gotime import format_time
from nomadpy.jobspec.gotemplate.sprig import SPRIG, go_title
from nomadpy.jobspec.gotemplate.values import (
    MISSING,
    TemplateFailed,
    in_range,
    number,
    refuse_large,
    refuse_length,
    show,
    sorted_items,
    text,
    to_bytes,
    to_text,
    whole,
)
from nomadpy.model.linear_regexp import compile_pattern
from nomadpy.model.linear_replace import replace_all

_MAX_LOOP = 1_000_000

_ABSENT: dict[str, str] = {
    **dict.fromkeys(
        ("nomadVar", "nomadVarExists", "nomadVarList", "nomadVarListSafe"),
        "Variables cannot be read from templates yet",
    ),
    **dict.fromkeys(("nomadService", "nomadServices"), "services cannot be read from templates yet"),
    **dict.fromkeys(
        ("key", "keyExists", "keyExistsGet", "keyOrDefault", "ls", "safeLs", "tree", "safeTree", "service", "services")
        + (
            "node",
            "nodes",
            "datacenters",
            "connect",
            "caRoots",
            "caLeaf",
            "partitions",
            "peerings",
            "exportedServices",
        ),
        "there is no connection to Consul",
    ),
    **dict.fromkeys(("secret", "secrets", "pkiCert"), "there is no connection to Vault"),
    **dict.fromkeys(
        ("sockaddr", "byKey", "byTag", "byMeta", "plugin", "writeToFile", "executeTemplate"),
        "it is not supported by this version",
    ),
}


class MissingFile(TemplateFailed):
    """A file that ``file`` names is not there (yet)."""

    code = "template-file-missing"


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What templates see of the world. ``now_ns`` is Unix time. ``read_file`` raises MissingFile or NomadError."""

    env: Mapping[str, str]
    now_ns: int
    read_file: Callable[[str], bytes]
    denied: frozenset[str] = frozenset()


def consul_functions(around: Surroundings) -> dict[str, Callable[..., Any]]:
    """The functions of one rendering; ``scratch`` is new each time."""
    functions: dict[str, Callable[..., Any]] = {**SPRIG, **_PURE}
    functions.update({name: _refusal(name, reason) for name, reason in _ABSENT.items()})
    functions.update(_worldly(around))
    functions.update({name: _refusal(name, "it is denied on this client") for name in around.denied})
    return functions


def _refusal(name: str, reason: str) -> Callable[..., NoReturn]:
    def refuse(*_: Any) -> NoReturn:
        raise TemplateFailed(f"{name} cannot be used: {reason}")

    return refuse


def _worldly(around: Surroundings) -> dict[str, Callable[..., Any]]:
    def must_env(name: str) -> str:
        if text(name) not in around.env:
            raise TemplateFailed(f"mustEnv: the environment variable {name} is not set")
        return around.env[name]

    def timestamp(layout: str = "2006-01-02T15:04:05Z07:00") -> str:
        return str(around.now_ns // 10**9) if layout == "unix" else format_time(around.now_ns, text(layout))

    scratch = _scratch()
    return {
        "env": lambda name: around.env.get(text(name), ""),
        "envOrDefault": lambda name, default: around.env.get(text(name)) or text(default),
        "file": lambda path: to_text(around.read_file(text(path))) if text(path) else "",
        "mustEnv": must_env,
        "scratch": lambda: scratch,
        "timestamp": timestamp,
    }


def _scratch() -> dict[str, Callable[..., Any]]:
    """A notebook that lasts for one rendering."""
    notes: dict[str, Any] = {}

    def put(name: str, value: Any) -> str:
        notes[text(name)] = value
        return ""

    def inner(name: str) -> dict[str, Any]:
        found = notes.setdefault(text(name), {})
        if not isinstance(found, dict):
            raise ValueError(f'"{name}" is not an object')
        return found

    def map_put(name: str, key: str, value: Any) -> str:
        inner(name)[text(key)] = value
        return ""

    return {
        "Key": lambda name: text(name) in notes,
        "Get": lambda name: notes.get(text(name), MISSING),
        "Set": put,
        "SetX": lambda name, value: "" if text(name) in notes else put(name, value),
        "MapSet": map_put,
        "MapSetX": lambda name, key, value: "" if text(key) in inner(name) else map_put(name, key, value),
        "MapValues": lambda name: [value for _, value in sorted_items(inner(name))],
    }


# -- texts -----------------------------------------------------------------------------------------------------------


def _replace(old: str, new: str, value: str) -> str:
    refuse_length(len(text(value)) + value.count(text(old)) * len(text(new)))
    return value.replace(old, new)


def _join(separator: str, values: Any) -> str:
    shown = [show(value) for value in values or ()]
    refuse_length(sum(map(len, shown)) + len(text(separator)) * len(shown))
    return separator.join(shown)


def split(separator: str, value: str) -> list[str]:
    """The parts of a text; of an empty one there are none, and an empty separator parts every character."""
    if not text(value):
        return []
    return value.split(separator) if text(separator) else list(value)


def _split_to_map(item_separator: str, pair_separator: str, value: str) -> dict[str, str]:
    return {
        key.strip(): item.strip()
        for part in split(item_separator, value)
        for key, _, item in [part.partition(text(pair_separator))]
    }


def _indent(n_spaces: int, value: str) -> str:
    lines = text(value).split("\n")
    if whole(n_spaces) < 0:
        raise ValueError("the indentation must not be negative")
    refuse_length(len(value) + n_spaces * len(lines))
    return "\n".join(" " * n_spaces + line if line else line for line in lines)


def _regex_match(pattern: str, value: str) -> bool:
    # Without the cache: the automaton that it shares belongs to one thread, and templates are rendered in many.
    return compile_pattern.__wrapped__(text(pattern))(text(value))


def _regex_replace(pattern: str, replacement: str, value: str) -> str:
    return replace_all(text(pattern), text(replacement), text(value))


def _digest(algorithm: str) -> Callable[[str], str]:
    return lambda value: hashlib.new(algorithm, to_bytes(text(value)), usedforsecurity=False).hexdigest()


# -- numbers ---------------------------------------------------------------------------------------------------------


def _calculation(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], int | float]:
    """Arithmetic with the operand that a pipeline brings first: ``5 | subtract 2`` is 3."""

    def calculate(b: Any, a: Any) -> int | float:
        return in_range(operation(number(a), number(b)))

    return calculate


def _divide(a: int | float, b: int | float) -> int | float:
    if b == 0:
        raise ValueError("division by zero")
    if isinstance(a, float) or isinstance(b, float):
        return a / b
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _modulo(a: int | float, b: int | float) -> int:
    return whole(a) - whole(b) * whole(_divide(a, b))


def _parse_int(value: str, *, signed: bool = True) -> int:
    digits = text(value) or "0"
    if not digits.isascii() or not digits.lstrip("+-" if signed else "").isdecimal() or len(digits) > 20:
        raise ValueError(f"{value!r} is not a whole number")
    result = int(digits)
    if not (in_range(result) if signed else 0 <= result < 2**64) and result:
        raise ValueError(f"{value!r} needs more than 64 bits")
    return result


def _parse_float(value: str) -> float:
    return float(text(value)) if value else 0.0


def _parse_bool(value: str) -> bool:
    if text(value) in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if value in ("", "0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"{value!r} is not a truth value")


def _loop(*bounds: int) -> range:
    start, stop = (0, bounds[0]) if len(bounds) == 1 else bounds
    if whole(stop) - whole(start) > _MAX_LOOP:
        raise ValueError(f"more than {_MAX_LOOP} rounds are refused")
    return range(start, stop)


# -- collections -----------------------------------------------------------------------------------------------------


def _in(values: Any, wanted: Any) -> bool:
    if isinstance(values, str):
        return text(wanted) in values
    return any(equal(value, wanted) for value in values or ())


def _contains_each(wanted: Any, values: Any) -> list[bool]:
    refuse_length(len(wanted or ()) * len(values or ()))
    return [_in(values, item) for item in wanted or ()]


def _explode(pairs: Any) -> dict[str, Any]:
    """An object of ``a/b`` keys as nested objects."""
    out: dict[str, Any] = {}
    for key, value in sorted_items(pairs):
        *path, last = text(key).strip("/").split("/")
        at = out
        for part in path:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise ValueError(f'"{part}" is both a value and a folder')
        at[last] = value
    return out


def _merge(new: Any, old: Any, *, override: bool) -> dict[str, Any]:
    """Two objects as one; inner objects are merged too."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        raise ValueError("only objects can be merged")
    refuse_large(new, old)
    out = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = _merge(value, out[key], override=override)
        elif override or key not in out:
            out[key] = value
    return out


_PURE: dict[str, Callable[..., Any]] = {
    "add": _calculation(lambda a, b: a + b),
    "base64Decode": enc.base64_decode,
    "base64Encode": enc.base64_encode,
    "base64URLDecode": lambda value: enc.base64_decode(value, url=True),
    "base64URLEncode": lambda value: enc.base64_encode(value, url=True),
    "contains": lambda wanted, values: _in(values, wanted),
    "containsAll": lambda wanted, values: all(_contains_each(wanted, values)),
    "containsAny": lambda wanted, values: any(_contains_each(wanted, values)),
    "containsNone": lambda wanted, values: not any(_contains_each(wanted, values)),
    "containsNotAll": lambda wanted, values: not all(_contains_each(wanted, values)),
    "divide": _calculation(_divide),
    "explodeMap": _explode,
    "hmacSHA256Hex": lambda value, key: hmac.new(to_bytes(text(key)), to_bytes(text(value)), "sha256").hexdigest(),
    "in": _in,
    "indent": _indent,
    "join": _join,
    "loop": _loop,
    "maximum": _calculation(max),
    "md5sum": _digest("md5"),
    "mergeMap": lambda new, old: _merge(new, old, override=False),
    "mergeMapWithOverride": lambda new, old: _merge(new, old, override=True),
    "minimum": _calculation(min),
    "modulo": _calculation(_modulo),
    "multiply": _calculation(lambda a, b: a * b),
    "parseBool": _parse_bool,
    "parseFloat": _parse_float,
    "parseInt": _parse_int,
    "parseJSON": enc.parse_json,
    "parseUint": lambda value: _parse_int(value, signed=False),
    "parseYAML": enc.parse_yaml,
    "regexMatch": _regex_match,
    "regexReplaceAll": _regex_replace,
    "replaceAll": _replace,
    "sha256Hex": _digest("sha256"),
    "split": split,
    "splitToMap": _split_to_map,
    "subtract": _calculation(lambda a, b: a - b),
    "toJSON": enc.to_json,
    "toJSONPretty": lambda value: enc.to_json(value, pretty=True),
    "toLower": lambda value: text(value).lower(),
    "toTOML": enc.to_toml,
    "toTitle": lambda value: go_title(text(value)),
    "toUnescapedJSON": lambda value: enc.to_json(value, escaped=False),
    "toUnescapedJSONPretty": lambda value: enc.to_json(value, pretty=True, escaped=False),
    "toUpper": lambda value: text(value).upper(),
    "toYAML": enc.to_yaml,
    "trim": lambda signs, value: text(value).strip(text(signs)) if signs else value,
    "trimPrefix": lambda prefix, value: text(value).removeprefix(text(prefix)),
    "trimSpace": lambda value: text(value).strip(),
    "trimSuffix": lambda suffix, value: text(value).removesuffix(text(suffix)),
}
