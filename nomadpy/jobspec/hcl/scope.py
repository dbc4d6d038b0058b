"""What names mean while an expression is evaluated, and what evaluation may touch and spend."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from nomadpy.jobspec.hcl.diagnostics import HclErrors, SourceRange, error
from nomadpy.jobspec.hcl.values import STRING_LENGTH_MAX, Value

BUDGET_UNITS = 2_000_000


class BudgetExceeded(HclErrors):
    """Evaluation grew beyond its bounds; unlike other errors, ``try`` and ``can`` do not hide it."""

    code = "hcl-budget"


class Budget:
    """How much evaluation may still do: one unit for each node, scalar made, and 64 characters made."""

    def __init__(self, units: int = BUDGET_UNITS) -> None:
        self.left = units

    def spend(self, units: int, where: SourceRange | None) -> None:
        self.left -= units
        if self.left < 0:
            detail = "The expressions of this file take too many steps or make too much text."
            raise BudgetExceeded(error("Evaluation too large", detail, where).diagnostics)

    def spend_value(self, value: Value, where: SourceRange | None) -> None:
        """Pay for a newly made value, whatever its shape."""
        if isinstance(value, str):
            if len(value) > STRING_LENGTH_MAX:
                detail = f"A string would have more than {STRING_LENGTH_MAX} characters."
                raise BudgetExceeded(error("Evaluation too large", detail, where).diagnostics)
            self.spend(1 + len(value) // 64, where)
            return
        pending: list[Value] = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, str):
                self.spend(1 + len(item) // 64, where)
                continue
            self.spend(1, where)
            if isinstance(item, tuple):
                pending.extend(item)
            elif isinstance(item, dict):
                pending.extend(item.values())


class Surroundings:
    """What evaluation may touch besides its arguments; shared by a scope and its children.

    ``base_dir`` is what the file functions resolve relative paths against; None disables these functions.
    ``rng`` is the only source of chance (uuidv4, bcrypt); None disables those functions.
    ``functions`` is False where calls are not allowed at all, ``unknown_roots`` False where an unknown root
    variable is an error instead of standing for its own text.
    """

    def __init__(
        self,
        *,
        base_dir: Path | None = None,
        rng: random.Random | None = None,
        functions: bool = True,
        unknown_roots: bool = True,
        budget: Budget | None = None,
    ) -> None:
        self.base_dir = base_dir
        self.rng = rng
        self.functions = functions
        self.unknown_roots = unknown_roots
        self.budget = budget if budget is not None else Budget()


class Scope:
    """Root names and their values. Children add names, such as those of an iterator."""

    __slots__ = ("_parent", "_values", "surroundings")

    def __init__(
        self,
        values: Mapping[str, Value] | None = None,
        surroundings: Surroundings | None = None,
        *,
        parent: Scope | None = None,
    ) -> None:
        self._values: Mapping[str, Value] = values or {}
        self._parent: Scope | None = parent
        self.surroundings: Surroundings
        if surroundings is None:
            surroundings = parent.surroundings if parent is not None else Surroundings()
        self.surroundings = surroundings

    def child(self, values: Mapping[str, Value]) -> Scope:
        """A scope in which these names hide the same names outside."""
        return Scope(values, parent=self)

    def names(self) -> frozenset[str]:
        outer = self._parent.names() if self._parent is not None else frozenset()
        return outer | frozenset(self._values)

    def has(self, name: str) -> bool:
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return True
            scope = scope._parent
        return False

    def get(self, name: str) -> Value:
        """The value of a name that the scope has."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope._values:
                return scope._values[name]
            scope = scope._parent
        raise KeyError(name)


def constant_scope() -> Scope:
    """A scope for constants: neither variables nor functions may be used."""
    return Scope({}, Surroundings(functions=False, unknown_roots=False))
