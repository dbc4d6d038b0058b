"""Servers of a replicated log as processes, for a benchmark that starts and asks them."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nomadpy.cli.certificates import CaRequest, CertRequest, issue, make_ca

SCRIPTS = Path(__file__).resolve().parents[1]


def make_certificates(directory: Path) -> Path:
    """A certificate for servers, with its key and its authority, in ``directory``."""
    now = dt.datetime.now(dt.UTC)
    ca, ca_key = make_ca(CaRequest(), now)
    cert, key = issue(CertRequest(kind="server", days=30), ca, ca_key, now)
    for name, content in (("ca.pem", ca), ("cert.pem", cert), ("key.pem", key)):
        (directory / name).write_bytes(content)
    return directory


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    found: list[int] = []
    while len(found) < count:
        port = random.randint(20000, 30000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


class RaftProcess:
    """One server."""

    def __init__(self, directory: Path, number: int, ports: list[int], voters: list[str], tls: Path | None) -> None:
        words = [str(directory), str(number), ",".join(map(str, ports)), ",".join(voters), str(tls or "-")]
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPTS / "cluster_bench" / "raft_process.py"), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        )

    def ask(self, words: str) -> Any:
        """Says one line and waits for the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Kills it."""
        self.process.kill()
        self.process.wait()


def make_cold(directory: Path) -> int:
    """Has the kernel forget what it holds of the files in a folder, so that they are read from the disk; their size."""
    size = 0
    for path in directory.iterdir():
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size += os.fstat(fd).st_size
        finally:
            os.close(fd)
    return size


def wait_for(look: Callable[[], Any], what: str, *, timeout_s: float = 60.0, pause_s: float = 0.05) -> Any:
    """What ``look`` returns as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(pause_s)
    return found


@contextlib.contextmanager
def raft_processes(directory: Path, size: int, *, tls: bool = False) -> Iterator[tuple[RaftProcess, list[RaftProcess]]]:
    """A running cluster, its leader first."""
    directory.mkdir(parents=True, exist_ok=True)
    certificates = make_certificates(directory) if tls else None
    ports, voters = free_ports(size), [f"s{number}" for number in range(size)]
    processes = [RaftProcess(directory, number, ports, voters, certificates) for number in range(size)]
    try:
        yield wait_for(lambda: next((p for p in processes if p.ask("look")["leading"]), None), "a leader"), processes
    finally:
        for process in processes:
            process.end()


def one_round(leader: RaftProcess, processes: list[RaftProcess]) -> dict[str, dict[str, float]]:
    """Commits and reads, by how many tasks, two seconds each. ``cpu_us`` is the leader's for each, ``all_cpu_us`` that
    of all; ``waited`` the share of the time in which the leader was ready and had no core."""
    return {
        f"{what}-{n_tasks}": _one_rate(leader, processes, f"rate {what} {n_tasks}")
        for what, n_tasks in (("commits", 1), ("commits", 64), ("reads", 1), ("reads", 64))
    }


def _one_rate(leader: RaftProcess, processes: list[RaftProcess], order: str) -> dict[str, float]:
    before, began = [one.ask("look") for one in processes], time.monotonic()
    found: dict[str, float] = leader.ask(order)
    took_s, after = time.monotonic() - began, [one.ask("look") for one in processes]
    at, n_calls = processes.index(leader), found["calls"]
    cpu_s = [now["cpu_s"] - then["cpu_s"] for then, now in zip(before, after, strict=True)]
    waited = (after[at]["waited_s"] - before[at]["waited_s"]) / took_s
    return {**found, "cpu_us": cpu_s[at] / n_calls * 1e6, "all_cpu_us": sum(cpu_s) / n_calls * 1e6, "waited": waited}
