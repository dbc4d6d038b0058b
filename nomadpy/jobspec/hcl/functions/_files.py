"""Functions over paths and files, which work only where the surroundings name a base directory."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import STRING
from nomadpy.jobspec.hcl.values import STRING_LENGTH_MAX, HclSet, make_set

if TYPE_CHECKING:
    from nomadpy.jobspec.hcl.scope import Surroundings

FILES_VISITED_MAX = 50_000

_PATH = Parameter("path", STRING)


def _base(surroundings: Surroundings) -> Path:
    if surroundings.base_dir is None:
        raise CallFailure("filesystem function disabled")
    return surroundings.base_dir


def _expanded(path: str) -> str:
    return os.path.expanduser(path) if path.startswith("~") else path


def _resolve(surroundings: Surroundings, path: str) -> Path:
    base = _base(surroundings)
    if "\0" in path:
        raise ArgumentError(0, "a path cannot contain a NUL character")
    return base / _expanded(path)


def _read(surroundings: Surroundings, path: str) -> bytes:
    found = _resolve(surroundings, path)
    try:
        if not found.exists():
            raise ArgumentError(0, f"no file exists at {path[:200]!r}")
        if not found.is_file():
            raise ArgumentError(0, f"{path[:200]!r} is not a regular file")
        with found.open("rb") as opened:
            content = opened.read(STRING_LENGTH_MAX + 1)
    except OSError as wrong:
        raise ArgumentError(0, f"failed to read {path[:200]!r}: {wrong.strerror}") from wrong
    if len(content) > STRING_LENGTH_MAX:
        raise ArgumentError(0, f"the file has more than {STRING_LENGTH_MAX} bytes")
    return content


@function("abspath", _PATH, in_surroundings=True)
def abs_path(surroundings: Surroundings, path: str) -> str:
    """The path made absolute against the base directory, without ``.`` and ``..``."""
    return os.path.normpath(_base(surroundings).absolute() / path)


@function("basename", _PATH, in_surroundings=True)
def base_name(surroundings: Surroundings, path: str) -> str:
    """The last element of a path; ``.`` for an empty path and ``/`` for one of slashes."""
    _base(surroundings)
    if not path:
        return "."
    return path.rstrip("/").rpartition("/")[2] or "/"


@function("dirname", _PATH, in_surroundings=True)
def dir_name(surroundings: Surroundings, path: str) -> str:
    """All but the last element of a path, without ``.`` and ``..``; ``.`` if nothing is left."""
    _base(surroundings)
    directory, slash, _ = path.rpartition("/")
    return os.path.normpath(directory + slash) if directory or slash else "."


@function("pathexpand", _PATH, in_surroundings=True)
def path_expand(surroundings: Surroundings, path: str) -> str:
    _base(surroundings)
    return _expanded(path)


@function("file", _PATH, in_surroundings=True)
def file(surroundings: Surroundings, path: str) -> str:
    try:
        return _read(surroundings, path).decode("utf-8")
    except UnicodeDecodeError as wrong:
        detail = f"contents of {path[:200]!r} are not valid UTF-8; use filebase64 to read the raw bytes"
        raise ArgumentError(0, detail) from wrong


@function("filebase64", _PATH, in_surroundings=True)
def file_base64(surroundings: Surroundings, path: str) -> str:
    return base64.b64encode(_read(surroundings, path)).decode("ascii")


@function("fileexists", _PATH, in_surroundings=True)
def file_exists(surroundings: Surroundings, path: str) -> bool:
    """Whether a regular file is there; something else in its place is an error."""
    found = _resolve(surroundings, path)
    try:
        if not found.exists():
            return False
        if found.is_file():
            return True
    except OSError as wrong:
        raise ArgumentError(0, f"failed to look at {path[:200]!r}: {wrong.strerror}") from wrong
    raise ArgumentError(0, f"{path[:200]!r} is not a regular file")


@function("fileset", _PATH, Parameter("pattern", STRING), in_surroundings=True)
def file_set(surroundings: Surroundings, path: str, pattern: str) -> HclSet:
    """Regular files below a directory whose relative path matches a pattern with ``*``, ``**``, ``?``, ``{a,b}``."""
    root = _resolve(surroundings, path)
    matches = _glob(pattern)
    found: list[str] = []
    n_visited = 0
    for directory, _, names in os.walk(root):
        for name in names:
            n_visited += 1
            if n_visited > FILES_VISITED_MAX:
                raise CallFailure(f"more than {FILES_VISITED_MAX} files are below {path[:200]!r}")
            full = Path(directory, name)
            relative = full.relative_to(root).as_posix()
            if matches.fullmatch(relative) and full.is_file():
                found.append(relative)
    return make_set(found)


def _glob(pattern: str) -> re.Pattern[str]:
    """The pattern as a regular expression over slash-separated relative paths."""
    out: list[str] = []
    depth = 0
    for token in re.findall(r"\*\*/|\*+|\[[^\]]*\]|\\.|.", os.path.normpath(pattern) if pattern else "", re.DOTALL):
        if token == "**/":
            out.append("(?:[^/]+/)*+")
        elif token.startswith("**"):
            out.append(".*")
        elif token == "*":
            out.append("[^/]*")
        elif token == "?":
            out.append("[^/]")
        elif token == "{":
            depth += 1
            out.append("(?:")
        elif token == "}" and depth:
            depth -= 1
            out.append(")")
        elif token == "," and depth:
            out.append("|")
        elif len(token) > 2 and token.startswith("["):
            inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            out.append(f"[^{inside[1:]}]" if inside[:1] in "!^" and inside[1:] else f"[{inside}]")
        else:
            out.append(re.escape(token[-1] if token.startswith("\\") else token))
    try:
        return re.compile("".join(out) + ")" * depth, re.DOTALL)
    except re.error as wrong:
        raise ArgumentError(1, f"not a valid pattern: {wrong}") from wrong
