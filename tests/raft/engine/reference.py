"""A second, small Raft with the face of ``Core``: over the same log, snapshots and messages, but with no engine inside.

It is an executable specification. Clusters of it, of ``Core``, and of both mixed have to keep the same invariants, so
that neither the wire nor the files can quietly mean something else to one of them. Written from the thesis (Ongaro,
"Consensus: Bridging Theory and Practice"); the numbers are its sections.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from typing import Any

from nomadpy.model.errors import Conflict, NoLeader, OutcomeUnknown
from nomadpy.raft.engine import Role
from nomadpy.raft.entries import COMMAND, NO_OP, Entry, configuration_entry, configuration_of
from nomadpy.raft.messages import (
    Append,
    Appended,
    Beat,
    BeatSeen,
    Message,
    NewerTerm,
    PreVote,
    PreVoteRequest,
    SnapshotChunk,
    SnapshotSeen,
    TimeoutNow,
    Vote,
    VoteRequest,
)
from nomadpy.raft.replica import Answer, StateMachine, reconcile
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import IncomingSnapshot, OutgoingSnapshot, Snapshot, SnapshotPoint, SnapshotStore
from nomadpy.raft.wal import Wal


class Progress:
    """The leader's view of a server."""

    def __init__(self, next_index: int, now: float) -> None:
        self.next, self.match, self.echo = next_index, 0, 0
        self.heard, self.not_before = now, 0
        self.transfer: OutgoingSnapshot | None = None


