"""The value of an expression in a scope.

Errors are raised at once, one for each evaluation, so a decoder that evaluates attribute by attribute can
collect them all. A root variable that the scope does not know stands for its own source text in ``${…}``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from nomadpy.jobspec.hcl import operators
from nomadpy.jobspec.hcl.diagnostics import HclErrors, SourceRange, error, suggest
from nomadpy.jobspec.hcl.scope import BudgetExceeded, Scope
from nomadpy.jobspec.hcl.syntax import (
    Access,
    Binary,
    Call,
    Conditional,
    Expression,
    For,
    ForDirective,
    GetAttribute,
    GetIndex,
    IfDirective,
    Interpolation,
    Literal,
    Name,
    ObjectExpression,
    Parentheses,
    Splat,
    Step,
    Template,
    TemplatePart,
    TupleExpression,
    Unary,
)
from nomadpy.jobspec.hcl.types import BOOL, STRING, ConversionError, convert, kind_of, parse_type, type_of, unify
from nomadpy.jobspec.hcl.values import HclList, HclSet, Value, elements

VALUE_DEPTH_MAX = 100


def evaluate(expression: Expression, scope: Scope) -> Value:
    """The value of the expression. Raises HclErrors."""
    if type(expression) is Literal:
        return expression.value
    try:
        value = _evaluate(expression, scope)
    except RecursionError as deep:
        raise error("Nested too deeply", "The value is nested too deeply.", expression.range) from deep
    if isinstance(value, (tuple, dict)):
        _check_depth(value, expression.range)
    return value


def function_names() -> frozenset[str]:
    """Every name that can be called."""
    from nomadpy.jobspec.hcl.functions._registry import FUNCTIONS

    return frozenset(FUNCTIONS) | frozenset(_SPECIAL_FORMS)


def _check_depth(value: Value, where: SourceRange) -> None:
    """Refuse values that recursive readers could not walk; chains of locals can build them."""
    level = [value]
    for _ in range(VALUE_DEPTH_MAX):
        inner: list[Value] = []
        for item in level:
            if isinstance(item, tuple):
                inner.extend(each for each in item if isinstance(each, (tuple, dict)))
            elif isinstance(item, dict):
                inner.extend(each for each in item.values() if isinstance(each, (tuple, dict)))
        if not inner:
            return
        level = inner
    detail = f"A value may have at most {VALUE_DEPTH_MAX} levels."
    raise error("Nested too deeply", detail, where)


def _evaluate(expression: Expression, scope: Scope) -> Value:
    scope.surroundings.budget.spend(1, expression.range)
    return _EVALUATORS[type(expression)](expression, scope)


def _literal(expression: Literal, scope: Scope) -> Value:
    return expression.value


def _parentheses(expression: Parentheses, scope: Scope) -> Value:
    return _evaluate(expression.inner, scope)


# References.


def _name(expression: Name, scope: Scope) -> Value:
    if scope.has(expression.name):
        return scope.get(expression.name)
    return _placeholder(expression, expression.range, scope)


def _placeholder(root: Name, whole: SourceRange, scope: Scope) -> str:
    """The text that is left for run time in place of a reference."""
    if scope.surroundings.unknown_roots:
        return "${" + whole.text + "}"
    known = sorted(scope.names())
    if not known:
        raise error("Variables not allowed", "Variables may not be used here.", root.range)
    detail = f'There is no variable named "{root.name}".'
    raise error("Unknown variable", detail, root.range, suggest(root.name, known))


def _access(expression: Access, scope: Scope) -> Value:
    target, steps = expression.target, expression.steps
    if not isinstance(target, Name) or scope.has(target.name):
        return _take_steps(_evaluate(target, scope), steps, scope)
    n_static = 0
    while n_static < len(steps) and _is_static(steps[n_static]):
        n_static += 1
    last = steps[n_static - 1].range if n_static else target.range
    whole = SourceRange(target.range.source, target.range.start, last.end)
    return _take_steps(_placeholder(target, whole, scope), steps[n_static:], scope)


def _is_static(step: Step) -> bool:
    return isinstance(step, GetAttribute) or (isinstance(step, GetIndex) and isinstance(step.key, Literal))


def _take_steps(value: Value, steps: tuple[Step, ...], scope: Scope) -> Value:
    for step in steps:
        if isinstance(step, GetAttribute):
            value = _get_attribute(value, step)
        elif isinstance(step, GetIndex):
            value = get_index(value, _evaluate(step.key, scope), step.range)
        else:
            value = _splat(value, step, scope)
    return value


def _get_attribute(value: Value, step: GetAttribute) -> Value:
    if isinstance(value, dict):
        if step.name in value:
            return value[step.name]
        detail = f'This object does not have an attribute named "{step.name}".'
        raise error("Unsupported attribute", detail, step.range, suggest(step.name, value))
    if value is None:
        detail = "This value is null, so it does not have any attributes."
        raise error("Attempt to get attribute from null value", detail, step.range)
    if isinstance(value, tuple):
        detail = (
            f"A {kind_of(value)} has no attributes. To read the attribute of one element use an index such "
            "as [0]; to read it from all elements use [*]."
        )
    else:
        detail = f"Can't access attributes on a primitive-typed value ({kind_of(value)})."
    raise error("Unsupported attribute", detail, step.range)


def get_index(value: Value, key: Value, where: SourceRange | None) -> Value:
    """The element of a collection at a key. Raises HclErrors."""
    if value is None:
        raise error("Attempt to index null value", "This value is null, so it has no indices.", where)
    if key is None:
        raise error("Invalid index", "Can't use a null value as an indexing key.", where)
    if isinstance(value, dict):
        if isinstance(key, (tuple, dict)):
            raise error("Invalid index", "The given key is not a string.", where)
        name = convert(key, STRING)
        assert isinstance(name, str)
        if name in value:
            return value[name]
        detail = f'The given key "{name}" does not identify an element in this collection value.'
        raise error("Invalid index", detail, where, suggest(name, value))
    if isinstance(value, HclSet):
        detail = "Elements of a set are identified only by their value and don't have separate keys."
        raise error("Invalid index", detail, where)
    if isinstance(value, tuple):
        return value[_position(key, len(value), where)]
    raise error("Invalid index", f"A {kind_of(value)} does not have any indices.", where)


def _position(key: Value, length: int, where: SourceRange | None) -> int:
    try:
        number = operators.number_operand(key)
    except ConversionError as wrong:
        raise error("Invalid index", "The given key is not a whole number.", where) from wrong
    reason = ""
    if isinstance(number, Decimal):
        reason = "indices must be whole numbers"
    elif number < 0:
        reason = "a negative number is not a valid index for a sequence"
    elif number >= length:
        reason = f"the given index is greater than or equal to the length of the collection, {length}"
    else:
        return number
    detail = f"The given key does not identify an element in this collection value: {reason}."
    raise error("Invalid index", detail, where)


def _splat(value: Value, step: Splat, scope: Scope) -> Value:
    if value is None:
        return ()
    items = value if isinstance(value, tuple) else (value,)
    taken = []
    for item in items:
        scope.surroundings.budget.spend(1, step.range)
        taken.append(_take_steps(item, step.steps, scope))
    return HclList(taken) if isinstance(value, (HclList, HclSet)) else tuple(taken)


# Operators.


def _unary(expression: Unary, scope: Scope) -> Value:
    operand = _evaluate(expression.operand, scope)
    return operators.unary(expression.operator, operand, expression.operand.range)


def _binary(expression: Binary, scope: Scope) -> Value:
    # Long chains lean to the left; they are walked in a loop so that their length does not matter.
    chain = [expression]
    left: Expression = expression.left
    while isinstance(left, Binary):
        chain.append(left)
        left = left.left
    value = _evaluate(left, scope)
    for node in reversed(chain):
        value = _apply(node, value, scope)
        scope.surroundings.budget.spend(1, node.range)
    return value


def _apply(node: Binary, left: Value, scope: Scope) -> Value:
    if node.operator in ("&&", "||"):
        first = operators.logical_operand(left, node.left.range)
        if first is (node.operator == "||"):
            return first
        return operators.logical_operand(_evaluate(node.right, scope), node.right.range)
    return operators.binary(node, left, _evaluate(node.right, scope))


def _condition(expression: Expression, scope: Scope, what: str) -> bool:
    value = _evaluate(expression, scope)
    if value is None:
        raise error("Null condition", f"The {what} is null, but true or false is required.", expression.range)
    try:
        truth = convert(value, BOOL)
    except ConversionError as wrong:
        detail = f"The {what} must be true or false: {wrong}."
        raise error("Incorrect condition type", detail, expression.range) from wrong
    assert isinstance(truth, bool)
    return truth


def _conditional(expression: Conditional, scope: Scope) -> Value:
    chosen, other = expression.then, expression.otherwise
    if not _condition(expression.condition, scope, "condition of a conditional expression"):
        chosen, other = other, chosen
    value = _evaluate(chosen, scope)
    try:
        rejected = _evaluate(other, scope)
    except BudgetExceeded:
        raise
    except HclErrors:
        # The branch that is not taken may be wrong; only its type would have mattered.
        return value
    return _same_type(value, rejected, expression.range)


def _same_type(value: Value, rejected: Value, where: SourceRange) -> Value:
    """Both results of a conditional share one type, whichever is chosen: ``true ? 1 : "a"`` is "1"."""
    if value is None or rejected is None or (type(value) is type(rejected) and not _is_compound(value)):
        return value
    unified = unify([type_of(value), type_of(rejected)])
    if unified is None:
        detail = (
            "The true and false result expressions must have consistent types. The results are "
            f"{kind_of(value)} and {kind_of(rejected)}."
        )
        raise error("Inconsistent conditional result types", detail, where)
    return convert(value, unified)


def _is_compound(value: Value) -> bool:
    return isinstance(value, (tuple, dict))


# Collections.


def _tuple(expression: TupleExpression, scope: Scope) -> Value:
    value = tuple([_evaluate(item, scope) for item in expression.items])
    scope.surroundings.budget.spend_value(value, expression.range)
    return value


def _object(expression: ObjectExpression, scope: Scope) -> Value:
    result: dict[str, Value] = {}
    for key, item in expression.items:
        result[_key_text(key, _evaluate(key, scope))] = _evaluate(item, scope)
    scope.surroundings.budget.spend_value(result, expression.range)
    return result


def _key_text(expression: Expression, key: Value) -> str:
    if key is None:
        raise error("Null value as key", "Can't use a null value as a key.", expression.range)
    try:
        text = convert(key, STRING)
    except ConversionError as wrong:
        raise error("Incorrect key type", f"Can't use this value as a key: {wrong}.", expression.range) from wrong
    assert isinstance(text, str)
    return text


def _iterate(collection: Expression, key_name: str | None, value_name: str, scope: Scope) -> Iterator[Scope]:
    """A scope for each element of a collection."""
    over = _evaluate(collection, scope)
    if over is None:
        detail = "A null value cannot be used as the collection in a 'for' expression."
        raise error("Iteration over null value", detail, collection.range)
    pairs = elements(over)
    if pairs is None:
        detail = f"A value of type {kind_of(over)} cannot be used as the collection in a 'for' expression."
        raise error("Iteration over non-iterable value", detail, collection.range)
    for key, value in pairs:
        scope.surroundings.budget.spend(1, collection.range)
        names = {value_name: value} if key_name is None else {key_name: key, value_name: value}
        yield scope.child(names)


def _for(expression: For, scope: Scope) -> Value:
    result: Value
    if expression.key is None:
        result = tuple([_evaluate(expression.value, inner) for inner in _selected(expression, scope)])
    else:
        result = _for_object(expression, scope)
    scope.surroundings.budget.spend_value(result, expression.range)
    return result


def _selected(expression: For, scope: Scope) -> Iterator[Scope]:
    condition = expression.condition
    for inner in _iterate(expression.collection, expression.key_name, expression.value_name, scope):
        if condition is None or _condition(condition, inner, "'if' clause of a 'for' expression"):
            yield inner


def _for_object(expression: For, scope: Scope) -> Value:
    assert expression.key is not None
    result: dict[str, Any] = {}
    for inner in _selected(expression, scope):
        key = _key_text(expression.key, _evaluate(expression.key, inner))
        value = _evaluate(expression.value, inner)
        if expression.grouped:
            result.setdefault(key, []).append(value)
        elif key in result:
            detail = (
                f"Two different items produced the key \"{key}\" in this 'for' expression. If duplicates are "
                "expected, use the ellipsis (...) after the value expression to enable grouping by key."
            )
            raise error("Duplicate object key", detail, expression.key.range)
        else:
            result[key] = value
    return {key: tuple(items) for key, items in result.items()} if expression.grouped else result


# Templates.


def _template(expression: Template, scope: Scope) -> Value:
    parts = expression.parts
    if len(parts) == 1 and isinstance(parts[0], Interpolation):
        return _evaluate(parts[0].expression, scope)
    return _join(parts, scope, expression.range)


def _join(parts: tuple[TemplatePart, ...], scope: Scope, where: SourceRange) -> str:
    pieces: list[str] = []
    for part in parts:
        if isinstance(part, Literal):
            pieces.append(str(part.value))
        elif isinstance(part, Interpolation):
            pieces.append(_interpolated(part, scope))
        elif isinstance(part, IfDirective):
            chosen = part.then
            if not _condition(part.condition, scope, "condition of an 'if' directive"):
                chosen = part.otherwise
            pieces.append(_join(chosen, scope, part.range))
        else:
            pieces.extend(_repeated(part, scope))
    text = "".join(pieces)
    scope.surroundings.budget.spend_value(text, where)
    return text


def _interpolated(part: Interpolation, scope: Scope) -> str:
    value = _evaluate(part.expression, scope)
    where = part.expression.range
    if value is None:
        detail = "The expression result is null. Cannot include a null value in a string template."
        raise error("Invalid template interpolation value", detail, where)
    try:
        text = convert(value, STRING)
    except ConversionError as wrong:
        detail = f"Cannot include the given value in a string template: {wrong}."
        raise error("Invalid template interpolation value", detail, where) from wrong
    assert isinstance(text, str)
    return text


def _repeated(part: ForDirective, scope: Scope) -> Iterator[str]:
    for inner in _iterate(part.collection, part.key_name, part.value_name, scope):
        yield _join(part.parts, inner, part.range)


# Calls.


def _call(expression: Call, scope: Scope) -> Value:
    if not scope.surroundings.functions:
        raise error("Function calls not allowed", "Functions may not be called here.", expression.range)
    special = _SPECIAL_FORMS.get(expression.name)
    if special is not None:
        if expression.expand_last:
            detail = f"The arguments of {expression.name} can't be expanded with an ellipsis."
            raise error("Invalid function call", detail, expression.range)
        return special(expression, scope)
    arguments = [_evaluate(argument, scope) for argument in expression.arguments]
    ranges = [argument.range for argument in expression.arguments]
    if expression.expand_last:
        last = arguments.pop()
        if not isinstance(last, tuple):
            detail = (
                f"The expanding argument (indicated by ...) must be of a tuple, list, or set type, not {kind_of(last)}."
            )
            raise error("Invalid expanding argument value", detail, ranges[-1])
        where = ranges.pop()
        arguments.extend(last)
        ranges.extend([where] * len(last))
    # The functions take longer to load than a large job file to read, and many files call none.
    from nomadpy.jobspec.hcl.functions import call_function

    value = call_function(expression, arguments, ranges, scope.surroundings)
    scope.surroundings.budget.spend_value(value, expression.range)
    return value


def _try(expression: Call, scope: Scope) -> Value:
    failures: list[HclErrors] = []
    for argument in expression.arguments:
        try:
            return evaluate(argument, scope)
        except BudgetExceeded:
            raise
        except HclErrors as wrong:
            failures.append(wrong)
    if not failures:
        detail = "At least one argument is required."
    else:
        detail = "No expression succeeded: " + "; ".join(
            f"{found.summary}: {found.detail}" for wrong in failures for found in wrong.diagnostics
        )
    raise error("Error in function call", f'Call to function "try" failed: {detail}', expression.range)


def _can(expression: Call, scope: Scope) -> Value:
    if len(expression.arguments) != 1:
        raise error("Wrong number of function arguments", 'Function "can" expects 1 argument.', expression.range)
    try:
        evaluate(expression.arguments[0], scope)
    except BudgetExceeded:
        raise
    except HclErrors:
        return False
    return True


def _convert(expression: Call, scope: Scope) -> Value:
    if len(expression.arguments) != 2:
        detail = 'Function "convert" expects 2 arguments: the value and a type such as list(string).'
        raise error("Wrong number of function arguments", detail, expression.range)
    given, wanted = expression.arguments
    value = _evaluate(given, scope)
    try:
        return convert(value, parse_type(wanted))
    except ConversionError as wrong:
        detail = f'Invalid value for "value" parameter of convert: {wrong}.'
        raise error("Invalid function argument", detail, given.range) from wrong


_SPECIAL_FORMS: dict[str, Callable[[Call, Scope], Value]] = {"try": _try, "can": _can, "convert": _convert}

_EVALUATORS: dict[type, Callable[[Any, Scope], Value]] = {
    Literal: _literal,
    Template: _template,
    Name: _name,
    Access: _access,
    Unary: _unary,
    Binary: _binary,
    Conditional: _conditional,
    Parentheses: _parentheses,
    TupleExpression: _tuple,
    ObjectExpression: _object,
    For: _for,
    Call: _call,
}
