"""Verdicts on single nodes, annotations, and a fleet that lives on."""

from __future__ import annotations

import pytest
from scheduler_world import World, make_group, make_job, make_node, static_port

from nomadpy.model.resources import Constraint
from nomadpy.scheduler import Fleet, explain


def test_every_reason_is_given_for_every_node() -> None:
    world = World(
        make_node(0),
        make_node(1, cpu_mhz=100, drivers=()),
        make_node(2, datacenter="dc9", status="down"),
        make_node(3),
    )
    world.deploy(make_job("holder", group=make_group(ports=static_port(80))))
    linux = Constraint(l_target="${attr.kernel.name}", operand="=", r_target="linux")
    job = make_job(constraints=(linux,), group=make_group(ports=static_port(80)))
    verdicts = explain(world.store, job, job.task_groups[0])
    assert [verdict.reasons for verdict in verdicts] == [
        ("network: reserved port collision http=80",),
        ("missing drivers", "cpu"),
        ("node is not ready or not eligible", "datacenter"),
        (),
    ]
    assert verdicts[3].norm_score == pytest.approx(verdicts[3].scores["binpack"])


def test_a_dry_run_is_annotated_and_creates_what_the_real_one_would() -> None:
    world = World(make_node(0, cpu_mhz=1000))
    world.register(make_job(count=3))
    decision = world.decide(world.evaluation(), annotate=True)
    assert decision.evaluation.plan_annotations is not None
    assert decision.evaluation.plan_annotations.desired_tg_updates["app"].place == 3
    assert world.decide(world.evaluation()).evaluation.plan_annotations is None
    assert [each.status for each in decision.created] == ["blocked"]


def test_a_fleet_hands_its_facts_on_until_nodes_change() -> None:
    world = World(make_node(0))
    first = Fleet(world.store)
    second = Fleet(world.store, first)
    assert second.facts is first.facts
    world.add_node(make_node(1))
    assert Fleet(world.store, second).facts is not first.facts


def test_the_same_question_gets_the_same_answer() -> None:
    def plan(seed: int) -> object:
        world = World(*(make_node(n) for n in range(5)), seed=seed)
        world.register(make_job(count=7))
        return world.decide(world.evaluation()).plan.places[0].nodes

    assert plan(1) == plan(2)
