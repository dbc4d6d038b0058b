"""Single machines, fed by hand: which statements hold, how doubt ends, what is passed on, what packets may hold."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.gossip import messages as m
from nomadpy.gossip.broadcasts import Broadcasts
from nomadpy.gossip.contract import Health, UserEvent
from nomadpy.gossip.health import DIGEST_BYTES_MAX, Sampler, is_news, pack, parse_pressure, unpack
from nomadpy.gossip.messages import PAYLOAD_BYTES_MAX, Ack, Alive, Exchange, Failed, Left, Nack, Ping, State, Suspect
from nomadpy.gossip.outputs import CallFor, Challenge, Conflict, Heard, Send, TcpPing
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.swim import Swim
from nomadpy.gossip.timers import Timers
from nomadpy.model.errors import Invalid

HERE = ("10.0.0.1", 4648)
THERE = ("10.0.0.2", 4648)


def make_swim(name: str = "me", seed: int = 1, **options: object) -> Swim:
    settings = GossipSettings(**options)  # type: ignore[arg-type]
    return Swim(name, *HERE, {}, settings=settings, rng=random.Random(seed), now=0.0)


def alive(name: str, incarnation: int = 0, *, host: int = 2, tags: dict[str, str] | None = None) -> Alive:
    return Alive(name, incarnation, f"10.0.0.{host}", 4648, tags or {})


def hear(swim: Swim, now: float, *said: m.Message) -> list[object]:
    """Feeds messages in one packet; what came of it."""
    swim.receive(now, m.join([m.encode(message) for message in said]), THERE)
    return list(swim.take_outputs())


def sent(outputs: list[object]) -> list[m.Message]:
    """The messages in the packets among outputs."""
    return [message for output in outputs if isinstance(output, Send) for message in m.decode(output.payload)]


def run(swim: Swim, start: float, end: float) -> list[object]:
    """Ticks at every deadline; what came of it."""
    outputs: list[object] = []
    while (at := swim.next_deadline()) <= end:
        swim.tick(max(at, start))
        outputs += swim.take_outputs()
    return outputs


def status(swim: Swim, name: str) -> str:
    member = swim.member(name)
    return member.status if member else ""


# --- statements


STATEMENTS = [
    *(alive("x", n) for n in range(3)),
    *(Suspect("x", n, by) for n in range(3) for by in ("a", "b")),
    *(Failed("x", n, "a") for n in range(3)),
    Left("x", 0, "x"),
    Left("x", 1, "a"),
    Left("x", 1, "a", prune=True),
]


@given(st.permutations(STATEMENTS), st.integers(1, len(STATEMENTS)))
def test_the_order_of_statements_does_not_matter(order: list[m.Message], count: int) -> None:
    said = order[:count]
    first, second = make_swim(), make_swim()
    for swim, statements in ((first, said), (second, list(reversed(said)))):
        hear(swim, 0.0, alive("x"), *statements)
    assert first.members()[1:] == second.members()[1:]


def rank_of(said: m.Message) -> tuple[int, int]:
    match said:
        case Alive():
            return said.incarnation, m.ALIVE
        case Suspect():
            return said.incarnation, m.SUSPECT
        case Failed():
            return said.incarnation, m.FAILED
        case Left():
            return said.incarnation, m.PRUNED if said.prune else m.LEFT
    raise AssertionError(said)


@pytest.mark.parametrize(("held", "said"), list(itertools.product(STATEMENTS, repeat=2)), ids=str)
def test_the_higher_statement_holds(held: m.Message, said: m.Message) -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"), held, said)
    incarnation, rank = max((0, m.ALIVE), rank_of(held), rank_of(said))
    member = swim.member("x")
    words = ("alive", "suspect", "failed", "left")
    if rank == m.PRUNED:
        assert member is None
    else:
        assert member is not None
        assert (member.incarnation, member.status) == (incarnation, words[rank])


def test_what_is_said_of_strangers_is_ignored() -> None:
    swim = make_swim()
    hear(swim, 0.0, Suspect("x", 3, "a"), Failed("x", 3, "a"), Left("x", 3, "x"))
    assert [member.name for member in swim.members()] == ["me"]


@pytest.mark.parametrize("said", [Suspect("me", 4, "a"), Failed("me", 4, "a"), Left("me", 4, "a")], ids=str)
def test_what_is_said_against_this_agent_is_refuted(said: m.Message) -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"), said)
    assert next(s for s in sent(run(swim, 0.0, 0.3)) if isinstance(s, Alive) and s.name == "me").incarnation == 5
    assert swim.awareness == (0 if isinstance(said, Left) else 1)


def test_old_accusations_are_not_refuted() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"), Failed("me", 4, "a"), Failed("me", 4, "b"), Suspect("me", 2, "b"))
    assert swim.members()[0].incarnation == 5


@pytest.mark.parametrize("name", ["me", "x"])
def test_who_accuses_by_old_knowledge_gets_the_newer(name: str) -> None:
    swim = make_swim(period_s=1000.0, ping_timeout_s=900.0)
    hear(swim, 0.0, alive("x", 5), Suspect("me", 4, "a"))
    assert sent(hear(swim, 0.0, Suspect(name, 3, "a"))) == [], "the refutation is still being passed on"
    run(swim, 0.0, 4.0)
    swim.receive(4.0, m.join([m.encode(Suspect(name, 3, "a"))]), THERE)
    answer = next(s for s in sent(list(swim.take_outputs())) if isinstance(s, Alive))
    assert (answer.name, answer.incarnation) == (name, 5)


def test_a_restarted_agent_hears_of_its_former_life_and_goes_beyond_it() -> None:
    swim = make_swim()
    former = State("me", m.ALIVE, 7, *HERE, {"build": "1"}, 3, b"", 5.0)
    swim.merge(0.0, Exchange("x", 1, False, [State("x", m.ALIVE, 0, *THERE, {}, 0, b"", 5.0), former]))
    assert swim.members()[0].incarnation == 8


# --- one name, two agents


def test_a_name_that_lives_elsewhere_is_asked_for_there_first() -> None:
    swim = make_swim()
    outputs = hear(swim, 0.0, alive("x", host=3), alive("me", 5, host=9), alive("me", 6, host=9))
    assert [o for o in outputs if isinstance(o, Challenge)] == [Challenge("10.0.0.9", 4648)]
    assert swim.members()[0].incarnation == 0


def test_a_living_namesake_is_reported_and_left_alone() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x", host=3), alive("me", 5, host=9))
    swim.challenged(0.1, ("10.0.0.9", 4648), Ack(0, "me", 42))
    assert Conflict("10.0.0.9", 4648) in swim.take_outputs()
    outputs = hear(swim, 0.2, alive("me", 7, host=9), Suspect("me", 7, "x"))
    assert [o for o in outputs if isinstance(o, Challenge | Conflict)] == []
    assert swim.members()[0].incarnation == 0
    assert [o for o in hear(swim, 90.0, alive("me", 7, host=9)) if isinstance(o, Challenge)], "asked again later"


@pytest.mark.parametrize("answer", [None, "itself", "another"])
def test_a_name_whose_place_is_empty_is_taken_back(answer: str | None) -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x", host=3), alive("me", 5, host=9))
    acks = {"itself": Ack(0, "me", swim.instance), "another": Ack(0, "other", 42)}
    swim.challenged(0.1, ("10.0.0.9", 4648), acks[answer] if answer else None)
    assert swim.members()[0].incarnation == 6


# --- probes


def test_silence_is_followed_by_help_then_by_suspicion_then_by_failure() -> None:
    swim = make_swim()
    hear(swim, 0.0, *(alive(f"x{n}", host=n + 2) for n in range(5)))
    swim.confirm(0.0, "x0")
    direct = sent(swim.take_outputs())
    assert next(s for s in direct if isinstance(s, Ping)).target == "x0"
    outputs = run(swim, 0.0, 0.45)
    asks = [s for s in sent(outputs) if isinstance(s, m.Ask) and s.target == "x0"]
    assert len(asks) == 3
    assert any(isinstance(o, TcpPing) and o.name == "x0" for o in outputs)
    assert status(swim, "x0") == "alive"
    run(swim, 0.45, 0.55)
    assert status(swim, "x0") == "suspect"
    run(swim, 0.55, 2.25)
    assert status(swim, "x0") == "suspect", "nobody confirmed it, so it lasts longer"
    run(swim, 2.25, 8.0)
    assert status(swim, "x0") == "failed"


def test_confirmations_shorten_a_suspicion() -> None:
    swim = make_swim(second_looks=0, period_s=1000.0, ping_timeout_s=900.0)
    hear(swim, 0.0, *(alive(f"x{n}", host=n + 2) for n in range(5)))
    hear(swim, 0.1, *(Suspect("x0", 0, by) for by in ("x1", "x2", "x2", "x3", "x4")))
    run(swim, 0.1, 1.85)
    assert status(swim, "x0") == "suspect"
    run(swim, 1.85, 1.95)
    assert status(swim, "x0") == "failed"


def test_an_answer_ends_a_probe_and_carries_health() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"))
    swim.confirm(0.0, "x")
    ping = next(s for s in sent(swim.take_outputs()) if isinstance(s, Ping))
    digest = pack(Health(cpu=0.5, drivers=("exec",)))
    hear(swim, 0.1, Ack(ping.number, "x", 9, 0, 1, digest))
    member = swim.member("x")
    assert member is not None
    assert member.health == Health(cpu=0.5, io_pressure=-1.0, drivers=("exec",))
    assert swim.counters.probes_failed == 0


def test_an_answer_by_somebody_else_is_none() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"))
    swim.confirm(0.0, "x")
    ping = next(s for s in sent(swim.take_outputs()) if isinstance(s, Ping))
    hear(swim, 0.1, Ack(ping.number, "y", 9))
    run(swim, 0.1, 0.6)
    assert status(swim, "x") == "suspect"


def test_pings_for_others_are_not_answered() -> None:
    swim = make_swim()
    assert sent(hear(swim, 0.0, Ping(1, "other", "x"))) == []
    assert swim.counters.misdirected == 1


def test_an_unknown_agent_that_pings_is_called_back_once_in_a_while() -> None:
    swim = make_swim()
    outputs = hear(swim, 0.0, Ping(1, "me", "x"), Ping(2, "me", "x"))
    assert [o for o in outputs if isinstance(o, CallFor)] == [CallFor(*THERE)]
    assert [s.number for s in sent(outputs) if isinstance(s, Ack)] == [1, 2]


@pytest.mark.parametrize("held", [Suspect("x", 3, "a"), Failed("x", 3, "a"), Left("x", 3, "a")], ids=str)
def test_a_member_that_speaks_is_told_what_is_held_against_it(held: m.Message) -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"), held)
    answer = sent(hear(swim, 0.0, Ping(1, "me", "x")))
    assert isinstance(answer[0], Ack)
    assert rank_of(answer[1]) == rank_of(held)


def test_a_helper_pings_forwards_and_says_when_there_is_no_answer() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x", host=3), alive("asker"))
    outputs = hear(swim, 0.0, m.Ask(77, "x", "asker"))
    ping = next(s for s in sent(outputs) if isinstance(s, Ping))
    nacks = [o for o in run(swim, 0.0, 0.19) if isinstance(o, Send) and (o.address, o.port) == THERE]
    assert Nack(77) in sent(nacks)
    assert Ack(77, "x", 5) in sent(hear(swim, 0.2, Ack(ping.number, "x", 5)))
    assert Ack(77, "x", 5) not in sent(hear(swim, 0.2, Ack(ping.number, "x", 5))), "once"


def test_a_helper_pings_members_only() -> None:
    assert sent(hear(make_swim(), 0.0, m.Ask(77, "stranger", "asker"))) == [Nack(77)]


def test_missing_nacks_make_an_agent_doubt_itself_and_nacks_do_not() -> None:
    for nacking, expected in ((False, 3), (True, 0)):
        swim = make_swim()
        hear(swim, 0.0, *(alive(f"x{n}", host=n + 2) for n in range(5)))
        swim.tick(0.0)
        swim.confirm(0.0, "x0")
        number = next(s.number for s in sent(swim.take_outputs()) if isinstance(s, Ping) and s.target == "x0")
        swim._pool.timers.drop(("period", ""))
        run(swim, 0.0, 0.3)
        if nacking:
            hear(swim, 0.3, Nack(number), Nack(number), Nack(number))
        run(swim, 0.3, 0.6)
        assert status(swim, "x0") == "suspect"
        assert swim.awareness == expected


# --- pauses


def test_a_paused_agent_blames_itself_and_asks_for_news() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x", host=2), alive("y", host=3), alive("z", host=4), Suspect("x", 0, "y"))
    swim.tick(60.0)
    outputs = swim.take_outputs()
    assert swim.counters.pauses == 1
    assert len([o for o in outputs if isinstance(o, CallFor)]) >= 2
    assert [status(swim, name) for name in "xyz"] == ["suspect", "alive", "alive"]
    assert swim.awareness == 2


def test_being_late_delays_verdicts() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"))
    swim.confirm(0.0, "x")
    swim.take_outputs()
    run(swim, 0.0, 0.3)
    swim.tick(1.2)
    assert status(swim, "x") == "alive"
    assert swim.counters.pauses == 0


# --- what is passed on


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 400)), max_size=60), st.integers(1, 6))
def test_broadcasts_fit_and_end(items: list[tuple[int, int]], limit: int) -> None:
    queue = Broadcasts()
    newest = {}
    for subject, size in items:
        newest[(str(subject), 0)] = bytes([subject]) * size
        queue.put((str(subject), 0), newest[(str(subject), 0)])
    times = dict.fromkeys(newest.values(), 0)
    for _ in range(len(items) * limit * 2 + 1):
        taken = queue.take(500, limit)
        assert sum(map(len, taken)) <= 500
        assert len(set(taken)) == len(taken)
        for message in taken:
            times[message] += 1
    assert len(queue) == 0
    assert set(times.values()) <= {limit}


def test_every_packet_fits() -> None:
    swim = make_swim()
    tags = {"a": "x" * 500, "b": "y" * 500}
    said = [alive(f"x{n}", host=n + 2, tags=tags) for n in range(20)]
    outputs = [output for one in said for output in hear(swim, 0.0, one)] + run(swim, 0.0, 5.0)
    assert max(len(o.payload) for o in outputs if isinstance(o, Send)) <= PAYLOAD_BYTES_MAX
    assert {s.name for s in sent(outputs) if isinstance(s, Alive)} == {one.name for one in said}


def test_what_does_not_fit_into_a_packet_is_refused() -> None:
    swim = make_swim()
    with pytest.raises(Invalid, match="shorten them"):
        swim.set_tags(0.0, {"x": "y" * 1200})
    with pytest.raises(Invalid, match="up to 1200"):
        swim.send_event(0.0, UserEvent(name="x", payload=b"y" * 1200))
    with pytest.raises(Invalid, match="up to 255"):
        swim.send_event(0.0, UserEvent(name="x" * 300))
    with pytest.raises(Invalid, match="1 to 255"):
        make_swim(name="x" * 256)
    assert swim.members()[0].tags == {}


def test_an_event_is_heard_once_and_old_ones_never_again() -> None:
    swim = make_swim()
    first = m.Event(1, "x", "deploy", b"")
    assert [o for o in hear(swim, 0.0, first, first) if isinstance(o, Heard)] == [
        Heard(UserEvent(name="deploy", sender="x"))
    ]
    for moment in range(2, 700):
        hear(swim, 0.0, m.Event(moment, "x", "deploy", b""))
    assert [o for o in hear(swim, 0.0, first) if isinstance(o, Heard)] == []


def test_a_joiner_does_not_hear_what_happened_before() -> None:
    swim = make_swim()
    old = m.Event(5, "x", "deploy", b"")
    swim.merge(0.0, Exchange("x", 1, False, [], [old]), join=True)
    assert [o for o in hear(swim, 0.0, old, m.Event(6, "x", "new", b"")) if isinstance(o, Heard)] == [
        Heard(UserEvent(name="new", sender="x"))
    ]


# --- exchanges and reaping


def test_a_member_that_another_calls_failed_is_only_suspected() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"))
    swim.merge(0.0, Exchange("y", 1, False, [State("x", m.FAILED, 2, *THERE, {}, 0, b"", 9.0)]))
    assert status(swim, "x") == "suspect"


def test_the_gone_are_taken_over_with_their_age_and_forgotten_in_time() -> None:
    swim = make_swim(reap_failed_s=1000.0, reap_left_s=100.0)
    gone = [
        State("failed", m.FAILED, 2, *THERE, {}, 0, b"", 800.0),
        State("left", m.LEFT, 2, *THERE, {}, 0, b"", 50.0),
        State("long gone", m.LEFT, 2, *THERE, {}, 0, b"", 101.0),
        State("pruned", m.PRUNED, 2, *THERE, {}, 0, b"", 1.0),
    ]
    swim.merge(0.0, Exchange("y", 1, False, gone))
    assert [member.name for member in swim.members()] == ["failed", "left", "me"]
    run(swim, 0.0, 130.0)
    assert [member.name for member in swim.members()] == ["failed", "me"]
    run(swim, 130.0, 300.0)
    assert [member.name for member in swim.members()] == ["me"]


# --- bytes


@given(st.binary(max_size=1500))
def test_garbage_is_counted_and_dropped(payload: bytes) -> None:
    swim = make_swim()
    swim.receive(0.0, payload, THERE)
    assert [member.name for member in swim.members()] == ["me"] or m.decode(payload)


def mangled(payload: bytes, rng: random.Random) -> bytes:
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def test_damaged_packets_never_raise() -> None:
    rng = random.Random(5)
    swim = make_swim()
    packet = m.join([m.encode(said) for said in (Ping(1, "me", "x"), alive("x", 3), Suspect("x", 3, "a"))])
    for _ in range(5000):
        swim.receive(0.0, mangled(packet, rng), THERE)
        swim.tick(0.0)
    assert swim.counters.garbage > 100


@pytest.mark.parametrize(
    "said",
    [("some.host", 4648, "x", 1), ("10.0.0.1", 0, "x", 1), ("10.0.0.1", 4648, "", 1), ("10.0.0.1", 1, "x", -1)],
)
def test_impossible_statements_are_garbage(said: tuple[str, int, str, int]) -> None:
    host, port, name, incarnation = said
    payload = m.join([m.encode([5, name, incarnation, host, port])])
    with pytest.raises(Invalid, match="not a gossip packet"):
        m.decode(payload)


shares = st.integers(0, 200).map(lambda step: step / 200)


@given(
    shares, shares, shares, shares | st.just(-1.0), st.lists(st.sampled_from(["exec", "docker", "java"]), max_size=3)
)
def test_a_digest_holds_what_was_packed(
    cpu: float, memory: float, disk: float, pressure: float, drivers: list[str]
) -> None:
    health = Health(cpu=cpu, memory=memory, disk=disk, io_pressure=pressure, drivers=tuple(drivers))
    assert unpack(pack(health)) == health


@given(st.binary(max_size=100))
def test_any_digest_can_be_read(digest: bytes) -> None:
    health = unpack(digest)
    assert health is None or 0 <= health.cpu <= 1


def test_a_digest_keeps_to_its_size() -> None:
    packed = pack(Health(cpu=7.0, drivers=tuple(f"driver-{n}" for n in range(50))))
    assert len(packed) <= DIGEST_BYTES_MAX
    health = unpack(packed)
    assert health is not None
    assert health.cpu == 1.0
    assert health.drivers[:2] == ("driver-0", "driver-1")


def test_health_is_news_when_much_of_it_changed() -> None:
    calm = Health(cpu=0.3)
    assert is_news(None, calm)
    assert not is_news(calm, Health(cpu=0.4))
    assert is_news(calm, Health(cpu=0.6))
    assert is_news(calm, Health(cpu=0.3, drivers=("docker",)))


@pytest.mark.parametrize("text", ["", "full avg10=1.00", "some avg10=x", "some total=1", "\n\n"])
def test_pressure_that_cannot_be_read_is_not_measured(text: str) -> None:
    assert parse_pressure(text) == -1.0


def test_a_sample_of_this_machine(tmp_path: object) -> None:
    health = Sampler(str(tmp_path), pressure_file="/nowhere").sample(("java",))
    assert (health.io_pressure, health.drivers) == (-1.0, ("java",))
    assert 0 < health.memory < 1
    assert Sampler("/nowhere").sample().disk == 0.0


def test_health_that_is_news_is_told_to_everybody() -> None:
    swim = make_swim()
    hear(swim, 0.0, alive("x"))
    run(swim, 0.0, 3.0)
    swim.set_health(3.0, Health(cpu=0.1))
    assert [s for s in sent(run(swim, 3.0, 3.3)) if isinstance(s, m.Fresh)]
    run(swim, 3.3, 5.0)
    swim.set_health(5.0, Health(cpu=0.15))
    assert not [s for s in sent(run(swim, 5.0, 5.4)) if isinstance(s, m.Fresh)]


# --- deadlines, settings


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 100))))
def test_deadlines_come_in_order(entries: list[tuple[int, float]]) -> None:
    timers = Timers()
    for key, at in entries:
        timers.set(("k", key), at)
    expected = dict(entries)
    seen = []
    while (key := timers.pop_due(100.0)) is not None:
        seen.append((int(key[1]), expected.pop(int(key[1]))))
    assert expected == {}
    assert [at for _, at in seen] == sorted(at for _, at in seen)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ping_timeout_s": 0.5}, "must be longer than the ping timeout"),
        ({"gossip_s": 0.0}, "above 0 seconds"),
        ({"retransmit": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        GossipSettings(**options).check()  # type: ignore[arg-type]


def test_scaled_settings_keep_their_proportions() -> None:
    scaled = GossipSettings().scaled(3)
    scaled.check()
    assert (scaled.period_s, scaled.suspicion_min_s(3)) == (1.5, pytest.approx(5.4))
