"""Each command: what comes of it, and what is refused with which words, changing nothing."""

from __future__ import annotations

import msgspec
import pytest
from cluster_builders import make_group, make_job, make_node, node_id
from state_checker import check_store, fingerprint
from state_world import World

from nomadpy.model.alloc import DesiredTransition
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.evaluation import Deployment
from nomadpy.model.job import JobSubmission, JobVersionTag, ParameterizedJobConfig, PeriodicConfig, ScalingEvent
from nomadpy.model.node import DrainStrategy, Namespace, NodeEvent, NodePool, SchedulerConfiguration
from nomadpy.state import commands as c
from nomadpy.state.apply import HANDLERS

NODE = node_id(0)
CONFIG = SchedulerConfiguration(scheduler_algorithm="spread")


def prepared() -> World:
    """A node that runs one allocation of job ``job``; job ``cron`` is periodic, job ``calls`` parameterized."""
    world = World(1)
    world.register(make_job(), with_eval=True)
    world.run()
    world.register(make_job("cron", type="batch", periodic=PeriodicConfig(spec="@daily")))
    world.register(make_job("calls", type="batch", parameterized_job=ParameterizedJobConfig()))
    world.apply(c.TagJobVersion(job_id="calls", name="golden", version=0, tag=JobVersionTag(name="golden")))
    world.apply(c.UpsertNamespace(namespace=Namespace(name="apps")))
    world.apply(c.UpsertNodePool(pool=NodePool(name="gpu")))
    world.apply(c.RegisterNode(node=make_node(9, node_pool="gpu")))
    return world


REFUSALS: list[tuple[c.Command, int, str]] = [
    (c.InitCluster(id_key="0" * 32), 500, "the cluster was initialised before"),
    (
        c.RegisterJob(job=make_job(namespace="nowhere")),
        500,
        'job "job" is in nonexistent namespace "nowhere"',
    ),
    (c.RegisterJob(job=make_job(node_pool="none")), 500, 'job "job" is in nonexistent node pool "none"'),
    (c.RegisterJob(job=make_job(type="batch")), 500, 'cannot update job from type "service" to "batch"'),
    (
        c.RegisterJob(job=make_job("cron", type="batch")),
        500,
        "cannot update periodic job to being non-periodic",
    ),
    (
        c.RegisterJob(job=make_job(periodic=PeriodicConfig())),
        500,
        "cannot update non-periodic job to being periodic",
    ),
    (
        c.RegisterJob(job=make_job("calls", type="batch")),
        500,
        "cannot update parameterized job to being non-parameterized",
    ),
    (
        c.RegisterJob(job=make_job(parameterized_job=ParameterizedJobConfig())),
        500,
        "cannot update non-parameterized job to being parameterized",
    ),
    (c.RegisterJob(job=make_job(), enforce_index=0), 500, "Enforcing job modify index 0: job already exists"),
    (c.RegisterJob(job=make_job("new"), enforce_index=7), 500, "Enforcing job modify index 7: job does not exist"),
    (
        c.RegisterJob(job=make_job(), enforce_index=99),
        500,
        "Enforcing job modify index 99: job exists with conflicting job modify index: 4",
    ),
    (c.RecordScalingEvent(job_id="none", group="app"), 404, 'job "none" not found'),
    (c.SetJobStability(job_id="job", version=7), 500, 'job "job" in namespace "default" at version 7 not found'),
    (c.TagJobVersion(job_id="job", name="x"), 500, 'tag "x" not found on job "job"'),
    (
        c.TagJobVersion(job_id="job", name="x", version=7, tag=JobVersionTag(name="x")),
        500,
        'job "job" version 7 not found',
    ),
    (
        c.UpdateAllocTransitions(transitions={NODE: DesiredTransition(migrate=True)}),
        404,
        "allocation not found",
    ),
    (c.RegisterNode(node=make_node(secret_id="other")), 403, "node secret ID does not match"),
    (
        c.RegisterNode(node=make_node(1, node_pool="all")),
        500,
        'node is not allowed to register in node pool "all"',
    ),
    (
        c.RegisterNode(node=make_node(1, node_pool="a b")),
        500,
        'invalid node pool: invalid name "a b", must match regex ^[a-zA-Z0-9-_]{1,128}$',
    ),
    (c.UpdateNodeStatus(node_id="none", status="ready"), 500, "node not found"),
    (c.UpdateNodeStatus(node_id=NODE, status="tired"), 500, 'invalid node status "tired"'),
    (c.UpdateNodeEligibility(node_id="none", eligibility="eligible"), 500, "node not found"),
    (c.UpdateNodeEligibility(node_id=NODE, eligibility="no"), 500, 'invalid scheduling eligibility "no"'),
    (c.UpdateNodeDrain(node_id="none"), 500, "node not found"),
    (c.AddNodeEvents(node_id="none", events=(NodeEvent(message="x"),)), 500, "node not found"),
    (c.DeregisterNodes(node_ids=(NODE, "none")), 500, "node not found"),
    (c.DeleteNamespace(name="default"), 500, "can not delete default namespace"),
    (c.DeleteNamespace(name="none"), 500, 'namespace "none" not found'),
    (
        c.UpsertNamespace(namespace=Namespace(name="a b")),
        500,
        'Invalid namespace "a b": invalid name "a b". Must match regex ^[a-zA-Z0-9-]{1,128}$',
    ),
    (c.UpsertNamespace(namespace=Namespace(name="a", description="x" * 257)), 500, "description longer than 256"),
    (c.UpsertNodePool(pool=NodePool(name="all")), 400, 'modifying node pool "all" is not allowed'),
    (c.UpsertNodePool(pool=NodePool(name="")), 400, "missing node pool name"),
    (
        c.UpsertNodePool(pool=NodePool(name="a b")),
        400,
        'invalid node pool "a b": invalid name "a b", must match regex ^[a-zA-Z0-9-_]{1,128}$',
    ),
    (c.DeleteNodePool(name="default"), 500, 'deleting node pool "default" is not allowed'),
    (c.DeleteNodePool(name="none"), 500, 'node pool "none" not found'),
    (c.DeleteNodePool(name="gpu"), 500, 'node pool "gpu" has nodes in regions: [global]'),
]


