"""Conditions on a node's neighbours: ``distinct_hosts`` and ``distinct_property``."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from nomadpy.model.job import Job, TaskGroup
from nomadpy.model.resources import Constraint
from nomadpy.scheduler.eligibility import group_constraints
from nomadpy.scheduler.facts import Column, Facts
from nomadpy.scheduler.operators import DISTINCT_HOSTS, DISTINCT_PROPERTY, is_true
from nomadpy.state.view import BoolColumn, IntColumn

_COUNT = re.compile(r"[0-9]{1,18}")


class Property:
    """One ``distinct_property``: how many allocations each value has, of at most ``limit``."""

    def __init__(self, constraint: Constraint, column: Column, *, whole_job: bool) -> None:
        self.constraint = constraint
        self.whole_job = whole_job
        self.limit = int(constraint.r_target) if _COUNT.fullmatch(constraint.r_target) else 1
        self.column = column
        self.counts: IntColumn = np.zeros(len(column.values), dtype=np.int64)
        self.lacking = np.array([value is None for value in column.values], dtype=np.bool_)

    def add(self, number: int, count: int) -> None:
        """Counts allocations on a node in or, below zero, out."""
        self.counts[self.column.codes[number]] += count

    def allows(self) -> BoolColumn:
        """The nodes whose value has room."""
        return ((self.counts < self.limit) & ~self.lacking)[self.column.codes]

    def conditions(self) -> Iterator[tuple[str, BoolColumn]]:
        """A reason and the nodes that it does not concern, per value that is used up."""
        codes, target = self.column.codes, self.constraint.l_target
        if self.lacking.any():
            yield f'distinct_property: missing property "{target}"', ~self.lacking[codes]
        for code in np.flatnonzero((self.counts >= self.limit) & ~self.lacking).tolist():
            value, used = self.column.values[code], int(self.counts[code])
            yield f"distinct_property: {target}={value} used by {used} allocs", codes != code


class Neighbours:
    """The allocations of the job around a group, as its distinct constraints count them."""

    def __init__(self, facts: Facts, job: Job, group: TaskGroup) -> None:
        held = group_constraints(group)
        self._alone_in_job = _distinct_hosts(job.constraints)
        self.alone = self._alone_in_job or _distinct_hosts(held)
        self.occupied: IntColumn = np.zeros(facts.size if self.alone else 0, dtype=np.int64)
        self.properties = [
            Property(constraint, facts.column(constraint.l_target), whole_job=whole_job)
            for constraints, whole_job in ((job.constraints, True), (held, False))
            for constraint in constraints
            if constraint.operand == DISTINCT_PROPERTY
        ]

    def add(self, number: int, count: int, *, same_group: bool) -> None:
        """Counts live allocations of the job on a node in or, below zero, out."""
        if self.alone and (same_group or self._alone_in_job):
            self.occupied[number] += count
        for prop in self.properties:
            if same_group or prop.whole_job:
                prop.add(number, count)

    def add_many(self, numbers: IntColumn, counts: IntColumn) -> None:
        """Counts new allocations of the group."""
        if self.alone:
            self.occupied[numbers] += counts
        for prop in self.properties:
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                prop.add(number, count)

    def allow(self, fits: BoolColumn, where: IntColumn | slice) -> BoolColumn:
        """Of the nodes that fit, those where the neighbours allow one more."""
        if self.alone:
            fits = fits & (self.occupied[where] == 0)
        for prop in self.properties:
            fits = fits & prop.allows()[where]
        return fits

    def conditions(self) -> Iterator[tuple[str, BoolColumn]]:
        """Reasons with the nodes that they do not concern, in the order in which they count."""
        if self.alone:
            yield DISTINCT_HOSTS, self.occupied == 0
        for prop in self.properties:
            yield from prop.conditions()


def _distinct_hosts(constraints: tuple[Constraint, ...]) -> bool:
    return any(c.operand == DISTINCT_HOSTS and is_true(c.r_target, default=True) for c in constraints)
