"""Commits and reads through three processes of the replicated log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cluster_bench.figures import Figure
from cluster_bench.raft_world import raft_processes


def run(directory: Path, full: bool) -> Iterator[Figure]:
    """In the clear, then with mutual TLS."""
    plain = measure(directory / "plain", tls=False)
    yield from figures("in the clear", plain)
    secret = measure(directory / "tls", tls=True)
    yield from figures("mutual TLS", secret)
    share = 100 * (1 - secret["commits-64"]["rate"] / plain["commits-64"]["rate"])
    yield Figure("commits lost to TLS", share, "%", at_most=30)


def measure(directory: Path, *, tls: bool) -> dict[str, dict[str, float]]:
    """The leader's own figures, and what 64 proposers cost it."""
    with raft_processes(directory, 3, tls=tls) as (leader, _):
        found: dict[str, dict[str, float]] = leader.ask("rates")
    return found


def figures(how: str, found: dict[str, dict[str, float]]) -> Iterator[Figure]:
    """As lines."""
    many, one, read = found["commits-64"], found["commits-1"], found["reads-1"]
    cpu = f"leader's cpu {many['cpu_us']:.0f} us a commit, which alone would allow {1e6 / many['cpu_us']:,.0f}/s"
    yield Figure(f"64 proposers, {how}", many["rate"], "/s", at_least=15_000, note=cpu)
    yield Figure(f"64 proposers, {how}, p50", many["p50_ms"], "ms")
    yield Figure(f"64 proposers, {how}, p99", many["p99_ms"], "ms", at_most=10)
    yield Figure(f"1 proposer, {how}, p50", one["p50_ms"], "ms", at_most=1.5)
    yield Figure(f"ReadIndex, 1 reader, {how}, p50", read["p50_ms"], "ms", at_most=1)
    yield Figure(f"ReadIndex, 64 readers, {how}", found["reads-64"]["rate"], "/s")
