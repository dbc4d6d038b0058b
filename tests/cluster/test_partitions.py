"""Servers that cannot hear each other: never do two of them acknowledge, and the cut heals without help."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from call_history import DONE, READ, SWAP, WRITE, Op, indexes_are_one_order
from cluster_agents import Cluster, Machine, until
from cut_network import CutNetwork
from register_writers import Writers, check, read, write

# A leader that hears nobody steps down within this time.
DEPOSED_S = 1.8
Cut = Callable[[CutNetwork, Machine, Machine, Machine], None]


def alone(network: CutNetwork, leader: Machine, one: Machine, other: Machine) -> None:
    """The leader is cut off."""
    network.part([leader.number], [one.number, other.number])


def deaf(network: CutNetwork, leader: Machine, one: Machine, other: Machine) -> None:
    """The leader is heard, but hears nobody."""
    network.deafen(leader.number, one.number)
    network.deafen(leader.number, other.number)


def mute(network: CutNetwork, leader: Machine, one: Machine, other: Machine) -> None:
    """The leader hears, but nobody hears it."""
    network.deafen(one.number, leader.number)
    network.deafen(other.number, leader.number)


def one_link(network: CutNetwork, leader: Machine, one: Machine, other: Machine) -> None:
    """The leader and one follower do not hear each other; the other one hears both."""
    network.cut(leader.number, one.number)


def everybody(network: CutNetwork, leader: Machine, one: Machine, other: Machine) -> None:
    """Nobody hears anybody."""
    network.cut(leader.number, one.number)
    network.cut(leader.number, other.number)
    network.cut(one.number, other.number)


def _acknowledged(writers: Writers, at: float) -> list[Op]:
    """Writes that were begun when a leader that was cut off at that time had stepped down."""
    return [op for op in writers.history.of(DONE, WRITE, SWAP) if op.began > at + DEPOSED_S]


@pytest.mark.parametrize("cut", [alone, deaf, mute, one_link, everybody])
def test_a_cut_lets_at_most_one_side_acknowledge(torn: Cluster, network: CutNetwork, cut: Cut) -> None:
    leader = torn.wait_leader()
    one, other = torn.followers()
    with Writers(torn, 12, keys=4, name=f"cut-{cut.__name__}", timeout_s=2.0, pause_s=0.01) as writers:
        writers.wait_more(30)
        at = time.monotonic()
        cut(network, leader, one, other)
        time.sleep(DEPOSED_S)
        if cut is not everybody:
            until(lambda: _acknowledged(writers, at), "a write of the majority", timeout_s=40)
        time.sleep(0.7)  # in which a minority could do harm
        network.heal()
        healed = time.monotonic()
        writers.wait_more(30)
        print(f"FIG {cut.__name__}: writes again {time.monotonic() - healed:.2f} s after healing")
    history = writers.history
    during = [op for op in _acknowledged(writers, at) if op.ended < healed]
    places = {op.place for op in during}
    print(f"FIG {cut.__name__}: acknowledged during the cut: {len(during)} by {sorted(places)}, led by {leader.name}")
    if cut is everybody:
        assert not during, "somebody acknowledged alone"
    else:
        assert during, "the majority stood still"
    if cut is alone:
        assert leader.name not in places, "a leader without followers acknowledged"
    torn.wait_whole()
    assert indexes_are_one_order(history.ops)
    check(torn, history)


def test_writers_of_a_deposed_leader_are_never_told_success(torn: Cluster, network: CutNetwork) -> None:
    leader = torn.wait_leader()
    network.part([leader.number], [server.number for server in torn.followers()])
    written = write(leader, Op("deposed", WRITE, "lost?"), timeout_s=20)
    seen = read(leader, Op("deposed", READ), timeout_s=20)
    assert written.outcome != DONE, written
    assert seen.outcome != DONE, "a leader that was deposed answered a consistent read"
    successor = torn.wait_leader(torn.others(leader))
    assert successor is not leader
    network.heal()
    torn.wait_whole()
