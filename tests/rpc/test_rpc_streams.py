"""Streams of messages inside a connection: order, credit, ends, faults, and fairness between them."""

from __future__ import annotations

import pytest
import trio
from wires import ECHO, TALK, Text, wire

from nomadpy.model.errors import NotFound, Unavailable
from nomadpy.rpc.connection import Connection
from nomadpy.rpc.frames import Limits, Outbox
from nomadpy.rpc.handlers import Handlers, StreamEnded, UnknownMethod, Word
from nomadpy.rpc.streams import MessageStream


async def _echo(params: Text, caller: Connection) -> Text:
    return params


async def _mirror(params: Text, stream: MessageStream, caller: Connection) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(params.data + message)


def _handlers(talk: object = _mirror) -> Handlers:
    handlers = Handlers()
    handlers.on(ECHO, _echo)
    handlers.on_stream(TALK, talk)  # type: ignore[arg-type]
    return handlers


async def test_messages_come_back_in_order_and_keep_their_bounds() -> None:
    messages = [b"", b"a", b"x" * 100_000, b"", b"y" * 1_000_000, b"end"]
    got = []
    async with wire(_handlers()) as both, both.client.open(TALK, Text(data=b">")) as stream:
        async with trio.open_nursery() as nursery:

            async def speak() -> None:
                for message in messages:
                    await stream.send(message)
                await stream.end()

            nursery.start_soon(speak)
            while (message := await stream.receive()) is not None:
                got.append(message)
        assert await stream.receive() is None
    assert got == [b">" + message for message in messages]


async def test_the_accepting_end_may_open_streams_too() -> None:
    async with wire(Handlers(), back=_handlers()) as both, both.server.open(TALK, Text()) as stream:
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_a_handlers_error_comes_after_what_it_sent() -> None:
    async def fail(params: Text, stream: MessageStream, caller: Connection) -> None:
        await stream.send(b"first")
        raise NotFound("Unknown allocation")

    async with wire(_handlers(fail)) as both, both.client.open(TALK, Text()) as stream:
        assert await stream.receive() == b"first"
        with pytest.raises(NotFound, match="Unknown allocation"):
            await stream.receive()
        with pytest.raises(NotFound):
            await stream.send(b"too late")


async def test_unknown_streams_are_refused() -> None:
    async with wire(Handlers()) as both, both.client.open(Word("Test.No", Text, type(None)), Text()) as stream:
        with pytest.raises(UnknownMethod):
            await stream.receive()


async def test_leaving_a_stream_cancels_its_handler() -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def forever(params: Text, stream: MessageStream, caller: Connection) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with wire(_handlers(forever)) as both:
        async with both.client.open(TALK, Text()):
            await started.wait()
        await cancelled.wait()


async def test_sending_to_a_handler_that_has_returned_says_so() -> None:
    async def leave(params: Text, stream: MessageStream, caller: Connection) -> None:
        await stream.receive()

    async with wire(_handlers(leave)) as both, both.client.open(TALK, Text()) as stream:

        async def flood() -> None:
            while True:
                await stream.send(b"z" * 50_000)

        with pytest.raises(StreamEnded):
            await flood()


async def test_a_lost_connection_ends_its_streams() -> None:
    async with wire(_handlers()) as both, both.client.open(TALK, Text()) as stream:
        await stream.send(b"a")
        assert await stream.receive() == b"a"
        both.server.close("gone")
        with pytest.raises(Unavailable, match="was lost"):
            await stream.receive()


async def test_a_slow_reader_stops_its_sender_and_nobody_else() -> None:
    taken, may_go_on = 0, trio.Event()

    async def slow(params: Text, stream: MessageStream, caller: Connection) -> None:
        await may_go_on.wait()
        await _mirror(params, stream, caller)

    async with wire(_handlers(slow), limits=Limits(window_bytes=1 << 17)) as both:  # noqa: SIM117
        async with both.client.open(TALK, Text()) as stream, trio.open_nursery() as nursery:

            async def flood() -> None:
                nonlocal taken
                for _ in range(100):
                    await stream.send(b"x" * 10_000)
                    taken += 1
                await stream.end()

            nursery.start_soon(flood)
            for _ in range(50):
                await both.client.call(ECHO, Text(), timeout_s=5)
            assert 10 <= taken <= 13
            may_go_on.set()
            got = 0
            while await stream.receive() is not None:
                got += 1
    assert got == 100


async def test_a_cut_off_message_poisons_only_its_stream() -> None:
    problems = []

    async def slow(params: Text, stream: MessageStream, caller: Connection) -> None:
        try:
            while await stream.receive() is not None:
                pass
        except Unavailable as error:
            problems.append(error.message)
            raise

    gate = trio.Event()

    async def late(params: Text, stream: MessageStream, caller: Connection) -> None:
        await gate.wait()
        await slow(params, stream, caller)

    async with wire(_handlers(late)) as both:
        async with both.client.open(TALK, Text()) as stream:
            with trio.move_on_after(0.02):
                await stream.send(b"x" * 2_000_000)
            with pytest.raises(StreamEnded, match="cut off"):
                await stream.send(b"more")
            await stream.end()
            gate.set()
            with pytest.raises(Unavailable):
                await stream.receive()
        assert await both.client.call(ECHO, Text("lives"), timeout_s=5) == Text("lives")
    assert problems


async def test_a_flood_does_not_hold_up_a_heartbeat() -> None:
    """The heartbeat is answered while most of what was queued before it is still under way."""
    n_received = 0

    async def pour(params: Text, stream: MessageStream, caller: Connection) -> None:
        for _ in range(400):
            await stream.send(b"x" * 30_000)

    async with wire(_handlers(pour)) as both, trio.open_nursery() as nursery:

        async def drink() -> None:
            nonlocal n_received
            async with both.client.open(TALK, Text()) as stream:
                while await stream.receive() is not None:
                    n_received += 1

        for _ in range(4):
            nursery.start_soon(drink)
        while n_received < 5:
            await trio.lowlevel.checkpoint()
        before = n_received
        await both.client.call(ECHO, Text(), timeout_s=30)
        # Four windows of a quarter MiB may be on their way, and as much again may follow meanwhile.
        assert n_received - before < 200
    assert n_received == 1600


def test_queues_take_turns_and_short_frames_go_first() -> None:
    outbox = Outbox()
    outbox.put_in_turn(1, [b"a1", b"a2", b"a3"])
    outbox.put_in_turn(2, [b"b1"])
    outbox.put_in_turn(3, [b"c1", b"c2"])
    outbox.put_in_turn(1, [b"a4"])
    outbox.put(b"!")
    assert outbox.take(4) == b"!a1b1"
    outbox.put(b"?")
    outbox.forget(3)
    assert outbox.take(100) == b"?a2a3a4"
    assert not outbox
