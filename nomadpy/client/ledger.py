"""What a client must remember across restarts: allocations, task states and driver handles, in one SQLite file.

A write is durable once it returns (WAL with full synchronisation). Writes are queued and committed by one worker
thread, everything that waits in one transaction, so a thousand tasks that start together share a few disk syncs and
the event loop never waits for the disk.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import trio

from nomadpy.drivers.contract import TaskHandle
from nomadpy.model.alloc import Allocation, AllocDeploymentStatus, AllocNetworkStatus, TaskState
from nomadpy.model.errors import Unavailable
from nomadpy.model.naming import Noun

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS allocs (id TEXT PRIMARY KEY, value BLOB NOT NULL, local BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tasks (
    alloc_id TEXT NOT NULL, task TEXT NOT NULL, local BLOB, state BLOB, PRIMARY KEY (alloc_id, task)
) WITHOUT ROWID;
"""


class LedgerFailed(Unavailable):
    """The disk did not take a write; what was asked for is not durable."""

    code = "ledger-failed"


class TaskLocal(Noun):
    """What the client alone knows of a task: the driver's handle, the hooks that are through and what they found."""

    handle: TaskHandle | None = None
    leftover: TaskHandle | None = None  # of an attempt that is over but perhaps not cleaned up yet
    hooks_done: tuple[str, ...] = ()
    hook_env: dict[str, str] = {}


class AllocLocal(Noun):
    """What the client alone knows of an allocation."""

    started_at_ns: int = 0
    exceeded_max_run: bool = False
    health_of: str = ""  # the deployment that deployment_status speaks of; "-" is none
    deployment_status: AllocDeploymentStatus | None = None
    network_status: AllocNetworkStatus | None = None
    cleaned_up: bool = False  # the hooks of the allocation have heard of its end
    acknowledged: bool = False  # the servers have its terminal status


class RememberedTask(Noun):
    """A task as the ledger holds it."""

    local: TaskLocal = TaskLocal()
    state: TaskState | None = None


class RememberedAlloc(Noun):
    """An allocation as the ledger holds it."""

    alloc: Allocation
    local: AllocLocal = AllocLocal()
    tasks: dict[str, RememberedTask] = {}


_Write = tuple[str, tuple[Any, ...]]
_PUT_ALLOC = "INSERT INTO allocs (id, value) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET value = excluded.value"
_PUT_ALLOC_LOCAL = "UPDATE allocs SET local = ? WHERE id = ?"
_PUT_TASK_LOCAL = (
    "INSERT INTO tasks (alloc_id, task, local) VALUES (?, ?, ?)"
    " ON CONFLICT (alloc_id, task) DO UPDATE SET local = excluded.local"
)
_PUT_TASK_STATE = (
    "INSERT INTO tasks (alloc_id, task, state) VALUES (?, ?, ?)"
    " ON CONFLICT (alloc_id, task) DO UPDATE SET state = excluded.state"
)
_PUT_FACT = "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
_encode = msgspec.msgpack.Encoder().encode


class _Batch:
    """Writes that share one transaction, and those who wait for it."""

    def __init__(self) -> None:
        self.writes: list[_Write] = []
        self.done = trio.Event()
        self.error: Exception | None = None


