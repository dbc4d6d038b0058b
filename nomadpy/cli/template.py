"""A small evaluator of Go templates, for the ``-t`` flag.

Understood: fields (``.A.B``), variables (``$x := …``, ``$x = …``, ``$``), literals, parentheses, pipelines, trim
markers (``{{-``, ``-}}``), comments, ``if``/``else if``/``else``, ``range`` with ``else``, ``break`` and ``continue``,
``with``, and the functions in ``FUNCTIONS``. Not understood, and refused by name: ``define``, ``template`` and
``block``. A field that an object does not have prints ``<no value>``, as Go prints a missing key of a map.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nomadpy.cli.failures import UsageProblem

_ACTION = re.compile(r"\{\{(-(?=\s))?(.*?)((?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>[-+]?\d+(?:\.\d+)?(?![\w]))"""
    r"""|(?P<word>\$\w*(?:\.\w+)*|(?:\.\w+)+|\.|[A-Za-z_]\w*)|(?P<sign>:=|=|\||\(|\)|,))""",
)
_MISSING = object()


def render(source: str, value: Any) -> str:
    """The text that the template makes of ``value``. Raises UsageProblem when the template is wrong.

    >>> render('{{range .}}{{.ID}} {{len .DCs}}{{"\\\\n"}}{{end}}', [{"ID": "a", "DCs": [1, 2]}])
    'a 2\\n'
    >>> render('{{if eq .Status "running"}}up{{else}}down{{end}}', {"Status": "dead"})
    'down'
    """
    body = _Parser(list(_pieces(source))).parse()
    out: list[str] = []
    _run(body, _Scope(value, [{"$": value}]), out)
    return "".join(out)


@dataclass
class _Scope:
    dot: Any
    variables: list[dict[str, Any]]

    def inner(self, dot: Any) -> _Scope:
        return _Scope(dot, [*self.variables, {}])

    def look_up(self, name: str) -> Any:
        for level in reversed(self.variables):
            if name in level:
                return level[name]
        raise UsageProblem(f"template: the variable {name} is not defined")

    def assign(self, name: str, value: Any) -> None:
        for level in reversed(self.variables):
            if name in level:
                level[name] = value
                return
        raise UsageProblem(f"template: the variable {name} is not defined; := defines it")


@dataclass
class _Node:
    kind: str
    text: str = ""
    names: tuple[str, ...] = ()
    declares: bool = False
    pipe: list[list[Any]] = field(default_factory=list)
    body: list[_Node] = field(default_factory=list)
    other: list[_Node] = field(default_factory=list)


class _Left(Exception):
    """``break`` or ``continue`` on its way to the ``range`` it belongs to."""


def _pieces(source: str) -> Iterator[tuple[str, str]]:
    at, trims = 0, False
    for match in _ACTION.finditer(source):
        text = source[at : match.start()]
        text = text.lstrip() if trims else text
        yield "text", text.rstrip() if match[1] else text
        trims, at = bool(match[3]), match.end()
        inner = match[2].strip()
        if not inner.startswith("/*"):
            yield "action", inner
    rest = source[at:]
    if "{{" in rest:
        raise UsageProblem("template: {{ is never closed by }}")
    yield "text", rest.lstrip() if trims else rest


class _Parser:
    def __init__(self, pieces: list[tuple[str, str]]) -> None:
        self.pieces = pieces
        self.at = 0

    def parse(self) -> list[_Node]:
        body, ended_by = self._block()
        if ended_by:
            raise UsageProblem(f"template: {{{{{ended_by}}}}} belongs to nothing")
        return body

    def _block(self) -> tuple[list[_Node], str]:
        """The nodes up to ``end``, ``else`` or the end of the text, and what ended them."""
        nodes: list[_Node] = []
        while self.at < len(self.pieces):
            kind, content = self.pieces[self.at]
            self.at += 1
            if kind == "text":
                nodes.append(_Node("text", text=content))
                continue
            word = content.split(None, 1)[0] if content else ""
            if word in ("end", "else"):
                return nodes, content
            nodes.append(self._action(word, content))
        return nodes, ""

    def _action(self, word: str, content: str) -> _Node:
        if word in ("define", "template", "block"):
            raise UsageProblem(f"template: {{{{{word}}}}} is not supported here")
        if word in ("break", "continue"):
            return _Node(word)
        if word not in ("if", "range", "with"):
            return _pipeline("print", content)
        node = _pipeline(word, content[len(word) :])
        node.body, ended_by = self._block()
        if ended_by.startswith("else"):
            rest = ended_by[4:].strip()
            if rest:
                node.other = [self._action(rest.split(None, 1)[0], rest)]
                return node
            node.other, ended_by = self._block()
        if ended_by != "end":
            raise UsageProblem(f"template: {{{{{word}}}}} is never closed by {{{{end}}}}")
        return node


