"""A server that proposes for ever and says what was acknowledged; made to be killed. Arguments: directory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import trio

from nomadpy.raft.raftlog import RaftLog, Snapshots

values: list[bytes] = []


def apply(_index: int, data: bytes) -> None:
    values.append(data)


def freeze() -> Callable[[], bytes]:
    held = list(values)
    return lambda: b",".join(held)


def restore(_index: int, data: bytes) -> None:
    values[:] = data.split(b",")


async def main(directory: Path) -> None:
    log = RaftLog(directory, apply, name="a", snapshots=Snapshots(freeze, restore, 100))
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        print("held", b" ".join(values).decode(), flush=True)
        number = len(values)
        while True:
            await log.propose(b"%d" % number)
            print("acknowledged", number, flush=True)
            number += 1


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
