"""One group of a job placed on one node.

An allocation is never moved: a replacement is a new allocation that names the one it replaces. ``desired_status``
belongs to plans and operators, ``client_status`` and the task states belong to the node's reports.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import field

from nomadpy.model.job import Job
from nomadpy.model.naming import OMIT_EMPTY, Noun, SparseNoun
from nomadpy.model.resources import AllocatedResources, DNSConfig, Resources
from nomadpy.model.time import Moment

# DesiredStatus
RUN, STOP, EVICT = "run", "stop", "evict"
# ClientStatus
PENDING, RUNNING, COMPLETE, FAILED, LOST, UNKNOWN = (
    "pending",
    "running",
    "complete",
    "failed",
    "lost",
    "unknown",
)
CLIENT_TERMINAL = frozenset((COMPLETE, FAILED, LOST))
# TaskState.state
TASK_PENDING, TASK_RUNNING, TASK_DEAD = "pending", "running", "dead"


class TaskEvent(Noun):
    """Something that happened to a task. ``type`` is one of Nomad's texts; ``details`` carries the facts."""

    type: str = ""
    time_ns: int = 0
    message: str = ""
    display_message: str = ""
    details: dict[str, str] = {}
    fails_task: bool = False
    restart_reason: str = ""
    setup_error: str = ""
    driver_error: str = ""
    exit_code: int = 0
    signal: int = 0
    kill_timeout_ns: int = 0
    kill_error: str = ""
    kill_reason: str = ""
    start_delay: int = 0
    download_error: str = ""
    validation_error: str = ""
    disk_limit: int = 0
    failed_sibling: str = ""
    vault_error: str = ""
    task_signal_reason: str = ""
    task_signal: str = ""
    driver_message: str = ""
    generic_source: str = ""


class TaskState(Noun):
    """What the node says of one task; at most ten events, oldest first."""

    state: str = TASK_PENDING
    failed: bool = False
    restarts: int = 0
    last_restart_ns: Moment = 0
    started_at_ns: Moment = 0
    finished_at_ns: Moment = 0
    events: tuple[TaskEvent, ...] = ()
    paused: str = ""

    def successful(self) -> bool:
        """Whether the task ended and did not fail."""
        return self.state == TASK_DEAD and not self.failed


class AllocState(Noun):
    """A change of an allocation field worth remembering; field 0 is the client status."""

    field_: int = field(default=0, name="Field")
    value: str = ""
    time_ns: Moment = 0


class DesiredTransition(Noun):
    """What an operator or the server wants to happen to the allocation."""

    migrate: bool | None = None
    reschedule: bool | None = None
    force_reschedule: bool | None = None
    no_shutdown_delay: bool | None = None
    migrate_disable_placement: bool | None = None


class AllocDeploymentStatus(Noun):
    healthy: bool | None = None
    timestamp_ns: Moment = 0
    canary: bool = False
    modify_index: int = 0


class RescheduleEvent(Noun):
    reschedule_time_ns: int = 0
    prev_alloc_id: str = ""
    prev_node_id: str = ""
    delay_ns: int = 0


class RescheduleTracker(Noun):
    events: tuple[RescheduleEvent, ...] = ()
    last_reschedule: str = ""


class AllocNetworkStatus(Noun):
    interface_name: str = ""
    address: str = ""
    address_ipv6: str = field(default="", name="AddressIPv6")
    dns: DNSConfig | None = None


class ScoreMeta(Noun):
    """The scores of one node that was considered."""

    node_id: str = ""
    scores: dict[str, float] = {}
    norm_score: float = 0.0


class Help(Noun):
    """A change after which one more allocation would find a node. ``lacking`` is how much of what is missing there, in
    MHz and MB; ``nodes`` are the ids of the first few of ``node_count`` nodes. Nomad has no such record."""

    kind: str = ""
    text: str = ""
    lacking: dict[str, int] = {}
    nodes: tuple[str, ...] = ()
    node_count: int = 0


class AllocMetric(Noun):
    """Why an allocation went where it went, or why it could not be placed: counts of nodes per filter, and what would
    have helped."""

    nodes_evaluated: int = 0
    nodes_filtered: int = 0
    nodes_in_pool: int = 0
    node_pool: str = ""
    nodes_available: dict[str, int] = {}
    class_filtered: dict[str, int] = {}
    constraint_filtered: dict[str, int] = {}
    nodes_exhausted: int = 0
    class_exhausted: dict[str, int] = {}
    dimension_exhausted: dict[str, int] = {}
    quota_exhausted: tuple[str, ...] = ()
    resources_exhausted: dict[str, Resources] = {}
    scores: dict[str, float] = {}
    score_meta_data: tuple[ScoreMeta, ...] = ()
    allocation_time_ns: int = 0
    coalesced_failures: int = 0
    would_help: Annotated[tuple[Help, ...], OMIT_EMPTY] = ()


