"""Functions that encode and decode text and data."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import urllib.parse
from decimal import Decimal
from typing import Any

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import ANY, STRING
from nomadpy.jobspec.hcl.values import (
    HclList,
    NumberError,
    Value,
    from_python,
    number_text,
    parse_number,
)

DECODED_TEXT_MAX = 1024 * 1024
DECODED_DEPTH_MAX = 64

_STR = Parameter("str", STRING)


@function("base64encode", _STR)
def base64_encode(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


@function("base64decode", _STR)
def base64_decode(text: str) -> str:
    try:
        decoded = base64.b64decode(text.replace("\r", "").replace("\n", ""), validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise ArgumentError(0, "the text is not valid base64") from wrong
    try:
        return decoded.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise ArgumentError(0, "the result of decoding is not valid UTF-8") from wrong


@function("urlencode", _STR)
def url_encode(text: str) -> str:
    return urllib.parse.quote_plus(text, safe="~").replace("%7E", "~")


@function("jsonencode", Parameter("val", ANY, null_allowed=True))
def json_encode(value: Value) -> str:
    """Compact JSON with sorted keys; ``<``, ``>``, ``&`` and two line separators are escaped for HTML's sake."""
    pieces: list[str] = []
    _write_json(value, pieces)
    return "".join(pieces)


def _json_string(text: str) -> str:
    quoted = json.dumps(text, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        if character in quoted:
            quoted = quoted.replace(character, f"\\u{ord(character):04x}")
    return quoted


def _write_json(value: Value, pieces: list[str]) -> None:
    if value is None:
        pieces.append("null")
    elif isinstance(value, bool):
        pieces.append("true" if value else "false")
    elif isinstance(value, (int, Decimal)):
        pieces.append(number_text(value))
    elif isinstance(value, str):
        pieces.append(_json_string(value))
    elif isinstance(value, tuple):
        pieces.append("[")
        for at, item in enumerate(value):
            pieces.append("," if at else "")
            _write_json(item, pieces)
        pieces.append("]")
    else:
        pieces.append("{")
        for at, key in enumerate(sorted(value)):
            pieces.append("," if at else "")
            pieces.append(_json_string(key) + ":")
            _write_json(value[key], pieces)
        pieces.append("}")


def _check_decodable(text: str) -> None:
    if len(text) > DECODED_TEXT_MAX:
        raise ArgumentError(0, f"at most {DECODED_TEXT_MAX} characters can be decoded")


@function("jsondecode", _STR)
def json_decode(text: str) -> Value:
    _check_decodable(text)
    try:
        data = json.loads(text, parse_float=parse_number, parse_int=parse_number, parse_constant=_no_constant)
        return from_python(data)
    except NumberError as wrong:
        raise ArgumentError(0, str(wrong).rstrip(".")) from wrong
    except ValueError as wrong:
        raise ArgumentError(0, f"not valid JSON: {wrong}") from wrong
    except RecursionError as deep:
        raise ArgumentError(0, "the JSON is nested too deeply") from deep


def _no_constant(name: str) -> Any:
    raise NumberError(f"{name} is not valid JSON")


@function("yamldecode", Parameter("src", STRING))
def yaml_decode(text: str) -> Value:
    """The data of one YAML document. Aliases are refused, because they can make small texts enormous."""
    _check_decodable(text)
    # Loading YAML takes as long as reading a large job file, and few files need it.
    from nomadpy.jobspec.hcl.functions import _yaml

    try:
        return from_python(_yaml.decode(text))
    except (ValueError, TypeError, OverflowError) as wrong:
        raise ArgumentError(0, f"the YAML cannot be used: {wrong}") from wrong


@function("yamlencode", Parameter("value", ANY, null_allowed=True))
def yaml_encode(value: Value) -> str:
    from nomadpy.jobspec.hcl.functions import _yaml

    return _yaml.encode(value)


@function("csvdecode", _STR)
def csv_decode(text: str) -> Value:
    """A list of objects, one a line after the header, keyed by the header's names."""
    _check_decodable(text)
    if "\0" in text:
        raise ArgumentError(0, "the text has a NUL character")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        rows = [row for row in reader if row]
    except csv.Error as wrong:
        raise ArgumentError(0, f"not valid CSV: {wrong}, in line {reader.line_num}") from wrong
    if not rows:
        raise ArgumentError(0, "missing header line")
    header = rows[0]
    if len(set(header)) != len(header):
        raise ArgumentError(0, "duplicate column name in the header")
    for at, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise CallFailure(f"record {at} has {len(row)} fields, but the header has {len(header)}")
    return HclList(dict(zip(header, row, strict=True)) for row in rows[1:])
