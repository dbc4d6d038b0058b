"""What should run: Job, TaskGroup, Task and the policies around them.

A person writes these; the system never edits them except for the bookkeeping fields at the end of ``Job``. Defaults
here are the zero values of a record that was never filled in; the values that Nomad fills in at registration are in
``canonical.py``.
"""

from __future__ import annotations

from typing import Any

from msgspec import field

from nomadpy.model.naming import Noun
from nomadpy.model.resources import Affinity, Constraint, NetworkResource, Resources, Spread, TaskLifecycle
from nomadpy.model.service import LogConfig, Service, VolumeMount, WorkloadIdentity


class UpdateStrategy(Noun):
    """How a new version of a group replaces the old one."""

    stagger_ns: int = 0
    max_parallel: int = 0
    health_check: str = ""
    min_healthy_time_ns: int = 0
    healthy_deadline_ns: int = 0
    progress_deadline_ns: int = 0
    auto_revert: bool = False
    auto_promote: bool = False
    canary: int = 0


class MigrateStrategy(Noun):
    """How fast a group leaves a draining node."""

    max_parallel: int = 0
    health_check: str = ""
    min_healthy_time_ns: int = 0
    healthy_deadline_ns: int = 0


class RestartPolicy(Noun):
    """How often a failed task is started again on its node."""

    attempts: int = 0
    interval_ns: int = 0
    delay_ns: int = 0
    mode: str = ""
    render_templates: bool = False


class ReschedulePolicy(Noun):
    """How often, and after which delays, a failed allocation is placed anew."""

    attempts: int = 0
    interval_ns: int = 0
    delay_ns: int = 0
    delay_function: str = ""
    max_delay_ns: int = 0
    unlimited: bool = False


class DisconnectStrategy(Noun):
    """What happens to allocations whose node is out of reach."""

    lost_after_ns: int = 0
    stop_on_client_after_ns: int | None = None
    replace_: bool | None = field(default=None, name="Replace")
    reconcile: str = ""


class EphemeralDisk(Noun):
    """The scratch space that an allocation's tasks share."""

    sticky: bool = False
    size_mb: int = 300
    migrate: bool = False


class ScalingPolicy(Noun):
    """Bounds of a group's count, and an opaque policy for an autoscaler."""

    id: str = ""
    type: str = ""
    target: dict[str, str] = {}
    policy: dict[str, Any] = {}
    min: int = 0
    max: int = 0
    enabled: bool = True
    create_index: int = 0
    modify_index: int = 0


class MountOptions(Noun):
    fs_type: str = field(default="", name="FSType")
    mount_flags: tuple[str, ...] = ()


class VolumeRequest(Noun):
    """A volume that a group needs on its node."""

    name: str = ""
    type: str = ""
    source: str = ""
    read_only: bool = False
    sticky: bool = False
    access_mode: str = ""
    attachment_mode: str = ""
    mount_options: MountOptions | None = None
    per_alloc: bool = False


class Consul(Noun):
    namespace: str = ""
    cluster: str = ""
    partition: str = ""


class Vault(Noun):
    role: str = ""
    policies: tuple[str, ...] = ()
    namespace: str = ""
    cluster: str = ""
    env: bool = True
    disable_file: bool = False
    change_mode: str = ""
    change_signal: str = ""
    allow_token_expiration: bool = False


class Secret(Noun):
    name: str = ""
    provider: str = ""
    path: str = ""
    config: dict[str, Any] = {}
    env: dict[str, str] = {}


class ChangeScript(Noun):
    command: str = ""
    args: tuple[str, ...] = ()
    timeout_ns: int = 0
    fail_on_error: bool = False
    run_on_first_render: bool = False


class WaitConfig(Noun):
    min_ns: int | None = None
    max_ns: int | None = None


