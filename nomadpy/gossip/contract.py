"""What the rest of an agent knows of gossip: members, what happened to them, and what can be asked for."""

from __future__ import annotations

from typing import Protocol

import trio

from nomadpy.model.naming import Noun

ALIVE, SUSPECT, FAILED, LEAVING, LEFT = "alive", "suspect", "failed", "leaving", "left"


class Health(Noun):
    """How a member's machine is doing, as it says itself. Shares are 0–1; pressure is the kernel's "some avg10" share
    of time, -1 where it is not measured. ``drivers`` names the task drivers that are not healthy."""

    cpu: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    io_pressure: float = -1.0
    drivers: tuple[str, ...] = ()


class Member(Noun):
    """An agent that gossip knows. ``status`` is one of the words above; ``since`` is the monotonic second at which this
    agent learnt of that status."""

    name: str
    address: str = ""
    port: int = 0
    status: str = ALIVE
    incarnation: int = 0
    tags: dict[str, str] = {}
    health: Health | None = None
    since: float = 0.0

    @property
    def is_server(self) -> bool:
        """Whether it is a server (Nomad's role tag)."""
        return self.tags.get("role") == "nomad"


class UserEvent(Noun):
    """A small message that everybody hears, its sender too; once for each start of an agent."""

    name: str = ""
    payload: bytes = b""
    sender: str = ""


class KeyringReport(Noun):
    """What came of an order about gossip keys: key → how many members hold it; what went wrong by member."""

    messages: dict[str, str] = {}
    keys: dict[str, int] = {}
    primary_keys: dict[str, int] = {}
    num_nodes: int = 0


class Gossip(Protocol):
    """The gossip of one agent."""

    name: str

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Binds its port, reports started, and gossips until cancelled."""

    @property
    def changes(self) -> int:
        """Rises whenever a member, its status, tags or health changed."""

    async def wait_changes(self, after: int) -> int:
        """Waits until ``changes`` is beyond ``after``; returns it."""

    def members(self) -> list[Member]:
        """Everybody known, this agent among them, sorted by name; those who left or failed until they are reaped."""

    def member(self, name: str) -> Member | None:
        """One of them."""

    async def join(self, addresses: list[str]) -> tuple[int, list[str]]:
        """Exchanges members with the agents at ``host:port`` (or ``host``); returns how many answered, and one sentence
        for each that did not."""

    async def leave(self) -> None:
        """Tells everybody that this agent goes away on purpose, and returns once the word has had time to spread."""

    def force_leave(self, name: str, *, prune: bool = False) -> bool:
        """Declares a failed member as gone on purpose (with ``prune`` it is forgotten at once). False when it is
        unknown. A member that is alive contradicts and stays."""

    def confirm(self, name: str) -> None:
        """A hint from elsewhere that a member may be dead (its connection broke): it is probed at once, out of turn."""

    def answered(self, name: str) -> float | None:
        """The monotonic second at which another member last answered a probe of this agent; minus infinity when it
        never did, None when it is not asked: unknown, or this agent itself."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """This agent's tags from now on."""

    def set_health(self, health: Health) -> None:
        """This agent's health digest from now on; it travels with the probes."""

    def send_event(self, event: UserEvent) -> None:
        """Tells everybody. Raises Invalid when it is larger than a packet takes."""

    async def keyring(self, action: str, key: str = "") -> KeyringReport:
        """``list``, ``install``, ``use`` or ``remove`` a key (base64 of 16, 24 or 32 bytes) everywhere. Raises Invalid
        when this agent's own keyring refuses it (nobody else was asked then)."""
