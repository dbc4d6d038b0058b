"""Whole clusters under troubles keep their promises, and the checks can fail.

A thousand seeds: most of a few seconds full of trouble, some of each long profile. They run in processes of their own,
two at once, in which strings have the same order every time. ``scripts/simulate_cluster`` runs more of the same.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_mutations import MUTATIONS, Mutation, search

_ROOT = Path(__file__).parents[2]
_BRIEF_AT_ONCE = 250
_PATIENCE_S = 1200.0
# What happens in every few hundred seeds, or they prove nothing.
_TROUBLES = (
    "acknowledged", "reads", "placements", "tasks_stopped", "leaders", "kills", "pauses", "partitions", "snapshots",
    "installs", "fingerprints", "failures",
)  # fmt: skip


@pytest.mark.parametrize("first", range(0, 1000, 2 * _BRIEF_AT_ONCE))
def test_clusters_in_dense_trouble_keep_their_promises(first: int) -> None:
    for told in _simulate("brief", (first, first + _BRIEF_AT_ONCE), _BRIEF_AT_ONCE):
        for what in _TROUBLES:
            assert not re.search(rf"(?<![\d,])0 {what}\b", told), f"no {what}: {told}"


def test_clusters_in_long_trouble_keep_their_promises() -> None:
    _simulate("long", (0, 1), 1)


def _simulate(profile: str, firsts: tuple[int, ...], seeds: int) -> list[str]:
    """What is told of so many seeds from each of the first ones. Each has to be free of violations, and not idle."""
    arguments = [["-profile", profile, "-first", str(first), "-seeds", str(seeds)] for first in firsts]
    running = [_python("tests/sim/simulate_cluster.py", *each) for each in arguments]
    ended = [(process.communicate(timeout=_PATIENCE_S)[0], process.returncode) for process in running]
    for told, status in ended:
        assert status == 0, told
        assert " 0 violations" in told, told
    return [told for told, _ in ended]


def _python(*arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(path for path in sys.path if path)
    env = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    command = [sys.executable, *arguments]
    return subprocess.Popen(command, env=env, cwd=_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_cluster_is_noticed(mutation: Mutation) -> None:
    assert search(mutation, seeds=40) is not None, f"{mutation.__doc__} No seed noticed."


def test_a_seed_means_the_same_run_in_every_process() -> None:
    code = "from cluster_sim import run_seed; run_seed(2); print(run_seed.digest)"
    running = [_python("-c", code) for _ in range(2)]
    told = {process.communicate(timeout=_PATIENCE_S)[0] for process in running}
    assert all(process.returncode == 0 for process in running), told
    assert len(told) == 1
