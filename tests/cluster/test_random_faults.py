"""Some rounds of ``scripts/chaos``; a failure names the seed, which repeats the faults."""

from __future__ import annotations

import pytest
from chaos import Chaos
from cluster_agents import Cluster


@pytest.mark.parametrize("seed", [7])
def test_random_faults_lose_and_confuse_nothing(torn: Cluster, seed: int) -> None:
    chaos = Chaos(torn, seed)
    chaos.begin()
    for number in range(1, 3):
        print(chaos.round(number))
    print(chaos.figures())
    torn.purge("chaos-tasks")
