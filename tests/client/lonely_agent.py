"""A client in a process of its own, with real tasks and servers that live in a file; killed by a test.

Usage: lonely_agent.py DIRECTORY. Reads ``allocs.json`` (one list of allocations) and appends reports to
``reports.jsonl``.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import msgspec
import trio
from client_world import FakeServers, make_config

from nomadpy.client.client import Client
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.raw_exec import RawExecDriver
from nomadpy.model.alloc import Allocation, AllocUpdate


class FileServers(FakeServers):
    """Assigns what a file says and writes reports down before it acknowledges them."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._log = open(directory / "reports.jsonl", "ab", buffering=0)  # noqa: SIM115 - open for the process's life
        raw = (directory / "allocs.msgpack").read_bytes()
        for alloc in msgspec.msgpack.decode(raw, type=list[Allocation]):
            self.put(alloc)

    async def update_allocs(self, node_id: str, secret_id: str, updates: list[AllocUpdate]) -> int:
        for update in updates:
            self._log.write(msgspec.msgpack.encode(update).hex().encode() + b"\n")
        return await super().update_allocs(node_id, secret_id, updates)


async def main(directory: Path) -> None:
    driver = RawExecDriver(
        DriverContext(plugin_config={"enabled": True}, data_dir=str(directory / "driver"), node_name="node-1")
    )
    config = make_config(directory, host_env={"PATH": os.environ["PATH"]})
    client = Client(config, FileServers(directory), {"raw_exec": driver})
    async with trio.open_nursery() as nursery:
        await nursery.start(client.run)
        (directory / "up").touch()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    trio.run(main, Path(sys.argv[1]))
