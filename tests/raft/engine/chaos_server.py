"""One of several real servers that are killed at random: it proposes whenever it leads and says what was acknowledged.

Arguments: directory, name, and name=port of every server. Once a file "stop" is in the directory, it proposes nothing
more and keeps its applied values in a file that bears its name.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from nomadpy.model.errors import Unavailable
from nomadpy.raft.links import Links
from nomadpy.raft.messages import Message
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.raft.settings import RaftSettings

values: list[bytes] = []


def apply(_index: int, data: bytes) -> None:
    values.append(data)


def freeze() -> Callable[[], bytes]:
    held = list(values)
    return lambda: b" ".join(held)


def restore(_index: int, data: bytes) -> None:
    values[:] = data.split()


async def propose(log: RaftLog, stop: trio.Path, name: str) -> None:
    """Values that nobody else proposes, three at a time."""
    lives = f"{name}.{os.getpid()}"

    async def one(lane: int) -> None:
        number = 0
        while not await stop.exists():
            value = f"{lives}.{lane}.{number}"
            number += 1
            try:
                await log.propose(value.encode(), timeout_s=2)
            except Unavailable:
                await trio.sleep(0.02)
            else:
                print(value, flush=True)

    async with trio.open_nursery() as nursery:
        for lane in range(3):
            nursery.start_soon(one, lane)


async def main(directory: Path, name: str, ports: dict[str, int]) -> None:
    settings = RaftSettings(trailing_entries=50, chunk_bytes=2000).scaled(0.3)

    def send(recipient: str, message: Message) -> None:
        links.send(recipient, message)

    async def connect(peer: str) -> trio.abc.Stream:
        return await trio.open_tcp_stream("127.0.0.1", ports[peer])

    log = RaftLog(
        directory / name, apply, name=name, voters=tuple(sorted(ports)), send=send,
        snapshots=Snapshots(freeze, restore, 300), settings=settings, rng=random.Random(),
    )  # fmt: skip
    links = Links(name, connect=connect, receive=log.receive, lost=log.connection_reset)
    stop = trio.Path(directory / "stop")
    async with trio.open_nursery() as nursery:
        await nursery.start(links.run)
        await nursery.start(log.run)
        listeners = await trio.open_tcp_listeners(ports[name], host="127.0.0.1")
        nursery.start_soon(
            trio.serve_listeners, lambda stream: links.serve(stream, allowed=ports.__contains__), listeners
        )
        await propose(log, stop, name)
        while True:
            (directory / f"{name}.new").write_bytes(b" ".join(values))
            (directory / f"{name}.new").rename(directory / f"{name}.values")
            await trio.sleep(0.1)


if __name__ == "__main__":
    given = dict(argument.split("=") for argument in sys.argv[3:])
    trio.run(main, Path(sys.argv[1]), sys.argv[2], {peer: int(port) for peer, port in given.items()})