class Reference:
    """One server."""

    def __init__(
        self, name: str, voters: tuple[str, ...], wal: Wal, store: SnapshotStore, *, machine: StateMachine,
        rng: random.Random, now: float, settings: RaftSettings | None = None,
    ) -> None:  # fmt: skip
        self.name, self.wal, self.store, self.machine, self.rng = name, wal, store, machine, rng
        self.settings, self.now = settings or RaftSettings(), now
        snapshot = store.load()
        reconcile(wal, snapshot)
        self.base = snapshot.point.voters if snapshot else tuple(sorted(voters))
        if not wal.entries:
            wal.append(NO_OP, 1, 0)
        position = snapshot.point.index if snapshot else 1
        self.commit_index, self.applied_index = max(position, wal.commit_hint), position
        if snapshot:
            machine.restore(position, snapshot.data)
        self.role, self.leader, self.heard_at = Role.FOLLOWER, None, -math.inf
        self.progress: dict[str, Progress] = {}
        self.learners: set[str] = set()
        self.votes: set[str] = set()
        self.pre_votes: set[str] | None = None
        self.pending: dict[int, object] = {}
        self.reads: list[tuple[int, int, object]] = []
        self.queue: list[tuple[str, object, Any]] = []
        self.answers: list[Answer] = []
        self.installed: Snapshot | None = None
        self.incoming: IncomingSnapshot | None = None
        self.successor: tuple[str, float] | None = None
        self.seq = self.sent_last = 0
        self.beat_at = self.deadline = now
        self.wanted = False
        self.early: list[tuple[str, Message]] = []
        self.late: list[tuple[str, Message]] = []
        self.rearm()

    # --- the face of Core ------------------------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return self.wal.term

    @property
    def voters(self) -> tuple[str, ...]:
        return configuration_of(self.wal.configurations[-1][0]) if self.wal.configurations else self.base

    def propose(self, ticket: object, data: bytes) -> None:
        self.queue.append(("propose", ticket, data))

    def read_index(self, ticket: object) -> None:
        self.queue.append(("read", ticket, None))

    def propose_conf(self, ticket: object, change: str, server: str) -> None:
        self.queue.append(("change", ticket, (change, server)))

    def add_learner(self, server: str) -> None:
        if self.role is Role.LEADER and server not in self.progress and server != self.name:
            self.learners.add(server)
            self.members()

    def transfer_leadership(self, server: str) -> None:
        if self.role is Role.LEADER and server in self.others:
            self.successor = (server, self.now + self.settings.transfer_s)

    def take_snapshot(self) -> SnapshotPoint:
        voters = self.base
        for entry in self.wal.configurations:
            if entry[1] <= self.applied_index:
                voters = configuration_of(entry[0])
        return SnapshotPoint(self.applied_index, self.wal.term_at(self.applied_index) or 0, voters)

    def snapshot_stored(self, point: SnapshotPoint) -> None:
        keep_from = point.index - self.settings.trailing_entries
        if keep_from > self.wal.first:
            for entry in self.wal.configurations:
                if entry[1] < keep_from:
                    self.base = configuration_of(entry[0])
            self.wal.drop_before(keep_from)

    def take_answers(self) -> list[Answer]:
        answers, self.answers = self.answers, []
        return answers

    def take_installed(self) -> Snapshot | None:
        installed, self.installed = self.installed, None
        return installed

    def next_wake(self) -> float:
        if self.queue or (self.role is Role.LEADER and not self.others and self.commit_index < self.wal.last):
            return -math.inf
        if self.role is Role.LEADER:
            return self.beat_at
        return self.deadline if self.name in self.voters else math.inf

    def step(
        self, now: float, inbound: Iterable[tuple[str, Message]] = (), proposals: Sequence[Any] = ()
    ) -> tuple[list[tuple[str, Message]], list[tuple[str, Message]]]:
        self.now, self.early, self.late = now, [], []
        durable_term = self.wal.term
        for sender, message in inbound:
            self.receive(sender, message)
        self.timers()
        if self.role is Role.LEADER:
            self.advance_commit()
        for kind, ticket, what in [*self.queue, *(("propose", one.ticket, one.data) for one in proposals)]:
            self.begin(kind, ticket, what)
        self.queue = []
        if self.role is Role.LEADER and self.progress:
            if self.wal.last > self.sent_last or self.wanted or now >= self.beat_at:
                self.round()
            for peer in sorted(self.progress):
                self.send_chunk(peer)
        if self.wal.term != durable_term:
            self.early, self.late = [], [*self.early, *self.late]
        return self.early, self.late

    # --- small things ----------------------------------------------------------------------------------------------

    @property
    def others(self) -> list[str]:
        return [voter for voter in self.voters if voter != self.name]

    def rearm(self) -> None:
        self.deadline = self.now + self.rng.uniform(self.settings.election_min_s, self.settings.election_max_s)

    def majority(self, who: Iterable[str]) -> bool:
        return len(set(who).intersection(self.voters)) * 2 > len(self.voters)

    def answer(self, ticket: object, index: int = 0, result: Any = None, error: Exception | None = None) -> None:
        self.answers.append(Answer(ticket, index, result, error))

    def follow(self, term: int) -> None:
        """Back to follower, in the same or a higher term (3.3)."""
        if term > self.term:
            self.wal.set_state(term, None)
            self.leader = None
        if self.role is Role.LEADER:
            for ticket in self.pending.values():
                self.answer(ticket, error=OutcomeUnknown("the leadership was lost"))
            for _, _, ticket in self.reads:
                self.answer(ticket, error=NoLeader())
            for progress in self.progress.values():
                if progress.transfer:
                    progress.transfer.close()
            self.pending, self.reads, self.progress, self.successor = {}, [], {}, None
            self.learners.clear()
            self.leader = None
            self.rearm()
        self.role, self.votes, self.pre_votes = Role.FOLLOWER, set(), None

    def members(self) -> None:
        """Serves whoever votes or learns, from the moment the configuration is in the log (4.1)."""
        if self.role is Role.LEADER:
            served = {*self.others, *self.learners}
            for peer in served - set(self.progress):
                self.progress[peer] = Progress(self.wal.last + 1, self.now)
                self.wanted = True
            for peer in set(self.progress) - served:
                if (transfer := self.progress.pop(peer).transfer) is not None:
                    transfer.close()

    # --- requests --------------------------------------------------------------------------------------------------

    def begin(self, kind: str, ticket: object, what: Any) -> None:
        if self.role is not Role.LEADER or (self.successor and kind != "read"):
            self.answer(ticket, error=NoLeader())
        elif kind == "propose":
            self.append(COMMAND + what, ticket)
        elif kind == "read" and self.wal.term_at(self.commit_index) != self.term:
            self.answer(ticket, error=NoLeader())
        elif kind == "read":
            self.reads.append((self.seq + 1, self.commit_index, ticket))
            self.wanted = True
            self.answer_reads()
        else:
            self.change(ticket, *what)

    def append(self, data: bytes, ticket: object) -> None:
        self.wal.append(data, self.wal.last + 1, self.term)
        self.pending[self.wal.last] = ticket

    def change(self, ticket: object, change: str, server: str) -> None:
        """One at a time, after an entry of this term is committed (4.1, and its correction)."""
        in_flight = self.wal.configurations and self.wal.configurations[-1][1] > self.commit_index
        learned = server in self.learners and (
            self.progress[server].match >= self.commit_index - self.settings.learner_lag_max
        )
        allowed = server in self.others if change == "remove" else server not in self.voters and learned
        if in_flight or not allowed or self.wal.term_at(self.commit_index) != self.term:
            self.answer(ticket, error=Conflict("not now"))
            return
        voters = {*self.voters, server} if change == "add" else {*self.voters} - {server}
        self.learners.discard(server)
        self.append(configuration_entry(tuple(voters)), ticket)
        self.members()

    def answer_reads(self) -> None:
        """A read is safe once a majority echoed a round that began after it (6.4)."""
        waiting = []
        for seq, index, ticket in self.reads:
            if self.majority([self.name, *(peer for peer in self.others if self.progress[peer].echo >= seq)]):
                self.answer(ticket, index)
            else:
                waiting.append((seq, index, ticket))
        self.reads = waiting

    # --- leading ---------------------------------------------------------------------------------------------------

    def advance_commit(self) -> None:
        """The newest entry of this term that a majority has (3.6.2)."""
        matches = sorted(
            (self.wal.last if voter == self.name else self.progress[voter].match for voter in self.voters), reverse=True
        )
        index = matches[len(matches) // 2]
        if index > self.commit_index and self.wal.term_at(index) == self.term:
            self.commit_index = index
            self.apply()
        if self.successor and self.progress[self.successor[0]].match == self.wal.last:
            self.late.append((self.successor[0], TimeoutNow(self.term)))

    def apply(self) -> None:
        for index in range(self.applied_index + 1, self.commit_index + 1):
            data = self.wal.entries[index - self.wal.first][0]
            result = self.machine.apply(index, data[1:]) if data[:1] == COMMAND else None
            self.applied_index = index
            if index in self.pending:
                self.answer(self.pending.pop(index), index, result)

    def round(self) -> None:
        self.seq += 1
        self.sent_last, self.wanted = self.wal.last, False
        self.beat_at = self.now + self.settings.heartbeat_s
        for peer in sorted(self.progress):
            self.send_entries(peer, self.progress[peer])

    def send_entries(self, peer: str, progress: Progress) -> None:
        if progress.next <= self.wal.first and progress.transfer is None:
            progress.transfer = OutgoingSnapshot(
                self.store.open_newest(),
                chunk_bytes=self.settings.chunk_bytes,
                chunks_under_way=1,
                retry_s=5 * self.settings.heartbeat_s,
            )
        if progress.transfer:
            self.late.append((peer, Beat(self.term, self.seq)))
            return
        entries: list[Entry] = []
        size = 0
        for entry in self.wal.entries[progress.next - self.wal.first :]:
            entries.append(entry)
            size += len(entry[0])
            if size >= self.settings.batch_bytes:
                break
        before = progress.next - 1
        committed = min(self.commit_index, self.wal.durable_index)
        self.early.append(
            (peer, Append(self.term, self.seq, before, self.wal.term_at(before) or 0, committed, entries))
        )
        progress.next += len(entries)

    def send_chunk(self, peer: str) -> None:
        transfer = self.progress[peer].transfer
        if transfer and transfer.due(self.now):
            self.late.append((peer, transfer.chunk(self.now, term=self.term, seq=self.seq)))

    # --- elections -------------------------------------------------------------------------------------------------

    def timers(self) -> None:
        if self.role is Role.LEADER:
            patience = self.settings.election_max_s
            heard = [peer for peer in self.others if self.now - self.progress[peer].heard < patience]
            if not self.majority([self.name, *heard]):
                self.follow(self.term)
            elif self.successor and (self.now >= self.successor[1] or self.successor[0] not in self.others):
                self.successor = None
        elif self.now >= self.deadline and self.name in self.voters:
            self.rearm()
            self.leader, self.pre_votes = None, {self.name}
            if self.majority(self.pre_votes):
                self.elect(transfer=False)
            for peer in self.others:
                request = PreVoteRequest(self.term, self.term + 1, self.wal.last, self.wal.last_term)
                self.late.append((peer, request))

    def elect(self, *, transfer: bool) -> None:
        self.wal.set_state(self.term + 1, self.name)
        self.role, self.votes, self.pre_votes, self.leader = Role.CANDIDATE, {self.name}, None, None
        self.rearm()
        for peer in self.others:
            self.late.append((peer, VoteRequest(self.term, self.wal.last, self.wal.last_term, transfer)))
        self.count_votes()

    def count_votes(self) -> None:
        if self.majority(self.votes):
            self.role, self.leader, self.progress = Role.LEADER, self.name, {}
            self.members()
            self.wal.append(NO_OP, self.wal.last + 1, self.term)
            self.sent_last = 0

    def sticky(self) -> bool:
        return self.role is Role.LEADER or self.now - self.heard_at < self.settings.election_min_s

    def newer_than(self, request: PreVoteRequest | VoteRequest) -> bool:
        return (self.wal.last_term, self.wal.last) > (request.last_term, request.last_index)

    # --- what arrives ----------------------------------------------------------------------------------------------

    def receive(self, sender: str, message: Message) -> None:
        known = sender in self.others or sender in self.learners
        from_leader = isinstance(message, Append | Beat | SnapshotChunk)
        match message:
            case PreVoteRequest():
                granted = message.for_term > self.term and not self.sticky() and not self.newer_than(message)
                self.late.append((sender, PreVote(self.term, message.for_term, granted)))
            case PreVote() if known and message.term <= self.term:
                if message.granted and self.pre_votes is not None and message.for_term == self.term + 1:
                    self.pre_votes.add(sender)
                    if self.majority(self.pre_votes):
                        self.elect(transfer=False)
            case VoteRequest() if message.term > self.term and self.sticky() and not message.transfer:
                pass
            case _ if not known and not from_leader and not isinstance(message, VoteRequest):
                pass
            case _ if message.term < self.term:
                if from_leader or isinstance(message, VoteRequest):
                    self.late.append((sender, NewerTerm(self.term)))
            case _:
                if message.term > self.term:
                    self.follow(message.term)
                self.receive_in_term(sender, message)

    def receive_in_term(self, sender: str, message: Message) -> None:
        match message:
            case VoteRequest():
                if self.wal.voted_for in (None, sender) and self.role is Role.FOLLOWER and not self.newer_than(message):
                    self.wal.set_state(self.term, sender)
                    self.rearm()
                    self.late.append((sender, Vote(self.term)))
            case Vote() if self.role is Role.CANDIDATE:
                self.votes.add(sender)
                self.count_votes()
            case TimeoutNow() if sender == self.leader and self.name in self.voters:
                self.elect(transfer=True)
            case Append() | Beat() | SnapshotChunk():
                assert self.role is not Role.LEADER, f"two leaders in term {self.term}"
                self.follow(self.term)
                self.leader, self.heard_at = sender, self.now
                self.rearm()
                self.hear_leader(sender, message)
            case Appended() | BeatSeen() | SnapshotSeen() if sender in self.progress:
                self.hear_follower(self.progress[sender], message)

    def hear_leader(self, sender: str, message: Append | Beat | SnapshotChunk) -> None:
        match message:
            case Beat():
                self.late.append((sender, BeatSeen(self.term, message.seq)))
            case Append():
                self.take_entries(sender, message)
            case SnapshotChunk():
                self.take_chunk(sender, message)

    def take_entries(self, sender: str, append: Append) -> None:
        """Keeps what agrees, removes from the first contradiction on (3.5)."""
        before, entries = append.prev_index, append.entries
        terms = {before: append.prev_term} | {entry[1]: entry[2] for entry in entries}
        if before >= self.wal.first and self.wal.term_at(before) != append.prev_term:
            hint = self.wal.last + 1
            contradicting = self.wal.term_at(before)
            if contradicting is not None:
                hint = before
                while hint - 1 > self.commit_index and self.wal.term_at(hint - 1) == contradicting:
                    hint -= 1
            self.late.append((sender, Appended(self.term, append.seq, hint, ok=False)))
            return
        for data, index, term in entries:
            if index < self.wal.first or self.wal.term_at(index) == term:
                continue
            assert index > self.commit_index, "a leader contradicts what is committed"
            self.wal.truncate_from(index)
            self.wal.append(data, index, term)
        end = max(self.wal.first, max(terms))
        if (committed := min(append.commit_index, end)) > self.commit_index:
            self.commit_index = committed
            self.apply()
        self.late.append((sender, Appended(self.term, append.seq, end + 1, ok=True)))

    def take_chunk(self, sender: str, chunk: SnapshotChunk) -> None:
        if chunk.index > self.commit_index:
            if self.incoming is None or not self.incoming.belongs(chunk):
                self.incoming = IncomingSnapshot(chunk)
            self.incoming.take(chunk)
            snapshot = self.incoming.snapshot() if self.incoming.complete else None
            if snapshot is None:
                offset = 0 if self.incoming.complete else self.incoming.offset
                self.late.append((sender, SnapshotSeen(self.term, chunk.seq, chunk.index, offset)))
                if self.incoming.complete:
                    self.incoming = None
                return
            self.install(snapshot)
        self.late.append((sender, Appended(self.term, chunk.seq, chunk.index + 1, ok=True)))

    def install(self, snapshot: Snapshot) -> None:
        point, self.incoming = snapshot.point, None
        if self.wal.term_at(point.index) != point.term:
            self.wal.reset()
            self.wal.append(NO_OP, point.index, point.term)
        self.commit_index = self.applied_index = point.index
        self.base, self.installed = point.voters, snapshot
        self.machine.restore(point.index, snapshot.data)

    def hear_follower(self, progress: Progress, message: Appended | BeatSeen | SnapshotSeen) -> None:
        progress.heard, progress.echo = self.now, max(progress.echo, message.seq)
        self.answer_reads()
        if isinstance(message, SnapshotSeen) and progress.transfer:
            progress.transfer.seen(message, self.now)
        if not isinstance(message, Appended) or message.next_index > self.wal.last + 1:
            return
        if message.ok:
            progress.match = max(progress.match, message.next_index - 1)
            progress.next = max(progress.next, progress.match + 1)
            if progress.transfer and progress.match >= progress.transfer.index:
                progress.transfer.close()
                progress.transfer, progress.next = None, progress.match + 1
            self.wanted = self.wanted or progress.next <= self.wal.last
        elif message.seq >= progress.not_before and not progress.transfer:
            progress.next = max(message.next_index, progress.match + 1)
            progress.not_before = self.seq + 1
            self.wanted = True
