"""Commits and reads through three processes of the replicated log."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from cluster_bench.figures import Figure
from cluster_bench.raft_world import one_round, raft_processes

Round: TypeAlias = dict[str, dict[str, float]]


def run(directory: Path, full: bool = False, *, rounds: int = 3, tls: bool = True) -> Iterator[Figure]:
    """In the clear and, in turns with that, with mutual TLS: what else the machine does then strikes both alike."""
    plain: list[Round] = []
    secret: list[Round] = []
    with contextlib.ExitStack() as stack:
        clear = stack.enter_context(raft_processes(directory / "plain", 3))
        locked = stack.enter_context(raft_processes(directory / "tls", 3, tls=True)) if tls else None
        for _ in range(rounds):
            plain.append(one_round(*clear))
            if locked is not None:
                secret.append(one_round(*locked))
    yield from figures("in the clear", plain)
    if secret:
        yield from figures("mutual TLS", secret)
        for what, limit, share in (
            ("commits lost to TLS, 64 proposers", 30, lost_rate),
            ("more cpu for a commit with TLS", None, more_cpu),
        ):
            each = sorted(100 * share(one, other) for one, other in zip(plain, secret, strict=True))
            note = f"{each[0]:.0f} to {each[-1]:.0f} % in {rounds} rounds"
            yield Figure(what, statistics.median(each), "%", at_most=limit, note=note)


def lost_rate(plain: Round, secret: Round) -> float:
    """The share of commits that TLS costs."""
    return 1 - secret["commits-64"]["rate"] / plain["commits-64"]["rate"]


def more_cpu(plain: Round, secret: Round) -> float:
    """How much more cpu a commit takes with it."""
    return secret["commits-64"]["all_cpu_us"] / plain["commits-64"]["all_cpu_us"] - 1


def medians(rounds: list[Round]) -> Round:
    """Of each figure by itself."""
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in figures}
        for name, figures in rounds[0].items()
    }


def figures(how: str, rounds: list[Round]) -> Iterator[Figure]:
    """As lines: medians, and from what to what the rounds went."""
    found = medians(rounds)
    many, one, read = found["commits-64"], found["commits-1"], found["reads-1"]
    cpu = f"cpu {many['cpu_us']:.0f} us a commit in the leader, {many['all_cpu_us']:.0f} us in all three"
    syncs = f"syncs p50 {many['sync_p50_ms']:.1f}, p99 {many['sync_p99_ms']:.1f} ms"
    noise = f"{syncs}; no core {many['waited']:.0%} of the time"
    rates, p99s = (sorted(one["commits-64"][key] for one in rounds) for key in ("rate", "p99_ms"))
    each = f"{rates[0]:,.0f} to {rates[-1]:,.0f}; {cpu}"
    yield Figure(f"64 proposers, {how}", many["rate"], "/s", at_least=15_000, note=each)
    yield Figure(f"64 proposers, {how}, p50", many["p50_ms"], "ms")
    yield Figure(
        f"64 proposers, {how}, p99", many["p99_ms"], "ms", at_most=10, note=f"{p99s[0]:.1f} to {p99s[-1]:.1f}; {noise}"
    )
    yield Figure(f"1 proposer, {how}, p50", one["p50_ms"], "ms", at_most=1.5, note=f"p99 {one['p99_ms']:.1f} ms")
    yield Figure(f"ReadIndex, 1 reader, {how}, p50", read["p50_ms"], "ms", at_most=1)
    yield Figure(f"ReadIndex, 64 readers, {how}", found["reads-64"]["rate"], "/s")
