"""Job files on disk: which form they are in, what stands around them, and the record of what was submitted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from nomadpy.jobspec import JobFile
from nomadpy.jobspec._file import YAML_SUFFIXES, Inputs, Parsed, parse_body, parse_syntax
from nomadpy.model.canonical import job_from_input
from nomadpy.model.decode import parse as parse_json
from nomadpy.model.errors import Invalid

HCL, YAML, JSON = "hcl2", "yaml", "json"
_FORMATS = {"hcl": HCL, "hcl2": HCL, "yaml": YAML, "json": JSON}
# One of these, or "Job", is at the top of every API job; a file in HCL's JSON form begins with "job" and its like.
_API_KEYS = frozenset({"taskgroups", "id"})


def load(path: str, inputs: Inputs, var_paths: Sequence[str], *, format: str | None, stdin: bytes | None) -> JobFile:
    """The job in a file, or in ``stdin`` if the path is ``-``. Raises Invalid."""
    name = "<stdin>" if path == "-" else path
    data = _read_stdin(stdin) if path == "-" else _read(path)
    if not data.strip():
        raise Invalid(f"{name} is empty; a job file is expected")
    kind = _format_of(path, data, format)
    if kind == JSON:
        return _api_json(data, name)
    files = [(each, _read(each)) for each in var_paths]
    inputs = inputs._replace(var_files=files, base_dir=str(Path(path).resolve().parent if path != "-" else Path.cwd()))
    parsed = parse_body(parse_syntax(data, name, is_yaml=kind == YAML), inputs, name)
    flags, lines = _flags(parsed)
    texts = [text.decode("utf-8") for _, text in files]
    return JobFile(
        raw=parsed.raw,
        job=job_from_input(parsed.raw),
        source=data.decode("utf-8"),
        format=kind,
        variable_flags=flags,
        variables="\n".join(text.rstrip("\n") for text in (*texts, *lines) if text.strip()),
        warnings=tuple(str(each) for each in parsed.resolved.warnings),
    )


def escaped(flags: dict[str, str]) -> dict[str, str]:
    """The values as a submission carries them: escaped as in a URL's query."""
    return {name: quote_plus(value) for name, value in flags.items()}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise Invalid(f"Cannot read {path}: {problem.strerror or problem}") from problem


def _read_stdin(stdin: bytes | None) -> bytes:
    return sys.stdin.buffer.read() if stdin is None else stdin


def _format_of(path: str, data: bytes, format: str | None) -> str:
    if format is not None:
        if format not in _FORMATS:
            raise Invalid(f'There is no job file format "{format}"; it is one of {", ".join(sorted(_FORMATS))}')
        return _FORMATS[format]
    if path.endswith(YAML_SUFFIXES):
        return YAML
    if path.endswith(".json") and _is_api_json(data):
        return JSON
    return HCL


def _is_api_json(data: bytes) -> bool:
    try:
        content = parse_json(data)
    except Invalid:
        # The reader of HCL's JSON form says with line and column what is wrong.
        return False
    return isinstance(content, dict) and any(str(key) == "Job" or str(key).lower() in _API_KEYS for key in content)


def _api_json(data: bytes, name: str) -> JobFile:
    try:
        content = parse_json(data)
    except Invalid as wrong:
        raise Invalid(f"{name}: {wrong.message}") from wrong
    raw: Any = content
    if isinstance(content, dict):
        raw = next((value for key, value in content.items() if key.lower() == "job"), content)
    if not isinstance(raw, dict) or not any(str(key).lower() == "id" for key in raw):
        raise Invalid(f'{name} holds no job: an object with an "ID", or one below "Job", is expected')
    try:
        job = job_from_input(raw)
    except Invalid as wrong:
        raise Invalid(f"{name}: {wrong.message}") from wrong
    return JobFile(raw=raw, job=job, source=data.decode("utf-8"), format=JSON)


def _flags(parsed: Parsed) -> tuple[dict[str, str], list[str]]:
    """Values from flags and the environment: simple ones by name, others as lines of a variable file."""
    simple: dict[str, str] = {}
    lines: list[str] = []
    for name, assignment in parsed.resolved.assignments.items():
        if assignment.origin not in ("flag", "environment") or assignment.text is None:
            continue
        if isinstance(assignment.value, (tuple, dict)) or assignment.value is None:
            lines.append(f"{name} = {assignment.text}")
        else:
            simple[name] = assignment.text
    return simple, lines
