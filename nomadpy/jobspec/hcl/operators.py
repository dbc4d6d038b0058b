"""Unary and binary operators over values, with exact whole numbers and 155-digit fractions."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, DecimalException

from nomadpy.jobspec.hcl.diagnostics import SourceRange, error
from nomadpy.jobspec.hcl.syntax import Binary
from nomadpy.jobspec.hcl.types import BOOL, NUMBER, ConversionError, convert
from nomadpy.jobspec.hcl.values import (
    NUMBER_CONTEXT,
    NumberError,
    Value,
    as_decimal,
    check_number,
    equal,
    whole_if_possible,
)

Number = int | Decimal


def number_operand(value: Value) -> Number:
    """The value as a number. Raises ConversionError."""
    if value is None:
        raise ConversionError("a number is required, but have null")
    number = convert(value, NUMBER)
    assert isinstance(number, (int, Decimal))
    return number


def _operand(value: Value, side: str, where: SourceRange) -> Number:
    try:
        return number_operand(value)
    except ConversionError as wrong:
        detail = f"Unsuitable value for {side} operand: {wrong}."
        raise error("Invalid operand", detail, where) from wrong


def logical_operand(value: Value, where: SourceRange) -> bool:
    """The value as a bool. Raises HclErrors."""
    if value is None:
        raise error("Invalid operand", "Unsuitable value for operand: a bool is required, but have null.", where)
    try:
        truth = convert(value, BOOL)
    except ConversionError as wrong:
        raise error("Invalid operand", f"Unsuitable value for operand: {wrong}.", where) from wrong
    assert isinstance(truth, bool)
    return truth


def unary(operator: str, value: Value, where: SourceRange) -> Value:
    """``-value`` or ``!value``. Raises HclErrors."""
    if operator == "!":
        return not logical_operand(value, where)
    return -_operand(value, "unary", where)


def binary(node: Binary, left: Value, right: Value) -> Value:
    """Every binary operator except ``&&`` and ``||``, which do not always need both sides. Raises HclErrors."""
    operator = node.operator
    if operator == "==":
        return equal(left, right)
    if operator == "!=":
        return not equal(left, right)
    first = _operand(left, "left", node.left.range)
    second = _operand(right, "right", node.right.range)
    compare = _COMPARISONS.get(operator)
    if compare is not None:
        return compare(first, second)
    if operator in "/%" and second == 0:
        raise error("Division by zero", "The right operand is zero.", node.right.range)
    try:
        return _ARITHMETIC[operator](first, second)
    except (NumberError, DecimalException) as wrong:
        raise error("Operation failed", f"The result is not a usable number: {wrong}", node.range) from wrong


def add(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        return check_number(left + right)
    return whole_if_possible(NUMBER_CONTEXT.add(as_decimal(left), as_decimal(right)))


def subtract(left: Number, right: Number) -> Number:
    return add(left, -right)


def multiply(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        return check_number(left * right)
    return whole_if_possible(NUMBER_CONTEXT.multiply(as_decimal(left), as_decimal(right)))


def divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and left % right == 0:
        return left // right
    return whole_if_possible(NUMBER_CONTEXT.divide(as_decimal(left), as_decimal(right)))


def modulo(left: Number, right: Number) -> Number:
    """The remainder with the sign of the left operand."""
    if isinstance(left, int) and isinstance(right, int):
        remainder = abs(left) % abs(right)
        return -remainder if left < 0 else remainder
    return whole_if_possible(NUMBER_CONTEXT.remainder(as_decimal(left), as_decimal(right)))


_COMPARISONS: dict[str, Callable[[Number, Number], bool]] = {
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
    "<=": lambda left, right: left <= right,
    ">=": lambda left, right: left >= right,
}
_ARITHMETIC: dict[str, Callable[[Number, Number], Number]] = {
    "+": add,
    "-": subtract,
    "*": multiply,
    "/": divide,
    "%": modulo,
}
