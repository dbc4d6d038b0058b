"""The parts of a string or heredoc template: literals, interpolations and directives.

It works in the order the language defines: first a flat list of pieces with the ``~`` trims applied, then the
removal of indentation for ``<<-``, then the joining of neighbouring literals, then the tree of directives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from nomadpy.jobspec.hcl import lexer
from nomadpy.jobspec.hcl.diagnostics import SourceRange, SyntaxFailure
from nomadpy.jobspec.hcl.escapes import unescape
from nomadpy.jobspec.hcl.syntax import (
    Expression,
    ForDirective,
    IfDirective,
    Interpolation,
    Literal,
    TemplatePart,
)

if TYPE_CHECKING:
    from nomadpy.jobspec.hcl.expression_parser import ExpressionParser

_BLANKS = " \t\n\r\v\f\x85\xa0"


class _Text(msgspec.Struct):
    """A literal piece; its text shrinks while trims are applied."""

    text: str
    range: SourceRange


class _Directive(msgspec.Struct):
    """``if``, ``else``, ``endif``, ``for`` or ``endfor``, before the tree is built."""

    keyword: str
    range: SourceRange
    expression: Expression | None = None
    key_name: str | None = None
    value_name: str = ""


_Piece = _Text | _Directive | Interpolation


class TemplateParser:
    """Reads one template, from its opening token past its end token."""

    def __init__(self, parser: ExpressionParser, end: str, *, flush: bool) -> None:
        self.parser = parser
        self.end = end
        self.flush = flush
        self.at = 0
        self.pieces: list[_Piece] = []

    def parse(self) -> tuple[TemplatePart, ...]:
        parser = self.parser
        if self.end != lexer.EOF:
            opening = parser.here()
            parser.at += 1
            parser.look_raw()
        else:
            opening = parser.range_of(0, 0)
        self.read_pieces(opening)
        parser.advance()
        if self.flush:
            _remove_indentation(self.pieces)
        parts, _ = self.tree(None)
        return parts

    # The flat list.

    def read_pieces(self, opening: SourceRange) -> None:
        parser = self.parser
        trim_next = False
        while parser.kind != self.end:
            kind = parser.kind
            if kind == lexer.QUOTED_LIT or kind == lexer.HEREDOC_LIT:
                text = unescape(parser.source, parser.token)
                self.pieces.append(_Text(text.lstrip() if trim_next else text, parser.here()))
                trim_next = False
                parser.at += 1
                parser.look_raw()
            elif kind == lexer.INTERPOLATION or kind == lexer.DIRECTIVE:
                if parser.text_of(parser.token).endswith("~") and self.pieces:
                    last = self.pieces[-1]
                    if isinstance(last, _Text):
                        last.text = last.text.rstrip()
                trim_next = self.sequence(kind)
            else:
                detail = "No closing marker was found for the string."
                raise SyntaxFailure("Unterminated template string", detail, opening)

    def sequence(self, kind: str) -> bool:
        """Read one ``${…}`` or ``%{…}``; whether it ends in ``~}``."""
        parser = self.parser
        start = parser.token.start
        opening = parser.here()
        with parser.newlines_ignored():
            parser.advance()
            if kind == lexer.INTERPOLATION:
                piece: _Piece = Interpolation(expression=parser.expression(), range=opening)
            else:
                piece = self.directive(opening)
            if parser.kind != lexer.SEQUENCE_END:
                raise self.unclosed(opening)
        trimmed = parser.text_of(parser.token).startswith("~")
        where = parser.range_of(start, parser.token.end)
        if isinstance(piece, Interpolation):
            piece = Interpolation(expression=piece.expression, range=where)
        elif isinstance(piece, _Directive):
            piece.range = where
        self.pieces.append(piece)
        parser.at += 1
        parser.look_raw()
        return trimmed

    def unclosed(self, opening: SourceRange) -> SyntaxFailure:
        parser = self.parser
        if parser.kind in (lexer.EOF, lexer.CQUOTE, lexer.OQUOTE):
            detail = (
                "There is no closing brace for this interpolation sequence. This might be caused by incorrect "
                "nesting inside the given expression."
            )
            return SyntaxFailure("Unclosed template interpolation sequence", detail, opening)
        detail = (
            "Expected a closing brace to end the interpolation expression, but found extra characters. If "
            "this sequence belongs to another language, such as a shell script, escape it by starting with "
            '"$${" instead of just "${".'
        )
        return parser.failure("Extra characters after interpolation expression", detail)

    def directive(self, opening: SourceRange) -> _Directive:
        parser = self.parser
        keyword = parser.text_of(parser.token) if parser.kind == lexer.IDENT else ""
        if keyword not in ("if", "else", "endif", "for", "endfor"):
            detail = (
                'A template directive keyword ("if", "else", "endif", "for", "endfor") is expected at the '
                'beginning of a "%{" sequence. To include a literal "%{", write "%%{".'
            )
            raise parser.failure("Invalid template directive", detail)
        parser.advance()
        if keyword == "if":
            return _Directive(keyword, opening, parser.expression())
        if keyword == "for":
            key_name, value_name, collection = parser.for_header()
            return _Directive(keyword, opening, collection, key_name, value_name)
        return _Directive(keyword, opening)

    # The tree.

    def tree(self, opened: _Directive | None) -> tuple[tuple[TemplatePart, ...], _Directive | None]:
        """Parts up to the directive that ends them, and that directive (None at the end of the template)."""
        parts: list[TemplatePart] = []
        while self.at < len(self.pieces):
            piece = self.pieces[self.at]
            self.at += 1
            if isinstance(piece, _Text):
                _add_text(parts, piece)
            elif isinstance(piece, Interpolation):
                parts.append(piece)
            elif piece.keyword == "if" or piece.keyword == "for":
                with self.parser.deeper():
                    parts.append(self.if_part(piece) if piece.keyword == "if" else self.for_part(piece))
            elif opened is None:
                detail = "The control directives within this template are unbalanced."
                raise SyntaxFailure(f"Unexpected {piece.keyword} directive", detail, piece.range)
            else:
                return tuple(parts), piece
        if opened is not None:
            detail = f"The {opened.keyword} directive is missing its end{opened.keyword} directive."
            raise SyntaxFailure("Unexpected end of template", detail, opened.range)
        return tuple(parts), None

    def if_part(self, opened: _Directive) -> TemplatePart:
        then, ended = self.tree(opened)
        otherwise: tuple[TemplatePart, ...] = ()
        assert ended is not None
        if ended.keyword == "else":
            otherwise, ended = self.tree(opened)
        assert ended is not None
        if ended.keyword != "endif":
            detail = f"Expecting an endif directive for the if started at {opened.range}."
            raise SyntaxFailure(f"Unexpected {ended.keyword} directive", detail, ended.range)
        assert opened.expression is not None
        return IfDirective(condition=opened.expression, then=then, otherwise=otherwise, range=_whole(opened, ended))

    def for_part(self, opened: _Directive) -> TemplatePart:
        parts, ended = self.tree(opened)
        assert ended is not None
        if ended.keyword != "endfor":
            detail = f"Expecting an endfor directive for the for started at {opened.range}."
            raise SyntaxFailure(f"Unexpected {ended.keyword} directive", detail, ended.range)
        assert opened.expression is not None
        return ForDirective(
            key_name=opened.key_name,
            value_name=opened.value_name,
            collection=opened.expression,
            parts=parts,
            range=_whole(opened, ended),
        )


def _whole(opened: _Directive, ended: _Directive) -> SourceRange:
    return SourceRange(opened.range.source, opened.range.start, ended.range.end)


def _add_text(parts: list[TemplatePart], piece: _Text) -> None:
    if not piece.text:
        return
    if parts and isinstance(parts[-1], Literal):
        last = parts[-1]
        where = SourceRange(piece.range.source, last.range.start, piece.range.end)
        parts[-1] = Literal(value=f"{last.value}{piece.text}", range=where)
    else:
        parts.append(Literal(value=piece.text, range=piece.range))


def _remove_indentation(pieces: list[_Piece]) -> None:
    """Take the smallest indentation of any line off every line, counting static text only.

    Lines of blanks alone neither count nor change; a line that begins with a sequence counts as zero.
    """
    smallest: int | None = None
    starts: list[_Text] = []
    at_line_start = True
    for piece in pieces:
        if at_line_start:
            indentation: int | None = 0
            if isinstance(piece, _Text):
                stripped = piece.text.lstrip(_BLANKS)
                if not stripped and piece.text.endswith("\n"):
                    indentation = None
                else:
                    indentation = len(piece.text) - len(stripped)
                    starts.append(piece)
            if indentation is not None and (smallest is None or indentation < smallest):
                smallest = indentation
        at_line_start = isinstance(piece, _Text) and piece.text.endswith("\n")
    for text in starts:
        text.text = text.text[smallest or 0 :]
