"""Pools of gossip machines in a pretend network: what must hold whatever the network does, and that the simulator sees
when it does not."""

from __future__ import annotations

import random

import pytest
from gossip_sim import PORT, Agent, Network, Simulation, detection

from nomadpy.gossip import probing
from nomadpy.gossip.claims import Claims
from nomadpy.gossip.contract import ALIVE, FAILED, LEFT, SUSPECT, UserEvent
from nomadpy.gossip.exchange import Exchanges
from nomadpy.gossip.messages import PAYLOAD_BYTES_MAX
from nomadpy.gossip.settings import GossipSettings
from nomadpy.gossip.suspicion import Suspicion
from nomadpy.gossip.swim import Swim

SOON_S = 3.6
HARSH = Network(loss=0.05, duplicate=0.05, delay_min_s=0.001, delay_max_s=0.03, tcp=False)


def place_of(watcher: Agent, name: str) -> str:
    member = watcher.swim.member(name)
    return member.address if member is not None else ""


# --- completeness: the dead are seen


@pytest.mark.parametrize("members", [2, 3, 5, 10])
def test_a_killed_member_of_a_small_pool_is_failed_within_seconds_but_not_too_soon(members: int) -> None:
    for seed in range(20):
        times = detection(seed, members)
        assert len(times) == members - 1
        assert min(times) > 2.2, seed
        assert max(times) < SOON_S, seed


@pytest.mark.parametrize("members", [3, 10])
def test_loss_delays_detection_only_a_little(members: int) -> None:
    for seed in range(20):
        assert max(detection(seed, members, loss=0.05)) < 6.0, seed


def test_five_hundred_members_see_a_failure_within_six_seconds() -> None:
    times = detection(7, 500, loss=0.05)
    assert len(times) == 499
    assert max(times) < 6.0


def test_a_third_of_a_pool_that_dies_at_once_is_seen() -> None:
    simulation = Simulation(3)
    simulation.grow(30)
    dead = [f"n{number:03}" for number in range(10)]
    for name in dead:
        simulation.kill(name)
    assert simulation.run_until(lambda: all(simulation.all_say(name, FAILED) for name in dead), 20.0)
    assert simulation.false_positives() == 0


# --- accuracy: the living are not


def test_lost_packets_do_not_make_the_living_fail() -> None:
    simulation = Simulation(11, network=HARSH)
    simulation.grow(100)
    simulation.run(120.0)
    suspicions = sum(agent.swim.counters.suspicions for agent in simulation.agents.values())
    assert suspicions > 100, "the network was too kind to show anything"
    assert simulation.false_positives() == 0
    assert simulation.largest_packet <= PAYLOAD_BYTES_MAX


@pytest.mark.parametrize("seed", range(10))
def test_an_agent_that_is_restarted_within_two_seconds_never_fails(seed: int) -> None:
    simulation = Simulation(seed)
    agents = simulation.grow(3 + seed % 4)
    simulation.run(1.0 + random.Random(seed).random())
    victim, address = agents[1].swim.name, agents[1].address
    simulation.kill(victim)
    simulation.run(2.0)
    simulation.restart(victim, address=address)
    simulation.join(victim, "n000")
    simulation.run(15.0)
    assert simulation.failures() == []
    assert simulation.agree()


def test_a_short_stop_of_one_agent_is_forgiven_and_blamed_on_nobody() -> None:
    simulation = Simulation(5)
    simulation.grow(5)
    simulation.run(3.0)
    simulation.pause("n002")
    simulation.run(1.6)
    simulation.resume("n002")
    simulation.run(15.0)
    assert simulation.failures() == []
    assert simulation.agree()


@pytest.mark.parametrize("seconds", [4.0, 40.0])
def test_an_agent_that_was_stopped_for_long_does_not_declare_the_world_dead(seconds: float) -> None:
    for seed in range(5):
        simulation = Simulation(seed)
        simulation.grow(6)
        simulation.run(3.0)
        simulation.pause("n002")
        simulation.run(seconds)
        assert simulation.all_say("n002", FAILED)
        simulation.resume("n002")
        assert simulation.run_until(simulation.agree, 5.0)
        simulation.run(10.0)
        assert {seen.member for seen in simulation.failures()} == {"n002"}


