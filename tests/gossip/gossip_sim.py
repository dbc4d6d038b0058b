"""Many gossip machines in one pretend network: virtual time, loss, delay, duplication, partitions, pauses and restarts.

Everything follows from the seed. Machines speak in real packets; TCP is an exchange of their real messages that takes a
round trip and works whenever both ends run and are not parted. ``history`` has every change of status that any agent
saw.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from nomadpy.gossip import outputs as out
from nomadpy.gossip.contract import FAILED, UserEvent
from nomadpy.gossip.messages import Exchange, decode_spoken, encode
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.swim import Swim

PORT = 4648


class Network(msgspec.Struct, kw_only=True):
    """How packets fare: each is lost with ``loss``, comes twice with ``duplicate``, and takes between the delays."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay_min_s: float = 0.0002
    delay_max_s: float = 0.002
    # Without TCP only packets can save a member from suspicion.
    tcp: bool = True


class Seen(NamedTuple):
    """At this moment ``watcher`` took ``member`` for ``new``."""

    at: float
    watcher: str
    member: str
    old: str
    new: str


class Agent:
    """One machine and what it reported."""

    def __init__(self, swim: Swim, address: str) -> None:
        self.swim, self.address = swim, address
        self.running, self.paused = True, False
        self.mailbox: list[tuple[bytes, tuple[str, int]]] = []
        self.waking_at = float("inf")
        self.events: list[UserEvent] = []
        self.conflicts: list[out.Conflict] = []


