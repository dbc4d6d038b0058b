"""The tokens of an HCL file, in order and without gaps other than blanks.

The scanner is a stack of modes, never recursive: normal text, a quoted template, a heredoc template. ``${``
and ``%{`` push normal mode, the matching ``}`` pops it. A token is a (kind, start, end) triple of character
offsets; punctuation's kind is its own text. Heredoc literals are cut at line ends, because the rules for
indented heredocs and ``~`` speak of lines.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nomadpy.jobspec.hcl.diagnostics import Diagnostic, Source, SourceRange, error

SOURCE_BYTES_MAX = 16 * 1024 * 1024
TOKENS_MAX = 500_000

IDENT, NUMBER, NEWLINE, COMMENT, EOF = "ident", "number", "newline", "comment", "eof"
OQUOTE, CQUOTE, OHEREDOC, CHEREDOC = "oquote", "cquote", "oheredoc", "cheredoc"
QUOTED_LIT, HEREDOC_LIT = "quoted", "string"
INTERPOLATION, DIRECTIVE, SEQUENCE_END = "${", "%{", "sequence_end"
BAD, UNCLOSED = "bad", "unclosed"


class Token(NamedTuple):
    kind: str
    start: int
    end: int


_NORMAL = re.compile(
    r"""[ \t]*(?:
      (?P<ident>[^\W\d][\w-]*)
    | (?P<newline>\r?\n)
    | (?P<number>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
    | (?P<comment>\#[^\n]*|//[^\n]*|/\*(?s:.*?)\*/)
    | (?P<unclosed>/\*.*)
    | (?P<oheredoc><<-?[^\W\d][\w-]*[ \t]*\r?\n)
    | (?P<punctuation>\.\.\.|==|!=|<=|>=|&&|\|\||=>|::|[{}()\[\]=,.:?+\-*/%!<>~])
    | (?P<oquote>")
    | (?P<eof>\Z)
    | (?P<bad>.)
    )""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED = re.compile(r'(?:[^"\\$%\r\n]++|\\[^\r\n]|\$\$\{|%%\{|\$(?!\{)|%(?!\{)|\r(?!\n))++')
_HEREDOC_LINE = re.compile(r"(?:[^$%\n]++|\$\$\{|%%\{|\$(?!\{)|%(?!\{))*+\n?")


class _Scanner:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.at = 0
        self.tokens: list[Token] = []
        self.found: list[Diagnostic] = []
        # Each mode is the open-brace count of a normal stretch, or a template's opening token.
        self.modes: list[int | Token] = [0]

    def complain(self, summary: str, detail: str, start: int, end: int) -> None:
        where = SourceRange(self.source, start, end)
        self.found.append(Diagnostic("error", summary, detail, where))

    def run(self) -> None:
        while self.step():
            if len(self.tokens) > TOKENS_MAX:
                where = SourceRange(self.source, self.at, self.at)
                raise error("File too large", f"The file has more than {TOKENS_MAX} tokens.", where)

    def step(self) -> bool:
        """Scan until the mode changes; False at the end of the file."""
        mode = self.modes[-1]
        if isinstance(mode, int):
            return not self.normal(mode)
        if mode.kind == OQUOTE:
            self.quoted(mode)
        elif mode.kind == OHEREDOC:
            self.heredoc(mode)
        else:
            return self.bare_template()
        return True

    def normal(self, depth: int) -> bool:
        """Scan until the mode changes; True at the end of the file."""
        match, text, tokens, at = _NORMAL.match, self.text, self.tokens, self.at
        while True:
            found = match(text, at)
            assert found is not None
            kind = found.lastgroup
            assert kind is not None
            start, at = found.span(kind)
            if kind == "punctuation":
                kind = text[start:at]
                if kind == "{":
                    depth += 1
                elif kind == "}" or kind == "~":
                    if self.close(kind, depth, start):
                        return False
                    depth -= kind == "}" and depth > 0
            tokens.append(Token(kind, start, at))
            if kind in (OQUOTE, OHEREDOC):
                self.modes[-1] = depth
                self.modes.append(tokens[-1])
                self.at = at
                return False
            if kind == EOF:
                self.at = at
                return True
            if kind == BAD:
                self.bad(start)
            elif kind == UNCLOSED:
                detail = "There is no */ to end this comment."
                self.complain("Unterminated comment", detail, start, start + 2)
            if len(tokens) > TOKENS_MAX:
                self.at = at
                return False

    def close(self, kind: str, depth: int, start: int) -> bool:
        """Whether this ``}`` or ``~}`` ends a template sequence; if so, its token is added."""
        if depth > 0 or len(self.modes) == 1:
            return False
        end = start + 1
        if kind == "~":
            if not self.text.startswith("}", end):
                return False
            end += 1
        self.tokens.append(Token(SEQUENCE_END, start, end))
        self.modes.pop()
        self.at = end
        return True

    def bad(self, start: int) -> None:
        character = self.text[start]
        if character == "'":
            detail = 'Single quotes are not valid. Use double quotes (") to enclose strings.'
        elif character == ";":
            detail = 'The ";" character is not valid. Use newlines to separate arguments and blocks.'
        elif character in "&|^":
            detail = "Bitwise operators are not supported. Did you mean a boolean operator (&& or ||)?"
        else:
            detail = f"The character {character!r} is not used within the language."
        self.complain("Invalid character", detail, start, start + 1)

    def sequence(self) -> bool:
        """Scan ``${`` or ``%{``, with its ``~``, and enter normal mode."""
        text, start = self.text, self.at
        kind = text[start : start + 2]
        if kind != INTERPOLATION and kind != DIRECTIVE:
            return False
        self.at = start + (3 if text.startswith("~", start + 2) else 2)
        self.tokens.append(Token(kind, start, self.at))
        self.modes.append(0)
        return True

    def quoted(self, opened: Token) -> None:
        literal = _QUOTED.match(self.text, self.at)
        if literal is not None:
            self.tokens.append(Token(QUOTED_LIT, literal.start(), literal.end()))
            self.at = literal.end()
        if self.sequence():
            return
        self.modes.pop()
        if self.text.startswith('"', self.at):
            self.tokens.append(Token(CQUOTE, self.at, self.at + 1))
            self.at += 1
            return
        # The string stops without a quote: it is ended here so that the following lines still make sense.
        if self.at >= len(self.text):
            self.complain("Unterminated string", "There is no closing quote for this string.", opened.start, self.at)
        else:
            self.complain(
                "Invalid multi-line string",
                "Quoted strings may not be split over multiple lines. To produce a multi-line string, use the "
                '\\n escape or the heredoc syntax ("<<EOT").',
                opened.start,
                self.at,
            )
            self.at += self.text.startswith("\\", self.at)
        self.tokens.append(Token(CQUOTE, self.at, self.at))

    def bare_template(self) -> bool:
        """Scan a text that is a template as a whole; False at its end."""
        line = _HEREDOC_LINE.match(self.text, self.at)
        assert line is not None
        if line.end() > self.at:
            self.tokens.append(Token(HEREDOC_LIT, self.at, line.end()))
            self.at = line.end()
        elif not self.sequence():
            self.tokens.append(Token(EOF, self.at, self.at))
            return False
        return True

    def heredoc(self, opened: Token) -> None:
        text = self.text
        marker = text[opened.start : opened.end].lstrip("<-").strip()
        ends = re.compile(rf"[ \t]*{re.escape(marker)}(?=\r?(?:\n|\Z))")
        match = _HEREDOC_LINE.match
        while True:
            if text[self.at - 1] == "\n":
                end = ends.match(text, self.at)
                if end is not None:
                    self.modes.pop()
                    self.tokens.append(Token(CHEREDOC, self.at, end.end()))
                    self.at = end.end()
                    return
            line = match(text, self.at)
            assert line is not None
            if line.end() > self.at:
                self.tokens.append(Token(HEREDOC_LIT, self.at, line.end()))
                self.at = line.end()
            if self.sequence() or len(self.tokens) > TOKENS_MAX:
                return
            if self.at >= len(text):
                break
        self.modes.pop()
        self.complain(
            "Unterminated template string",
            f'No closing marker "{marker}" was found for the string.',
            opened.start,
            opened.end,
        )
        self.tokens.append(Token(CHEREDOC, self.at, self.at))


def read_source(text: str | bytes, filename: str) -> Source:
    """The decoded text of a file, without a byte order mark.

    Raises HclErrors for text that is not UTF-8 or larger than SOURCE_BYTES_MAX.
    """
    if len(text) > SOURCE_BYTES_MAX:
        limit = SOURCE_BYTES_MAX // (1024 * 1024)
        raise error("File too large", f"The file has more than {limit} MiB.", None)
    if isinstance(text, bytes):
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError as wrong:
            valid = Source(filename, text[: wrong.start].decode("utf-8") + "\ufffd")
            where = SourceRange(valid, len(valid.text) - 1, len(valid.text))
            raise error("Invalid character encoding", "The file must be encoded as UTF-8.", where) from wrong
    else:
        decoded = text
    return Source(filename, decoded.removeprefix("\ufeff"))


def tokenize(source: Source, *, template: bool = False) -> tuple[list[Token], list[Diagnostic]]:
    """Every token including comments and newlines, the last one EOF, and what could not be read.

    With ``template`` the whole text is one template, as a JSON string's content is; its literals are
    heredoc literals.
    """
    scanner = _Scanner(source)
    if template:
        scanner.modes = [Token("template", 0, 0)]
    scanner.run()
    return scanner.tokens, scanner.found
