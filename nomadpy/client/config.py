"""What an operator decides about one client. Defaults are Nomad's (``client`` block of the agent configuration)."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from nomadpy.model.time import HOUR, MINUTE, SECOND

# Variables that must never reach a task although drivers without an image inherit the agent's environment.
DEFAULT_ENV_DENYLIST = (
    "CONSUL_TOKEN",
    "CONSUL_HTTP_TOKEN",
    "CONSUL_HTTP_AUTH",
    "VAULT_TOKEN",
    "NOMAD_TOKEN",
    "NOMAD_LICENSE",
    "NOMAD_LICENSE_PATH",
    "NOMAD_CLIENT_INTRO_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


class ReservedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept from jobs: MHz, core ids (``0-3,7``), MB, MB and host ports (``22,8000-8100``)."""

    cpu: int = 0
    cores: str = ""
    memory_mb: int = 0
    disk_mb: int = 0
    reserved_ports: str = ""


class HostVolumeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A directory that is offered to jobs under a name."""

    path: str
    read_only: bool = False


class HostNetworkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses, chosen by interface and/or CIDR, that jobs reach through ``host_network``."""

    cidr: str = ""
    interface: str = ""
    reserved_ports: str = ""


class GcConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When terminal allocations leave the disk; thresholds in percent."""

    interval_ns: int = MINUTE
    parallel_destroys: int = 2
    disk_usage_threshold: float = 80.0
    inode_usage_threshold: float = 70.0
    max_allocs: int = 50


class TemplateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What templates may do. Without the sandbox, ``file`` and ``source`` may read any file that the agent can."""

    function_denylist: tuple[str, ...] = ("plugin", "writeToFile", "executeTemplate")
    disable_file_sandbox: bool = False


class ArtifactConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one download; sizes in bytes. 0 in a decompression limit means no limit."""

    http_read_timeout_ns: int = 30 * MINUTE
    http_max_size: int = 100 * 10**9
    git_timeout_ns: int = 30 * MINUTE
    decompression_file_count_limit: int = 4096
    decompression_size_limit: int = 100 * 10**9
    # Comma-separated names of the agent's variables that a download may see besides PATH and the proxies.
    set_environment_variables: str = ""


class ClientConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One client. Directories are absolute; ``0`` or ``""`` in a size, speed or interface means "detect it"."""

    name: str = ""
    datacenter: str = "dc1"
    region: str = "global"
    node_class: str = ""
    node_pool: str = "default"
    meta: dict[str, str] = {}
    alloc_dir: str = ""
    state_dir: str = ""
    http_addr: str = ""
    tls_enabled: bool = False
    dev_mode: bool = False

    host_volumes: dict[str, HostVolumeConfig] = {}
    host_networks: dict[str, HostNetworkConfig] = {}
    reserved: ReservedConfig = ReservedConfig()
    options: dict[str, str] = {}
    plugins: dict[str, dict[str, Any]] = {}
    chroot_env: dict[str, str] = {}
    cgroup_parent: str = "nomad.slice"

    min_dynamic_port: int = 20_000
    max_dynamic_port: int = 32_000
    network_interface: str = ""
    network_speed: int = 0
    cpu_total_compute: int = 0
    memory_total_mb: int = 0
    disk_total_mb: int = 0
    disk_free_mb: int = 0
    node_max_allocs: int = 0

    max_kill_timeout_ns: int = 30 * SECOND
    no_host_uuid: bool = True
    disable_remote_exec: bool = False
    gc_volumes_on_node_gc: bool = False
    gc: GcConfig = GcConfig()
    template: TemplateConfig = TemplateConfig()
    artifact: ArtifactConfig = ArtifactConfig()
    drain_deadline_ns: int = HOUR

    # Only the agent reads the process environment; tasks without an image inherit this copy of it.
    host_env: dict[str, str] = {}

    def check(self) -> list[str]:
        """Every problem of this configuration, each with what would be right; [] when there is none."""
        problems = [
            f"client.{name} must be an absolute path, is {path!r}"
            for name, path in (("alloc_dir", self.alloc_dir), ("state_dir", self.state_dir))
            if not os.path.isabs(path)
        ]
        if not 1 <= self.min_dynamic_port <= self.max_dynamic_port <= 65_535:
            problems.append(
                "client.min_dynamic_port and max_dynamic_port must satisfy 1 <= min <= max <= 65535, are "
                f"{self.min_dynamic_port} and {self.max_dynamic_port}"
            )
        if self.max_kill_timeout_ns < 0:
            problems.append("client.max_kill_timeout must not be negative")
        problems += [
            f'host_volume "{name}" needs an absolute path, is {volume.path!r}'
            for name, volume in sorted(self.host_volumes.items())
            if not os.path.isabs(volume.path)
        ]
        problems += [
            f'host_network "{name}" needs a cidr or an interface'
            for name, network in sorted(self.host_networks.items())
            if not network.cidr and not network.interface
        ]
        return problems

    def option_list(self, key: str) -> frozenset[str]:
        """The comma-separated entries of one of ``client.options``."""
        return frozenset(part.strip() for part in self.options.get(key, "").split(",") if part.strip())

    def env_denylist(self) -> frozenset[str]:
        """The host variables that no task sees; ``env.denylist`` among the options replaces the default."""
        return self.option_list("env.denylist") or frozenset(DEFAULT_ENV_DENYLIST)
