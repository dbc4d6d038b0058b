"""Two clusters that several tests use one after the other; each test leaves them whole."""

from __future__ import annotations

import os
from collections.abc import Iterator

import cut_network
import pytest
from cluster_agents import Cluster, running_cluster


@pytest.fixture(scope="package")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers and three clients on the loopback."""
    clients = int(os.environ.get("NOMADPY_TEST_CLIENTS", "3"))
    with running_cluster(tmp_path_factory.mktemp("shared"), clients=clients) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    """The shared cluster, whole."""
    return _whole(shared_cluster)


@pytest.fixture(scope="package")
def network() -> Iterator[cut_network.CutNetwork]:
    """Five machines whose links can be cut."""
    reason = cut_network.missing()
    if reason:
        pytest.skip(f"exec: {reason}")
    network = cut_network.CutNetwork(5)
    yield network
    network.close()


@pytest.fixture(scope="package")
def shared_torn(tmp_path_factory: pytest.TempPathFactory, network: cut_network.CutNetwork) -> Iterator[Cluster]:
    """Three servers (1 to 3) and two clients on the network that can be cut."""
    with running_cluster(tmp_path_factory.mktemp("torn"), network, clients=2) as cluster:
        yield cluster


@pytest.fixture
def torn(shared_torn: Cluster, network: cut_network.CutNetwork) -> Iterator[Cluster]:
    """The shared cluster on the network, whole; every cut is healed afterwards."""
    yield _whole(shared_torn)
    network.heal()


def _whole(cluster: Cluster) -> Cluster:
    for machine in cluster.machines:
        if not machine.running:
            machine.start()
    return cluster.wait_whole()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A failed test shows the ends of the agents' logs."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections.append(("agents", value.tail()))
                break
    return report
