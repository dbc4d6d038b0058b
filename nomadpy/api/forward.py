"""Requests that another agent has to answer: how that is said, and the ways there.

An operation says where it belongs (``Operation.at``); one about a node's own things finds that out while it works, and
raises ``Elsewhere``. Either way the router passes the whole request on, and the other agent's router answers it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from starlette.types import Message, Receive, Scope, Send

Way: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

LEADER, SERVER, AGENT = "leader", "server", "agent"
"""Where an operation is answered: by the leader, by any server, or by the agent that was asked."""


class Elsewhere(Exception):
    """The request belongs to the leader, to any server, to the agent of ``node_id``, or to one ``server`` (a member's
    name, an id, or ``leader``). Nothing was done yet."""

    def __init__(self, place: str, node_id: str = "", server: str = "") -> None:
        super().__init__(place)
        self.place = place
        self.node_id = node_id
        self.server = server


class Forwarding(Protocol):
    """The ways from this agent to others. Each raises NomadError with the reason when there is none."""

    async def to_leader(self) -> Way:
        """Waits a moment for a leader when there is none. Raises NoLeader."""

    async def to_server(self) -> Way:
        """Any server. Raises NoLeader when none answers."""

    async def to_node(self, node_id: str) -> Way:
        """The agent of a node. Raises NotFound when no server has a connection to it."""

    async def to_peer(self, server: str) -> Way:
        """One server by its member's name, its id, or as ``leader``. Raises NomadError (500) when it is unknown."""

    def contact(self) -> tuple[bool, int]:
        """Whether a leader is known, and how many milliseconds ago it was heard; 0 on the leader itself."""


class Heard:
    """What a request has said so far, so that another agent can be told all of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []

    async def __call__(self) -> Message:
        """The next message."""
        message = await self._receive()
        self._messages.append(message)
        return message

    def again(self) -> Receive:
        """The same messages from the first one on, then those that follow."""
        told = list(self._messages)

        async def receive() -> Any:
            return told.pop(0) if told else await self()

        return receive
