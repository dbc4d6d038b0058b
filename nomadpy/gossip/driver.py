"""Gossip over real sockets: waits for packets, deadlines and calls, feeds the machine, and does what it wants done."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import trio

from nomadpy.gossip import places
from nomadpy.gossip.complaints import Complaints
from nomadpy.gossip.contract import ALIVE, SUSPECT, Health, KeyringReport, Member, UserEvent
from nomadpy.gossip.envelope import Envelope
from nomadpy.gossip.keyring import Keyring
from nomadpy.gossip.messages import Ack, Exchange, KeyOrder, Ping, Refusal, Spoken
from nomadpy.gossip.orders import KeyOrders
from nomadpy.gossip.outputs import CallFor, Challenge, Changed, Conflict, Heard, Output, Send, TcpPing
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.sockets import open_both
from nomadpy.gossip.swim import Swim
from nomadpy.gossip.talk import Listener, Unanswered, ask
from nomadpy.model.errors import Bug, Invalid
from nomadpy.model.ids import EDGE_RNG

log = logging.getLogger(__name__)

Accept: TypeAlias = Callable[[Member], str | None]
"""Why an agent may not join, as a sentence; None when it may."""

_JOIN_TIMEOUT_S = 10.0
_PING_TIMEOUT_S = 0.5
_LEAVE_TIMEOUT_S = 5.0
_SAMPLE_EVERY_S = 10.0
# Calls of our own under way at a time; further pings and exchanges are left out, as their next turn comes anyway.
_CALLS_MAX = 32
# So many packets are taken before other tasks get a turn.
_PACKETS_AT_ONCE = 256

if TYPE_CHECKING:
    from nomadpy.gossip.contract import Gossip

    def _keeps_the_contract(gossiper: Gossiper) -> Gossip:
        return gossiper


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one agent's gossip since its start; ``awareness`` is its local health now, 0 is well."""

    members: int
    awareness: int
    packets_in: int
    packets_out: int
    send_errors: int
    refused: dict[str, int]
    conversations_turned_away: int
    conversations_broken: int
    counters: dict[str, int]


