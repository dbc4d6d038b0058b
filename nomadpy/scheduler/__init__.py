"""Decides where allocations go. Pure: a view of the state, an evaluation, the time and a source of chance go in, a
decision comes out; the same for the real run, for ``job plan`` and for what-if questions."""

from nomadpy.model.explanation import NodeVerdict
from nomadpy.scheduler.decision import Decision
from nomadpy.scheduler.explain import explain, explain_plan
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.newcomers import Newcomer, Together
from nomadpy.scheduler.schedule import decide, schedule

__all__ = [
    "Decision",
    "Fleet",
    "Newcomer",
    "NodeVerdict",
    "Together",
    "decide",
    "explain",
    "explain_plan",
    "schedule",
]
