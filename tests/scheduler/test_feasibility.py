"""Which nodes are ruled out, and under which reason."""

from __future__ import annotations

from typing import Any

import pytest
from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.job import Job, VolumeRequest
from nomadpy.model.node import DriverInfo, HostVolume, Node
from nomadpy.model.resources import (
    Affinity,
    Constraint,
    DeviceAttribute,
    DeviceInstance,
    NetworkResource,
    NodeDevice,
    NodeNetwork,
    NodeNetworkAddress,
    RequestedDevice,
    Resources,
    Spread,
    SpreadTarget,
)


def constraint(left: str, right: str = "", operand: str = "=") -> Constraint:
    return Constraint(l_target=left, r_target=right, operand=operand)


def failure(world: World, job: Job) -> AllocMetric:
    return world.deploy(job).evaluation.failed_tg_allocs["app"]


LINUX = constraint("${attr.kernel.name}", "linux")
WINDOWS = constraint("${attr.kernel.name}", "windows")
HOSTNET = NetworkResource(dynamic_ports=dynamic_ports("http").dynamic_ports, mode="bridge")
GPU = make_task(resources=Resources(cpu=1, memory_mb=1, devices=(RequestedDevice(name="nvidia/gpu"),)))

REFUSED = [
    (make_job(constraints=(WINDOWS,)), "${attr.kernel.name} = windows"),
    (make_job(group=make_group(constraints=(WINDOWS,))), "${attr.kernel.name} = windows"),
    (make_job(group=make_group(task=make_task(constraints=(WINDOWS,)))), "${attr.kernel.name} = windows"),
    (make_job(group=make_group(task=make_task(driver="java"))), "missing drivers"),
    (make_job(group=make_group(task=GPU)), "missing devices"),
    (make_job(group=make_group(ports=HOSTNET)), "missing network"),
    (
        make_job(group=make_group(ports=dynamic_ports("db", host_network="private"))),
        'missing host network "private" for port "db"',
    ),
    (
        make_job(group=make_group(volumes={"v": VolumeRequest(name="v", type="host", source="certs")})),
        "missing compatible host volumes",
    ),
    (
        make_job(group=make_group(volumes={"v": VolumeRequest(name="v", type="csi", source="db")})),
        "missing CSI Volume db",
    ),
]


