"""A server starts again with a log that no snapshot shortened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from cluster_bench.figures import Figure
from cluster_bench.raft_world import RaftProcess, free_ports, make_cold, wait_for
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.entries import COMMAND, NO_OP
from nomadpy.raft.wal import Wal

ENTRIES_AT_ONCE = 512


def start(directory: Path, megabytes: int, entry_bytes: int) -> Iterator[Figure]:
    """Written without proposing it, for that is not what is measured; read by a process of the replicated log alone,
    from the disk, whose state machine has nothing to do. Until it leads and has applied everything."""
    directory.mkdir(parents=True)
    n_entries = megabytes * 1_000_000 // (entry_bytes + 25)
    size = write(directory / "s0" / "log", n_entries, entry_bytes)
    began = time.monotonic()
    server = RaftProcess(directory, 0, free_ports(1), ["s0"], None)
    try:
        look = wait_for(lambda: leading(server), "a leader", timeout_s=600)
        took = time.monotonic() - began
    finally:
        server.end()
    assert look["applied"] >= n_entries, f"{look['applied']} entries of {n_entries} were applied"
    note = f"{n_entries} entries of {entry_bytes} bytes; cpu {look['cpu_s']:.1f} s, {look['rss_mb']:.0f} MB of memory"
    yield Figure(f"a server starts with a log of {size / 1e6:.0f} MB", took, "s", at_most=20, note=note)


def leading(server: RaftProcess) -> dict[str, float] | None:
    """Where it stands once it leads."""
    look: dict[str, float] = server.ask("look")
    return look if look["leading"] else None


def write(directory: Path, n_entries: int, entry_bytes: int) -> int:
    """A log of one server with so many committed entries; its size."""
    folder = DiskDirectory(directory)
    wal = Wal(folder, log_id=os.urandom(16))
    wal.append(NO_OP, 1, 0)
    wal.set_state(1, "s0")
    data = COMMAND + os.urandom(entry_bytes - 1)
    for index in range(2, n_entries + 2):
        wal.append(data, index, 1)
        if index % ENTRIES_AT_ONCE == 0:
            wal.sync()
            wal.note_commit(index)
    wal.sync()
    wal.close()
    folder.close()
    return make_cold(directory)
