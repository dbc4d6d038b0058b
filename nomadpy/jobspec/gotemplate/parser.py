"""Pieces to a tree: blocks, pipelines, operands. Nesting is bounded, so that no text exhausts the stack."""

from __future__ import annotations

import re

from nomadpy.jobspec.gotemplate.lexer import Piece, Token, pieces
from nomadpy.jobspec.gotemplate.syntax import (
    Action,
    Branch,
    Call,
    Command,
    Field,
    Group,
    Leave,
    Literal,
    Node,
    Operand,
    Pipe,
    Text,
    Tree,
    Use,
    Variable,
)
from nomadpy.jobspec.gotemplate.values import INT_MAX, INT_MIN, TemplateFailed, to_bytes, to_text

_MAX_BLOCKS = 40
_MAX_GROUPS = 40
_CONSTANTS = {"true": True, "false": False, "nil": None}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


def parse(source: str, left: str, right: str) -> Tree:
    """The tree of a template. Raises TemplateFailed with the line of the problem."""
    return _BlockParser(pieces(source, left, right), left, right).parse()


class _BlockParser:
    def __init__(self, found: list[Piece], left: str, right: str) -> None:
        self._pieces = found
        self._at = 0
        self._left, self._right = left, right
        self._depth = 0
        self._n_ranges = 0
        self._tree = Tree()

    def parse(self) -> Tree:
        body, ended_by = self._block()
        if ended_by is not None:
            raise TemplateFailed(f"{self._quoted(ended_by)} belongs to nothing", line=ended_by.line)
        self._tree.body = body
        return self._tree

    def _quoted(self, piece: Piece) -> str:
        return f"{self._left}{piece.text}{self._right}"

    def _block(self) -> tuple[tuple[Node, ...], Piece | None]:
        """The nodes up to ``end``, ``else`` or the end of the text, and what ended them."""
        nodes: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if piece.tokens is None:
                nodes.append(Text(piece.text))
                continue
            word = _word(piece)
            if word in ("end", "else"):
                return tuple(nodes), piece
            node = self._action(word, piece)
            if node is not None:
                nodes.append(node)
        return tuple(nodes), None

    def _action(self, word: str, piece: Piece) -> Node | None:
        tokens = piece.tokens or []
        if word in ("break", "continue"):
            if len(tokens) > 1 or not self._n_ranges:
                raise TemplateFailed(f"{self._quoted(piece)} stands outside of a range", line=piece.line)
            return Leave(word)
        if word in ("if", "with", "range"):
            return self._branch(word, tokens[1:], piece)
        if word in ("define", "block", "template"):
            return self._named(word, tokens[1:], piece)
        return Action(_pipeline(tokens, piece))

    def _branch(self, word: str, tokens: list[Token], piece: Piece) -> Branch:
        pipe = _pipeline(tokens, piece, max_names=2 if word == "range" else 1)
        self._n_ranges += word == "range"
        body, ended_by = self._nested(piece)
        self._n_ranges -= word == "range"
        other: tuple[Node, ...] = ()
        if _word(ended_by) == "else":
            rest = (ended_by.tokens or [])[1:]
            if rest and rest[0].text in ("if", "with"):
                # ``else if`` is an ``if`` of its own that shares the ``end``.
                self._enter(ended_by)
                inner = self._branch(rest[0].text, rest[1:], ended_by)
                self._depth -= 1
                return Branch(word, pipe, body, (inner,))
            if rest:
                raise TemplateFailed(f"unexpected {rest[0].text!r} in {self._quoted(ended_by)}", line=ended_by.line)
            other, ended_by = self._nested(piece)
        self._must_end(ended_by, piece)
        return Branch(word, pipe, body, other)

    def _enter(self, piece: Piece) -> None:
        self._depth += 1
        if self._depth > _MAX_BLOCKS:
            raise TemplateFailed(f"blocks are nested more than {_MAX_BLOCKS} deep", line=piece.line)

    def _nested(self, piece: Piece) -> tuple[tuple[Node, ...], Piece]:
        self._enter(piece)
        body, ended_by = self._block()
        self._depth -= 1
        if ended_by is None:
            end = f"{self._left}end{self._right}"
            raise TemplateFailed(f"{self._quoted(piece)} is never closed by {end}", line=piece.line)
        return body, ended_by

    def _must_end(self, ended_by: Piece, piece: Piece) -> None:
        if _word(ended_by) != "end" or len(ended_by.tokens or []) != 1:
            problem = f"{self._quoted(ended_by)} does not belong to {self._quoted(piece)}"
            raise TemplateFailed(problem, line=ended_by.line)

    def _named(self, word: str, tokens: list[Token], piece: Piece) -> Node | None:
        if not tokens or tokens[0].kind not in ("string", "raw"):
            raise TemplateFailed(f"{self._quoted(piece)} needs the name of a template in quotes", line=piece.line)
        name, rest = _string(tokens[0]), tokens[1:]
        pipe = _pipeline(rest, piece) if rest else None
        if word == "template":
            return Use(name, pipe, piece.line)
        if (word == "define") == (pipe is not None) or (word == "define" and self._depth):
            wants = (
                "define takes a name alone and stands outside of blocks" if word == "define" else "block needs a value"
            )
            raise TemplateFailed(f"{self._quoted(piece)}: {wants}", line=piece.line)
        ranges, self._n_ranges = self._n_ranges, 0
        body, ended_by = self._nested(piece)
        self._n_ranges = ranges
        self._must_end(ended_by, piece)
        if word == "define" or name not in self._tree.named:
            self._tree.named[name] = body
        return Use(name, pipe, piece.line) if word == "block" else None


