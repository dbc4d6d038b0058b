"""What the literal parts of strings and heredocs mean."""

from __future__ import annotations

import re

from nomadpy.jobspec.hcl.diagnostics import Source, SourceRange, SyntaxFailure
from nomadpy.jobspec.hcl.lexer import HEREDOC_LIT, Token

_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|\$\$\{|%%\{", re.DOTALL)
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}


def unescape(source: Source, token: Token) -> str:
    """The text that a literal stands for; a heredoc literal has no backslash escapes.

    Raises SyntaxFailure.
    """
    raw = source.text[token.start : token.end]
    if token.kind == HEREDOC_LIT:
        return raw.replace("$${", "${").replace("%%{", "%{")
    if "\\" not in raw and "{" not in raw:
        return raw
    return _ESCAPE.sub(lambda found: _escaped(found, source, token), raw)


def _escaped(found: re.Match[str], source: Source, token: Token) -> str:
    selector = found.group(1)
    if selector is None:
        return found.group()[1:]
    simple = _SIMPLE.get(selector)
    if simple is not None:
        return simple
    where = SourceRange(source, token.start + found.start(), token.start + found.end())
    if len(selector) > 1:
        code = int(selector[1:], 16)
        if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            return chr(code)
        raise SyntaxFailure("Invalid escape sequence", "This is not a Unicode character.", where)
    detail = f"The symbol {selector!r} is not a valid escape sequence selector."
    if selector in "uU":
        digits = 4 if selector == "u" else 8
        detail = f"The \\{selector} escape sequence must be followed by {digits} hexadecimal digits."
    raise SyntaxFailure("Invalid escape sequence", detail, where)