class Simulation:
    """A pool. ``agents`` are by name; several agents of one name get ``name#2`` and so on as their key."""

    def __init__(
        self,
        seed: int = 0,
        *,
        network: Network | None = None,
        settings: GossipSettings | None = None,
        machine: type[Swim] = Swim,
    ) -> None:
        self.network, self.settings = network or Network(), settings or GossipSettings()
        self.now = 0.0
        self.agents: dict[str, Agent] = {}
        self.history: list[Seen] = []
        self.packets = 0
        self.largest_packet = 0
        self._machine = machine
        self._rng = random.Random(seed)
        self._seed = seed
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._at: dict[str, Agent] = {}
        self._side: dict[str, int] = {}
        self._births = itertools.count(1)

    # --- the world

    def add(self, name: str, *, address: str = "", key: str = "", tags: dict[str, str] | None = None) -> Agent:
        """Starts an agent; it knows nobody yet."""
        birth = next(self._births)
        address = address or f"10.{birth >> 16}.{birth >> 8 & 255}.{birth & 255}"
        rng = random.Random(f"{self._seed} {birth}")
        swim = self._machine(name, address, PORT, tags or {}, settings=self.settings, rng=rng, now=self.now)
        agent = self.agents[key or name] = self._at[address] = Agent(swim, address)
        self._arm(agent)
        return agent

    def grow(self, count: int) -> list[Agent]:
        """Starts so many agents that know each other from the beginning."""
        agents = [self.add(f"n{number:03}") for number in range(count)]
        full = [state for agent in agents for state in agent.swim.exchange(self.now, join=False).states[:1]]
        for agent in agents:
            agent.swim.merge(self.now, Exchange(agent.swim.name, 0, False, full))
            agent.swim._pool.queue = type(agent.swim._pool.queue)()
            self._carry_out(agent)
        self.history.clear()
        return agents

    def join(self, name: str, other: str) -> None:
        """The first exchange of an agent with another one."""
        agent = self.agents[name]
        self._call_for(agent, self.agents[other].address, join=True)

    def kill(self, name: str) -> None:
        """The agent is gone without a word."""
        agent = self.agents.pop(name)
        agent.running = False
        self._at.pop(agent.address, None)

    def restart(self, name: str, *, address: str = "") -> Agent:
        """A killed agent starts again at its old address, or at another one."""
        return self.add(name, address=address)

    def pause(self, name: str) -> None:
        """The agent's process is stopped; packets wait in its socket."""
        self.agents[name].paused = True

    def resume(self, name: str, *, overflown: bool = False) -> None:
        """It runs again, and reads its socket first; nothing is in there when it was ``overflown``."""
        agent = self.agents[name]
        agent.paused = False
        mailbox, agent.mailbox = [] if overflown else agent.mailbox, []
        for payload, place in mailbox:
            agent.swim.receive(self.now, payload, place)
        agent.swim.tick(self.now)
        self._carry_out(agent)

    def part(self, *sides: Iterable[str]) -> None:
        """Cuts the network: only agents of one side hear each other."""
        self._side = {self.agents[name].address: number for number, side in enumerate(sides) for name in side}

    def heal(self) -> None:
        """Everybody hears everybody again."""
        self._side = {}

    # --- time

    def run(self, seconds: float) -> None:
        """Lets so much time pass."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = end

    def run_until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Lets time pass until the condition holds, looked at every 50 ms; False when it did not within the limit."""
        end = self.now + limit_s
        while not condition():
            if self.now >= end:
                return False
            self.run(0.05)
        return True

    def do(self, name: str, action: Callable[[Swim, float], object]) -> None:
        """Asks an agent's machine for something."""
        agent = self.agents[name]
        action(agent.swim, self.now)
        self._carry_out(agent)

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), action))

    def _arm(self, agent: Agent) -> None:
        deadline = max(self.now, agent.swim.next_deadline())
        if deadline < agent.waking_at:
            agent.waking_at = deadline
            self._later(deadline - self.now, lambda: self._wake(agent, deadline))

    def _wake(self, agent: Agent, deadline: float) -> None:
        if deadline != agent.waking_at or not agent.running:
            return
        agent.waking_at = float("inf")
        if agent.paused:
            return
        if agent.swim.next_deadline() <= self.now:
            agent.swim.tick(self.now)
        self._carry_out(agent)

    # --- outputs

    def _carry_out(self, agent: Agent) -> None:
        for output in agent.swim.take_outputs():
            match output:
                case out.Send():
                    self._send(agent, output)
                case out.TcpPing():
                    self._tcp_ping(agent, output)
                case out.CallFor():
                    self._call_for(agent, output.address)
                case out.Challenge():
                    self._challenge(agent, output)
                case out.Changed():
                    self.history.append(Seen(self.now, agent.swim.name, output.name, output.old, output.new))
                case out.Heard():
                    agent.events.append(output.event)
                case out.Conflict():
                    agent.conflicts.append(output)
        self._arm(agent)

    def _delay(self) -> float:
        return self._rng.uniform(self.network.delay_min_s, self.network.delay_max_s)

    def _send(self, agent: Agent, packet: out.Send) -> None:
        self.packets += 1
        self.largest_packet = max(self.largest_packet, len(packet.payload))
        copies = 1 + (self._rng.random() < self.network.duplicate)
        for _ in range(copies):
            if self._rng.random() >= self.network.loss:
                self._later(self._delay(), lambda: self._arrive(agent, packet))

    def _arrive(self, sender: Agent, packet: out.Send) -> None:
        agent = self._at.get(packet.address)
        if agent is None or not self._hears(sender.address, packet.address):
            return
        if agent.paused:
            agent.mailbox.append((packet.payload, (sender.address, PORT)))
            return
        agent.swim.receive(self.now, packet.payload, (sender.address, PORT))
        self._carry_out(agent)

    def _hears(self, sender: str, receiver: str) -> bool:
        return self._side.get(sender, 0) == self._side.get(receiver, 0)

    def _peer(self, agent: Agent, address: str) -> Agent | None:
        """Who answers TCP there."""
        peer = self._at.get(address)
        reachable = peer is not None and not peer.paused and self._hears(agent.address, address)
        return peer if reachable and self.network.tcp else None

    def _tcp_ping(self, agent: Agent, ping: out.TcpPing) -> None:
        peer = self._peer(agent, ping.address)
        if peer is not None and peer.swim.name == ping.name:
            ack = peer.swim.ack(ping.number)
            self._later(2 * self._delay(), lambda: self._tell(agent, lambda: agent.swim.acked(self.now, ack)))

    def _challenge(self, agent: Agent, wanted: out.Challenge) -> None:
        peer = self._peer(agent, wanted.address)
        ack = peer.swim.ack(0) if peer is not None else None
        place = (wanted.address, wanted.port)
        delay = 2 * self._delay() if ack else 0.5
        self._later(delay, lambda: self._tell(agent, lambda: agent.swim.challenged(self.now, place, ack)))

    def _call_for(self, agent: Agent, address: str, *, join: bool = False) -> None:
        question = encode(agent.swim.exchange(self.now, join=join))
        self._later(self._delay(), lambda: self._answer(agent, address, question, join))

    def _answer(self, agent: Agent, address: str, question: bytes, join: bool) -> None:
        peer = self._at.get(address)
        if peer is None or peer.paused or not self._hears(agent.address, address):
            return
        asked, swim = decode_spoken(question), peer.swim
        assert isinstance(asked, Exchange)
        swim.merge(self.now, asked)
        answer = decode_spoken(encode(swim.exchange(self.now, join=False)))
        assert isinstance(answer, Exchange)
        self._carry_out(peer)
        self._later(self._delay(), lambda: self._tell(agent, lambda: agent.swim.merge(self.now, answer, join=join)))

    def _tell(self, agent: Agent, action: Callable[[], None]) -> None:
        if agent.running and not agent.paused:
            action()
            self._carry_out(agent)

    # --- what can be asked about it

    def status(self, watcher: str, member: str) -> str:
        """What an agent takes another for; "" when it does not know it."""
        found = self.agents[watcher].swim.member(member)
        return found.status if found is not None else ""

    def all_say(self, member: str, status: str) -> bool:
        """Whether every running agent but the member itself takes it for this."""
        return all(
            self.status(key, member) == status for key, agent in self.agents.items() if agent.swim.name != member
        )

    def agree(self, status: str = "alive") -> bool:
        """Whether everybody takes everybody for this."""
        return all(self.all_say(name, status) for name in self.agents)

    def failures(self, *, of: Iterable[str] | None = None) -> list[Seen]:
        """Every time that an agent took another for failed."""
        wanted = None if of is None else set(of)
        return [seen for seen in self.history if seen.new == FAILED and (wanted is None or seen.member in wanted)]

    def false_positives(self) -> int:
        """How often a member that runs was declared failed, counting each time once for the pool."""
        return len({(seen.member, round(seen.at / 10)) for seen in self.failures() if seen.member in self.agents})


def detection(seed: int, members: int, *, loss: float = 0.0, limit_s: float = 20.0) -> list[float]:
    """After how many seconds each other agent declared a killed one failed. Raises AssertionError when some did not
    within the limit. The moment of the kill is anywhere in the probe period."""
    simulation = Simulation(seed, network=Network(loss=loss))
    agents = simulation.grow(members)
    simulation.run(2 + random.Random(seed).uniform(0, 1))
    victim = agents[seed % members].swim.name
    simulation.history.clear()
    start = simulation.now
    simulation.kill(victim)
    if not simulation.run_until(lambda: simulation.all_say(victim, FAILED), limit_s):
        raise AssertionError(f"seed {seed}: not everybody saw that {victim} failed within {limit_s} s")
    return sorted(seen.at - start for seen in simulation.failures(of=[victim]))
