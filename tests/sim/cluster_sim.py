"""A whole cluster in one run: servers, clients, people, and the troubles that a seed brings them.

``run_seed`` is a run: the agents boot and find each other, people work, machines and network fail; then everything
heals, and the cluster has to settle. Everything follows from the seed. ``invariants`` says what must hold.
"""

from __future__ import annotations

import logging
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pretend_server
import pretend_trio
import trio
from invariants import Checker
from people import People
from pretend_client import ClientHost
from pretend_server import ServerHost
from pretend_world import PROFILES, Profile, Totals, Violation, World

from nomadpy.model.errors import Refused, Unavailable
from nomadpy.raft import raftlog
from nomadpy.server import bootstrapper, leader
from nomadpy.state import sections

# The server imports its office only when it takes it, which is too late to be given another trio.
_IMPORTED_LATE = (leader,)


def simulated() -> list[ModuleType]:
    """The product's modules that speak trio's words, whichever there are."""
    ours = [module for name, module in sys.modules.items() if name.partition(".")[0] == "nomadpy"]
    return [module for module in ours if getattr(module, "trio", None) is trio]


# Snapshots are many and small; compressing them would take a tenth of the time.
_NOT_COMPRESSED = SimpleNamespace(
    compress=lambda data, _level: data, decompress=bytes, crc32=zlib.crc32, error=zlib.error
)


@contextmanager
def pretending() -> Iterator[None]:
    """Puts the virtual loop and the pretend disks in the place of the real ones."""
    kept: list[tuple[ModuleType, str, Any]] = []

    def replace(module: ModuleType, name: str, value: Any) -> None:
        kept.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for module in simulated():
        replace(module, "trio", pretend_trio)
    replace(raftlog, "time", SimpleNamespace(perf_counter=_perf_counter))
    replace(raftlog, "DiskDirectory", pretend_server.open_directory)
    replace(bootstrapper, "BallotFile", pretend_server.BallotDisk)
    replace(sections, "zlib", _NOT_COMPRESSED)
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        for module, name, value in reversed(kept):
            setattr(module, name, value)


def _perf_counter() -> float:
    """Each call costs what a sync takes on the disk of the process, so that slow disks are told from fast ones."""
    process = pretend_trio._loop.process
    if process is None:
        return 0.0
    process.perf_s = getattr(process, "perf_s", 0.0) + process.sync_s  # type: ignore[attr-defined]
    return float(process.perf_s)  # type: ignore[attr-defined]


