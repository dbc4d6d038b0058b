"""The definition of placement, as slow and plain as can be: one allocation after the other on the best node of all.

It shares no code with the scheduler. Scores are whole grains of 2^-34 and their mean a fraction, so nothing depends on
the order in which anything is added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

GRAIN = 2**34


def grains(value: float) -> int:
    return round(value * GRAIN)


@dataclass
class Place:
    """A node: what it has and has left, its values by attribute, and the group's allocations there."""

    cpu: int
    memory: int
    cpu_left: int
    memory_left: int
    slots_left: int = 10**9
    eligible: bool = True
    values: dict[str, str] = field(default_factory=dict)
    held: int = 0


@dataclass
class Want:
    cpu: int
    memory: int
    count: int
    algorithm: str = "binpack"
    affinities: tuple[tuple[str, str, int], ...] = ()  # attribute, value, weight
    spreads: tuple[tuple[str, int, dict[str, int]], ...] = ()  # attribute, weight, percent by value
    alone: bool = False
    limits: tuple[tuple[str, int], ...] = ()  # attribute, most per value


def place(places: list[Place], want: Want, wanted: int) -> list[int]:
    """The node of each allocation in turn. ``places`` are changed."""
    out = []
    for _ in range(wanted):
        scored = [(score(p, places, want), -n) for n, p in enumerate(places) if fits(p, places, want)]
        if not scored:
            break
        number = -max(scored)[1]
        best = places[number]
        best.cpu_left -= want.cpu
        best.memory_left -= want.memory
        best.slots_left -= 1
        best.held += 1
        out.append(number)
    return out


def fits(place: Place, places: list[Place], want: Want) -> bool:
    return (
        place.eligible
        and place.cpu_left >= want.cpu
        and place.memory_left >= want.memory
        and place.slots_left >= 1
        and not (want.alone and place.held)
        and all(
            attribute in place.values and used(places, attribute, place.values[attribute]) < most
            for attribute, most in want.limits
        )
    )


def used(places: list[Place], attribute: str, value: str) -> int:
    return sum(p.held for p in places if p.values.get(attribute) == value)


def score(place: Place, places: list[Place], want: Want) -> Fraction:
    scores = [grains(fit(place, want))]
    if place.held:
        scores.append(-grains((place.held + 1) / want.count))
    if want.affinities:
        total = sum(weight for attribute, value, weight in want.affinities if place.values.get(attribute) == value)
        scores.append(grains(total / sum(abs(weight) for _, _, weight in want.affinities)))
    boost = sum(grains(spread_boost(place, places, want, spread)) for spread in want.spreads)
    if boost:
        scores.append(boost)
    return Fraction(sum(scores), len(scores))


def fit(place: Place, want: Want) -> float:
    cpu, memory = place.cpu_left - want.cpu, place.memory_left - want.memory
    ten = math.log2(10)
    load = float(np.exp2(cpu * (ten / place.cpu))) + float(np.exp2(memory * (ten / place.memory)))
    raw = load - 2 if want.algorithm == "spread" else 20 - load
    raw = max(0.0, min(18.0, raw)) / 18
    return raw - 3 * abs(cpu / place.cpu - memory / place.memory) if want.algorithm == "balanced" else raw


def spread_boost(place: Place, places: list[Place], want: Want, spread: tuple[str, int, dict[str, int]]) -> float:
    attribute, weight, targets = spread
    value = place.values.get(attribute)
    if value is None:
        return -1.0
    mine = used(places, attribute, value)
    if targets:
        rest = 100 - sum(targets.values())
        desired = targets.get(value, max(rest, 0)) / 100 * want.count
        share = weight / sum(each[1] for each in want.spreads)
        return (desired - (mine + 1)) / desired * share if desired > 0 else -1.0
    counts = [used(places, attribute, each) for each in {p.values[attribute] for p in places if attribute in p.values}]
    some = [count for count in counts if count]
    if not some:
        return 0.0
    low, high = min(some), max(some)
    if mine != low:
        return (low - mine) / low
    return -1.0 if low == high else (high - low) / low


def by_node(sequence: list[int]) -> dict[int, int]:
    return {number: sequence.count(number) for number in sorted(set(sequence))}
