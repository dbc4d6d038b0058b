"""The replicated log of one server, without I/O: messages and proposals in, messages and answers out.

One cycle is ``early, late = step(now, inbound, proposals)``; then the caller

1. sends ``early``,
2. stores the snapshot that ``take_installed`` returns, if any (or sees to it as ``arriving`` says),
3. syncs the log (``wal.sync()``; it must be synced once after construction, too),
4. sends ``late`` and gives out ``take_answers()``,

and only then begins the next cycle, at ``next_wake()`` or when something arrives. A cycle: what arrived, through the
firewall; own timers; commit and apply; new proposals; what has to be sent. Time and chance are arguments.

The engine inside (``engine.py``) never sees a message that would make it do something unsafe: appends are fitted to the
log (``firewall.py``), votes counted once per voter and term, answers of another term dropped, and requests for
membership, code versions and forwarded commands do not exist on the wire.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import msgspec

from nomadpy.model.errors import Invalid, NoLeader, Refused
from nomadpy.raft.arrival import Arrival, Swap
from nomadpy.raft.configuration import Configuration, describe
from nomadpy.raft.election import is_up_to_date
from nomadpy.raft.engine import Role
from nomadpy.raft.entries import COMMAND, configuration_entry
from nomadpy.raft.firewall import SafetyViolation, fit_append, is_stale_answer
from nomadpy.raft.leadership import Leadership, PendingRead
from nomadpy.raft.membership import Change, ChangeRequest, changed, check_change, check_learner
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
from nomadpy.raft.replica import Addressed, Answer, Counts, Replica, StateMachine
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import IncomingSnapshot, Snapshot, SnapshotPoint, SnapshotStore
from nomadpy.raft.wal import Wal

_FROM_LEADERS = (Append, Beat, SnapshotChunk)
# A server whose configuration is old may not know its leader or a candidate yet, and must hear them all the same.
_FROM_ANYONE = (*_FROM_LEADERS, VoteRequest, PreVoteRequest)
_AT_ONCE = float("-inf")


class Proposal(msgspec.Struct, frozen=True):
    """Bytes for the state machine; ``ticket`` comes back with the answer."""

    ticket: object
    data: bytes


class ReadRequest(msgspec.Struct, frozen=True):
    """A wish to read what was committed before now."""

    ticket: object


class Core:
    """One server of the replicated log."""

    def __init__(
        self, name: str, voters: tuple[str, ...], wal: Wal, store: SnapshotStore, *, machine: StateMachine,
        rng: random.Random, now: float, settings: RaftSettings | None = None, reads_beside: bool = False,
    ) -> None:  # fmt: skip
        """``reads_beside``: the caller stores and reads the snapshots that arrive (``arriving``)."""
        self._replica = Replica(
            name, voters, wal, store, machine=machine, settings=settings or RaftSettings(), rng=rng, now=now
        )
        self._queue: list[Proposal | ReadRequest | ChangeRequest] = []
        self._arrival = Arrival(reads_beside=reads_beside)

    # --- what it is ------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This server."""
        return self._replica.name

    @property
    def role(self) -> Role:
        """What it is in its term."""
        return self._replica.engine.role

    @property
    def term(self) -> int:
        """Its term."""
        return self._replica.engine.term

    @property
    def leader(self) -> str | None:
        """Who leads, as far as it knows."""
        return self._replica.election.leader

    def leader_silence(self, now: float) -> float:
        """Seconds since the leader was heard, 0 when nobody is known to lead."""
        return self._replica.election.silence(now) if self.leader else 0.0

    @property
    def in_office(self) -> bool:
        """Whether it leads and has applied an entry of its own term, hence everything that was ever acknowledged."""
        replica = self._replica
        return replica.leadership is not None and replica.wal.term_at(self.applied_index) == replica.engine.term

    @property
    def commit_index(self) -> int:
        """Up to where entries are known to be committed."""
        return self._replica.commit_index

    @property
    def applied_index(self) -> int:
        """Up to where the state machine was driven."""
        return self._replica.engine.applied_index

    @property
    def voters(self) -> tuple[str, ...]:
        """The newest configuration in its log."""
        return self._replica.voters

    def configuration(self, now: float) -> Configuration:
        """Who belongs to the log and, on a leader, how far each one is."""
        return describe(self._replica, now)

    @property
    def counts(self) -> Counts:
        """What happened since the start."""
        return self._replica.counts

    # --- what can be asked of it -----------------------------------------------------------------------------------

    def propose(self, ticket: object, data: bytes) -> None:
        """Wants ``data`` committed and applied; answered with what the state machine returned. The size is checked
        here. Raises Invalid."""
        limit = self._replica.settings.entry_bytes_max
        if len(data) > limit:
            raise Invalid(f"an entry of {len(data)} bytes; the replicated log takes at most {limit}")
        self._queue.append(Proposal(ticket, data))

    def read_index(self, ticket: object) -> None:
        """Wants to read everything that was acknowledged before now; answered, once that is certain, with an index that
        this server has applied."""
        self._queue.append(ReadRequest(ticket))

    def propose_conf(self, ticket: object, change: Change, server: str) -> None:
        """Wants a voter added (a learner that has caught up) or removed; answered when that is committed."""
        self._queue.append(ChangeRequest(change, server, ticket))

    def add_learner(self, server: str) -> None:
        """Has a leader serve a server that does not vote; others ignore it. Lasts as long as the leadership."""
        self._replica.add_learner(server)

    def remove_learner(self, server: str) -> None:
        """Ends ``add_learner``."""
        self._replica.drop_learner(server)

    def transfer_leadership(self, server: str) -> None:
        """Has a leader hand over to a voter as soon as that one has the whole log; proposals are refused meanwhile.
        Raises Refused when this server does not lead or the other does not vote."""
        replica = self._replica
        if replica.leadership is None or server not in replica.peers:
            raise Refused(f"the leadership cannot go from {replica.name} to {server}")
        replica.leadership.successor = server
        replica.leadership.successor_deadline = replica.now + replica.settings.transfer_s
        replica.leadership.successor_told = False

    def suspect_leader(self, server: str, now: float) -> None:
        """The connection to ``server`` was reset. If it led, an election is held soon."""
        if server == self._replica.election.leader and self.role is not Role.LEADER:
            self._replica.election.suspect_leader(now)

    def take_snapshot(self) -> SnapshotPoint:
        """What a snapshot of the state machine, as it is now, stands for. The caller stores both together, in its own
        time, then calls ``snapshot_stored``."""
        return self._replica.snapshot_point()

    def snapshot_stored(self, point: SnapshotPoint) -> None:
        """The snapshot is durable: the log may forget."""
        self._replica.forget_before(point)

    def take_answers(self) -> list[Answer]:
        """What was decided since the last call. To be given out after the sync."""
        answers, self._replica.answers = self._replica.answers, []
        return answers

    def take_installed(self) -> Snapshot | None:
        """The leader's snapshot that was taken over in this cycle and has to be stored before the log is synced."""
        snapshot, self._replica.to_store = self._replica.to_store, None
        return snapshot

    @property
    def arriving(self) -> IncomingSnapshot | None:
        """A snapshot of the leader that is on its way into this server. The caller may store its parts as they come.
        When it is complete the caller stores it durably and reads the state in it, all in its own time and in another
        thread, then calls ``prepared``; meanwhile the log goes on. When this is another one, or None, before the one
        so far was complete, that one never will be."""
        return self._arrival.on_the_way(self._replica.engine.commit_index)

    def prepared(self, snapshot: Snapshot | None, swap: Swap) -> None:
        """What came of it: the next cycle calls ``swap``, which exchanges the state, unless the log got as far by
        itself meanwhile. None when the parts did not check out; they are then asked for again."""
        self._arrival.prepared(snapshot, swap)

    def next_wake(self) -> float:
        """When ``step`` has to be called though nothing arrives; in the past for at once."""
        replica = self._replica
        if self._queue or (replica.leadership and not replica.peers and self.commit_index < replica.wal.last):
            return _AT_ONCE
        if replica.leadership is not None:
            return replica.leadership.next_wake()
        return replica.election.deadline if replica.name in replica.voters else float("inf")

    # --- a cycle ---------------------------------------------------------------------------------------------------

    def step(
        self, now: float, inbound: Iterable[tuple[str, Message]] = (), proposals: Sequence[Proposal] = ()
    ) -> tuple[list[Addressed], list[Addressed]]:
        """One cycle: (messages to send at once, messages to send after the sync). ``inbound`` is pairs of the sender's
        authenticated name and its message."""
        replica = self._replica
        replica.begin(now)
        self._install_prepared()
        for sender, message in inbound:
            self._receive(sender, message)
        self._run_timers()
        replica.tick()
        for proposal in proposals:
            self.propose(proposal.ticket, proposal.data)
        queue, self._queue = self._queue, []
        for request in queue:
            self._begin(request)
        replica.replicate()
        return replica.early, replica.late

    def _install_prepared(self) -> None:
        replica, prepared = self._replica, self._arrival.take_prepared()
        # Whoever does not follow any more has everything in its log that was ever committed.
        if prepared is None or replica.engine.role is not Role.FOLLOWER:
            return
        snapshot, swap = prepared
        if snapshot.point.index > replica.engine.commit_index:
            replica.install(snapshot, swap)

    def _begin(self, request: Proposal | ReadRequest | ChangeRequest) -> None:
        replica = self._replica
        leadership = replica.leadership
        if leadership is None or (leadership.successor is not None and not isinstance(request, ReadRequest)):
            replica.answer(request.ticket, error=NoLeader())
        elif isinstance(request, Proposal):
            replica.append(COMMAND + request.data, request.ticket)
        elif isinstance(request, ReadRequest):
            self._begin_read(request, leadership)
        else:
            self._begin_change(request, leadership)

    def _begin_read(self, request: ReadRequest, leadership: Leadership) -> None:
        replica = self._replica
        if replica.wal.term_at(replica.commit_index) != replica.engine.term:
            # Entries of earlier terms may be committed without this leader knowing.
            replica.answer(request.ticket, error=NoLeader("the new leader has not committed anything yet"))
            return
        leadership.reads.append(PendingRead(leadership.seq + 1, replica.commit_index, request.ticket))
        leadership.round_wanted = True
        if not replica.peers:
            self._answer_reads(leadership)

    def _begin_change(self, request: ChangeRequest, leadership: Leadership) -> None:
        replica = self._replica
        refusal = check_change(
            request,
            voters=replica.voters,
            own_name=replica.name,
            commit_index=replica.commit_index,
            term=replica.engine.term,
            wal=replica.wal,
        )
        if refusal is None and request.change == "add":
            known = request.server in replica.learners and request.server not in replica.farewells
            refusal = check_learner(
                request.server,
                match_index=replica.engine.match_index(request.server) if known else None,
                commit_index=replica.commit_index,
                settings=replica.settings,
            )
        if refusal is not None:
            replica.answer(request.ticket, error=refusal)
            return
        replica.append(configuration_entry(changed(replica.voters, request)), request.ticket)

    def _answer_reads(self, leadership: Leadership) -> None:
        replica = self._replica
        for read in leadership.take_confirmed_reads(replica.voters, replica.name):
            replica.answer(read.ticket, index=read.index)

    # --- timers ----------------------------------------------------------------------------------------------------

    def _run_timers(self) -> None:
        replica = self._replica
        if replica.leadership is not None:
            if not replica.leadership.has_quorum(replica.voters, replica.name, replica.now):
                replica.engine.step_down()
                replica.settle_role()
            else:
                self._hand_over(replica.leadership)
        elif replica.now >= replica.election.deadline and replica.name in replica.voters:
            self._campaign()

    def _campaign(self) -> None:
        replica = self._replica
        if not replica.peers:
            self._start_election(asked_by_leader=False)
            return
        replica.election.begin_pre_vote(replica.name, replica.now)
        for peer in replica.peers:
            request = PreVoteRequest(
                term=replica.engine.term,
                for_term=replica.engine.term + 1,
                last_index=replica.wal.last,
                last_term=replica.wal.last_term,
            )
            replica.say(peer, request)

    def _start_election(self, *, asked_by_leader: bool) -> None:
        replica = self._replica
        replica.election.begin_vote(replica.name, replica.now, asked_by_leader=asked_by_leader)
        replica.engine.start_election()
        replica.settle_role()

    def _hand_over(self, leadership: Leadership) -> None:
        replica, successor = self._replica, leadership.successor
        if successor is None:
            return
        if replica.now >= leadership.successor_deadline or successor not in replica.peers:
            leadership.successor = None
        elif not leadership.successor_told and replica.engine.match_index(successor) == replica.wal.last:
            leadership.successor_told = True
            replica.say(successor, TimeoutNow(term=replica.engine.term))

    # --- what arrives ----------------------------------------------------------------------------------------------

    def _receive(self, sender: str, message: Message) -> None:
        replica = self._replica
        known = sender in replica.peers or sender in replica.learners
        if not known and not isinstance(message, _FROM_ANYONE):
            return
        match message:
            case PreVoteRequest():
                self._on_pre_vote_request(sender, message)
            case PreVote():
                self._on_pre_vote(sender, message)
            case VoteRequest():
                self._on_vote_request(sender, message)
            case _:
                self._on_termed(sender, message)
        replica.settle_role()

    def _on_termed(self, sender: str, message: Message) -> None:
        """Messages that only mean something in the current term."""
        replica = self._replica
        from_leader = isinstance(message, _FROM_LEADERS)
        if message.term > replica.engine.term and not from_leader:
            replica.engine.adopt_term(message.term)
            return
        if message.term < replica.engine.term:
            self._on_stale(sender, answer=from_leader)
            return
        match message:
            case Append() | Beat() | SnapshotChunk():
                self._on_leader(sender, message)
            case Vote():
                self._on_vote(sender, message)
            case TimeoutNow():
                if sender == replica.election.leader and replica.name in replica.voters:
                    self._start_election(asked_by_leader=True)
            case Appended() | BeatSeen() | SnapshotSeen():
                self._on_answer(sender, message)

    def _on_stale(self, sender: str, *, answer: bool) -> None:
        self._replica.counts.stale_messages += 1
        if answer:
            # Else a leader or candidate of an old term would go on for as long as nobody else tells it.
            self._replica.say(sender, NewerTerm(term=self._replica.engine.term))

    def _on_pre_vote_request(self, sender: str, request: PreVoteRequest) -> None:
        replica = self._replica
        granted = (
            request.for_term > replica.engine.term
            and replica.leadership is None
            and not replica.election.follows_a_leader(replica.now)
            and is_up_to_date(request, replica.wal)
        )
        replica.say(sender, PreVote(term=replica.engine.term, for_term=request.for_term, granted=granted))
        if replica.leadership is not None and sender not in replica.voters:
            # It was removed while it could not hear of it, and would ask for ever.
            replica.say_farewell(sender)

    def _on_pre_vote(self, sender: str, answer: PreVote) -> None:
        # One that grants is of an earlier term than the one asked for, so terms are not compared as elsewhere.
        replica, votes = self._replica, self._replica.election.pre_votes
        if answer.term > replica.engine.term:
            replica.engine.adopt_term(answer.term)
        elif answer.granted and votes is not None and answer.for_term == replica.engine.term + 1:
            votes.add(sender)
            if len(votes.intersection(replica.voters)) * 2 > len(replica.voters):
                self._start_election(asked_by_leader=False)

    def _on_vote_request(self, sender: str, request: VoteRequest) -> None:
        replica = self._replica
        if request.term < replica.engine.term:
            self._on_stale(sender, answer=True)
            return
        sticky = replica.leadership is not None or replica.election.follows_a_leader(replica.now)
        if request.term > replica.engine.term and sticky and not request.transfer:
            return
        if request.term == replica.engine.term and replica.wal.voted_for == sender:
            # The answer may have been lost.
            replica.say(sender, Vote(term=replica.engine.term))
            return
        message = {
            "type": "request_vote",
            "term": request.term,
            "last_log_index": request.last_index,
            "last_log_term": request.last_term,
        }
        replica.engine.deliver(sender, message)
        if replica.wal.voted_for == sender:
            replica.election.rearm(replica.now)

    def _on_vote(self, sender: str, vote: Vote) -> None:
        replica = self._replica
        if replica.engine.role is not Role.CANDIDATE or sender not in replica.voters:
            return
        if not replica.election.new_vote(sender):
            replica.counts.repeated_votes += 1
            return
        replica.engine.deliver(sender, {"type": "response_vote", "term": vote.term})

    def _on_leader(self, sender: str, message: Append | Beat | SnapshotChunk) -> None:
        replica = self._replica
        if replica.leadership is not None and message.term == replica.engine.term:
            raise SafetyViolation(f"{sender} leads in term {message.term}, and so does {replica.name}")
        replica.election.heard_leader(sender, replica.now)
        match message:
            case Append():
                self._on_append(sender, message)
            case Beat():
                replica.engine.hear_leader(sender, message.term)
                replica.say(sender, BeatSeen(term=message.term, seq=message.seq))
            case SnapshotChunk():
                replica.engine.hear_leader(sender, message.term)
                self._on_chunk(sender, message)

    def _on_append(self, sender: str, append: Append) -> None:
        replica = self._replica
        fitted = fit_append(append, replica.wal, replica.engine.commit_index)
        if isinstance(fitted, int):
            replica.engine.hear_leader(sender, append.term)
            answer = Appended(term=append.term, seq=append.seq, next_index=fitted, ok=False)
        else:
            replica.counts.known_entries += len(append.entries) - len(fitted.entries)
            replica.engine.deliver(sender, fitted.engine_message(append.term))
            replica.sync_configuration()
            answer = Appended(term=append.term, seq=append.seq, next_index=fitted.matched + 1, ok=True)
        replica.say(sender, answer)

    def _on_chunk(self, sender: str, chunk: SnapshotChunk) -> None:
        replica = self._replica
        if chunk.index > replica.engine.commit_index:
            taken = self._arrival.take(chunk)
            if not isinstance(taken, Snapshot):
                if taken is not None:
                    replica.say(sender, taken)
                return
            replica.install(taken)
        replica.say(sender, Appended(term=chunk.term, seq=chunk.seq, next_index=chunk.index + 1, ok=True))

    def _on_answer(self, sender: str, answer: Appended | BeatSeen | SnapshotSeen) -> None:
        replica, leadership = self._replica, self._replica.leadership
        follower = leadership.followers.get(sender) if leadership is not None else None
        if leadership is None or follower is None:
            return
        follower.hear(replica.now, answer.seq)
        self._answer_reads(leadership)
        if isinstance(answer, SnapshotSeen):
            if follower.transfer is not None:
                follower.transfer.seen(answer, replica.now)
                replica.continue_transfer(sender)
        elif isinstance(answer, Appended) and not is_stale_answer(
            answer, last_index=replica.wal.last, ignore_before_seq=follower.ignore_before_seq
        ):
            if answer.ok:
                replica.advance(sender, answer.next_index - 1)
            elif follower.transfer is None:
                replica.go_back(sender, answer.next_index)
