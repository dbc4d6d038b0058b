"""Carries a template out over a value. What it may cost is counted, so that every template ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from nomadpy.jobspec.gotemplate.builtins import BUILTINS
from nomadpy.jobspec.gotemplate.parser import parse
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
from nomadpy.jobspec.gotemplate.values import (
    MAX_TEXT,
    MISSING,
    TemplateFailed,
    is_true,
    kind,
    refuse_length,
    show,
    sorted_items,
    weight,
)
from nomadpy.model.errors import NomadError

Functions = Mapping[str, Callable[..., Any]]

_MAX_STEPS = 1_000_000
_CHARS_PER_STEP = 256
_MAX_NESTED = 60


class Template:
    """A template that was read. ``render`` may be called often and from any thread."""

    def __init__(self, source: str, *, left: str = "{{", right: str = "}}", name: str = "template") -> None:
        """Raises TemplateFailed with the line of the first problem. Empty delimiters mean Go's own."""
        self._name = name
        try:
            refuse_length(len(source))
            self._tree = parse(source, left or "{{", right or "}}")
        except TemplateFailed as problem:
            raise problem.placed(0, name) from None

    def render(self, value: Any, functions: Functions | None = None, *, missing_is_error: bool = False) -> str:
        """The text for ``value`` (None, texts, numbers, truth values, lists and objects of these).

        ``functions`` are known besides Go's own. With ``missing_is_error`` a key that an object does not have is a
        failure, else it prints ``<no value>``.

        Raises:
            TemplateFailed: whatever a function complains about, with the line; MissingFile passes through.
        """
        run = _Run(self._tree, {**BUILTINS, **(functions or {})}, missing_is_error=missing_is_error)
        try:
            return run.whole(value)
        except TemplateFailed as problem:
            problem.placed(run.line, self._name)
            raise
        except RecursionError as problem:
            raise TemplateFailed("values are nested too deeply", line=run.line, name=self._name) from problem


class _Left(Exception):
    """``break`` or ``continue`` on its way to the ``range`` it belongs to."""


class _Scope:
    """The current value and the variables in sight."""

    __slots__ = ("_outer", "_own", "dot")

    def __init__(self, dot: Any, outer: _Scope | None = None) -> None:
        self.dot = dot
        self._own: dict[str, Any] = {}
        self._outer = outer

    def inner(self, dot: Any) -> _Scope:
        return _Scope(dot, self)

    def declare(self, name: str, value: Any) -> None:
        self._own[name] = value

    def _holder(self, name: str) -> dict[str, Any] | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope._own:
                return scope._own
            scope = scope._outer
        return None

    def look_up(self, name: str) -> Any:
        holder = self._holder(name)
        if holder is None:
            raise TemplateFailed(f"the variable {name} is not defined")
        return holder[name]

    def assign(self, name: str, value: Any) -> None:
        holder = self._holder(name)
        if holder is None:
            raise TemplateFailed(f"the variable {name} is not defined; := defines it")
        holder[name] = value


