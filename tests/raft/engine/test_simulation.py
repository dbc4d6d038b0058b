"""Clusters under many seeds: no invariant is ever broken, and everyone agrees again once the troubles end."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reference import Reference
from sim import PROFILES, Factory, Simulation, Totals, Violation, World, add, run_seed

from nomadpy.raft.core import Core

HERE = Path(__file__).resolve().parent
OURS: tuple[Factory, ...] = (Core,)
BESIDE: tuple[Factory, ...] = (functools.partial(Core, reads_beside=True),)
MIXED: tuple[Factory, ...] = (Core, Reference)


def run(profile: str, n_seeds: int, factories: tuple[Factory, ...] = OURS) -> Totals:
    totals = Totals()
    for seed in range(n_seeds):
        totals = add(totals, run_seed(seed, profile=profile, factories=factories))
    # A run in which nothing happens proves nothing.
    assert totals.acknowledged > 50 * n_seeds
    assert totals.reads > 10 * n_seeds
    assert totals.kills > n_seeds
    assert totals.elections > 2 * n_seeds
    return totals


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"hostile", "harsh"}))
def test_the_invariants_hold(profile: str) -> None:
    totals = run(profile, 60)
    assert totals.installs > 60
    assert totals.converged == 60
    assert (totals.changes > 30) == (profile == "members")


def test_the_invariants_hold_on_a_harsh_network() -> None:
    assert run("harsh", 40).converged >= 38


@pytest.mark.parametrize("profile", ["plain", "members"])
def test_the_invariants_hold_where_snapshots_are_read_beside_the_cycles(profile: str) -> None:
    totals = run(profile, 25, BESIDE)
    assert totals.installs > 20
    assert totals.converged == 25


def test_the_invariants_hold_when_power_fails_often() -> None:
    totals = Totals()
    for seed in range(60):
        totals = add(totals, run_seed(seed, profile="hostile"))
    assert totals.kills > 600


@pytest.mark.parametrize("profile", ["plain", "members"])
def test_the_reference_keeps_the_same_invariants(profile: str) -> None:
    assert run(profile, 20, (Reference,)).converged == 20


@pytest.mark.parametrize("profile", ["plain", "members", "fifo"])
def test_both_agree_in_one_cluster(profile: str) -> None:
    assert run(profile, 20, MIXED).converged >= 19


def test_a_server_may_change_its_engine_over_its_files() -> None:
    """Every restart takes the other engine, over the same log and snapshots."""
    for seed in range(20):
        made: dict[str, int] = {}

        def alternate(name: str, *rest: object, made: dict[str, int] = made, **more: object) -> object:
            made[name] = made.get(name, 0) + 1
            return (Core if made[name] % 2 else Reference)(name, *rest, **more)

        simulation = Simulation(seed, factories=(alternate,))
        assert simulation.run().kills > 0
        assert max(made.values()) > 1


def test_a_seed_is_the_same_run_every_time() -> None:
    program = (
        "import sim; s = sim.Simulation(11, n_servers=5, profile=sim.PROFILES['members']); print(s.run(), s.digest)"
    )
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": f"{HERE}:{HERE.parents[2]}"}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


def test_a_failing_seed_says_how_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise Violation("election safety", "made up")

    monkeypatch.setattr(World, "note_leader", broken)
    with pytest.raises(Violation) as caught:
        run_seed(3)
    assert caught.value.__notes__ == ["again with: scripts/simulate_raft -profile plain -from 3 -seeds 1"]
