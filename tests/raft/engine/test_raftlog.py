"""The log in a running server, alone and with two others in one process."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from nomadpy.model.errors import Bug, Conflict, NoLeader, NomadError, OutcomeUnknown, Refused, TimedOut
from nomadpy.raft.contract import Log
from nomadpy.raft.messages import Message, decode, encode
from nomadpy.raft.raftlog import RaftLog, Snapshots
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.wal import WalPoisoned

QUICK = RaftSettings(trailing_entries=10).scaled(0.3)


class State:
    """What was applied."""

    def __init__(self, reading: Callable[[], object] | None = None) -> None:
        self.values: list[bytes] = []
        self._reading = reading

    def apply(self, _index: int, data: bytes) -> int:
        if data == b"raise":
            raise ValueError("refused")
        self.values.append(data)
        return len(self.values)

    def freeze(self) -> Callable[[], bytes]:
        values = list(self.values)
        return lambda: b",".join(values)

    def restore(self, _index: int, data: bytes) -> None:
        self.prepare(_index, data)()

    def prepare(self, _index: int, data: bytes) -> Callable[[], None]:
        if self._reading is not None:
            self._reading()
        values = data.split(b",") if data else []

        def swap() -> None:
            self.values = values

        return swap


@contextlib.asynccontextmanager
async def running(log: RaftLog) -> AsyncIterator[RaftLog]:
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        yield log
        nursery.cancel_scope.cancel()


def single(directory: Path, state: State, every_entries: int = 1 << 30) -> RaftLog:
    snapshots = Snapshots(state.freeze, state.restore, every_entries)
    return RaftLog(directory, state.apply, name="a", snapshots=snapshots, settings=QUICK)


async def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    with trio.fail_after(timeout_s):
        # Looks again every few milliseconds: what is waited for happens in other tasks and on disk.
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_what_was_proposed_is_there_after_a_restart(tmp_path: Path) -> None:
    state = State()
    async with running(single(tmp_path, state)) as log:
        assert log.is_leader
        assert log.durable
        assert [await log.propose(b"%d" % number) for number in range(5)] == [1, 2, 3, 4, 5]
        assert log.statistics().entries_written == 5
    assert not log.is_leader
    again = State()
    async with running(single(tmp_path, again)) as log:
        assert again.values == state.values
        assert await log.propose(b"more") == 6
        assert log.statistics().kind == "raft"


async def test_proposals_of_many_tasks_share_syncs(tmp_path: Path) -> None:
    state = State()
    async with running(single(tmp_path, state)) as log, trio.open_nursery() as nursery:
        for number in range(300):
            nursery.start_soon(log.propose, b"%d" % number)
    assert len(state.values) == 300
    assert log.statistics().syncs < 30


async def test_what_apply_raises_reaches_who_proposed(tmp_path: Path) -> None:
    state = State()
    async with running(single(tmp_path, state)) as log:
        with pytest.raises(ValueError, match="refused"):
            await log.propose(b"raise")
        assert await log.propose(b"next") == 1


async def test_reads_see_what_was_acknowledged(tmp_path: Path) -> None:
    async with running(single(tmp_path, State())) as log:
        await log.propose(b"x")
        assert await log.read_index() == log.statistics().applied_index


async def test_snapshots_shorten_the_log_and_come_back(tmp_path: Path) -> None:
    state = State()
    async with running(single(tmp_path, state, every_entries=50)) as log:
        for number in range(200):
            await log.propose(b"%d" % number)
        await until(lambda: any((tmp_path / "snapshots").glob("*.snapshot")))
        await log.propose(b"last")
        assert log._wal is not None
        wal = log._wal
        await until(lambda: wal.first > 1)
    again = State()
    async with running(single(tmp_path, again)):
        assert again.values == state.values


async def test_a_failing_disk_ends_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = State()
    outcome: list[str] = []

    def fails(_fd: int) -> None:
        raise OSError(5, "the disk is gone")

    async def run_into_it() -> None:
        async with running(single(tmp_path, state)) as log:
            await log.propose(b"safe")
            monkeypatch.setattr(os, "fdatasync", fails)
            try:
                await log.propose(b"doubtful")
            except OutcomeUnknown:
                outcome.append("unknown")
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await run_into_it()
    assert caught.group_contains(WalPoisoned)
    assert outcome == ["unknown"]
    monkeypatch.undo()
    again = State()
    async with running(single(tmp_path, again)):
        assert again.values[:1] == [b"safe"]


async def test_a_log_that_does_not_run_refuses(tmp_path: Path) -> None:
    log: Log = single(tmp_path, State())
    with pytest.raises(NoLeader):
        await log.propose(b"x")
    assert log.statistics().last_index == 0


async def test_one_directory_has_one_log(tmp_path: Path) -> None:
    async with running(single(tmp_path, State())):
        with pytest.raises(NomadError, match="in use"):
            await single(tmp_path, State()).run()


async def test_too_much_in_one_entry_is_a_bug(tmp_path: Path) -> None:
    async with running(single(tmp_path, State())) as log:
        with pytest.raises(Bug, match="larger"):
            await log.propose(bytes(QUICK.entry_bytes_max + 1))


# --- three servers --------------------------------------------------------------------------------------------------


class Three:
    """Servers whose links are channels in this process; each can be stopped and started again."""

    def __init__(self, directory: Path, nursery: trio.Nursery, *, beside: bool = False) -> None:
        self.directory, self.nursery, self.beside = directory, nursery, beside
        self.names = ("a", "b", "c")
        self.states: dict[str, State] = {}
        self.logs: dict[str, RaftLog] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._wires: dict[str, trio.MemorySendChannel[tuple[str, bytes]]] = {}

    async def start(self, name: str, *, reading: Callable[[], object] | None = None) -> None:
        """``reading`` is called in the thread that reads a snapshot of the leader."""
        state = self.states[name] = State(reading)
        self.logs[name] = RaftLog(
            self.directory / name,
            state.apply,
            name=name,
            voters=self.names,
            send=lambda recipient, message: self._carry(name, recipient, message),
            snapshots=Snapshots(state.freeze, state.restore, 40, state.prepare if self.beside else None),
            settings=QUICK,
        )
        await self.nursery.start(self._serve, name)

    async def stop(self, name: str) -> None:
        log = self.logs.pop(name)
        del self._wires[name]
        self._scopes.pop(name).cancel()
        await until(lambda: log._core is None)

    async def _serve(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        incoming, outgoing = trio.open_memory_channel[tuple[str, bytes]](math.inf)
        log = self.logs[name]
        with trio.CancelScope() as self._scopes[name]:
            async with trio.open_nursery() as nursery:
                await nursery.start(log.run)
                self._wires[name] = incoming
                task_status.started()
                async for sender, data in outgoing:
                    await log.receive(sender, decode(data))

    def _carry(self, sender: str, recipient: str, message: Message) -> None:
        if recipient in self._wires:
            self._wires[recipient].send_nowait((sender, encode(message)))

    async def leader(self) -> RaftLog:
        def leaders() -> list[RaftLog]:
            return [log for log in self.logs.values() if log.is_leader]

        await until(lambda: len(leaders()) == 1)
        return leaders()[0]

    async def propose(self, data: bytes) -> Any:
        """As a client would: again at whoever leads, as long as nothing happened."""
        with trio.fail_after(30):
            while True:
                try:
                    return await (await self.leader()).propose(data)
                except NoLeader:
                    await trio.sleep(0.01)


@contextlib.asynccontextmanager
async def three(directory: Path, *, beside: bool = False) -> AsyncIterator[Three]:
    async with trio.open_nursery() as nursery:
        cluster = Three(directory, nursery, beside=beside)
        for name in cluster.names:
            await cluster.start(name)
        yield cluster
        nursery.cancel_scope.cancel()


async def test_three_servers_agree(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        for number in range(20):
            await cluster.propose(b"%d" % number)
        leader = await cluster.leader()
        assert await leader.read_index() >= 20
        follower = next(log for log in cluster.logs.values() if log is not leader)
        with pytest.raises(NoLeader):
            await follower.propose(b"no")
        assert follower.leader == leader._name
        await until(lambda: len({tuple(state.values) for state in cluster.states.values()}) == 1)


@pytest.mark.parametrize("beside", [False, True])
async def test_the_others_go_on_without_the_leader_and_it_catches_up(tmp_path: Path, beside: bool) -> None:
    async with three(tmp_path, beside=beside) as cluster:
        await cluster.propose(b"first")
        gone = (await cluster.leader())._name
        await cluster.stop(gone)
        for number in range(120):
            await cluster.propose(b"%d" % number)
        await cluster.start(gone)
        await until(lambda: len({tuple(state.values) for state in cluster.states.values()}) == 1)
        assert cluster.states[gone].values[0] == b"first"
        assert len(cluster.states[gone].values) == 121
        assert cluster.logs[gone].core.counts.snapshots_installed == 1
        await cluster.stop(gone)
        await cluster.start(gone)
        await until(lambda: len(cluster.states[gone].values) == 121)


async def test_a_server_lives_on_while_it_reads_a_snapshot(tmp_path: Path) -> None:
    async with three(tmp_path, beside=True) as cluster:
        leads = (await cluster.leader())._name
        gone = next(name for name in cluster.names if name != leads)
        await cluster.stop(gone)
        for number in range(120):
            await cluster.propose(b"%d" % number)
        reads, goes_on = threading.Event(), threading.Event()
        await cluster.start(gone, reading=lambda: (reads.set(), goes_on.wait(20)))
        try:
            await until(reads.is_set)
            log = cluster.logs[gone]
            heard = log.core.counts.stale_messages, log.core.term
            for number in range(60):
                await cluster.propose(b"later %d" % number)
            # Longer than it would wait for a leader that says nothing.
            await trio.sleep(2 * QUICK.election_max_s)
            assert (log.core.counts.stale_messages, log.core.term) == heard
            assert log.leader_silence_s() < QUICK.election_min_s
            assert cluster.states[gone].values == []
        finally:
            goes_on.set()
        await until(lambda: len(cluster.states[gone].values) == 180)


async def test_members_change_while_it_runs(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.propose(b"first")
        leader = await cluster.leader()
        gone = min(set(cluster.names) - {leader._name})
        await leader.change_voters("remove", gone)
        assert leader.core.voters == tuple(sorted(set(cluster.names) - {gone}))
        with pytest.raises(Conflict, match="is not a voting server"):
            await leader.change_voters("remove", gone)
        await leader.add_learner(gone)
        assert leader.configuration().learners == (gone,)
        await until(lambda: leader.core._replica.engine.match_index(gone) == leader.core.commit_index)
        await leader.change_voters("add", gone)
        assert leader.core.voters == cluster.names


async def test_who_belongs_to_the_log_and_how_far_they_are(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.propose(b"first")
        leader = await cluster.leader()
        await until(lambda: all(peer.lag == 0 for peer in leader.configuration().peers))
        seen = leader.configuration()
        assert (seen.leader, seen.leading, seen.voters, seen.learners) == (leader._name, True, cluster.names, ())
        assert all(peer.contact_s is not None and peer.last_term == seen.term for peer in seen.peers)
        follower = next(log for log in cluster.logs.values() if log is not leader)
        assert follower.configuration().voters == cluster.names
        other = next(peer for peer in follower.configuration().peers if peer.server == leader._name)
        assert other.contact_s is None
        with pytest.raises(NoLeader):
            await follower.add_learner("d")


async def test_the_leadership_goes_where_it_is_sent(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.propose(b"first")
        leader = await cluster.leader()
        other = min(set(cluster.names) - {leader._name})
        assert (await leader.transfer_leadership(leader._name)).leader == leader._name
        assert (await leader.transfer_leadership(other)).leader == other
        await until(lambda: cluster.logs[other].leadership.leading)
        with pytest.raises(NoLeader):
            await leader.transfer_leadership(other)
        with pytest.raises(Refused, match="cannot go from"):
            await cluster.logs[other].transfer_leadership("stranger")


async def test_who_does_not_take_over_leaves_the_leadership_where_it_is(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.propose(b"first")
        leader = await cluster.leader()
        gone = min(set(cluster.names) - {leader._name})
        await cluster.stop(gone)
        await cluster.propose(b"second")
        with pytest.raises(TimedOut, match="did not take over"):
            await leader.transfer_leadership(gone, timeout_s=0.5)
        assert leader.is_leader


async def test_a_single_server_leads_before_it_reports_started_or_in_the_next_cycle(tmp_path: Path) -> None:
    log = single(tmp_path, State())
    async with running(log):
        with trio.fail_after(1):
            while not (now := log.leadership).leading:
                await log.leadership_changed(now)
        assert log.configuration().peers[0].contact_s == 0.0


async def test_without_a_majority_nothing_is_promised(tmp_path: Path) -> None:
    async with three(tmp_path) as cluster:
        await cluster.propose(b"first")
        leader = await cluster.leader()
        for name in set(cluster.names) - {leader._name}:
            await cluster.stop(name)
        with pytest.raises((OutcomeUnknown, NoLeader)):
            await leader.propose(b"nobody else hears this", timeout_s=5)
        await until(lambda: not leader.is_leader)
        with pytest.raises((NoLeader, TimedOut)):
            await leader.read_index(timeout_s=1)


async def test_a_lone_leader_sleeps_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    log = RaftLog(tmp_path, lambda index, data: index, name="a")
    async with trio.open_nursery() as nursery:
        await nursery.start(log.run)
        while not log.leadership.leading:
            await log.leadership_changed(log.leadership)
        await log.propose(b"x")
        assert log.core.next_wake() == float("inf")
        nursery.cancel_scope.cancel()
