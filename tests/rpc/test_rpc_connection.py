"""Requests between two agents over real sockets: answers, errors, deadlines, cancellation, lost peers."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from wires import CLIENT_HELLO, ECHO, SERVER_HELLO, SLEEP, TALK, Text, tcp_pair, wire

from nomadpy.model import errors
from nomadpy.model.errors import Bug, Forbidden, Invalid, NoLeader, NomadError, OutcomeUnknown, TimedOut, Unavailable
from nomadpy.raft.wal import WalPoisoned
from nomadpy.rpc import frames as f
from nomadpy.rpc.connection import Connection, Counters, Timing
from nomadpy.rpc.frames import Limits
from nomadpy.rpc.handlers import Handlers, NotConnected, UnknownMethod, Word
from nomadpy.rpc.streams import MessageStream


async def _echo(params: Text, caller: Connection) -> Text:
    return params


class Sleeper:
    """A handler that never answers, and remembers how it ended."""

    def __init__(self) -> None:
        self.started = trio.Event()
        self.cancelled = trio.Event()

    async def __call__(self, params: Text, caller: Connection) -> Text:
        self.started.set()
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        raise AssertionError


def _handlers(**named: Any) -> Handlers:
    handlers = Handlers()
    handlers.on(ECHO, named.get("echo", _echo))
    handlers.on(SLEEP, named.get("sleep", Sleeper()))
    return handlers


async def test_both_ends_may_ask() -> None:
    async with wire(_handlers(), back=_handlers()) as both:
        assert await both.client.call(ECHO, Text("up"), timeout_s=5) == Text("up")
        assert await both.server.call(ECHO, Text("down"), timeout_s=5) == Text("down")
        assert (both.server.peer.role, both.server.peer.id) == ("client", CLIENT_HELLO.id)
        assert (both.client.peer.role, both.client.peer.name) == ("server", SERVER_HELLO.name)


async def test_many_requests_at_once_each_get_their_own_answer() -> None:
    answers = {}
    async with wire(_handlers()) as both:

        async def ask(number: int) -> None:
            answers[number] = await both.client.call(ECHO, Text(str(number)), timeout_s=10)

        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(ask, number)
    assert answers == {number: Text(str(number)) for number in range(300)}


async def test_long_requests_and_answers_arrive_whole() -> None:
    data = bytes(range(256)) * 20_000
    async with wire(_handlers()) as both:
        assert (await both.client.call(ECHO, Text(data=data), timeout_s=20)).data == data


ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, NomadError)]


@pytest.mark.parametrize("kind", [kind for kind in ALL_ERRORS if kind is not Bug])
async def test_errors_arrive_as_what_they_were(kind: type[NomadError]) -> None:
    async def refuse(params: Text, caller: Connection) -> Text:
        error = kind("no such thing")
        error.status = 418
        raise error

    async with wire(_handlers(echo=refuse)) as both:
        with pytest.raises(NomadError) as caught:
            await both.client.call(ECHO, Text(), timeout_s=5)
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.status) == ("no such thing", 418)


async def test_an_error_of_another_room_arrives_as_the_nearest_known_one() -> None:
    class LogFull(Unavailable):
        code = "log-full"

    async def refuse(params: Text, caller: Connection) -> Text:
        raise LogFull("no space") if params.text == "full" else WalPoisoned("disk")

    async with wire(_handlers(echo=refuse)) as both:
        with pytest.raises(Unavailable, match="no space"):
            await both.client.call(ECHO, Text("full"), timeout_s=5)
        with pytest.raises(NomadError, match="disk"):
            await both.client.call(ECHO, Text(), timeout_s=5)


@pytest.mark.parametrize("fault", [ZeroDivisionError("private"), Bug("an invariant broke")])
async def test_a_fault_in_a_handler_is_logged_and_the_connection_lives(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(params: Text, caller: Connection) -> Text:
        if params.text == "fail":
            raise fault
        return params

    counters = Counters()
    with caplog.at_level(logging.ERROR):
        async with wire(_handlers(echo=fail), counters=counters) as both:
            with pytest.raises(NomadError) as caught:
                await both.client.call(ECHO, Text("fail"), timeout_s=5)
            assert await both.client.call(ECHO, Text("fine"), timeout_s=5) == Text("fine")
    assert (type(caught.value), caught.value.status) == (NomadError, 500)
    if isinstance(fault, ZeroDivisionError):
        assert "private" not in caught.value.message
        assert caplog.records[0].exc_info is not None
        assert counters.n_handler_faults == 1


async def test_the_single_error_of_a_handlers_nursery_is_that_error() -> None:
    async def refuse() -> None:
        raise Forbidden("not you")

    async def in_nursery(params: Text, caller: Connection) -> Text:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
        return params

    async with wire(_handlers(echo=in_nursery)) as both:
        with pytest.raises(Forbidden, match="not you"):
            await both.client.call(ECHO, Text(), timeout_s=5)


async def test_unknown_methods_and_foreign_parameters_are_refused_clearly() -> None:
    class Newer(msgspec.Struct):
        text: str = ""
        added: int = 7

    class Other(msgspec.Struct):
        text: int = 5

    async with wire(_handlers()) as both:
        with pytest.raises(UnknownMethod, match=r"unknown method .Test.Nothing.*version"):
            await both.client.call(Word("Test.Nothing", Text, Text), Text(), timeout_s=5)
        newer: Word[Newer, Newer] = Word("Test.Echo", Newer, Newer)
        assert await both.client.call(newer, Newer("known", 9), timeout_s=5) == Newer("known", 7)
        other: Word[Other, Text] = Word("Test.Echo", Other, Text)
        with pytest.raises(Invalid, match=r"Test.Echo: the parameters .*\.text"):
            await both.client.call(other, Other(), timeout_s=5)
        foreign: Word[Text, Other] = Word("Test.Echo", Text, Other)
        with pytest.raises(Unavailable, match="the answer cannot be understood"):
            await both.client.call(foreign, Text("x"), timeout_s=5)


async def test_a_request_that_takes_too_long_is_cancelled_at_both_ends() -> None:
    sleeper = Sleeper()
    async with wire(_handlers(sleep=sleeper)) as both:
        with pytest.raises(TimedOut):
            await both.client.call(SLEEP, Text(), timeout_s=0.05)
        await sleeper.cancelled.wait()
        assert await both.client.call(ECHO, Text("on"), timeout_s=5) == Text("on")


async def test_the_handlers_deadline_is_the_callers() -> None:
    async def tell(params: Text, caller: Connection) -> Text:
        left_s = trio.current_effective_deadline() - trio.current_time()
        return Text("forever" if left_s == float("inf") else "soon" if left_s <= 9 else "late")

    async with wire(_handlers(echo=tell)) as both:
        assert (await both.client.call(ECHO, Text(), timeout_s=9)).text == "soon"
        assert (await both.client.call(ECHO, Text(), timeout_s=None)).text == "forever"


async def test_a_cancelled_caller_cancels_the_handler() -> None:
    sleeper = Sleeper()
    async with wire(_handlers(sleep=sleeper)) as both:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: both.client.call(SLEEP, Text(), timeout_s=None))
                await sleeper.started.wait()
                scope.cancel()
        await sleeper.cancelled.wait()


async def test_a_peer_that_dies_in_mid_call_leaves_the_outcome_open() -> None:
    sleeper = Sleeper()
    async with wire(_handlers(sleep=sleeper)) as both:
        async with trio.open_nursery() as nursery:

            async def kill() -> None:
                await sleeper.started.wait()
                both.server.close("the power went")

            nursery.start_soon(kill)
            with pytest.raises(OutcomeUnknown, match="server-1 was lost"):
                await both.client.call(SLEEP, Text(), timeout_s=10)
        await sleeper.cancelled.wait()
        with pytest.raises(NotConnected):
            await both.client.call(ECHO, Text(), timeout_s=10)


async def test_an_unwelcome_peer_is_told_why() -> None:
    dialed, accepted = await tcp_pair()

    def admit(peer: object) -> None:
        raise Forbidden("the certificate is not one of a server")

    client = Connection(dialed, hello=CLIENT_HELLO, handlers=Handlers(), dialed=True)
    server = Connection(accepted, hello=SERVER_HELLO, handlers=Handlers(), dialed=False, admit=admit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(server.run)
        assert "not one of a server" in await client.closed()
        with pytest.raises(NotConnected, match="not one of a server"):
            await server.ready()


async def test_too_many_requests_of_one_peer_are_refused() -> None:
    sleeper = Sleeper()
    async with wire(_handlers(sleep=sleeper), limits=Limits(requests=1)) as both, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: both.client.call(SLEEP, Text(), timeout_s=None))
        await sleeper.started.wait()
        with pytest.raises(Unavailable, match="more than 1 requests"):
            await both.client.call(ECHO, Text(), timeout_s=5)
        nursery.cancel_scope.cancel()


async def test_a_silent_peer_is_left_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    counters = Counters()
    connection = Connection(
        ours, hello=CLIENT_HELLO, handlers=Handlers(), dialed=True, counters=counters, timing=Timing(silence_s=15)
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await theirs.send_all(f.pack(SERVER_HELLO))
        await connection.ready()
        started = trio.current_time()
        assert "no sign of life" in await connection.closed()
        assert 10 <= trio.current_time() - started <= 25
    assert counters.n_silent == 1


async def test_an_idle_connection_stays_open(autojump_clock: trio.testing.MockClock) -> None:
    async with wire(_handlers(), streams=trio.testing.memory_stream_pair()) as both:
        await trio.sleep(3600)
        assert await both.client.call(ECHO, Text("still"), timeout_s=5) == Text("still")


async def test_a_peer_that_does_not_introduce_itself_is_left(autojump_clock: trio.testing.MockClock) -> None:
    ours, _theirs = trio.testing.memory_stream_pair()
    connection = Connection(ours, hello=SERVER_HELLO, handlers=Handlers(), dialed=False)
    await connection.run()
    assert "did not introduce itself" in connection.close_reason
    assert trio.current_time() <= 6


async def test_a_peer_that_never_reads_is_left(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def stuck(data: object) -> None:
        await trio.sleep_forever()

    async def lively() -> None:
        while not connection.close_reason:
            await theirs.send_all(f.pack(f.Pong()))
            await trio.sleep(1)

    ours.send_stream.send_all = stuck  # type: ignore[method-assign]
    connection = Connection(ours, hello=SERVER_HELLO, handlers=Handlers(), dialed=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await theirs.send_all(f.pack(CLIENT_HELLO))
        await connection.ready()
        nursery.start_soon(lively)
        await connection.closed()
    assert trio.current_time() <= 60


async def test_half_an_answer_that_nobody_waits_for_any_more_is_forgotten() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    limits = Limits(assembling_bytes=50_000)
    connection = Connection(ours, hello=CLIENT_HELLO, handlers=Handlers(), dialed=True, limits=limits)
    half = b"x" * 30_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        await theirs.send_all(f.pack(SERVER_HELLO))
        await connection.ready()
        for ident in (1, 3, 5):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as calling:
                    calling.start_soon(lambda: connection.call(ECHO, Text(), timeout_s=None))
                    await trio.testing.wait_all_tasks_blocked()
                    await theirs.send_all(f.pack(f.Part(ident, half)))
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
            await theirs.send_all(f.pack(f.Part(ident, half)))
            await trio.testing.wait_all_tasks_blocked()
        assert connection.is_open, connection.close_reason
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\x7f",
        b"\x02\x00\x00\x00\xc1\xc1",
        f.pack(f.Ping()),
        f.pack(CLIENT_HELLO) + f.pack(CLIENT_HELLO),
        f.pack(CLIENT_HELLO) + f.pack(f.Request(2, "Test.Echo", 0, msgspec.Raw(b"\xc0"))),
        f.pack(CLIENT_HELLO) + f.pack(f.Cancel(2)),
        f.pack(CLIENT_HELLO) + f.pack(f.Part(1, f.pack(f.Ping())[4:], last=True)),
        f.pack(CLIENT_HELLO)
        + f.pack(f.Open(1, "Test.Talk", msgspec.Raw(b"\x80")))
        + f.pack(f.Data(1, b"x" * 90_000)) * 4,
    ],
    ids=["http", "empty", "huge", "garbage", "no hello", "twice", "our id", "our call", "odd part", "no credit"],
)
async def test_strangers_are_counted_and_left(data: bytes) -> None:
    async def ignore(params: Text, stream: MessageStream, caller: Connection) -> None:
        await trio.sleep_forever()

    dialed, accepted = await tcp_pair()
    counters, handlers = Counters(), _handlers()
    handlers.on_stream(TALK, ignore)
    server = Connection(accepted, hello=SERVER_HELLO, handlers=handlers, dialed=False, counters=counters)
    async with dialed, trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        await dialed.send_all(data)
        with contextlib.suppress(trio.BrokenResourceError):
            while await dialed.receive_some():
                pass
        await server.closed()
    assert counters.n_malformed == 1


async def test_an_old_version_is_refused_with_both_versions_named() -> None:
    dialed, accepted = await tcp_pair()
    client = Connection(
        dialed, hello=msgspec.structs.replace(CLIENT_HELLO, version=0), handlers=Handlers(), dialed=True
    )
    server = Connection(accepted, hello=SERVER_HELLO, handlers=Handlers(), dialed=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        nursery.start_soon(server.run)
        assert "protocol version 0" in await client.closed()


async def test_no_leader_keeps_its_words() -> None:
    async def refuse(params: Text, caller: Connection) -> Text:
        raise NoLeader

    async with wire(_handlers(echo=refuse)) as both:
        with pytest.raises(NoLeader, match="No cluster leader"):
            await both.client.call(ECHO, Text(), timeout_s=5)


async def test_very_many_requests_at_once_are_begun_some_at_a_time() -> None:
    """Others have their turn in between, and so have the first ones."""
    counters, begun_at = Counters(), []

    async def note(params: Text, caller: Connection) -> Text:
        begun_at.append(counters.n_calls)
        return params

    handlers = Handlers()
    handlers.on(ECHO, note)
    ours, theirs = trio.testing.memory_stream_pair()
    requests = [f.Request(2 * n + 1, ECHO.name, 0.0, ECHO.encode(Text("x"))) for n in range(300)]
    await ours.send_all(f.pack(CLIENT_HELLO) + b"".join(map(f.pack, requests)))
    async with trio.open_nursery() as nursery:
        connection = Connection(theirs, hello=SERVER_HELLO, handlers=handlers, dialed=False, counters=counters)
        nursery.start_soon(connection.run)
        while len(begun_at) < 300:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert begun_at[0] <= 64
    assert begun_at == sorted(begun_at)
