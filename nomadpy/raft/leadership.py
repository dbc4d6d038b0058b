"""What a leader knows of the others: whom it heard when, what is under way to them, and which reads wait for a round.

A *round* is one message to every server, numbered; the answers echo the number. A read may be answered once a majority
echoed a round that began after it, because then no other leader can have committed anything before it (Raft thesis,
6.4). A leader that a majority has not answered for an election time steps down, since another may lead by then (6.2).
"""

from __future__ import annotations

import collections
from collections.abc import Iterable

import msgspec

from nomadpy.raft.entries import Entry
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import OutgoingSnapshot


class PendingRead(msgspec.Struct):
    """A read that waits for ``seq`` to be echoed; it may then see the state at ``index``."""

    seq: int
    index: int
    ticket: object


class Follower:
    """The leader's view of one server."""

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self.progress_at = now
        self.echoed_seq = 0
        # Requests to go back that answer an earlier round are already corrected.
        self.ignore_before_seq = 0
        self.transfer: OutgoingSnapshot | None = None
        self.window_full = False
        self._under_way: collections.deque[tuple[int, int]] = collections.deque()
        self._bytes_under_way = 0

    @property
    def paused(self) -> bool:
        """Whether the engine must not send to it."""
        return self.window_full or self.transfer is not None

    def hear(self, now: float, seq: int) -> None:
        """It answered round ``seq``."""
        self.heard_at = now
        self.echoed_seq = max(self.echoed_seq, seq)

    def sent(self, entries: list[Entry], window_bytes: int) -> bool:
        """Notes what is under way; whether that is as much as may be."""
        size = sum(len(entry[0]) for entry in entries)
        self._under_way.append((entries[-1][1], size))
        self._bytes_under_way += size
        self.window_full = self._bytes_under_way >= window_bytes
        return self.window_full

    def arrived(self, match_index: int, now: float, window_bytes: int) -> None:
        """It has everything up to ``match_index``."""
        self.progress_at = now
        while self._under_way and self._under_way[0][0] <= match_index:
            self._bytes_under_way -= self._under_way.popleft()[1]
        self.window_full = self._bytes_under_way >= window_bytes

    def end_transfer(self) -> None:
        """It needs no snapshot any more, or this server no longer leads it."""
        if self.transfer is not None:
            self.transfer.close()
            self.transfer = None

    def forget_under_way(self, now: float) -> None:
        """What was sent is taken for lost."""
        self.progress_at = now
        self._under_way.clear()
        self._bytes_under_way = 0
        self.window_full = False


class Leadership:
    """One term's leadership."""

    def __init__(self, settings: RaftSettings, now: float, followers: Iterable[str], first_seq: int) -> None:
        self._settings = settings
        self.followers = {name: Follower(now) for name in followers}
        self.seq = first_seq
        self.next_heartbeat = now + settings.heartbeat_s
        # When the others are told of a new commit index if nothing else has to be sent; None when they know.
        self.notice_at: float | None = None
        # How far the log was when the last round began.
        self.sent_last = 0
        self.round_wanted = False
        self.reads: list[PendingRead] = []
        self.successor: str | None = None
        self.successor_deadline = 0.0
        self.successor_told = False

    def add(self, name: str, now: float) -> None:
        """Serves another server from now on."""
        self.followers[name] = Follower(now)
        self.round_wanted = True

    def drop(self, name: str) -> None:
        """Serves a server no longer."""
        self.followers.pop(name).end_transfer()

    def round_due(self, now: float, last_index: int) -> bool:
        """Whether something has to be said now."""
        if self.round_wanted or last_index > self.sent_last or now >= self.next_heartbeat:
            return True
        return self.notice_at is not None and now >= self.notice_at

    def begin_round(self, now: float, last_index: int) -> None:
        """Counts a round that is about to be sent."""
        self.seq += 1
        self.next_heartbeat = now + self._settings.heartbeat_s
        self.notice_at = None
        self.round_wanted = False
        self.sent_last = last_index

    def next_wake(self) -> float:
        """When ``round_due`` comes true by time alone; never while there is nobody to be told."""
        if not self.followers:
            return float("inf")
        return min(self.next_heartbeat, self.notice_at if self.notice_at is not None else self.next_heartbeat)

    def has_quorum(self, voters: Iterable[str], own_name: str, now: float) -> bool:
        """Whether a majority of the voters, itself included, answered within an election time."""
        names = list(voters)
        alive = sum(
            name == own_name or now - self.followers[name].heard_at < self._settings.election_max_s for name in names
        )
        return alive * 2 > len(names)

    def take_confirmed_reads(self, voters: Iterable[str], own_name: str) -> list[PendingRead]:
        """Removes and returns the reads whose round a majority has echoed."""
        if not self.reads:
            return []
        names = list(voters)
        echoes = sorted((self.followers[name].echoed_seq for name in names if name != own_name), reverse=True)
        # The leader itself is one of the majority; it may be alone.
        others_needed = len(names) // 2 + 1 - (own_name in names)
        confirmed_seq = echoes[others_needed - 1] if others_needed else self.seq + 1
        confirmed = [read for read in self.reads if read.seq <= confirmed_seq]
        self.reads = [read for read in self.reads if read.seq > confirmed_seq]
        return confirmed
