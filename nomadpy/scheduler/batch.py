"""The order in which a batch of evaluations is best decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from nomadpy.model.demand import Demand, group_demand
from nomadpy.model.evaluation import Evaluation
from nomadpy.state.view import StateView

Item = TypeVar("Item")


def by_ask(view: StateView, items: Sequence[Item], evaluation_of: Callable[[Item], Evaluation]) -> list[Item]:
    """The items, those first that were first, but evaluations of one priority whose jobs ask for the same together: any
    order of equals is a fair one, and the fleet (``cells``) need not catch up with other asks in between."""
    if len(items) < 3:
        return list(items)
    places: dict[tuple[object, ...], int] = {}
    keyed = []
    asks: dict[int, Demand] = {}  # by the identity of groups, which jobs that were registered together may share
    for item in items:
        evaluation = evaluation_of(item)
        job = view.job(evaluation.namespace, evaluation.job_id)
        ask = None
        if job is not None and job.task_groups:
            ask = asks.get(id(job.task_groups))
            if ask is None:
                ask = asks[id(job.task_groups)] = group_demand(job.task_groups[0])
        keyed.append(((evaluation.priority, ask), item))
    ranks: dict[int, int] = {}
    for (priority, _), _ in keyed:
        ranks.setdefault(priority, len(ranks))
    for (priority, ask), _ in keyed:
        places.setdefault((priority, ask), len(places))
    order = sorted(range(len(keyed)), key=lambda at: (ranks[keyed[at][0][0]], places[keyed[at][0]], at))
    return [keyed[at][1] for at in order]
