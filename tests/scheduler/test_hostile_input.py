"""Whatever a job or a node says, a decision is made: no text makes the scheduler fail or take long."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, make_group, make_job, make_node, make_task

from nomadpy.model.job import UpdateStrategy
from nomadpy.model.patterns import parse_version, parse_version_constraint
from nomadpy.model.resources import (
    Affinity,
    Constraint,
    DeviceAttribute,
    DeviceInstance,
    NodeDevice,
    RequestedDevice,
    Resources,
    Spread,
    SpreadTarget,
)
from nomadpy.scheduler.devices import attribute_text, base_units, meets
from nomadpy.scheduler.operators import holds
from nomadpy.scheduler.ports import parse_ports

OPERANDS = (
    *("=", "==", "is", "!=", "not", "<", "<=", ">", ">=", "regexp", "version", "semver", "set_contains"),
    *("set_contains_all", "set_contains_any", "is_set", "is_not_set", "distinct_hosts", "distinct_property", "", "?"),
)
NASTY = (
    *("", " ", "\0", "²", "٣", "1e999", "-", "+", ".", "..", "1.", "nan", "inf", "-inf", "${", "}", "${attr.", "é" * 9),
    *("9" * 30, "9" * 5000, "-" + "9" * 5000, "0" * 5000 + "1", "1." * 900, "v" * 5000, ">" * 5000, "(" * 500, "[a"),
    *("1-" + "1" * 5000 + "!", "> " + " " * 5000 + "x", "9" * 5000 + "x", "a{1000}", "(a*)*b", "(?P<n>a)", "\\"),
    *("²GiB", "1e3 MiB", "٣ W", "9" * 400 + " kB", "1.2.3", ">= 1.2, < 2", "~> 1", "1-3,5", "70000", "5-1", "1-²"),
)
texts = st.sampled_from(NASTY) | st.text(max_size=40) | st.builds("".join, st.lists(st.sampled_from(NASTY), max_size=3))


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(OPERANDS), texts, texts)
def test_every_comparison_has_an_answer(operand: str, left: str, right: str) -> None:
    assert holds(operand, left, right) in (True, False)
    assert holds(operand, None, right) in (True, False)
    assert holds(operand, left, None) in (True, False)
    device = NodeDevice(vendor=left, type="gpu", attributes={"a": DeviceAttribute(string=left)})
    for target in ("${device.vendor}", "${device.attr.a}", "${device.nothing}", left):
        assert meets(device, Constraint(l_target=target, operand=operand, r_target=right)) in (True, False)


@settings(max_examples=300, deadline=None)
@given(texts)
def test_every_text_is_read(text: str) -> None:
    assert 0 <= parse_ports(text) < 1 << 65_536
    assert isinstance(base_units(text), str)
    parse_version(text)
    parse_version(text, strict=True)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1e308])
def test_a_device_may_report_any_number(value: float) -> None:
    assert attribute_text(DeviceAttribute(float_=value, unit="EiB"))


def test_numbers_are_compared_as_numbers_as_long_as_they_are_numbers() -> None:
    assert holds("<", "9", "10")
    assert holds("<", "0" * 50 + "9", "10")
    assert holds("<", "9" * 25, "1" + "0" * 30)
    assert holds("<", "1.5", "1e3")
    assert holds("<", "10", "9x")


def test_versions_of_absurd_length_are_none() -> None:
    assert parse_version("1." * 200 + "1") is None
    with pytest.raises(ValueError, match="alformed"):
        parse_version_constraint(">= " + "1." * 200 + "1")
    assert parse_version_constraint(" >=  1.2 ,  < 2 ").matches("1.5")


def anything(rng: random.Random) -> str:
    return rng.choice(NASTY)


def hostile(rng: random.Random) -> dict[str, Any]:
    """Parts of a job as nobody would write them; much of it would be refused when it is registered."""
    targets = (*NASTY, "${attr.a}", "${meta.b}", "${node.unique.id}", "${node.datacenter}", "${nothing}")
    constraints = tuple(
        Constraint(l_target=rng.choice(targets), operand=rng.choice(OPERANDS), r_target=rng.choice(targets))
        for _ in range(rng.randint(0, 2))
    )
    affinities = tuple(
        Affinity(l_target=rng.choice(targets), operand="=", r_target=anything(rng), weight=rng.choice((1, -100, 10**9)))
        for _ in range(rng.randint(0, 2))
    )
    spreads = tuple(
        Spread(
            attribute=rng.choice(targets),
            weight=rng.choice((0, 1, 100, 10**9)),
            spread_target=tuple(
                SpreadTarget(value=anything(rng), percent=rng.choice((0, 50, 300))) for _ in range(rng.randint(0, 3))
            ),
        )
        for _ in range(rng.randint(0, 2))
    )
    return {"constraints": constraints, "affinities": affinities, "spreads": spreads}


@pytest.mark.parametrize("seed", range(150))
def test_every_job_gets_its_decision(seed: int) -> None:
    rng = random.Random(seed)
    devices = (NodeDevice(vendor="v", type="gpu", name="n", instances=(DeviceInstance(id="1", healthy=True),)),)
    world = World(
        *(
            make_node(n, attributes={"a": anything(rng)}, meta={"b": anything(rng)}, resources={"devices": devices})
            for n in range(3)
        )
    )
    wanted = (RequestedDevice(name="gpu", constraints=hostile(rng)["constraints"]),) if rng.random() < 0.3 else ()
    task = make_task(resources=Resources(cpu=10, memory_mb=10, devices=wanted))
    update = UpdateStrategy(
        max_parallel=rng.choice((-1, 0, 1, 10**9)),
        canary=rng.choice((-1, 0, 2, 10**6)),
        progress_deadline_ns=rng.choice((-1, 0, 1)),
    )
    group = make_group(count=rng.choice((0, 1, 4)), task=task, update=update, **hostile(rng))
    job = make_job(type=rng.choice(("service", "batch")), group=group, **hostile(rng))
    world.deploy(job.replace(priority=rng.choice((-(10**9), 0, 50, 10**9))))
    world.deploy(job.replace(meta={"again": "1"}))
    world.set_node(0, "down")
    world.run()
