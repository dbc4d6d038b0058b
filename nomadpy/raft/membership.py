"""Who votes: changed one server at a time, by an entry that counts from the moment it is in the log.

Two configurations that differ by one server cannot have majorities without a common member; that is the whole argument,
and it needs the rules below (Raft thesis, 4.1, with the correction that a leader first commits an entry of its own
term). A new server is a learner first: it is sent everything and not counted, until it has caught up.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nomadpy.model.errors import Conflict, Refused
from nomadpy.raft.entries import configuration_of
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.wal import Wal

Change = Literal["add", "remove"]


def configuration_at(wal: Wal, base: tuple[str, ...], index: int | None = None) -> tuple[str, ...]:
    """The voters as of ``index``, or of the newest entry; ``base`` is what holds before the log."""
    entries = [entry for entry in wal.configurations if index is None or entry[1] <= index]
    return configuration_of(entries[-1][0]) if entries else base


class ChangeRequest(msgspec.Struct):
    """A wish to add or remove one voter."""

    change: Change
    server: str
    ticket: object


def check_change(
    request: ChangeRequest, *, voters: tuple[str, ...], own_name: str, commit_index: int, term: int, wal: Wal
) -> Refused | None:
    """Why a leader must not begin this change now, None when it may."""
    if wal.term_at(commit_index) != term:
        return Conflict("the leader has committed nothing in its term yet; try again in a moment")
    if wal.configurations and wal.configurations[-1][1] > commit_index:
        return Conflict("another change of the servers is under way; one at a time")
    if (request.change == "add") == (request.server in voters):
        state = "is already" if request.change == "add" else "is not"
        return Conflict(f"{request.server} {state} a voting server")
    if request.change == "remove" and request.server == own_name:
        return Conflict(f"{own_name} leads; transfer the leadership first, then remove it")
    return None


def check_learner(server: str, *, match_index: int | None, commit_index: int, settings: RaftSettings) -> Refused | None:
    """Why a server may not vote yet, None when it has caught up. ``match_index`` is None for who is no learner."""
    if match_index is None:
        return Conflict(f"{server} is no learner; add it as one first")
    behind = commit_index - match_index
    if behind > settings.learner_lag_max:
        return Conflict(f"{server} is {behind} entries behind; it may vote once it lacks {settings.learner_lag_max}")
    return None


def changed(voters: tuple[str, ...], request: ChangeRequest) -> tuple[str, ...]:
    """The configuration after the change."""
    names = set(voters)
    if request.change == "add":
        names.add(request.server)
    else:
        names.discard(request.server)
    return tuple(sorted(names))
