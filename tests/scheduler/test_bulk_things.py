"""Ports by the hundred, cores, pools, and the order of a batch."""

from __future__ import annotations

from scheduler_world import World, dynamic_ports, make_group, make_job, make_node, make_task, static_port

from nomadpy.model.node import NodePool
from nomadpy.model.resources import NodeNetwork, NodeNetworkAddress, Port, Resources, Spread
from nomadpy.scheduler.batch import by_ask
from nomadpy.state import commands as c


def given_ports(world: World, job_id: str = "job") -> list[tuple[str, str, int]]:
    found = []
    for alloc in world.live(job_id):
        assert alloc.allocated_resources is not None
        found += [(alloc.node_id, port.label, port.value) for port in alloc.allocated_resources.shared.ports]
    return found


def small(count: int, **changes: object) -> dict[str, object]:
    return {"count": count, "task": make_task(cpu=1, memory_mb=1), "ephemeral_disk": None, **changes}


def test_ports_of_many_allocations_are_all_different() -> None:
    """The plan checker looks at ranges and addresses."""
    world = World(*(make_node(n) for n in range(3)))
    world.deploy(make_job(group=make_group(**small(300, ports=dynamic_ports("http", "rpc")))))
    ports = given_ports(world)
    assert len(ports) == 600
    assert len({(node, value) for node, _, value in ports}) == 600
    world.deploy(make_job("next", group=make_group(**small(200, ports=dynamic_ports("http")))))
    assert len({(node, value) for node, _, value in ports + given_ports(world, "next")}) == 800


def test_ports_that_run_out_move_allocations_to_other_nodes() -> None:
    narrow = make_node(0, resources={"min_dynamic_port": 20000, "max_dynamic_port": 20008})
    world = World(narrow, make_node(1))
    world.deploy(make_job(group=make_group(**small(60, ports=dynamic_ports("http", "rpc")))))
    assert world.by_node() == {0: 4, 1: 56}
    decision = world.deploy(make_job("two", group=make_group(**small(5, ports=dynamic_ports("http", "rpc")))))
    assert decision.placed == 5
    assert list(world.by_node("two")) == [1]


def test_ports_follow_a_spread() -> None:
    world = World(*(make_node(n, datacenter=f"dc{n % 2}") for n in range(4)))
    group = make_group(**small(40, ports=dynamic_ports("http")))
    world.deploy(
        make_job(group=group, datacenters=("*",), spreads=(Spread(attribute="${node.datacenter}", weight=50),))
    )
    assert len(set(given_ports(world))) == 40
    assert sum(count for node, count in world.by_node().items() if node % 2) == 20


def test_a_port_to_minus_one_is_the_one_given() -> None:
    world = World(make_node(0))
    world.deploy(make_job(group=make_group(**small(30, ports=dynamic_ports("http", to=-1)))))
    for alloc in world.live():
        assert alloc.allocated_resources is not None
        [port] = alloc.allocated_resources.shared.ports
        assert port.to == port.value > 0


def test_a_static_port_is_given_once_on_a_node_with_two_addresses() -> None:
    both = NodeNetwork(addresses=(NodeNetworkAddress(address="10.0.0.1"), NodeNetworkAddress(address="fd00::1")))
    for count in (2, 60):
        world = World(make_node(0, resources={"node_networks": (both,)}), make_node(1))
        decision = world.deploy(make_job(group=make_group(**small(count, ports=static_port(8080)))))
        assert decision.placed == 2
        assert world.by_node() == {0: 1, 1: 1}


def test_a_failed_port_is_told() -> None:
    world = World(make_node(0))
    decision = world.deploy(make_job(group=make_group(**small(60, ports=static_port(8080)))))
    metric = decision.evaluation.failed_tg_allocs["app"]
    assert metric.dimension_exhausted == {"network: reserved port collision http=8080": 1}


def test_reserved_cores_count_with_their_bandwidth() -> None:
    """Four cores of 1000 MHz: three reserved leave 1000 MHz, and give them back when they end."""
    world = World(make_node(0))
    cores = make_task(resources=Resources(cores=3, memory_mb=10))
    world.deploy(make_job("pinned", group=make_group(task=cores)))
    assert world.store.columns.cpu_used.tolist() == [3000]
    decision = world.deploy(make_job("plain", group=make_group(count=3, task=make_task(cpu=500))))
    assert decision.placed == 2
    assert decision.evaluation.failed_tg_allocs["app"].dimension_exhausted == {"cpu": 1}
    world.report("complete", *world.live("pinned"))
    assert world.store.columns.cpu_used.tolist() == [1000]


def test_cores_are_not_given_where_plain_work_uses_the_cpu() -> None:
    world = World(make_node(0))
    world.deploy(make_job("plain", group=make_group(task=make_task(cpu=2500))))
    decision = world.deploy(make_job("pinned", group=make_group(task=make_task(resources=Resources(cores=2)))))
    assert decision.evaluation.failed_tg_allocs["app"].dimension_exhausted == {"cpu": 1}


def test_usage_follows_a_node_that_changes_its_clock() -> None:
    world = World(make_node(0))
    world.deploy(make_job(group=make_group(task=make_task(resources=Resources(cores=2, memory_mb=10)))))
    world.add_node(make_node(0, cpu_mhz=8000))
    assert world.store.columns.cpu_used.tolist() == [4000]
    world.report("complete", *world.live())
    assert world.store.columns.cpu_used.tolist() == [0]


def test_a_pool_has_its_own_algorithm() -> None:
    world = World(*(make_node(n, node_pool="batch" if n < 2 else "default") for n in range(4)))
    own = {"SchedulerAlgorithm": "spread"}
    world.apply(c.UpsertNodePool(pool=NodePool(name="batch", scheduler_configuration=own)))
    for number in range(2):
        world.deploy(make_job(f"a{number}", node_pool="batch"))
        world.deploy(make_job(f"b{number}"))
    assert [*world.by_node("a0"), *world.by_node("a1")] == [0, 1]
    assert [*world.by_node("b0"), *world.by_node("b1")] == [2, 2]


def test_a_batch_is_sorted_by_what_jobs_ask_for() -> None:
    world = World(make_node(0))
    row = [(50, 100), (50, 200), (80, 100), (50, 100), (50, 200), (80, 300), (50, 100)]
    evals = []
    for number, (priority, cpu) in enumerate(row):
        world.register(make_job(f"j{number}", group=make_group(task=make_task(cpu=cpu))))
        evals.append(world.evaluation(f"j{number}", priority=priority))
    order = [evals.index(each) for each in by_ask(world.store, evals, lambda each: each)]
    assert order == [0, 3, 6, 1, 4, 2, 5]


def test_several_networks_of_ports() -> None:
    networks = NodeNetwork(
        addresses=(NodeNetworkAddress(address="10.0.0.1"), NodeNetworkAddress(alias="private", address="10.1.0.1"))
    )
    world = World(make_node(0, resources={"node_networks": (networks,)}))
    wanted = dynamic_ports("http").replace(
        reserved_ports=(Port(label="admin", value=9000, host_network="private"),),
    )
    world.deploy(make_job(group=make_group(**small(1, ports=wanted))))
    [alloc] = world.live()
    assert alloc.allocated_resources is not None
    admin, http = alloc.allocated_resources.shared.ports
    assert (admin.label, admin.value, admin.host_ip) == ("admin", 9000, "10.1.0.1")
    assert (http.label, http.host_ip) == ("http", "10.0.0.1")
