"""Gossip over real sockets on loopback."""

from __future__ import annotations

import base64
import logging
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from nomadpy.gossip import contract, talk
from nomadpy.gossip.contract import FAILED, LEFT, Gossip, Health, Member, UserEvent
from nomadpy.gossip.driver import Gossiper
from nomadpy.gossip.envelope import FRAME_BYTES_MAX
from nomadpy.gossip.keyring import Keyring
from nomadpy.gossip.settings import GossipSettings
from nomadpy.model.errors import Invalid

LIMIT_S = 30.0
# Calm enough for a busy machine, quick enough for a test.
SETTINGS = GossipSettings(period_s=0.3, ping_timeout_s=0.15, suspicion_s=1.0)


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def address(gossiper: Gossiper) -> str:
    return f"{gossiper.place[0]}:{gossiper.place[1]}"


class Life:
    """A gossiper that runs, and can be killed without a word."""

    def __init__(self, gossiper: Gossiper) -> None:
        self.gossiper = gossiper
        self.events: list[UserEvent] = []
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await self.gossiper.run(task_status=task_status)
        self._over.set()

    async def kill(self) -> None:
        self._scope.cancel()
        await self._over.wait()


class Town:
    """Gossipers that end with the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def start(self, name: str, *, port: int = 0, encrypt: str = "", **options: object) -> Life:
        options.setdefault("keyring", Keyring.open(None, encrypt))
        options.setdefault("settings", SETTINGS)
        events: list[UserEvent] = []
        gossiper = Gossiper(name, bind=("127.0.0.1", port), on_event=events.append, **options)  # type: ignore[arg-type]
        life = Life(gossiper)
        life.events = events
        await self._nursery.start(life.run)
        return life

    async def pool(self, count: int, **options: object) -> list[Life]:
        lives = [await self.start(f"m{number}", **options) for number in range(count)]  # type: ignore[arg-type]
        for life in lives[1:]:
            assert await life.gossiper.join([address(lives[0].gossiper)]) == (1, [])
        for life in lives:
            await until(life.gossiper, lambda members: len(members) == count)
        return lives


@asynccontextmanager
async def town() -> AsyncIterator[Town]:
    async with AsyncExitStack() as stack:
        stack.enter_context(trio.fail_after(LIMIT_S))
        nursery = await stack.enter_async_context(trio.open_nursery())
        yield Town(nursery)
        nursery.cancel_scope.cancel()


async def until(gossip: Gossip, condition: Callable[[list[Member]], bool]) -> None:
    """Waits until the members are so."""
    while True:
        seen = gossip.changes
        if condition(gossip.members()):
            return
        await gossip.wait_changes(seen)


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits for something that nobody tells of."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.02)


async def until_status(life: Life, name: str, status: str) -> None:
    await until(life.gossiper, lambda members: any(m.name == name and m.status == status for m in members))


async def test_members_find_each_other_with_tags_and_health() -> None:
    async with town() as here:
        lives = await here.pool(3, tags={"role": "nomad", "region": "global"})
        lives[1].gossiper.set_tags({"role": "nomad", "region": "global", "build": "2"})
        lives[1].gossiper.set_health(Health(cpu=0.5, drivers=("docker",)))
        for life in lives:
            await until(
                life.gossiper,
                lambda members: (
                    members[1].tags.get("build") == "2"
                    and members[1].health is not None
                    and members[1].health.drivers == ("docker",)
                ),
            )
        assert [m.name for m in lives[2].gossiper.members()] == ["m0", "m1", "m2"]
        assert lives[0].gossiper.member("m2") is not None
        assert lives[0].gossiper.member("nobody") is None


async def test_a_killed_member_fails_and_comes_back_at_its_old_port() -> None:
    async with town() as here:
        lives = await here.pool(3)
        port = lives[2].gossiper.place[1]
        await lives[2].kill()
        for life in lives[:2]:
            await until_status(life, "m2", FAILED)
        again = await here.start("m2", port=port)
        assert await again.gossiper.join([address(lives[0].gossiper)]) == (1, [])
        for life in (*lives[:2], again):
            await until(life.gossiper, lambda members: [m.status for m in members] == ["alive"] * 3)


async def test_a_restarted_member_that_joins_nobody_is_called_back() -> None:
    async with town() as here:
        lives = await here.pool(3, tags={"build": "1"})
        port = lives[0].gossiper.place[1]
        await lives[0].kill()
        again = await here.start("m0", port=port, tags={"build": "2"})
        await until(again.gossiper, lambda members: len(members) == 3)
        await until(lives[1].gossiper, lambda members: members[0].tags == {"build": "2"})
        failures = [life.gossiper.statistics().counters["failures"] for life in lives[1:]]
        assert failures == [0, 0], "it was restarted at once, and not failed"


async def test_a_restarted_member_may_have_another_port() -> None:
    async with town() as here:
        lives = await here.pool(3)
        await lives[2].kill()
        again = await here.start("m2")
        assert await again.gossiper.join([address(lives[0].gossiper)]) == (1, [])
        for life in lives[:2]:
            await until(
                life.gossiper,
                lambda members: (members[2].status, members[2].port) == ("alive", again.gossiper.place[1]),
            )


async def test_leaving_is_told_apart_from_failing() -> None:
    async with town() as here:
        lives = await here.pool(3)
        await lives[1].gossiper.leave()
        await lives[1].kill()
        for life in (lives[0], lives[2]):
            await until_status(life, "m1", LEFT)
            assert life.gossiper.statistics().counters["failures"] == 0


async def test_one_that_is_alone_leaves_at_once() -> None:
    async with town() as here:
        alone = await here.start("m0")
        await alone.gossiper.leave()
        assert [m.status for m in alone.gossiper.members()] == ["leaving"]


async def test_forced_leave_ends_a_failure_and_pruning_forgets_it() -> None:
    async with town() as here:
        lives = await here.pool(4)
        assert not lives[0].gossiper.force_leave("nobody")
        await lives[2].kill()
        await lives[3].kill()
        for life in lives[:2]:
            await until(life.gossiper, lambda members: [m.status for m in members[2:]] == ["failed", "failed"])
        assert lives[0].gossiper.force_leave("m2")
        assert lives[0].gossiper.force_leave("m3", prune=True)
        for life in lives[:2]:
            await until(life.gossiper, lambda members: [m.status for m in members] == ["alive", "alive", "left"])


async def test_the_living_contradict_a_forced_leave() -> None:
    async with town() as here:
        lives = await here.pool(3)
        assert lives[0].gossiper.force_leave("m2", prune=True)
        for life in lives:
            await until(
                life.gossiper, lambda members: len(members) == 3 and members[2].incarnation > 0 and alive(members)
            )


def alive(members: list[Member]) -> bool:
    return all(member.status == contract.ALIVE for member in members)


async def test_events_reach_everybody_once_and_do_not_fit_in_any_size() -> None:
    async with town() as here:
        lives = await here.pool(3)
        with pytest.raises(Invalid, match="up to 1200"):
            lives[0].gossiper.send_event(UserEvent(name="big", payload=b"x" * 2000))
        lives[0].gossiper.send_event(UserEvent(name="deploy", payload=b"v2"))
        await eventually(lambda: all(life.events for life in lives))
        await trio.sleep(0.5)  # time for a repetition that must not come
        assert [life.events for life in lives] == [[UserEvent(name="deploy", payload=b"v2", sender="m0")]] * 3


async def test_joins_that_fail_say_why() -> None:
    async with town() as here:
        plain, sealed = await here.start("a"), await here.start("b", encrypt=key(1))
        other = await here.start("c", encrypt=key(2))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            nowhere = f"127.0.0.1:{closed.getsockname()[1]}"
            asked = [address(sealed.gossiper), nowhere, "no:good:port", "bad.invalid:0", address(plain.gossiper)]
            count, sentences = await plain.gossiper.join(asked)
        assert count == 1, "asking itself counts"
        assert [sentence.split(": ", 1)[1] for sentence in sentences[:2]] == [
            "it encrypts gossip, but this agent has no key (encrypt)",
            "Connection refused",
        ]
        assert "cannot join no:good:port" in sentences[2]
        assert "with a port of 1 to 65535" in sentences[3]
        assert "does not encrypt gossip" in (await sealed.gossiper.join([address(plain.gossiper)]))[1][0]
        assert "is its gossip key the same?" in (await sealed.gossiper.join([address(other.gossiper)]))[1][0]


async def test_an_agent_with_another_key_is_told_of_in_the_log_of_who_was_asked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with town() as here:
        plain, sealed = await here.start("a"), await here.start("b", encrypt=key(1))
        other = await here.start("c", encrypt=key(2))

        def said(words: str) -> bool:
            told = [r.fields["reason"] for r in caplog.records if r.msg == "gossip.not-understood"]
            return sum(words in reason for reason in told) == 1

        for _ in range(3):
            await other.gossiper.join([address(sealed.gossiper)])
        await eventually(lambda: said("the keys (encrypt) differ"))
        await plain.gossiper.join([address(sealed.gossiper)])
        await eventually(lambda: said("it hung up on hearing that gossip is encrypted here"))
        await sealed.gossiper.join([address(plain.gossiper)])
        await eventually(lambda: said("it hung up on hearing that gossip is not encrypted here"))


async def test_packets_of_the_wrong_kind_are_refused_and_counted() -> None:
    async with town() as here:
        plain, sealed = await here.start("a"), await here.start("b", encrypt=key(1))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for life in (plain, sealed):
                for data in (b"\x11\x90", b"\x12" + b"x" * 60, b"\x99", b"", b"\x11" + b"y" * 2000, bytes(range(64))):
                    sender.sendto(data, life.gossiper.place)
            sender.sendto(b"\x11\xff\xff", plain.gossiper.place)
        await eventually(
            lambda: plain.gossiper.statistics().packets_in >= 7 and sealed.gossiper.statistics().packets_in >= 6
        )
        seen = plain.gossiper.statistics()
        assert (seen.refused["sealed"], seen.refused["oversized"], seen.counters["garbage"]) == (1, 1, 1)
        assert seen.refused["unknown"] >= 2
        refused = sealed.gossiper.statistics().refused
        assert (refused["plain"], refused["wrong_key"], refused["oversized"]) == (1, 1, 1)


async def test_keys_are_rotated_while_everybody_keeps_talking(tmp_path: Path) -> None:
    async with town() as here:
        paths = [tmp_path / str(number) / "serf.keyring" for number in range(3)]
        lives = [await here.start(f"m{n}", keyring=Keyring.open(paths[n], key(1))) for n in range(3)]
        for life in lives[1:]:
            assert await life.gossiper.join([address(lives[0].gossiper)]) == (1, [])
        await until(lives[0].gossiper, lambda members: len(members) == 3)
        first = lives[0].gossiper
        with pytest.raises(Invalid, match="install it first"):
            await first.keyring("use", key(2))
        for action in ("install", "use"):
            report = await first.keyring(action, key(2))
            assert (report.messages, report.num_nodes) == ({}, 3)
        assert (await first.keyring("list")).primary_keys == {key(2): 3}
        with pytest.raises(Invalid, match="primary key cannot be removed"):
            await first.keyring("remove", key(2))
        assert (await first.keyring("remove", key(1))).keys == {key(2): 3}
        assert [Keyring.open(path).keys for path in paths] == [[key(2)]] * 3
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        first.set_tags({"still": "talking"})
        await until(lives[2].gossiper, lambda members: members[0].tags == {"still": "talking"})


async def test_a_key_order_reports_who_did_not_follow() -> None:
    async with town() as here:
        lives = await here.pool(3, encrypt=key(1))
        await lives[2].kill()
        report = await lives[0].gossiper.keyring("install", key(2))
        assert (report.keys[key(2)], report.num_nodes) == (2, 3)
        assert report.messages == {"m2": "Connection refused"}


async def test_without_encryption_there_is_no_keyring_to_change() -> None:
    async with town() as here:
        alone = await here.start("a")
        for action in ("list", "install"):
            with pytest.raises(Invalid, match="gossip encryption is not enabled"):
                await alone.gossiper.keyring(action, key(1))


async def test_a_refused_agent_gets_the_sentence() -> None:
    def accept(member: Member) -> str | None:
        region = member.tags.get("region", "")
        return None if region == "eu" else f"the client's region is {region!r}, but this is 'eu'"

    async with town() as here:
        door = await here.start("door", tags={"region": "eu"}, accept=accept)
        stranger = await here.start("stranger", tags={"region": "us"})
        count, sentences = await stranger.gossiper.join([address(door.gossiper)])
        assert (count, len(sentences)) == (0, 1)
        assert sentences[0].endswith("the client's region is 'us', but this is 'eu'")
        assert [m.name for m in door.gossiper.members()] == ["door"]
        assert [m.name for m in stranger.gossiper.members()] == ["stranger"]


async def test_a_living_agents_name_is_not_given_away() -> None:
    async with town() as here:
        lives = await here.pool(3)
        twin, other_zero = await here.start("m1"), await here.start("m0")
        _, sentences = await twin.gossiper.join([address(lives[0].gossiper)])
        assert "the name m1 is taken by another living agent at 127.0.0.1" in sentences[0]
        _, sentences = await other_zero.gossiper.join([address(lives[0].gossiper)])
        assert "the name m0 is taken" in sentences[0]
        known = lives[0].gossiper.member("m1")
        assert known is not None
        assert known.port == lives[1].gossiper.place[1]


async def test_half_open_and_oversized_conversations_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "CONVERSATION_S", 0.5)
    async with town() as here:
        lives = await here.pool(2)
        place = lives[0].gossiper.place
        silent = await trio.open_tcp_stream(*place)
        oversized = await trio.open_tcp_stream(*place)
        await oversized.receive_some(17)
        await oversized.send_all(struct.pack("!I", FRAME_BYTES_MAX + 1))
        garbage = await trio.open_tcp_stream(*place)
        await garbage.send_all(struct.pack("!I", 4) + b"\xc1\xc1\xc1\xc1")
        for stream in (silent, oversized, garbage):
            async with stream:
                while not await ended(stream):
                    pass
        assert lives[0].gossiper.statistics().conversations_broken >= 3
        assert (await lives[1].gossiper.join([address(lives[0].gossiper)]))[0] == 1


async def ended(stream: trio.SocketStream) -> bool:
    """Reads on; whether that was the end."""
    try:
        return not await stream.receive_some(100)
    except trio.BrokenResourceError:
        return True


async def test_too_many_connections_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "CONNECTIONS_MAX", 2)
    async with town() as here:
        life = await here.start("a")
        held = [await trio.open_tcp_stream(*life.gossiper.place) for _ in range(2)]
        for stream in held:
            assert len(await stream.receive_some(17)) == 17
        async with await trio.open_tcp_stream(*life.gossiper.place) as late:
            assert await ended(late)
        for stream in held:
            await stream.aclose()
        assert life.gossiper.statistics().conversations_turned_away == 1


async def test_a_hint_has_a_member_probed_at_once() -> None:
    calm = GossipSettings(period_s=60.0, ping_timeout_s=0.1, suspicion_s=60.0)
    async with town() as here:
        lives = await here.pool(2, settings=calm)
        before = lives[0].gossiper.statistics().counters["probes"]
        lives[0].gossiper.confirm("m1")
        assert lives[0].gossiper.statistics().counters["probes"] == before + 1


async def test_changes_of_members_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="nomadpy.gossip"):
        async with town() as here:
            await here.pool(2)
    facts = [
        (record.fields["member"], record.fields["new"]) for record in caplog.records if record.msg == "gossip.member"
    ]
    assert sorted(facts) == [("m0", "alive"), ("m1", "alive")]


async def test_health_is_sampled() -> None:
    async with town() as here:
        life = await here.start("a", sample=lambda: Health(cpu=0.25))
        await until(life.gossiper, lambda members: members[0].health is not None)
        assert life.gossiper.members()[0].health == Health(cpu=0.25, io_pressure=-1.0)


async def test_an_address_that_nobody_can_reach_is_not_advertised() -> None:
    with pytest.raises(Invalid, match="advertise an address that others can reach"):
        await Gossiper("a", bind=("0.0.0.0", 0)).run()
    with pytest.raises(Invalid, match="must be an IP address"):
        await Gossiper("a", bind=("127.0.0.1", 0), advertise=("db.local", 0)).run()