class Template(Noun):
    """A file rendered into the task's directory."""

    source_path: str = ""
    dest_path: str = ""
    embedded_tmpl: str = ""
    change_mode: str = ""
    change_signal: str = ""
    change_script: ChangeScript | None = None
    once: bool = False
    splay_ns: int = 0
    perms: str = ""
    uid: int | None = field(default=None, name="Uid")
    gid: int | None = field(default=None, name="Gid")
    left_delim: str = ""
    right_delim: str = ""
    envvars: bool = False
    vault_grace_ns: int = 0
    wait: WaitConfig | None = None
    err_missing_key: bool = False


class TaskArtifact(Noun):
    """Something fetched into the task's directory before it starts."""

    getter_source: str = ""
    getter_options: dict[str, str] = {}
    getter_headers: dict[str, str] = {}
    getter_mode: str = ""
    getter_insecure: bool = False
    relative_dest: str = ""
    chown: bool = False


class DispatchPayload(Noun):
    file: str = ""


class CSIPluginConfig(Noun):
    id: str = ""
    type: str = ""
    mount_dir: str = ""
    stage_publish_base_dir: str = ""
    health_timeout_ns: int = 0


class Action(Noun):
    """A command that an operator may run in the task by name."""

    name: str = ""
    command: str = ""
    args: tuple[str, ...] = ()