@pytest.mark.parametrize(("command", "status", "message"), REFUSALS, ids=[message[:40] for _, _, message in REFUSALS])
def test_a_refusal_says_why_and_changes_nothing(command: c.Command, status: int, message: str) -> None:
    world = prepared()
    before = fingerprint(world.store)
    outcome = world.tell(command)
    assert (outcome.ok, outcome.status, outcome.message) == (False, status, message)
    after = fingerprint(world.store)
    assert after | {"index": 0} == before | {"index": 0}
    assert world.store.touched == set()


def test_every_command_has_a_handler() -> None:
    assert set(HANDLERS) == set(c.Command.__subclasses__())


def test_an_unknown_tag_is_refused_loudly() -> None:
    with pytest.raises(c.UnknownCommand, match=r'"GrantWishes".*a newer server wrote it'):
        c.decode(msgspec.msgpack.encode({"type": "GrantWishes"}))
    with pytest.raises(msgspec.ValidationError):
        c.decode(msgspec.msgpack.encode({"type": "DeleteNamespace", "name": 7}))


def test_indexes_only_rise() -> None:
    world = World()
    with pytest.raises(AssertionError, match="only rise"):
        world.store.apply(world.store.index, c.ReconcileSummaries())


def test_a_retry_is_answered_with_the_first_outcome() -> None:
    world = prepared()
    first = world.tell(c.RegisterJob(job=make_job("other"), request_id="r1"))
    refused = world.tell(c.DeleteNamespace(name="default", request_id="r2"))
    before = fingerprint(world.store)
    assert world.tell(c.RegisterJob(job=make_job("other", count=9), request_id="r1")) == first
    assert world.tell(c.UpsertNamespace(namespace=Namespace(name="x"), request_id="r2")) == refused
    assert fingerprint(world.store) | {"index": 0} == before | {"index": 0}
    assert world.store.changed_evals == []


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_an_unchanged_job_gets_its_evaluation_but_no_version() -> None:
    world = World()
    first = world.register(make_job(), with_eval=True)
    again = world.apply(c.RegisterJob(job=make_job(submit_time_ns=5), evals=(world.evaluation(),)))
    assert again == {"job_modify_index": first.job_modify_index, "version": 0}
    assert len(world.store.job_evals("default", "job")) == 2
    changed = world.apply(c.RegisterJob(job=make_job(count=2)))
    assert changed == {"job_modify_index": world.store.index, "version": 1}


def test_counts_and_resources_can_be_preserved() -> None:
    world = World()
    world.register(make_job(count=3, cpu=700))
    world.apply(c.RegisterJob(job=make_job(count=1, cpu=100, env="new"), preserve_counts=True, preserve_resources=True))
    job = world.store.job("default", "job")
    assert job is not None
    assert (job.version, job.task_groups[0].count) == (1, 3)
    assert (job.task_groups[0].tasks[0].resources.cpu, job.task_groups[0].tasks[0].env) == (700, {"V": "new"})