class Simulation:
    """One run."""

    def __init__(self, seed: int, profile: Profile) -> None:
        self.world = world = World(seed, profile)
        self.rng = world.rng
        n_servers, n_clients = self.rng.choice(profile.servers), self.rng.choice(profile.clients)
        self.checker = Checker(world)
        server_names = [f"s{number}" for number in range(n_servers)]
        self.servers = [ServerHost(world, name, n_servers, self.checker) for name in server_names]
        self.clients = [
            ClientHost(world, f"c{number}", number, server_names, self.checker) for number in range(n_clients)
        ]
        self.hosts = [*self.servers, *self.clients]
        world.hosts.update((host.name, host) for host in self.hosts)
        pretend_server.DISKS.clear()
        pretend_server.DISKS.update((host.name, host) for host in self.servers)
        self.checker.clients.update((client.node_id, client) for client in self.clients)
        self._faults: list[tuple[Callable[[], float], Callable[[], None]]] = self._catalogue(profile)
        self._cuts: list[list[tuple[str, str]]] = []

    def run(self) -> Totals:
        """The whole of it. Raises Violation, or what ended an agent."""
        world, profile = self.world, self.world.profile
        for host in self.hosts:
            world.loop.later(self.rng.uniform(0, 1.5), lambda host=host: self._boot(host))
        nodes = [client.node_id for client in self.clients]
        self.people = People(world, self.checker, [server.name for server in self.servers], nodes)
        world.hosts["people"] = self.people
        self._watch_disturbances()
        world.loop.later(2.0, self._trouble)
        world.run(profile.trouble_s)
        self._heal()
        self._settle()
        self.checker.check_end(self.servers)
        world.run(0.0)
        if world.violation is not None:
            raise world.violation
        world.totals.events, world.totals.virtual_s = world.loop.steps, world.loop.now
        return world.totals

    def _boot(self, host: Any) -> None:
        if not host.up:
            host.boot()

    def close(self) -> None:
        """Lets go of what still runs."""
        for host in self.hosts:
            if host.process is not None:
                host.process.kill()
        self.people.process.kill()

    # --- troubles ----------------------------------------------------------------------------------------------------

    def _catalogue(self, profile: Profile) -> list[tuple[Callable[[], float], Callable[[], None]]]:
        return [
            (lambda: profile.kill_server, self._kill_server),
            (lambda: profile.kill_client, self._kill_client),
            (lambda: profile.pause, lambda: self._pause(self.rng.choice(self.hosts))),
            (lambda: profile.pause_leader, self._pause_leader),
            (lambda: profile.partition, self._part),
            (lambda: profile.transfer, self._transfer),
            (lambda: profile.clock_jump, self._jump),
        ]

    def _trouble(self) -> None:
        """Once a quarter of a second."""
        if not self.world.trouble:
            return
        for rate, cause in self._faults:
            if self.rng.random() < rate() / 4:
                cause()
        for host in self.servers:
            # Killed by a disk that was asked in the middle of something.
            if not host.up and host not in self._coming:
                self._come_back(host, self.rng.uniform(0.2, self.world.profile.dead_disk_s))
        self.world.loop.later(0.25, self._trouble)

    @property
    def _coming(self) -> set[Any]:
        return self.__dict__.setdefault("_coming_back", set())

    def _come_back(self, host: Any, delay_s: float) -> None:
        self._coming.add(host)

        def boot() -> None:
            self._coming.discard(host)
            self._boot(host)

        self.world.loop.later(delay_s, boot)

    def _kill_server(self) -> None:
        host = self.rng.choice(self.servers)
        if host.up:
            host.kill()
            self._come_back(host, self.rng.choice(self.world.profile.server_away_s))

    def _kill_client(self) -> None:
        host = self.rng.choice(self.clients)
        if host.up:
            host.kill(machine=self.rng.random() < 0.4)
            self._come_back(host, self.rng.choice(self.world.profile.client_away_s))

    def _pause_leader(self) -> None:
        for host in self.servers:
            if host.well and host.server.leading:
                self._pause(host)

    def _pause(self, host: Any) -> None:
        if not host.well:
            return
        process, seconds = host.process, self.rng.choice(self.world.profile.pause_s)
        self.world.note(host.name, f"is stopped for {seconds} s")
        self.world.totals.pauses += 1
        process.pause()

        def resume() -> None:
            if process.paused:
                self.world.note(host.name, "goes on")
                process.resume()

        process.wake = resume
        self.world.loop.later(seconds, resume)

    def _part(self) -> None:
        names = [host.name for host in self.hosts]
        one = self.rng.choice(names)
        side = {one, *(name for name in names if self.rng.random() < 0.25)}
        rest = [name for name in names if name not in side]
        ways = self.rng.choice(("both", "both", "out", "in", "one link"))
        if not rest:
            return
        if ways == "one link":
            side, rest = {one}, [self.rng.choice(rest)]
        cut = [(a, b) for a in sorted(side) for b in rest if ways in ("both", "out", "one link")]
        cut += [(b, a) for a in sorted(side) for b in rest if ways in ("both", "in")]
        self.world.note("network", f"cut ({ways}) between {sorted(side)} and {rest}")
        self.world.totals.partitions += 1
        self._cuts.append(cut)
        self.world.cut.update(cut)
        self.world.loop.later(self.rng.choice(self.world.profile.cut_s), lambda: self._mend(cut))

    def _mend(self, cut: list[tuple[str, str]]) -> None:
        if cut in self._cuts:
            self._cuts.remove(cut)
            self.world.cut.clear()
            for other in self._cuts:
                self.world.cut.update(other)
            self.world.note("network", "a cut is mended")

    def _transfer(self) -> None:
        for host in self.servers:
            if host.well and host.server.leading and len(self.servers) > 1:
                to = self.rng.choice([other for other in self.servers if other is not host])
                self.world.note(host.name, f"hands over to {to.name}")
                host.process.start(self._hand_over(host, to.server_id))
                return

    async def _hand_over(self, host: ServerHost, to: str) -> None:
        try:
            await host.raft.transfer_leadership(to)  # type: ignore[union-attr]
        except (Refused, Unavailable) as error:
            self.world.note(host.name, f"could not hand over: {error.message}")

    def _jump(self) -> None:
        host = self.rng.choice(self.hosts)
        host.clock_ns += int(self.rng.uniform(-5, 5) * 1e9)
        self.world.note(host.name, "its wall clock jumps")

    def _watch_disturbances(self) -> None:
        """Notes which clients have an excuse now: they do not run, or a way to or from them is cut."""
        world = self.world
        touched = {name for pair in world.cut for name in pair}
        for client in self.clients:
            if client.booted and (not client.well or client.name in touched):
                client.disturbed_at = world.loop.now
        world.loop.later(0.25, self._watch_disturbances)

    # --- the end -----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        world = self.world
        world.note("world", "heals")
        world.trouble = False
        world.cut.clear()
        self._cuts.clear()
        for host in self.hosts:
            if host.process is not None and host.process.paused:
                host.process.wake()
            self._boot(host)

    def _settle(self) -> None:
        world, checker = self.world, self.checker
        settle_s = world.profile.settle_s
        end = world.loop.now + settle_s
        missing = ["people wait for answers"]
        while missing and world.loop.now < end:
            world.run(1.0)
            if self.people.idle:
                missing = checker.unsettled(self.servers, self.clients)
        if missing:
            for text in missing:
                world.note("unsettled", text)
            raise Violation("settled", f"after {settle_s:g} s: {'; '.join(missing[:4])}")


def run_seed(seed: int, *, profile: str = "plain") -> Totals:
    """One run. A Violation carries how to repeat it, and what happened last."""
    with pretending():
        simulation = Simulation(seed, PROFILES[profile])
        try:
            totals = simulation.run()
        except BaseException as error:
            error.add_note(f"again with: scripts/simulate_cluster -profile {profile} -first {seed} -seeds 1")
            error.add_note(story(simulation.world))
            raise
        finally:
            simulation.close()
        run_seed.digest = simulation.world.digest  # type: ignore[attr-defined]
        return totals


def story(world: World, last: int = 60) -> str:
    """What happened last, a line for each event."""
    lines = [f"{at:9.3f}  {who:10} {what}" for at, who, what in list(world.trace)[-last:]]
    return "\n".join(["the last events (seconds, who, what):", *lines])


def add(one: Totals, other: Totals) -> Totals:
    """The sum of two runs."""
    return Totals(**{name: getattr(one, name) + getattr(other, name) for name in Totals.__struct_fields__})