def _pipeline(kind: str, content: str) -> _Node:
    tokens = _tokens(content)
    node = _Node(kind)
    signs = [number for number, (what, text) in enumerate(tokens) if what == "sign" and text in (":=", "=")]
    if signs and all(text.startswith("$") or text == "," for _, text in tokens[: signs[0]]):
        node.names = tuple(text for _, text in tokens[: signs[0]] if text != ",")
        node.declares = tokens[signs[0]][1] == ":="
        tokens = tokens[signs[0] + 1 :]
    node.pipe, rest = _commands(tokens, content)
    if rest:
        raise UsageProblem(f"template: unexpected {rest[0][1]!r} in {{{{{content.strip()}}}}}")
    return node


def _tokens(content: str) -> list[tuple[str, str]]:
    tokens, at, text = [], 0, content.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match or match.lastgroup is None:
            raise UsageProblem(f"template: cannot read {text[at:].strip()!r} in {{{{{content.strip()}}}}}")
        tokens.append((match.lastgroup, match[match.lastgroup]))
        at = match.end()
    return tokens


def _commands(tokens: list[tuple[str, str]], content: str) -> tuple[list[list[Any]], list[tuple[str, str]]]:
    """The commands of a pipeline, each a list of operands, and the tokens left at a closing parenthesis."""
    commands: list[list[Any]] = [[]]
    rest = list(tokens)
    while rest:
        what, text = rest.pop(0)
        if text == ")" and what == "sign":
            return commands, [(what, text), *rest]
        if text == "|" and what == "sign":
            commands.append([])
        elif text == "(" and what == "sign":
            inner, rest = _commands(rest, content)
            if not rest:
                raise UsageProblem(f"template: a ( is never closed in {{{{{content.strip()}}}}}")
            rest.pop(0)
            path = ""
            if rest and rest[0][0] == "word" and rest[0][1].startswith(".") and rest[0][1] != ".":
                path = rest.pop(0)[1]
            commands[-1].append(("pipe", inner, path))
        else:
            commands[-1].append((what, text))
    if not all(commands):
        raise UsageProblem(f"template: a value is missing in {{{{{content.strip()}}}}}")
    return commands, []


def _run(nodes: list[_Node], scope: _Scope, out: list[str]) -> None:
    for node in nodes:
        if node.kind == "text":
            out.append(node.text)
        elif node.kind in ("break", "continue"):
            raise _Left(node.kind)
        elif node.kind == "print":
            _print(node, scope, out)
        elif node.kind == "range":
            _range(node, scope, out)
        else:
            _branch(node, scope, out)


def _print(node: _Node, scope: _Scope, out: list[str]) -> None:
    value = _evaluate(node.pipe, scope)
    if not node.names:
        out.append(show(value))
    elif node.declares:
        scope.variables[-1][node.names[0]] = value
    else:
        scope.assign(node.names[0], value)


def _branch(node: _Node, scope: _Scope, out: list[str]) -> None:
    value = _evaluate(node.pipe, scope)
    holds = is_true(value)
    inner = scope.inner(value if node.kind == "with" and holds else scope.dot)
    if node.names:
        inner.variables[-1][node.names[0]] = value
    _run(node.body if holds else node.other, inner, out)


def _range(node: _Node, scope: _Scope, out: list[str]) -> None:
    value = _evaluate(node.pipe, scope)
    pairs = _pairs(value)
    for key, item in pairs:
        inner = scope.inner(item)
        if len(node.names) == 1:
            inner.variables[-1][node.names[0]] = item
        elif node.names:
            inner.variables[-1].update({node.names[0]: key, node.names[1]: item})
        try:
            _run(node.body, inner, out)
        except _Left as left:
            if str(left) == "break":
                break
    if not pairs:
        _run(node.other, scope.inner(scope.dot), out)


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    if value is None or value is _MISSING:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return [(number, number) for number in range(value)]
    raise UsageProblem(f"template: range wants a list or an object, not {_kind(value)}")


def _evaluate(pipe: list[list[Any]], scope: _Scope) -> Any:
    value: Any = _MISSING
    for number, command in enumerate(pipe):
        piped = [] if number == 0 else [value]
        value = _command(command, piped, scope)
    return value


def _command(command: list[Any], piped: list[Any], scope: _Scope) -> Any:
    first = command[0]
    if first[0] == "word" and first[1] not in _CONSTANTS and (first[1][0].isalpha() or first[1][0] == "_"):
        return _call(first[1], command[1:], piped, scope)
    if len(command) > 1 or piped:
        raise UsageProblem(f"template: {first[1]!r} is not a function and takes no arguments")
    return _operand(first, scope)