def test_a_stopped_job_comes_back_as_a_new_version() -> None:
    world = World()
    world.register(make_job(), with_eval=True)
    assert world.apply(c.DeregisterJob(job_id="job")) == {"found": True, "job_modify_index": world.store.index}
    stopped = world.store.job("default", "job")
    assert stopped is not None
    assert (stopped.stop, stopped.version) == (True, 1)
    assert world.register(make_job()).version == 2
    assert world.apply(c.DeregisterJob(job_id="none"))["found"] is False


def test_a_purge_forgets_the_job_and_leaves_its_allocations() -> None:
    world = prepared()
    (alloc,) = world.allocs()
    world.apply(c.DeregisterJob(job_id="job", purge=True, evals=(world.evaluation(),)))
    assert world.store.job("default", "job") is None
    assert world.store.jobs.versions.get(("default", "job")) is None
    assert [a.id for a in world.live()] == [alloc.id]
    world.run()
    assert world.live() == []
    check_store(world.store)


def test_allocations_of_a_purged_job_do_not_count_for_its_successor() -> None:
    world = prepared()
    (alloc,) = world.allocs()
    world.apply(c.DeregisterJob(job_id="job", purge=True))
    world.register(make_job())
    world.report(alloc, "running")
    assert world.store.jobs.summaries["default", "job"].summary["app"].running == 0
    check_store(world.store)


def test_a_batch_of_registrations_is_refused_one_by_one() -> None:
    world = World()
    orders = (
        c.RegisterJob(job=make_job("a")),
        c.RegisterJob(job=make_job("b", namespace="x")),
        c.RegisterJob(job=make_job("c")),
    )
    results = world.apply(c.RegisterJobs(jobs=orders))
    assert [result.get("version") for result in results] == [0, None, 0]
    assert results[1] == {"error": 'job "b" is in nonexistent namespace "x"', "status": 500}
    assert set(world.store.jobs.current) == {("default", "a"), ("default", "c")}


def versions(world: World) -> list[int]:
    return [job.version for job in world.store.jobs.versions["default", "job"]]


def test_old_versions_go_except_tagged_ones_and_the_newest_stable() -> None:
    world = World()
    for version in range(3):
        world.register(make_job(env=str(version)))
    world.apply(c.SetJobStability(job_id="job", version=0, stable=True))
    world.apply(c.SetJobStability(job_id="job", version=1, stable=True))
    world.apply(c.TagJobVersion(job_id="job", name="keep", version=0, tag=JobVersionTag(name="keep")))
    for version in range(3, 12):
        submission = JobSubmission(source=f"v{version}")
        world.apply(c.RegisterJob(job=make_job(env=str(version)), submission=submission))
    assert versions(world) == [11, 10, 9, 8, 7, 1, 0]
    assert set(world.store.jobs.submissions["default", "job"]) == {7, 8, 9, 10, 11}
    world.apply(c.TagJobVersion(job_id="job", name="keep", tag=None))
    world.register(make_job(env="last"))
    assert versions(world) == [12, 11, 10, 9, 8, 1]


def test_a_tag_belongs_to_one_version() -> None:
    world = World()
    world.register(make_job())
    world.register(make_job(env="1"))
    tag = JobVersionTag(name="good")
    world.apply(c.TagJobVersion(job_id="job", name="good", version=0, tag=tag))
    world.apply(c.TagJobVersion(job_id="job", name="good", version=0, tag=tag.replace(description="same")))
    outcome = world.tell(c.TagJobVersion(job_id="job", name="good", version=1, tag=tag))
    assert outcome.message == 'tag "good" already exists on a different version of job "job"'


def test_scaling_events_are_kept_newest_first() -> None:
    world = prepared()
    for count in range(25):
        world.apply(c.RecordScalingEvent(job_id="job", group="app", event=ScalingEvent(count=count)))
    events = world.store.jobs.scaling_events["default", "job"]["app"]
    assert [event.count for event in events] == list(range(24, 4, -1))
    assert events[0].create_index == world.store.index


# --- job status -------------------------------------------------------------------------------------------------------


def test_the_status_of_a_job_through_its_life() -> None:
    world = World(1)
    world.register(make_job(type="batch"))
    assert world.status() == "pending"
    evaluation = world.evaluation()
    world.apply(c.UpdateEvals(evals=(evaluation,)))
    assert world.status() == "pending"
    world.run(evaluation=evaluation)
    assert world.status() == "running"
    world.report(world.allocs()[0], "complete")
    assert world.status() == "dead"
    assert world.store.jobs.current["default", "job"].job_modify_index < world.store.index


