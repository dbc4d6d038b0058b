"""The gossip of one simulated agent: the real machine, with packets and calls through the pretend network."""

from __future__ import annotations

import random
from typing import Any

import pretend_trio as trio
from virtual_loop import Process, Timer

from nomadpy.gossip import outputs as out
from nomadpy.gossip.contract import Member
from nomadpy.gossip.messages import Exchange, decode_spoken, encode
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.swim import Swim

SETTINGS = GossipSettings().scaled(2)
PORT = 4648


class PretendGossip:
    """``gossip.contract.Gossip`` as far as servers and clients ask for it."""

    def __init__(self, host: Any, process: Process, name: str, tags: dict[str, str], rng: random.Random) -> None:
        self.name = name
        self._host, self._process, self._world = host, process, host.world
        self.swim = Swim(name, host.address, PORT, tags, settings=SETTINGS, rng=rng, now=process.now())
        self._changed = trio.Event()
        self._published = 0
        self._timer: Timer | None = None
        self._wake_at = float("inf")
        self._arm()

    # --- the contract ------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """Rises with every change."""
        return self.swim.changes

    async def wait_changes(self, after: int) -> int:
        """Waits until there are more."""
        while self.changes <= after:
            await self._changed.wait()
        return self.changes

    def members(self) -> list[Member]:
        """Everybody known."""
        return self.swim.members()

    def confirm(self, name: str) -> None:
        """Probes a member out of turn."""
        self.swim.confirm(self._process.now(), name)
        self._carry_out()

    def answered(self, name: str) -> float | None:
        """When another member last answered."""
        return self.swim.answered(name)

    def set_tags(self, tags: dict[str, str]) -> None:
        """This agent's tags from now on."""
        self.swim.set_tags(self._process.now(), tags)
        self._carry_out()

    def call(self, address: str, *, join: bool = False) -> None:
        """Exchanges everything with the agent at an address, if it answers."""
        question = encode(self.swim.exchange(self._process.now(), join=join))
        me = self._host.address
        self._tcp(address, lambda other: other._answer(me, question, join))

    # --- inside ------------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        deadline = self.swim.next_deadline()
        if self._timer is not None:
            if abs(deadline - self._wake_at) < 1e-9:
                return
            self._timer.cancel()
        self._wake_at = deadline
        self._timer = self._world.loop.at(deadline - self._process.boot_s, self._due)

    def _due(self) -> None:
        self._timer = None
        self._process.deliver(self._tick)

    def _tick(self) -> None:
        self.swim.tick(self._process.now())
        self._carry_out()

    def _carry_out(self) -> None:
        for output in self.swim.take_outputs():
            match output:
                case out.Send():
                    self._send(output)
                case out.TcpPing():
                    self._tcp_ping(output)
                case out.CallFor():
                    self.call(output.address)
                case out.Changed():
                    self._world.note(self._host.name, f"gossip: {output.name} {output.old} -> {output.new}")
                case out.Challenge() | out.Heard() | out.Conflict():
                    self._world.violate("gossip is quiet", f"{self.name} wants {output!r}")
        if self.swim.changes != self._published:
            self._published = self.swim.changes
            self._changed.set()
            self._changed = trio.Event()
        self._arm()

    def _send(self, packet: out.Send) -> None:
        sender = self._host.name

        place = (self._host.address, PORT)

        def take(host: Any) -> None:
            host.gossip._receive(packet.payload, place)

        self._world.packet(sender, self._world.names[packet.address], take)

    def _receive(self, payload: bytes, place: tuple[str, int]) -> None:
        self.swim.receive(self._process.now(), payload, place)
        self._carry_out()

    def _tcp(self, address: str, take: Any) -> None:
        """Over a connection: arrives surely when the other end is there."""
        world, me, other = self._world, self._host.name, self._world.names[address]
        world.loop.later(world._delay(), lambda: world._arrive(me, other, lambda host: take(host.gossip)))

    def _tcp_ping(self, ping: out.TcpPing) -> None:
        me = self._host.address

        def answer(other: PretendGossip) -> None:
            if other.name == ping.name:
                ack = other.swim.ack(ping.number)
                other._tcp(me, lambda mine: mine._acked(ack))

        self._tcp(ping.address, answer)

    def _acked(self, ack: Any) -> None:
        self.swim.acked(self._process.now(), ack)
        self._carry_out()

    def _answer(self, asker: str, question: bytes, join: bool) -> None:
        asked = decode_spoken(question)
        assert isinstance(asked, Exchange)
        now = self._process.now()
        self.swim.merge(now, asked)
        answer = encode(self.swim.exchange(now, join=False))
        self._carry_out()
        self._tcp(asker, lambda other: other._merge(answer, join))

    def _merge(self, answer: bytes, join: bool) -> None:
        heard = decode_spoken(answer)
        assert isinstance(heard, Exchange)
        self.swim.merge(self._process.now(), heard, join=join)
        self._carry_out()