def _call(name: str, operands: list[Any], piped: list[Any], scope: _Scope) -> Any:
    if name in ("and", "or"):
        return _short_circuit(name, operands, piped, scope)
    function = FUNCTIONS.get(name)
    if function is None:
        raise UsageProblem(f"template: there is no function {name}; there are {', '.join(sorted(FUNCTIONS))}, and, or")
    arguments = [_operand(operand, scope) for operand in operands] + piped
    try:
        return function(*(None if argument is _MISSING else argument for argument in arguments))
    except (TypeError, ValueError, KeyError, IndexError) as problem:
        raise UsageProblem(f"template: {name} cannot be used so: {problem}") from problem


def _short_circuit(name: str, operands: list[Any], piped: list[Any], scope: _Scope) -> Any:
    value: Any = _MISSING
    for operand in operands:
        value = _operand(operand, scope)
        if is_true(value) == (name == "or"):
            return value
    return piped[0] if piped else value


_CONSTANTS = {"true": True, "false": False, "nil": None}


def _operand(operand: Any, scope: _Scope) -> Any:
    if operand[0] == "pipe":
        return _follow(_evaluate(operand[1], scope), operand[2])
    what, text = operand[0], operand[1]
    if what == "string":
        return text[1:-1] if text[0] == "`" else json.loads(text)
    if what == "number":
        return float(text) if "." in text else int(text)
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.startswith("$"):
        name, _, path = text.partition(".")
        return _follow(scope.look_up(name), f".{path}" if path else "")
    if text.startswith("."):
        return _follow(scope.dot, text)
    return _call(text, [], [], scope)


def _follow(value: Any, path: str) -> Any:
    for name in path.split(".")[1:] if path not in ("", ".") else []:
        if value is None or value is _MISSING:
            return _MISSING
        if not isinstance(value, dict):
            raise UsageProblem(f"template: .{name} was asked of {_kind(value)}; use range or index first")
        value = value.get(name, _MISSING)
    return value


def is_true(value: Any) -> bool:
    """Whether Go calls a value true: not zero, not empty, not nil."""
    return value is not _MISSING and bool(value)


def show(value: Any) -> str:
    """A value as Go prints it.

    >>> show([1, "a", None]), show({"b": True, "a": 1.5}), show(3.0)
    ('[1 a <nil>]', 'map[a:1.5 b:true]', '3')
    """
    if value is _MISSING:
        return "<no value>"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    if isinstance(value, list):
        return "[" + " ".join(show(item) for item in value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{show(item)}" for key, item in sorted(value.items())) + "]"
    return str(value)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}.get(type(value), "a number")


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key, _MISSING)
        elif isinstance(value, list | str) and isinstance(key, int) and 0 <= key < len(value):
            value = value[key]
        elif isinstance(value, list | str):
            raise ValueError(f"index {key} is out of range, the length is {len(value)}")
        else:
            raise ValueError(f"cannot index {_kind(value)}")
    return value


def _printf(pattern: str, *values: Any) -> str:
    rest = list(values)

    def one(match: re.Match[str]) -> str:
        flags, verb = match[1], match[2]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb == "v":
            return f"%{flags}s" % show(value)
        if verb == "q":
            return f"%{flags}s" % json.dumps(str(value), ensure_ascii=False)
        if verb == "t":
            return f"%{flags}s" % show(bool(value))
        if verb == "s":
            return f"%{flags}s" % show(value)
        return str(f"%{flags}{verb}" % value)

    return re.sub(r"%([-+ #0]*\d*(?:\.\d+)?)([vsdqtxXfeg%])", one, pattern)


def _equal(first: Any, *others: Any) -> bool:
    if not others:
        raise ValueError("eq wants at least two values")
    return any(first == other and isinstance(first, bool) == isinstance(other, bool) for other in others)


def _slice(value: Any, *bounds: int) -> Any:
    low, high = bounds[0] if bounds else 0, bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= low <= high <= len(value):
        raise ValueError(f"{low}:{high} is out of range, the length is {len(value)}")
    return value[low:high]


def _print_text(*values: Any) -> str:
    out = ""
    for number, value in enumerate(values):
        # Go puts a blank between two operands when neither is a text.
        gap = number and not isinstance(value, str) and not isinstance(values[number - 1], str)
        out += (" " if gap else "") + show(value)
    return out


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": _equal,
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "index": _index,
    "json": lambda value: json.dumps(value, ensure_ascii=False),
    "le": lambda a, b: a <= b,
    "len": lambda value: len(value if value is not None else ()),
    "lt": lambda a, b: a < b,
    "ne": lambda a, b: not _equal(a, b),
    "not": lambda value: not is_true(value),
    "print": _print_text,
    "printf": _printf,
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "slice": _slice,
}