class Task(Noun):
    """One process, container or JVM."""

    name: str = ""
    driver: str = ""
    user: str = ""
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    services: tuple[Service, ...] = ()
    vault: Vault | None = None
    secrets: tuple[Secret, ...] = ()
    consul: Consul | None = None
    templates: tuple[Template, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    resources: Resources = Resources()
    restart_policy: RestartPolicy | None = None
    dispatch_payload: DispatchPayload | None = None
    lifecycle: TaskLifecycle | None = None
    meta: dict[str, str] = {}
    kill_timeout_ns: int = 0
    log_config: LogConfig | None = None
    artifacts: tuple[TaskArtifact, ...] = ()
    leader: bool = False
    shutdown_delay_ns: int = 0
    volume_mounts: tuple[VolumeMount, ...] = ()
    scaling_policies: tuple[ScalingPolicy, ...] = ()
    kill_signal: str = ""
    kind: str = ""
    csi_plugin_config: CSIPluginConfig | None = None
    identity: WorkloadIdentity | None = None
    identities: tuple[WorkloadIdentity, ...] = ()
    actions: tuple[Action, ...] = ()
    schedule: dict[str, Any] | None = None


class TaskGroup(Noun):
    """Tasks that always run together on one node; ``count`` such sets are wanted."""

    name: str = ""
    count: int = 1
    update: UpdateStrategy | None = None
    migrate: MigrateStrategy | None = None
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    spreads: tuple[Spread, ...] = ()
    scaling: ScalingPolicy | None = None
    restart_policy: RestartPolicy | None = None
    reschedule_policy: ReschedulePolicy | None = None
    disconnect: DisconnectStrategy | None = None
    tasks: tuple[Task, ...] = ()
    ephemeral_disk: EphemeralDisk | None = None
    meta: dict[str, str] = {}
    networks: tuple[NetworkResource, ...] = ()
    consul: Consul | None = None
    services: tuple[Service, ...] = ()
    volumes: dict[str, VolumeRequest] = {}
    shutdown_delay_ns: int | None = None
    max_run_duration_ns: int | None = None
    stop_after_client_disconnect_ns: int | None = None
    max_client_disconnect_ns: int | None = None
    prevent_reschedule_on_lost: bool = False

    def task(self, name: str) -> Task | None:
        """The task of that name."""
        return next((task for task in self.tasks if task.name == name), None)

    def disconnection(self) -> DisconnectStrategy | None:
        """The disconnect block, or what three older attributes of the group say in its stead."""
        if self.disconnect is not None:
            return self.disconnect
        if not (
            self.max_client_disconnect_ns or self.stop_after_client_disconnect_ns or self.prevent_reschedule_on_lost
        ):
            return None
        return DisconnectStrategy(
            lost_after_ns=self.max_client_disconnect_ns or 0,
            stop_on_client_after_ns=self.stop_after_client_disconnect_ns,
            replace_=not self.prevent_reschedule_on_lost,
            reconcile="best_score",
        )


class PeriodicConfig(Noun):
    enabled: bool = True
    spec: str = ""
    specs: tuple[str, ...] = ()
    spec_type: str = ""
    prohibit_overlap: bool = False
    time_zone: str = ""


class ParameterizedJobConfig(Noun):
    payload: str = ""
    meta_required: tuple[str, ...] = ()
    meta_optional: tuple[str, ...] = ()


class MultiregionStrategy(Noun):
    max_parallel: int = 0
    on_failure: str = ""


class MultiregionRegion(Noun):
    name: str = ""
    count: int = 0
    datacenters: tuple[str, ...] = ()
    node_pool: str = ""
    meta: dict[str, str] = {}


class Multiregion(Noun):
    strategy: MultiregionStrategy | None = None
    regions: tuple[MultiregionRegion, ...] = ()


class JobUILink(Noun):
    label: str = ""
    url: str = field(default="", name="Url")


class JobUIConfig(Noun):
    description: str = ""
    links: tuple[JobUILink, ...] = ()


class JobVersionTag(Noun):
    name: str = ""
    description: str = ""
    tagged_time_ns: int = 0


class Job(Noun):
    """What a person wants to run. Written by people; fields below ``stop`` are the server's bookkeeping."""

    id: str = ""
    name: str = ""
    parent_id: str = ""
    region: str = ""
    namespace: str = ""
    type: str = ""
    priority: int = 0
    all_at_once: bool = False
    datacenters: tuple[str, ...] = ()
    node_pool: str = ""
    constraints: tuple[Constraint, ...] = ()
    affinities: tuple[Affinity, ...] = ()
    spreads: tuple[Spread, ...] = ()
    task_groups: tuple[TaskGroup, ...] = ()
    update: UpdateStrategy = UpdateStrategy()
    multiregion: Multiregion | None = None
    periodic: PeriodicConfig | None = None
    parameterized_job: ParameterizedJobConfig | None = None
    dispatched: bool = False
    dispatch_idempotency_token: str = ""
    payload: bytes = b""
    meta: dict[str, str] = {}
    consul_namespace: str = ""
    vault_namespace: str = ""
    nomad_token_id: str = ""
    ui: JobUIConfig | None = None
    version_tag: JobVersionTag | None = None
    stop: bool = False
    status: str = ""
    status_description: str = ""
    stable: bool = False
    version: int = 0
    submit_time_ns: int = 0
    create_index: int = 0
    modify_index: int = 0
    job_modify_index: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, id), by which every table knows the job."""
        return self.namespace, self.id

    def group(self, name: str) -> TaskGroup | None:
        """The group of that name."""
        return next((group for group in self.task_groups if group.name == name), None)

    def is_periodic(self) -> bool:
        """Whether the job only launches children by the clock."""
        return self.periodic is not None

    def is_parameterized(self) -> bool:
        """Whether the job only launches children when dispatched."""
        return self.parameterized_job is not None and not self.dispatched


class JobSubmission(Noun):
    """The text a person sent, kept per job version."""

    source: str = ""
    format: str = ""
    variable_flags: dict[str, str] = {}
    variables: str = ""
    namespace: str = ""
    job_id: str = ""
    version: int = 0
    job_modify_index: int = 0


class TaskGroupSummary(Noun):
    """How many allocations of one group are in which state."""

    queued: int = 0
    complete: int = 0
    failed: int = 0
    running: int = 0
    starting: int = 0
    lost: int = 0
    unknown: int = 0


class JobChildrenSummary(Noun):
    pending: int = 0
    running: int = 0
    dead: int = 0


class JobSummary(Noun):
    job_id: str = ""
    namespace: str = ""
    summary: dict[str, TaskGroupSummary] = {}
    children: JobChildrenSummary = JobChildrenSummary()
    create_index: int = 0
    modify_index: int = 0


class ScalingEvent(Noun):
    """A change of a group's count, or a note that one was tried."""

    time_ns: int = 0
    count: int | None = None
    previous_count: int = 0
    message: str = ""
    error: bool = False
    meta: dict[str, Any] = {}
    eval_id: str | None = None
    create_index: int = 0
