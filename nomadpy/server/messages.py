"""Requests and responses of the handlers, in the shapes of Nomad's API."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import field

from nomadpy.model.alloc import AllocMetric
from nomadpy.model.evaluation import Evaluation, JobDiff, PlanAnnotations
from nomadpy.model.explanation import Capacity, GroupExplanation
from nomadpy.model.job import Job, JobSubmission, ScalingEvent
from nomadpy.model.naming import OMIT_EMPTY, Noun
from nomadpy.model.time import DurationInput, Moment


class JobRegisterRequest(Noun):
    """``job`` is the input dict with Go's names, or None when the body had none."""

    job: dict[str, Any] | None = None
    submission: JobSubmission | None = None
    enforce_index: bool = False
    job_modify_index: int = 0
    preserve_counts: bool = False
    preserve_resources: bool = False
    policy_override: bool = False
    eval_priority: int = 0
    region: str = ""
    namespace: str = ""


class JobRegisterResponse(Noun):
    """Also the answer of evaluate, revert and scale."""

    eval_id: str = ""
    eval_create_index: int = 0
    job_modify_index: int = 0
    warnings: str = ""
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class JobBulkResult(Noun):
    """What became of one job of a bulk registration; ``error`` is "" when it was registered."""

    id: str = ""
    eval_id: str = ""
    job_modify_index: int = 0
    warnings: str = ""
    error: str = ""
    status: int = 200


class JobBulkResponse(Noun):
    """The results in the order of the request."""

    results: tuple[JobBulkResult, ...] = ()
    registered: int = 0
    refused: int = 0
    index: int = 0


class JobDeregisterResponse(Noun):
    eval_id: str = ""
    eval_create_index: int = 0
    job_modify_index: int = 0
    volume_eval_id: str = ""
    volume_eval_index: int = 0
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class JobValidateResponse(Noun):
    driver_config_validated: bool = False
    validation_errors: tuple[str, ...] = ()
    error: str = ""
    warnings: str = ""


class JobPlanRequest(Noun):
    """Ours beyond Nomad's: ``why`` asks for an explanation, node by node; ``capacity`` for how many more fit after the
    plan, without the nodes ``without`` (ids or names) and with the ones that ``with_`` describes (``CPU,MEM×N``)."""

    job: dict[str, Any] | None = None
    diff: bool = False
    policy_override: bool = False
    namespace: str = ""
    region: str = ""
    why: bool = False
    capacity: bool = False
    without: tuple[str, ...] = ()
    with_: tuple[str, ...] = ()


class JobPlanResponse(Noun):
    """``why`` (by group) and ``capacity`` are only there when they were asked for."""

    annotations: PlanAnnotations | None = None
    failed_tg_allocs: dict[str, AllocMetric] = {}
    job_modify_index: int = 0
    created_evals: tuple[Evaluation, ...] = ()
    diff: JobDiff | None = None
    next_periodic_launch_ns: Moment = 0
    warnings: str = ""
    index: int = 0
    why: Annotated[dict[str, GroupExplanation], OMIT_EMPTY] = {}
    capacity: Annotated[Capacity | None, OMIT_EMPTY] = None


class EvalOptions(Noun):
    force_reschedule: bool = False


class JobEvaluateRequest(Noun):
    job_id: str = ""
    eval_options: EvalOptions = EvalOptions()


class JobRevertRequest(Noun):
    job_id: str = ""
    job_version: int = 0
    enforce_prior_version: int | None = None


class JobTagRequest(Noun):
    """Which version gets the tag; without one, or with ``latest``, the current one. The name is the path's."""

    version: int | None = None
    latest: bool = False
    description: str = ""


class JobTagResponse(Noun):
    name: str = ""
    description: str = ""
    tagged_time_ns: int = 0
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class JobStabilityRequest(Noun):
    job_id: str = ""
    job_version: int = 0
    stable: bool = False


class JobScaleRequest(Noun):
    count: int | None = None
    target: dict[str, str] = {}
    message: str = ""
    error: bool = False
    meta: dict[str, Any] = {}
    policy_override: bool = False
    job_modify_index: int = 0


class JobDispatchRequest(Noun):
    job_id: str = ""
    payload: bytes = b""
    meta: dict[str, str] = {}
    id_prefix_template: str = field(default="", name="IdPrefixTemplate")
    priority: int = 0


class JobDispatchResponse(Noun):
    dispatched_job_id: str = ""
    eval_id: str = ""
    eval_create_index: int = 0
    job_create_index: int = 0
    index: int = 0


class PeriodicForceResponse(Noun):
    eval_id: str = ""
    eval_create_index: int = 0
    index: int = 0


class JobVersionsResponse(Noun):
    versions: tuple[Job, ...] = ()
    diffs: tuple[JobDiff, ...] = ()
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class TaskGroupScaleStatus(Noun):
    desired: int = 0
    placed: int = 0
    running: int = 0
    healthy: int = 0
    unhealthy: int = 0
    events: tuple[ScalingEvent, ...] = ()


class JobScaleStatus(Noun):
    job_id: str = ""
    namespace: str = ""
    job_create_index: int = 0
    job_modify_index: int = 0
    job_stopped: bool = False
    task_groups: dict[str, TaskGroupScaleStatus] = {}


class AllocStopResponse(Noun):
    eval_id: str = ""
    index: int = 0


class NodeUpdateResponse(Noun):
    heartbeat_ttl_ns: int = field(default=0, name="HeartbeatTTL")
    eval_ids: tuple[str, ...] = field(default=(), name="EvalIDs")
    eval_create_index: int = 0
    node_modify_index: int = 0
    features: int = 0
    leader_rpc_addr: str = field(default="", name="LeaderRPCAddr")
    num_nodes: int = 0
    servers: tuple[str, ...] = ()
    scheduling_eligibility: str = ""
    signed_identity: str | None = None
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class NodeEligibilityRequest(Noun):
    node_id: str = ""
    eligibility: str = ""


class NodeEligibilityResponse(Noun):
    node_modify_index: int = 0
    eval_ids: tuple[str, ...] = field(default=(), name="EvalIDs")
    eval_create_index: int = 0
    index: int = 0


class DrainSpec(Noun):
    """A ``deadline_ns`` below zero forces the drain, zero waits for ever."""

    deadline_ns: DurationInput = 0
    ignore_system_jobs: bool = False


class NodeDrainRequest(Noun):
    """No ``drain_spec`` ends the drain."""

    node_id: str = ""
    drain_spec: DrainSpec | None = None
    mark_eligible: bool = False
    meta: dict[str, str] = {}


class NodeDrainResponse(Noun):
    node_modify_index: int = 0
    eval_ids: tuple[str, ...] = field(default=(), name="EvalIDs")
    eval_create_index: int = 0
    index: int = 0


class SearchRequest(Noun):
    prefix: str = ""
    context: str = "all"


class FuzzySearchRequest(Noun):
    text: str = ""
    context: str = "all"


class FuzzyMatch(Noun):
    """An object by the name that matched, and where it belongs: namespace, job, group, task; for a node its id."""

    id: str = ""
    scope: Annotated[tuple[str, ...], OMIT_EMPTY] = ()


class FuzzySearchResponse(Noun):
    matches: dict[str, tuple[FuzzyMatch, ...]] = {}
    truncations: dict[str, bool] = {}
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""


class SearchResponse(Noun):
    matches: dict[str, tuple[str, ...]] = {}
    truncations: dict[str, bool] = {}
    index: int = 0
    last_contact_ns: int = 0
    known_leader: bool = True
    next_token: str = ""
