"""One server's replicated state around the engine: its log, who votes, what it says, and what it answers.

``Core`` decides what to do with each event; this is what can be done. Two lists keep the order that durability needs:
*early* messages may leave before the log is synced, *late* ones only after. Only a leader's appends are early, and only
while its term is durable already; the leader does not count its own copy of an entry before the next cycle.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from nomadpy.model.errors import Bug, NoLeader, OutcomeUnknown
from nomadpy.raft.election import Election
from nomadpy.raft.engine import Engine, Role
from nomadpy.raft.entries import COMMAND, CONFIGURATION, NO_OP, Entry
from nomadpy.raft.leadership import Leadership
from nomadpy.raft.membership import configuration_at
from nomadpy.raft.messages import Append, Beat, Message, Vote, VoteRequest
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import OutgoingSnapshot, Snapshot, SnapshotCorrupt, SnapshotPoint, SnapshotStore
from nomadpy.raft.wal import Wal

Addressed: TypeAlias = tuple[str, Message]
# For so long a leader tries to tell a server that it was removed, and so many of them at once.
_FAREWELL_S = 10.0
_FAREWELLS_MAX = 16


class StateMachine(msgspec.Struct, frozen=True):
    """What the log drives. ``apply`` should answer refusals as values: what it raises is answered to the proposer, and
    the entry counts as applied. ``restore`` replaces the whole state by the one after an index."""

    apply: Callable[[int, bytes], Any]
    restore: Callable[[int, bytes], None]


class Answer(msgspec.Struct, frozen=True):
    """The outcome of what was asked with ``ticket``: ``result`` (of the state machine, or nothing) at ``index``, or
    ``error``: NoLeader and Refused mean that nothing happened, OutcomeUnknown that it may still happen."""

    ticket: object
    index: int = 0
    result: Any = None
    error: Exception | None = None


class Counts(msgspec.Struct):
    """What happened since the start."""

    stale_messages: int = 0
    repeated_votes: int = 0
    known_entries: int = 0
    apply_errors: int = 0
    elections: int = 0
    snapshots_installed: int = 0


class Replica:
    """The state of one server. ``voters`` holds for a server that has neither log nor snapshot."""

    def __init__(
        self, name: str, voters: tuple[str, ...], wal: Wal, store: SnapshotStore, *, machine: StateMachine,
        settings: RaftSettings, rng: random.Random, now: float,
    ) -> None:  # fmt: skip
        settings.check()
        self.name, self.wal, self.store, self.settings, self.now = name, wal, store, settings, now
        self._machine = machine
        snapshot = store.load()
        reconcile(wal, snapshot)
        self.base_voters = snapshot.point.voters if snapshot else tuple(sorted(voters))
        self.voters = configuration_at(wal, self.base_voters)
        self.learners: set[str] = set()
        # Learners that are served only until they know that they were removed: up to which entry, and until when.
        self.farewells: dict[str, tuple[int, float]] = {}
        self.engine = Engine(name, self.peers, wal, apply=self._apply, batch_bytes=settings.batch_bytes)
        self.engine.on_sent(self._count_sent)
        if snapshot is not None:
            self.engine.set_position(snapshot.point.index)
            machine.restore(snapshot.point.index, snapshot.data)
        self.election = Election(settings, rng, now)
        if self.voters == (name,):
            # There is nobody to wait for.
            self.election.deadline = now
        self.leadership: Leadership | None = None
        self.counts = Counts()
        self.early: list[Addressed] = []
        self.late: list[Addressed] = []
        self.answers: list[Answer] = []
        self.to_store: Snapshot | None = None
        self._pending: dict[int, object] = {}
        self._seq = 0
        self._durable_term = 0
        self._hinted_at = now

    @property
    def peers(self) -> tuple[str, ...]:
        """The other voters."""
        return tuple(voter for voter in self.voters if voter != self.name)

    @property
    def commit_index(self) -> int:
        """Up to where entries are committed. A cluster of one counts its own copy before it is on disk; this does
        not."""
        commit_index = self.engine.commit_index
        return commit_index if self.peers else min(commit_index, self.wal.durable_index)

    def begin(self, now: float) -> None:
        """Starts a cycle. The previous one has to be durable."""
        if self.wal.dirty:
            raise Bug("a cycle of the replicated log began before the previous one was synced")
        if self.to_store is not None:
            raise Bug("a cycle of the replicated log began before the installed snapshot was stored")
        self.now = now
        self.early, self.late = [], []
        self._durable_term = self.wal.term

    # --- saying ----------------------------------------------------------------------------------------------------

    def say(self, recipient: str, message: Message) -> None:
        """Sends once this cycle is durable."""
        self.late.append((recipient, message))

    def drain(self) -> None:
        """Passes on what the engine wants to say, in our words. Its answers to appends are dropped: ours are exact."""
        seq = self.leadership.seq if self.leadership is not None else 0
        for peer, message in self.engine.take_sent():
            match message["type"]:
                case "append_entries":
                    append = Append(
                        term=self.engine.term,
                        seq=seq,
                        prev_index=message["prevLogIdx"],
                        prev_term=message["prevLogTerm"],
                        commit_index=min(message["commit_index"], self.wal.durable_index),
                        entries=message["entries"],
                    )
                    self._appends.append((peer, append))
                case "request_vote":
                    request = VoteRequest(
                        term=self.engine.term,
                        last_index=message["last_log_index"],
                        last_term=message["last_log_term"],
                        transfer=self.election.asked_by_leader,
                    )
                    self.say(peer, request)
                case "response_vote":
                    self.say(peer, Vote(term=self.engine.term))
                case "next_node_idx":
                    pass
                case other:
                    raise Bug(f"the engine sent an unexpected {other}")

    @property
    def _appends(self) -> list[Addressed]:
        return self.early if self.engine.term == self._durable_term else self.late

    # --- roles -----------------------------------------------------------------------------------------------------

    def settle_role(self) -> None:
        """Carries out what a change of the engine's role entails. To be called after everything that may change it."""
        leads = self.engine.role is Role.LEADER
        if leads and self.leadership is None:
            self._seq += 1
            self.leadership = Leadership(self.settings, self.now, self.peers, self._seq)
            self.leadership.sent_last = self.wal.last
            self.election.leader, self.election.pre_votes = self.name, None
            self.counts.elections += 1
        elif not leads and self.leadership is not None:
            self._lose_leadership(self.leadership)
        self.drain()

    def _lose_leadership(self, leadership: Leadership) -> None:
        self._seq = leadership.seq
        for peer, follower in leadership.followers.items():
            if follower.paused:
                self.engine.resume(peer)
            follower.end_transfer()
        for learner in sorted(self.learners):
            self.engine.remove_learner(learner)
        self.learners.clear()
        self.farewells.clear()
        for read in leadership.reads:
            self.answer(read.ticket, error=NoLeader())
        for ticket in self._pending.values():
            self.answer(ticket, error=OutcomeUnknown("the leadership was lost before the entry was committed"))
        self._pending.clear()
        self.leadership = None
        if self.election.leader == self.name:
            self.election.leader = None
        # Stepping down leaves the engine's own timer where it was; ours starts anew.
        self.election.rearm(self.now)

    # --- entries ---------------------------------------------------------------------------------------------------

    def append(self, data: bytes, ticket: object) -> None:
        """Adds an entry to the leader's log; ``ticket`` is answered when it was applied."""
        index = self.wal.last + 1
        self.wal.append(data, index, self.engine.term)
        self._pending[index] = ticket
        if data[:1] == CONFIGURATION:
            self.sync_configuration()

    def answer(self, ticket: object, *, index: int = 0, result: Any = None, error: Exception | None = None) -> None:
        """Notes the outcome of what was asked."""
        self.answers.append(Answer(ticket, index, result, error))

    def tick(self) -> None:
        """Commits and applies what can be, and now and then notes the commit index on disk."""
        before = self.engine.commit_index
        self.engine.tick()
        self.settle_role()
        if self.engine.commit_index > before and self.leadership is not None and self.leadership.notice_at is None:
            self.leadership.notice_at = self.now + self.settings.commit_notice_s
        if self.now - self._hinted_at >= self.settings.commit_hint_s:
            self._hinted_at = self.now
            self.wal.note_commit(self.engine.commit_index)

    def _apply(self, data: bytes) -> None:
        index = self.engine.applied_index + 1
        result, error = None, None
        if data[:1] == COMMAND:
            try:
                result = self._machine.apply(index, data[1:])
            except Exception as raised:  # noqa: BLE001 - every server must go on with the next entry alike
                self.counts.apply_errors += 1
                error = raised
        if index in self._pending:
            self.answer(self._pending.pop(index), index=index, result=result, error=error)

    # --- replication -----------------------------------------------------------------------------------------------

    def replicate(self) -> None:
        """Begins a round when one is due."""
        leadership = self.leadership
        if leadership is not None:
            self._end_farewells()
        if leadership is None or not leadership.followers or not leadership.round_due(self.now, self.wal.last):
            return
        leadership.begin_round(self.now, self.wal.last)
        for peer, follower in sorted(leadership.followers.items()):
            if follower.window_full and self.now - follower.progress_at > self.settings.election_max_s:
                follower.forget_under_way(self.now)
                self._resume(peer)
            if follower.transfer is None and self.engine.next_index(peer) <= self.wal.first:
                self._begin_transfer(peer)
            if follower.paused:
                self.say(peer, Beat(term=self.engine.term, seq=leadership.seq))
        self.engine.send_appends()
        self.drain()
        for peer in sorted(leadership.followers):
            self.continue_transfer(peer)

    def _count_sent(self, peer: str, entries: list[Entry]) -> None:
        # The first appends of a new leader are sent before this server knows that it leads.
        follower = self.leadership.followers.get(peer) if self.leadership is not None else None
        if follower is not None and follower.sent(entries, self.settings.window_bytes):
            self.engine.pause(peer)

    def _resume(self, peer: str) -> None:
        if self.leadership is not None and not self.leadership.followers[peer].paused:
            self.engine.resume(peer)

    def go_back(self, peer: str, next_index: int) -> None:
        """Sends to a follower from ``next_index`` on, but nothing that it is known to have."""
        if self.leadership is None:
            return
        follower = self.leadership.followers[peer]
        self.engine.set_next_index(peer, max(next_index, self.engine.match_index(peer) + 1))
        follower.ignore_before_seq = self.leadership.seq + 1
        follower.forget_under_way(self.now)
        self._resume(peer)
        self.leadership.round_wanted = True

    def advance(self, peer: str, match_index: int) -> None:
        """A follower has everything up to ``match_index``, durably."""
        if self.leadership is None:
            return
        follower = self.leadership.followers[peer]
        next_before = self.engine.next_index(peer)
        message = {"type": "next_node_idx", "next_node_idx": match_index + 1, "reset": False, "success": True}
        self.engine.deliver(peer, message)
        if follower.transfer is not None and match_index >= follower.transfer.index:
            # If the log has forgotten even more meanwhile, the next round begins with a newer snapshot.
            follower.end_transfer()
            next_before = match_index + 1
        # The engine would go back to what was acknowledged and send again what is under way.
        self.engine.set_next_index(peer, max(next_before, self.engine.match_index(peer) + 1))
        was_full = follower.window_full
        follower.arrived(self.engine.match_index(peer), self.now, self.settings.window_bytes)
        self._resume(peer)
        if was_full or self.engine.next_index(peer) <= self.wal.last:
            self.leadership.round_wanted = True

    def _begin_transfer(self, peer: str) -> None:
        if self.store.newest is None:
            raise Bug(f"{peer} needs entries that are gone, and there is no snapshot of them")
        if self.leadership is not None:
            self.engine.pause(peer)
            self.leadership.followers[peer].transfer = OutgoingSnapshot(
                self.store.open_newest(),
                chunk_bytes=self.settings.chunk_bytes,
                chunks_under_way=self.settings.chunks_under_way,
                retry_s=5 * self.settings.heartbeat_s,
            )

    def continue_transfer(self, peer: str) -> None:
        """Sends a follower the next parts of the snapshot it is receiving, if any are due."""
        follower = self.leadership.followers.get(peer) if self.leadership is not None else None
        if follower is None or follower.transfer is None or self.leadership is None:
            return
        while follower.transfer.due(self.now):
            self.say(peer, follower.transfer.chunk(self.now, term=self.engine.term, seq=self.leadership.seq))

    # --- members ---------------------------------------------------------------------------------------------------

    def sync_configuration(self) -> None:
        """Follows the newest configuration in the log. To be called after everything that may change the log."""
        voters = configuration_at(self.wal, self.base_voters)
        if voters == self.voters:
            return
        before, self.voters = set(self.peers), voters
        for peer in sorted(set(self.peers) - before):
            self.drop_learner(peer)
            self.engine.add_voter(peer)
            if self.leadership is not None:
                self.leadership.add(peer, self.now)
        for peer in sorted(before - set(self.peers)):
            self.engine.remove_voter(peer)
            if self.leadership is not None:
                self.leadership.drop(peer)
                self.say_farewell(peer)
        self.drain()

    def say_farewell(self, peer: str) -> None:
        """Serves a server that does not belong to the configuration until it has read that for itself: it knows no
        better than to vote and to campaign before."""
        if peer not in self.learners and len(self.farewells) < _FAREWELLS_MAX:
            self._serve_learner(peer)
            self.farewells[peer] = (self.wal.last, self.now + _FAREWELL_S)

    def _end_farewells(self) -> None:
        for peer, (index, deadline) in sorted(self.farewells.items()):
            told = self.commit_index >= index and self.engine.match_index(peer) >= index
            if told or self.now >= deadline:
                self.drop_learner(peer)

    def add_learner(self, peer: str) -> None:
        """Serves a server that does not vote, until ``drop_learner``."""
        self.farewells.pop(peer, None)
        self._serve_learner(peer)

    def _serve_learner(self, peer: str) -> None:
        if self.leadership is not None and peer not in self.learners and peer not in self.voters:
            self.learners.add(peer)
            self.engine.add_learner(peer)
            self.leadership.add(peer, self.now)

    def drop_learner(self, peer: str) -> None:
        """Ends that."""
        self.farewells.pop(peer, None)
        if peer in self.learners:
            self.learners.discard(peer)
            self.engine.remove_learner(peer)
            if self.leadership is not None:
                self.leadership.drop(peer)

    # --- snapshots -------------------------------------------------------------------------------------------------

    def snapshot_point(self) -> SnapshotPoint:
        """Where the state machine stands."""
        index = self.engine.applied_index
        term = self.wal.term_at(index)
        if self.wal.dirty or term is None:
            raise Bug("a snapshot can only be taken between two cycles")
        return SnapshotPoint(index, term, configuration_at(self.wal, self.base_voters, index))

    def forget_before(self, point: SnapshotPoint) -> None:
        """Shortens the log up to a snapshot that is durable; some entries stay for servers that are close behind."""
        if self.store.newest is None or self.store.newest.point.index < point.index:
            raise Bug("the log would forget entries before their snapshot is durable")
        keep_from = point.index - self.settings.trailing_entries
        if keep_from > self.wal.first:
            self.base_voters = configuration_at(self.wal, self.base_voters, keep_from)
            self.wal.drop_before(keep_from)

    def install(self, snapshot: Snapshot, swap: Callable[[], None] | None = None) -> None:
        """Takes over a leader's snapshot. The caller stores it durably before it syncs the log; with ``swap``, which
        exchanges the state for the one in the snapshot, it has been stored already."""
        point = snapshot.point
        if self.wal.term_at(point.index) != point.term:
            self.wal.reset()
            self.wal.append(NO_OP, point.index, point.term)
        self.engine.set_position(point.index)
        self.base_voters = point.voters
        self.counts.snapshots_installed += 1
        if swap is None:
            self.to_store = snapshot
            self._machine.restore(point.index, snapshot.data)
        else:
            swap()
        self.sync_configuration()


def reconcile(wal: Wal, snapshot: Snapshot | None) -> None:
    """Makes the log continue the snapshot, as after a stop between storing one and syncing the other. Raises
    SnapshotCorrupt when entries between them are missing."""
    if snapshot is None:
        if wal.first > 1:
            raise SnapshotCorrupt(
                f"the log begins at entry {wal.first}, and the snapshot of what was before is missing"
            )
        return
    point = snapshot.point
    if wal.first > point.index:
        raise SnapshotCorrupt(f"the log begins at entry {wal.first}, but the newest snapshot ends at {point.index}")
    if wal.term_at(point.index) != point.term:
        wal.reset()
        wal.append(NO_OP, point.index, point.term)
