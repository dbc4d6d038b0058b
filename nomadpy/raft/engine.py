"""The engine inside: an unmodified ``pysyncobj.SyncObj``, and the only place that knows its private names.

The engine keeps the role, the term, who leads, which entries are committed, and what to send to whom. Everything else
that it could do is kept from it: it has no socket (``_Outbox`` collects what it sends), no file (``_Journal`` is our
write-ahead log), no thread, no clock, no serializer and no membership of its own.

Its clock stands still at 0. Hence its timers never fire, its loops are never cut short by time, and it behaves the
same in every run; all timing is the core's.

The private names below are looked up on start together with the package's version and the digest of its source, so
that another version is refused instead of misused. ``tests/raft/engine/test_engine_contract.py`` holds what each one
has to do.
"""

# The package has no type annotations. (A subclass of an untyped class is "misc" to mypy.)
# mypy: disable-error-code="import-untyped,misc"

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import pysyncobj.syncobj as _syncobj
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.journal import Journal
from pysyncobj.node import Node
from pysyncobj.transport import Transport
from pysyncobj.version import VERSION

from nomadpy.model.errors import Bug
from nomadpy.raft.entries import Entry
from nomadpy.raft.wal import Wal

PINNED_VERSION = "0.3.17"
SOURCE_SHA256 = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

# Methods that the subclass below replaces, methods that are called, and attributes that are read or set.
REPLACED_METHODS = ("_SyncObj__doApplyCommand", "_SyncObj__tryLogCompaction")
CALLED_METHODS = ("_SyncObj__sendAppendEntries", "_SyncObj__setState", "_SyncObj__doChangeCluster")
ATTRIBUTES = (
    "_SyncObj__raftState",
    "_SyncObj__raftLeader",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftLastApplied",
    "_SyncObj__serializer",
    "_poller",
)
PATCHED_MODULE_NAMES = ("createJournal", "monotonicTime")

_NEVER_S = 1e9
# One append carries at most this many entries, and no more bytes than given, save that it always carries one.
ENTRIES_PER_APPEND_MAX = 1024


class Role(enum.IntEnum):
    """What a server is in its term; the engine's own numbers."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


@functools.cache
def check_pysyncobj() -> None:
    """Raises Bug unless the installed package is the one that this module was written against."""
    if VERSION != PINNED_VERSION:
        raise Bug(f"pysyncobj {VERSION} is installed; exactly {PINNED_VERSION} is needed")
    digest = hashlib.sha256(inspect.getsource(_syncobj).encode()).hexdigest()
    if digest != SOURCE_SHA256:
        raise Bug(f"pysyncobj {VERSION} was changed (syncobj.py is {digest[:12]}…, not {SOURCE_SHA256[:12]}…)")


_stock_create_journal = _syncobj.createJournal


def _create_journal(journal: Any) -> Any:
    """Lets a journal object through; the constructor has no other way to be given one."""
    return journal if isinstance(journal, _Journal) else _stock_create_journal(journal)


def _standing_clock() -> float:
    return 0.0


_syncobj.createJournal = _create_journal
_syncobj.monotonicTime = _standing_clock


class _Journal(Journal):
    """Our log in the form that the engine asks for."""

    def __init__(self, wal: Wal, batch_bytes: int) -> None:
        self._wal, self._batch_bytes = wal, batch_bytes

    def add(self, command: bytes, idx: int, term: int) -> None:
        self._wal.append(command, idx, term)

    def clear(self) -> None:
        raise Bug("the engine asked to clear the log")

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        self._wal.truncate_from(self._wal.first + entryFrom)

    def deleteEntriesTo(self, entryTo: int) -> None:
        raise Bug("the engine asked to shorten the log")

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        if isinstance(item, slice) and item.stop is None:
            return self._batch(item.start)
        return self._wal.entries[item]

    def _batch(self, start: int) -> list[Entry]:
        # The engine would copy the whole tail for every batch, and would cut what is longer than its own limit into
        # pickles; with the limit here it never sees more than one batch.
        batch = self._wal.entries[start : start + ENTRIES_PER_APPEND_MAX]
        size = 0
        for count, entry in enumerate(batch, 1):
            size += len(entry[0])
            if size >= self._batch_bytes:
                return batch[:count]
        return batch

    def __len__(self) -> int:
        return len(self._wal.entries)

    def _destroy(self) -> None:
        pass

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        # The core notes it, at its own pace and never ahead of what is durable.
        pass

    def getRaftCommitIndex(self) -> int:
        return self._wal.commit_hint

    def setCurrentTerm(self, term: int, votedForNodeId: str | None) -> None:
        self._wal.set_state(term, votedForNodeId)

    def getCurrentTerm(self) -> int:
        return self._wal.term

    def getVotedForNodeId(self) -> str | None:
        return self._wal.voted_for


class _Outbox(Transport):
    """Collects what the engine sends."""

    def __init__(self, name: Node) -> None:
        super().__init__(None, name, [])
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.sent: Callable[[str, dict[str, Any]], None] = lambda _peer, _message: None

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.messages.append((node.id, message))
        self.sent(node.id, message)
        return True


class _NoSerializer:
    """Snapshots are ours. The core never lets the engine send to a server that needs one."""

    def getTransmissionData(self, node: Node) -> None:
        raise Bug(f"the engine tried to send a snapshot to {node.id}")

    def cancelTransmisstion(self, node: Node) -> None:
        pass


class _NoPoller:
    """There is no file descriptor to wait for."""

    def poll(self, timeout: float) -> None:
        pass


class _Inner(SyncObj):
    """The engine with its two unsafe habits replaced: a subclass's method of the mangled name wins."""

    def __init__(self, name: Node, peers: list[Node], conf: SyncObjConf, *, outbox: _Outbox, apply: Any) -> None:
        self._apply_entry = apply
        super().__init__(name, peers, conf, transport=outbox, nodeClass=Node)

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        # Stock unpickles the command, and loops over it for ever when it raises.
        self._apply_entry(command)

    def _SyncObj__tryLogCompaction(self) -> None:
        # Stock forks, and drops entries before the snapshot is durable.
        pass


class Engine:
    """The engine for one server, without a private name in its face.

    ``apply(data)`` is called for each committed entry, in order; it must not raise.
    """

    def __init__(
        self, name: str, peers: tuple[str, ...], wal: Wal, *, apply: Callable[[bytes], None], batch_bytes: int
    ) -> None:
        check_pysyncobj()
        own = Node(name)
        self._nodes = {peer: Node(peer) for peer in peers}
        self._outbox = _Outbox(own)
        conf = SyncObjConf(
            autoTick=False,
            journalFile=_Journal(wal, batch_bytes),
            raftMinTimeout=_NEVER_S,
            raftMaxTimeout=2 * _NEVER_S,
            connectionTimeout=3 * _NEVER_S,
            leaderFallbackTimeout=_NEVER_S,
            appendEntriesPeriod=1.0,
            appendEntriesBatchSizeBytes=1 << 60,
            appendEntriesUseBatch=True,
            commandsWaitLeader=False,
            dynamicMembershipChange=False,
            useFork=False,
        )
        self._inner = _Inner(own, list(self._nodes.values()), conf, outbox=self._outbox, apply=apply)
        self._inner._SyncObj__serializer = _NoSerializer()
        self._inner._poller = _NoPoller()
        for node in self._nodes.values():
            self._outbox._onNodeConnected(node)

    @property
    def role(self) -> Role:
        """What this server is in its term."""
        return Role(self._inner._SyncObj__raftState)

    @property
    def term(self) -> int:
        """Its term."""
        return int(self._inner.raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        """Every entry up to here is on a majority. (In a cluster of one, maybe not on this disk yet.)"""
        return int(self._inner.raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Every entry up to here was applied."""
        return int(self._inner.raftLastApplied)

    def on_sent(self, sent: Callable[[str, list[Entry]], None]) -> None:
        """Has ``sent(peer, entries)`` called for each append that is sent with entries in it. It may ``pause`` the
        peer, which ends the stream to it."""

        def tell(peer: str, message: dict[str, Any]) -> None:
            if entries := message.get("entries"):
                sent(peer, entries)

        self._outbox.sent = tell

    def tick(self) -> None:
        """Commits what a majority has (leader) and applies what is committed."""
        self._inner.doTick(0)

    def take_sent(self) -> list[tuple[str, dict[str, Any]]]:
        """What the engine sent since the last call, by recipient: its own order is that of a set."""
        messages, self._outbox.messages = self._outbox.messages, []
        return sorted(messages, key=lambda message: message[0])

    def deliver(self, sender: str, message: dict[str, Any]) -> None:
        """Gives the engine a message that the firewall let through."""
        self._outbox._onMessageReceived(self._nodes.get(sender) or Node(sender), message)

    def hear_leader(self, leader: str, term: int) -> None:
        """Follows ``leader`` in ``term`` without touching the log."""
        self.deliver(leader, {"type": "append_entries", "term": term, "commit_index": 0})

    def adopt_term(self, term: int) -> None:
        """Becomes a follower in a higher term: a request for a vote that is never granted does exactly that."""
        request = {"type": "request_vote", "term": term, "last_log_term": -1, "last_log_index": -1}
        self.deliver("", request)

    def start_election(self) -> None:
        """Enters the next term and votes for itself; leads at once when it is alone."""
        self._inner._SyncObj__raftElectionDeadline = -1.0
        self._inner.doTick(0)

    def step_down(self) -> None:
        """Stops leading, in the same term."""
        self._inner._SyncObj__setState(Role.FOLLOWER)
        self._inner._SyncObj__raftLeader = None

    def send_appends(self) -> None:
        """Sends to every peer and learner that is not paused: what it lacks, or an empty append."""
        self._inner._SyncObj__sendAppendEntries()

    def pause(self, peer: str) -> None:
        """Sends nothing more to a peer until ``resume``."""
        self._outbox._onNodeDisconnected(self._nodes[peer])

    def resume(self, peer: str) -> None:
        """Ends ``pause``."""
        self._outbox._onNodeConnected(self._nodes[peer])

    def add_voter(self, peer: str) -> None:
        """Counts and serves a peer from now on."""
        node = self._nodes[peer] = Node(peer)
        self._inner._SyncObj__doChangeCluster(["add", peer, node])
        self._outbox._onNodeConnected(node)

    def remove_voter(self, peer: str) -> None:
        """Neither counts nor serves a peer any more."""
        node = self._nodes.pop(peer)
        self._inner._SyncObj__doChangeCluster(["rem", peer, node])
        self._outbox._onNodeDisconnected(node)

    def add_learner(self, peer: str) -> None:
        """Serves a peer without counting it: what pysyncobj calls a read-only node."""
        node = self._nodes[peer] = Node(peer)
        self._outbox._onReadonlyNodeConnected(node)

    def remove_learner(self, peer: str) -> None:
        """Ends ``add_learner``."""
        self._outbox._onReadonlyNodeDisconnected(self._nodes.pop(peer))

    def match_index(self, peer: str) -> int:
        """Up to where a peer is known to have this leader's log."""
        return int(self._inner._SyncObj__raftMatchIndex.get(self._nodes[peer], 0))

    def next_index(self, peer: str) -> int:
        """The entry that would be sent to a peer next."""
        return int(self._inner._SyncObj__raftNextIndex[self._nodes[peer]])

    def set_next_index(self, peer: str, index: int) -> None:
        """Chooses it. Everything below ``match_index`` is never sent again."""
        self._inner._SyncObj__raftNextIndex[self._nodes[peer]] = index

    def set_position(self, index: int) -> None:
        """The state machine now stands at ``index``, which a snapshot made durable."""
        self._inner._SyncObj__raftLastApplied = index
        self._inner._SyncObj__raftCommitIndex = max(self.commit_index, index)
