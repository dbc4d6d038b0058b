from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from client_world import make_alloc

from nomadpy.client.ledger import AllocLocal, Ledger, LedgerFailed, TaskLocal
from nomadpy.drivers.contract import TaskHandle
from nomadpy.model.alloc import TaskState

WRITER = """
import sys, trio
from nomadpy.client.ledger import Ledger, TaskLocal
from nomadpy.drivers.contract import TaskHandle
from nomadpy.model.alloc import Allocation

async def main():
    ledger = Ledger.open(sys.argv[1])
    await ledger.put_allocs([Allocation(id=f"a{worker}") for worker in range(4)])
    async def one(worker):
        for n in range(100000):
            handle = TaskHandle(driver="d", task_id=f"{worker}/{n}", state={"pad": "x" * 500})
            await ledger.put_task_local(f"a{worker}", "web", TaskLocal(handle=handle))
            print(worker, n, flush=True)
    async with trio.open_nursery() as nursery:
        for worker in range(4):
            nursery.start_soon(one, worker)

trio.run(main)
"""


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    ledger, alloc = Ledger.open(str(tmp_path)), make_alloc()
    local = TaskLocal(handle=TaskHandle(driver="d", task_id="t"), hooks_done=("task_dir",), hook_env={"A": "1"})
    await ledger.put_allocs([alloc])
    await ledger.put_alloc_local(alloc.id, AllocLocal(started_at_ns=5))
    await ledger.put_task(alloc.id, "web", local, TaskState(state="running"))
    await ledger.put_fact("index", 17)
    ledger.close()
    again = Ledger.open(str(tmp_path))
    ((found,), problems) = again.remembered()
    assert (found.alloc, found.local.started_at_ns, problems) == (alloc, 5, [])
    assert found.tasks["web"].local == local
    assert found.tasks["web"].state == TaskState(state="running")
    assert again.fact("index", int) == 17
    await again.forget_alloc(alloc.id)
    assert again.remembered() == ([], [])
    again.close()
    assert (tmp_path / "state.db").stat().st_mode & 0o777 == 0o600


async def test_writes_that_wait_share_a_transaction(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path))
    commits = []
    commit = ledger._commit
    ledger._commit = lambda writes: (commits.append(len(writes)), commit(writes))[1]  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        for n in range(200):
            nursery.start_soon(ledger.put_fact, f"f{n}", n)
    assert sum(commits) == 200
    assert len(commits) <= 5
    ledger.close()


def test_every_acknowledged_write_survives_a_kill(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    for line in process.stdout:
        worker, n = line.split()
        acknowledged[worker] = int(n)
        if min(acknowledged.get(str(w), 0) for w in range(4)) >= 50:
            break
    os.kill(process.pid, signal.SIGKILL)
    for line in process.communicate()[0].splitlines():
        if len(words := line.split()) == 2:
            acknowledged[words[0]] = int(words[1])
    ledger = Ledger.open(str(tmp_path))
    tasks, problems = ledger._tasks()
    ledger.close()
    assert problems == []
    for worker, n in acknowledged.items():
        handle = tasks[f"a{worker}"]["web"].local.handle
        assert handle is not None
        assert int(handle.task_id.split("/")[1]) >= n


async def test_a_disk_that_refuses_is_an_error_for_everyone_who_waits(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path))

    def refuse(writes: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    ledger._commit = refuse  # type: ignore[method-assign]
    with pytest.raises(LedgerFailed, match="disk is full"):
        await ledger.put_fact("a", 1)
    del ledger._commit
    await ledger.put_fact("a", 2)
    assert ledger.fact("a", int) == 2
    ledger.close()


def test_what_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    ledger = Ledger.open(str(tmp_path))
    ledger._connection.execute("INSERT INTO allocs (id, value) VALUES ('bad', x'c1')")
    assert ledger.remembered()[0] == []
    assert "bad" in ledger.remembered()[1][0]
    ledger.close()


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    Ledger.open(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LedgerFailed, match="version 99"):
        Ledger.open(str(tmp_path))
