"""Two agents joined by a wire, for tests: in memory or over a real loopback socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import trio
import trio.testing

from nomadpy.rpc.connection import Connection, Counters, Timing
from nomadpy.rpc.frames import Hello, Limits
from nomadpy.rpc.handlers import Handlers, Word

CLIENT_HELLO = Hello(role="client", name="node-1", id="11111111-0000", region="global", build="1.0")
SERVER_HELLO = Hello(role="server", name="server-1", id="22222222-0000", region="global", build="1.0")


class Text(msgspec.Struct, frozen=True):
    """Parameters and results of the tests' methods."""

    text: str = ""
    data: bytes = b""


ECHO: Word[Text, Text] = Word("Test.Echo", Text, Text)
SLEEP: Word[Text, Text] = Word("Test.Sleep", Text, Text)
TALK: Word[Text, None] = Word("Test.Talk", Text, type(None))


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """The two ends of a loopback connection."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialed = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        return dialed, await listener.accept()


class Wire:
    """A connection seen from both of its ends."""

    def __init__(self, client: Connection, server: Connection, nursery: trio.Nursery) -> None:
        self.client, self.server, self.nursery = client, server, nursery


@asynccontextmanager
async def wire(
    handlers: Handlers,
    *,
    back: Handlers | None = None,
    streams: tuple[Any, Any] | None = None,
    limits: Limits | None = None,
    timing: Timing | None = None,
    counters: Counters | None = None,
) -> AsyncIterator[Wire]:
    """``handlers`` answer at the server's end, ``back`` at the client's."""
    dialed, accepted = streams or await tcp_pair()
    client = Connection(
        dialed, hello=CLIENT_HELLO, handlers=back or Handlers(), dialed=True, limits=limits, timing=timing
    )
    server = Connection(
        accepted,
        hello=SERVER_HELLO,
        handlers=handlers,
        dialed=False,
        limits=limits,
        timing=timing,
        counters=counters,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(server.run)
        await client.ready()
        await server.ready()
        yield Wire(client, server, nursery)
        nursery.cancel_scope.cancel()