class Ledger:
    """The client's memory. Call it from one trio loop; ``close`` it at the end."""

    def __init__(self, connection: sqlite3.Connection, *, in_memory: bool = False) -> None:
        self._connection = connection
        self._in_memory = in_memory  # nothing to wait for, so no thread either
        self._next = _Batch()
        self._committing = False

    @classmethod
    def open(cls, state_dir: str | None) -> Ledger:
        """The ledger in ``state_dir``, or one that lives in memory only. Blocks; raises LedgerFailed."""
        try:
            if state_dir is None:
                memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
                return cls(_prepare(memory), in_memory=True)
            Path(state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
            path = os.path.join(state_dir, "state.db")
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            os.chmod(path, 0o600)
            return cls(_prepare(connection))
        except (sqlite3.Error, OSError) as error:
            raise LedgerFailed(f"cannot open the client's state in {state_dir}: {error}") from error

    def close(self) -> None:
        """Nothing may be written afterwards."""
        self._connection.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    async def put_allocs(self, allocs: Iterable[Allocation]) -> None:
        """Remembers the servers' word on allocations, all or none."""
        await self._write([(_PUT_ALLOC, (alloc.id, _encode(alloc))) for alloc in allocs])

    async def put_alloc_local(self, alloc_id: str, local: AllocLocal) -> None:
        """Remembers the client's own word on an allocation that is known."""
        await self._write([(_PUT_ALLOC_LOCAL, (_encode(local), alloc_id))])

    async def put_task_local(self, alloc_id: str, task: str, local: TaskLocal) -> None:
        """Remembers a driver handle and the progress of hooks."""
        await self._write([(_PUT_TASK_LOCAL, (alloc_id, task, _encode(local)))])

    async def put_task(self, alloc_id: str, task: str, local: TaskLocal, state: TaskState) -> None:
        """Remembers both sides of a task, both or neither."""
        await self._write(
            [
                (_PUT_TASK_LOCAL, (alloc_id, task, _encode(local))),
                (_PUT_TASK_STATE, (alloc_id, task, _encode(state))),
            ]
        )

    async def put_task_states(self, states: Iterable[tuple[str, str, TaskState]]) -> None:
        """Remembers (allocation id, task, state) triples, all or none."""
        await self._write([(_PUT_TASK_STATE, (alloc_id, task, _encode(s))) for alloc_id, task, s in states])

    async def forget_alloc(self, alloc_id: str) -> None:
        """Removes an allocation and its tasks."""
        await self._write(
            [("DELETE FROM allocs WHERE id = ?", (alloc_id,)), ("DELETE FROM tasks WHERE alloc_id = ?", (alloc_id,))]
        )

    async def put_fact(self, key: str, value: Any) -> None:
        """Remembers one JSON-like value under a name."""
        await self._write([(_PUT_FACT, (key, _encode(value)))])

    async def _write(self, writes: list[_Write]) -> None:
        if not writes:
            return
        batch = self._next
        batch.writes += writes
        if self._committing:
            await batch.done.wait()
        else:
            await self._commit_until(batch)
        if batch.error is not None:
            raise LedgerFailed(f"cannot write the client's state: {batch.error}") from batch.error

    async def _commit_until(self, own: _Batch) -> None:
        """Commits whatever waits, until nothing does. Whoever comes first does it for those who come meanwhile."""
        self._committing = True
        with trio.CancelScope(shield=True):
            while self._next.writes:
                batch, self._next = self._next, _Batch()
                try:
                    if self._in_memory:
                        self._commit(batch.writes)
                    else:
                        await trio.to_thread.run_sync(self._commit, batch.writes)
                except (sqlite3.Error, OSError) as error:
                    log.error("ledger.write_failed", extra={"fields": {"error": str(error)}})
                    batch.error = error
                batch.done.set()
        self._committing = False
        assert own.done.is_set(), "the committer leaves only when its own batch is through"

    def _commit(self, writes: list[_Write]) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in writes:
                connection.execute(statement, values)
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise

    # -- reading (at start; blocks) ----------------------------------------------------------------------------------

    def fact(self, key: str, kind: type[Any]) -> Any:
        """The value remembered under a name, None when there is none."""
        row = self._connection.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else msgspec.msgpack.decode(row[0], type=kind)

    def remembered(self) -> tuple[list[RememberedAlloc], list[str]]:
        """(every allocation with its tasks, problems). What cannot be read is left out and told, never fatal."""
        tasks, problems = self._tasks()
        allocs = []
        for alloc_id, value, local in self._connection.execute("SELECT id, value, local FROM allocs ORDER BY id"):
            try:
                alloc = msgspec.msgpack.decode(value, type=Allocation)
                known = msgspec.msgpack.decode(local, type=AllocLocal) if local else AllocLocal()
            except msgspec.DecodeError as error:
                problems.append(f"allocation {alloc_id} cannot be read: {error}")
                continue
            allocs.append(RememberedAlloc(alloc=alloc, local=known, tasks=tasks.get(alloc_id, {})))
        return allocs, problems

    def _tasks(self) -> tuple[dict[str, dict[str, RememberedTask]], list[str]]:
        found: dict[str, dict[str, RememberedTask]] = {}
        problems = []
        for alloc_id, task, local, state in self._connection.execute("SELECT alloc_id, task, local, state FROM tasks"):
            try:
                remembered = RememberedTask(
                    local=msgspec.msgpack.decode(local, type=TaskLocal) if local else TaskLocal(),
                    state=msgspec.msgpack.decode(state, type=TaskState) if state else None,
                )
            except msgspec.DecodeError as error:
                problems.append(f"task {task} of allocation {alloc_id} cannot be read: {error}")
                continue
            found.setdefault(alloc_id, {})[task] = remembered
        return found, problems


def _prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 2000")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        connection.close()
        raise LedgerFailed(f"the client's state has version {version}; this program knows up to {SCHEMA_VERSION}")
    connection.executescript(_SCHEMA)
    # A report that was under way while its allocation was removed may have left its tasks behind.
    connection.execute("DELETE FROM tasks WHERE alloc_id NOT IN (SELECT id FROM allocs)")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection
