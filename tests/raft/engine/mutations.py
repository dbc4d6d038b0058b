"""Ways to break the replicated log, one rule each. A check that cannot tell the broken one from ours proves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pretend_disk import PretendFile

from nomadpy.raft import core, leadership, replica, segment, wal
from nomadpy.raft.core import Core
from nomadpy.raft.election import Election
from nomadpy.raft.engine import Engine
from nomadpy.raft.firewall import Fitted
from nomadpy.raft.leadership import Leadership
from nomadpy.raft.messages import Appended, Vote
from nomadpy.raft.segment import Kind

Mutation = Callable[[pytest.MonkeyPatch], None]


def no_prefix_match(patch: pytest.MonkeyPatch) -> None:
    """Appends reach the engine as they come, and it cuts the log after the entry they follow."""
    ours = core.fit_append

    def fit(append: Any, log: Any, commit_index: int) -> Any:
        if append.prev_index < log.first or log.term_at(append.prev_index) != append.prev_term:
            return ours(append, log, commit_index)
        matched = append.prev_index + len(append.entries)
        return Fitted(append, prev=(append.prev_index, append.prev_term), entries=append.entries, matched=matched)

    patch.setattr(core, "fit_append", fit)


def late_before_sync(patch: pytest.MonkeyPatch) -> None:
    """Acknowledgements and votes leave before they are durable."""
    ours = Core.step

    def step(self: Core, *args: Any, **more: Any) -> Any:
        early, late = ours(self, *args, **more)
        return [*early, *late], []

    patch.setattr(Core, "step", step)


def sync_that_does_nothing(patch: pytest.MonkeyPatch) -> None:
    """The disk says that it synced, and did not."""
    patch.setattr(PretendFile, "sync", lambda self: None)


def votes_not_stored(patch: pytest.MonkeyPatch) -> None:
    """Term and vote are forgotten when the server dies."""
    ours = wal.record

    def record(kind: Kind, index: int, term: int = 0, data: bytes = b"") -> bytes:
        return ours(kind, index, 0, b"") if kind is Kind.STATE else ours(kind, index, term, data)

    patch.setattr(wal, "record", record)


def reads_without_a_round(patch: pytest.MonkeyPatch) -> None:
    """A leader answers reads although another may lead by now."""

    def all_of_them(self: Leadership, _voters: Any, _name: str) -> Any:
        reads, self.reads = self.reads, []
        return reads

    begin = Core._begin_read

    def begin_read(self: Core, request: Any, led: Leadership) -> None:
        begin(self, request, led)
        self._answer_reads(led)

    patch.setattr(Leadership, "take_confirmed_reads", all_of_them)
    patch.setattr(Core, "_begin_read", begin_read)


def reads_before_own_commit(patch: pytest.MonkeyPatch) -> None:
    """A new leader answers reads at a commit index that it may lag behind."""

    def begin_read(self: Core, request: Any, led: Leadership) -> None:
        led.reads.append(leadership.PendingRead(led.seq + 1, self.commit_index, request.ticket))
        led.round_wanted = True

    patch.setattr(Core, "_begin_read", begin_read)


def many_changes_at_once(patch: pytest.MonkeyPatch) -> None:
    """Members change before the previous change is committed."""
    ours = core.check_change

    def check(request: Any, **more: Any) -> Any:
        refusal = ours(request, **more)
        return None if refusal is not None and "one at a time" in str(refusal) else refusal

    patch.setattr(core, "check_change", check)


def configurations_not_rolled_back(patch: pytest.MonkeyPatch) -> None:
    """A configuration counts on although its entry was removed from the log."""

    def truncate(self: segment.LogImage, index: int) -> None:
        if self.entries:
            del self.entries[max(0, index - self.entries[0][1]) :]

    patch.setattr(segment.LogImage, "truncate", truncate)


def anyone_may_win(patch: pytest.MonkeyPatch) -> None:
    """Votes go to candidates whose log lacks committed entries."""
    ours = Engine.deliver

    def deliver(self: Engine, sender: str, message: dict[str, Any]) -> None:
        if message["type"] == "request_vote" and message["last_log_term"] >= 0:
            message = {**message, "last_log_term": 1 << 40}
        ours(self, sender, message)

    patch.setattr(Engine, "deliver", deliver)
    patch.setattr(core, "is_up_to_date", lambda *_: True)


def commit_what_was_not_compared(patch: pytest.MonkeyPatch) -> None:
    """The leader's commit index holds for a tail that was not compared with the leader's."""
    ours = Fitted.__init__

    def init(self: Fitted, append: Any, **more: Any) -> None:
        ours(self, append, **more)
        self.commit_index = append.commit_index

    patch.setattr(Fitted, "__init__", init)


def answers_of_any_term(patch: pytest.MonkeyPatch) -> None:
    """An acknowledgement of an earlier term counts in this one."""
    ours = Core._on_termed

    def on_termed(self: Core, sender: str, message: Any) -> None:
        if isinstance(message, Appended) and message.term < self.term:
            message = msgspec.structs.replace(message, term=self.term)
        ours(self, sender, message)

    patch.setattr(Core, "_on_termed", on_termed)


def votes_of_any_term(patch: pytest.MonkeyPatch) -> None:
    """A vote of an earlier term counts in this one."""
    ours = Core._on_termed

    def on_termed(self: Core, sender: str, message: Any) -> None:
        if isinstance(message, Vote) and message.term < self.term:
            message = Vote(term=self.term)
        ours(self, sender, message)

    patch.setattr(Core, "_on_termed", on_termed)


def votes_counted_twice(patch: pytest.MonkeyPatch) -> None:
    """A vote that arrives twice counts twice."""
    patch.setattr(Election, "new_vote", lambda self, voter: True)


def undurable_term_sent(patch: pytest.MonkeyPatch) -> None:
    """A leader's appends leave at once even when its term is not on disk."""
    patch.setattr(replica.Replica, "_appends", property(lambda self: self.early))


def leader_for_ever(patch: pytest.MonkeyPatch) -> None:
    """A leader that nobody answers goes on."""
    patch.setattr(Leadership, "has_quorum", lambda self, *_: True)


def no_stickiness(patch: pytest.MonkeyPatch) -> None:
    """Whoever asks gets a vote, though the leader lives."""
    patch.setattr(Election, "follows_a_leader", lambda self, now: False)