class Gossiper:
    """``contract.Gossip`` over UDP and TCP on one port.

    ``bind`` is an IP address and a port (0: any), ``advertise`` what others are told where it differs. ``accept`` is
    asked about the other agent of every exchange; its sentence goes back to a refused joiner. ``on_event`` gets user
    events (what it raises ends ``run``), ``sample`` measures this machine's health (in a thread, now and then).

        gossiper = Gossiper("node1.global", bind=("0.0.0.0", 4648), advertise=("10.0.0.1", 0), tags={"role": "nomad"})
        await nursery.start(gossiper.run)
        joined, failures = await gossiper.join(["10.0.0.2", "10.0.0.3:4648"])
    """

    def __init__(
        self,
        name: str,
        *,
        bind: tuple[str, int],
        advertise: tuple[str, int] | None = None,
        tags: dict[str, str] | None = None,
        settings: GossipSettings | None = None,
        keyring: Keyring | None = None,
        accept: Accept | None = None,
        on_event: Callable[[UserEvent], None] | None = None,
        sample: Callable[[], Health] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._bind, self._advertise, self._tags = bind, advertise, tags or {}
        self._settings = settings or GossipSettings()
        self._rng = rng or random.Random(EDGE_RNG.getrandbits(64))
        self._accept, self._on_event, self._sample = accept, on_event, sample
        self._envelope = Envelope(keyring or Keyring())
        self._complaints = Complaints()
        self._listener = Listener(self._envelope, self._answer, self._complaints)
        self._orders = KeyOrders(self._envelope)
        self._swim: Swim | None = None
        self._nursery: trio.Nursery | None = None
        self._packets: socket.socket | None = None
        self._sleep = trio.CancelScope()
        self._published = 0
        self._changed = trio.Event()
        self._gone = trio.Event()
        self._calls = 0
        self._packets_in = self._packets_out = self._send_errors = 0
        self.place = ("", 0)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Binds its port, reports started, and gossips until cancelled. Raises OSError when it cannot bind, Invalid
        when name, tags or addresses do not fit."""
        self._packets, listener = open_both(*self._bind)
        try:
            self.place = places.advertised(self._bind, self._advertise, self._packets.getsockname()[1])
            self._swim = Swim(
                self.name, *self.place, self._tags, settings=self._settings, rng=self._rng, now=trio.current_time()
            )
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(trio.serve_listeners, self._listener.serve, [listener])
                if self._sample is not None:
                    self._nursery.start_soon(self._keep_sampling, self._sample)
                log.info("gossip.started", extra={"fields": {"member": self.name, "address": places.show(self.place)}})
                task_status.started()
                await self._gossip()
        finally:
            self._nursery = None
            self._packets.close()
            self._packets = None
            await trio.aclose_forcefully(listener)

    async def _gossip(self) -> None:
        packets = self._packets
        assert packets is not None
        while True:
            with trio.CancelScope(deadline=self._machine.next_deadline()) as self._sleep:
                await trio.lowlevel.wait_readable(packets)
            # What has arrived is heard before anybody is judged for his silence.
            self._receive(packets)
            if trio.current_time() >= self._machine.next_deadline():
                self._machine.tick(trio.current_time())
            self._carry_out()

    def _receive(self, packets: socket.socket) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                data, place = packets.recvfrom(65535)
            except BlockingIOError:
                return
            self._packets_in += 1
            payload = self._envelope.unpack(data)
            if payload is not None:
                self._machine.receive(trio.current_time(), payload, (place[0], place[1]))
            else:
                self._complaints.say(trio.current_time(), place[0], self._envelope.refusal)

    @property
    def _machine(self) -> Swim:
        if self._swim is None:
            raise Bug("gossip was asked for something before it was started")
        return self._swim

    # --- what the machine wants done

    def _carry_out(self) -> None:
        """Does what the machine wants, and tells those who wait for changes."""
        for output in self._machine.take_outputs():
            self._do(output)
        if self._machine.has_left():
            self._gone.set()
        if self._machine.changes != self._published:
            self._published = self._machine.changes
            self._changed.set()
            self._changed = trio.Event()

    def _act(self) -> None:
        """After a wish from outside: does what follows, and has the loop look at its deadlines again."""
        self._carry_out()
        self._sleep.cancel()

    def _do(self, output: Output) -> None:
        match output:
            case Send():
                self._send(output)
            case TcpPing():
                self._call(self._tcp_ping, output)
            case CallFor():
                self._call(self._call_for, output)
            case Challenge():
                self._call(self._challenge, output, always=True)
            case Changed():
                facts = {"member": output.name, "old": output.old, "new": output.new, "reason": output.reason}
                log.info("gossip.member", extra={"fields": facts})
            case Heard():
                if self._on_event is not None:
                    self._on_event(output.event)
            case Conflict():
                log.error(
                    "gossip.name-conflict: another living agent uses this agent's name",
                    extra={"fields": {"member": self.name, "address": places.show((output.address, output.port))}},
                )

    def _send(self, output: Send) -> None:
        if self._packets is None:
            return
        try:
            self._packets.sendto(self._envelope.pack(output.payload), (output.address, output.port))
            self._packets_out += 1
        except OSError as error:  # no route, a full buffer, another address family: lost, as packets may be
            self._send_errors += 1
            log.debug("gossip.not-sent", extra={"fields": {"address": output.address, "error": str(error)}})

    def _call(self, function: Callable[[Any], Awaitable[None]], output: Output, *, always: bool = False) -> None:
        if self._nursery is not None and (always or self._calls < _CALLS_MAX):
            self._nursery.start_soon(self._counted, function, output)

    async def _counted(self, function: Callable[[Any], Awaitable[None]], output: Output) -> None:
        self._calls += 1
        try:
            await function(output)
        finally:
            self._calls -= 1
        self._act()

    async def _ack_over_tcp(self, name: str, place: tuple[str, int], number: int = 0) -> Ack | None:
        try:
            answer = await ask(self._envelope, place, Ping(number, name, self.name), timeout_s=_PING_TIMEOUT_S)
        except Unanswered as error:
            log.debug("gossip.no-ack", extra={"fields": {"member": name, "error": str(error)}})
            return None
        return answer if isinstance(answer, Ack) and answer.source == name else None

    async def _tcp_ping(self, wanted: TcpPing) -> None:
        ack = await self._ack_over_tcp(wanted.name, (wanted.address, wanted.port), wanted.number)
        if ack is not None:
            self._machine.acked(trio.current_time(), ack)

    async def _challenge(self, wanted: Challenge) -> None:
        place = (wanted.address, wanted.port)
        ack = await self._ack_over_tcp(self.name, place)
        self._machine.challenged(trio.current_time(), place, ack)

    async def _call_for(self, wanted: CallFor) -> None:
        place = (wanted.address, wanted.port)
        trouble = await self._exchange(place, join=False)
        if trouble:
            log.debug("gossip.no-exchange", extra={"fields": {"address": places.show(place), "error": trouble}})

    # --- conversations

    async def _exchange(self, place: tuple[str, int], *, join: bool) -> str:
        """Exchanges everything with the agent there; why that did not happen, or ""."""
        question = self._machine.exchange(trio.current_time(), join=join)
        try:
            answer = await ask(self._envelope, place, question, timeout_s=_JOIN_TIMEOUT_S)
        except Unanswered as error:
            return str(error)
        if isinstance(answer, Refusal):
            return answer.sentence
        if not isinstance(answer, Exchange):
            return "it gave an answer to another question"
        refusal = self._refusal(answer)
        if refusal is None:
            self._machine.merge(trio.current_time(), answer, join=join)
            self._act()
        return refusal or ""

    def _refusal(self, heard: Exchange) -> str | None:
        """Why this agent does not want the other one, by the agent's own rule."""
        member = _own_word(heard)
        if member is None:
            return "its answer does not say who it is"
        return self._accept(member) if self._accept is not None else None

    async def _answer(self, question: Spoken, place: tuple[str, int]) -> Spoken | None:
        """The answer to what another agent asks over TCP; None closes the connection."""
        match question:
            case Ping():
                return self._machine.ack(question.number) if question.target == self.name else None
            case Exchange():
                return await self._answer_exchange(question)
            case KeyOrder():
                return await self._orders.carry_out(question)
            case _:
                return None

    async def _answer_exchange(self, question: Exchange) -> Spoken:
        refusal = self._refusal(question) or await self._name_taken(question)
        if refusal:
            self._complaints.say(trio.current_time(), question.source, refusal, event="gossip.join-refused")
            return Refusal(refusal)
        self._machine.merge(trio.current_time(), question)
        self._act()
        return self._machine.exchange(trio.current_time(), join=False)

    async def _name_taken(self, question: Exchange) -> str | None:
        """Whether another living agent has the asker's name. Where that one is silent, its place is free."""
        if question.source == self.name:
            taken = question.instance != self._machine.instance
            return f"the name {self.name} is taken: the agent that was asked has it itself" if taken else None
        known, member = self._machine.member(question.source), _own_word(question)
        if known is None or member is None or known.status not in (ALIVE, SUSPECT):
            return None
        place = (known.address, known.port)
        if place == (member.address, member.port):
            return None
        ack = await self._ack_over_tcp(known.name, place)
        if ack is None:
            self._machine.vacate(trio.current_time(), known.name)
        elif ack.instance != question.instance:
            return f"the name {known.name} is taken by another living agent at {places.show(place)}"
        return None

    # --- contract.Gossip

    @property
    def changes(self) -> int:
        """Rises whenever a member, its status, tags or health changed."""
        return self._machine.changes

    async def wait_changes(self, after: int) -> int:
        """Waits until ``changes`` is beyond ``after``; returns it."""
        while self.changes <= after:
            await self._changed.wait()
        return self.changes

    def members(self) -> list[Member]:
        """Everybody known, sorted by name."""
        return self._machine.members()

    def member(self, name: str) -> Member | None:
        """One of them."""
        return self._machine.member(name)

    async def join(self, addresses: list[str]) -> tuple[int, list[str]]:
        """Exchanges members with these agents; how many answered, and a sentence for each that did not. A host name
        stands for every address that it has; one of them has to answer."""
        failures: dict[str, str] = {}
        async with trio.open_nursery() as nursery:
            for address in dict.fromkeys(addresses):
                nursery.start_soon(self._join_one, address, failures)
        return len(set(addresses)) - len(failures), [failures[a] for a in dict.fromkeys(addresses) if a in failures]

    async def _join_one(self, address: str, failures: dict[str, str]) -> None:
        try:
            host, port = places.parse(address)
            found = await places.resolve(host, port)
        except (OSError, UnicodeError, Invalid) as error:
            failures[address] = f"cannot join {address}: {error}"
            return
        troubles = [await self._exchange(place, join=True) for place in found]
        if all(troubles):
            failures[address] = f"cannot join {address}: {troubles[0]}"

    async def leave(self) -> None:
        """Tells everybody that this agent goes, and returns once the word has had time to spread."""
        self._machine.leave(trio.current_time())
        self._act()
        with trio.move_on_after(_LEAVE_TIMEOUT_S):
            await self._gone.wait()
            await trio.sleep(self._settings.gossip_s * self._settings.transmit_limit(len(self.members())) / 2)

    def force_leave(self, name: str, *, prune: bool = False) -> bool:
        """Declares a failed member as gone on purpose."""
        known = self._machine.force_leave(trio.current_time(), name, prune=prune)
        self._act()
        return known

    def confirm(self, name: str) -> None:
        """Probes a member at once."""
        self._machine.confirm(trio.current_time(), name)
        self._act()

    def answered(self, name: str) -> float | None:
        """When another member last answered."""
        return self._machine.answered(name)

    def set_tags(self, tags: dict[str, str]) -> None:
        """This agent's tags from now on. Raises Invalid when they do not fit into a packet."""
        self._machine.set_tags(trio.current_time(), tags)
        self._act()

    def set_health(self, health: Health) -> None:
        """This agent's health digest from now on."""
        self._machine.set_health(trio.current_time(), health)
        self._act()

    def send_event(self, event: UserEvent) -> None:
        """Tells everybody, this agent among them. Raises Invalid when it is larger than a packet takes."""
        self._machine.send_event(trio.current_time(), event)
        self._act()

    async def keyring(self, action: str, key: str = "") -> KeyringReport:
        """Carries out an order about keys here, and then at every member that takes part. Raises Invalid when this
        agent's own keyring refuses; nobody else was asked then."""
        others = [m for m in self.members() if m.name != self.name and m.status in (ALIVE, SUSPECT)]
        return await self._orders.everywhere(self.name, others, KeyOrder(action, key))

    def statistics(self) -> Statistics:
        """Figures since the start."""
        return Statistics(
            members=len(self.members()),
            awareness=self._machine.awareness,
            packets_in=self._packets_in,
            packets_out=self._packets_out,
            send_errors=self._send_errors,
            refused=msgspec.structs.asdict(self._envelope.refusals),
            conversations_turned_away=self._listener.turned_away,
            conversations_broken=self._listener.broken,
            counters=msgspec.structs.asdict(self._machine.counters),
        )

    async def _keep_sampling(self, sample: Callable[[], Health]) -> None:
        while True:
            self.set_health(await trio.to_thread.run_sync(sample))
            await trio.sleep(_SAMPLE_EVERY_S)


def _own_word(heard: Exchange) -> Member | None:
    """Who an exchange comes from, as it says itself."""
    for state in heard.states:
        if state.name == heard.source:
            return Member(name=state.name, address=state.address, port=state.port, tags=state.tags)
    return None
