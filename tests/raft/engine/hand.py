"""Clusters that are driven by hand, message by message: ours, and one of unmodified pysyncobj to compare with."""

from __future__ import annotations

import collections
import copy
import random
from typing import Any

from pretend_disk import PretendDirectory
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from nomadpy.raft.core import Core
from nomadpy.raft.engine import Role
from nomadpy.raft.messages import Message, decode, encode
from nomadpy.raft.replica import Answer, StateMachine
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import Snapshot, SnapshotStore
from nomadpy.raft.wal import Wal

SETTINGS = RaftSettings(trailing_entries=5)


class NeverByItself(random.Random):
    """Election clocks that never run out: tests say who campaigns."""

    def uniform(self, a: float, b: float) -> float:
        return 1e9


class HandServer:
    """One of our servers: what it applied, what it answered, and a step that syncs."""

    def __init__(self, cluster: Hand, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.applied: list[bytes] = []
        self.answers: list[Answer] = []
        self.disk, self.snapshot_disk = cluster.disks[name]
        self.wal = Wal(self.disk, log_id=bytes(16))
        self.store = SnapshotStore(self.snapshot_disk)
        self.core = Core(
            name,
            cluster.voters,
            self.wal,
            self.store,
            machine=StateMachine(self.apply, self.restore),
            rng=NeverByItself(),
            now=cluster.now,
            settings=cluster.settings,
        )
        self.wal.sync()

    def apply(self, _index: int, data: bytes) -> bytes:
        self.applied.append(data)
        if data.startswith(b"raise"):
            raise ValueError(data)
        return data

    def restore(self, _index: int, data: bytes) -> None:
        self.applied = data.split(b",") if data else []

    def step(self, *inbound: tuple[str, Message]) -> list[tuple[str, Message]]:
        """One cycle; what it sent is also queued in the cluster."""
        early, late = self.core.step(self.cluster.now, inbound)
        if (installed := self.core.take_installed()) is not None:
            self.store.save(installed)
        self.wal.sync()
        sent = [*early, *late]
        for recipient, message in sent:
            self.cluster.links[self.name, recipient].append(encode(message))
        self.answers += self.core.take_answers()
        return sent

    def snapshot(self) -> None:
        point = self.core.take_snapshot()
        self.store.save(Snapshot(point, b",".join(self.applied)))
        self.core.snapshot_stored(point)
        self.wal.sync()

    def match_index(self, peer: str) -> int:
        return self.core._replica.engine.match_index(peer)

    def terms(self) -> list[int]:
        return [entry[2] for entry in self.wal.entries]


class Hand:
    """Our servers ``a``, ``b``, … and the links between them."""

    def __init__(self, names: str, settings: RaftSettings = SETTINGS) -> None:
        self.now = 1000.0
        self.settings = settings
        self.voters = tuple(names)
        self.disks = {name: (PretendDirectory(), PretendDirectory()) for name in names}
        self.links: dict[tuple[str, str], collections.deque[bytes]] = collections.defaultdict(collections.deque)
        self.servers = {name: HandServer(self, name) for name in names}

    def __getitem__(self, name: str) -> HandServer:
        return self.servers[name]

    def restart(self, name: str) -> HandServer:
        self.servers[name] = HandServer(self, name)
        return self.servers[name]

    def deliver(self, sender: str, recipient: str, count: int | None = None) -> None:
        """Up to ``count`` messages of a link, each in a cycle of its own."""
        link = self.links[sender, recipient]
        for _ in range(len(link) if count is None else min(count, len(link))):
            self[recipient].step((sender, decode(link.popleft())))

    def drop(self, *pairs: str) -> None:
        for pair in pairs:
            self.links[pair[0], pair[1]].clear()

    def settle(self, names: str | None = None, *, rounds: int = 12, tick_s: float = 0.11) -> None:
        """Lets some servers talk, and nobody else."""
        among = names or "".join(self.voters)
        for _ in range(rounds):
            self.now += tick_s
            for name in among:
                self[name].step()
            for _ in range(3):
                for sender in among:
                    for recipient in among:
                        if sender != recipient:
                            self.deliver(sender, recipient)
        for pair in list(self.links):
            self.links[pair].clear()

    def elect(self, name: str, names: str | None = None) -> None:
        """``name`` campaigns among ``names`` once nobody heard from a leader for long, and wins."""
        self.now += 2.0
        self[name].core._replica.election.deadline = self.now
        self.settle(names, tick_s=0.0, rounds=4)
        assert self[name].core.role is Role.LEADER


def write(cluster: Hand, leader: str, count: int, among: str | None = None, start: int = 0) -> None:
    for number in range(start, start + count):
        cluster[leader].core.propose(number, b"v%d" % number)
    cluster.settle(among)


def acknowledged(server: HandServer) -> list[Any]:
    return [answer.ticket for answer in server.answers if answer.error is None]


# --- pysyncobj as it is ---------------------------------------------------------------------------------------------


class StockTransport(Transport):
    """Links of unmodified pysyncobj objects."""

    def __init__(self, cluster: StockCluster, name: str) -> None:
        super().__init__(None, name, [])
        self.cluster, self.name = cluster, name
        self.up: set[str] = set()
        self.n_sent = 0

    def send(self, node: Node, message: Any) -> bool:
        if node.id not in self.up:
            return False
        self.n_sent += 1
        self.cluster.links[self.name, node.id].append(copy.deepcopy(message))
        return True


class StockServer(SyncObj):
    """A list that pysyncobj replicates."""

    def __init__(self, cluster: StockCluster, name: str, others: str, **conf: Any) -> None:
        self.applied: list[Any] = []
        self.transport = StockTransport(cluster, name)
        self.nodes = {other: Node(other) for other in others}
        cluster.made.append(self)
        super().__init__(
            Node(name),
            list(self.nodes.values()),
            SyncObjConf(autoTick=False, **conf),
            transport=self.transport,
            nodeClass=Node,
        )

    @replicated
    def put(self, value: Any) -> None:
        self.applied.append(value)
        if value == "raise":
            raise ValueError(value)

    def get(self, name: str) -> Any:
        """A private attribute of the engine."""
        return self.__dict__[f"_SyncObj__{name}"]

    def set(self, name: str, value: Any) -> None:
        self.__dict__[f"_SyncObj__{name}"] = value

    @property
    def leads(self) -> bool:
        return bool(self._isLeader())

    @property
    def last(self) -> int:
        return int(self.get("raftLog")[-1][1])


class StockCluster:
    """Unmodified servers ``a``, ``b``, … with links that keep the order."""

    PATIENT = {"raftMinTimeout": 1e4, "raftMaxTimeout": 2e4, "connectionTimeout": 1e5, "leaderFallbackTimeout": 1e6}

    def __init__(self) -> None:
        self.now = 1000.0
        self.links: dict[tuple[str, str], collections.deque[Any]] = collections.defaultdict(collections.deque)
        self.conf: dict[str, Any] = dict(self.PATIENT)
        self.servers: dict[str, StockServer] = {}
        self.made: list[StockServer] = []

    def start(self, names: str, **conf: Any) -> None:
        for name in names:
            others = names.replace(name, "")
            self.servers[name] = StockServer(self, name, others, **{**self.conf, **conf})
        for one in names:
            for other in names:
                if one < other:
                    self.join(one, other)

    def __getitem__(self, name: str) -> StockServer:
        return self.servers[name]

    def join(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            self[here].transport.up.add(there)
            self[here].transport._onNodeConnected(self[here].nodes[there])

    def cut(self, one: str, other: str) -> None:
        for here, there in ((one, other), (other, one)):
            self[here].transport.up.discard(there)
            self[here].transport._onNodeDisconnected(self[here].nodes[there])
            self.links[here, there].clear()

    def deliver(self, sender: str, recipient: str, count: int | None = None) -> None:
        link = self.links[sender, recipient]
        for _ in range(len(link) if count is None else min(count, len(link))):
            server = self[recipient]
            server.transport._onMessageReceived(server.nodes[sender], link.popleft())

    def drop(self, *pairs: str) -> None:
        for pair in pairs:
            self.links[pair[0], pair[1]].clear()

    def settle(self, names: str, *, rounds: int = 6, tick_s: float = 0.11) -> None:
        for _ in range(rounds):
            self.now += tick_s
            for name in names:
                self[name].doTick(0)
            for sender in names:
                for recipient in names:
                    if sender != recipient:
                        self.deliver(sender, recipient)

    def later(self, name: str, seconds: float = 0.11) -> None:
        self.now += seconds
        self[name].doTick(0)

    def elect(self, name: str, names: str) -> None:
        self[name].set("raftElectionDeadline", 0)
        self.settle(names)
        assert self[name].leads
