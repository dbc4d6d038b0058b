"""A node is emptied while another one takes over, by the command line and real clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio
from agent import job
from two_nodes import TwoNodes, two_nodes

from nomadpy.model.time import MILLISECOND

PACE = {"MaxParallel": 1, "HealthCheck": "task_states", "MinHealthyTime": 300 * MILLISECOND}


def service(count: int) -> dict[str, Any]:
    """A job that is healthy soon after its start."""
    return job("web", count=count, Migrate=PACE, Update=PACE)


async def lose_one_at_a_time(cluster: TwoNodes, job_id: str, *, at_least: int) -> None:
    """Checks with every change that enough of the job stays up; runs until cancelled."""
    while True:
        await cluster.server.watch.changed("allocs")
        up = len(cluster.running(job_id, 0)) + len(cluster.running(job_id, 1))
        assert up >= at_least, f"only {up} of {job_id} were running"


def told(output: bytes) -> list[str]:
    """What the command said, without the times."""
    return [line.partition(": ")[2] for line in output.decode().splitlines() if line.startswith("20")]


async def test_a_node_is_drained_while_the_service_stays_up(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as cluster:
        first, second = cluster.node_id(0), cluster.node_id(1)
        assert (await cluster.cli("node", "eligibility", "-disable", second)).returncode == 0
        await cluster.run(service(3))
        await cluster.run(job("everywhere", type="system"))
        healthy = "three healthy allocations"
        await cluster.until(lambda: len(cluster.running("web", 0)) == 3, healthy)
        await cluster.until(lambda: len(cluster.running("everywhere", 0)) == 1, "the system job")
        assert (await cluster.cli("node", "eligibility", "-enable", second)).returncode == 0
        await cluster.until(lambda: len(cluster.running("everywhere", 1)) == 1, "the system job")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: lose_one_at_a_time(cluster, "web", at_least=2))
            ended = await cluster.cli("node", "drain", "-enable", "-yes", "-m", "new disk", first[:8])
            nursery.cancel_scope.cancel()

        assert ended.returncode == 0, ended.stderr
        said = told(ended.stdout)
        assert said[0] == "Allocations on the node: 3 service, 1 system"
        assert sum("of job web has stopped (complete)" in line for line in said) == 3
        assert any("of job everywhere has stopped (complete)" in line for line in said)
        assert said[-1] == "Everything that had to leave the node has stopped"
        assert len(cluster.running("web", 1)) == 3
        assert cluster.running("web", 0) + cluster.running("everywhere", 0) == []
        node = cluster.server.store.node(first)
        assert node is not None
        assert node.last_drain is not None
        assert (node.last_drain.status, node.last_drain.meta) == ("complete", {"message": "new disk"})
        shown = (await cluster.cli("node", "status", first)).stdout.decode()
        assert "Node drain complete" in shown
        assert "ineligible" in shown


async def test_batch_work_keeps_a_drain_open_until_somebody_ends_it(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as cluster:
        first, second = cluster.node_id(0), cluster.node_id(1)
        await cluster.cli("node", "eligibility", "-disable", second)
        await cluster.run(job("sums", type="batch"))
        await cluster.until(lambda: len(cluster.running("sums", 0)) == 1, "the batch job")
        begun = await cluster.cli("node", "drain", "-enable", "-no-deadline", "-detach", first)
        assert begun.stdout.decode() == f'Node "{first}" drain strategy set\n'
        followed: list[Any] = []

        async def follow() -> None:
            followed.append(await cluster.cli("node", "drain", "-monitor", first))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            shown = (await cluster.cli("node", "status", first)).stdout.decode()
            assert "true; no deadline" in shown
            ended = await cluster.cli("node", "drain", "-disable", "-keep-ineligible", first)
            assert "takes no new work" in ended.stdout.decode()
        # The follower may have begun after the end.
        assert (followed[0].returncode, b"ended before" in followed[0].stdout) in ((1, True), (0, False))
        assert len(cluster.running("sums", 0)) == 1
        again = await cluster.cli("node", "drain", "-enable", "-force", first)
        assert again.returncode == 0, again.stderr
        assert told(again.stdout)[-1] == "Everything that had to leave the node has stopped"
        assert cluster.running("sums", 0) + cluster.running("sums", 1) == []
