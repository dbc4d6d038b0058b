"""A whole cluster in virtual time: a network that loses, delays, repeats and reorders, disks that lose what was not
synced, servers that are killed at any point of a cycle; and what must hold all the same.

Everything follows from the seed. The invariants (Raft, figure 3, and two that clients care about):

    election safety          at most one leader in a term
    log matching             the same index and term mean the same entry, with the same one before it
    leader completeness      a new leader has every entry that was committed in an earlier term
    state machine safety     no two servers apply different entries at an index
    acknowledged is durable  what a client was told succeeded is applied, once, at the index it was told
    linearizable reads       a read sees everything that was acknowledged before it began

After the troubles the network heals, and ``converged`` says whether all voters then agreed and moved on.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
from pretend_disk import PretendDirectory

from nomadpy.raft.core import Core
from nomadpy.raft.engine import Role
from nomadpy.raft.messages import Message, decode, encode
from nomadpy.raft.replica import StateMachine
from nomadpy.raft.settings import RaftSettings
from nomadpy.raft.snapshot import IncomingSnapshot, Snapshot, SnapshotStore, StoredSnapshot
from nomadpy.raft.wal import Wal

TICK_S = 0.01
SMALL = RaftSettings(
    batch_bytes=60, window_bytes=200, chunk_bytes=64, trailing_entries=5, learner_lag_max=20, entry_bytes_max=4096
)


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of trouble there is."""

    steps: int = 900
    settle_steps: int = 900
    loss: float = 0.03
    delay_s: float = 0.02
    slow_share: float = 0.05
    slow_s: float = 1.0
    repeat: float = 0.03
    # A server dies between two cycles, within one (for each place in it), and how often its power goes with it.
    kill: float = 0.004
    die: float = 0.0005
    power: float = 0.7
    partition: float = 0.006
    propose: float = 0.25
    read: float = 0.06
    snapshot_entries: int = 20
    change: float = 0.0
    transfer: float = 0.002
    fifo: bool = False


PROFILES = {
    "plain": Profile(),
    "members": Profile(change=0.02),
    "harsh": Profile(slow_share=0.15, slow_s=6.0, repeat=0.15, partition=0.015, settle_steps=2500),
    "hostile": Profile(kill=0.008, die=0.0015, power=1.0, partition=0.03, propose=0.4, snapshot_entries=40),
    "fifo": Profile(fifo=True, repeat=0.0, slow_share=0.0, delay_s=0.06),
}

Factory = Callable[..., Any]


class Totals(msgspec.Struct):
    """What happened in a run, to see that a run was not idle."""

    acknowledged: int = 0
    reads: int = 0
    elections: int = 0
    kills: int = 0
    installs: int = 0
    changes: int = 0
    converged: int = 0


class World:
    """What is known from outside, and checked."""

    def __init__(self) -> None:
        self.applied: dict[int, bytes] = {}
        # Index -> the entry's term, and the term of the leader that committed it (who is the first one to know).
        self.committed: dict[int, tuple[int, int]] = {}
        self.leaders: dict[int, str] = {}
        self.entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}
        self.acknowledged: dict[bytes, int] = {}
        self.acknowledged_index = 0

    def note_applied(self, server: str, index: int, value: bytes) -> None:
        known = self.applied.setdefault(index, value)
        if known != value:
            raise Violation("state machine safety", f"{server} applied {value!r} at {index}, another {known!r}")

    def note_leader(self, server: str, term: int, wal: Wal) -> None:
        if self.leaders.setdefault(term, server) != server:
            raise Violation("election safety", f"{server} and {self.leaders[term]} lead in term {term}")
        for index, (entry_term, committed_in) in self.committed.items():
            if committed_in < term and index >= wal.first and wal.term_at(index) != entry_term:
                raise Violation("leader completeness", f"{server} leads term {term} without entry {index}")

    def note_committed(self, wal: Wal, upto: int) -> None:
        for index in range(upto, 0, -1):
            if index in self.committed or wal.term_at(index) is None:
                return
            self.committed[index] = (wal.term_at(index) or 0, wal.term)

    def note_log(self, server: str, wal: Wal) -> None:
        for before, entry in zip([None, *wal.entries], wal.entries, strict=False):
            if before is None:
                continue
            seen = (entry[0], before[2])
            known = self.entries.setdefault((entry[1], entry[2]), seen)
            if known != seen:
                raise Violation("log matching", f"{server} has another entry {entry[1]} of term {entry[2]}")

    def note_acknowledged(self, value: bytes, index: int) -> None:
        self.acknowledged[value] = index
        self.acknowledged_index = max(self.acknowledged_index, index)


