"""A process that writes a journal until it is killed: every number it prints was acknowledged before.

journal_writer.py DIRECTORY LIFE N_PROPOSERS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import trio

from nomadpy.raft.journal import JournalLog


async def propose_for_ever(log: JournalLog, life: str, proposer: int) -> None:
    number = 0
    while True:
        entry = f"{life}/{proposer}/{number}"
        await log.propose(entry.encode())
        os.write(1, entry.encode() + b"\n")
        number += 1


async def main() -> None:
    directory, life, n_proposers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    log = JournalLog(directory, lambda index, data: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        os.write(1, b"ready\n")
        for proposer in range(n_proposers):
            nursery.start_soon(propose_for_ever, log, life, proposer)


if __name__ == "__main__":
    trio.run(main)
