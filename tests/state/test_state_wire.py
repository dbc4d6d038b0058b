"""Commands as bytes: what one version writes, another reads.

``golden/`` holds one example of every command as its first version encoded it. A file there is never changed: a field
may only be added, with a default, and then the old bytes still mean the same. A new command gets a file with
``python tests/state/test_state_wire.py`` (from the top of the checkout, with tests/ on the path).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from cluster_builders import EPOCH_NS, make_job, make_node, node_id

from nomadpy.model.alloc import (
    AllocMetric,
    AllocUpdate,
    DesiredTransition,
    RescheduleEvent,
    RescheduleTracker,
    TaskState,
)
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.evaluation import Deployment, DeploymentState, Evaluation
from nomadpy.model.job import JobSubmission, JobVersionTag, ScalingEvent
from nomadpy.model.node import DrainStrategy, Namespace, NodeEvent, NodePool, SchedulerConfiguration
from nomadpy.model.resources import AllocatedDevice, AllocatedPort
from nomadpy.state import commands as c

GOLDEN = Path(__file__).parent / "golden"
ID = "11111111-2222-3333-4444-555555555555"
_EVAL = Evaluation(
    id=ID, namespace="default", priority=50, type="service", triggered_by="job-register", job_id="job", status="pending"
)
_STAMP: dict[str, Any] = {"now_ns": EPOCH_NS, "request_id": "r-1"}
_EVENT = NodeEvent(message="hello", subsystem="Cluster", timestamp_ns=EPOCH_NS)
_UPDATE = c.DeploymentUpdate(deployment_id=ID, status="failed", description="by hand")
_DETAIL = c.PlacedAlloc(
    previous_alloc_id=ID,
    ports=(AllocatedPort(label="http", value=20000, to=80, host_ip="10.0.0.1"),),
    devices={"web": (AllocatedDevice(vendor="nvidia", type="gpu", name="t4", device_ids=("a",)),)},
    reserved_cores={"web": (0, 1)},
    reschedule_tracker=RescheduleTracker(events=(RescheduleEvent(prev_alloc_id=ID),), last_reschedule="ok"),
    canary=True,
    preempted_alloc_ids=(ID,),
    metrics=AllocMetric(nodes_evaluated=1),
)
_PLAN = c.PlanResult(
    eval_id=ID,
    job_id="job",
    all_at_once=True,
    stops=(c.StopAlloc(alloc_id=ID, description="d", client_status="lost", followup_eval_id=ID, rescheduled=True),),
    in_place=(c.UpdateAllocInPlace(alloc_id=ID, job_version=2, eval_id=ID, deployment_id=ID),),
    annotate=(c.AnnotateAlloc(alloc_id=ID, followup_eval_id=ID, last_reschedule="ok", client_status="unknown"),),
    places=(
        c.PlaceBlock(
            job_id="job",
            job_version=2,
            group="app",
            eval_id=ID,
            deployment_id=ID,
            nodes=b"\1\0\0\0",
            name_indexes=b"\2\0\0\0",
            details={0: _DETAIL},
            metrics=AllocMetric(nodes_evaluated=3),
        ),
    ),
    deployment=Deployment(id=ID, job_id="job", task_groups={"app": DeploymentState(desired_total=1)}),
    deployment_updates=(_UPDATE,),
)

EXAMPLES: tuple[c.Command, ...] = (
    c.InitCluster(cluster_id=ID, id_key="0123456789abcdef" * 2, **_STAMP),
    c.RegisterJob(
        job=make_job(count=2, port="http"),
        submission=JobSubmission(source="job {}", format="hcl2"),
        evals=(_EVAL,),
        enforce_index=7,
        preserve_counts=True,
        preserve_resources=True,
        scaling_event=ScalingEvent(message="up"),
        scaling_group="app",
        **_STAMP,
    ),
    c.RegisterJobs(jobs=(c.RegisterJob(job=make_job()),), **_STAMP),
    c.DeregisterJob(job_id="job", purge=True, no_shutdown_delay=True, evals=(_EVAL,), **_STAMP),
    c.RecordScalingEvent(job_id="job", group="app", event=ScalingEvent(message="up"), **_STAMP),
    c.SetJobStability(job_id="job", version=3, stable=True, **_STAMP),
    c.TagJobVersion(job_id="job", name="v1", version=3, tag=JobVersionTag(name="v1"), **_STAMP),
    c.UpdateEvals(evals=(_EVAL,), **_STAMP),
    c.RegisterNode(node=make_node(1), evals=(_EVAL,), **_STAMP),
    c.UpdateNodeStatus(node_id=node_id(1), status="down", event=_EVENT, evals=(_EVAL,), **_STAMP),
    c.UpdateNodeEligibility(node_id=node_id(1), eligibility="ineligible", event=_EVENT, evals=(_EVAL,), **_STAMP),
    c.UpdateNodeDrain(
        node_id=node_id(1),
        drain=DrainStrategy(deadline_ns=5),
        completed=DrainStrategy(),
        mark_eligible=True,
        meta={"why": "disk"},
        accessor_id=ID,
        event=_EVENT,
        evals=(_EVAL,),
        **_STAMP,
    ),
    c.AddNodeEvents(node_id=node_id(1), events=(_EVENT,), **_STAMP),
    c.DeregisterNodes(node_ids=(node_id(1),), evals=(_EVAL,), **_STAMP),
    c.UpdateAllocs(
        updates=(AllocUpdate(id=ID, client_status="running", task_states={"web": TaskState(state="running")}),),
        evals=(_EVAL,),
        **_STAMP,
    ),
    c.UpdateAllocTransitions(transitions={ID: DesiredTransition(migrate=True)}, evals=(_EVAL,), **_STAMP),
    c.ApplyPlans(plans=(_PLAN,), evals=(_EVAL,), view_index=6, **_STAMP),
    c.ApplyDecisions(
        plans=(_PLAN,),
        evals=(_EVAL,),
        newcomers=c.Newcomers(
            eval_ids=(ID,),
            job_versions=b"\2\0\0\0",
            counts=b"\2\0\0\0",
            nodes=b"\0\0\0\0\1\0\0\0",
            states=(DeploymentState(desired_total=2),),
            state_of=b"\1\0\0\0",
            deployment_ids=(ID,),
            metrics=(AllocMetric(nodes_evaluated=3),),
            metric_of=b"\0\0\0\0",
            told=b"\1",
            told_nodes=b"\1\0\0\0",
            told_scores=b"\0\0\0\0\0\0\xe0?",
        ),
        view_index=6,
        **_STAMP,
    ),
    c.ChangeDeployment(update=_UPDATE, rollback=make_job(), evals=(_EVAL,), **_STAMP),
    c.PromoteDeployment(deployment_id=ID, groups=("app",), evals=(_EVAL,), **_STAMP),
    c.SetAllocsHealth(
        deployment_id=ID,
        healthy_alloc_ids=(ID,),
        unhealthy_alloc_ids=(ID,),
        update=_UPDATE,
        rollback=make_job(),
        evals=(_EVAL,),
        **_STAMP,
    ),
    c.SetSchedulerConfig(config=SchedulerConfiguration(scheduler_algorithm="spread"), cas_index=4, **_STAMP),
    c.SetAutopilotConfig(config=AutopilotConfig(min_quorum=3), cas_index=4, **_STAMP),
    c.UpsertNamespace(namespace=Namespace(name="team", description="d"), **_STAMP),
    c.DeleteNamespace(name="team", **_STAMP),
    c.UpsertNodePool(pool=NodePool(name="gpu", description="d"), **_STAMP),
    c.DeleteNodePool(name="gpu", **_STAMP),
    c.RecordPeriodicLaunch(job_id="job", launch_time_ns=EPOCH_NS, **_STAMP),
    c.Collect(eval_ids=(ID,), alloc_ids=(ID,), jobs=(("default", "job"),), deployment_ids=(ID,), **_STAMP),
    c.ReconcileSummaries(**_STAMP),
    c.StageRestore(restore_id=ID, offset=3, data=b"part", **_STAMP),
    c.AbandonRestore(restore_id=ID, **_STAMP),
    c.RestoreState(restore_id=ID, sha256="ab" * 32, era=9, **_STAMP),
)


def test_every_command_has_an_example() -> None:
    assert [type(example) for example in EXAMPLES] == list(get_args(c.AnyCommand))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_what_an_older_version_wrote_still_means_the_same(example: c.Command) -> None:
    stored = (GOLDEN / f"{type(example).__name__}.msgpack").read_bytes()
    assert c.decode(stored) == example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_an_older_version_reads_what_this_one_writes(example: c.Command) -> None:
    """As long as only new fields are used that it does not know: names and values of the others are as they were."""
    stored = msgspec.msgpack.decode((GOLDEN / f"{type(example).__name__}.msgpack").read_bytes())
    assert_holds(msgspec.msgpack.decode(c.encode(example)), stored, type(example).__name__)


def assert_holds(now: Any, then: Any, place: str) -> None:
    if isinstance(then, dict):
        for name, value in then.items():
            assert name in now, f"{place}.{name} is not written any more"
            assert_holds(now[name], value, f"{place}.{name}")
    elif isinstance(then, list):
        assert len(now) == len(then), place
        for number, value in enumerate(then):
            assert_holds(now[number], value, f"{place}[{number}]")
    else:
        assert now == then, place


# --- the next minor version -------------------------------------------------------------------------------------------


class RegisterJob(c.RegisterJob):
    """As the next version may declare it."""

    dry_run_of: str = ""


def test_a_field_that_a_newer_version_added_is_left_out() -> None:
    newer = RegisterJob(job=make_job(), dry_run_of="x", now_ns=1)
    assert b"dry_run_of" in c.encode(newer)
    assert c.decode(c.encode(newer)) == c.RegisterJob(job=make_job(), now_ns=1)


def test_a_command_that_a_newer_version_added_is_refused_loudly() -> None:
    with pytest.raises(c.UnknownCommand) as caught:
        c.decode(msgspec.msgpack.encode({"type": "GrantWishes", "now_ns": 1, "wishes": 3}))
    assert caught.value.tag == "GrantWishes"
    assert "a newer server wrote it; upgrade this one" in caught.value.message


if __name__ == "__main__":
    for each in EXAMPLES:
        path = GOLDEN / f"{type(each).__name__}.msgpack"
        if not path.exists():
            path.write_bytes(c.encode(each))
