"""Where the simulated cluster lives: hosts, the network between them, what is known from outside, and the trace.

The network loses, repeats and reorders packets, breaks connections, and can be cut between any two hosts in one
direction or both. What is known from outside (acknowledgements, applied entries, who was disturbed when) is what the
invariants are about.
"""

from __future__ import annotations

import random
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pretend_trio as trio
from virtual_loop import Loop, Process

from nomadpy.model.errors import NomadError, OutcomeUnknown
from nomadpy.model.time import SECOND
from nomadpy.rpc.handlers import NoAnswer, NotConnected

EPOCH_NS = 1_700_000_000 * SECOND


class Violation(Exception):
    """An invariant does not hold."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What kind of trouble there is, and for how long. Rates are per second of trouble."""

    trouble_s: float = 50.0
    servers: tuple[int, ...] = (3, 3, 3, 5, 1)
    clients: tuple[int, ...] = (3, 4, 5)
    jobs: int = 4
    loss: float = 0.02
    repeat: float = 0.02
    delay_s: float = 0.004
    slow_share: float = 0.02
    slow_s: float = 0.6
    broken_calls: float = 0.01
    kill_server: float = 0.03
    kill_client: float = 0.03
    pause: float = 0.03
    # The leader in particular, so that another one takes over and it comes back with old knowledge.
    pause_leader: float = 0.0
    partition: float = 0.05
    # How often a server that does not lead answers clients from its own state, as one does that still believes to lead.
    believers: float = 0.0
    transfer: float = 0.02
    drain: float = 0.02
    clock_jump: float = 0.02
    die_on_disk: float = 0.0008
    power: float = 0.5
    # One of these is how long a killed server or client stays away, a process is stopped, a cut lasts.
    server_away_s: tuple[float, ...] = (0.3, 2.0, 15.0)
    client_away_s: tuple[float, ...] = (0.5, 3.0, 20.0)
    pause_s: tuple[float, ...] = (0.5, 3.0, 8.0, 35.0)
    cut_s: tuple[float, ...] = (0.5, 4.0, 15.0, 30.0)
    # The longest that a server that died on its disk stays away, and that people wait before they begin.
    dead_disk_s: float = 8.0
    begin_s: float = 6.0
    # How long clients let a server hold their question for assignments, and wait for any other answer.
    poll_s: float = 60.0
    patience_s: float = 20.0
    # Longest wait for the cluster to settle: evaluations that failed are tried again after up to six minutes.
    settle_s: float = 900.0
    # No sound run needs as many: whoever does turns in circles.
    events_max: int = 150_000
    snapshot_entries: int = 25
    operations: float = 0.12
    # People who only look at jobs, each twice as often as others change one.
    readers: int = 2
    # What one allocation takes of the 4000 MHz of a node.
    cpu: int = 500


PROFILES = {
    "plain": Profile(),
    "calm": Profile(kill_server=0.0, kill_client=0.0, pause=0.0, partition=0.0, die_on_disk=0.0, loss=0.0, repeat=0.0),
    "servers": Profile(kill_server=0.1, transfer=0.06, kill_client=0.0, die_on_disk=0.004, power=0.9),
    "clients": Profile(kill_server=0.0, die_on_disk=0.0, kill_client=0.12, pause=0.05, drain=0.05),
    "network": Profile(partition=0.2, loss=0.08, repeat=0.08, slow_share=0.1, slow_s=2.0, broken_calls=0.05),
    "stops": Profile(pause=0.12, partition=0.02, kill_client=0.06),
    "stale": Profile(
        pause_leader=0.08,
        kill_client=0.03,
        broken_calls=0.1,
        pause=0.0,
        partition=0.1,
        operations=0.4,
        readers=10,
        servers=(3,),
        believers=0.3,
    ),
    "judge": Profile(
        trouble_s=100.0,
        pause_leader=0.06,
        kill_client=0.0,
        pause=0.0,
        partition=0.0,
        operations=0.05,
        servers=(1, 1, 3),
    ),
    # A few seconds full of trouble, for many seeds.
    "brief": Profile(
        trouble_s=6.0,
        servers=(3, 3, 3, 1),
        clients=(1, 2),
        jobs=2,
        loss=0.06,
        repeat=0.06,
        slow_share=0.05,
        slow_s=1.0,
        broken_calls=0.04,
        kill_server=0.3,
        kill_client=0.15,
        pause=0.15,
        pause_leader=0.1,
        partition=0.25,
        believers=0.1,
        transfer=0.1,
        drain=0.1,
        clock_jump=0.1,
        die_on_disk=0.004,
        power=0.7,
        server_away_s=(0.2, 1.0, 2.0),
        client_away_s=(0.3, 1.5),
        pause_s=(0.3, 1.5, 4.0),
        cut_s=(0.4, 1.5, 3.0),
        dead_disk_s=1.5,
        begin_s=2.0,
        poll_s=4.0,
        patience_s=3.0,
        settle_s=120.0,
        events_max=25_000,
        snapshot_entries=12,
        operations=0.7,
        cpu=1300,
    ),
    "tight": Profile(cpu=1300, clients=(3,), operations=0.3, kill_client=0.05),
}


