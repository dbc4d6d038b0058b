"""Why each single node may or may not take another allocation of a group: every reason, not only the first."""

from __future__ import annotations

import random

import msgspec
import numpy as np

from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler.eligibility import checks
from nomadpy.scheduler.fleet import Fleet
from nomadpy.scheduler.placement import GroupPlacer
from nomadpy.state.view import StateView


class NodeVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """All reasons against a node, in the words of the metrics; with none, its scores by scorer and their mean."""

    node_id: str
    reasons: tuple[str, ...] = ()
    scores: dict[str, float] = {}
    norm_score: float = 0.0


def explain(
    view: StateView, job: Job, group: TaskGroup, *, fleet: Fleet | None = None, rng: random.Random | None = None
) -> list[NodeVerdict]:
    """A verdict on every node, in order of node number, about one more allocation of the group next to the job's live
    ones. Changes nothing. ``rng`` only matters for ports and may be left out."""
    fleet = Fleet(view) if fleet is None else fleet
    siblings = [alloc for alloc in view.allocs_by_job(job.namespace, job.id) if not alloc.client_terminal()]
    placer = GroupPlacer(fleet, job, group, siblings=siblings, rng=rng or random.Random(0))
    facts = fleet.facts
    against: list[list[str]] = [[] for _ in facts.nodes]
    conditions = [
        ("node is not ready or not eligible", facts.ready),
        ("datacenter", facts.in_datacenters(job.datacenters)),
        ("node pool", facts.in_pool(job.node_pool)),
        *((check.reason, check.passes) for check in checks(facts, job, group)),
        *placer.momentary_conditions(),
    ]
    for reason, passes in conditions:
        for number in np.flatnonzero(~passes).tolist():
            against[number].append(reason)
    verdicts = []
    for number, node in enumerate(facts.nodes):
        if node is None:
            continue
        if not against[number]:
            problem = placer.missing_extras(number)
            against[number] = [problem] if problem else []
        if against[number]:
            verdicts.append(NodeVerdict(node_id=node.id, reasons=tuple(against[number])))
        else:
            [meta] = placer.score(number)
            verdicts.append(NodeVerdict(node_id=node.id, scores=meta.scores, norm_score=meta.norm_score))
    return verdicts
