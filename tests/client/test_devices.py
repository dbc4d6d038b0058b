"""Devices: what plugins find, what a file describes, and what a task gets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from client_world import make_alloc, make_config, make_task, running_client

from nomadpy.client.devices import DeviceWatch
from nomadpy.drivers.contract import DeviceNode, Mount
from nomadpy.drivers.device_file import FileDevices
from nomadpy.drivers.devices import DeviceContext, DeviceStats, Reservation, load_device_plugins
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import Invalid, Temporary
from nomadpy.model.resources import (
    AllocatedDevice,
    DeviceAttribute,
    DeviceInstance,
    NodeDevice,
    RequestedDevice,
    Resources,
)

CARDS = """
- vendor: acme
  type: fpga
  name: a1
  attributes: {memory: 8 GiB, speed: 1.5 GHz, generation: 3, secure: true, board: rev b}
  env: ACME_VISIBLE
  instances:
    - {id: c0, paths: [/dev/null]}
    - {id: c1, paths: [/dev/zero, /dev/null]}
    - {id: c2, healthy: false}
    - {id: c3, paths: [/dev/no-such-thing]}
"""
GPU = NodeDevice(
    vendor="v",
    type="gpu",
    name="g",
    instances=(DeviceInstance(id="a", healthy=True), DeviceInstance(id="b", healthy=True)),
)


class Plugin:
    """Answers as it is told."""

    name = "pretend"

    def __init__(self, *groups: NodeDevice) -> None:
        self.groups: Sequence[NodeDevice] = groups
        self.error: Exception | None = None
        self.refusals: list[Exception] = []

    async def fingerprint(self) -> Sequence[NodeDevice]:
        if self.error:
            raise self.error
        return self.groups

    async def reserve(self, group: NodeDevice, ids: Sequence[str]) -> Reservation:
        if self.refusals:
            raise self.refusals.pop(0)
        return Reservation(
            env={f"{group.type.upper()}_IDS": ",".join(ids)},
            mounts=(Mount(host_path="/opt/gpu", task_path="/opt/gpu", read_only=True),),
            devices=tuple(DeviceNode(host_path=f"/dev/{ident}", task_path=f"/dev/{ident}") for ident in ids),
        )

    async def stats(self) -> Sequence[DeviceStats]:
        if self.error:
            raise self.error
        return [DeviceStats(vendor="v", type="gpu", name="g", instance_stats={"a": {"load": 3}})]


def describe(tmp_path: Path, text: str) -> FileDevices:
    file = tmp_path / "devices.yaml"
    file.write_text(text)
    return FileDevices(DeviceContext(plugin_config={"path": str(file)}))


def with_device(*ids: str) -> Allocation:
    wish = Resources(devices=(RequestedDevice(name="gpu", count=len(ids)),))
    alloc = make_alloc(make_task(resources=wish))
    resources = alloc.allocated_resources
    assert resources is not None
    given = AllocatedDevice(vendor="v", type="gpu", name="g", device_ids=ids)
    task = resources.tasks["web"].replace(devices=(given,))
    return alloc.replace(allocated_resources=resources.replace(tasks={"web": task}))


# --- the plugin that reads a file ---


async def test_a_file_describes_groups_with_typed_attributes_and_health(tmp_path: Path) -> None:
    [group] = await describe(tmp_path, CARDS).fingerprint()
    assert (group.vendor, group.type, group.name) == ("acme", "fpga", "a1")
    assert group.attributes == {
        "memory": DeviceAttribute(int_=8, unit="GiB"),
        "speed": DeviceAttribute(float_=1.5, unit="GHz"),
        "generation": DeviceAttribute(int_=3),
        "secure": DeviceAttribute(bool_=True),
        "board": DeviceAttribute(string="rev b"),
    }
    assert [(each.id, each.healthy) for each in group.instances] == [
        ("c0", True), ("c1", True), ("c2", False), ("c3", False)
    ]  # fmt: skip
    assert group.instances[3].health_description == "a device file is missing"


async def test_a_file_gives_its_device_files_and_a_variable(tmp_path: Path) -> None:
    plugin = describe(tmp_path, CARDS)
    [group] = await plugin.fingerprint()
    reserved = await plugin.reserve(group, ["c1", "c0"])
    assert reserved.env == {"ACME_VISIBLE": "c1,c0"}
    assert [device.host_path for device in reserved.devices] == ["/dev/zero", "/dev/null"]
    with pytest.raises(Invalid, match="has no instance c9"):
        await plugin.reserve(group, ["c9"])
    [stats] = await plugin.stats()
    assert stats.instance_stats["c3"] == {"Summary": {"StringVal": "missing"}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- {", "cannot be read"),
        ("a: 1", "must be a list of groups"),
        ("- {vendor: a, type: b}", "needs vendor, type and name"),
        ("- {vendor: a, type: b, name: c, colour: red}", 'has no key "colour"'),
        ("- {vendor: a, type: b, name: c, instances: [{paths: []}]}", "an instance has an id"),
        ("- {vendor: a, type: b, name: c, instances: 3}", "must be a list, and attributes a map"),
        ("- {vendor: a, type: b, name: c}\n- {vendor: a, type: b, name: c}", "twice"),
    ],
)
async def test_a_file_that_is_wrong_is_told(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(Invalid, match=problem):
        await describe(tmp_path, text).fingerprint()


@pytest.mark.parametrize("config", [{}, {"path": "devices.yaml"}, {"path": "/x", "file": "/y"}])
def test_an_option_that_is_wrong_is_told(config: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=r'wants config \{ path = "/absolute/file\.yaml" \}'):
        FileDevices(DeviceContext(plugin_config=config))


def test_only_plugins_that_are_configured_are_loaded(tmp_path: Path) -> None:
    assert load_device_plugins({}) == {}
    loaded = load_device_plugins({"device_file": {"path": str(tmp_path / "x")}, "docker": {}})
    assert list(loaded) == ["device_file"]
    assert load_device_plugins({"device_file": {}}) == {}


# --- the node ---


async def test_the_node_follows_its_devices(tmp_path: Path, jumping_clock: object) -> None:
    plugin = Plugin(GPU)
    async with running_client(make_config(tmp_path), devices={"pretend": plugin}) as world:
        await world.until(lambda: bool(world.servers.nodes))
        assert world.client.node.node_resources.devices == (GPU,)
        with_devices = world.client.node.computed_class
        plugin.groups = ()
        registered = world.servers.nodes
        await world.until(lambda: registered[world.client.node_id].node_resources.devices == ())
        assert world.client.node.computed_class != with_devices


async def test_devices_of_a_plugin_that_fails_are_unhealthy_until_it_answers() -> None:
    plugin = Plugin(GPU)
    watch = DeviceWatch({"pretend": plugin}, on_change=lambda: None)
    assert await watch.look()
    assert not await watch.look()
    plugin.error = RuntimeError("the bus is gone")
    assert await watch.look()
    [group] = watch.devices
    assert [(one.healthy, one.health_description) for one in group.instances] == [(False, "the bus is gone")] * 2
    assert await watch.stats() == ()
    plugin.error = None
    assert await watch.look()
    assert watch.devices == (GPU,)
    [stats] = await watch.stats()
    assert stats["InstanceStats"] == {"a": {"load": 3}}


async def test_the_first_plugin_that_has_a_group_owns_it() -> None:
    first, second = Plugin(GPU), Plugin(GPU.replace(instances=()))
    watch = DeviceWatch({"b": second, "a": first}, on_change=lambda: None)
    await watch.look()
    assert watch.devices == (GPU,)
    assert watch.owner(("v", "gpu", "g")) == (first, GPU)
    assert watch.owner(("v", "gpu", "other")) is None


# --- a task ---


async def test_a_task_gets_what_its_devices_need(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path), devices={"pretend": Plugin(GPU)}) as world:
        alloc = with_device("b", "a")
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        config = world.driver.attempt_of("web").config
        assert config.env["GPU_IDS"] == "b,a"
        assert [device.host_path for device in config.devices] == ["/dev/b", "/dev/a"]
        assert [mount.host_path for mount in config.mounts] == ["/opt/gpu"]


async def test_a_device_that_is_not_there_is_waited_for(tmp_path: Path, jumping_clock: object) -> None:
    plugin = Plugin()
    async with running_client(make_config(tmp_path), devices={"pretend": plugin}) as world:
        alloc = with_device("a")
        world.servers.put(alloc)

        def waits() -> bool:
            said = world.servers.latest.get(alloc.id)
            events = said.task_states["web"].events if said is not None else ()
            return any("device v/gpu/g is not on this node any more" in event.display_message for event in events)

        await world.until(waits)
        plugin.groups = (GPU,)
        await world.until_status(alloc, "running")


@pytest.mark.parametrize(("error", "status"), [(Temporary("busy"), "running"), (Invalid("no such card"), "failed")])
async def test_a_plugin_may_refuse_for_a_while_or_for_good(
    tmp_path: Path, jumping_clock: object, error: Exception, status: str
) -> None:
    plugin = Plugin(GPU)
    plugin.refusals = [error]
    async with running_client(make_config(tmp_path), devices={"pretend": plugin}) as world:
        alloc = with_device("a")
        world.servers.put(alloc)
        await world.until_status(alloc, status)
