"""One server of a replicated log in a process of its own: the real log, links, listener and dialer, and a state that is
a list of bytes. It obeys one order a line on its standard input and answers with one JSON line.

    raft_process.py DIRECTORY NUMBER PORTS VOTERS TLS   (numbers from 0; ports and voters joined by commas; "-": no TLS)
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from nomadpy.agent.collector import collect_seldom
from nomadpy.model.errors import NomadError
from nomadpy.raft.links import Links
from nomadpy.raft.messages import Message
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.raft.settings import RaftSettings
from nomadpy.rpc.dial import Dialer
from nomadpy.rpc.frames import SERVER, Hello
from nomadpy.rpc.handlers import Handlers
from nomadpy.rpc.listener import Listener
from nomadpy.rpc.tls import RpcTls, RpcTlsFiles

SECONDS = 2.0
DATA = bytes(200)
PART = 1 << 20


class Parts:
    """A state machine: bytes that were proposed, in their order."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def apply(self, index: int, data: bytes) -> int:
        if len(data) == PART:
            self.parts.append(data)
            self.size += len(data)
        return index

    def freeze(self) -> Callable[[], bytes]:
        parts = list(self.parts)
        return lambda: b"".join(parts)

    def prepare(self, index: int, data: bytes) -> Callable[[], None]:
        def swap() -> None:
            self.parts, self.size = [data], len(data)

        return swap

    def restore(self, index: int, data: bytes) -> None:
        self.prepare(index, data)()


class SyncTimes:
    """How long each sync of a file takes from now on."""

    def __init__(self) -> None:
        self.took_s: list[float] = []
        self._sync = os.fdatasync
        os.fdatasync = self._timed

    def _timed(self, fd: int) -> None:
        began = time.perf_counter()
        self._sync(fd)
        self.took_s.append(time.perf_counter() - began)

    def percentile_ms(self, percent: int) -> float:
        """Of those since the last call of ``clear``."""
        return sorted(self.took_s)[len(self.took_s) * percent // 100] * 1000 if self.took_s else 0.0


def waited_s() -> float:
    """For how long this process's loop was ready to run and had no core, in all."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


async def rate(call: Callable[[], Awaitable[object]], n_tasks: int) -> dict[str, float]:
    """How often and how fast ``call`` is done by so many tasks."""
    took_s: list[float] = []
    end = time.perf_counter() + SECONDS

    async def repeat() -> None:
        while time.perf_counter() < end:
            started = time.perf_counter()
            await call()
            took_s.append(time.perf_counter() - started)

    async with trio.open_nursery() as nursery:
        for _ in range(n_tasks):
            nursery.start_soon(repeat)
    took_s.sort()
    p50, p99 = took_s[len(took_s) // 2] * 1000, took_s[len(took_s) * 99 // 100] * 1000
    return {"calls": len(took_s), "rate": len(took_s) / SECONDS, "p50_ms": p50, "p99_ms": p99}


class Process:
    """What the words do."""

    def __init__(self, directory: Path, number: int, ports: list[int], voters: list[str], tls: RpcTls | None) -> None:
        self.ports, self.number, self.state = ports, number, Parts()
        every = int(os.environ.get("BENCH_SNAPSHOT_EVERY", 1 << 30))
        self.name = f"s{number}"
        self.log = RaftLog(
            directory / self.name,
            self.state.apply,
            name=self.name,
            voters=tuple(voters),
            send=self._send,
            snapshots=Snapshots(self.state.freeze, self.state.restore, every, self.state.prepare),
            settings=RaftSettings(trailing_entries=1),
        )
        self._dialer, self._tls, self._syncs = Dialer(tls), tls, SyncTimes()
        self.links = Links(
            self.name, connect=self._connect, receive=self.log.receive, lost=self.log.connection_reset, cluster_id="b"
        )

    def _send(self, recipient: str, message: Message) -> None:
        self.links.send(recipient, message)

    async def _connect(self, server: str) -> trio.abc.Stream:
        try:
            return await self._dialer.raft(f"127.0.0.1:{self.ports[int(server[1:])]}")
        except NomadError as error:
            raise OSError(error.message) from error

    async def _serve(self, stream: trio.abc.Stream, names: frozenset[str], address: str) -> None:
        await self.links.serve(stream, allowed=lambda name: True)

    async def run(self) -> None:
        listeners = await trio.open_tcp_listeners(self.ports[self.number], host="127.0.0.1")
        hello = Hello(role=SERVER, name=self.name, id=self.name, region="global", build="0")
        listener = Listener(listeners, hello=hello, handlers=Handlers(), raft=self._serve, tls=self._tls)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.links.run)
            await nursery.start(listener.run)
            await nursery.start(self.log.run)
            # As in an agent.
            nursery.start_soon(collect_seldom, lambda: False)
            await self._obey()
            nursery.cancel_scope.cancel()

    async def _obey(self) -> None:
        buffer = b""
        while data := await trio.lowlevel.FdStream(os.dup(0)).receive_some(4096):
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                word, *rest = line.decode().split()
                answer = await getattr(self, f"do_{word}")(*rest)
                print(json.dumps(answer), flush=True)

    async def do_look(self) -> dict[str, Any]:
        """Where it stands."""
        figures = self.log.statistics()
        return {
            "leading": self.log.leadership.leading,
            "applied": figures.applied_index,
            "size": self.state.size,
            "snapshot": self.log._snapshot_at,
            "cpu_s": time.process_time(),
            "waited_s": waited_s(),
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    async def do_rate(self, what: str, n_tasks: str) -> dict[str, float]:
        """``commits`` or ``reads`` by so many tasks, and how long syncs took meanwhile."""
        call = functools.partial(self.log.propose, DATA) if what == "commits" else self.log.read_index
        self._syncs.took_s.clear()
        found = await rate(call, int(n_tasks))
        return {**found, "sync_p50_ms": self._syncs.percentile_ms(50), "sync_p99_ms": self._syncs.percentile_ms(99)}

    async def do_fill(self, parts: str) -> int:
        """Proposes so many parts of a MiB; returns the index of the last one."""
        last = 0
        for _ in range(int(parts)):
            last = max(last, await self.log.propose(os.urandom(PART), timeout_s=60))
        return last

    async def do_learner(self, server: str) -> None:
        """Serves a new server."""
        await self.log.add_learner(server)


def main() -> None:
    directory, number, ports, voters, tls = sys.argv[1:]
    files = None
    if tls != "-":
        files = RpcTls(RpcTlsFiles(ca_file=f"{tls}/ca.pem", cert_file=f"{tls}/cert.pem", key_file=f"{tls}/key.pem"))
    process = Process(
        Path(directory), int(number), [int(p) for p in ports.split(",")], [v for v in voters.split(",") if v], files
    )
    trio.run(process.run)


if __name__ == "__main__":
    main()
