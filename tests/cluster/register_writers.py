"""Clients that write, swap and read registers through all servers at once, and note what they were told."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

from call_history import CONFLICT, DONE, READ, REFUSED, SWAP, UNKNOWN, WRITE, History, Op
from cluster_agents import Cluster, Failed, Machine, NoAnswer, until

_CONFLICT = re.compile(r"Enforcing job modify index.*conflicting job modify index: (\d+)")


def register_job(key: str, value: str) -> dict[str, Any]:
    """A job that runs nothing and carries a value."""
    task = {"Name": "t", "Driver": "raw_exec", "Config": {"command": "/bin/true"}}
    group = {"Name": "g", "Count": 0, "Tasks": [task]}
    return {"ID": key, "Datacenters": ["dc1"], "TaskGroups": [group], "Meta": {"value": value}}


def write(machine: Machine, op: Op, *, timeout_s: float) -> Op:
    """Carries the write or swap out at one server; the operation with its end."""
    body: dict[str, Any] = {"Job": register_job(op.key, op.value)}
    if op.kind == SWAP:
        body |= {"EnforceIndex": True, "JobModifyIndex": op.expected}
    began = time.monotonic()
    outcome, index = UNKNOWN, 0
    try:
        index = machine.api.put("/v1/jobs", body, timeout_s=timeout_s)["JobModifyIndex"]
        outcome = DONE
    except Failed as error:
        if found := _CONFLICT.search(error.text):
            outcome, index = CONFLICT, int(found[1])
        elif error.status < 500:
            outcome = REFUSED
    except NoAnswer as error:
        outcome = UNKNOWN if error.sent else REFUSED
    return _ended(op, began, outcome, index, machine)


def read(machine: Machine, op: Op, *, timeout_s: float) -> Op:
    """Reads the register at one server, in the default consistent mode."""
    began = time.monotonic()
    value, index, outcome = "", 0, UNKNOWN
    try:
        job = machine.api.get(f"/v1/job/{op.key}", timeout_s=timeout_s)
        value, index, outcome = job["Meta"]["value"], job["JobModifyIndex"], DONE
    except Failed as error:
        outcome = DONE if error.status == 404 else UNKNOWN
    except NoAnswer:
        pass
    return _ended(Op(op.key, READ, value), began, outcome, index, machine)


def _ended(op: Op, began: float, outcome: str, index: int, machine: Machine) -> Op:
    return Op(op.key, op.kind, op.value, op.expected, began, time.monotonic(), outcome, index, machine.name)


class Writers:
    """``count`` threads on ``keys`` registers until ``stop``. Every one goes round the servers, moving on after each
    failure. ``reads``: the share of reads and of swaps."""

    def __init__(
        self,
        cluster: Cluster,
        count: int,
        *,
        keys: int,
        name: str,
        seed: int = 1,
        reads: float = 0.2,
        swaps: float = 0.2,
        timeout_s: float = 12.0,
        servers: Sequence[Machine] | None = None,
        pause_s: float = 0.0,
    ) -> None:
        self.history = History()
        self._servers = list(servers if servers is not None else cluster.servers)
        self._keys = [f"{name}-{number}" for number in range(keys)]
        self._reads, self._swaps, self._timeout_s, self._pause_s = reads, swaps, timeout_s, pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n, seed), daemon=True) for n in range(count)]

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> History:
        """Lets every thread end its operation; what they saw."""
        self._stop.set()
        for thread in self._threads:
            thread.join(self._timeout_s + 30)
            assert not thread.is_alive(), "a writer hangs"
        return self.history

    def wait_more(self, count: int, *, timeout_s: float = 60.0) -> None:
        """Waits until so many more writes and swaps were acknowledged."""
        wanted = len(self.history.of(DONE, WRITE, SWAP)) + count
        until(lambda: len(self.history.of(DONE, WRITE, SWAP)) >= wanted, f"{count} more writes", timeout_s=timeout_s)

    def _work(self, number: int, seed: int) -> None:
        rng = random.Random(seed * 10_007 + number)
        at, count = number, 0
        known: dict[str, int] = {}
        while not self._stop.is_set():
            machine = self._servers[at % len(self._servers)]
            key = self._keys[number % len(self._keys)]
            count += 1
            done = self._one(machine, key, f"{number}.{count}", known.get(key, 0), rng.random())
            self.history.add(done)
            if done.outcome == DONE:
                known[key] = done.index
            if done.outcome in (UNKNOWN, REFUSED):
                at += 1
                # Nobody hammers a server that is not there.
                self._stop.wait(0.02)
            elif self._pause_s:
                self._stop.wait(self._pause_s)
        for machine in self._servers:
            machine.api.leave()

    def _one(self, machine: Machine, key: str, value: str, known: int, dice: float) -> Op:
        if dice < self._reads:
            return read(machine, Op(key, READ), timeout_s=self._timeout_s)
        is_swap = dice < self._reads + self._swaps and known
        op = Op(key, SWAP, value, known) if is_swap else Op(key, WRITE, value)
        return write(machine, op, timeout_s=self._timeout_s)


def last_values(cluster: Cluster, keys: set[str]) -> dict[str, tuple[str, int]]:
    """What the registers hold now, by consistent reads: (value, index)."""
    found = {}
    for key in sorted(keys):
        job = cluster.get(f"/v1/job/{key}")
        found[key] = job["Meta"]["value"], job["JobModifyIndex"]
    return found


def check(cluster: Cluster, history: History) -> None:
    """Fails unless the history, with a last read of every register added, is linearizable, every server holds the same
    in the end, and nothing that was acknowledged is missing."""
    keys = {op.key for op in history.of(DONE, WRITE, SWAP)}
    final = last_values(cluster, keys)
    now = time.monotonic()
    for key, (value, index) in final.items():
        history.add(Op(key, READ, value, began=now, ended=now, outcome=DONE, index=index, place="last"))
        newest = max((op for op in history.of(DONE, WRITE, SWAP) if op.key == key), key=lambda op: op.index)
        assert index >= newest.index, f"{key}: {newest} was acknowledged, the register is at {index}"
        assert index > newest.index or value == newest.value, f"{key}: {newest} was acknowledged, found {value}"
    broken = history.broken_keys()
    assert not broken, f"not linearizable: {broken}"