class Allocation(SparseNoun):
    """One group of a job on one node, as Nomad's API prints it. Made on read from the columns of the state."""

    id: str = ""
    namespace: str = ""
    eval_id: str = ""
    name: str = ""
    node_id: str = ""
    node_name: str = ""
    job_id: str = ""
    job: Job | None = None
    task_group: str = ""
    resources: Resources | None = None
    shared_resources: Resources | None = None
    task_resources: dict[str, Resources] = {}
    allocated_resources: AllocatedResources | None = None
    metrics: AllocMetric | None = None
    desired_status: str = ""
    desired_description: str = ""
    desired_transition: DesiredTransition = field(default_factory=DesiredTransition)
    client_status: str = ""
    client_description: str = ""
    task_states: dict[str, TaskState] = {}
    alloc_states: tuple[AllocState, ...] = ()
    previous_allocation: str = ""
    next_allocation: str = ""
    deployment_id: str = ""
    deployment_status: AllocDeploymentStatus | None = None
    reschedule_tracker: RescheduleTracker | None = None
    network_status: AllocNetworkStatus | None = None
    followup_eval_id: str = ""
    preempted_allocations: tuple[str, ...] = ()
    preempted_by_allocation: str = ""
    signing_key_id: str = ""
    create_index: int = 0
    modify_index: int = 0
    alloc_modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0

    def server_terminal(self) -> bool:
        """Whether the servers want it gone."""
        return self.desired_status in (STOP, EVICT)

    def client_terminal(self) -> bool:
        """Whether the node says it is over; only then are its resources free."""
        return self.client_status in CLIENT_TERMINAL

    def terminal(self) -> bool:
        """Whether either side is done with it."""
        return self.server_terminal() or self.client_terminal()

    def stub(self) -> AllocListStub:
        """The allocation as it stands in lists."""
        job = self.job
        shared = {name: getattr(self, name) for name in _STUB_FIELDS}
        return AllocListStub(
            **shared, job_type=job.type if job is not None else "", job_version=job.version if job is not None else 0
        )

    @property
    def index(self) -> int:
        """The number in brackets at the end of the allocation's name."""
        return int(self.name[self.name.rindex("[") + 1 : -1])


class AllocListStub(Noun):
    """An allocation in a list."""

    id: str = ""
    eval_id: str = ""
    name: str = ""
    namespace: str = ""
    node_id: str = ""
    node_name: str = ""
    job_id: str = ""
    job_type: str = ""
    job_version: int = 0
    task_group: str = ""
    desired_status: str = ""
    desired_description: str = ""
    client_status: str = ""
    client_description: str = ""
    desired_transition: DesiredTransition = DesiredTransition()
    task_states: dict[str, TaskState] = {}
    deployment_status: AllocDeploymentStatus | None = None
    followup_eval_id: str = ""
    next_allocation: str = ""
    reschedule_tracker: RescheduleTracker | None = None
    preempted_allocations: tuple[str, ...] = ()
    preempted_by_allocation: str = ""
    create_index: int = 0
    modify_index: int = 0
    create_time_ns: int = 0
    modify_time_ns: int = 0


_STUB_FIELDS = frozenset(AllocListStub.__struct_fields__) - {"job_type", "job_version"}


class AllocUpdate(Noun):
    """What a node reports of one of its allocations."""

    id: str = ""
    client_status: str = ""
    client_description: str = ""
    task_states: dict[str, TaskState] = {}
    deployment_status: AllocDeploymentStatus | None = None
    network_status: AllocNetworkStatus | None = None
    modify_time_ns: int = 0


class ResourceUsageMemory(Noun):
    """Bytes; ``measured`` names the figures that this host can tell."""

    rss: int = 0
    cache: int = 0
    swap: int = 0
    mapped_file: int = 0
    usage: int = 0
    max_usage: int = 0
    kernel_usage: int = 0
    kernel_max_usage: int = 0
    measured: tuple[str, ...] = ()


class ResourceUsageCpu(Noun):
    """Percent of one core, and MHz (``total_ticks``)."""

    system_mode: float = 0.0
    user_mode: float = 0.0
    total_ticks: float = 0.0
    throttled_periods: int = 0
    throttled_time: int = 0
    percent: float = 0.0
    measured: tuple[str, ...] = ()


class ResourceUsage(Noun):
    memory_stats: ResourceUsageMemory = ResourceUsageMemory()
    cpu_stats: ResourceUsageCpu = field(default=ResourceUsageCpu(), name="CpuStats")
    device_stats: tuple[dict[str, Any], ...] = ()


class TaskResourceUsage(Noun):
    resource_usage: ResourceUsage = ResourceUsage()
    timestamp_ns: int = 0
    pids: dict[str, ResourceUsage] = {}


class AllocResourceUsage(Noun):
    resource_usage: ResourceUsage = ResourceUsage()
    tasks: dict[str, TaskResourceUsage] = {}
    timestamp_ns: int = 0