class Totals(msgspec.Struct):
    """What happened in a run, to see that a run was not idle."""

    events: int = 0
    virtual_s: float = 0.0
    acknowledged: int = 0
    reads: int = 0
    entries: int = 0
    placements: int = 0
    tasks_started: int = 0
    tasks_stopped: int = 0
    nodes_lost: int = 0
    leaders: int = 0
    kills: int = 0
    pauses: int = 0
    partitions: int = 0
    snapshots: int = 0
    installs: int = 0
    fingerprints: int = 0
    failures: int = 0


class Host:
    """A machine with one agent; ``process`` is None while that is down."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = random.Random(world.rng.random())
        self.boot_s = self.rng.uniform(10, 1e6)
        self.clock_ns = int(self.rng.gauss(0, 0.5) * SECOND)
        self.process: Process | None = None
        self.address = f"10.1.0.{len(world.names) + 1}"
        world.names[self.address] = name

    @property
    def up(self) -> bool:
        """Whether the agent runs; it may be paused."""
        return self.process is not None

    @property
    def well(self) -> bool:
        """Whether the agent runs and is not paused."""
        return self.process is not None and not self.process.paused

    def wall_ns(self) -> int:
        """What its wall clock shows."""
        return EPOCH_NS + int(self.world.loop.now * SECOND) + self.clock_ns

    def mono_ns(self) -> int:
        """What its monotonic clock shows."""
        return int((self.world.loop.now + self.boot_s) * SECOND)


class World:
    """Everything around the agents of one run."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self.seed, self.profile = seed, profile
        self.rng = random.Random(seed)
        self.loop = Loop()
        self.totals = Totals()
        self.hosts: dict[str, Any] = {}
        # Hosts by their IP addresses.
        self.names: dict[str, str] = {}
        self.cut: set[tuple[str, str]] = set()
        self.trouble = True
        self.violation: BaseException | None = None
        self.trace: deque[tuple[float, str, str]] = deque(maxlen=600)
        # Of everything that happened, to see that a seed means the same run every time.
        self.digest = 0
        trio.use(self.loop)

    def note(self, who: str, what: str) -> None:
        """For the trace, and for the digest of the run."""
        self.trace.append((self.loop.now, who, what))
        self.digest = zlib.crc32(f"{self.loop.now:.6f} {who} {what}".encode(), self.digest)

    def violate(self, invariant: str, text: str) -> None:
        """An invariant does not hold: the run ends at the next moment."""
        if self.violation is None:
            self.violation = Violation(invariant, text)
            self.note("VIOLATION", f"{invariant}: {text}")

    def crashed(self, host: Host, error: BaseException) -> None:
        """An agent ended by itself, which none may."""
        if self.violation is None:
            self.note(host.name, f"ended with {error!r}")
            self.violation = error

    def run(self, seconds: float) -> None:
        """Lets time pass. Raises Violation, or what ended an agent."""
        end = self.loop.now + seconds
        while self.loop.now < end and self.violation is None:
            self.loop.run(min(end, self.loop.now + 0.5))
            if self.loop.steps > self.profile.events_max:
                self.violate("settled", f"{self.loop.steps} events in {self.loop.now:g} s")
        if self.violation is not None:
            raise self.violation

    # --- the network -------------------------------------------------------------------------------------------------

    def parted(self, one: str, other: str) -> bool:
        """Whether nothing goes from one to the other."""
        return (one, other) in self.cut

    def _delay(self) -> float:
        rng, profile = self.rng, self.profile
        delay = rng.expovariate(1 / profile.delay_s)
        if self.trouble and rng.random() < profile.slow_share:
            delay += rng.uniform(0, profile.slow_s)
        return delay

    def packet(self, sender: str, recipient: str, take: Callable[[Any], None]) -> None:
        """Sends something that may be lost, repeated and overtaken; ``take(host)`` happens there in its process."""
        if self.parted(sender, recipient):
            return
        copies = 1
        if self.trouble:
            chance = self.rng.random()
            copies = 0 if chance < self.profile.loss else 2 if chance > 1 - self.profile.repeat else 1
        for _ in range(copies):
            self.loop.later(self._delay(), lambda: self._arrive(sender, recipient, take))

    def _arrive(self, sender: str, recipient: str, take: Callable[[Any], None]) -> None:
        host = self.hosts[recipient]
        if host.process is not None and not self.parted(sender, recipient):
            process = host.process
            process.deliver(lambda: take(host))

    async def call(
        self, caller: Process, recipient: str, serve: Callable[[Any], Awaitable[Any]], timeout_s: float
    ) -> Any:
        """Asks another host: ``serve(host)`` runs there, and its result or NomadError comes back. Raises NotConnected
        when nobody listens, OutcomeUnknown when the connection broke, NoAnswer after ``timeout_s``."""
        question = _Call(self, caller, recipient, serve)
        self.loop.later(self._delay(), question.arrive)
        with trio.move_on_after(timeout_s):
            await question.done.wait()
        return question.result(timeout_s)


