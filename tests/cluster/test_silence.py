"""A stopped leader and a network that fails for a while: whoever is silent comes back, and nothing is restarted."""

from __future__ import annotations

import os
import signal
import time

from call_history import indexes_are_one_order
from cluster_agents import Cluster, is_alive
from cut_network import CutNetwork
from register_writers import Writers, check
from trouble import picture

# Beyond the time in which a dead machine is noticed and replaced, about 3 s.
STOPPED_S = float(os.environ.get("NOMADPY_TEST_STOPPED_S", "5.5"))
BLIP_S = float(os.environ.get("NOMADPY_TEST_BLIP_S", "5"))
AFTER_S = 2.5


def test_a_stopped_leader_comes_back_and_nothing_restarts(torn: Cluster) -> None:
    torn.submit(torn.witness_job("stopped", 6))
    torn.wait_running("stopped", 6)
    before = picture(torn, "stopped")
    leader = torn.wait_leader()
    with Writers(torn, 6, keys=3, name="stopped", timeout_s=3.0, pause_s=0.02) as writers:
        leader.send(signal.SIGSTOP)
        time.sleep(STOPPED_S)
        leader.send(signal.SIGCONT)
        time.sleep(AFTER_S)  # in which the one that was stopped could do harm
    torn.wait_whole()
    assert picture(torn, "stopped") == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    assert indexes_are_one_order(writers.history.ops)
    check(torn, writers.history)
    torn.purge("stopped")


def test_a_leader_of_the_only_servers_that_is_stopped_with_all_others_restarts_nothing(torn: Cluster) -> None:
    """As when the machine below all servers is frozen."""
    torn.submit(torn.witness_job("frozen", 6))
    torn.wait_running("frozen", 6)
    before = picture(torn, "frozen")
    for server in torn.servers:
        server.send(signal.SIGSTOP)
    time.sleep(BLIP_S)
    for server in torn.servers:
        server.send(signal.SIGCONT)
    time.sleep(AFTER_S)
    torn.wait_whole()
    assert picture(torn, "frozen") == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    torn.purge("frozen")


def test_a_blip_between_servers_and_all_clients_restarts_nothing(torn: Cluster, network: CutNetwork) -> None:
    torn.submit(torn.witness_job("blip", 6))
    torn.wait_running("blip", 6)
    before = picture(torn, "blip")
    network.part([server.number for server in torn.servers], [client.number for client in torn.clients])
    time.sleep(BLIP_S)
    network.heal()
    time.sleep(AFTER_S)
    torn.wait_whole()
    assert picture(torn, "blip") == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    torn.purge("blip")
