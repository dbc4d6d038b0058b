"""Bodies, attributes and blocks of native HCL syntax, with recovery so that one run reports many errors."""

from __future__ import annotations

from nomadpy.jobspec.hcl import lexer
from nomadpy.jobspec.hcl.diagnostics import (
    SHOWN_ERRORS_MAX,
    Diagnostic,
    HclErrors,
    Source,
    SourceRange,
    SyntaxFailure,
)
from nomadpy.jobspec.hcl.expression_parser import ExpressionParser, nested_too_deeply
from nomadpy.jobspec.hcl.syntax import Attribute, Block, Body, Expression

_OPENERS = frozenset({"{", "[", "(", lexer.INTERPOLATION, lexer.DIRECTIVE, lexer.OQUOTE, lexer.OHEREDOC})
_CLOSERS = frozenset({"}", "]", ")", lexer.SEQUENCE_END, lexer.CQUOTE, lexer.CHEREDOC})

_FLAT = frozenset({"[", "("})


def parse(text: str | bytes, filename: str) -> Body:
    """The syntax tree of a native-syntax file.

    Raises HclErrors with every syntax error found, in file order.
    """
    source = lexer.read_source(text, filename)
    tokens, found = lexer.tokenize(source)
    parser = _BodyParser(source, tokens)
    try:
        body = parser.file()
    except RecursionError as deep:
        raise nested_too_deeply(None) from deep
    _raise_if_any([*found, *parser.found])
    return body


def parse_expression(text: str, filename: str, *, first_line: int = 1, first_column: int = 1) -> Expression:
    """A text that is one expression, such as the value of a ``-var`` flag.

    Raises HclErrors.
    """
    given = lexer.read_source(text, filename)
    source = Source(filename, given.text, first_line=first_line, first_column=first_column)
    tokens, found = lexer.tokenize(source)
    parser = ExpressionParser(source, tokens)
    _raise_if_any(found)
    try:
        with parser.newlines_ignored():
            expression = parser.expression()
            if parser.kind != lexer.EOF:
                raise parser.failure("Extra characters after expression", "An expression was expected.")
    except SyntaxFailure as failure:
        raise HclErrors([failure.diagnostic]) from failure
    except RecursionError as deep:
        raise nested_too_deeply(None) from deep
    return expression


def parse_template(source: Source) -> Expression:
    """A text that is a template as a whole, as every JSON string is.

    Raises HclErrors.
    """
    tokens, found = lexer.tokenize(source, template=True)
    _raise_if_any(found)
    try:
        return ExpressionParser(source, tokens).whole_template()
    except SyntaxFailure as failure:
        raise HclErrors([failure.diagnostic]) from failure
    except RecursionError as deep:
        raise nested_too_deeply(None) from deep


def _raise_if_any(found: list[Diagnostic]) -> None:
    if not found:
        return
    in_order = sorted(found, key=lambda each: each.range.start if each.range is not None else 0)
    # A stray character makes both the scanner and the parser complain; the scanner's word comes first.
    shown: list[Diagnostic] = []
    for each in in_order:
        if shown and each.range is not None and shown[-1].range is not None:
            previous = shown[-1].range
            if each.range.start <= max(previous.start, previous.end - 1):
                continue
        shown.append(each)
    if len(shown) > SHOWN_ERRORS_MAX:
        more = f"{len(shown) - SHOWN_ERRORS_MAX} more errors follow."
        shown = [*shown[:SHOWN_ERRORS_MAX], Diagnostic("error", "Too many errors", more)]
    raise HclErrors(shown)