def blamed_after_everybody_stopped() -> int:
    """How often anybody was suspected or declared failed because all stood still for a while, over some seeds."""
    blamed = 0
    for seed in range(8):
        simulation = Simulation(seed, network=Network(delay_min_s=0.05, delay_max_s=0.09))
        names = [agent.swim.name for agent in simulation.grow(5)]
        simulation.run(3.0 + seed / 11)
        for name in names:
            simulation.pause(name)
        simulation.run(30.0)
        for name in names:
            simulation.resume(name)
        simulation.run(15.0)
        assert simulation.agree()
        blamed += len([seen for seen in simulation.history if seen.new in (SUSPECT, FAILED)])
    return blamed


def test_everybody_stopping_at_once_is_nobodys_fault() -> None:
    assert blamed_after_everybody_stopped() == 0


def failures_after_a_stop_in_the_middle_of_a_suspicion() -> int:
    """An agent is stopped while it suspects another; it misses that the other one contradicts."""
    simulation = Simulation(23)
    names = [agent.swim.name for agent in simulation.grow(5)]
    simulation.run(3.0)
    simulation.part(names[:4], names[4:])
    assert simulation.run_until(lambda: simulation.status("n000", "n004") == SUSPECT, 3.0)
    simulation.pause("n000")
    simulation.heal()
    simulation.run(20.0)
    simulation.resume("n000", overflown=True)
    simulation.run(10.0)
    assert simulation.agree()
    return len(simulation.failures(of=["n004"]))


def test_who_stands_still_while_it_doubts_asks_for_the_news_first() -> None:
    assert failures_after_a_stop_in_the_middle_of_a_suspicion() == 0


# --- coming back


@pytest.mark.parametrize("elsewhere", [False, True], ids=["at its address", "at another address"])
def test_a_failed_member_that_is_restarted_is_back_at_once(elsewhere: bool) -> None:
    simulation = Simulation(8)
    agents = simulation.grow(5)
    simulation.kill("n003")
    assert simulation.run_until(lambda: simulation.all_say("n003", FAILED), 10.0)
    simulation.restart("n003", address="" if elsewhere else agents[3].address)
    simulation.join("n003", "n000")
    assert simulation.run_until(simulation.agree, 1.0)
    assert {place_of(a, "n003") for a in simulation.agents.values()} == {simulation.agents["n003"].address}


def test_a_restart_elsewhere_that_nobody_noticed_takes_the_name_along() -> None:
    simulation = Simulation(9)
    simulation.grow(5)
    simulation.kill("n003")
    simulation.restart("n003")
    simulation.join("n003", "n000")
    new = simulation.agents["n003"].address
    everybody = simulation.agents.values()
    assert simulation.run_until(lambda: all(place_of(agent, "n003") == new for agent in everybody), 3.0)
    assert simulation.failures() == []


def test_an_agent_that_left_may_come_back() -> None:
    simulation = Simulation(10)
    agents = simulation.grow(4)
    simulation.do("n001", Swim.leave)
    assert simulation.run_until(lambda: simulation.all_say("n001", LEFT), 2.0)
    simulation.run(5.0)
    assert agents[1].swim.has_left()
    simulation.kill("n001")
    simulation.restart("n001", address=agents[1].address)
    simulation.join("n001", "n000")
    assert simulation.run_until(simulation.agree, 2.0)
    assert simulation.failures() == []


def test_two_living_agents_with_one_name_are_reported_and_do_not_flap() -> None:
    simulation = Simulation(12)
    simulation.grow(5)
    simulation.run(1.0)
    simulation.add("n003", key="twin")
    simulation.join("twin", "n000")
    simulation.run(120.0)
    reports = [len(simulation.agents[key].conflicts) for key in ("n003", "twin")]
    assert sum(reports) >= 1
    assert max(reports) <= 4, "once a minute at most"
    changes = [seen for seen in simulation.history if seen.member == "n003" and seen.watcher != "n003"]
    assert len(changes) <= len(simulation.agents)
    views = {
        agent.swim.member("n003").address for key, agent in simulation.agents.items() if key not in ("n003", "twin")
    }  # type: ignore[union-attr]
    assert len(views) == 1, "everybody means the same one"


