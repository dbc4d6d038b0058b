"""A process whose journal cannot grow beyond a few kilobytes: says what became of its proposals."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import trio

from nomadpy.model.errors import NomadError
from nomadpy.raft.journal import JournalLog


async def main() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    log = JournalLog(Path(sys.argv[1]), lambda index, data: index)
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        for number in range(8):
            try:
                print(await log.propose(bytes([number]) * 1000), log.is_leader, flush=True)
            except NomadError as error:
                print(error.code, log.is_leader, error.message, flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