class _BodyParser(ExpressionParser):
    def __init__(self, source: Source, tokens: list[lexer.Token]) -> None:
        super().__init__(source, tokens)
        self.found: list[Diagnostic] = []

    def file(self) -> Body:
        return self.body(self.range_of(0, 0), lexer.EOF)

    def body(self, opening: SourceRange, end: str) -> Body:
        """Items up to the end token, which is left for the caller."""
        attributes: dict[str, Attribute] = {}
        blocks: list[Block] = []
        while True:
            kind = self.kind
            if kind == lexer.NEWLINE:
                self.advance()
            elif kind == end:
                break
            elif kind == lexer.EOF:
                detail = "There is no closing brace for this block before the end of the file."
                raise SyntaxFailure("Unclosed configuration block", detail, opening)
            else:
                self.item_or_recover(attributes, blocks)
        where = SourceRange(self.source, opening.start, self.token.end)
        return Body(attributes=attributes, blocks=tuple(blocks), end_range=self.here(), range=where)

    def item_or_recover(self, attributes: dict[str, Attribute], blocks: list[Block]) -> None:
        depth, before = self.depth, self.at
        try:
            self.item(attributes, blocks)
        except SyntaxFailure as failure:
            self.found.append(failure.diagnostic)
            self.depth = depth
            self.recover(before, to_outer=failure.diagnostic.summary == "Unclosed configuration block")

    def recover(self, before: int, *, to_outer: bool) -> None:
        """Skip to the end of the line on which parsing stopped, and of anything opened on it."""
        self.ignore_newlines = False
        if to_outer:
            self.at = len(self.tokens) - 1
            self.look()
            return
        opened = _left_open(self.tokens[before : self.at])
        if opened and opened[-1] in _FLAT and self.tokens[self.at - 1].kind == lexer.NEWLINE and self.starts_item(0):
            return
        while self.kind != lexer.EOF:
            kind = self.kind
            if kind == "}":
                # A brace also ends every list and call that was never closed inside its block.
                while opened and opened[-1] in _FLAT:
                    opened.pop()
                if not opened:
                    break
                opened.pop()
            elif kind in _OPENERS:
                opened.append(kind)
            elif kind in _CLOSERS and opened:
                opened.pop()
            elif kind == lexer.NEWLINE and (not opened or (opened[-1] in _FLAT and self.starts_item(1))):
                break
            self.advance()
        if self.at == before:
            # A stray closing brace ends nothing, so nothing else would move past it.
            self.advance()

    def starts_item(self, ahead: int) -> bool:
        """Whether the token that far ahead seems to begin an attribute or block, not an element of a list."""
        after = self.tokens[self.at + ahead : self.at + ahead + 2]
        return len(after) == 2 and after[0].kind == lexer.IDENT and after[1].kind in ("=", "{", lexer.OQUOTE)

    def item(self, attributes: dict[str, Attribute], blocks: list[Block]) -> None:
        if self.kind != lexer.IDENT:
            if self.kind == lexer.OQUOTE:
                detail = "Argument names must not be quoted."
                raise self.failure("Invalid argument name", detail)
            raise self.failure("Argument or block definition required", _required_detail(self.kind))
        name_token = self.token
        self.advance()
        if self.kind == "=":
            self.attribute(name_token, attributes)
        elif self.kind in (lexer.OQUOTE, "{", lexer.IDENT):
            self.block(name_token, blocks)
        else:
            name = self.text_of(name_token)
            detail = (
                f"An argument or block definition is required here. To set an argument, use the equals sign "
                f'"=" to introduce the argument value: {name} = …'
            )
            raise self.failure("Argument or block definition required", detail)

    def attribute(self, name_token: lexer.Token, attributes: dict[str, Attribute]) -> None:
        self.advance()
        expression = self.expression()
        self.end_of_item("argument")
        name = self.text_of(name_token)
        name_range = self.range_of(name_token.start, name_token.end)
        whole = self.range_of(name_token.start, expression.range.end)
        previous = attributes.get(name)
        if previous is not None:
            detail = (
                f'The argument "{name}" was already set at {previous.name_range}. Each argument may be set only once.'
            )
            self.found.append(Diagnostic("error", "Attribute redefined", detail, name_range))
            return
        attributes[name] = Attribute(name=name, name_range=name_range, expression=expression, range=whole)

    def end_of_item(self, what: str) -> None:
        if self.kind == lexer.NEWLINE:
            self.advance()
        elif self.kind == ",":
            detail = "Argument definitions must be separated by newlines, not commas."
            raise self.failure("Unexpected comma after argument", detail)
        elif self.kind not in (lexer.EOF, "}"):
            # A closing brace may follow directly: `a { b = 1 }` is a single-line block.
            detail = f"A newline was expected to mark the end of this {what}."
            raise self.failure(f"Missing newline after {what}", detail)

    def block(self, type_token: lexer.Token, blocks: list[Block]) -> None:
        labels: list[str] = []
        label_ranges: list[SourceRange] = []
        while self.kind != "{":
            start = self.token.start
            if self.kind == lexer.IDENT:
                labels.append(self.text_of(self.token))
                self.advance()
            elif self.kind == lexer.OQUOTE:
                labels.append(self.plain_string())
            elif self.kind == "=":
                detail = "The equals sign does not follow a block label; use braces to begin the block's body."
                raise self.failure("Invalid block definition", detail)
            else:
                detail = 'Either a quoted string block label or an opening brace ("{") is expected here.'
                raise self.failure("Invalid block definition", detail)
            label_ranges.append(self.range_of(start, self.previous_end))
        opening = self.here()
        type_range = self.range_of(type_token.start, type_token.end)
        header = self.range_of(type_token.start, self.previous_end)
        self.advance()
        with self.deeper():
            body = self.body(opening, "}")
        self.advance()
        blocks.append(
            Block(
                type=self.text_of(type_token),
                type_range=type_range,
                labels=tuple(labels),
                label_ranges=tuple(label_ranges),
                body=body,
                range=header,
            )
        )
        self.end_of_item("block definition")


def _required_detail(kind: str) -> str:
    if kind == "}":
        return "There is no open block for this closing brace to end."
    return "An argument or block definition is required here."


def _left_open(tokens: list[lexer.Token]) -> list[str]:
    """The opening tokens that have no end among these tokens."""
    opened: list[str] = []
    for token in tokens:
        if token.kind in _OPENERS:
            opened.append(token.kind)
        elif token.kind in _CLOSERS and opened:
            opened.pop()
    return opened
