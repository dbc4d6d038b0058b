"""How functions are declared: parameter names and types, with arguments converted before the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from nomadpy.jobspec.hcl.types import Type
from nomadpy.jobspec.hcl.values import Value


class Parameter(msgspec.Struct, frozen=True):
    """A named parameter. Arguments are converted to its type; null is refused unless allowed."""

    name: str
    type: Type
    null_allowed: bool = False


class Function(msgspec.Struct, frozen=True):
    """A function of the language.

    ``call`` gets the converted arguments, after the surroundings if ``in_surroundings``.
    """

    name: str
    call: Callable[..., Value]
    parameters: tuple[Parameter, ...]
    variadic: Parameter | None = None
    in_surroundings: bool = False

    def parameter(self, at: int) -> Parameter:
        if at < len(self.parameters):
            return self.parameters[at]
        assert self.variadic is not None
        return self.variadic


class ArgumentError(Exception):
    """One argument, counted from zero, is unusable for a reason."""

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason


class CallFailure(Exception):
    """The call as a whole cannot succeed, for a reason that no single argument is to blame for."""


FUNCTIONS: dict[str, Function] = {}

Implementation = TypeVar("Implementation", bound=Callable[..., Any])


def function(
    name: str,
    *parameters: Parameter,
    variadic: Parameter | None = None,
    in_surroundings: bool = False,
) -> Callable[[Implementation], Implementation]:
    """Declare the decorated implementation as a function of the language."""

    def declare(call: Implementation) -> Implementation:
        assert name not in FUNCTIONS
        FUNCTIONS[name] = Function(name, call, parameters, variadic, in_surroundings)
        return call

    return declare
