"""Regular expressions and version constraints of job files, as the text of a job writes them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from nomadpy.model.errors import Invalid
from nomadpy.model.linear_regexp import compile_pattern


@functools.lru_cache(maxsize=1024)
def compile_regexp(pattern: str) -> Callable[[str], bool]:
    """A function that tells whether an RE2 pattern occurs in a text, in time proportional to the text.

    Raises ValueError when the pattern is not one.
    """
    try:
        return compile_pattern(pattern)
    except Invalid as error:
        raise ValueError(f"error parsing regexp: {error}: `{pattern}`") from None


# --- versions -------------------------------------------------------------------------------------------------------

_LENIENT = re.compile(
    r"v?(\d+(?:\.\d+)*)(?:-([0-9]+[0-9A-Za-z~-]*(?:\.[0-9A-Za-z~-]+)*)|-?([A-Za-z~-][0-9A-Za-z~-]*(?:\.[0-9A-Za-z~-]+)*))?"
    r"(?:\+([0-9A-Za-z~-]+(?:\.[0-9A-Za-z~-]+)*))?\Z",
    re.ASCII,
)
_STRICT = re.compile(
    r"v?((?:0|[1-9]\d*)\.(?:0|[1-9]\d*)\.(?:0|[1-9]\d*))"
    r"(?:-((?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*))*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z",
    re.ASCII,
)
_CLAUSE = re.compile(r"(>=|<=|!=|~>|=|>|<|)\s*(.*)\Z", re.DOTALL)
_DIGITS_MAX = 18
_LENGTH_MAX = 256  # of a version; matching takes time that grows with the square of it

# Numbers sort below words, and a version without a pre-release above every one that has it.
_Rank = tuple[tuple[int, ...], int, tuple[tuple[int, int, str], ...]]


class Version:
    """A version number that can be compared. ``segments`` are at least three; ``given`` says how many were written."""

    __slots__ = ("given", "prerelease", "rank", "segments")

    def __init__(self, segments: tuple[int, ...], given: int, prerelease: str) -> None:
        self.segments = segments
        self.given = given
        self.prerelease = prerelease
        parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in prerelease.split(".") if p)
        end = len(segments)
        while end and not segments[end - 1]:
            end -= 1  # what was not written counts as zero: 1.2.3 and 1.2.3.0 are equal
        self.rank: _Rank = (segments[:end], 0 if prerelease else 1, parts)


def parse_version(text: str, *, strict: bool = False) -> Version | None:
    """The version in a text, None when there is none; ``strict`` asks for Semantic Versioning 2.0."""
    match = (_STRICT if strict else _LENIENT).match(text) if len(text) <= _LENGTH_MAX else None
    if not match or any(len(digits) > _DIGITS_MAX for digits in re.findall(r"\d+", text)):
        return None
    numbers = tuple(int(part) for part in match[1].split("."))
    prerelease = match[2] or ("" if strict else match[3]) or ""
    return Version(numbers + (0,) * (3 - len(numbers)), len(numbers), prerelease)


class VersionConstraint:
    """Conditions such as ``>= 1.2, < 2.0``, all of which a version must meet."""

    def __init__(self, clauses: tuple[tuple[str, Version], ...], *, strict: bool) -> None:
        self.clauses = clauses
        self.strict = strict

    def matches(self, text: str) -> bool:
        """Whether the version in ``text`` meets every condition; a text that is no version meets none."""
        version = parse_version(text.strip(), strict=self.strict)
        return version is not None and all(self._meets(version, operator, bound) for operator, bound in self.clauses)

    def _meets(self, version: Version, operator: str, bound: Version) -> bool:
        if operator in ("", "="):
            return version.rank == bound.rank
        if operator == "!=":
            return version.rank != bound.rank
        if not self.strict and not _prerelease_fits(version, bound):
            return False
        if operator == "~>":
            if bound.prerelease and not version.prerelease:
                return False
            return version.rank >= bound.rank and _same_line(version, bound)
        above, equal = version.rank > bound.rank, version.rank == bound.rank
        return {">": above, ">=": above or equal, "<": not above and not equal, "<=": not above}[operator]


def _prerelease_fits(version: Version, bound: Version) -> bool:
    """Pre-releases take part only where the condition itself names one, of the same release (go-version)."""
    if version.prerelease and bound.prerelease:
        return version.segments == bound.segments
    return not version.prerelease


def _same_line(version: Version, bound: Version) -> bool:
    """Whether all written segments but the last agree: ``~> 1.2.3`` stays in 1.2, ``~> 1.2`` in 1. A version with fewer
    segments than the bound is on no line of it (go-version)."""
    kept = bound.given - 1
    return len(version.segments) >= len(bound.segments) and version.segments[:kept] == bound.segments[:kept]


@functools.lru_cache(maxsize=1024)
def parse_version_constraint(text: str, *, strict: bool = False) -> VersionConstraint:
    """The conditions of a ``version`` (or, ``strict``, a ``semver``) constraint. Raises ValueError when malformed."""
    clauses = []
    for clause in text.split(","):
        match = _CLAUSE.match(clause.strip())
        version = parse_version(match[2], strict=strict) if match else None
        if match is None or version is None or (strict and match[1] == "~>"):
            raise ValueError(f"Malformed constraint: {clause.strip()}")
        clauses.append((match[1], version))
    return VersionConstraint(tuple(clauses), strict=strict)
