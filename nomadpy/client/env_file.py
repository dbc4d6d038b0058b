"""Files of ``KEY=VALUE`` lines, as a template with ``env = true`` renders them."""

from __future__ import annotations

import re

from nomadpy.model.errors import Invalid

_LINE = re.compile(r"(?:export[ \t]+)?([^\s=#'\"]+)[ \t]*=[ \t]*(.*)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)")
_SHORT = {"n": "\n", "r": "\r", "t": "\t"}


def parse_env_file(text: str) -> dict[str, str]:
    """The variables of a file; later lines win. ``#`` begins a comment, ``export`` in front is allowed.

    A value may be bare (blanks around it fall away), in single quotes (as it stands) or in double quotes, where
    ``\\n``, ``\\r``, ``\\t`` and ``\\uXXXX`` are known and a backslash before anything else is dropped.

    Raises:
        Invalid: a line is none of these; the message has its number and never its value.

    >>> parse_env_file("# note\\nA = 1 # one\\nexport B='x y'\\nC=\\"a\\\\nb\\"")
    {'A': '1', 'B': 'x y', 'C': 'a\\nb'}
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        bare = line.strip()
        if not bare or bare.startswith("#"):
            continue
        match = _LINE.fullmatch(bare)
        if match is None:
            raise Invalid(f"line {number} of the variables is not KEY=VALUE")
        if "\0" in bare:
            raise Invalid(f"line {number} of the variables holds a zero byte")
        found[match[1]] = _value(match[2], number)
    return found


def _value(written: str, number: int) -> str:
    quote = written[:1]
    if quote not in ("'", '"') or not quote:
        return re.split(r"(?:^|\s+)#", written, maxsplit=1)[0].strip()
    pattern = r"'([^']*)'" if quote == "'" else r'"((?:\\.|[^"\\])*)"'
    match = re.match(pattern, written)
    rest = written[match.end() :].strip() if match else ""
    if match is None or (rest and not rest.startswith("#")):
        raise Invalid(f"line {number} of the variables: a quotation must be closed and end the line")
    return match[1] if quote == "'" else _ESCAPE.sub(_unescaped, match[1])


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    return chr(int(code[1:], 16)) if len(code) == 5 else _SHORT.get(code, code)
