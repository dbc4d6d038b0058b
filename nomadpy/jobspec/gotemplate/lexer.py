"""The text of a template as pieces: what stands between actions, and the words of each action."""

from __future__ import annotations

import re
from typing import NamedTuple

from nomadpy.jobspec.gotemplate.values import TemplateFailed

_SPACES = " \t\r\n"
_WORD = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*")|(?P<raw>`[^`]*`)|(?P<char>'(?:\\.[^'\n]*|[^'\\\n])')"""
    r"""|(?P<number>[-+]?(?:0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO][0-7_]+|(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?))"""
    r"""|(?P<variable>\$\w*)|(?P<field>\.[^\W\d]\w*)|(?P<dot>\.)|(?P<name>[^\W\d]\w*)|(?P<sign>:=|=|\||\(|\)|,)""",
    re.DOTALL,
)
_ENDS_NUMBER = re.compile(r"[\w.]")


class Token(NamedTuple):
    """A word of an action. ``glued``: no blank stands before it."""

    kind: str
    text: str
    line: int
    glued: bool


class Piece(NamedTuple):
    """Text (``tokens`` is None) or an action."""

    line: int
    text: str
    tokens: list[Token] | None = None


def pieces(source: str, left: str, right: str) -> list[Piece]:
    """The pieces of a template in order. Raises TemplateFailed for what cannot be read."""
    return _Lexer(source, left, right).read()


class _Lexer:
    def __init__(self, source: str, left: str, right: str) -> None:
        self._source = source
        self._left, self._right = left, right
        self._at = 0
        self._line = 1
        self._found: list[Piece] = []

    def read(self) -> list[Piece]:
        trims = False
        while True:
            start = self._source.find(self._left, self._at)
            content = self._source[self._at : start if start >= 0 else len(self._source)]
            shown = content.lstrip(_SPACES) if trims else content
            opens_trimmed = start >= 0 and self._is_trim(start + len(self._left))
            if opens_trimmed:
                shown = shown.rstrip(_SPACES)
            if shown:
                self._found.append(Piece(self._line, shown))
            self._move_to(start if start >= 0 else len(self._source))
            if start < 0:
                return self._found
            self._move_to(start + len(self._left) + (2 if opens_trimmed else 0))
            trims = self._comment() if self._source.startswith("/*", self._at) else self._action()

    def _is_trim(self, at: int) -> bool:
        return self._source[at : at + 1] == "-" and self._source[at + 1 : at + 2] in tuple(_SPACES)

    def _move_to(self, at: int) -> None:
        self._line += self._source.count("\n", self._at, at)
        self._at = at

    def _closes(self) -> int:
        """How long the closing delimiter here is, with its trim marker; 0 when there is none."""
        if self._source.startswith(self._right, self._at):
            return len(self._right)
        blank, mark = self._source[self._at : self._at + 1], self._source[self._at + 1 : self._at + 2]
        if blank in tuple(_SPACES) and mark == "-" and self._source.startswith(self._right, self._at + 2):
            return len(self._right) + 2
        return 0

    def _comment(self) -> bool:
        end = self._source.find("*/", self._at)
        if end < 0:
            raise TemplateFailed("a comment is never closed by */", line=self._line)
        self._move_to(end + 2)
        length = self._closes()
        if not length:
            raise TemplateFailed(f"a comment must be followed by {self._right}", line=self._line)
        self._move_to(self._at + length)
        return length > len(self._right)

    def _action(self) -> bool:
        line, start, tokens, glued = self._line, self._at, list[Token](), False
        while True:
            if length := self._closes():
                inner = self._source[start : self._at].strip()
                self._found.append(Piece(line, inner, tokens))
                self._move_to(self._at + length)
                return length > len(self._right)
            if self._at >= len(self._source):
                raise TemplateFailed(f"{self._left} is never closed by {self._right}", line=line)
            if self._source[self._at] in _SPACES:
                self._move_to(self._at + 1)
                glued = False
                continue
            tokens.append(self._token(glued))
            glued = True

    def _token(self, glued: bool) -> Token:
        match = _WORD.match(self._source, self._at)
        if match is None or match.lastgroup is None:
            shown = self._source[self._at : self._at + 20].split("\n", 1)[0]
            if self._source[self._at] in "\"`'":
                raise TemplateFailed(f"a quotation is never closed: {shown}", line=self._line)
            raise TemplateFailed(
                f"cannot read {shown!r} (the action is never closed, or holds a wrong sign)", line=self._line
            )
        if match.lastgroup == "number" and _ENDS_NUMBER.match(self._source, match.end()):
            raise TemplateFailed(f"{match[0]!r} is no number as it goes on", line=self._line)
        token = Token(match.lastgroup, match[0], self._line, glued)
        self._move_to(match.end())
        return token
