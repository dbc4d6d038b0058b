"""Three real servers on loopback, killed and stopped at random while clients write."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TROUBLE_S = 8.0


class Servers:
    """The processes, and what they said was acknowledged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for one in sockets:
                one.bind(("127.0.0.1", 0))
            self.ports = {name: one.getsockname()[1] for name, one in zip("abc", sockets, strict=True)}
        self.running: dict[str, subprocess.Popen[str]] = {}
        self.acknowledged: list[str] = []
        self._readers: list[threading.Thread] = []

    def start(self, name: str) -> None:
        arguments = [f"{peer}={port}" for peer, port in self.ports.items()]
        process = subprocess.Popen(
            [sys.executable, str(HERE / "chaos_server.py"), str(self.directory), name, *arguments],
            env={**os.environ, "PYTHONPATH": str(HERE.parents[2])},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running[name] = process
        self._readers.append(threading.Thread(target=self._read, args=(process,)))
        self._readers[-1].start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):
                    self.acknowledged.append(line.strip())

    def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        process.wait(10)

    def close(self) -> None:
        for name in list(self.running):
            self.kill(name)
        for reader in self._readers:
            reader.join(10)

    def values(self, name: str) -> list[str]:
        path = self.directory / f"{name}.values"
        return path.read_text().split() if path.exists() else []


def cause_trouble(servers: Servers, rng: random.Random) -> int:
    kills, end = 0, time.monotonic() + TROUBLE_S
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.2, 0.7))  # how long the clients get between two blows
        name = rng.choice(sorted(servers.running))
        if rng.random() < 0.6:
            servers.kill(name)
            kills += 1
            servers.start(name)
        else:
            process = servers.running[name]
            process.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.05, 0.6))  # how long it is frozen
            process.send_signal(signal.SIGCONT)
    return kills


def agreed(servers: Servers) -> bool:
    held = [servers.values(name) for name in servers.ports]
    return bool(held[0]) and held[0] == held[1] == held[2] and set(servers.acknowledged) <= set(held[0])


@pytest.mark.slow
def test_killed_and_frozen_servers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    servers = Servers(tmp_path)
    with contextlib.closing(servers):
        for name in servers.ports:
            servers.start(name)
        kills = cause_trouble(servers, random.Random(11))
        (tmp_path / "stop").touch()
        deadline = time.monotonic() + 30
        while not agreed(servers) and time.monotonic() < deadline:
            time.sleep(0.1)  # the servers write their values every tenth of a second
    values = servers.values("a")
    assert kills > 3
    assert len(servers.acknowledged) > 200
    assert set(servers.acknowledged) - set(values) == set()
    assert len(values) == len(set(values)), "something was applied twice"
    assert values == servers.values("b") == servers.values("c")
