"""The words and the grammar of filter expressions; what they mean stands in ``bexpr``."""

from __future__ import annotations

import enum
import re
from typing import NoReturn

import msgspec

from nomadpy.model.errors import Invalid

# A filter travels in a URL; these bound the work that one can ask for.
MAX_EXPRESSION_CHARS = 16 * 1024
MAX_DEPTH = 64


class Operator(enum.Enum):
    """What is asked of a field; the negated forms are a flag of ``Match``."""

    EQUAL = "=="
    IN = "in"
    MATCHES = "matches"
    EMPTY = "is empty"
    NIL = "is nil"


class Selector(msgspec.Struct, frozen=True):
    """The way to a value: ``("Meta", "team")``, and how it was written."""

    path: tuple[str, ...]
    text: str


class Match(msgspec.Struct, frozen=True):
    """One question to one field."""

    selector: Selector
    operator: Operator
    negated: bool
    value: str = ""


class Negation(msgspec.Struct, frozen=True):
    part: Expression


class AllOf(msgspec.Struct, frozen=True):
    parts: tuple[Expression, ...]


class AnyOf(msgspec.Struct, frozen=True):
    parts: tuple[Expression, ...]


class ForEach(msgspec.Struct, frozen=True):
    """``any`` (``every`` false) or ``all`` over a collection; an empty name binds nothing."""

    every: bool
    selector: Selector
    names: tuple[str, ...]
    part: Expression


Expression = Match | Negation | AllOf | AnyOf | ForEach


class Token(msgspec.Struct, frozen=True):
    kind: str  # word, number, string, raw, symbol or end
    text: str  # as written, except that a string is unquoted
    at: int


_TOKENS = re.compile(
    r"""
      (?P<number>-?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?))(?![A-Za-z0-9_-])
    | (?P<word>[A-Za-z_][A-Za-z0-9_/-]*)
    | "(?P<string>(?:[^"\\\n]|\\.)*)"
    | `(?P<raw>[^`]*)`
    | (?P<symbol>==|!=|[(){}\[\].,])
    """,
    re.VERBOSE,
)
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.?))", re.DOTALL
)


