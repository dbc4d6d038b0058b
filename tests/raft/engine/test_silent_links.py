"""Streams between servers on which nothing is said: kept while both ends live, closed when one only pretends to."""

from __future__ import annotations

import struct

import msgspec
import pytest
import trio
import trio.testing

from nomadpy.raft import links as links_module
from nomadpy.raft.links import KEEPALIVE_S, STALLED_S, UNPROMISED_SILENCE_S, Hello, Links
from nomadpy.raft.messages import Message, Vote, encode


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


class End:
    """One server's links; what it heard, whom it lost, and the streams that it dialed."""

    def __init__(self, name: str) -> None:
        self.heard: list[Message] = []
        self.lost: list[str] = []
        self.dialed: list[trio.abc.Stream] = []
        self.links = Links(name, connect=self._connect, receive=self._receive, lost=self._lost, cluster_id="c")

    async def _connect(self, peer: str) -> trio.abc.Stream:
        ours, theirs = trio.testing.lockstep_stream_pair()
        self.dialed.append(theirs)
        return ours

    async def _receive(self, _sender: str, message: Message) -> None:
        self.heard.append(message)
        await trio.lowlevel.checkpoint()

    async def _lost(self, server: str) -> None:
        self.lost.append(server)
        await trio.lowlevel.checkpoint()

    async def serve(self, stream: trio.abc.Stream) -> None:
        await self.links.serve(stream, allowed=lambda _name: True)


@pytest.mark.parametrize(
    ("hello", "silence_s"),
    [(["h", "b", "c", 2.0], 6), (["h", "b", "c", 1e9], UNPROMISED_SILENCE_S), (["h", "b", "c"], UNPROMISED_SILENCE_S)],
)
async def test_who_says_nothing_is_let_go(
    hello: list[object], silence_s: float, autojump_clock: trio.testing.MockClock
) -> None:
    end = End("a")
    ours, theirs = trio.testing.memory_stream_pair()
    vote = framed(encode(Vote(3)))
    with trio.fail_after(10 * silence_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.serve, ours)
            await theirs.send_all(framed(msgspec.msgpack.encode(hello)) + vote)
            await trio.sleep(silence_s - 1)
            # Half a frame is a sign of life, but not a second one.
            await theirs.send_all(vote + vote[:3])
            said_at = trio.current_time()
    assert trio.current_time() == said_at + silence_s
    assert end.heard == [Vote(3), Vote(3)]
    assert end.lost == ["b"]
    with pytest.raises(trio.BrokenResourceError):
        await theirs.send_all(vote)


async def test_a_stream_with_nothing_to_say_stays_open(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    speaks, hears = End("a"), End("b")
    await nursery.start(speaks.links.run)
    speaks.links.send("b", Vote(3))
    await trio.sleep(1)
    nursery.start_soon(hears.serve, speaks.dialed[0])
    await trio.sleep(50 * KEEPALIVE_S)
    speaks.links.send("b", Vote(4))
    await trio.sleep(1)
    assert (hears.heard, hears.lost, len(speaks.dialed)) == ([Vote(4)], [], 1), "the first one came before the stream"
    nursery.cancel_scope.cancel()


async def test_who_does_not_read_is_let_go(autojump_clock: trio.testing.MockClock, nursery: trio.Nursery) -> None:
    end = End("a")
    await nursery.start(end.links.run)
    end.links.send("b", Vote(3))
    await trio.sleep(1)
    assert await end.dialed[0].receive_some()
    await trio.sleep(1)
    end.links.send("b", Vote(4))
    await trio.sleep(STALLED_S - 2)
    assert len(end.dialed) == 1
    await trio.sleep(3)
    assert len(end.dialed) == 2
    nursery.cancel_scope.cancel()


async def test_much_is_sent_as_long_as_some_of_it_moves(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links_module, "_SEND_BYTES", 10)
    end = End("a")
    await nursery.start(end.links.run)
    end.links.send("b", Vote(3))
    await trio.sleep(1)
    got = await end.dialed[0].receive_some()
    await trio.sleep(1)
    for term in range(4, 40):
        end.links.send("b", Vote(term))
    for _ in range(12):
        await trio.sleep(STALLED_S * 0.9)
        got += await end.dialed[0].receive_some(10)
    assert len(end.dialed) == 1
    hello = framed(msgspec.msgpack.encode(Hello("a", "c", KEEPALIVE_S)))
    assert got == (hello + b"".join(framed(encode(Vote(term))) for term in range(4, 40)))[: len(got)]
    nursery.cancel_scope.cancel()
