"""The vocabulary of the schema tables: one row per attribute or nested block of a job file.

A row says how the job file spells a thing, which kind of value it takes, and under which key the API's JSON carries it.
The key follows from the name by the same rule as in the model (``max_parallel`` is ``MaxParallel``), so a row names it
only where the rule does not hold. Decoding, the YAML form and the editors' JSON Schema all read these rows, and so
cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from nomadpy.model.naming import json_name

Raw = dict[str, Any]

STRING, INTEGER, BOOLEAN, DURATION = "string", "integer", "boolean", "duration"
STRINGS, INTEGERS = "strings", "integers"
STRING_MAP, STRINGS_MAP, FREE_MAP = "string map", "strings map", "free map"
MAPS = frozenset((STRING_MAP, STRINGS_MAP, FREE_MAP))


class Attribute(NamedTuple):
    """One argument. ``choices`` and ``help`` are for editors; the rules of the model judge the value."""

    name: str
    key: str
    kind: str
    help: str = ""
    required: bool = False
    choices: tuple[str, ...] = ()


class Child(NamedTuple):
    """A nested block: under ``key`` stands one object, a list if ``many``, or an object by label if ``keyed``.

    ``label_key`` is where the label goes, None for blocks without one.
    """

    name: str
    key: str
    block: Block
    many: bool = False
    keyed: bool = False
    label_key: str | None = None

    @property
    def n_labels(self) -> int:
        return 0 if self.label_key is None else 1


class Report(Protocol):
    """Takes a problem of the block at hand; ``name`` is the argument that it concerns."""

    def __call__(self, summary: str, detail: str, name: str = "") -> None: ...


Finish = Callable[[Raw, Report], None]


class Block:
    """What a body may hold. ``record`` names the model's record that the body becomes, "" where there is none.

    ``finish`` puts a decoded body into the form that the API expects, where the two differ.
    """

    def __init__(self, record: str, help: str, *rows: Attribute | Child, finish: Finish | None = None) -> None:
        self.record = record
        self.help = help
        self.finish = finish
        self.attributes: Mapping[str, Attribute] = {row.name: row for row in rows if isinstance(row, Attribute)}
        self.children: Mapping[str, Child] = {row.name: row for row in rows if isinstance(row, Child)}
        self.required = tuple(row for row in self.attributes.values() if row.required)
        self.maps = frozenset(row.name for row in self.attributes.values() if row.kind in MAPS)
        self.names = frozenset(self.attributes) | frozenset(self.children)
        assert len(self.names) == len(rows), f"two rows of {record} share a name"


def string(name: str, help: str = "", *, key: str = "", required: bool = False, choices: str = "") -> Attribute:
    """A text; ``choices`` are the values that mean something, separated by spaces."""
    return Attribute(name, key or json_name(name), STRING, help, required, tuple(choices.split()))


def integer(name: str, help: str = "", *, key: str = "") -> Attribute:
    """A whole number of at most 64 bits."""
    return Attribute(name, key or json_name(name), INTEGER, help)


def boolean(name: str, help: str = "", *, key: str = "") -> Attribute:
    """true or false."""
    return Attribute(name, key or json_name(name), BOOLEAN, help)


def duration(name: str, help: str = "", *, key: str = "") -> Attribute:
    """A duration such as "1h30m", or a bare number of nanoseconds."""
    return Attribute(name, key or json_name(name), DURATION, help)


def strings(name: str, help: str = "", *, key: str = "") -> Attribute:
    """A list of texts."""
    return Attribute(name, key or json_name(name), STRINGS, help)


def integers(name: str, help: str = "", *, key: str = "") -> Attribute:
    """A list of whole numbers."""
    return Attribute(name, key or json_name(name), INTEGERS, help)


def string_map(name: str, help: str = "", *, key: str = "") -> Attribute:
    """Texts by free names, written as a block or as an argument."""
    return Attribute(name, key or json_name(name), STRING_MAP, help)


def strings_map(name: str, help: str = "", *, key: str = "") -> Attribute:
    """Lists of texts by free names, written as a block or as an argument."""
    return Attribute(name, key or json_name(name), STRINGS_MAP, help)


def free_map(name: str, help: str = "", *, key: str = "") -> Attribute:
    """Values of any shape by free names, written as a block, with blocks of any type inside, or as an argument."""
    return Attribute(name, key or json_name(name), FREE_MAP, help)


def one(name: str, block: Block, *, key: str = "") -> Child:
    """A block that may be given once."""
    return Child(name, key or json_name(name), block)


def many(name: str, block: Block, *, key: str) -> Child:
    """A block that may be repeated."""
    return Child(name, key, block, many=True)


def labelled(name: str, block: Block, *, key: str, label_key: str = "Name") -> Child:
    """A block with one label, repeated once for each label."""
    return Child(name, key, block, many=True, label_key=label_key)


def keyed(name: str, block: Block, *, key: str, label_key: str = "Name") -> Child:
    """A block with one label, by which the API keys it; ``label_key`` holds the label too."""
    return Child(name, key, block, keyed=True, label_key=label_key)