class _Run:
    def __init__(self, tree: Tree, functions: Functions, *, missing_is_error: bool) -> None:
        self.line = 0
        self._tree = tree
        self._functions = functions
        self._missing_is_error = missing_is_error
        self._steps = 0
        self._depth = 0
        self._out: list[str] = []
        self._n_out = 0

    def whole(self, value: Any) -> str:
        self._start(self._tree.body, value)
        return "".join(self._out)

    def _start(self, body: tuple[Node, ...], value: Any) -> None:
        scope = _Scope(value)
        scope.declare("$", value)
        self._nodes(body, scope)

    def _spend(self, n_chars: int = 0) -> None:
        self._steps += 1 + n_chars // _CHARS_PER_STEP
        if self._steps > _MAX_STEPS:
            raise TemplateFailed(f"the template takes more than {_MAX_STEPS} steps")

    def _print(self, text: str) -> None:
        self._n_out += len(text)
        if self._n_out > MAX_TEXT:
            raise TemplateFailed(f"the result is larger than {MAX_TEXT >> 20} MiB")
        self._out.append(text)

    # -- nodes -------------------------------------------------------------------------------------------------------

    def _nodes(self, nodes: tuple[Node, ...], scope: _Scope) -> None:
        self._depth += 1
        if self._depth > _MAX_NESTED:
            raise TemplateFailed(f"blocks and templates are nested more than {_MAX_NESTED} deep")
        for node in nodes:
            self._spend()
            match node:
                case Text():
                    self._print(node.text)
                case Action():
                    self._action(node.pipe, scope)
                case Branch(word="range"):
                    self._range(node, scope)
                case Branch():
                    self._branch(node, scope)
                case Use():
                    self._use(node, scope)
                case Leave():
                    self._depth -= 1
                    raise _Left(node.word)
        self._depth -= 1

    def _action(self, pipe: Pipe, scope: _Scope) -> None:
        value = self._pipe(pipe, scope)
        if not pipe.names:
            self._print(show(value))
        elif pipe.declares:
            scope.declare(pipe.names[0], value)
        else:
            scope.assign(pipe.names[0], value)

    def _branch(self, node: Branch, scope: _Scope) -> None:
        value = self._pipe(node.pipe, scope)
        holds = is_true(value)
        inner = scope.inner(value if node.word == "with" and holds else scope.dot)
        self._bind(node.pipe, inner, [value])
        self._nodes(node.body if holds else node.other, inner)

    def _bind(self, pipe: Pipe, scope: _Scope, values: list[Any]) -> None:
        for name, value in zip(pipe.names, values, strict=False):
            if pipe.declares:
                scope.declare(name, value)
            else:
                scope.assign(name, value)

    def _range(self, node: Branch, scope: _Scope) -> None:
        empty = True
        for key, item in _pairs(self._pipe(node.pipe, scope)):
            empty = False
            self._spend()
            inner = scope.inner(item)
            self._bind(node.pipe, inner, [key, item] if len(node.pipe.names) == 2 else [item])
            depth = self._depth
            try:
                self._nodes(node.body, inner)
            except _Left as left:
                self._depth = depth
                if str(left) == "break":
                    break
        if empty:
            self._nodes(node.other, scope.inner(scope.dot))

    def _use(self, node: Use, scope: _Scope) -> None:
        self.line = node.line
        body = self._tree.named.get(node.name)
        if body is None:
            raise TemplateFailed(f'there is no template "{node.name}"; define makes one')
        self._start(body, None if node.pipe is None else self._pipe(node.pipe, scope))

    # -- values ------------------------------------------------------------------------------------------------------

    def _pipe(self, pipe: Pipe, scope: _Scope) -> Any:
        self.line = pipe.line
        value: Any = MISSING
        for number, command in enumerate(pipe.commands):
            value = self._command(command, [] if number == 0 else [value], scope)
        return value

    def _command(self, command: Command, piped: list[Any], scope: _Scope) -> Any:
        self._spend()
        first, rest = command[0], command[1:]
        if isinstance(first, Call) and not first.path:
            return self._call(first.name, rest, piped, scope)
        arguments = [self._operand(operand, scope) for operand in rest] + piped
        value = self._operand(first, scope, called=bool(arguments))
        if callable(value):
            return self._apply(".".join(getattr(first, "path", ())), value, arguments)
        if arguments:
            raise TemplateFailed(f"{_name(first)} is not a function and takes no arguments")
        return value

    def _call(self, name: str, operands: tuple[Operand, ...], piped: list[Any], scope: _Scope) -> Any:
        if name in ("and", "or"):
            return self._short_circuit(name, operands, piped, scope)
        function = self._functions.get(name)
        if function is None:
            near = get_close_matches(name, (*self._functions, "and", "or"), n=1)
            raise TemplateFailed(f"there is no function {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return self._apply(name, function, [self._operand(operand, scope) for operand in operands] + piped)

    def _apply(self, name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
        self._spend(sum(weight(argument) for argument in arguments))
        try:
            result = function(*(None if argument is MISSING else argument for argument in arguments))
        except TemplateFailed:
            raise
        except NomadError as problem:
            raise TemplateFailed(f"{name} cannot be used so: {problem.message}") from problem
        except (TypeError, ValueError, KeyError, IndexError, ArithmeticError, AttributeError) as problem:
            raise TemplateFailed(f"{name} cannot be used so: {problem}") from problem
        if isinstance(result, str):
            refuse_length(len(result))
            self._spend(len(result))
        return result

    def _short_circuit(self, name: str, operands: tuple[Operand, ...], piped: list[Any], scope: _Scope) -> Any:
        if not operands and not piped:
            raise TemplateFailed(f"{name} needs a value")
        value: Any = MISSING
        for operand in operands:
            value = self._operand(operand, scope)
            if is_true(value) == (name == "or"):
                return value
        return piped[0] if piped else value

    def _operand(self, operand: Operand, scope: _Scope, *, called: bool = False) -> Any:
        match operand:
            case Literal():
                return operand.value
            case Field():
                return self._follow(scope.dot, operand.path)
            case Variable():
                return self._follow(scope.look_up(operand.name), operand.path)
            case Group():
                return self._follow(self._pipe(operand.pipe, scope), operand.path)
            case Call():
                value = self._follow(self._call(operand.name, (), [], scope), operand.path)
                return value if called or not callable(value) else self._apply(operand.name, value, [])

    def _follow(self, value: Any, path: tuple[str, ...]) -> Any:
        for name in path:
            if value is None or value is MISSING:
                if self._missing_is_error:
                    raise TemplateFailed(f".{name} was asked of nothing")
                return MISSING
            if not isinstance(value, dict):
                raise TemplateFailed(f".{name} was asked of {kind(value)}; use range or index first")
            if name not in value and self._missing_is_error:
                known = ", ".join(str(key) for key in list(value)[:20]) or "no keys at all"
                raise TemplateFailed(f'there is no key "{name}"; there are {known}')
            value = value.get(name, MISSING)
        return value


def _name(operand: Operand) -> str:
    match operand:
        case Literal():
            return repr(operand.value)
        case Field():
            return repr("." + ".".join(operand.path))
        case Variable() | Call():
            return repr(".".join((operand.name, *operand.path)))
        case Group():
            return "what stands in parentheses"


def _pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    if value is None or value is MISSING:
        return iter(())
    if isinstance(value, dict):
        return iter(sorted_items(value))
    if isinstance(value, list):
        return enumerate(list(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return ((number, number) for number in range(value))
    if isinstance(value, range):
        return enumerate(value)
    raise TemplateFailed(f"range wants a list or an object, not {kind(value)}")
