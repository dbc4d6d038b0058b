"""From what a person types to the question "how many more would fit": nodes by name, and nodes that do not exist."""

from __future__ import annotations

from collections.abc import Sequence

from nomadpy.model.errors import Invalid
from nomadpy.model.explanation import Capacity
from nomadpy.model.job import Job
from nomadpy.scheduler.capacity import capacity as count_capacity
from nomadpy.scheduler.capacity import parse_extra
from nomadpy.scheduler.decision import Decision
from nomadpy.state.store import StateStore
from nomadpy.state.view import StateView

_SHOWN = 5


def capacity(
    store: StateStore,
    view: StateView,
    job: Job,
    decision: Decision | None,
    *,
    without: Sequence[str],
    extra: Sequence[str],
) -> Capacity:
    """How many more of each group fit after the decision, if there is one. Raises Invalid for nodes that are not
    known, or that are not described as ``CPU,MEM×N``."""
    return count_capacity(
        view,
        job,
        decision,
        without=tuple(dict.fromkeys(find_node(store, typed) for typed in without)),
        extra=tuple(parse_extra(text) for text in extra),
    )


def find_node(store: StateStore, typed: str) -> str:
    """The id of the node that has this id or name, or else whose id begins so. Raises Invalid when none or several
    do."""
    if store.node(typed) is not None:
        return typed
    named = [node for node in store.nodes if node.name == typed]
    found = named or [node for node in store.nodes if typed and node.id.startswith(typed)]
    if len(found) == 1:
        return found[0].id
    if not found:
        raise Invalid(f'no node has the id or name "{typed}"')
    listing = ", ".join(node.id for node in found[:_SHOWN])
    raise Invalid(f'"{typed}" could be {len(found)} nodes; name one by its id: {listing}')
