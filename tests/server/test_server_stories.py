"""A server, its scheduler and obedient nodes: what happens when jobs, nodes and the log come and go."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from cluster_builders import SECRET, make_group, make_job, make_node, node_id
from server_world import World, raw, running, update_of
from trio.testing import MockClock

from nomadpy.model.alloc import Allocation
from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import Bug, Forbidden, NoLeader, NotFound, OutcomeUnknown, TimedOut
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, ReschedulePolicy, UpdateStrategy
from nomadpy.model.node import SchedulerConfiguration
from nomadpy.model.time import HOUR, MINUTE, SECOND
from nomadpy.scheduler import Decision, Fleet, Newcomer
from nomadpy.server import worker
from nomadpy.server.messages import JobRegisterRequest, NodeEligibilityRequest
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

ONE_BY_ONE = UpdateStrategy(
    max_parallel=1,
    health_check="task_states",
    stagger_ns=30 * SECOND,
    min_healthy_time_ns=10 * SECOND,
    healthy_deadline_ns=5 * MINUTE,
    progress_deadline_ns=10 * MINUTE,
)
POLICY = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", unlimited=True)


def versions(world: World) -> set[str]:
    """The V of the environment that live allocations run with."""
    out = set()
    for alloc in world.live():
        out.add(env_of(alloc))
    return out


def env_of(alloc: Allocation) -> str:
    assert alloc.job is not None
    return alloc.job.task_groups[0].tasks[0].env["V"]


async def test_a_registered_job_is_placed_and_runs(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    answer = await world.register(make_job(count=2))
    await world.until(lambda: len(world.running()) == 2)
    evaluation = world.evals()[0]
    assert (evaluation.id, evaluation.status, evaluation.triggered_by) == (answer.eval_id, "complete", "job-register")
    assert answer.eval_create_index == answer.index == evaluation.create_index


async def test_a_job_waits_for_capacity_with_one_blocked_evaluation(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0, cpu=1000)
    await world.register(make_job("first", type="batch", count=2, cpu=500))
    await world.until(lambda: len(world.running("first")) == 2)
    await world.register(make_job(type="batch", count=2, cpu=500))
    await world.until(lambda: world.server.blocked.statistics().blocked == 1)
    blocked = world.evals("job", "blocked")
    assert [e.triggered_by for e in blocked] == ["queued-allocs"]
    await world.fleet.report(world.live("first")[0], "complete")
    await world.until(lambda: len(world.running()) == 1)
    await world.settled()
    assert [e.id for e in world.evals("job", "blocked")] == [blocked[0].id]
    await world.add_node(1, cpu=500)
    await world.until(lambda: len(world.running()) == 2)
    await world.settled()
    assert world.evals("job", "blocked") == []
    assert world.server.blocked.statistics().blocked == 0


async def test_a_newer_evaluation_takes_the_place_of_the_blocked_one(autojump_clock: MockClock, world: World) -> None:
    await world.register(make_job(type="batch", count=2))
    await world.until(lambda: len(world.evals("job", "blocked")) == 1)
    (old,) = world.evals("job", "blocked")
    await world.register(make_job(type="batch", count=3))
    await world.until(lambda: [e.id for e in world.evals("job", "blocked")] not in ([old.id], []))
    await world.settled()
    assert world.server.store.evals[old.id].status == "canceled"
    assert len(world.evals("job", "blocked")) == 1
    await world.server.jobs.deregister(ANYONE, "default", "job")
    await world.until(lambda: world.evals("job", "blocked") == [])
    assert world.server.blocked.statistics().blocked == 0


async def test_work_of_a_lost_node_is_placed_elsewhere(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(count=3))
    await world.until(lambda: len(world.running()) == 3)
    await world.add_node(1)
    world.fleet.silent.add(0)
    await world.until(lambda: {alloc.node_id for alloc in world.running()} == {node_id(1)})
    assert len(world.running()) == 3
    node = world.server.store.node(node_id(0))
    assert node is not None
    assert (node.status, node.events[-1].message) == ("down", "Node heartbeat missed")
    lost = [alloc for alloc in world.allocs() if alloc.client_status == "lost"]
    assert {alloc.desired_description for alloc in lost} == {"alloc is lost since its node is down"}
    world.fleet.silent.clear()
    await world.until(lambda: (n := world.server.store.node(node_id(0))) is not None and n.status == "ready")
    node = world.server.store.node(node_id(0))
    assert node is not None
    assert node.events[-1].message == "Node reregistered by heartbeat"


def deployed(world: World) -> str:
    """How the newest deployment of the job ended."""
    deployment = world.server.store.latest_deployment("default", "job")
    return deployment.status if deployment is not None else ""


async def test_a_failed_allocation_is_placed_anew_after_its_delay(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(group=make_group(reschedule_policy=POLICY)))
    await world.until(lambda: len(world.running()) == 1 and deployed(world) == "successful")
    (old,) = world.live()
    failed_at = trio.current_time()
    await world.fleet.report(old, "failed")
    await world.until(lambda: len(world.running()) == 1)
    assert trio.current_time() - failed_at >= 4
    (new,) = world.live()
    assert new.previous_allocation == old.id
    assert {e.triggered_by for e in world.evals()} >= {"job-register", "alloc-failure", "alloc-reschedule"}


async def test_a_stopped_job_stops(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(count=2))
    await world.until(lambda: len(world.running()) == 2)
    await world.server.jobs.deregister(ANYONE, "default", "job", purge=True)
    await world.until(lambda: all(alloc.client_status == "complete" for alloc in world.allocs()))
    assert int(world.server.store.columns.cpu_used[0]) == 0


async def test_many_jobs_at_once(autojump_clock: MockClock, world: World) -> None:
    for number in range(3):
        await world.add_node(number)
    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(world.register, make_job(f"job-{number}", cpu=100, memory_mb=100))
    await world.until(lambda: all(len(world.running(f"job-{number}")) == 1 for number in range(40)))
    assert world.server.broker.statistics().ready == 0


# --- rolling updates --------------------------------------------------------------------------------------------------


def rolling(env: str, **changes: object) -> Job:
    group = make_group(count=5, cpu=100, env=env, update=ONE_BY_ONE, reschedule_policy=POLICY)
    return make_job(group=group.replace(**changes))


async def test_a_new_version_rolls_over_one_by_one(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(rolling("1"))
    await world.until(lambda: len(world.running()) == 5)
    await world.register(rolling("2"))
    fewest = 5
    with trio.fail_after(600):
        while versions(world) != {"2"} or len(world.running()) < 5:
            fewest = min(fewest, len(world.running()))
            await trio.sleep(0.05)
    assert fewest == 4
    await world.settled()
    assert len(world.live()) == 5


async def test_an_update_whose_allocation_fails_does_not_stall_in_silence(
    autojump_clock: MockClock, world: World
) -> None:
    await world.add_node(0)
    await world.register(rolling("1"))
    await world.until(lambda: len(world.running()) == 5)
    world.fleet.behave = lambda alloc: "failed"
    await world.register(rolling("2"))
    await world.until(lambda: deployed(world) == "failed", within_s=1500)
    await world.settled()
    assert len(world.running()) == 4


async def test_a_system_job_rolls_over_node_by_node(autojump_clock: MockClock, world: World) -> None:
    def job(env: str) -> Job:
        return make_job(type="system", group=make_group(env=env, update=ONE_BY_ONE))

    for number in range(4):
        await world.add_node(number)
    await world.register(job("1"))
    await world.until(lambda: len(world.running()) == 4)
    await world.register(job("2"))
    fewest = 4
    with trio.fail_after(600):
        while versions(world) != {"2"} or len(world.running()) < 4:
            fewest = min(fewest, len(world.running()))
            await trio.sleep(0.05)
    assert fewest == 3
    await world.until(lambda: deployed(world) == "successful")


async def test_a_system_job_whose_canary_fails_goes_back(autojump_clock: MockClock, world: World) -> None:
    def job(env: str) -> Job:
        update = ONE_BY_ONE.replace(canary=50, max_parallel=2, auto_revert=True, auto_promote=True)
        return make_job(type="system", group=make_group(env=env, update=update))

    for number in range(4):
        await world.add_node(number)
    await world.register(job("1"))
    await world.until(lambda: deployed(world) == "successful")
    await world.register(job("2"))
    await world.until(lambda: versions(world) == {"2"} and len(world.running()) == 4)
    await world.until(lambda: deployed(world) == "successful")
    world.fleet.behave = lambda alloc: "failed" if env_of(alloc) == "3" else "running"
    await world.register(job("3"))
    await world.until(lambda: len(world.server.store.job_deployments("default", "job")) == 4)
    await world.settled()
    for alloc in world.live():
        if alloc.deployment_status is not None and alloc.deployment_status.healthy is None:
            await world.fleet.report(alloc, "running")
    await world.until(lambda: deployed(world) == "successful")
    assert (versions(world), len(world.running())) == ({"2"}, 4)
    texts = [d.status_description for d in world.server.store.job_deployments("default", "job")]
    assert texts[-2:] == [
        "Failed due to unhealthy allocations - rolling back to job version 1",
        "Deployment completed successfully",
    ]


async def test_allocations_that_always_end_at_once_do_not_keep_the_server_busy(
    autojump_clock: MockClock, world: World
) -> None:
    def job(env: str) -> Job:
        return make_job(type="system", group=make_group(env=env, update=ONE_BY_ONE))

    for number in range(2):
        await world.add_node(number)
    await world.register(job("1"))
    await world.until(lambda: len(world.running()) == 2)
    world.fleet.behave = lambda alloc: "complete"
    await world.register(job("2"))
    await trio.sleep(600)
    assert len(world.allocs()) <= 2 + 600 / 10


async def test_a_batch_job_changes_at_once(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(type="batch", count=5, cpu=100, env="1"))
    await world.until(lambda: len(world.running()) == 5)
    world.fleet.behave = lambda alloc: "complete"
    await world.register(make_job(type="batch", count=5, cpu=100, env="2"))
    await world.until(lambda: (j := world.server.store.job("default", "job")) is not None and j.status == "dead")
    done = [alloc for alloc in world.allocs() if alloc.desired_status == "run"]
    assert [alloc.client_status for alloc in done] == ["complete"] * 5


# --- trouble ----------------------------------------------------------------------------------------------------------


class Broken:
    """Stands in for the scheduler; fails for one job as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left = times
        self._decide = worker.decide
        monkeypatch.setattr(worker, "decide", self)

    def __call__(self, view: object, evaluation: Evaluation, **options: object) -> Decision | Newcomer:
        if evaluation.job_id == "bad" and self.left:
            self.left -= 1
            raise ZeroDivisionError("a bug in the scheduler")
        return self._decide(view, evaluation, **options)  # type: ignore[arg-type]


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


