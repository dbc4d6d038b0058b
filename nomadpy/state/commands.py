"""The catalogue of every possible change to the replicated state.

A command is what travels through the log. It carries everything that applying it needs: ids, random choices and the
wall clock are stamped where it is made, so that ``apply`` is the same on every server. Fields are only ever added, with
defaults; a tag never changes its meaning; an unknown tag is refused loudly.

``request_id`` makes a retry harmless: the state remembers the outcome of recent ids and answers it again.
"""

from __future__ import annotations

from typing import Any, cast, dataclass_transform, get_args

import msgspec

from nomadpy.model.alloc import AllocMetric, AllocUpdate, DesiredTransition, RescheduleTracker
from nomadpy.model.autopilot import AutopilotConfig
from nomadpy.model.errors import Bug
from nomadpy.model.evaluation import Deployment, DeploymentState, Evaluation
from nomadpy.model.job import Job, JobSubmission, JobVersionTag, ScalingEvent
from nomadpy.model.node import DrainStrategy, Namespace, Node, NodeEvent, NodePool, SchedulerConfiguration
from nomadpy.model.resources import AllocatedDevice, AllocatedPort


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Command(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """The base of all commands. ``now_ns`` is the proposer's wall clock in Unix nanoseconds."""

    now_ns: int = 0
    request_id: str = ""


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a command."""


class InitCluster(Command):
    """Gives a new cluster its identity; refused when it has one. ``id_key`` (32 hex digits) permutes allocation ids."""

    cluster_id: str = ""
    id_key: str = ""
    scheduler_config: SchedulerConfiguration = SchedulerConfiguration()


class RegisterJob(Command):
    """Creates or updates a job. ``enforce_index`` is a compare-and-set on ``JobModifyIndex`` (0: must not exist).
    An unchanged specification makes no new version; the evaluations are stored all the same."""

    job: Job
    submission: JobSubmission | None = None
    evals: tuple[Evaluation, ...] = ()
    enforce_index: int | None = None
    preserve_counts: bool = False
    preserve_resources: bool = False
    scaling_event: ScalingEvent | None = None
    scaling_group: str = ""


class AlikeJobs(Record):
    """Registrations of one job under many ids; with ``named`` the job's name is its id, too. ``eval`` is the evaluation
    of each, with the id at the same place in ``eval_ids``; None for jobs that get none."""

    job: Job
    ids: tuple[str, ...] = ()
    named: bool = False
    eval: Evaluation | None = None
    eval_ids: tuple[str, ...] = ()


class RegisterJobs(Command):
    """Many registrations in one entry; each succeeds or is refused on its own. The outcome's value has the results of
    ``jobs``, then those of ``alike``, in their order."""

    jobs: tuple[RegisterJob, ...] = ()
    alike: tuple[AlikeJobs, ...] = ()


class DeregisterJob(Command):
    """Stops a job or, with ``purge``, removes it. An unknown job is no error."""

    namespace: str = "default"
    job_id: str = ""
    purge: bool = False
    no_shutdown_delay: bool = False
    evals: tuple[Evaluation, ...] = ()


class RecordScalingEvent(Command):
    """Remembers a scaling event that changed nothing."""

    namespace: str = "default"
    job_id: str = ""
    group: str = ""
    event: ScalingEvent = ScalingEvent()


class SetJobStability(Command):
    namespace: str = "default"
    job_id: str = ""
    version: int = 0
    stable: bool = False


class TagJobVersion(Command):
    """Tags a version, or with ``tag`` None removes the tag ``name``."""

    namespace: str = "default"
    job_id: str = ""
    name: str = ""
    version: int = 0
    tag: JobVersionTag | None = None


class UpdateEvals(Command):
    """Stores evaluations, new or changed."""

    evals: tuple[Evaluation, ...] = ()


class RegisterNode(Command):
    """Creates a node or updates the facts that its client reports; status, eligibility and drain stay."""

    node: Node
    evals: tuple[Evaluation, ...] = ()


class UpdateNodeStatus(Command):
    node_id: str = ""
    status: str = ""
    event: NodeEvent | None = None
    evals: tuple[Evaluation, ...] = ()


class UpdateNodeEligibility(Command):
    node_id: str = ""
    eligibility: str = ""
    event: NodeEvent | None = None
    evals: tuple[Evaluation, ...] = ()


class UpdateNodeDrain(Command):
    """Sets or (with None) ends a drain. Scheduling eligibility follows as Nomad's does. ``completed`` says which drain
    has come to its end; refused when the node has another one, or none, by then. Empty ``meta`` and ``accessor_id``
    keep what an earlier change of the same drain said."""

    node_id: str = ""
    drain: DrainStrategy | None = None
    completed: DrainStrategy | None = None
    mark_eligible: bool = False
    meta: dict[str, str] = {}
    accessor_id: str = ""
    event: NodeEvent | None = None
    evals: tuple[Evaluation, ...] = ()


class AddNodeEvents(Command):
    node_id: str = ""
    events: tuple[NodeEvent, ...] = ()


class DeregisterNodes(Command):
    node_ids: tuple[str, ...] = ()
    evals: tuple[Evaluation, ...] = ()


class UpdateAllocs(Command):
    """What nodes report of their allocations, with the evaluations that follow from it."""

    updates: tuple[AllocUpdate, ...] = ()
    evals: tuple[Evaluation, ...] = ()


class UpdateAllocTransitions(Command):
    """What operators or the drainer want of allocations, by id."""

    transitions: dict[str, DesiredTransition] = {}
    evals: tuple[Evaluation, ...] = ()


class PlacedAlloc(Record):
    """One new allocation of a block; only what differs from its siblings. ``id`` is given when the scheduler needs to
    refer to it (replacement chains), otherwise it follows from the row number."""

    previous_alloc_id: str = ""
    ports: tuple[AllocatedPort, ...] = ()
    devices: dict[str, tuple[AllocatedDevice, ...]] = {}
    reserved_cores: dict[str, tuple[int, ...]] = {}
    reschedule_tracker: RescheduleTracker | None = None
    canary: bool = False
    preempted_alloc_ids: tuple[str, ...] = ()
    metrics: AllocMetric | None = None


class PlaceBlock(Record):
    """New allocations of one group from one evaluation, as arrays: ``nodes`` and ``name_indexes`` are little-endian
    u32 arrays of equal length (node numbers and the numbers in the allocations' names). ``details`` holds the sparse
    rest by position; ``metrics`` is shared by all allocations that bring none of their own. ``port_values`` is empty or
    holds the host ports of the group's first network (static ones first) as little-endian u16, one row an allocation;
    their addresses are in ``port_hosts`` by node number."""

    namespace: str = "default"
    job_id: str = ""
    job_version: int = 0
    group: str = ""
    eval_id: str = ""
    deployment_id: str = ""
    nodes: bytes = b""
    name_indexes: bytes = b""
    details: dict[int, PlacedAlloc] = {}
    metrics: AllocMetric | None = None
    port_values: bytes = b""
    port_hosts: dict[int, tuple[str, ...]] = {}


class StopAlloc(Record):
    """An allocation that is no longer wanted. ``client_status`` overrides what the node last said (lost, unknown)."""

    alloc_id: str = ""
    desired_status: str = "stop"
    description: str = ""
    client_status: str = ""
    followup_eval_id: str = ""
    preempted_by_alloc_id: str = ""
    rescheduled: bool = False


class UpdateAllocInPlace(Record):
    """An allocation that takes over the job's current version without a restart."""

    alloc_id: str = ""
    job_version: int = 0
    eval_id: str = ""
    deployment_id: str = ""


class AnnotateAlloc(Record):
    """Bookkeeping on an allocation that stays: the evaluation that will reschedule it, or that this could not place.
    ``client_status`` overrides what the node last said, unless that was its end."""

    alloc_id: str = ""
    followup_eval_id: str = ""
    last_reschedule: str = ""
    client_status: str = ""
    desired_description: str = ""
    # It came back from a node that was out of reach and stays: nothing follows it any more.
    reconnected: bool = False


class DeploymentUpdate(Record):
    """A new status of a deployment ("": it keeps the one it has), or how many allocations groups of it want now."""

    deployment_id: str = ""
    status: str = ""
    description: str = ""
    desired_totals: dict[str, int] = {}


class PlanResult(Record):
    """What one evaluation decided."""

    eval_id: str = ""
    namespace: str = "default"
    job_id: str = ""
    all_at_once: bool = False
    stops: tuple[StopAlloc, ...] = ()
    in_place: tuple[UpdateAllocInPlace, ...] = ()
    annotate: tuple[AnnotateAlloc, ...] = ()
    places: tuple[PlaceBlock, ...] = ()
    deployment: Deployment | None = None
    deployment_updates: tuple[DeploymentUpdate, ...] = ()


class ApplyPlans(Command):
    """A batch of plans. Each is verified against the state as the earlier ones leave it: placements on a node where
    they no longer fit are dropped (all of an ``all_at_once`` plan); stops always pass. The outcome's value tells for
    each plan how many placements were refused; the evaluation of such a plan is not replaced by its new record."""

    plans: tuple[PlanResult, ...] = ()
    evals: tuple[Evaluation, ...] = ()
    # The index of the state that was looked at; what was decided before a restore is refused as a whole.
    view_index: int = 0


class Newcomers(Record):
    """What was decided about jobs of one group that had nothing, as columns with a place for each evaluation: all
    allocations that the group wants are placed, named from 0 on, and the evaluation is complete. The job is that of the
    stored evaluation. Arrays are little-endian.

    ``job_versions`` and ``counts`` (u32) have one number for each evaluation, ``nodes`` (u32) the node numbers of all
    allocations. ``states`` are the deployments' states of groups that get a deployment: ``state_of`` (u32) is 0 for
    none, else the number of the state, from 1 on; ``deployment_ids`` are for those that get one, in order. The metrics
    are ``metrics[metric_of]`` (u32) with the ``told`` (u8) best nodes: their numbers in ``told_nodes`` (u32), their
    scores in ``told_scores`` (f64)."""

    eval_ids: tuple[str, ...] = ()
    job_versions: bytes = b""
    counts: bytes = b""
    nodes: bytes = b""
    states: tuple[DeploymentState, ...] = ()
    state_of: bytes = b""
    deployment_ids: tuple[str, ...] = ()
    metrics: tuple[AllocMetric, ...] = ()
    metric_of: bytes = b""
    told: bytes = b""
    told_nodes: bytes = b""
    told_scores: bytes = b""


class ApplyDecisions(Command):
    """As ``ApplyPlans``, with the plans of ``newcomers`` after the others. The outcome's value goes on with those: how
    many placements of each were refused, and then its evaluation stays as it is."""

    plans: tuple[PlanResult, ...] = ()
    evals: tuple[Evaluation, ...] = ()
    newcomers: Newcomers = Newcomers()
    view_index: int = 0


class ChangeDeployment(Command):
    """Fails, pauses or resumes a deployment; refused when it is over. ``rollback`` is registered as a new version
    unless the job has moved on from the deployment's version."""

    update: DeploymentUpdate
    rollback: Job | None = None
    evals: tuple[Evaluation, ...] = ()


class PromoteDeployment(Command):
    """Lets the other allocations of groups (all of them when none is named) follow their canaries. Refused when the
    deployment is over or canaries are not healthy."""

    deployment_id: str = ""
    groups: tuple[str, ...] = ()
    evals: tuple[Evaluation, ...] = ()


class SetAllocsHealth(Command):
    """An operator's word on the health of a deployment's allocations, with the change of the deployment that follows
    from it. Refused when the deployment is over or has no such allocation."""

    deployment_id: str = ""
    healthy_alloc_ids: tuple[str, ...] = ()
    unhealthy_alloc_ids: tuple[str, ...] = ()
    update: DeploymentUpdate | None = None
    rollback: Job | None = None
    evals: tuple[Evaluation, ...] = ()


class SetSchedulerConfig(Command):
    config: SchedulerConfiguration
    cas_index: int | None = None


class SetAutopilotConfig(Command):
    config: AutopilotConfig
    cas_index: int | None = None


class UpsertNamespace(Command):
    namespace: Namespace


class DeleteNamespace(Command):
    name: str = ""


class UpsertNodePool(Command):
    pool: NodePool


class DeleteNodePool(Command):
    name: str = ""


class RecordPeriodicLaunch(Command):
    """Remembers when a periodic job last launched a child."""

    namespace: str = "default"
    job_id: str = ""
    launch_time_ns: int = 0


class Collect(Command):
    """Garbage collection: removes finished evaluations with their allocations, dead jobs and deployments. What is no
    longer finished when the entry is applied stays."""

    eval_ids: tuple[str, ...] = ()
    alloc_ids: tuple[str, ...] = ()
    jobs: tuple[tuple[str, str], ...] = ()
    deployment_ids: tuple[str, ...] = ()


class ReconcileSummaries(Command):
    """Rebuilds the job summaries from the allocations."""


class StageRestore(Command):
    """Puts a part of a snapshot of the state aside, which begins at byte ``offset`` of it. After the ``last`` one it
    can be read."""

    restore_id: str = ""
    offset: int = 0
    data: bytes = b""
    last: bool = False


class AbandonRestore(Command):
    """Drops the parts of a restore that will not be finished."""

    restore_id: str = ""


class RestoreState(Command):
    """Exchanges the whole state for the one whose parts were put aside. ``sha256`` (hex) is that of all parts together.
    ``era`` is a random number below 2^32: allocations placed from then on get ids that nothing had before."""

    restore_id: str = ""
    sha256: str = ""
    era: int = 0


AnyCommand = (
    InitCluster
    | RegisterJob
    | RegisterJobs
    | DeregisterJob
    | RecordScalingEvent
    | SetJobStability
    | TagJobVersion
    | UpdateEvals
    | RegisterNode
    | UpdateNodeStatus
    | UpdateNodeEligibility
    | UpdateNodeDrain
    | AddNodeEvents
    | DeregisterNodes
    | UpdateAllocs
    | UpdateAllocTransitions
    | ApplyPlans
    | ApplyDecisions
    | ChangeDeployment
    | PromoteDeployment
    | SetAllocsHealth
    | SetSchedulerConfig
    | SetAutopilotConfig
    | UpsertNamespace
    | DeleteNamespace
    | UpsertNodePool
    | DeleteNodePool
    | RecordPeriodicLaunch
    | Collect
    | ReconcileSummaries
    | StageRestore
    | AbandonRestore
    | RestoreState
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyCommand)


def encode(command: Command) -> bytes:
    """The bytes of a command for the log."""
    return _encoder.encode(command)


class UnknownCommand(Bug):
    """An entry of the log whose command this version does not know. A server that cannot understand an entry must stop
    instead of guessing; an upgrade helps."""

    code = "unknown-command"

    def __init__(self, tag: str) -> None:
        super().__init__(
            f'the log holds a command "{tag}" that this version of nomadpy does not know: a newer server wrote it; '
            "upgrade this one"
        )
        self.tag = tag


class _Tagged(msgspec.Struct):
    type: str = ""


_KNOWN_TAGS = frozenset(kind.__name__ for kind in get_args(AnyCommand))
_tag_decoder = msgspec.msgpack.Decoder(_Tagged)


def tag_of(data: bytes) -> str:
    """The name of the command in a log entry, known or not. Raises msgspec.DecodeError for what is no command."""
    return _tag_decoder.decode(data).type


def decode(data: bytes) -> AnyCommand:
    """The command of a log entry; fields that this version does not know are left out. Raises UnknownCommand, and
    msgspec.ValidationError for a shape that no version has written."""
    try:
        return cast(AnyCommand, _decoder.decode(data))
    except msgspec.ValidationError:
        tag = tag_of(data)
        if tag not in _KNOWN_TAGS:
            raise UnknownCommand(tag) from None
        raise


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What applying a command led to. A refusal is a value, never an exception: ``code`` is one of the error codes of
    ``model.errors``, ``status`` the HTTP status that Nomad would answer with."""

    index: int
    ok: bool = True
    code: str = ""
    status: int = 200
    message: str = ""
    value: Any = None
