"""Values of the language as plain Python objects, and what they are called, equal to and printed as.

    null  None          number  int, or Decimal when it is not whole      tuple  tuple       object  dict
    bool  bool          string  str                                       list   HclList     map     HclMap
                                                                          set    HclSet

HclList and HclSet are tuples and HclMap is a dict, so a reader that does not care about the difference need
only know tuple and dict. Values are never changed once made. Whole numbers are exact; others carry the 155
significant decimal digits that correspond to the 512-bit floats of the reference implementation, which is
why 0.1 + 0.2 is 0.3.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from typing import Any, TypeAlias

Value: TypeAlias = "bool | int | Decimal | str | tuple[Value, ...] | dict[str, Value] | None"

NUMBER_CONTEXT = Context(prec=155, Emax=99999, Emin=-99999, traps=[InvalidOperation, DivisionByZero, Overflow])
NUMBER_EXPONENT_MAX = 2000
STRING_LENGTH_MAX = 8 * 1024 * 1024


class HclList(tuple[Any, ...]):
    """A list: every element has been converted to one type."""

    __slots__ = ()


class HclSet(tuple[Any, ...]):
    """A set: elements of one type, without repeats, in the order of ``sort_key``."""

    __slots__ = ()


class HclMap(dict[str, Any]):
    """A map: every element has been converted to one type."""

    __slots__ = ()


class NumberError(ValueError):
    """A number that is malformed or beyond the supported range."""


def parse_number(text: str) -> int | Decimal:
    """The number that a literal or a numeric string stands for. Raises NumberError.

    >>> parse_number("1e3"), parse_number("0.50")
    (1000, Decimal('0.5'))
    """
    if len(text) > NUMBER_EXPONENT_MAX:
        raise NumberError("The number has too many digits.")
    if text.isdigit() and text.isascii():
        return int(text)
    try:
        return whole_if_possible(NUMBER_CONTEXT.create_decimal(text))
    except (InvalidOperation, Overflow) as wrong:
        raise NumberError("The text is not a number.") from wrong


def whole_if_possible(number: Decimal) -> int | Decimal:
    """An int when the number is whole, else the number without trailing zeros. Raises NumberError."""
    if not number.is_finite():
        raise NumberError("The number is not finite.")
    if abs(number.adjusted()) > NUMBER_EXPONENT_MAX and number:
        raise NumberError(f"Numbers beyond 1e{NUMBER_EXPONENT_MAX} are not supported.")
    if number == number.to_integral_value():
        return int(number)
    return number.normalize(NUMBER_CONTEXT)


def check_number(number: int) -> int:
    """The number itself. Raises NumberError when it is beyond the supported range."""
    if number.bit_length() > NUMBER_EXPONENT_MAX * 3:
        raise NumberError(f"Numbers beyond 1e{NUMBER_EXPONENT_MAX} are not supported.")
    return number


def is_number(value: Value) -> bool:
    return isinstance(value, (int, Decimal)) and not isinstance(value, bool)


def as_decimal(number: int | Decimal) -> Decimal:
    return number if isinstance(number, Decimal) else Decimal(number)


def number_text(number: int | Decimal) -> str:
    """Plain decimal notation without exponent or trailing zeros.

    >>> number_text(Decimal("1.50"))
    '1.5'
    """
    if isinstance(number, int):
        return str(number)
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def to_python(value: Value) -> Any:
    """The value in terms of JSON: lists, dicts, str, int, float, bool and None."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, tuple):
        return [to_python(item) for item in value]
    if isinstance(value, dict):
        return {key: to_python(item) for key, item in value.items()}
    return value


def from_python(value: Any) -> Value:
    """The value that JSON or YAML data stands for. Raises NumberError, or ValueError for other objects."""
    if isinstance(value, float):
        return whole_if_possible(NUMBER_CONTEXT.create_decimal(repr(value)))
    if isinstance(value, Decimal):
        return whole_if_possible(NUMBER_CONTEXT.create_decimal(value))
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return check_number(value)
    if isinstance(value, (list, tuple)):
        return tuple(from_python(item) for item in value)
    if isinstance(value, dict):
        return {_key_text(key): from_python(item) for key, item in value.items()}
    raise ValueError(f"A value of kind {type(value).__name__} cannot be used.")


def _key_text(key: Any) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int):
        return str(key)
    raise ValueError("Only strings can be used as keys.")


def equal(left: Value, right: Value) -> bool:
    """Equality of the language: values of different types are never equal, so 1 is not "1".

    >>> equal((1, 2), (1, 2)), equal(1, True), equal((1,), HclList((1,)))
    (True, False, False)
    """
    if is_number(left) and is_number(right):
        return left == right
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    return left == right


def sort_key(value: Value) -> tuple[Any, ...]:
    """A total order over values, used for the order of sets: nulls, bools, numbers, strings, the rest."""
    if value is None:
        return (0,)
    if isinstance(value, bool):
        return (1, value)
    if isinstance(value, (int, Decimal)):
        return (2, value)
    if isinstance(value, str):
        return (3, value)
    if isinstance(value, tuple):
        return (4, tuple(sort_key(item) for item in value))
    return (5, tuple((key, sort_key(value[key])) for key in sorted(value)))


def make_set(items: Iterable[Value]) -> HclSet:
    """A set of the items, sorted and without repeats."""
    by_key = {sort_key(item): item for item in items}
    return HclSet(by_key[key] for key in sorted(by_key))


def elements(value: Value) -> list[tuple[Value, Value]] | None:
    """Key and value of every element in iteration order, or None if the value cannot be iterated.

    A set's keys are its elements; objects and maps go in key order.
    """
    if isinstance(value, HclSet):
        return [(item, item) for item in value]
    if isinstance(value, tuple):
        return list(enumerate(value))
    if isinstance(value, dict):
        return [(key, value[key]) for key in sorted(value)]
    return None


def size_of(value: Value) -> int:
    """A rough count of what a value holds, for budgets: one for each scalar and 64 characters."""
    total, pending = 0, [value]
    while pending:
        item = pending.pop()
        total += 1
        if isinstance(item, str):
            total += len(item) // 64
        elif isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
    return total