def _word(piece: Piece) -> str:
    return piece.tokens[0].text if piece.tokens and piece.tokens[0].kind == "name" else ""


def _pipeline(tokens: list[Token], piece: Piece, *, max_names: int = 1) -> Pipe:
    names, declares, rest = _assignment(tokens, piece, max_names)
    return _PipeParser(rest, piece).pipe(names, declares)


def _assignment(tokens: list[Token], piece: Piece, max_names: int) -> tuple[tuple[str, ...], bool, list[Token]]:
    for number, token in enumerate(tokens[:4]):
        if token.text not in (":=", "="):
            continue
        head = tokens[:number]
        expected = ["variable", "sign", "variable"][:number]
        if (
            [part.kind for part in head] != expected
            or (number + 1) // 2 > max_names
            or (number > 1 and head[1].text != ",")
        ):
            raise TemplateFailed(f"{token.text} stands where it cannot in {piece.text!r}", line=token.line)
        return tuple(part.text for part in head if part.kind == "variable"), token.text == ":=", tokens[number + 1 :]
    return (), False, tokens


class _PipeParser:
    def __init__(self, tokens: list[Token], piece: Piece) -> None:
        self._tokens = tokens
        self._piece = piece
        self._at = 0
        self._depth = 0

    def pipe(self, names: tuple[str, ...] = (), declares: bool = False) -> Pipe:
        pipe = self._commands(names, declares)
        if self._at < len(self._tokens):
            raise TemplateFailed(
                f"unexpected {self._tokens[self._at].text!r} in {self._piece.text!r}", line=self._line()
            )
        return pipe

    def _line(self) -> int:
        return self._tokens[self._at].line if self._at < len(self._tokens) else self._piece.line

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _commands(self, names: tuple[str, ...] = (), declares: bool = False) -> Pipe:
        line, commands = self._line(), [self._command()]
        while (token := self._peek()) is not None and token.text == "|" and token.kind == "sign":
            self._at += 1
            commands.append(self._command())
        return Pipe(tuple(commands), line, names, declares)

    def _command(self) -> Command:
        operands: list[Operand] = []
        while (token := self._peek()) is not None and (token.kind != "sign" or token.text == "("):
            operands.append(self._operand(token))
        if not operands:
            raise TemplateFailed(f"a value is missing in {self._piece.text!r}", line=self._line())
        return tuple(operands)

    def _operand(self, token: Token) -> Operand:
        self._at += 1
        match token.kind:
            case "sign":
                return Group(self._group(token), self._path())
            case "field":
                self._at -= 1
                return Field(self._path(first=True))
            case "dot":
                return Field(())
            case "variable":
                return Variable(token.text, self._path())
            case "name" if token.text in _CONSTANTS:
                return Literal(_CONSTANTS[token.text])
            case "name":
                return Call(token.text, self._path())
            case _:
                return Literal(_literal(token))

    def _group(self, opening: Token) -> Pipe:
        self._depth += 1
        if self._depth > _MAX_GROUPS:
            raise TemplateFailed(f"parentheses are nested more than {_MAX_GROUPS} deep", line=opening.line)
        pipe = self._commands()
        self._depth -= 1
        token = self._peek()
        if token is None or token.text != ")" or token.kind != "sign":
            raise TemplateFailed(f"a ( is never closed in {self._piece.text!r}", line=opening.line)
        self._at += 1
        return pipe

    def _path(self, *, first: bool = False) -> tuple[str, ...]:
        names: list[str] = []
        while (token := self._peek()) is not None and token.kind == "field" and (token.glued or first):
            names.append(token.text[1:])
            self._at += 1
            first = False
        return tuple(names)


def _literal(token: Token) -> str | int | float:
    if token.kind in ("string", "raw"):
        return _string(token)
    if token.kind == "char":
        shown = _unescape(token.text[1:-1], token)
        if len(shown) != 1:
            raise TemplateFailed(f"{token.text} is not one character", line=token.line)
        return ord(shown)
    digits = token.text.replace("_", "")
    try:
        has_base = digits.lstrip("+-")[:2].lower() in ("0x", "0b", "0o")
        is_float = not has_base and any(sign in digits for sign in ".eE")
        value: int | float = float(digits) if is_float else int(digits, 0 if has_base else 10)
    except ValueError as error:
        raise TemplateFailed(f"{token.text!r} is not a number", line=token.line) from error
    if isinstance(value, int) and not INT_MIN <= value <= INT_MAX:
        raise TemplateFailed(f"{token.text} needs more than 64 bits", line=token.line)
    return value


def _string(token: Token) -> str:
    inner = token.text[1:-1]
    return inner if token.kind == "raw" else _unescape(inner, token)


def _unescape(inner: str, token: Token) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code in _SHORT:
            return _SHORT[code]
        if code[0] == "x" and len(code) == 3:
            return to_text(bytes([int(code[1:], 16)]))
        if len(code) > 1 and code[0] in "uU" and int(code[1:], 16) <= 0x10FFFF:
            return chr(int(code[1:], 16))
        if len(code) == 3 and int(code, 8) < 256:
            return to_text(bytes([int(code, 8)]))
        raise TemplateFailed(f"unknown escape \\{code} in {token.text}", line=token.line)

    # Bytes that were written one by one may form characters together.
    return to_text(to_bytes(_ESCAPE.sub(one, inner)))