class Killed(Exception):
    """A server dies here."""


class Machine:
    """The state machine: the list of what was applied."""

    def __init__(self, server: str, world: World) -> None:
        self.server, self.world = server, world
        self.values: list[tuple[int, bytes]] = []

    def apply(self, index: int, data: bytes) -> int:
        self.world.note_applied(self.server, index, data)
        self.values.append((index, data))
        return index

    def restore(self, _index: int, data: bytes) -> None:
        self.values = msgspec.msgpack.decode(data, type=list[tuple[int, bytes]])

    def dump(self) -> bytes:
        return msgspec.msgpack.encode(self.values)


class Server:
    """One server: a core with its disk, and the order in which a cycle's outcome is carried out."""

    def __init__(self, sim: Simulation, name: str, factory: Factory) -> None:
        self.sim, self.name = sim, name
        self.machine = Machine(name, sim.world)
        self.wal = Wal(sim.log_disks[name], log_id=bytes(16), segment_bytes=2048)
        self.store = SnapshotStore(sim.snapshot_disks[name])
        self.core = factory(
            name,
            sim.first_voters,
            self.wal,
            self.store,
            machine=StateMachine(self.machine.apply, self.machine.restore),
            rng=random.Random(sim.rng.random()),
            now=sim.now,
            settings=sim.settings,
        )
        self.wal.sync()
        self.led_term = 0
        self.inbox: list[tuple[str, Message]] = []
        # A snapshot that is read beside the cycles, and when that is over.
        self.reading: tuple[IncomingSnapshot, float] | None = None

    @property
    def due(self) -> bool:
        read = self.reading is not None and self.sim.now >= self.reading[1]
        return bool(self.inbox) or read or self.sim.now >= self.core.next_wake()

    def cycle(self) -> None:
        """Carries out one cycle; may die anywhere in it."""
        inbox, self.inbox = self.inbox, []
        stored = self._read_arrived()
        early, late = self.core.step(self.sim.now, inbox)
        self._observe()
        self.sim.may_die()
        self.send(early)
        self.sim.may_die()
        if stored is not None:
            self.store.adopt(stored)
            self.sim.totals.installs += 1
        arriving = self.core.arriving if isinstance(self.core, Core) and self.reading is None else None
        if arriving is not None and arriving.complete:
            self.reading = arriving, self.sim.now + self.sim.rng.uniform(0, 0.3)
        if (installed := self.core.take_installed()) is not None:
            self.store.save(installed)
            self.sim.totals.installs += 1
            self.sim.may_die()
        self.sync()
        self.sim.may_die()
        self.send(late)
        self.give_answers()
        self._snapshot()

    def _read_arrived(self) -> StoredSnapshot | None:
        """What a worker thread does with a snapshot of the leader, once its time has come."""
        if self.reading is None or self.sim.now < self.reading[1]:
            return None
        (arrived, _), self.reading = self.reading, None
        snapshot = arrived.snapshot()
        assert snapshot is not None, "nothing is damaged on the way here"
        stored = self.store.write(snapshot)
        self.sim.may_die()
        self.core.prepared(snapshot, lambda: self.machine.restore(snapshot.point.index, snapshot.data))
        return stored

    def sync(self) -> None:
        if (pending := self.wal.begin_sync()) is not None:
            if self.sim.dying_now():
                self.sim.log_disks[self.name].fail_next = "sync"
                try:
                    pending.write()
                except OSError as error:
                    raise Killed from error
            pending.write()
            self.wal.finish_sync(pending)

    def send(self, messages: list[tuple[str, Message]]) -> None:
        for recipient, message in messages:
            self.sim.send(self.name, recipient, message)

    def give_answers(self) -> None:
        for answer in self.core.take_answers():
            answer.ticket(answer)

    def _observe(self) -> None:
        world = self.sim.world
        world.note_committed(self.wal, self.core.applied_index)
        if self.core.role is Role.LEADER and self.core.term != self.led_term:
            self.led_term = self.core.term
            self.sim.totals.elections += 1
            world.note_leader(self.name, self.core.term, self.wal)

    def _snapshot(self) -> None:
        newest = self.store.newest
        if self.reading is not None:
            return
        if self.core.applied_index - (newest.point.index if newest else 0) < self.sim.profile.snapshot_entries:
            return
        point = self.core.take_snapshot()
        self.sim.may_die()
        self.store.save(Snapshot(point, self.machine.dump()))
        self.sim.may_die()
        self.core.snapshot_stored(point)
        # The record of it is made durable by the sync of the next cycle, or by this one.
        self.sync()


