"""The file that says how a task ended: written once, durable before anybody is told."""

from __future__ import annotations

import os

EXIT_FILE = "exit"
_LAST_LINE = "end"


def write(run_dir: str, facts: dict[str, str]) -> None:
    """Stores the facts under ``run_dir`` so that they survive a crash of the machine: either all or nothing."""
    lines = [f"{key} {' '.join(value.split())}" for key, value in facts.items()]
    data = os.fsencode("\n".join([*lines, _LAST_LINE, ""]))
    temporary = f"{run_dir}/{EXIT_FILE}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, f"{run_dir}/{EXIT_FILE}")
    directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read(run_dir: str) -> dict[str, str] | None:
    """The facts, or None when there is no complete record."""
    try:
        with open(f"{run_dir}/{EXIT_FILE}", "rb") as file:
            lines = os.fsdecode(file.read()).split("\n")
    except FileNotFoundError:
        return None
    if len(lines) < 2 or lines[-2] != _LAST_LINE:
        return None
    return dict(line.partition(" ")[::2] for line in lines[:-2])
