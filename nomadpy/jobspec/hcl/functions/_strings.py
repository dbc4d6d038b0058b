"""Functions over strings. Lengths and positions count what readers see as one character (graphemes)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from nomadpy.jobspec.hcl.functions._regex import Pattern
from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import NUMBER, STRING, list_of
from nomadpy.jobspec.hcl.values import STRING_LENGTH_MAX, HclList

Number = int | Decimal

_STR = Parameter("str", STRING)


def graphemes(text: str) -> Iterator[str]:
    """Clusters of code points that are seen as one character.

    A close approximation of Unicode's rules (UAX 29): combining marks, joiners, variation selectors, emoji
    modifiers, flag pairs, Hangul syllables and CR LF stay together.
    """
    cluster = ""
    n_flags = 0
    for character in text:
        is_flag = "\U0001f1e6" <= character <= "\U0001f1ff"
        if cluster and _continues(cluster[-1], character, n_flags):
            cluster += character
        else:
            if cluster:
                yield cluster
            cluster, n_flags = character, 0
        n_flags += is_flag
    if cluster:
        yield cluster


def _continues(previous: str, character: str, n_flags: int) -> bool:
    if previous == "\r":
        return character == "\n"
    if unicodedata.category(previous) in ("Cc", "Zl", "Zp"):
        return False
    if unicodedata.category(character) in ("Mn", "Me", "Mc") or character == "\u200d":
        return True
    if "\U0001f3fb" <= character <= "\U0001f3ff":
        return True
    if previous == "\u200d" and unicodedata.category(character) == "So":
        return True
    if "\U0001f1e6" <= character <= "\U0001f1ff":
        return n_flags % 2 == 1
    if "\u1160" <= character <= "\u11ff":
        return "\u1100" <= previous <= "\u11ff" or "\uac00" <= previous <= "\ud7a3"
    return "\u1100" <= previous <= "\u115f" and "\u1100" <= character <= "\u115f"


@function("chomp", _STR)
def chomp(text: str) -> str:
    return text.rstrip("\r\n")


@function("indent", Parameter("spaces", NUMBER), _STR)
def indent(spaces: Number, text: str) -> str:
    """The text with blanks before every line but the first."""
    if not isinstance(spaces, int) or not 0 <= spaces <= 10_000:
        raise ArgumentError(0, "must be a whole number between 0 and 10000")
    _check_growth(len(text) + text.count("\n") * spaces)
    return text.replace("\n", "\n" + " " * spaces)


def _check_growth(length: int) -> None:
    if length > STRING_LENGTH_MAX:
        raise CallFailure(f"the result would have more than {STRING_LENGTH_MAX} characters")


@function("join", Parameter("separator", STRING), variadic=Parameter("lists", list_of(STRING)))
def join(separator: str, *lists: tuple[str | None, ...]) -> str:
    if not lists:
        raise CallFailure("at least one list is required")
    items: list[str] = []
    for at, each in enumerate(lists):
        for position, item in enumerate(each):
            if item is None:
                raise ArgumentError(at + 1, f"element {position} is null; cannot concatenate null values")
            items.append(item)
    _check_growth(sum(map(len, items)) + len(separator) * len(items))
    return separator.join(items)


@function("lower", _STR)
def lower(text: str) -> str:
    return text.lower()


@function("upper", _STR)
def upper(text: str) -> str:
    return text.upper()


@function("title", _STR)
def title(text: str) -> str:
    """The text with each word's first letter in title case and the rest untouched."""
    result: list[str] = []
    in_word = False
    for character in text:
        is_letter = character.isalnum() or character in "_'"
        result.append(character.title() if is_letter and not in_word else character)
        in_word = is_letter
    return "".join(result)


@function("trim", _STR, Parameter("cutset", STRING))
def trim(text: str, cutset: str) -> str:
    return text.strip(cutset) if cutset else text


@function("trimprefix", _STR, Parameter("prefix", STRING))
def trim_prefix(text: str, prefix: str) -> str:
    return text.removeprefix(prefix)


@function("trimsuffix", _STR, Parameter("suffix", STRING))
def trim_suffix(text: str, suffix: str) -> str:
    return text.removesuffix(suffix)


@function("trimspace", _STR)
def trim_space(text: str) -> str:
    return text.strip(" \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000")


@function("replace", _STR, Parameter("substr", STRING), Parameter("replace", STRING))
def replace(text: str, old: str, new: str) -> str:
    count = text.count(old)
    _check_growth(len(text) + count * (len(new) - len(old)))
    return text.replace(old, new)


@function("split", Parameter("separator", STRING), _STR)
def split(separator: str, text: str) -> HclList:
    """The pieces between separators; with an empty separator, every character."""
    if not separator:
        return HclList(text)
    return HclList(text.split(separator))


@function("strlen", _STR)
def strlen(text: str) -> int:
    return len(text) if text.isascii() and "\r" not in text else sum(1 for _ in graphemes(text))


@function("strrev", _STR)
def strrev(text: str) -> str:
    return "".join(reversed(list(graphemes(text))))


# In job files `reverse` has always been the reversal of a string, not of a list.
function("reverse", _STR)(strrev)


@function("substr", _STR, Parameter("offset", NUMBER), Parameter("length", NUMBER))
def substr(text: str, offset: Number, length: Number) -> str:
    """Characters from an offset, counted from the end if negative; all of the rest for length -1."""
    if not isinstance(offset, int):
        raise ArgumentError(1, "must be a whole number")
    if not isinstance(length, int):
        raise ArgumentError(2, "must be a whole number")
    characters = list(graphemes(text))
    if offset < 0:
        offset += len(characters)
        if offset < 0:
            return ""
    end = len(characters) if length < 0 else offset + length
    return "".join(characters[offset:end])


@function("regex_replace", Parameter("str", STRING), Parameter("pattern", STRING), Parameter("replace", STRING))
def regex_replace(text: str, pattern: str, replacement: str) -> str:
    """Every match of an RE2 pattern replaced; ``$1``, ``${1}``, ``${name}`` stand for groups, ``$$`` for a dollar."""
    compiled = Pattern(pattern)
    template = _replacement_parts(replacement)
    pieces: list[str] = []
    at = grown = 0
    for captures in compiled.matches(text):
        pieces.append(text[at : captures[0]])
        made = "".join(_group(compiled, captures, text, part) if is_group else part for is_group, part in template)
        pieces.append(made)
        at = captures[1]
        grown += len(made)
        _check_growth(grown)
    pieces.append(text[at:])
    return "".join(pieces)


_REFERENCE = re.compile(r"\$(?:\$|\{(\w+)\}|(\w+))", re.ASCII)


def _replacement_parts(replacement: str) -> list[tuple[bool, str]]:
    """Literal text and group names in order; an unbraced name is as long as possible, as in ``$1x``."""
    parts: list[tuple[bool, str]] = []
    at = 0
    for found in _REFERENCE.finditer(replacement):
        parts.append((False, replacement[at : found.start()]))
        name = found.group(1) or found.group(2)
        parts.append((True, name) if name else (False, "$"))
        at = found.end()
    parts.append((False, replacement[at:]))
    return parts


def _group(compiled: Pattern, captures: tuple[int, ...], text: str, name: str) -> str:
    """The text of a group; a group that does not exist or took no part is empty."""
    number = int(name[:9]) if name.isdigit() else compiled.groups.get(name, compiled.n_groups)
    if number >= compiled.n_groups or captures[2 * number] < 0:
        return ""
    return text[captures[2 * number] : captures[2 * number + 1]]
