"""Expressions of native HCL syntax: precedence climbing over the token list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

from nomadpy.jobspec.hcl import lexer
from nomadpy.jobspec.hcl.diagnostics import HclErrors, Source, SourceRange, SyntaxFailure, error
from nomadpy.jobspec.hcl.escapes import unescape
from nomadpy.jobspec.hcl.lexer import Token
from nomadpy.jobspec.hcl.syntax import (
    Access,
    Binary,
    Call,
    Conditional,
    Expression,
    For,
    GetAttribute,
    GetIndex,
    Literal,
    Name,
    ObjectExpression,
    Parentheses,
    Splat,
    Step,
    Template,
    TemplatePart,
    TupleExpression,
    Unary,
)
from nomadpy.jobspec.hcl.template_parser import TemplateParser
from nomadpy.jobspec.hcl.values import NumberError, parse_number

# Six to ten Python frames a level stay below the interpreter's limit of 1000, whatever calls us.
NESTING_MAX = 64

_PRECEDENCE = {
    "||": 1,
    "&&": 2,
    "==": 3,
    "!=": 3,
    "<": 4,
    ">": 4,
    "<=": 4,
    ">=": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
}
_KEYWORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None}
_LEGACY_INDEX = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")


def nested_too_deeply(where: SourceRange | None) -> HclErrors:
    return error("Nested too deeply", f"At most {NESTING_MAX} levels may be nested.", where)


class ExpressionParser:
    """A cursor over the tokens. Comments are dropped; newlines are skipped while ``ignore_newlines``."""

    def __init__(self, source: Source, tokens: list[Token]) -> None:
        self.source = source
        self.text = source.text
        self.tokens = [token for token in tokens if token.kind != lexer.COMMENT]
        self.at = 0
        self.depth = 0
        self.ignore_newlines = False
        self.previous_end = 0
        self.look()

    # The cursor.

    def look(self) -> None:
        """Load the token under the cursor."""
        if self.ignore_newlines:
            while self.tokens[self.at].kind == lexer.NEWLINE:
                self.at += 1
        self.token = self.tokens[self.at]
        self.kind = self.token.kind

    def look_raw(self) -> None:
        """Load the token under the cursor inside a template, where nothing is skipped."""
        self.token = self.tokens[self.at]
        self.kind = self.token.kind

    def advance(self) -> None:
        self.previous_end = self.token.end
        if self.kind != lexer.EOF:
            self.at += 1
        self.look()

    @contextmanager
    def newlines_ignored(self, ignored: bool = True) -> Iterator[None]:
        """Skip newlines inside brackets. The closing bracket is passed after leaving, in the outer mode."""
        before = self.ignore_newlines
        self.ignore_newlines = ignored
        self.look()
        yield
        self.ignore_newlines = before

    @contextmanager
    def deeper(self) -> Iterator[None]:
        if self.depth >= NESTING_MAX:
            raise nested_too_deeply(self.here())
        self.depth += 1
        yield
        self.depth -= 1

    def text_of(self, token: Token) -> str:
        return self.text[token.start : token.end]

    def range_of(self, start: int, end: int) -> SourceRange:
        return SourceRange(self.source, start, end)

    def here(self) -> SourceRange:
        return SourceRange(self.source, self.token.start, self.token.end)

    def failure(self, summary: str, detail: str) -> SyntaxFailure:
        return SyntaxFailure(summary, detail, self.here())

    def expect(self, kind: str, summary: str, detail: str) -> None:
        if self.kind != kind:
            raise self.failure(summary, detail)
        self.advance()

    def is_word(self, word: str) -> bool:
        return self.kind == lexer.IDENT and self.text_of(self.token) == word

    # Expressions, loosest binding first.

    def expression(self) -> Expression:
        if self.depth >= NESTING_MAX:
            raise nested_too_deeply(self.here())
        self.depth += 1
        condition = self.binary(1)
        if self.kind == "?":
            condition = self.conditional(condition)
        self.depth -= 1
        return condition

    def conditional(self, condition: Expression) -> Expression:
        self.advance()
        then = self.expression()
        detail = "The conditional operator (…?…:…) requires a false expression, delimited by a colon."
        self.expect(":", "Missing false expression in conditional", detail)
        otherwise = self.expression()
        where = self.range_of(condition.range.start, otherwise.range.end)
        return Conditional(condition=condition, then=then, otherwise=otherwise, range=where)

    def binary(self, lowest: int) -> Expression:
        left = self.unary()
        while True:
            operator = self.kind
            strength = _PRECEDENCE.get(operator, 0)
            if strength < lowest:
                return left
            self.advance()
            right = self.binary(strength + 1)
            where = self.range_of(left.range.start, right.range.end)
            left = Binary(operator=operator, left=left, right=right, range=where)

    def unary(self) -> Expression:
        if self.kind != "-" and self.kind != "!":
            return self.postfix()
        operator, start = self.kind, self.token.start
        self.advance()
        with self.deeper():
            operand = self.unary()
        return Unary(operator=operator, operand=operand, range=self.range_of(start, operand.range.end))

    def postfix(self) -> Expression:
        target = self.primary()
        if self.kind != "." and self.kind != "[":
            return target
        steps: list[Step] = []
        while self.kind == "." or self.kind == "[":
            if self.kind == ".":
                self.dot_step(steps)
            else:
                self.bracket_step(steps)
        where = self.range_of(target.range.start, self.previous_end)
        return Access(target=target, steps=tuple(steps), range=where)

    def dot_step(self, steps: list[Step]) -> None:
        start = self.token.start
        self.advance()
        if self.kind == lexer.IDENT:
            name = self.text_of(self.token)
            self.advance()
            steps.append(GetAttribute(name=name, range=self.range_of(start, self.previous_end)))
        elif self.kind == lexer.NUMBER and _LEGACY_INDEX.match(self.text_of(self.token)):
            # `a.0.1` scans as a dot and the number 0.1, which is two legacy indexes.
            at = self.token.start
            for digits in self.text_of(self.token).split("."):
                where = self.range_of(at, at + len(digits))
                key = Literal(value=self.number(digits, where), range=where)
                steps.append(GetIndex(key=key, range=self.range_of(at - 1, at + len(digits))))
                at += len(digits) + 1
            self.advance()
        elif self.kind == "*":
            self.advance()
            inner: list[Step] = []
            # `.*` applies to the attributes after it only; a following index picks from the result.
            while self.kind == "." and self.tokens[self.at + 1].kind in (lexer.IDENT, lexer.NUMBER):
                self.dot_step(inner)
            where = self.range_of(start, self.previous_end)
            steps.append(Splat(steps=tuple(inner), range=where))
        else:
            raise self.failure("Invalid attribute name", "An attribute name is required after a dot.")

    def bracket_step(self, steps: list[Step]) -> None:
        start = self.token.start
        with self.newlines_ignored():
            self.advance()
            full_splat = self.kind == "*" and self.tokens[self.at + 1].kind == "]"
            if full_splat:
                self.advance()
            else:
                key = self.expression()
            if self.kind != "]":
                detail = "The index operator must end with a closing bracket."
                raise self.failure("Missing close bracket on index", detail)
        self.advance()
        if not full_splat:
            steps.append(GetIndex(key=key, range=self.range_of(start, self.previous_end)))
            return
        inner: list[Step] = []
        with self.deeper():
            while self.kind == "." or self.kind == "[":
                if self.kind == ".":
                    self.dot_step(inner)
                else:
                    self.bracket_step(inner)
        steps.append(Splat(steps=tuple(inner), range=self.range_of(start, self.previous_end)))

    def primary(self) -> Expression:
        kind = self.kind
        if kind == lexer.OQUOTE:
            return self.quoted_template()
        if kind == lexer.IDENT:
            return self.word()
        if kind == lexer.NUMBER:
            where = self.here()
            value = self.number(self.text_of(self.token), where)
            self.advance()
            return Literal(value=value, range=where)
        if kind == lexer.OHEREDOC:
            return self.heredoc_template()
        if kind == "[":
            return self.tuple_expression()
        if kind == "{":
            return self.object_expression()
        if kind == "(":
            return self.parentheses()
        found = {lexer.NEWLINE: "end of line", lexer.EOF: "end of file"}.get(kind, self.text_of(self.token))
        shown = found if kind in (lexer.NEWLINE, lexer.EOF) else f'"{found}"'
        raise self.failure("Invalid expression", f"Expected the start of an expression, but found {shown}.")

    def number(self, text: str, where: SourceRange) -> int | Decimal:
        try:
            return parse_number(text)
        except NumberError as wrong:
            raise SyntaxFailure("Invalid number", str(wrong), where) from wrong

    def word(self) -> Expression:
        token, where = self.token, self.here()
        name = self.text_of(token)
        self.advance()
        if self.kind == "(":
            return self.call(name, where)
        if self.kind == "::":
            detail = f'Names with "::" are not supported; there is no namespace named "{name}".'
            raise self.failure("Unsupported function namespace", detail)
        if name in _KEYWORDS:
            return Literal(value=_KEYWORDS[name], range=where)
        return Name(name=name, range=where)

    def call(self, name: str, name_range: SourceRange) -> Expression:
        arguments: list[Expression] = []
        expand_last = False
        with self.newlines_ignored():
            self.advance()
            while self.kind != ")":
                arguments.append(self.expression())
                if self.kind == "...":
                    self.advance()
                    expand_last = True
                    if self.kind == ",":
                        self.advance()
                    if self.kind != ")":
                        detail = "An argument followed by ... must be the last one of the call."
                        raise self.failure("Missing closing parenthesis", detail)
                elif self.kind == ",":
                    self.advance()
                elif self.kind != ")":
                    detail = "A comma is required to separate each function argument from the next."
                    raise self.failure("Missing argument separator", detail)
        self.advance()
        return Call(
            name=name,
            name_range=name_range,
            arguments=tuple(arguments),
            expand_last=expand_last,
            range=self.range_of(name_range.start, self.previous_end),
        )

    def parentheses(self) -> Expression:
        start = self.token.start
        with self.newlines_ignored():
            self.advance()
            inner = self.expression()
            if self.kind != ")":
                detail = "Expected a closing parenthesis to terminate the expression."
                raise self.failure("Unbalanced parentheses", detail)
        self.advance()
        return Parentheses(inner=inner, range=self.range_of(start, self.previous_end))

    def tuple_expression(self) -> Expression:
        start = self.token.start
        items: list[Expression] = []
        with self.newlines_ignored():
            self.advance()
            if self.is_word("for") and self.tokens[self.at + 1].kind == lexer.IDENT:
                loop = self.for_expression(start, "]")
            else:
                loop = None
            while self.kind != "]":
                items.append(self.expression())
                if self.kind == ",":
                    self.advance()
                elif self.kind != "]":
                    detail = "Expected a comma to mark the beginning of the next item."
                    raise self.failure("Missing item separator", detail)
        self.advance()
        if loop is not None:
            return loop
        return TupleExpression(items=tuple(items), range=self.range_of(start, self.previous_end))

    def object_expression(self) -> Expression:
        start = self.token.start
        items: list[tuple[Expression, Expression]] = []
        following = self.at + 1
        while self.tokens[following].kind == lexer.NEWLINE:
            following += 1
        if (
            self.text_of(self.tokens[following]) == "for"
            and self.tokens[following].kind == lexer.IDENT
            and self.tokens[following + 1].kind == lexer.IDENT
        ):
            with self.newlines_ignored():
                self.advance()
                loop = self.for_expression(start, "}")
            self.advance()
            return loop
        with self.newlines_ignored(False):
            self.advance()
            while self.skip_newlines() != "}":
                items.append(self.object_item())
                if self.kind == ",":
                    self.advance()
                elif self.kind not in (lexer.NEWLINE, "}"):
                    detail = "Expected a newline or comma to mark the beginning of the next attribute."
                    raise self.failure("Missing attribute separator", detail)
        self.advance()
        return ObjectExpression(items=tuple(items), range=self.range_of(start, self.previous_end))

    def skip_newlines(self) -> str:
        while self.kind == lexer.NEWLINE:
            self.advance()
        return self.kind

    def object_item(self) -> tuple[Expression, Expression]:
        key = self.expression()
        if isinstance(key, Name):
            key = Literal(value=key.name, range=key.range)
        elif isinstance(key, Literal) and key.range.text in _KEYWORDS:
            key = Literal(value=key.range.text, range=key.range)
        elif isinstance(key, Access) and isinstance(key.target, Name):
            detail = (
                "If this expression is intended to be a reference, wrap it in parentheses. If it is instead "
                "intended as a literal name containing periods, wrap it in quotes."
            )
            raise SyntaxFailure("Ambiguous attribute key", detail, key.range)
        if self.kind != "=" and self.kind != ":":
            detail = 'Expected an equals sign ("=") to mark the beginning of the attribute value.'
            raise self.failure("Missing attribute value", detail)
        self.advance()
        self.skip_newlines()
        return key, self.expression()

    def for_expression(self, start: int, closer: str) -> Expression:
        """From the word ``for`` up to the closing bracket, which the caller passes."""
        self.advance()
        key_name, value_name, collection = self.for_header()
        detail = "For expression requires a colon after the collection expression."
        self.expect(":", "Invalid 'for' expression", detail)
        key: Expression | None = None
        value = self.expression()
        if closer == "}":
            key = value
            detail = "For expression requires a => between the key and the value when producing an object."
            self.expect("=>", "Invalid 'for' expression", detail)
            value = self.expression()
        elif self.kind == "=>":
            detail = "Key expression is not valid when building a tuple."
            raise self.failure("Invalid 'for' expression", detail)
        grouped = self.kind == "..."
        if grouped:
            if key is None:
                detail = "Grouping ellipsis (...) cannot be used when building a tuple."
                raise self.failure("Invalid 'for' expression", detail)
            self.advance()
        condition: Expression | None = None
        if self.is_word("if"):
            self.advance()
            condition = self.expression()
        if self.kind != closer:
            detail = f"Extra characters after the end of the 'for' expression; \"{closer}\" was expected."
            raise self.failure("Invalid 'for' expression", detail)
        return For(
            key_name=key_name,
            value_name=value_name,
            collection=collection,
            key=key,
            value=value,
            condition=condition,
            grouped=grouped,
            range=self.range_of(start, self.token.end),
        )

    def for_header(self) -> tuple[str | None, str, Expression]:
        """``key, value in collection`` of a for expression or directive."""
        names: list[str] = []
        while True:
            if self.kind != lexer.IDENT:
                detail = "A variable name is required after 'for' and after its comma."
                raise self.failure("Invalid 'for' expression", detail)
            names.append(self.text_of(self.token))
            self.advance()
            if self.kind != "," or len(names) == 2:
                break
            self.advance()
        if not self.is_word("in"):
            detail = "For expression requires the 'in' keyword after its variable names."
            raise self.failure("Invalid 'for' expression", detail)
        self.advance()
        collection = self.expression()
        return (names[0] if len(names) == 2 else None), names[-1], collection

    # Templates.

    def plain_string(self) -> str:
        """A quoted string without template sequences, such as a block label."""
        opening = self.here()
        self.advance()
        pieces: list[str] = []
        while self.kind == lexer.QUOTED_LIT:
            pieces.append(unescape(self.source, self.token))
            self.advance()
        if self.kind != lexer.CQUOTE:
            detail = (
                'Template sequences are not allowed in this string. To include a literal "$", double it '
                '(as "$$") to escape it.'
            )
            raise SyntaxFailure("Invalid string literal", detail, opening)
        self.advance()
        return "".join(pieces)

    def quoted_template(self) -> Expression:
        start = self.token.start
        following = self.tokens[self.at + 1]
        if following.kind == lexer.CQUOTE:
            self.at += 1
            self.look()
            self.advance()
            return Literal(value="", range=self.range_of(start, self.previous_end))
        if following.kind == lexer.QUOTED_LIT and self.tokens[self.at + 2].kind == lexer.CQUOTE:
            # Nearly every string is plain, so it skips the template machinery.
            value = unescape(self.source, following)
            self.at += 2
            self.look()
            self.advance()
            return Literal(value=value, range=self.range_of(start, self.previous_end))
        return self.template(lexer.CQUOTE, flush=False)

    def heredoc_template(self) -> Expression:
        return self.template(lexer.CHEREDOC, flush=self.text.startswith("<<-", self.token.start))

    def whole_template(self) -> Expression:
        return self.template(lexer.EOF, flush=False)

    def template(self, end: str, *, flush: bool) -> Expression:
        start = self.token.start
        with self.deeper():
            parts = TemplateParser(self, end, flush=flush).parse()
        where = self.range_of(start, self.previous_end)
        return _template_of(parts, where)


def _template_of(parts: tuple[TemplatePart, ...], where: SourceRange) -> Expression:
    if not parts:
        return Literal(value="", range=where)
    if len(parts) == 1 and isinstance(parts[0], Literal):
        return Literal(value=parts[0].value, range=where)
    return Template(parts=parts, range=where)