def test_standing_jobs_run_until_they_are_stopped() -> None:
    world = prepared()
    world.register(make_job("everywhere", type="system"))
    for job_id in ("cron", "calls", "everywhere"):
        assert world.status(job_id) == "running"
        world.apply(c.DeregisterJob(job_id=job_id))
        assert world.status(job_id) == "dead"


def test_an_active_deployment_keeps_a_job_running() -> None:
    world = World()
    world.register(make_job())
    deployment = Deployment(id="d", namespace="default", job_id="job", status="running")
    world.apply(c.ApplyPlans(plans=(c.PlanResult(job_id="job", deployment=deployment),)))
    assert world.status() == "running"
    done = c.DeploymentUpdate(deployment_id="d", status="successful")
    world.apply(
        c.ApplyPlans(plans=(c.PlanResult(job_id="job", deployment_updates=(done,)),), evals=(world.evaluation(),))
    )
    assert world.status() == "pending"


def children(world: World) -> tuple[int, int, int]:
    found = world.store.jobs.summaries["default", "cron"].children
    return found.pending, found.running, found.dead


def test_a_parent_counts_its_children_by_status() -> None:
    world = prepared()
    for child in ("one", "two", "three"):
        world.register(make_job(child, type="batch", parent_id="cron"), with_eval=True)
    assert children(world) == (3, 0, 0)
    for child in ("one", "two"):
        world.run(child, world.store.job_evals("default", child)[0])
    assert children(world) == (1, 2, 0)
    world.report(world.allocs("one")[0], "complete")
    assert children(world) == (1, 1, 1)
    for child in ("two", "three"):
        world.apply(c.DeregisterJob(job_id=child, purge=True))
    assert children(world) == (0, 0, 3)
    assert set(world.store.jobs.children["default", "cron"]) == {"one"}


def test_queued_allocations_are_counted_per_group() -> None:
    world = World(1, cpu=1000)
    groups = (make_group(name="small", count=1), make_group(name="large", count=3, cpu=400))
    world.register(make_job(task_groups=groups))
    world.run()
    lines = world.store.jobs.summaries["default", "job"].summary
    assert (lines["small"].queued, lines["small"].starting) == (0, 1)
    assert (lines["large"].queued, lines["large"].starting) == (2, 1)


# --- nodes ------------------------------------------------------------------------------------------------------------


def test_a_node_keeps_its_servers_fields_when_it_registers_again() -> None:
    world = World(1)
    world.apply(c.UpdateNodeEligibility(node_id=NODE, eligibility="ineligible"))
    world.apply(c.RegisterNode(node=make_node(name="renamed", attributes={"new": "fact"})))
    node = world.store.node(NODE)
    assert node is not None
    assert (node.name, node.attributes, node.status) == ("renamed", {"new": "fact"}, "ready")
    assert (node.scheduling_eligibility, node.create_index) == ("ineligible", 2)


def test_a_node_brings_its_pool_into_being() -> None:
    world = World()
    world.apply(c.RegisterNode(node=make_node(node_pool="edge")))
    assert world.store.node_pools["edge"].create_index == world.store.index


def test_ten_events_are_kept() -> None:
    world = World(1)
    for number in range(12):
        world.apply(c.AddNodeEvents(node_id=NODE, events=(NodeEvent(message=str(number)),)))
    node = world.store.node(NODE)
    assert node is not None
    assert [event.message for event in node.events] == [str(number) for number in range(2, 12)]


def test_a_drain_makes_ineligible_and_keeps_its_start() -> None:
    world = World(1)
    world.apply(c.UpdateNodeDrain(node_id=NODE, drain=DrainStrategy(deadline_ns=5), now_ns=100))
    world.apply(c.UpdateNodeDrain(node_id=NODE, drain=DrainStrategy(deadline_ns=9), now_ns=200))
    node = world.store.node(NODE)
    assert node is not None
    assert node.drain_strategy is not None
    assert (node.drain_strategy.started_at_ns, node.drain_strategy.deadline_ns) == (100, 9)
    outcome = world.tell(c.UpdateNodeEligibility(node_id=NODE, eligibility="eligible"))
    assert outcome.message == "can not set node's scheduling eligibility to eligible while it is draining"
    world.apply(c.UpdateNodeDrain(node_id=NODE, drain=None, mark_eligible=True))
    node = world.store.node(NODE)
    assert node is not None
    assert node.is_ready()
    assert node.last_drain is not None
    assert node.last_drain.status == "canceled"


