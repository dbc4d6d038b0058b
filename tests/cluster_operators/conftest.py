"""A cluster with encrypted gossip that the tests of operators share, and machines that want to join it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cluster"))

from cluster_agents import Cluster, Machine, running_cluster

KEY = "I+ey04+mZsbOGINtCLVuYbU0+tgqyJtu22VvYmUpFs8="
Join = Callable[..., Machine]


@pytest.fixture(scope="package")
def operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three servers and a client whose gossip is encrypted."""
    more = f'server {{\n encrypt = "{KEY}"\n min_heartbeat_ttl = "3s"\n heartbeat_grace = "4s"\n}}\n'
    with running_cluster(tmp_path_factory.mktemp("operated"), clients=1, more=more) as cluster:
        yield cluster


@pytest.fixture
def joining(operated: Cluster, tmp_path: Path) -> Iterator[Join]:
    """``joining(number, name, *flags)`` starts a further agent that knows the first server; it ends with the test."""
    started: list[Machine] = []

    def join(number: int, name: str, *flags: str, encrypt: str = KEY) -> Machine:
        directory = tmp_path / name
        config = tmp_path / f"{name}.hcl"
        config.write_text(f'server {{ encrypt = "{encrypt}" }}\n' if encrypt else "")
        first = operated.servers[0].address
        look = ["-retry-join", first] if "-server" in flags else ["-servers", first]
        machine = Machine(operated.net, number, name, directory, [*flags, *look, "-config", str(config)])
        started.append(machine)
        return machine.start()

    yield join
    for machine in started:
        machine.api.close()
        if machine.running:
            machine.kill()
        assert not machine.faults()
