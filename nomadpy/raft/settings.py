"""How the replicated log is tuned."""

from __future__ import annotations

import msgspec

from nomadpy.model.errors import Invalid


class RaftSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Timing and sizes. ``scaled`` stretches the timing for slow networks."""

    heartbeat_s: float = 0.1
    # A server that hears nothing from a leader campaigns after a time between these two, chosen by chance each time.
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    # After its connection to the leader was reset, it does so after at most this time.
    reset_hint_s: float = 0.12
    # A leader tells of a new commit index with the next entries, or after this time.
    commit_notice_s: float = 0.005
    # How long proposals are refused while a successor catches up and takes over.
    transfer_s: float = 1.0
    # A commit index is noted on disk at most this often; it only shortens recovery.
    commit_hint_s: float = 1.0
    # One append carries about this much, and a single entry may have at most so many bytes.
    batch_bytes: int = 1 << 20
    entry_bytes_max: int = 64 << 20
    # What a server may be sent before it answers.
    window_bytes: int = 8 << 20
    # A snapshot travels in parts of this size, and so many of them before the receiver answers.
    chunk_bytes: int = 1 << 20
    chunks_under_way: int = 4
    # How many entries behind a snapshot stay, for servers that are only a little behind.
    trailing_entries: int = 4096
    # A learner that lacks more than this may not become a voter yet.
    learner_lag_max: int = 50

    def scaled(self, multiplier: float) -> RaftSettings:
        """The same with the timing of heartbeats and elections multiplied (Nomad: ``raft_multiplier``)."""
        return msgspec.structs.replace(
            self,
            heartbeat_s=self.heartbeat_s * multiplier,
            election_min_s=self.election_min_s * multiplier,
            election_max_s=self.election_max_s * multiplier,
            reset_hint_s=self.reset_hint_s * multiplier,
            transfer_s=self.transfer_s * multiplier,
        )

    def check(self) -> None:
        """Raises Invalid when the numbers do not fit together."""
        if not 0 < self.heartbeat_s * 2 < self.election_min_s < self.election_max_s:
            raise Invalid(
                f"an election after {self.election_min_s}–{self.election_max_s} s needs heartbeats more often than "
                f"every {self.heartbeat_s} s"
            )
        if self.chunks_under_way < 1:
            raise Invalid("at least one part of a snapshot has to be under way at a time")
        if min(self.batch_bytes, self.window_bytes, self.chunk_bytes, self.entry_bytes_max) < 1:
            raise Invalid("sizes of the replicated log are at least one byte")
