"""The replicated log in a running server: a trio task around ``Core`` that waits, syncs and sends, and decides nothing.

One task runs cycle after cycle. Everything proposed while a sync is under way shares the next one. The sync runs in
place while the disk is fast; on a slow one it moves to a worker thread, so that the server hears and sends meanwhile
(its next cycle still waits for it). Snapshots are encoded and written in a worker thread beside the cycles.

A write or sync of the log that fails ends the task with WalPoisoned: the process has to start again and read back what
the disk really holds.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import trio

from nomadpy.model.errors import Bug, NoLeader, Refused, TimedOut
from nomadpy.raft.asking import Asking, Request
from nomadpy.raft.configuration import Configuration
from nomadpy.raft.contract import Apply, Leadership, LogStatistics
from nomadpy.raft.core import Core
from nomadpy.raft.disk import DiskDirectory
from nomadpy.raft.engine import Role
from nomadpy.raft.intake import Intake, Prepare, Prepared
from nomadpy.raft.membership import Change
from nomadpy.raft.messages import Message
from nomadpy.raft.replica import Answer, StateMachine
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import Snapshot, SnapshotPoint, SnapshotStore, StoredSnapshot
from nomadpy.raft.wal import Wal

log = logging.getLogger(__name__)

Send: TypeAlias = Callable[[str, Message], None]
# Takes the state as it is now, at no cost, and returns what encodes it, to be called in another thread.
Freeze: TypeAlias = Callable[[], Callable[[], bytes]]

# Above this moving average of the time of a sync, in ms, syncs run in a worker thread. Measured: in place is faster on
# a disk that needs 0.2 ms, a thread on one that needs 2 ms.
SLOW_SYNC_MS = 0.5
_CYCLE_BYTES_MAX = 8 << 20
_SNAPSHOT_RETRY_S = 60.0
# What was just given out leaves while other tasks have had so many turns: the tasks that send may come after the log's
# in the first one. So the others sync at the same time as this server, not after it.
_TURNS_TO_LEAVE = 2


class Snapshots(msgspec.Struct, frozen=True):
    """How the state is stored and taken back. Without it the log is never shortened."""

    freeze: Freeze
    restore: Callable[[int, bytes], None]
    # A snapshot is taken after so many entries.
    every_entries: int = 8192
    # Reads a state in another thread; what comes back exchanges the present one for it, and takes no time. Without it
    # ``restore`` is called while everything waits.
    prepare: Prepare | None = None


class _Arrived(msgspec.Struct, frozen=True):
    sender: str
    message: Message


class _Lost(msgspec.Struct, frozen=True):
    server: str


class _SnapshotDone(msgspec.Struct, frozen=True):
    point: SnapshotPoint
    stored: StoredSnapshot | None


_Event: TypeAlias = Request | _Arrived | _Lost | _SnapshotDone | Prepared


def _no_restore(index: int, _data: bytes) -> None:
    raise Bug(f"a snapshot at entry {index} has to be restored, and nobody knows how")


class RaftLog:
    """A replicated log under ``directory``. ``voters`` are who votes in a log that is still empty: None for this server
    alone, ``()`` for a server that waits until a leader takes it in. A single server needs no ``send``."""

    def __init__(
        self,
        directory: Path,
        apply: Apply,
        *,
        name: str,
        voters: tuple[str, ...] | None = None,
        send: Send | None = None,
        snapshots: Snapshots | None = None,
        settings: RaftSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._directory, self._apply, self._name = directory, apply, name
        self._voters = (name,) if voters is None else voters
        self._send, self._snapshots, self._settings = send, snapshots, settings or RaftSettings()
        self._rng = rng or random.SystemRandom()
        self._core: Core | None = None
        self._wal: Wal | None = None
        self._in, self._out = trio.open_memory_channel[_Event](4096)
        self._asking = Asking()
        self._leadership, self._leadership_moved = Leadership(), trio.Event()
        self._proposed = 0
        self._sync_ms = self._sync_ms_average = 0.0
        self._commit_ms = 0.0
        self._snapshot_at = 0
        self._snapshot_running = False
        self._intake: Intake | None = None
        self._snapshot_not_before = float("-inf")

    @property
    def core(self) -> Core:
        """The machine inside. Raises NoLeader before ``run``."""
        if self._core is None:
            raise NoLeader("the replicated log is not running")
        return self._core

    @property
    def is_leader(self) -> bool:
        """Whether this server leads, as far as it knows."""
        return self._core is not None and self._core.role is Role.LEADER

    @property
    def leader(self) -> str | None:
        """The name of the leader, as far as this server knows."""
        return self._core.leader if self._core is not None else None

    @property
    def leadership(self) -> Leadership:
        """Who leads. This server counts as leading only once an entry of its own term is applied, for only then its
        state holds everything that former leaders acknowledged."""
        return self._leadership

    async def leadership_changed(self, seen: Leadership) -> Leadership:
        """Waits until the leadership is another one than ``seen``; returns it."""
        while self._leadership == seen:
            await self._leadership_moved.wait()
        return self._leadership

    def leader_silence_s(self) -> float:
        """How long ago this server heard its leader, 0 when it leads itself or knows of none."""
        return 0.0 if self._core is None or self.is_leader else self._core.leader_silence(trio.current_time())

    @property
    def durable(self) -> bool:
        """Always."""
        return True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads back the log, applies what is known to be committed, reports started, then works until cancelled.
        Raises WalCorrupt and SnapshotCorrupt at start, WalPoisoned when the disk fails, SafetyViolation when another
        server breaks a rule."""
        folders = [DiskDirectory(self._directory / "log"), DiskDirectory(self._directory / "snapshots")]
        wal = None
        try:
            wal = self._wal = Wal(folders[0], log_id=self._rng.randbytes(16))
            await self._work(wal, SnapshotStore(folders[1]), task_status)
        except BaseExceptionGroup as group:
            # There is one task beside the cycles, and it reports its own failures.
            raise group.exceptions[0] if len(group.exceptions) == 1 else group from None
        finally:
            self._core = None
            self._note_leadership(None)
            self._fail_open_requests()
            if wal is not None:
                wal.close()
            for folder in folders:
                folder.close()

    async def _work(self, wal: Wal, store: SnapshotStore, task_status: trio.TaskStatus[None]) -> None:
        core = self._make_core(wal, store)
        wal.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._asking.run)
            self._core = core
            await self._cycle(core, wal, store, nursery, [])
            task_status.started()
            while True:
                await self._cycle(core, wal, store, nursery, await self._next_events(core))

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> Any:
        """Appends an entry and returns what ``apply`` said of it, once a majority has it on disk."""
        if len(data) > self._settings.entry_bytes_max:
            raise Bug(f"a log entry of {len(data)} bytes is larger than {self._settings.entry_bytes_max}")

        def begin(core: Core, ticket: object) -> None:
            core.propose(ticket, data)

        began_s = trio.current_time()
        answer = await self._ask(Request(begin, writes=True, size=len(data)), timeout_s)
        self._commit_ms = (trio.current_time() - began_s) * 1e3
        return answer.result

    async def read_index(self, *, timeout_s: float = 10.0) -> int:
        """Returns once this server's state holds everything that was acknowledged anywhere before the call. Raises
        NoLeader when it does not lead."""
        return (await self._ask(Request(Core.read_index, writes=False), timeout_s)).index

    async def change_voters(self, change: Change, server: str, *, timeout_s: float = 10.0) -> None:
        """Adds a server to those that vote, or removes it. One that is added has to be a learner that caught up
        (``add_learner``). Raises Conflict with the reason when that may not be now, NoLeader on a follower."""

        def begin(core: Core, ticket: object) -> None:
            core.propose_conf(ticket, change, server)

        await self._ask(Request(begin, writes=True), timeout_s)

    def configuration(self) -> Configuration:
        """Who belongs to the log and, on its leader, how far each server is. Raises NoLeader before ``run``."""
        return self.core.configuration(trio.current_time())

    async def add_learner(self, server: str, *, timeout_s: float = 10.0) -> None:
        """Serves a server that does not vote, as long as this one leads. Raises NoLeader on a follower."""
        await self._order(lambda core: core.add_learner(server), timeout_s)

    async def remove_learner(self, server: str, *, timeout_s: float = 10.0) -> None:
        """Ends ``add_learner``. Raises NoLeader on a follower."""
        await self._order(lambda core: core.remove_learner(server), timeout_s)

    async def transfer_leadership(self, server: str, *, timeout_s: float = 5.0) -> Leadership:
        """Hands the leadership over to a voter; returns once another server leads. Raises Refused when the other does
        not vote, NoLeader on a follower, TimedOut when this server still leads after ``timeout_s``."""
        if server == self._name:
            return self.leadership
        await self._order(lambda core: core.transfer_leadership(server), timeout_s)
        with trio.move_on_after(timeout_s):
            while (now := self.leadership).leader in ("", self._name):
                await self.leadership_changed(now)
            return now
        raise TimedOut(f"{server} did not take over the leadership within {timeout_s:g} s; it may be too far behind")

    async def _order(self, action: Callable[[Core], None], timeout_s: float) -> None:
        def begin(core: Core, _ticket: object) -> None:
            if core.role is not Role.LEADER:
                raise NoLeader("this server does not lead")
            action(core)

        await self._ask(Request(begin, writes=False, at_once=True), timeout_s)

    async def receive(self, sender: str, message: Message) -> None:
        """Takes a message of another server, whose name was authenticated."""
        event = _Arrived(sender, message)
        try:
            self._in.send_nowait(event)
        except trio.WouldBlock:
            await self._in.send(event)

    async def connection_reset(self, server: str) -> None:
        """The connection to a server broke, or could not be made: if it led, an election is held at once instead of
        after an election time."""
        await self._in.send(_Lost(server))

    def statistics(self) -> LogStatistics:
        """How the log is doing."""
        if self._core is None or self._wal is None:
            return LogStatistics(kind="raft")
        return LogStatistics(
            kind="raft",
            last_index=self._wal.last,
            applied_index=self._core.applied_index,
            term=self._core.term,
            entries_written=self._proposed,
            syncs=self._wal.syncs,
            fsync_ms_last=self._sync_ms,
            commit_ms_last=self._commit_ms,
        )

    async def _ask(self, request: Request, timeout_s: float) -> Answer:
        if self._core is None:
            raise NoLeader("the replicated log is not running")
        return await self._asking.ask(self._in, request, timeout_s)

    def _fail_open_requests(self) -> None:
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._out.receive_nowait()
        self._asking.stop()

    # --- cycles ----------------------------------------------------------------------------------------------------

    def _make_core(self, wal: Wal, store: SnapshotStore) -> Core:
        restore = self._snapshots.restore if self._snapshots is not None else _no_restore
        if store.newest is not None:
            self._snapshot_at = store.newest.point.index
        return Core(
            self._name,
            self._voters,
            wal,
            store,
            machine=StateMachine(self._apply, restore),
            rng=self._rng,
            now=trio.current_time(),
            settings=self._settings,
            reads_beside=self._snapshots is not None and self._snapshots.prepare is not None,
        )

    async def _next_events(self, core: Core) -> list[_Event]:
        """Everything that is there, or the first thing that comes before the core has to be woken."""
        events: list[_Event] = []
        with trio.move_on_at(core.next_wake()):
            events.append(await self._out.receive())
        size = 0
        while size < _CYCLE_BYTES_MAX:
            try:
                event = self._out.receive_nowait()
            except trio.WouldBlock:
                break
            events.append(event)
            size += event.size if isinstance(event, Request) else 0
        return events

    async def _cycle(
        self, core: Core, wal: Wal, store: SnapshotStore, nursery: trio.Nursery, events: list[_Event]
    ) -> None:
        inbound = [(event.sender, event.message) for event in events if isinstance(event, _Arrived)]
        for event in events:
            self._take(core, event)
        early, late = core.step(trio.current_time(), inbound)
        self._send_all(early)
        for event in events:
            if isinstance(event, _SnapshotDone):
                self._snapshot_done(core, store, event)
            elif isinstance(event, Prepared) and event.stored is not None:
                store.adopt(event.stored)
                self._snapshot_at = max(self._snapshot_at, event.stored.meta.point.index)
        self._tend_intake(core, store, nursery)
        if (installed := core.take_installed()) is not None:
            store.adopt(await trio.to_thread.run_sync(store.write, installed))
            self._snapshot_at = installed.point.index
        await self._sync(wal, something_leaves=bool(early))
        self._send_all(late)
        for answer in core.take_answers():
            self._asking.answer(answer)
        self._note_leadership(core)
        self._maybe_snapshot(core, store, nursery)

    def _note_leadership(self, core: Core | None) -> None:
        if core is None:
            now = Leadership()
        else:
            now = Leadership(leader=core.leader or "", leading=core.in_office, term=core.term)
        if now != self._leadership:
            self._leadership = now
            self._leadership_moved.set()
            self._leadership_moved = trio.Event()

    def _take(self, core: Core, event: _Event) -> None:
        if isinstance(event, _Lost):
            core.suspect_leader(event.server, trio.current_time())
        elif isinstance(event, Prepared):
            self._intake = None
            core.prepared(event.snapshot, event.swap)
        elif isinstance(event, Request) and not event.abandoned:
            event.taken = True
            self._proposed += event.writes
            try:
                event.begin(core, event)
            except (NoLeader, Refused) as error:
                self._asking.answer(Answer(event, error=error))
            else:
                if event.at_once:
                    self._asking.answer(Answer(event))

    def _send_all(self, messages: list[tuple[str, Message]]) -> None:
        if self._send is not None:
            for recipient, message in messages:
                self._send(recipient, message)

    async def _sync(self, wal: Wal, *, something_leaves: bool) -> None:
        pending = wal.begin_sync()
        if pending is None:
            return
        # Cut short, it would leave the log without knowing what is on disk.
        with trio.CancelScope(shield=True):
            try:
                if self._sync_ms_average < SLOW_SYNC_MS:
                    for _ in range(_TURNS_TO_LEAVE if something_leaves else 0):
                        await trio.lowlevel.checkpoint()
                    self._sync_ms = _timed_ms(pending.write)
                else:
                    self._sync_ms = await trio.to_thread.run_sync(_timed_ms, pending.write)
            except OSError as error:
                wal.fail_sync(pending, error)
        wal.finish_sync(pending)
        # One that was held up, for whatever reason, does not make a disk a slow one.
        self._sync_ms_average += (min(self._sync_ms, 4 * SLOW_SYNC_MS) - self._sync_ms_average) / 16

    # --- snapshots -------------------------------------------------------------------------------------------------

    def _maybe_snapshot(self, core: Core, store: SnapshotStore, nursery: trio.Nursery) -> None:
        if (
            self._snapshots is None
            or self._snapshot_running
            or (self._intake is not None and self._intake.snapshot.complete)
            or core.applied_index - self._snapshot_at < self._snapshots.every_entries
            or trio.current_time() < self._snapshot_not_before
        ):
            return
        self._snapshot_running = True
        nursery.start_soon(self._snapshot, core.take_snapshot(), self._snapshots.freeze(), store)

    async def _snapshot(self, point: SnapshotPoint, encode: Callable[[], bytes], store: SnapshotStore) -> None:
        def write() -> StoredSnapshot:
            return store.write(Snapshot(point, encode()))

        try:
            stored = await trio.to_thread.run_sync(write)
        except OSError as error:
            # The log simply stays longer; the server goes on, and tries again later.
            log.error("raft.snapshot-failed", extra={"fields": {"index": point.index, "error": str(error)}})
            await self._in.send(_SnapshotDone(point, None))
        else:
            await self._in.send(_SnapshotDone(point, stored))

    def _tend_intake(self, core: Core, store: SnapshotStore, nursery: trio.Nursery) -> None:
        """Has a leader's snapshot stored as it arrives: one at a time, the next once the one before was let go of."""
        arriving, intake = core.arriving, self._intake
        if intake is not None:
            if intake.snapshot is arriving:
                intake.look()
            else:
                intake.give_up()
        elif arriving is not None and self._snapshots is not None and self._snapshots.prepare is not None:
            self._intake = Intake(arriving, store, self._snapshots.prepare)
            nursery.start_soon(self._take_in, self._intake)

    async def _take_in(self, intake: Intake) -> None:
        prepared = await intake.run()
        if prepared is None:
            self._intake = None
        else:
            await self._in.send(prepared)

    def _snapshot_done(self, core: Core, store: SnapshotStore, done: _SnapshotDone) -> None:
        self._snapshot_running = False
        if done.stored is None:
            self._snapshot_not_before = trio.current_time() + _SNAPSHOT_RETRY_S
            return
        store.adopt(done.stored)
        self._snapshot_at = max(self._snapshot_at, done.point.index)
        core.snapshot_stored(done.point)


def _timed_ms(write: Callable[[], None]) -> float:
    """How long the disk took, without the way to a thread and back."""
    started = time.perf_counter()
    write()
    return (time.perf_counter() - started) * 1000
