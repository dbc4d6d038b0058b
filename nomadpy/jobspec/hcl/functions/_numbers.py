"""Functions over numbers."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from nomadpy.jobspec.hcl.functions._registry import ArgumentError, CallFailure, Parameter, function
from nomadpy.jobspec.hcl.types import NUMBER, STRING
from nomadpy.jobspec.hcl.values import NUMBER_EXPONENT_MAX, check_number, from_python

Number = int | Decimal

_NUM = Parameter("num", NUMBER)


@function("abs", _NUM)
def absolute(number: Number) -> Number:
    return -number if number < 0 else number


@function("ceil", _NUM)
def ceil(number: Number) -> int:
    return int(Decimal(number).to_integral_value(ROUND_CEILING))


@function("floor", _NUM)
def floor(number: Number) -> int:
    return int(Decimal(number).to_integral_value(ROUND_FLOOR))


@function("signum", _NUM)
def signum(number: Number) -> int:
    return (number > 0) - (number < 0)


@function("pow", Parameter("num", NUMBER), Parameter("power", NUMBER))
def power(number: Number, exponent: Number) -> Number:
    """Exact for whole operands, else in 64-bit floats."""
    if isinstance(number, int) and isinstance(exponent, int) and exponent >= 0:
        if number.bit_length() * exponent > NUMBER_EXPONENT_MAX * 4:
            raise CallFailure("the result is too large")
        return check_number(number**exponent)
    try:
        result = float(number) ** float(exponent)
    except (OverflowError, ZeroDivisionError) as wrong:
        raise CallFailure("the result is not a finite number") from wrong
    if isinstance(result, complex):
        raise CallFailure("the result is not a real number")
    return _from_float(result)


@function("log", Parameter("num", NUMBER), Parameter("base", NUMBER))
def log(number: Number, base: Number) -> Number:
    if number <= 0:
        raise ArgumentError(0, "must be greater than zero")
    if base <= 0 or base == 1:
        raise ArgumentError(1, "must be greater than zero and not one")
    return _from_float(math.log(number) / math.log(base))


def _from_float(result: float) -> Number:
    if not math.isfinite(result):
        raise CallFailure("the result is not a finite number")
    number = from_python(result)
    assert isinstance(number, (int, Decimal))
    return number


@function("min", variadic=Parameter("numbers", NUMBER))
def minimum(*numbers: Number) -> Number:
    if not numbers:
        raise CallFailure("must pass at least one number")
    return min(numbers)


@function("max", variadic=Parameter("numbers", NUMBER))
def maximum(*numbers: Number) -> Number:
    if not numbers:
        raise CallFailure("must pass at least one number")
    return max(numbers)


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@function("parseint", Parameter("number", STRING), Parameter("base", NUMBER))
def parse_int(text: str, base: Number) -> int:
    """Whole number in a base of 2 to 62; up to base 36 the case of letters does not matter."""
    if not isinstance(base, int) or not 2 <= base <= 62:
        raise ArgumentError(1, "base must be a whole number between 2 and 62 inclusive")
    digits = text[1:] if text[:1] in ("-", "+") else text
    if base <= 36:
        digits = digits.lower()
    values = [_DIGITS.find(digit) for digit in digits]
    if not values or len(values) > NUMBER_EXPONENT_MAX or any(not 0 <= value < base for value in values):
        raise ArgumentError(0, f"cannot parse {text[:80]!r} as a base {base} integer")
    number = 0
    for value in values:
        number = number * base + value
    return check_number(-number if text.startswith("-") else number)
