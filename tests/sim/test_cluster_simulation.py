"""Whole clusters under troubles keep their promises, and the checks can fail.

``scripts/simulate_cluster`` runs more of the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_mutations import MUTATIONS, Mutation, search
from cluster_sim import run_seed
from pretend_world import PROFILES

_SEEDS_AT_ONCE = 5
_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("first", range(0, 10, _SEEDS_AT_ONCE))
@pytest.mark.parametrize("profile", PROFILES)
def test_a_cluster_keeps_its_promises(profile: str, first: int) -> None:
    for seed in range(first, first + _SEEDS_AT_ONCE):
        totals = run_seed(seed, profile=profile)
        assert totals.acknowledged > 0
        assert totals.fingerprints > 0


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_cluster_is_noticed(mutation: Mutation) -> None:
    assert search(mutation, seeds=40) is not None, f"{mutation.__doc__} No seed noticed."


def test_a_seed_means_the_same_run_in_every_process() -> None:
    code = "from cluster_sim import run_seed; run_seed(2); print(run_seed.digest)"
    path = os.pathsep.join(path for path in sys.path if path)
    digests = set()
    for _ in range(2):
        env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
        done = subprocess.run([sys.executable, "-c", code], env=env, cwd=_ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


def test_troubles_are_there() -> None:
    totals = [run_seed(seed, profile="plain") for seed in range(20, 24)]
    for what in ("kills", "partitions", "snapshots", "installs", "leaders", "placements", "tasks_stopped", "reads"):
        assert sum(getattr(one, what) for one in totals) > 0, what
