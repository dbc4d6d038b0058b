"""What a template consists of once it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Literal:
    """A constant."""

    value: Any


@dataclass(frozen=True)
class Field:
    """``.a.b`` of the current value; no names at all is the value itself."""

    path: tuple[str, ...]


@dataclass(frozen=True)
class Variable:
    """``$name.a.b``."""

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A function by its name, and what is asked of its result."""

    name: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """A pipeline in parentheses, and what is asked of its result."""

    pipe: Pipe
    path: tuple[str, ...]


Operand = Literal | Field | Variable | Call | Group
Command = tuple[Operand, ...]


@dataclass(frozen=True)
class Pipe:
    """Commands whose result is handed on; ``names`` are the variables that get the last one."""

    commands: tuple[Command, ...]
    line: int
    names: tuple[str, ...] = ()
    declares: bool = False


@dataclass(frozen=True)
class Text:
    """What is printed as it stands."""

    text: str


@dataclass(frozen=True)
class Action:
    """A pipeline whose value is printed."""

    pipe: Pipe


@dataclass(frozen=True)
class Branch:
    """``if``, ``with`` and ``range``."""

    word: str
    pipe: Pipe
    body: tuple[Node, ...]
    other: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Leave:
    """``break`` or ``continue``."""

    word: str


@dataclass(frozen=True)
class Use:
    """``template "name" value``."""

    name: str
    pipe: Pipe | None
    line: int


Node = Text | Action | Branch | Leave | Use


@dataclass
class Tree:
    """A template that was read, with those it defines."""

    body: tuple[Node, ...] = ()
    named: dict[str, tuple[Node, ...]] = field(default_factory=dict)