class Simulation:
    """A cluster under one seed. ``factories`` gives each server's engine, in turn."""

    def __init__(
        self,
        seed: int,
        *,
        n_servers: int = 3,
        profile: Profile = PROFILES["plain"],
        factories: tuple[Factory, ...] = (Core,),
        settings: RaftSettings = SMALL,
        server_type: type[Server] = Server,
    ) -> None:
        self.rng = random.Random(seed)
        self.profile, self.settings = profile, settings
        self.now = 1000.0
        self.names = [f"s{number}" for number in range(n_servers)]
        self.first_voters = tuple(self.names[:3] if profile.change else self.names)
        self.world, self.totals = World(), Totals()
        self.log_disks = {name: PretendDirectory() for name in self.names}
        self.snapshot_disks = {name: PretendDirectory() for name in self.names}
        self._factories = {name: factories[at % len(factories)] for at, name in enumerate(self.names)}
        self._server_type = server_type
        self.servers: dict[str, Server] = {}
        self.down: dict[str, float] = {}
        self.cut: set[tuple[str, str]] = set()
        self.trouble = True
        self._queue: list[tuple[float, int, str, str, bytes]] = []
        self._sent = 0
        self._newest_arrival: dict[tuple[str, str], float] = {}
        self._next_value = 0
        # Of everything that was sent, to see that a seed means the same run every time.
        self.digest = 0
        for name in self.names:
            self.boot(name)

    # --- what servers use ------------------------------------------------------------------------------------------

    def send(self, sender: str, recipient: str, message: Message) -> None:
        profile = self.profile
        if recipient not in self.log_disks or (sender, recipient) in self.cut or self.rng.random() < profile.loss:
            return
        delay = self.rng.expovariate(1 / profile.delay_s)
        if self.rng.random() < profile.slow_share:
            delay += self.rng.uniform(0, profile.slow_s)
        at = self.now + delay
        if profile.fifo:
            at = max(at, self._newest_arrival.get((sender, recipient), 0.0))
            self._newest_arrival[sender, recipient] = at
        self._enqueue(at, sender, recipient, message)
        if self.rng.random() < profile.repeat:
            self._enqueue(at + self.rng.uniform(0, 2 * profile.slow_s), sender, recipient, message)

    def _enqueue(self, at: float, sender: str, recipient: str, message: Message) -> None:
        self._sent += 1
        data = encode(message)
        self.digest = zlib.crc32(data, self.digest)
        heapq.heappush(self._queue, (at, self._sent, sender, recipient, data))

    def dying_now(self) -> bool:
        return self.trouble and self.rng.random() < self.profile.die

    def may_die(self) -> None:
        if self.dying_now():
            raise Killed

    # --- the course of a run ---------------------------------------------------------------------------------------

    def boot(self, name: str) -> None:
        self.servers[name] = self._server_type(self, name, self._factories[name])

    def kill(self, name: str) -> None:
        del self.servers[name]
        self.totals.kills += 1
        if self.rng.random() < self.profile.power:
            self.log_disks[name].lose_power(self.rng)
            self.snapshot_disks[name].lose_power(self.rng)
        self.log_disks[name].fail_next = None
        self.down[name] = self.now + self.rng.uniform(0.1, 3)

    def run(self) -> Totals:
        """Raises Violation when an invariant does not hold."""
        for step in range(self.profile.steps):
            self.tick()
            self._cause_trouble()
            if step % 20 == 0:
                self._check_logs()
        self.trouble = False
        self.cut.clear()
        for _ in range(self.profile.settle_steps):
            self.tick()
        self._check_end()
        return self.totals

    def tick(self) -> None:
        self.now += TICK_S
        for name in sorted(self.down):
            if self.now >= self.down[name]:
                del self.down[name]
                self.boot(name)
        while self._queue and self._queue[0][0] <= self.now:
            _, _, sender, recipient, data = heapq.heappop(self._queue)
            if (sender, recipient) not in self.cut and recipient in self.servers:
                self.servers[recipient].inbox.append((sender, decode(data)))
        for name in self.names:
            if (server := self.servers.get(name)) is not None:
                self._run_server(server)

    def _run_server(self, server: Server) -> None:
        if self.trouble:
            self._ask(server)
        if not server.due:
            return
        try:
            server.cycle()
        except Killed:
            self.kill(server.name)

    def _ask(self, server: Server) -> None:
        rng, profile = self.rng, self.profile
        if rng.random() < profile.propose:
            value = b"%d" % self._next_value
            self._next_value += 1
            server.core.propose(lambda answer: self._acknowledge(value, answer), value)
        if rng.random() < profile.read:
            needed = self.world.acknowledged_index
            server.core.read_index(lambda answer: self._check_read(server, needed, answer))
        if server.core.role is not Role.LEADER:
            return
        if rng.random() < profile.change:
            self._change_members(server)
        if rng.random() < profile.transfer and (others := [name for name in server.core.voters if name != server.name]):
            server.core.transfer_leadership(rng.choice(others))

    def _change_members(self, server: Server) -> None:
        name = self.rng.choice(self.names)
        voters = server.core.voters
        if name not in voters:
            server.core.add_learner(name)
            server.core.propose_conf(self._count_change, "add", name)
        elif len(voters) > 2 and self.rng.random() < 0.5:
            server.core.propose_conf(self._count_change, "remove", name)

    def _count_change(self, answer: Any) -> None:
        self.totals.changes += answer.error is None

    def _acknowledge(self, value: bytes, answer: Any) -> None:
        if answer.error is None:
            self.world.note_acknowledged(value, answer.index)
            self.totals.acknowledged += 1

    def _check_read(self, server: Server, needed: int, answer: Any) -> None:
        if answer.error is None:
            self.totals.reads += 1
            if min(answer.index, server.core.applied_index) < needed:
                raise Violation(
                    "linearizable reads", f"{server.name} read at {answer.index}, {needed} was acknowledged"
                )

    def _cause_trouble(self) -> None:
        rng, profile = self.rng, self.profile
        if rng.random() < profile.kill and self.servers:
            self.kill(rng.choice(sorted(self.servers)))
        if rng.random() >= profile.partition:
            return
        if self.cut and rng.random() < 0.6:
            self.cut.clear()
            return
        one = rng.choice(self.names)
        others = [name for name in self.names if name != one]
        if rng.random() < 0.5:
            for other in others:
                self.cut.update({(one, other), (other, one)})
        else:
            other = rng.choice(others)
            self.cut.add((one, other))
            if rng.random() < 0.5:
                self.cut.add((other, one))

    # --- the end ---------------------------------------------------------------------------------------------------

    def _check_logs(self) -> None:
        for name in sorted(self.servers):
            self.world.note_log(name, self.servers[name].wal)

    def _check_end(self) -> None:
        self._check_logs()
        leaders = [server for server in self.servers.values() if server.core.role is Role.LEADER]
        leader = max(leaders, key=lambda server: server.core.term, default=None)
        if leader is None:
            return
        voters = [self.servers[name] for name in leader.core.voters]
        self.totals.converged = int(len({server.core.applied_index for server in voters}) == 1)
        if leader.core.applied_index < leader.wal.last:
            self.totals.converged = 0
            return
        held = dict(leader.machine.values)
        values = [value for _, value in leader.machine.values]
        for value, index in self.world.acknowledged.items():
            if held.get(index) != value or values.count(value) != 1:
                raise Violation("acknowledged is durable", f"{value!r} was acknowledged at {index} and is not there")


def run_seed(seed: int, *, profile: str = "plain", factories: tuple[Factory, ...] = (Core,), **more: Any) -> Totals:
    """One run; three or five servers by turns. A Violation tells how to repeat it."""
    try:
        simulation = Simulation(
            seed, n_servers=3 if seed % 3 else 5, profile=PROFILES[profile], factories=factories, **more
        )
        return simulation.run()
    except Exception as error:
        error.add_note(f"again with: scripts/simulate_raft -profile {profile} -from {seed} -seeds 1")
        raise


def add(sum_: Totals, one: Totals) -> Totals:
    """The sum of two runs."""
    return Totals(**{name: getattr(sum_, name) + getattr(one, name) for name in Totals.__struct_fields__})