def parse(expression: str) -> Expression:
    """The tree of an expression.

    Raises:
        Invalid: it is malformed, too long or nested too deeply; the message names the place.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise Invalid(f"filter expression has {len(expression)} characters; the limit is {MAX_EXPRESSION_CHARS}")
    parser = _Parser(_tokens(expression))
    tree = parser.either(0)
    parser.expect_end()
    return tree


def _tokens(text: str) -> list[Token]:
    tokens = []
    at = _end_of_space(text, 0)
    while at < len(text):
        found = _TOKENS.match(text, at)
        if found is None:
            _fail(at, f"cannot read {text[at : at + 12]!r}; a value that is not a plain word needs quotes")
        kind = found.lastgroup or ""
        content = _unquote(found[kind], at + 1) if kind == "string" else found[kind]
        tokens.append(Token(kind=kind, text=content, at=at))
        at = _end_of_space(text, found.end())
    tokens.append(Token(kind="end", text="", at=len(text)))
    return tokens


def _end_of_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _unquote(content: str, at: int) -> str:
    def character(found: re.Match[str]) -> str:
        plain, *codes, octal, other = found.groups()
        if other is not None:
            _fail(at + found.start(), f"unknown escape {found[0]!r} in a string; use a backquoted string for raw text")
        if plain is not None:
            return _ESCAPES[plain]
        code = int(octal, 8) if octal is not None else int(next(c for c in codes if c is not None), 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            _fail(at + found.start(), f"{found[0]!r} is no character")
        return chr(code)

    return _ESCAPE.sub(character, content) if "\\" in content else content


def _fail(at: int, problem: str) -> NoReturn:
    raise Invalid(f"filter expression, character {at + 1}: {problem}")


class _Parser:
    """Recursive descent over the tokens; one method for each rule of the grammar."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._i = 0

    def either(self, depth: int) -> Expression:
        parts = [self._both(depth)]
        while self._skip("or"):
            parts.append(self._both(depth))
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def expect_end(self) -> None:
        self._expect("end", "'and', 'or' or the end of the expression")

    def _both(self, depth: int) -> Expression:
        parts = [self._single(depth)]
        while self._skip("and"):
            parts.append(self._single(depth))
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _single(self, depth: int) -> Expression:
        if depth > MAX_DEPTH:
            _fail(self._next.at, f"nested more than {MAX_DEPTH} deep")
        if self._skip("not"):
            return Negation(self._single(depth + 1))
        if self._skip("("):
            inner = self.either(depth + 1)
            self._expect(")", "')'")
            return inner
        if self._is("any", "all") and self._tokens[self._i + 1].kind in ("word", "string"):
            return self._for_each(depth)
        return self._match()

    def _for_each(self, depth: int) -> ForEach:
        every = self._take().text == "all"
        selector = self._selector()
        self._expect("as", "'as' and the names to use inside the braces")
        names = [self._name()]
        if self._skip(","):
            names.append(self._name())
        self._expect("{", "'{'")
        part = self.either(depth + 1)
        self._expect("}", "'}'")
        return ForEach(every=every, selector=selector, names=tuple(names), part=part)

    def _name(self) -> str:
        token = self._take()
        if token.kind != "word":
            _fail(token.at, f"expected a name, found {_show(token)}")
        return "" if token.text == "_" else token.text

    def _match(self) -> Match:
        start = self._i
        value = self._value()
        negated = self._is("not") and self._tokens[self._i + 1].text == "in" and self._skip("not")
        if self._skip("in"):
            return Match(selector=self._selector(), operator=Operator.IN, negated=negated, value=value)
        self._i = start
        return self._question(self._selector())

    def _question(self, selector: Selector) -> Match:
        token = self._take()
        word = token.text if token.kind in ("word", "symbol") else ""
        if word in ("==", "!="):
            return Match(selector, Operator.EQUAL, word == "!=", self._value())
        if word == "is":
            negated = self._skip("not")
            token = self._take()
            if token.kind != "word" or token.text not in ("empty", "nil"):
                _fail(token.at, f"expected 'empty' or 'nil', found {_show(token)}")
            return Match(selector, Operator.EMPTY if token.text == "empty" else Operator.NIL, negated)
        negated = word == "not"
        if negated:
            token = self._take()
            word = token.text if token.kind == "word" else ""
        if word in ("contains", "matches"):
            operator = Operator.IN if word == "contains" else Operator.MATCHES
            return Match(selector, operator, negated, self._value())
        _fail(
            token.at,
            f"expected an operator (== != in contains matches is) after {selector.text!r}, found {_show(token)}",
        )

    def _value(self) -> str:
        token = self._next
        if token.kind == "word":
            return self._selector().text
        if token.kind not in ("number", "string", "raw"):
            _fail(token.at, f"expected a selector or a value, found {_show(token)}")
        return self._take().text

    def _selector(self) -> Selector:
        token = self._take()
        if token.kind == "string" and token.text.startswith("/"):
            parts = token.text[1:].split("/")
            return Selector(tuple(part.replace("~1", "/").replace("~0", "~") for part in parts), token.text)
        if token.kind != "word":
            _fail(token.at, f"expected a selector such as Meta.team, found {_show(token)}")
        path, text = [token.text], token.text
        while self._is(".", "["):
            bracket = self._take().text == "["
            part = self._take()
            if part.kind not in (("string", "raw") if bracket else ("word", "number")):
                _fail(part.at, f"expected {'a quoted key' if bracket else 'a name'}, found {_show(part)}")
            if bracket:
                self._expect("]", "']'")
            path.append(part.text)
            text += f'["{part.text}"]' if bracket else f".{part.text}"
        return Selector(tuple(path), text)

    # ------------------------------------------------------------------ tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._i]

    def _take(self) -> Token:
        token = self._next
        if token.kind != "end":
            self._i += 1
        return token

    def _is(self, *texts: str) -> bool:
        return self._next.kind in ("word", "symbol") and self._next.text in texts

    def _skip(self, text: str) -> bool:
        if self._is(text):
            self._i += 1
            return True
        return False

    def _expect(self, what: str, shown: str) -> None:
        token = self._next
        if what == "end" and token.kind == "end":
            return
        if not self._skip(what):
            _fail(token.at, f"expected {shown}, found {_show(token)}")


def _show(token: Token) -> str:
    return "the end" if token.kind == "end" else repr(token.text)
