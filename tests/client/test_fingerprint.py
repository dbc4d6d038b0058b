from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from client_world import IDENTITY, make_config

from nomadpy.client.config import HostNetworkConfig, HostVolumeConfig, ReservedConfig
from nomadpy.client.fingerprint.network import default_route_interface
from nomadpy.client.fingerprint.node import build_node, driver_info, fingerprint_host, health_event
from nomadpy.client.identity import load_identity
from nomadpy.drivers.contract import Fingerprint
from nomadpy.model.errors import Invalid
from nomadpy.model.node import DriverInfo, Node
from nomadpy.model.node_class import computed_class


@pytest.fixture
def node(tmp_path: Path) -> Node:
    config = make_config(
        tmp_path,
        alloc_dir=str(tmp_path),
        meta={"rack": "r1"},
        reserved=ReservedConfig(cpu=100, memory_mb=64, reserved_ports="22"),
        host_volumes={"v": HostVolumeConfig(path="/srv")},
        host_networks={"inner": HostNetworkConfig(cidr="127.0.0.0/8")},
    )
    info = driver_info(Fingerprint(detected=True, healthy=True, attributes={"driver.x.version": "1"}), 5)
    return build_node(config, IDENTITY, fingerprint_host(config), {"x": info}, {"dynamic": "d"})


def test_the_node_says_what_jobs_ask_for(node: Node) -> None:
    expected = {"kernel.name": "linux", "nomad.version": "2.0.0", "driver.x": "1", "driver.x.version": "1"}
    assert expected.items() <= node.attributes.items()
    assert node.attributes["cpu.arch"] in ("amd64", "arm64")
    assert "SIGHUP" in node.attributes["os.signals"].split(",")
    assert int(node.attributes["memory.totalbytes"]) // 2**20 == node.node_resources.memory.memory_mb
    assert node.node_resources.cpu.cpu_shares > 0
    assert node.node_resources.disk.disk_mb > 0
    assert all(isinstance(value, str) and value for value in node.attributes.values())
    assert node.meta["rack"] == "r1"
    assert node.meta["dynamic"] == "d"


def test_networks_have_their_aliases(node: Node) -> None:
    found = {(a.alias, a.address) for n in node.node_resources.node_networks for a in n.addresses}
    assert {("default", "127.0.0.1"), ("inner", "127.0.0.1")} <= found
    assert node.attributes["unique.network.ip-address"] == "127.0.0.1"
    assert all(n.speed == 1000 for n in node.node_resources.node_networks)


def test_the_class_ignores_what_is_unique_and_sees_what_is_not(node: Node) -> None:
    assert re.fullmatch(r"v1:[0-9a-f]+", node.computed_class)
    attributes = {**node.attributes, "unique.hostname": "other"}
    assert computed_class(node.replace(attributes=attributes, id="x", name="y")) == node.computed_class
    for change in ({"node_class": "big"}, {"datacenter": "dc9"}, {"meta": {}}, {"attributes": {}}):
        assert computed_class(node.replace(**change)) != node.computed_class


def test_lists_of_the_options_choose_fingerprints(tmp_path: Path) -> None:
    config = make_config(tmp_path, alloc_dir=str(tmp_path), options={"fingerprint.denylist": "cpu, host"})
    attributes = fingerprint_host(config).attributes
    assert "cpu.arch" not in attributes
    assert "memory.totalbytes" in attributes


def test_health_changes_are_events() -> None:
    healthy, gone = DriverInfo(detected=True, healthy=True), DriverInfo(health_description="gone")
    assert health_event("docker", healthy, healthy, 1) is None
    event = health_event("docker", healthy, gone, 1)
    assert event is not None
    assert (event.message, event.subsystem) == ("gone", "Driver")


def test_a_machine_without_a_route_has_no_default_interface() -> None:
    assert default_route_interface("Iface Destination Gateway Flags\neth0 000200C0 00000000 0001") == ""


def test_the_identity_is_made_once(tmp_path: Path) -> None:
    first = load_identity(str(tmp_path), random.Random(1))
    assert load_identity(str(tmp_path), random.Random(2)) == first
    assert first.node_id != first.secret_id
    assert (tmp_path / "secret-id").stat().st_mode & 0o777 == 0o600
    (tmp_path / "client-id").write_text("nonsense")
    with pytest.raises(Invalid, match="must hold a UUID"):
        load_identity(str(tmp_path), random.Random(3))


def test_a_configuration_is_checked_as_a_whole(tmp_path: Path) -> None:
    config = make_config(tmp_path, alloc_dir="rel", min_dynamic_port=9, max_dynamic_port=3)
    assert len(config.check()) == 2
