"""Services that groups and tasks announce, their checks, and the Consul Connect blocks."""

from __future__ import annotations

from typing import Any

from msgspec import field

from nomadpy.model.naming import Noun
from nomadpy.model.resources import Resources


class WorkloadIdentity(Noun):
    """A token that a task or a service is given."""

    name: str = ""
    audience: tuple[str, ...] = ()
    change_mode: str = ""
    change_signal: str = ""
    env: bool = False
    file: bool = False
    filepath: str = ""
    service_name: str = ""
    ttl_ns: int = 0
    extra_claims: tuple[str, ...] = ()


class CheckRestart(Noun):
    """When an unhealthy check restarts its task: after ``limit`` unhealthy intervals; 0 switches it off."""

    limit: int = 0
    grace_ns: int = 0
    ignore_warnings: bool = False


class ServiceCheck(Noun):
    name: str = ""
    type: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    path: str = ""
    protocol: str = ""
    port_label: str = ""
    expose: bool = False
    address_mode: str = ""
    interval_ns: int = 0
    timeout_ns: int = 0
    initial_status: str = ""
    notes: str = ""
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    method: str = ""
    header: dict[str, tuple[str, ...]] = {}
    check_restart: CheckRestart | None = None
    grpc_service: str = ""
    grpc_use_tls: bool = field(default=False, name="GRPCUseTLS")
    task_name: str = ""
    success_before_passing: int = 0
    failures_before_critical: int = 0
    failures_before_warning: int | None = None
    body: str = ""
    on_update: str = ""


class ServiceWeights(Noun):
    passing: int = 1
    warning: int = 1


class ExposePath(Noun):
    path: str = ""
    protocol: str = ""
    local_path_port: int = 0
    listener_port: str = ""


class ExposeConfig(Noun):
    paths: tuple[ExposePath, ...] = ()


class MeshGateway(Noun):
    mode: str = ""


class ConsulUpstream(Noun):
    destination_name: str = ""
    destination_namespace: str = ""
    destination_peer: str = ""
    destination_partition: str = ""
    destination_type: str = ""
    local_bind_port: int = 0
    datacenter: str = ""
    local_bind_address: str = ""
    local_bind_socket_path: str = ""
    local_bind_socket_mode: str = ""
    mesh_gateway: MeshGateway = MeshGateway()
    config: dict[str, Any] = {}


class ConsulTransparentProxy(Noun):
    uid: str = ""
    outbound_port: int = 0
    exclude_inbound_ports: tuple[str, ...] = ()
    exclude_outbound_ports: tuple[int, ...] = ()
    exclude_outbound_cidrs: tuple[str, ...] = field(default=(), name="ExcludeOutboundCIDRs")
    exclude_uids: tuple[str, ...] = field(default=(), name="ExcludeUIDs")
    no_dns: bool = False


class ConsulProxy(Noun):
    local_service_address: str = ""
    local_service_port: int = 0
    upstreams: tuple[ConsulUpstream, ...] = ()
    expose: ExposeConfig | None = None
    transparent_proxy: ConsulTransparentProxy | None = None
    config: dict[str, Any] = {}


class ConsulSidecarService(Noun):
    tags: tuple[str, ...] = ()
    port: str = ""
    proxy: ConsulProxy | None = None
    disable_default_tcp_check: bool = field(default=False, name="DisableDefaultTCPCheck")
    meta: dict[str, str] = {}


class LogConfig(Noun):
    """How many log files of what size a task keeps."""

    max_files: int = 10
    max_file_size_mb: int = 10
    disabled: bool = False


class VolumeMount(Noun):
    """Where a task sees a group's volume."""

    volume: str = ""
    destination: str = ""
    read_only: bool = False
    propagation_mode: str = ""
    selinux_label: str = field(default="", name="SELinuxLabel")


class SidecarTask(Noun):
    """Overrides for the proxy task that Connect injects."""

    name: str = ""
    driver: str = ""
    user: str = ""
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    resources: Resources | None = None
    meta: dict[str, str] = {}
    kill_timeout_ns: int | None = None
    log_config: LogConfig | None = None
    shutdown_delay_ns: int | None = None
    kill_signal: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    identities: tuple[WorkloadIdentity, ...] = ()


class ConsulConnect(Noun):
    """A Connect block. A gateway is kept as the plain JSON object of its block."""

    native: bool = False
    sidecar_service: ConsulSidecarService | None = None
    sidecar_task: SidecarTask | None = None
    gateway: dict[str, Any] | None = None


class Service(Noun):
    """A service that a group or task announces to Nomad's or Consul's catalogue."""

    name: str = ""
    task_name: str = ""
    port_label: str = ""
    address_mode: str = ""
    address: str = ""
    enable_tag_override: bool = False
    tags: tuple[str, ...] = ()
    canary_tags: tuple[str, ...] = ()
    checks: tuple[ServiceCheck, ...] = ()
    connect: ConsulConnect | None = None
    meta: dict[str, str] = {}
    canary_meta: dict[str, str] = {}
    weights: ServiceWeights | None = None
    tagged_addresses: dict[str, str] = {}
    namespace: str = ""
    on_update: str = ""
    provider: str = ""
    cluster: str = ""
    identity: WorkloadIdentity | None = None
    kind: str = ""


class ServiceRegistration(Noun):
    """One instance of a service in Nomad's own catalogue."""

    id: str = ""
    service_name: str = ""
    namespace: str = ""
    node_id: str = ""
    datacenter: str = ""
    job_id: str = ""
    alloc_id: str = ""
    tags: tuple[str, ...] = ()
    address: str = ""
    port: int = 0
    create_index: int = 0
    modify_index: int = 0
