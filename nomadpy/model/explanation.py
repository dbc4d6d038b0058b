"""Answers to "why there, why not, and how many more": nothing of this is stored, and Nomad has none of it."""

from __future__ import annotations

from nomadpy.model.alloc import Help
from nomadpy.model.naming import Noun


class Obstacle(Noun):
    """One reason against a node. ``reason`` is what the metrics of a failed placement count it under, ``detail`` the
    sentence with what was found there; ``asked`` and ``free`` are numbers where there are any (MHz, MB, pieces)."""

    kind: str = ""
    reason: str = ""
    detail: str = ""
    asked: int = 0
    free: int = 0


class NodeVerdict(Noun):
    """Every reason against a node or, when there is none, its scores by scorer and their mean. ``holds`` is how many
    live allocations of the group are there."""

    node_id: str = ""
    node_name: str = ""
    node_class: str = ""
    datacenter: str = ""
    node_pool: str = ""
    holds: int = 0
    fits: bool = False
    obstacles: tuple[Obstacle, ...] = ()
    scores: dict[str, float] = {}
    norm_score: float = 0.0

    @property
    def reasons(self) -> tuple[str, ...]:
        """The obstacles in the words of the metrics."""
        return tuple(obstacle.reason for obstacle in self.obstacles)


class Refusal(Noun):
    """Nodes that are refused for the same reasons: how many, and the ids of the first of them."""

    reasons: tuple[str, ...] = ()
    count: int = 0
    nodes: tuple[str, ...] = ()


class GroupExplanation(Noun):
    """What speaks for and against each node for one more allocation of a group.

    ``after_plan`` tells whether the nodes are shown as the plan leaves them (the group was not placed completely: why
    nothing more fits) or as it found them (everything was placed: why there). ``nodes`` has the best first and then the
    refused ones; on large clusters it is cut, while ``refusals`` always counts every node.
    """

    after_plan: bool = False
    unplaced: int = 0
    node_count: int = 0
    fit_count: int = 0
    nodes: tuple[NodeVerdict, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    would_help: tuple[Help, ...] = ()


class ExtraNodes(Noun):
    """Nodes that do not exist: ``count`` of them, with what each has for allocations. ``disk_mb`` 0 is as much as the
    node it is modelled on. ``like`` is the id of that node, "" when none suits the job."""

    cpu: int = 0
    memory_mb: int = 0
    disk_mb: int = 0
    count: int = 1
    like: str = ""


class GroupCapacity(Noun):
    """How many more allocations of one group fit, if no other group gets any.

    ``limits`` has for each dimension on how many suitable nodes it is the one that runs out first; a node where several
    do at once counts under each. ``exact`` is False when counting was cut short: then ``fits`` is a lower bound.
    ``displaced`` allocations of the group run on nodes that the question takes away, and need a part of ``fits``.
    """

    fits: int = 0
    suitable: int = 0
    nodes: int = 0
    limits: dict[str, int] = {}
    runs_out_first: str = ""
    displaced: int = 0
    exact: bool = True
    asked: dict[str, int] = {}


class Capacity(Noun):
    """How many more of each group fit, under the question's assumptions."""

    job_id: str = ""
    namespace: str = ""
    groups: dict[str, GroupCapacity] = {}
    without: tuple[str, ...] = ()
    with_: tuple[ExtraNodes, ...] = ()
