"""The functions of the language, and how a call becomes a value or an error that names the argument."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import DecimalException
from typing import TYPE_CHECKING

from nomadpy.jobspec.hcl.diagnostics import SourceRange, error, suggest
from nomadpy.jobspec.hcl.functions import (
    _codecs,
    _collections,
    _crypto,
    _files,
    _formatting,
    _networks,
    _numbers,
    _sets,
    _strings,
    _times,
)
from nomadpy.jobspec.hcl.functions._registry import FUNCTIONS, ArgumentError, CallFailure, Function
from nomadpy.jobspec.hcl.types import ConversionError, convert
from nomadpy.jobspec.hcl.values import NumberError, Value

if TYPE_CHECKING:
    from nomadpy.jobspec.hcl.scope import Surroundings
    from nomadpy.jobspec.hcl.syntax import Call

# Importing these modules is what declares their functions.
_MODULES = (
    _codecs,
    _collections,
    _crypto,
    _files,
    _formatting,
    _networks,
    _numbers,
    _sets,
    _strings,
    _times,
)

# These take expressions instead of values, so evaluation itself has them.
_SPECIAL_FORMS = frozenset({"can", "convert", "try"})


def call_function(
    call: Call, arguments: Sequence[Value], ranges: Sequence[SourceRange], surroundings: Surroundings
) -> Value:
    """The value of a call with evaluated arguments; ``ranges`` says where each came from.

    Raises HclErrors.
    """
    found = FUNCTIONS.get(call.name)
    if found is None:
        detail = f'There is no function named "{call.name}".'
        hint = suggest(call.name, _SPECIAL_FORMS.union(FUNCTIONS))
        raise error("Call to unknown function", detail, call.name_range, hint)
    _check_count(found, call, len(arguments))
    converted = [
        _argument(found, at, value, where) for at, (value, where) in enumerate(zip(arguments, ranges, strict=True))
    ]
    try:
        if found.in_surroundings:
            return found.call(surroundings, *converted)
        return found.call(*converted)
    except ArgumentError as wrong:
        parameter = found.parameter(wrong.at).name
        detail = f'Invalid value for "{parameter}" parameter of {found.name}: {wrong.reason}.'
        raise error("Invalid function argument", detail, ranges[wrong.at]) from wrong
    except (CallFailure, ConversionError, NumberError, DecimalException) as wrong:
        detail = f'Call to function "{found.name}" failed: {str(wrong).rstrip(".")}.'
        raise error("Error in function call", detail, call.range) from wrong


def _check_count(found: Function, call: Call, n_given: int) -> None:
    n_wanted = len(found.parameters)
    if n_given < n_wanted:
        least = " at least" if found.variadic is not None else ""
        missing = found.parameters[n_given].name
        detail = f'Function "{found.name}" expects{least} {n_wanted} argument(s). Missing value for "{missing}".'
        raise error("Not enough function arguments", detail, call.range)
    if n_given > n_wanted and found.variadic is None:
        detail = f'Function "{found.name}" expects only {n_wanted} argument(s).'
        raise error("Too many function arguments", detail, call.range)


def _argument(found: Function, at: int, value: Value, where: SourceRange) -> Value:
    parameter = found.parameter(at)
    reason = "argument must not be null"
    if value is not None:
        try:
            return convert(value, parameter.type)
        except ConversionError as wrong:
            reason = str(wrong)
    elif parameter.null_allowed:
        return None
    detail = f'Invalid value for "{parameter.name}" parameter of {found.name}: {reason}.'
    raise error("Invalid function argument", detail, where)