async def test_a_scheduler_that_fails_once_is_asked_again(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch, quiet: pytest.LogCaptureFixture
) -> None:
    await world.add_node(0)
    Broken(monkeypatch, 1)
    await world.register(make_job("bad"))
    await world.register(make_job("good"))
    await world.until(lambda: len(world.running("good")) == 1)
    await world.until(lambda: len(world.running("bad")) == 1)
    assert "worker.schedule_failed" in quiet.text


async def test_a_scheduler_that_always_fails_ends_in_failed_and_a_later_try(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_node(0)
    broken = Broken(monkeypatch, 3)
    await world.register(make_job("bad"))
    await world.until(lambda: bool(world.evals("bad", "failed")))
    (failed,) = world.evals("bad", "failed")
    assert failed.status_description == "evaluation reached delivery limit (3)"
    assert broken.left == 0
    later = world.server.store.evals[failed.next_eval]
    assert (later.triggered_by, later.previous_eval, later.status) == ("failed-follow-up", failed.id, "pending")
    assert 60 <= (later.wait_until_ns - failed.modify_time_ns) / SECOND <= 361
    assert world.live("bad") == []
    await world.until(lambda: len(world.running("bad")) == 1)


class FlakyLog:
    """Stands between the server and its log: raises for plans, before or after it has passed them on."""

    def __init__(self, world: World, *errors: Exception, applies: bool) -> None:
        self._log = world.server.log
        self.errors, self.applies = list(errors), applies
        self.n_plans = 0
        world.server.log = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def propose(self, data: bytes, *, timeout_s: float = 10.0) -> object:
        if isinstance(c.decode(data), c.ApplyPlans | c.ApplyDecisions):
            self.n_plans += 1
            if self.errors:
                error = self.errors.pop(0)
                if self.applies:
                    await self._log.propose(data)
                raise error
        return await self._log.propose(data, timeout_s=timeout_s)


@pytest.mark.parametrize("error", [TimedOut("slow"), NoLeader(), OutcomeUnknown("perhaps")])
@pytest.mark.parametrize("applies", [False, True])
async def test_a_log_that_fails_for_a_while_loses_nothing(
    autojump_clock: MockClock, world: World, error: Exception, applies: bool
) -> None:
    await world.add_node(0)
    FlakyLog(world, error, error, applies=applies)
    await world.register(make_job(count=3))
    await world.until(lambda: len(world.running()) == 3)
    await world.settled()
    assert len(world.allocs()) == 3
    assert world.evals("job", "pending", "failed") == []


async def test_a_bug_is_not_retried(autojump_clock: MockClock) -> None:
    with pytest.RaisesGroup(Bug, flatten_subgroups=True):
        async with running() as world:
            FlakyLog(world, Bug("the log is mad"), applies=False)
            await world.register(make_job())
            await trio.sleep(10)


async def test_a_plan_that_never_fits_ends_in_failed_and_a_blocked_one(
    autojump_clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.add_node(0, cpu=1000)
    plain = worker.decide

    def blind(view: object, evaluation: Evaluation, **options: object) -> Decision | Newcomer:
        """Decides as if the node were ready still, which it is not when the plan is applied."""
        decision = plain(view, evaluation, **options)  # type: ignore[arg-type]
        world.server.store.nodes._ready[0] = False
        return decision

    monkeypatch.setattr(worker, "decide", blind)
    monkeypatch.setattr(worker, "Fleet", _with_ready_node)
    await world.register(make_job())
    await world.until(lambda: bool(world.evals("job", "failed")))
    (failed,) = world.evals("job", "failed")
    assert failed.status_description == "maximum attempts reached (5)"
    (blocked,) = world.evals("job", "blocked")
    assert (blocked.id, blocked.triggered_by) == (failed.blocked_eval, "max-plan-attempts")
    monkeypatch.undo()
    await world.add_node(1)
    await world.until(lambda: len(world.running()) == 1)


def _with_ready_node(store: StateStore, previous: Fleet | None) -> Fleet:
    store.nodes._ready[0] = True
    return Fleet(store, previous)


async def test_a_paused_broker_hands_nothing_out(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.server.fleet.set_scheduler_config(ANYONE, SchedulerConfiguration(pause_eval_broker=True), cas=None)
    await world.register(make_job())
    await trio.sleep(100)
    assert world.allocs() == []
    assert world.server.broker.statistics().ready == 1
    await world.server.fleet.set_scheduler_config(ANYONE, SchedulerConfiguration(), cas=None)
    await world.until(lambda: len(world.running()) == 1)


async def test_registration_can_be_switched_off(autojump_clock: MockClock, world: World) -> None:
    config = SchedulerConfiguration(reject_job_registration=True)
    await world.server.fleet.set_scheduler_config(ANYONE, config, cas=None)
    request = JobRegisterRequest(job=raw(make_job()))
    user = ANYONE.replace(management=False, capabilities={"default": ("submit-job",)})
    for caller in (user, ANYONE):
        with pytest.raises(Forbidden, match="Job registration, dispatch, and scale are disabled by the scheduler"):
            await world.server.jobs.register(caller, request)
    assert world.server.store.job("default", "job") is None
    operator = ANYONE.replace(accessor_id="f0d0cbd3-9a2f-4d3c-8a1c-000000000001")
    assert (await world.server.jobs.register(operator, request)).eval_id


# --- a new leader -----------------------------------------------------------------------------------------------------


async def test_a_restarted_server_goes_on_where_it_stopped(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        cluster = world.server.store.cluster_id
        await world.server.fleet.set_scheduler_config(ANYONE, SchedulerConfiguration(pause_eval_broker=True), cas=None)
        await world.register(make_job("paused"))
        await world.server.fleet.set_scheduler_config(ANYONE, SchedulerConfiguration(), cas=None)
        await world.until(lambda: len(world.evals("paused", "blocked")) == 1)
        delayed = world.server.new_eval(namespace="default", job_id="paused", type="service", priority=50, trigger="x")
        wait = delayed.replace(wait_until_ns=world.server.wall_ns() + HOUR)
        await world.server.propose(c.UpdateEvals(evals=(wait,)))
        index = world.server.store.index
    async with running(tmp_path) as world:
        assert world.server.store.cluster_id == cluster
        assert world.server.store.index >= index
        await world.settled()
        assert world.server.blocked.statistics().blocked == 1
        assert world.server.broker.statistics().waiting == 1
        await world.add_node(0)
        await world.until(lambda: len(world.running("paused")) == 1)
    async with running(tmp_path) as world:
        assert len(world.running("paused")) == 1
        # Its long lease runs out, and so does the time for which a silence of all nodes is taken for our own.
        await world.until(lambda: world.server.heartbeats.n_active() == 0, within_s=700)
        await world.until(lambda: (n := world.server.store.node(node_id(0))) is not None and n.status == "down")


async def test_room_that_a_dead_leader_had_seen_is_not_forgotten(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        await world.register(make_job())
        await world.until(lambda: len(world.evals("job", "blocked")) == 1)
        await world.settled()
        world.server.leading = False  # the room appears in the last moment, and nobody is woken
        await world.add_node(0)
    async with running(tmp_path) as world:
        await world.until(lambda: len(world.live()) == 1)


# --- what nodes may ask -----------------------------------------------------------------------------------------------


async def test_secrets_are_checked(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    nodes = world.server.nodes
    with pytest.raises(Forbidden):
        await nodes.heartbeat(node_id(0), "wrong", "ready")
    with pytest.raises(Forbidden):
        await nodes.wait_assignments(node_id(0), "", 0, 1)
    with pytest.raises(Forbidden):
        await nodes.update_allocs(node_id(0), "wrong", [])
    with pytest.raises(NotFound):
        await nodes.heartbeat(node_id(7), SECRET, "ready")


async def test_a_node_is_woken_by_its_own_orders_only(autojump_clock: MockClock, world: World) -> None:
    for number in range(2):
        await world.server.nodes.register_node(make_node(number))
        await world.server.nodes.heartbeat(node_id(number), SECRET, "ready")
    first = [await world.server.nodes.wait_assignments(node_id(n), SECRET, 0, 60) for n in range(2)]
    began, woken = trio.current_time(), dict[int, float]()

    async def wait(number: int) -> None:
        orders = await world.server.nodes.wait_assignments(node_id(number), SECRET, first[number].index, 60)
        woken[number] = trio.current_time() - began
        assert len(orders.allocs) == (number == 1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 0)
        nursery.start_soon(wait, 1)
        await trio.sleep(5)
        await world.server.fleet.set_eligibility(ANYONE, node_id(0), NodeEligibilityRequest(eligibility="ineligible"))
        await world.register(make_job())
    assert 5 <= woken[1] < 6
    assert woken[0] == 60


async def test_reports_about_others_allocations_are_ignored(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job())
    await world.until(lambda: len(world.running()) == 1)
    await world.add_node(1)
    (alloc,) = world.live()
    index = await world.server.nodes.update_allocs(node_id(1), SECRET, [update_of(alloc, "failed")])
    assert index <= world.server.store.index
    assert len(world.running()) == 1
    assert await world.server.nodes.get_allocs(node_id(1), SECRET, [alloc.id]) == []


async def test_a_system_job_reaches_new_nodes(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job(type="system"))
    await world.until(lambda: len(world.running()) == 1)
    await world.add_node(1)
    await world.until(lambda: {alloc.node_id for alloc in world.running()} == {node_id(0), node_id(1)})
    world.fleet.silent.add(0)
    await world.until(lambda: {alloc.node_id for alloc in world.running()} == {node_id(1)})


async def test_a_purged_node_loses_its_work(autojump_clock: MockClock, world: World) -> None:
    await world.add_node(0)
    await world.register(make_job())
    await world.until(lambda: len(world.running()) == 1)
    world.fleet.silent.add(0)
    await world.server.fleet.purge_node(ANYONE, node_id(0))
    await world.until(lambda: world.live() == [])
    assert world.server.heartbeats.n_active() == 0
    assert [e.status for e in world.evals()][-1] == "blocked"