class _Call:
    """One call that is under way."""

    def __init__(self, world: World, caller: Process, recipient: str, serve: Callable[[Any], Awaitable[Any]]) -> None:
        self.world, self.caller, self.recipient, self.serve = world, caller, recipient, serve
        self.done = trio.Event()
        self._answer: tuple[Any, BaseException | None] | None = None

    def result(self, timeout_s: float) -> Any:
        if self._answer is None:
            raise NoAnswer(f"{self.recipient} did not answer within {timeout_s:g} s")
        value, error = self._answer
        if error is not None:
            raise error
        return value

    def arrive(self) -> None:
        world = self.world
        if world.parted(self.caller.name, self.recipient):
            return
        host = world.hosts[self.recipient]
        broken = world.trouble and world.rng.random() < world.profile.broken_calls
        if host.process is None or (broken and world.rng.random() < 0.5):
            self._back(None, NotConnected(f"nobody listens at {self.recipient}"))
            return
        if broken:
            world.loop.later(world.rng.uniform(0, 0.3), lambda: self._back(None, OutcomeUnknown("connection broke")))
        host.open_calls[self] = None
        host.process.deliver(lambda: host.process.start(self._work(host)))

    async def _work(self, host: Any) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = await self.serve(host)
        except NomadError as raised:
            error = raised
        host.open_calls.pop(self, None)
        self._back(value, error)

    def reset(self) -> None:
        """The other end died."""
        self._back(None, OutcomeUnknown(f"the connection to {self.recipient} broke"))

    def _back(self, value: Any, error: BaseException | None) -> None:
        if not self.world.parted(self.recipient, self.caller.name):
            self.world.loop.later(self.world._delay(), lambda: self.caller.deliver(lambda: self._take(value, error)))

    def _take(self, value: Any, error: BaseException | None) -> None:
        if self._answer is None:
            self._answer = (value, error)
            self.done.set()
