"""Workloads over HTTP on loopback. The callers run in a process of their own."""

from __future__ import annotations

import functools
import json
import multiprocessing
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import trio

from nomadpy.api.context import ApiContext
from nomadpy.api.router import Router
from nomadpy.api.routes import OPERATIONS
from nomadpy.api.serve import HttpConfig, serve
from nomadpy.server.server import Server
from scheduler_bench import world

N_CALLERS = 32
BULK = 500


@asynccontextmanager
async def over_http(server: Server) -> AsyncIterator[int]:
    """The server's API on a port of loopback."""
    listeners: list[Any] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    config = HttpConfig(max_connections_per_address=1000)
    async with trio.open_nursery() as nursery:
        router = Router(ApiContext(server=server), OPERATIONS)
        await nursery.start(functools.partial(serve, router, listeners, config=config))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def ask(sock: socket.socket, method: str, path: str, body: bytes = b"") -> bytes:
    """The body of the answer; raises RuntimeError unless its status is 200."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(sock)
    head_bytes, _, rest = data.partition(b"\r\n\r\n")
    length = int(head_bytes.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(rest) < length:
        rest += _more(sock)
    if not head_bytes.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{head_bytes[:40]!r} {rest[:300]!r}")
    return rest


def _more(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 20)
    if not data:
        raise ConnectionError("the server closed the connection")
    return data


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _calls(port: int, bodies: Iterator[tuple[str, bytes]], problems: list[str]) -> None:
    try:
        with connect(port) as sock:
            for path, body in bodies:
                answer = ask(sock, "PUT", path, body)
                if path.endswith("bulk"):
                    bad = [each for each in json.loads(answer)["Results"] if each.get("Error")]
                    problems += [str(each) for each in bad[:1]]
    except Exception as error:
        problems.append(repr(error))


def send_jobs(port: int, n_jobs: int, bulk: int, pipe: Any) -> None:
    """Prepares the requests, waits for the word, sends them, and tells of problems."""
    texts = [
        json.dumps({"Job": world.job(f"h-{n}", count=1, cpu=20 + n % 7, memory_mb=32, type="batch")}).encode()
        for n in range(n_jobs)
    ]
    if bulk:
        requests = [("/v1/jobs/bulk", b"\n".join(texts[at : at + bulk])) for at in range(0, n_jobs, bulk)]
    else:
        requests = [("/v1/jobs", text) for text in texts]
    pipe.send("ready")
    pipe.recv()
    lock, left, problems = threading.Lock(), iter(requests), list[str]()

    def bodies() -> Iterator[tuple[str, bytes]]:
        while True:
            with lock:
                found = next(left, None)
            if found is None:
                return
            yield found

    threads = [
        threading.Thread(target=_calls, args=(port, bodies(), problems)) for _ in range(4 if bulk else N_CALLERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(problems)


async def _jobs_over_http(directory: Path, n_jobs: int, bulk: int) -> dict[str, Any]:
    from scheduler_bench.workloads import checked

    async with world.running(directory, 5000) as server, over_http(server) as port:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=send_jobs, args=(port, n_jobs, bulk, theirs))
        process.start()
        await trio.to_thread.run_sync(ours.recv)
        with world.Timed() as timed:
            ours.send("go")
            await world.placed(server, n_jobs)
        problems = await trio.to_thread.run_sync(ours.recv)
        process.join()
        if problems:
            raise RuntimeError(problems[0])
        result = {"placements": n_jobs, "seconds": timed.seconds, "cpu_seconds": timed.cpu_seconds}
        return await checked(server, directory, result)


async def one_by_one(directory: Path, scale: float) -> dict[str, Any]:
    return await _jobs_over_http(directory, int(10_000 * scale), 0)


async def in_bulk(directory: Path, scale: float) -> dict[str, Any]:
    return await _jobs_over_http(directory, int(50_000 * scale), BULK)


def poll_leader(port: int, pipe: Any) -> None:
    """Asks who leads every 2 ms until told to stop; sends how long the answers took, in seconds."""
    took = []
    with connect(port) as sock:
        ask(sock, "GET", "/v1/status/leader")
        pipe.send("ready")
        while not pipe.poll():
            began = time.perf_counter()
            ask(sock, "GET", "/v1/status/leader")
            took.append(time.perf_counter() - began)
            time.sleep(0.002)
    pipe.send(took)


async def under_load(directory: Path, scale: float) -> dict[str, Any]:
    """c1m, while another process asks who leads."""
    from scheduler_bench.workloads import c1m_jobs, checked, place_all

    async with world.running(directory, 5000) as server, over_http(server) as port:
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=poll_leader, args=(port, theirs))
        process.start()
        await trio.to_thread.run_sync(ours.recv)
        result = await place_all(server, c1m_jobs(int(1000 * scale), 1000))
        ours.send("stop")
        took = await trio.to_thread.run_sync(ours.recv)
        process.join()
        cuts = quantiles(took, n=100)
        result["detail"] = {
            "p50_ms": round(cuts[49] * 1000, 2),
            "p99_ms": round(cuts[98] * 1000, 2),
            "max_ms": round(max(took) * 1000, 2),
            "asked": len(took),
        }
        return await checked(server, directory, result, again=False)