# --- partitions, late news


@pytest.mark.parametrize("seed", range(4))
def test_a_healed_network_converges(seed: int) -> None:
    simulation = Simulation(seed, network=Network(loss=0.02))
    names = [agent.swim.name for agent in simulation.grow(10)]
    simulation.part(names[:4], names[4:])
    simulation.run(30.0)
    assert simulation.status("n000", "n009") == FAILED
    assert simulation.status("n009", "n000") == FAILED
    assert simulation.status("n000", "n001") == ALIVE
    simulation.heal()
    assert simulation.run_until(simulation.agree, 45.0)
    simulation.run(20.0)
    assert simulation.agree()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happened_the_pool_agrees_in_the_end(seed: int) -> None:
    simulation = Simulation(seed, network=Network(loss=0.05, duplicate=0.05, delay_max_s=0.02))
    chance = random.Random(f"chaos {seed}")
    homes = {agent.swim.name: agent.address for agent in simulation.grow(8)}
    for _ in range(40):
        happen(simulation, chance, homes)
        simulation.run(chance.uniform(0.0, 4.0))
    simulation.heal()
    for name, agent in simulation.agents.items():
        if agent.paused:
            simulation.resume(name)
    dead = set(homes) - set(simulation.agents)

    def settled() -> bool:
        return simulation.agree() and all(simulation.all_say(name, FAILED) for name in dead)

    assert simulation.run_until(settled, 90.0)
    simulation.history.clear()
    simulation.run(60.0)
    assert settled()
    assert simulation.failures() == []


def happen(simulation: Simulation, chance: random.Random, homes: dict[str, str]) -> None:
    """Something, by chance: a death, a restart, a stop, its end, a cut of the network, its end."""
    name = chance.choice(sorted(homes))
    running = simulation.agents.get(name)
    match chance.randrange(6):
        case 0 if running and len(simulation.agents) > 3:
            simulation.kill(name)
        case 1 if running is None:
            simulation.restart(name, address=homes[name])
            simulation.join(name, chance.choice(sorted(set(simulation.agents) - {name})))
        case 2 if running and not running.paused:
            simulation.pause(name)
        case 3 | 5 if running and running.paused:
            simulation.resume(name, overflown=chance.random() < 0.5)
        case 4:
            names = sorted(simulation.agents)
            cut = chance.randint(1, len(names) - 1)
            simulation.part(names[:cut], names[cut:])
        case _:
            simulation.heal()


def test_agents_that_join_a_chain_know_everybody() -> None:
    simulation = Simulation(14)
    for number in range(20):
        simulation.add(f"n{number}", tags={"number": str(number)})
        if number:
            simulation.join(f"n{number}", f"n{number - 1}")
    assert simulation.run_until(simulation.agree, 40.0)
    assert {m.tags["number"] for m in simulation.agents["n0"].swim.members()} == {str(n) for n in range(20)}


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_tags_and_events_reach_everybody(loss: float) -> None:
    simulation = Simulation(15, network=Network(loss=loss, duplicate=0.2))
    simulation.grow(60)
    simulation.do("n010", lambda swim, now: swim.set_tags(now, {"build": "2"}))
    simulation.do("n020", lambda swim, now: swim.send_event(now, UserEvent(name="deploy", payload=b"v2")))
    simulation.run(5.0 if not loss else 150.0)
    assert {agent.swim.member("n010").tags["build"] for agent in simulation.agents.values()} == {"2"}  # type: ignore[union-attr]
    heard = [agent.events for agent in simulation.agents.values()]
    assert heard == [[UserEvent(name="deploy", payload=b"v2", sender="n020")]] * 60


def test_a_pruned_member_stays_forgotten() -> None:
    simulation = Simulation(16)
    simulation.grow(5)
    simulation.kill("n004")
    assert simulation.run_until(lambda: simulation.all_say("n004", FAILED), 10.0)
    simulation.do("n000", lambda swim, now: swim.force_leave(now, "n004", prune=True))
    simulation.run(900.0)
    assert {len(agent.swim.members()) for agent in simulation.agents.values()} == {4}