@pytest.mark.parametrize(("job", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_a_node_is_filtered_with_its_reason(job: Job, reason: str) -> None:
    world = World(make_node(0, node_class="big"), make_node(1))
    metric = failure(world, job)
    assert metric.constraint_filtered == {reason: 2}
    assert metric.class_filtered == {"big": 1}
    assert (metric.nodes_evaluated, metric.nodes_filtered, metric.nodes_exhausted) == (2, 2, 0)


def test_the_first_reason_counts_for_each_node() -> None:
    world = World(make_node(0), make_node(1, attributes={"kernel.name": "plan9"}), make_node(2, drivers=()))
    metric = failure(world, make_job(constraints=(LINUX,), group=make_group(constraints=(WINDOWS,))))
    assert metric.constraint_filtered == {
        "${attr.kernel.name} = linux": 1,
        "missing drivers": 1,
        "${attr.kernel.name} = windows": 1,
    }


def test_datacenters_and_pools_limit_the_candidates() -> None:
    world = World(
        make_node(0),
        make_node(1, datacenter="eu-1"),
        make_node(2, datacenter="eu-2"),
        make_node(3, datacenter="eu-1", node_pool="gpu"),
    )
    decision = world.deploy(make_job(count=2, datacenters=("eu-*",)))
    assert world.by_node() == {1: 1, 2: 1}
    metrics = decision.plan.places[0].metrics
    assert metrics is not None
    assert (metrics.nodes_evaluated, metrics.nodes_in_pool) == (2, 3)
    assert metrics.nodes_available == {"eu-1": 1, "eu-2": 1}
    world.deploy(make_job("gpu", datacenters=("*",), node_pool="gpu"))
    assert world.by_node("gpu") == {3: 1}
    world.deploy(make_job("all", count=4, datacenters=("*",), node_pool="all"))
    assert world.by_node("all") == {0: 1, 1: 1, 2: 1, 3: 1}


def test_datacenters_of_other_pools_are_not_told_as_empty() -> None:
    world = World(make_node(0, datacenter="a"), make_node(1, datacenter="b", node_pool="gpu", status="down"))
    job = make_job(node_pool="gpu", datacenters=("*",))
    assert failure(world, job).nodes_available == {"b": 0}
    assert failure(world, job.replace(datacenters=("a", "b"))).nodes_available == {"a": 0, "b": 0}


def test_an_unhealthy_driver_is_missing() -> None:
    sick = DriverInfo(detected=True, healthy=False)
    world = World(make_node(0, drivers=()).replace(drivers={"docker": sick}), make_node(1, drivers=()))
    assert failure(world, make_job()).constraint_filtered == {"missing drivers": 2}
    world.add_node(make_node(2, drivers=(), attributes={"driver.docker": "1"}))
    world.run()
    assert world.by_node() == {2: 1}


def test_a_unique_constraint_escapes_the_class() -> None:
    world = World(make_node(0), make_node(1))
    decision = world.deploy(make_job(constraints=(constraint("${node.unique.name}", "node-7"),)))
    assert decision.created[0].escaped_computed_class
    assert decision.created[0].class_eligibility == {make_node(0).computed_class: True}
    world.deploy(make_job("other", constraints=(constraint("${node.unique.name}", "node-1"),)))
    assert world.by_node("other") == {1: 1}


def test_classes_that_can_never_run_the_job_are_named() -> None:
    linux, plan9 = make_node(0, cpu_mhz=100), make_node(1, attributes={"kernel.name": "plan9"})
    [blocked] = World(linux, plan9).deploy(make_job(constraints=(LINUX,))).created
    assert blocked.class_eligibility == {linux.computed_class: True, plan9.computed_class: False}


def test_a_class_without_the_device_is_ruled_out_but_not_one_where_it_is_sick() -> None:
    def gpu(healthy: bool) -> dict[str, Any]:
        instance = DeviceInstance(id="0", healthy=healthy)
        return {"devices": (NodeDevice(vendor="nvidia", type="gpu", name="t4", instances=(instance,)),)}

    bare, sick = make_node(0), make_node(1, resources=gpu(False))
    task = make_task().replace(resources=Resources(cpu=10, memory_mb=10, devices=(RequestedDevice(name="gpu"),)))
    [blocked] = World(bare, sick).deploy(make_job(group=make_group(task=task))).created
    assert blocked.class_eligibility == {bare.computed_class: False, sick.computed_class: True}


def test_two_references_are_compared_per_node() -> None:
    world = World(
        make_node(0, meta={"a": "1", "b": "2"}), make_node(1, meta={"a": "3", "b": "3"}), make_node(2, meta={})
    )
    world.deploy(make_job(constraints=(constraint("${meta.a}", "${meta.b}"),)))
    assert world.by_node() == {1: 1}


def test_distinct_hosts() -> None:
    world = World(make_node(0), make_node(1))
    metric = failure(world, make_job(count=3, constraints=(constraint("", "", "distinct_hosts"),)))
    assert world.by_node() == {0: 1, 1: 1}
    assert metric.constraint_filtered == {"distinct_hosts": 2}


def test_distinct_hosts_of_a_job_hold_between_its_groups() -> None:
    world = World(make_node(0), make_node(1))
    groups = (make_group(), make_group(name="other"))
    world.deploy(make_job(task_groups=groups, constraints=(constraint("", "true", "distinct_hosts"),)))
    assert world.by_node() == {0: 1, 1: 1}
    off = make_job("off", count=3, constraints=(constraint("", "false", "distinct_hosts"),))
    assert world.deploy(off).placed == 3


def test_distinct_property() -> None:
    racks = ("r1", "r1", "r2", "")
    world = World(*(make_node(n, meta={"rack": rack} if rack else {}) for n, rack in enumerate(racks)))
    limit = constraint("${meta.rack}", "2", "distinct_property")
    metric = failure(world, make_job(count=5, constraints=(limit,)))
    placed = world.by_node()
    assert placed.get(0, 0) + placed.get(1, 0) == 2
    assert placed[2] == 2
    assert metric.constraint_filtered == {
        'distinct_property: missing property "${meta.rack}"': 1,
        "distinct_property: ${meta.rack}=r1 used by 2 allocs": 2,
        "distinct_property: ${meta.rack}=r2 used by 2 allocs": 1,
    }


def test_host_volumes() -> None:
    def volume(read_only: bool) -> dict[str, HostVolume]:
        return {"certs": HostVolume(name="certs", path="/certs", read_only=read_only)}

    world = World(make_node(0), make_node(1, host_volumes=volume(True)), make_node(2, host_volumes=volume(False)))
    for job_id, read_only, nodes in (("reader", True, {1: 1, 2: 1}), ("writer", False, {2: 2})):
        request = VolumeRequest(name="v", type="host", source="certs", read_only=read_only)
        world.deploy(make_job(job_id, group=make_group(count=2, volumes={"v": request})))
        assert world.by_node(job_id) == nodes


def test_a_volume_per_allocation() -> None:
    volumes = [{f"db[{n}]": HostVolume(name=f"db[{n}]", path="/db")} for n in (1, 0)]
    world = World(*(make_node(n, host_volumes=held) for n, held in enumerate(volumes)))
    request = VolumeRequest(name="v", type="host", source="db", per_alloc=True)
    decision = world.deploy(make_job(group=make_group(count=3, volumes={"v": request})))
    assert [(alloc.index, alloc.node_id[-1]) for alloc in world.live()] == [(0, "1"), (1, "0")]
    assert decision.evaluation.queued_allocations == {"app": 1}


def test_node_max_allocs() -> None:
    for ports in (None, dynamic_ports("http")):
        metric = failure(World(make_node(0, node_max_allocs=2)), make_job(group=make_group(count=3, ports=ports)))
        assert metric.dimension_exhausted == {"max allocation exceeded": 1}


@pytest.mark.parametrize(
    ("changes", "dimension"),
    [({"cpu_mhz": 100}, "cpu"), ({"memory_mb": 100}, "memory"), ({"disk_mb": 100}, "disk")],
)
def test_resources_run_out(changes: dict[str, Any], dimension: str) -> None:
    metric = failure(World(make_node(0, **changes, node_class="small")), make_job())
    assert metric.dimension_exhausted == {dimension: 1}
    assert metric.class_exhausted == {"small": 1}
    assert metric.resources_exhausted["web"].cpu == 500


# --- ports ------------------------------------------------------------------------------------------------------------


def ports(world: World, job_id: str = "job") -> list[tuple[str, int, int]]:
    found = []
    for alloc in world.live(job_id):
        assert alloc.allocated_resources is not None
        found += [(port.host_ip, port.value, port.to) for port in alloc.allocated_resources.shared.ports]
    return found


def test_a_static_port_is_given_once_per_node() -> None:
    world = World(make_node(0), make_node(1))
    metric = failure(world, make_job(group=make_group(count=3, ports=static_port(8080, to=80))))
    assert ports(world) == [("10.0.0.1", 8080, 80), ("10.0.0.2", 8080, 80)]
    assert metric.dimension_exhausted == {"network: reserved port collision http=8080": 2}


def test_ignored_collisions_share_a_port() -> None:
    world = World(make_node(0))
    world.deploy(make_job(group=make_group(count=2, ports=static_port(8080, ignore_collision=True))))
    assert ports(world) == [("10.0.0.1", 8080, 0)] * 2


def test_dynamic_ports_stay_in_the_nodes_range_and_run_out() -> None:
    node = make_node(0, resources={"min_dynamic_port": 20000, "max_dynamic_port": 20004})
    metric = failure(World(node), make_job(group=make_group(count=3, ports=dynamic_ports("a", "b"))))
    assert metric.dimension_exhausted == {"network: dynamic port selection failed": 1}
    world = World(node)
    world.deploy(make_job(group=make_group(count=2, ports=dynamic_ports("a", "b", to=-1))))
    given = [value for _, value, _ in ports(world)]
    assert len(set(given)) == 4
    assert set(given) <= set(range(20000, 20005))
    assert [to for _, _, to in ports(world)] == given


def test_reserved_ports_are_kept_from_jobs() -> None:
    address = NodeNetworkAddress(address="10.0.0.9", reserved_ports="8000-8100")
    world = World(make_node(0, resources={"node_networks": (NodeNetwork(addresses=(address,)),)}))
    reserved = make_job(group=make_group(ports=static_port(8080)))
    assert failure(world, reserved).dimension_exhausted == {"network: reserved port collision http=8080": 1}


def test_a_host_network_has_its_own_address() -> None:
    addresses = (NodeNetworkAddress(address="10.0.0.1"), NodeNetworkAddress(alias="private", address="192.168.0.1"))
    node = make_node(1, resources={"node_networks": (NodeNetwork(addresses=addresses),)})
    world = World(make_node(0), node)
    world.deploy(make_job(group=make_group(ports=static_port(80, host_network="private"))))
    world.deploy(make_job("public", group=make_group(count=2, ports=static_port(80))))
    assert ports(world) == [("192.168.0.1", 80, 0)]
    assert sorted(ip for ip, _, _ in ports(world, "public")) == ["10.0.0.1", "10.0.0.1"]


def test_ports_are_not_given_twice_within_a_batch() -> None:
    from nomadpy.scheduler import Fleet

    world = World(make_node(0), make_node(1))
    for name in ("a", "b", "c"):
        world.register(make_job(name, group=make_group(ports=static_port(80))))
    fleet, placed = Fleet(world.store), []
    for name in ("a", "b", "c"):
        decision = world.decide(world.evaluation(name), fleet=fleet)
        fleet.commit(decision)
        placed.append(decision.placed)
    assert placed == [1, 1, 0]


# --- devices and cores ------------------------------------------------------------------------------------------------


def gpu_node(number: int, *, memory: int = 8, healthy: int = 2) -> Node:
    instances = tuple(DeviceInstance(id=f"gpu-{number}-{i}", healthy=i < healthy) for i in range(2))
    attributes = {"memory": DeviceAttribute(int_=memory, unit="GiB")}
    device = NodeDevice(vendor="nvidia", type="gpu", name="t4", instances=instances, attributes=attributes)
    return make_node(number, resources={"devices": (device,)})


def gpu_job(count: int, **request: Any) -> Job:
    wanted = RequestedDevice(name="gpu").replace(**request)
    return make_job(group=make_group(count=count, task=make_task(resources=Resources(cpu=1, devices=(wanted,)))))


def test_devices_are_given_until_they_run_out() -> None:
    world = World(gpu_node(0), gpu_node(1, healthy=1), make_node(2))
    metric = failure(world, gpu_job(4))
    assert world.by_node() == {0: 2, 1: 1}
    assert metric.dimension_exhausted == {"devices: no devices match request gpu": 2}
    assert metric.constraint_filtered == {"missing devices": 1}


def test_device_constraints_compare_in_base_units() -> None:
    world = World(gpu_node(0, memory=4), gpu_node(1, memory=16))
    world.deploy(gpu_job(1, constraints=(constraint("${device.attr.memory}", "8 GiB", ">="),)))
    assert world.by_node() == {1: 1}


def test_reserved_cores_are_not_shared() -> None:
    task = make_task(resources=Resources(cores=3, memory_mb=10))
    metric = failure(World(make_node(0)), make_job(group=make_group(count=2, task=task)))
    assert metric.dimension_exhausted == {"cores": 1}


# --- wishes -----------------------------------------------------------------------------------------------------------


def test_affinity_draws_and_repels() -> None:
    for weight, node in ((100, 2), (-100, 0)):
        world = World(*(make_node(n, node_class="big" if n == 2 else "") for n in range(3)))
        wish = Affinity(l_target="${node.class}", operand="=", r_target="big", weight=weight)
        world.deploy(make_job(affinities=(wish,)))
        assert list(world.by_node()) == [node]


def test_spread_follows_its_targets() -> None:
    world = World(*(make_node(n, meta={"rack": "r1" if n < 4 else "r2"}) for n in range(8)))
    targets = (SpreadTarget(value="r1", percent=75), SpreadTarget(value="r2", percent=25))
    world.deploy(make_job(count=8, spreads=(Spread(attribute="${meta.rack}", weight=100, spread_target=targets),)))
    assert sum(count for node, count in world.by_node().items() if node < 4) == 6


def test_even_spread() -> None:
    world = World(*(make_node(n, datacenter=f"dc{n % 3}") for n in range(9)))
    spread = Spread(attribute="${node.datacenter}", weight=50)
    world.deploy(make_job(count=6, datacenters=("*",), spreads=(spread,)))
    per_dc = [sum(c for node, c in world.by_node().items() if node % 3 == dc) for dc in range(3)]
    assert per_dc == [2, 2, 2]
