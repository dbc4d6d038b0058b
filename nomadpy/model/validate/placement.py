"""Rules for constraints, affinities, spreads and devices."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nomadpy.model.patterns import compile_regexp, parse_version_constraint
from nomadpy.model.resources import NUMA, Affinity, Constraint, RequestedDevice, Spread
from nomadpy.model.validate.report import QUANTITY_MAX, Problems, nested

COMPARISONS = frozenset(("=", "==", "is", "!=", "not", "<", "<=", ">", ">="))
SETS = frozenset(("set_contains", "set_contains_all", "set_contains_any"))
PRESENCE = frozenset(("is_set", "is_not_set"))
DISTINCT = frozenset(("distinct_hosts", "distinct_property"))

_NODE_REFERENCES = frozenset(
    ("node.unique.id", "node.unique.name", "node.datacenter", "node.class", "node.pool", "node.region")
)
_REFERENCE_PREFIXES = ("attr.", "meta.", "device.")
_BOOLEANS = frozenset(("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"))


def check_constraints(constraints: Iterable[Constraint], *, at_task: bool = False) -> Problems:
    """Problems of the constraints of a job, a group, or (``at_task``) a task or a device."""
    for number, constraint in enumerate(constraints, 1):
        yield from nested(f"Constraint {number}", _constraint(constraint))
        if at_task and constraint.operand in DISTINCT:
            yield f"Constraint {number} has disallowed Operand at task level: {constraint.operand}"


def check_affinities(affinities: Iterable[Affinity]) -> Problems:
    """Problems of the affinities of a job, a group, a task or a device."""
    for number, affinity in enumerate(affinities, 1):
        yield from nested(f"Affinity {number}", _affinity(affinity))


def check_spreads(spreads: Iterable[Spread]) -> Problems:
    """Problems of the spreads of a job or a group."""
    for number, spread in enumerate(spreads, 1):
        yield from nested(f"Spread {number}", _spread(spread))


def check_devices(devices: Iterable[RequestedDevice], numa: NUMA | None) -> Problems:
    """Problems of the devices that a task asks for, and of its NUMA block."""
    names = set()
    for number, device in enumerate(devices, 1):
        names.add(device.name)
        yield from nested(f"device {number}", _device(device))
    if numa is not None:
        if numa.affinity not in ("none", "prefer", "require"):
            yield f'numa affinity must be one of none, prefer, or require; not "{numa.affinity}"'
        for name in numa.devices:
            if name not in names:
                yield f'numa device "{name}" not requested as task resource'


def _constraint(constraint: Constraint) -> Problems:
    operand, value = constraint.operand, constraint.r_target
    if not operand:
        yield "Missing constraint operand"
    elif operand in PRESENCE:
        if value:
            yield f'Operator "{operand}" does not support an RTarget'
    elif operand == "distinct_hosts":
        if value and value not in _BOOLEANS:
            yield f'Failed to parse distinct_hosts value "{value}" as a boolean'
    elif operand == "distinct_property":
        yield from _distinct_count(value)
    elif operand in COMPARISONS or operand in SETS or operand in ("regexp", "version", "semver"):
        yield from _operand_value(operand, value)
    else:
        yield f'Unknown constraint type "{operand}"'
    if operand != "distinct_hosts":
        yield from _left_target(constraint.l_target, "constraint")


def _distinct_count(value: str) -> Problems:
    if not value:
        return
    if not re.fullmatch(r"[0-9]{1,18}", value):
        yield f'Failed to convert RTarget "{value}" to uint64: it must be a whole number'
    elif int(value) < 1:
        yield f"Distinct Property must have an allowed count of 1 or greater: {value} < 1"


def _operand_value(operand: str, value: str) -> Problems:
    if operand in SETS and not value:
        yield "Set contains constraint requires an RTarget"
    elif operand == "regexp":
        try:
            compile_regexp(value)
        except ValueError as error:
            yield f"Regular expression failed to compile: {error}"
    elif operand in ("version", "semver"):
        if not value.startswith("${"):
            name = "Version" if operand == "version" else "Semver"
            try:
                parse_version_constraint(value, strict=operand == "semver")
            except ValueError as error:
                yield f"{name} constraint is invalid: {error}"
    elif not value:
        yield f'Operator "{operand}" requires an RTarget'


def _left_target(target: str, owner: str) -> Problems:
    if not target:
        yield f"No LTarget provided but is required by {owner}"
    elif target.startswith("$"):
        if not target.startswith("${"):
            yield f'attribute "{target}" is missing an opening brace: write "${{...}}"'
        elif not target.endswith("}"):
            yield f'attribute "{target}" is missing a closing brace: write "${{...}}"'
        elif not _is_known_reference(target[2:-1]):
            yield f'unsupported attribute "{target}"'


def _is_known_reference(name: str) -> bool:
    return name in _NODE_REFERENCES or name.startswith(_REFERENCE_PREFIXES)


def _affinity(affinity: Affinity) -> Problems:
    operand = affinity.operand
    if not operand:
        yield "Missing affinity operand"
    elif operand in COMPARISONS or operand in SETS or operand in ("regexp", "version", "semver"):
        yield from _operand_value(operand, affinity.r_target)
        if operand == "regexp" and not affinity.r_target:
            yield f'Operator "{operand}" requires an RTarget'
    else:
        yield f'Unknown affinity operator "{operand}"'
    yield from _left_target(affinity.l_target, "affinity")
    if affinity.weight == 0:
        yield "Affinity weight cannot be zero"
    elif not -100 <= affinity.weight <= 100:
        yield "Affinity weight must be within the range [-100,100]"


def _spread(spread: Spread) -> Problems:
    if not spread.attribute:
        yield "Missing spread attribute"
    if not 0 < spread.weight <= 100:
        yield "Spread block must have a positive weight from 0 to 100"
    seen: set[str] = set()
    for target in spread.spread_target:
        if target.value in seen:
            yield f'Spread target value "{target.value}" already defined'
        seen.add(target.value)
        if not 0 <= target.percent <= 100:
            yield f'Spread target percentage for value "{target.value}" must be between 0 and 100'
    total = sum(target.percent for target in spread.spread_target)
    if total > 100:
        yield f"Sum of spread target percentages must not be greater than 100%; got {total}%"


def _device(device: RequestedDevice) -> Problems:
    if not device.name:
        yield "device name must be given as one of the following: type, vendor/type, or vendor/type/name"
    if not 1 <= device.count <= QUANTITY_MAX:
        yield f"device count must be at least 1; got {device.count}"
    yield from check_constraints(device.constraints, at_task=True)
    yield from check_affinities(device.affinities)