def test_what_counts_as_a_change_of_facts_and_as_room() -> None:
    world = World(1)
    nodes = world.store.nodes

    def effect(command: c.Command) -> tuple[int, list[int]]:
        before = nodes.facts_version
        world.apply(command)
        return nodes.facts_version - before, world.store.grown_nodes()

    assert effect(c.AddNodeEvents(node_id=NODE, events=(NodeEvent(message="x"),))) == (0, [])
    assert effect(c.RegisterNode(node=make_node())) == (0, [])
    assert effect(c.RegisterNode(node=make_node(cpu=5000))) == (1, [0])
    assert effect(c.UpdateNodeStatus(node_id=NODE, status="down")) == (1, [])
    assert effect(c.RegisterNode(node=make_node(cpu=6000))) == (1, [])
    assert effect(c.UpdateNodeStatus(node_id=NODE, status="ready")) == (1, [0])
    assert effect(c.UpdateNodeEligibility(node_id=NODE, eligibility="ineligible")) == (1, [])
    assert effect(c.DeregisterNodes(node_ids=(NODE,))) == (1, [])


def test_a_node_that_comes_back_keeps_its_number() -> None:
    world = World(2)
    world.register(make_job(count=4))
    world.run()
    world.apply(c.DeregisterNodes(node_ids=(NODE,)))
    assert world.store.node(NODE) is None
    assert world.store.node_number(NODE) == 0
    check_store(world.store)
    world.add_node(0)
    assert world.store.node_number(NODE) == 0
    check_store(world.store)


# --- operator ---------------------------------------------------------------------------------------------------------


def test_scheduling_switches_compare_and_set() -> None:
    world = World()
    index = world.store.scheduler_config.modify_index
    assert world.apply(c.SetSchedulerConfig(config=CONFIG, cas_index=index + 1)) is False
    assert world.store.scheduler_config.scheduler_algorithm == "binpack"
    assert world.apply(c.SetSchedulerConfig(config=CONFIG, cas_index=index)) is True
    assert world.store.scheduler_config.scheduler_algorithm == "spread"
    assert world.apply(c.SetSchedulerConfig(config=SchedulerConfiguration())) is True


def test_the_autopilot_changes_by_compare_and_set() -> None:
    world = World(1)
    config = AutopilotConfig(min_quorum=3)
    assert world.apply(c.SetAutopilotConfig(config=config, cas_index=7)) is False
    assert world.store.autopilot_config == AutopilotConfig()
    assert world.apply(c.SetAutopilotConfig(config=config, cas_index=0)) is True
    kept = world.store.autopilot_config
    assert (kept.min_quorum, kept.modify_index, kept.create_index) == (3, world.store.index, world.store.index)
    assert world.apply(c.SetAutopilotConfig(config=config)) is True
    assert world.store.autopilot_config.create_index == kept.create_index


def test_a_namespace_in_use_stays() -> None:
    world = prepared()
    world.register(make_job("mine", namespace="apps", type="system"))
    assert (
        world.tell(c.DeleteNamespace(name="apps")).message
        == 'namespace "apps" has non-terminal jobs in regions: [global]'
    )
    world.apply(c.DeregisterJob(namespace="apps", job_id="mine"))
    world.apply(c.DeleteNamespace(name="apps"))
    assert "apps" not in world.store.namespaces


def test_bad_identities_of_a_cluster_are_refused() -> None:
    world = World()
    world.store.cluster_id = ""
    outcome = world.tell(c.InitCluster(cluster_id="c", id_key="xyz"))
    assert outcome.message == 'invalid id key "xyz": it must be 32 hex digits'


def test_tables_remember_when_they_changed() -> None:
    world = prepared()
    world.apply(c.UpsertNamespace(namespace=Namespace(name="later")))
    assert world.store.max_index("namespaces") == world.store.index
    assert world.store.max_index("jobs", "namespaces") == world.store.index
    assert 0 < world.store.max_index("jobs") < world.store.index
    assert world.store.max_index("no such table") == 0


def test_collecting_spares_what_came_back_to_life() -> None:
    world = prepared()
    (alloc,) = world.allocs()
    world.register(make_job("cron2", type="batch"), with_eval=True)
    everything = c.Collect(
        eval_ids=(*world.store.evals, "none"),
        alloc_ids=(alloc.id, alloc.id, node_id(7)),
        jobs=(("default", "job"), ("default", "none"), ("default", "cron2")),
        deployment_ids=("none",),
    )
    world.apply(everything)
    assert world.status() == "running"
    assert [a.id for a in world.allocs()] == [alloc.id]
    assert [e.job_id for e in world.store.evals.values()] == ["job", "cron2"]
    check_store(world.store)
