"""What may reach the engine: appends are fitted to the log here, because the engine cuts the log after the entry that
an append follows, even when what comes next is the same.

After fitting, an append to the engine either only adds entries, or removes exactly those that contradict the leader.
Nothing committed is ever removed: a leader that asks for it breaks a rule that no fault of the network can break, and
the server stops instead of obeying.
"""

from __future__ import annotations

from nomadpy.model.errors import Bug
from nomadpy.raft.entries import Entry
from nomadpy.raft.messages import Append, Appended
from nomadpy.raft.wal import Wal


class SafetyViolation(Bug):
    """Another server did what no correct one does. This one stops rather than lose acknowledged entries."""

    code = "safety-violation"


class Fitted:
    """An append that agrees with this log up to ``prev_index`` and adds ``entries`` there (perhaps none).
    ``matched`` is how far the log is known to be the leader's afterwards."""

    __slots__ = ("commit_index", "entries", "matched", "prev_index", "prev_term")

    def __init__(self, append: Append, *, prev: tuple[int, int], entries: list[Entry], matched: int) -> None:
        self.prev_index, self.prev_term = prev
        self.entries = entries
        self.matched = matched
        # What lies behind the part that was compared may still be another leader's.
        self.commit_index = min(append.commit_index, matched)

    def engine_message(self, term: int) -> dict[str, object]:
        """The form that the engine knows."""
        return {
            "type": "append_entries",
            "term": term,
            "commit_index": self.commit_index,
            "prevLogIdx": self.prev_index,
            "prevLogTerm": self.prev_term,
            "entries": self.entries,
        }


def fit_append(append: Append, wal: Wal, commit_index: int) -> Fitted | int:
    """The append as far as it is news to this log, or the index from which the leader should go on sending.
    Raises SafetyViolation when it contradicts what is committed."""
    prev_index, prev_term, entries = append.prev_index, append.prev_term, append.entries
    if prev_index < wal.first:
        # Everything up to this log's first entry is committed, hence the same everywhere.
        beyond = wal.first - prev_index
        if beyond > len(entries):
            return _nothing_new(append, wal, wal.first)
        prev_index, entries = wal.first, entries[beyond:]
        prev_term = append.entries[beyond - 1][2]
        if wal.term_at(prev_index) != prev_term:
            raise SafetyViolation(f"the leader of term {append.term} has another committed entry {prev_index}")
    if wal.term_at(prev_index) != prev_term:
        return _go_on_from(append, wal, commit_index)
    return _without_known(append, wal, (prev_index, prev_term), entries, commit_index)


def _without_known(append: Append, wal: Wal, prev: tuple[int, int], entries: list[Entry], commit_index: int) -> Fitted:
    prev_index, prev_term = prev
    matched = prev_index + len(entries)
    known = 0
    while known < len(entries) and wal.term_at(entries[known][1]) == entries[known][2]:
        known += 1
    if known == len(entries):
        # Late or repeated: whatever follows in this log may be newer, and stays.
        return Fitted(append, prev=(wal.last, wal.last_term), entries=[], matched=matched)
    prev_index += known
    if wal.last > prev_index and prev_index < commit_index:
        raise SafetyViolation(
            f"the leader of term {append.term} contradicts entry {prev_index + 1}; {commit_index} is committed"
        )
    prev_term = wal.term_at(prev_index) or 0
    return Fitted(append, prev=(prev_index, prev_term), entries=entries[known:], matched=matched)


def _nothing_new(append: Append, wal: Wal, matched: int) -> Fitted:
    return Fitted(append, prev=(wal.last, wal.last_term), entries=[], matched=matched)


def _go_on_from(append: Append, wal: Wal, commit_index: int) -> int:
    """Skips the whole term that contradicts, so that one exchange clears it however many entries it has."""
    index = append.prev_index
    contradicting = wal.term_at(index)
    if contradicting is None:
        return wal.last + 1
    if index <= commit_index:
        raise SafetyViolation(
            f"the leader of term {append.term} contradicts entry {index}; {commit_index} is committed"
        )
    while index - 1 > max(wal.first, commit_index) and wal.term_at(index - 1) == contradicting:
        index -= 1
    return index


def is_stale_answer(answer: Appended, *, last_index: int, ignore_before_seq: int) -> bool:
    """Whether an answer must not move what is sent next: it speaks of entries this leader does not have, or it asks
    for what was corrected after the round it answers."""
    if answer.next_index > last_index + 1:
        return True
    return not answer.ok and answer.seq < ignore_before_seq
