"""Notes that a job needs another look, the plans they lead to, and deployments."""

from __future__ import annotations

from typing import Any

from nomadpy.model.alloc import AllocListStub, AllocMetric
from nomadpy.model.naming import Noun, SparseNoun
from nomadpy.model.time import Moment

# Evaluation.status
EVAL_BLOCKED, EVAL_PENDING, EVAL_COMPLETE, EVAL_FAILED, EVAL_CANCELED = (
    "blocked",
    "pending",
    "complete",
    "failed",
    "canceled",
)
EVAL_TERMINAL = frozenset((EVAL_COMPLETE, EVAL_FAILED, EVAL_CANCELED))

# Evaluation.triggered_by
TRIGGER_JOB_REGISTER = "job-register"
TRIGGER_JOB_DEREGISTER = "job-deregister"
TRIGGER_PERIODIC_JOB = "periodic-job"
TRIGGER_NODE_DRAIN = "node-drain"
TRIGGER_NODE_UPDATE = "node-update"
TRIGGER_ALLOC_STOP = "alloc-stop"
TRIGGER_SCHEDULED = "scheduled"
TRIGGER_DEPLOYMENT_WATCHER = "deployment-watcher"
TRIGGER_FAILED_FOLLOW_UP = "failed-follow-up"
TRIGGER_MAX_PLANS = "max-plan-attempts"
TRIGGER_ALLOC_FAILURE = "alloc-failure"
TRIGGER_QUEUED_ALLOCS = "queued-allocs"
TRIGGER_PREEMPTION = "preemption"
TRIGGER_JOB_SCALING = "job-scaling"
TRIGGER_ALLOC_RESCHEDULE = "alloc-reschedule"
TRIGGER_RECONNECT = "reconnect"
TRIGGER_MAX_DISCONNECT = "max-disconnect-timeout"


class EvaluationStub(Noun):
    id: str = ""
    namespace: str = ""
    priority: int = 0
    type: str = ""
    triggered_by: str = ""
    job_id: str = ""
    node_id: str = ""
    deployment_id: str = ""
    status: str = ""
    status_description: str = ""
    wait_until_ns: Moment = 0
    next_eval: str = ""
    previous_eval: str = ""
    blocked_eval: str = ""
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0


class DesiredUpdates(Noun):
    """How many allocations of a group a plan leaves, places, stops and so on."""

    ignore: int = 0
    place: int = 0
    migrate: int = 0
    stop: int = 0
    in_place_update: int = 0
    destructive_update: int = 0
    canary: int = 0
    preemptions: int = 0
    disconnect: int = 0
    reconnect: int = 0
    reschedule_now: int = 0
    reschedule_later: int = 0


class PlanAnnotations(Noun):
    desired_tg_updates: dict[str, DesiredUpdates] = {}
    preempted_allocs: tuple[AllocListStub, ...] = ()


class Evaluation(SparseNoun):
    """A note that a job needs another look, and why."""

    id: str = ""
    namespace: str = ""
    priority: int = 0
    type: str = ""
    triggered_by: str = ""
    job_id: str = ""
    job_modify_index: int = 0
    node_id: str = ""
    node_modify_index: int = 0
    deployment_id: str = ""
    status: str = ""
    status_description: str = ""
    wait_ns: int = 0
    wait_until_ns: Moment = 0
    next_eval: str = ""
    previous_eval: str = ""
    blocked_eval: str = ""
    related_evals: tuple[EvaluationStub, ...] = ()
    failed_tg_allocs: dict[str, AllocMetric] = {}
    plan_annotations: PlanAnnotations | None = None
    class_eligibility: dict[str, bool] = {}
    quota_limit_reached: str = ""
    missing_non_node_resources: tuple[str, ...] = ()
    escaped_computed_class: bool = False
    annotate_plan: bool = False
    queued_allocations: dict[str, int] = {}
    snapshot_index: int = 0
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0

    def terminal(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in EVAL_TERMINAL


class DeploymentState(Noun):
    """How far one group of a deployment is."""

    auto_revert: bool = False
    auto_promote: bool = False
    promoted: bool = False
    progress_deadline_ns: int = 0
    require_progress_by_ns: Moment = 0
    placed_canaries: tuple[str, ...] = ()
    desired_canaries: int = 0
    desired_total: int = 0
    placed_allocs: int = 0
    healthy_allocs: int = 0
    unhealthy_allocs: int = 0

    def canarying(self) -> bool:
        """Whether the group waits for its canaries, or for their promotion."""
        return self.desired_canaries > 0 and not self.promoted

    def complete(self) -> bool:
        """Whether as many allocations as wanted are healthy, and nothing waits for promotion."""
        return not self.canarying() and self.healthy_allocs >= max(self.desired_total, self.desired_canaries)


# Deployment.status
DEPLOYMENT_RUNNING, DEPLOYMENT_PAUSED, DEPLOYMENT_FAILED, DEPLOYMENT_SUCCESSFUL, DEPLOYMENT_CANCELLED = (
    "running",
    "paused",
    "failed",
    "successful",
    "cancelled",
)
DEPLOYMENT_ACTIVE = frozenset(("running", "paused", "blocked", "unblocking", "initializing", "pending"))
# Deployment.status_description
DEPLOYMENT_RUNNING_TEXT = "Deployment is running"
DEPLOYMENT_NEEDS_PROMOTION_TEXT = "Deployment is running but requires manual promotion"
DEPLOYMENT_AUTO_PROMOTION_TEXT = "Deployment is running pending automatic promotion"
DEPLOYMENT_PAUSED_TEXT = "Deployment is paused"
DEPLOYMENT_SUCCESSFUL_TEXT = "Deployment completed successfully"
DEPLOYMENT_JOB_STOPPED_TEXT = "Cancelled because job is stopped"
DEPLOYMENT_NEWER_JOB_TEXT = "Cancelled due to newer version of job"
DEPLOYMENT_UNHEALTHY_TEXT = "Failed due to unhealthy allocations"
DEPLOYMENT_PROGRESS_TEXT = "Failed due to progress deadline"
DEPLOYMENT_BY_USER_TEXT = "Deployment marked as failed"


class Deployment(Noun):
    """The roll-out of one version of a job."""

    id: str = ""
    namespace: str = ""
    job_id: str = ""
    job_version: int = 0
    job_modify_index: int = 0
    job_spec_modify_index: int = 0
    job_create_index: int = 0
    is_multiregion: bool = False
    task_groups: dict[str, DeploymentState] = {}
    status: str = ""
    status_description: str = ""
    eval_priority: int = 0
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0

    def active(self) -> bool:
        """Whether the deployment may still change allocations."""
        return self.status in DEPLOYMENT_ACTIVE

    def running_text(self) -> str:
        """What the description says of a deployment that runs: also what it waits for."""
        waiting = [state for state in self.task_groups.values() if state.canarying()]
        if not waiting:
            return DEPLOYMENT_RUNNING_TEXT
        automatic = all(state.auto_promote for state in waiting)
        return DEPLOYMENT_AUTO_PROMOTION_TEXT if automatic else DEPLOYMENT_NEEDS_PROMOTION_TEXT


class FieldDiff(Noun):
    type: str = "None"
    name: str = ""
    old: str = ""
    new: str = ""
    annotations: tuple[str, ...] = ()


class ObjectDiff(Noun):
    type: str = "None"
    name: str = ""
    fields: tuple[FieldDiff, ...] = ()
    objects: tuple[ObjectDiff, ...] = ()


class TaskDiff(Noun):
    type: str = "None"
    name: str = ""
    fields: tuple[FieldDiff, ...] = ()
    objects: tuple[ObjectDiff, ...] = ()
    annotations: tuple[str, ...] = ()


class TaskGroupDiff(Noun):
    type: str = "None"
    name: str = ""
    fields: tuple[FieldDiff, ...] = ()
    objects: tuple[ObjectDiff, ...] = ()
    tasks: tuple[TaskDiff, ...] = ()
    updates: dict[str, int] = {}


class JobDiff(Noun):
    type: str = "None"
    id: str = ""
    fields: tuple[FieldDiff, ...] = ()
    objects: tuple[ObjectDiff, ...] = ()
    task_groups: tuple[TaskGroupDiff, ...] = ()


JsonObject = dict[str, Any]
