"""A real process, killed again and again while it writes, compacts and snapshots."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run_and_kill(directory: Path, seconds: float) -> tuple[list[int], int]:
    """(what it held at the start, the last number it said was acknowledged)."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "killed_log.py"), str(directory)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    held: list[int] = []
    acknowledged, end = -1, float("inf")
    for line in process.stdout:
        word, _, rest = line.strip().partition(" ")
        if word == "held":
            held = [int(number) for number in rest.split()]
            end = time.monotonic() + seconds
        elif line.endswith("\n"):
            acknowledged = int(rest)
        if time.monotonic() > end:
            process.kill()
            break
    for line in process.stdout:
        if line.startswith("acknowledged") and line.endswith("\n"):
            acknowledged = int(line.split()[1])
    process.wait(10)
    process.stdout.close()
    return held, acknowledged


def test_a_killed_server_keeps_everything_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(5)
    newest = -1
    for _ in range(6):
        held, acknowledged = run_and_kill(tmp_path, rng.uniform(0.05, 0.4))
        assert held == list(range(len(held)))
        assert len(held) > newest
        newest = max(newest, acknowledged, len(held) - 1)
    assert newest > 200