def test_the_failed_are_reaped_everywhere_and_nobody_brings_them_back() -> None:
    simulation = Simulation(17, settings=GossipSettings(reap_failed_s=120.0))
    simulation.grow(4)
    simulation.kill("n003")
    simulation.run(400.0)
    assert {len(agent.swim.members()) for agent in simulation.agents.values()} == {3}


def test_the_same_seed_gives_the_same_history() -> None:
    def history() -> list[object]:
        simulation = Simulation(18, network=HARSH)
        simulation.grow(10)
        simulation.kill("n001")
        simulation.run(15.0)
        return [*simulation.history, simulation.packets]

    assert history() == history()


def test_an_idle_pool_is_quiet() -> None:
    simulation = Simulation(19)
    simulation.grow(3)
    simulation.run(60.0)
    assert simulation.packets <= 60 * 3 * 2 * 2 + 10, "a ping and an ack per agent and period"


# --- the simulator can fail: each defect is seen by a property above


def test_without_refutation_lost_packets_make_the_living_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claims, "_refute", lambda self, now, incarnation, *, blame: None)
    simulation = Simulation(11, network=HARSH)
    simulation.grow(30)
    simulation.run(120.0)
    assert simulation.false_positives() > 0


def test_without_suspicion_lost_packets_make_the_living_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspicion, "timeout_s", lambda self: 0.0)
    simulation = Simulation(11, network=HARSH)
    simulation.grow(30)
    simulation.run(120.0)
    assert simulation.false_positives() > 0


def test_without_confirmations_detection_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Suspicion, "confirm", lambda self, by: False)
    assert max(detection(1, 10)) > SOON_S


def test_without_gossip_a_pool_does_not_hear_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swim, "_gossip", lambda self, now: None)
    monkeypatch.setattr("nomadpy.gossip.broadcasts.Broadcasts.take", lambda self, budget, limit: [])
    with pytest.raises(AssertionError, match="not everybody saw"):
        detection(1, 100, limit_s=6.0)


def test_without_helpers_and_tcp_suspicions_multiply() -> None:
    def suspicions(helpers: int) -> int:
        simulation = Simulation(11, network=HARSH, settings=GossipSettings(helpers=helpers))
        simulation.grow(20)
        simulation.run(60.0)
        return sum(agent.swim.counters.suspicions for agent in simulation.agents.values())

    assert suspicions(0) > 3 * suspicions(3)


def test_without_noticing_their_pause_agents_blame_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Swim, "_notice_pause", lambda self, now: setattr(self, "_last", now))
    assert failures_after_a_stop_in_the_middle_of_a_suspicion() > 0


def test_without_calling_the_failed_a_healed_network_stays_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Exchanges, "reconnect", lambda self, now: None)
    simulation = Simulation(0)
    names = [agent.swim.name for agent in simulation.grow(10)]
    simulation.part(names[:4], names[4:])
    simulation.run(60.0)
    simulation.heal()
    assert not simulation.run_until(simulation.agree, 45.0)


def test_without_the_word_of_a_former_life_a_restarted_agent_stays_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Claims, "about_me", lambda self, now, rank, incarnation, alive=None: None)
    simulation = Simulation(8)
    agents = simulation.grow(5)
    simulation.kill("n003")
    assert simulation.run_until(lambda: simulation.all_say("n003", FAILED), 10.0)
    simulation.restart("n003", address=agents[3].address)
    simulation.join("n003", "n000")
    assert not simulation.run_until(simulation.agree, 10.0)


def test_a_full_round_visits_everybody() -> None:
    simulation = Simulation(20)
    agents = simulation.grow(probing._SMALL_ROUND * 3)
    simulation.run(0.6)
    swim = agents[0].swim
    visited = [record.name for record in (swim._prober._turn() for _ in range(2 * len(agents))) if record]
    assert {name for name in visited if visited.count(name)} == {agent.swim.name for agent in agents[1:]}
    assert max(visited.count(name) for name in visited) <= 3


def test_packets_come_from_the_port_of_the_pool() -> None:
    simulation = Simulation(21)
    simulation.grow(2)
    simulation.add("late")
    simulation.join("late", "n000")
    assert simulation.run_until(simulation.agree, 5.0)
    assert {member.port for member in simulation.agents["n001"].swim.members()} == {PORT}
