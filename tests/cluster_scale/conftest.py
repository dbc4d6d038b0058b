"""Clusters of real agents that lose, gain and change servers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "cluster"))

from cluster_agents import Cluster, running_cluster
from hasty_settings import HASTY


@pytest.fixture(scope="package")
def shared_hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers and a client."""
    with running_cluster(tmp_path_factory.mktemp("hasty"), clients=1, more=HASTY) as cluster:
        config = cluster.get("/v1/operator/autopilot/configuration")
        cluster.ask("PUT", "/v1/operator/autopilot/configuration", {**config, "ServerStabilizationTime": "1s"})
        yield cluster


@pytest.fixture
def hasty(shared_hasty: Cluster) -> Cluster:
    """The shared cluster, whole."""
    for machine in shared_hasty.machines:
        if not machine.running:
            machine.start()
    return shared_hasty.wait_whole()
