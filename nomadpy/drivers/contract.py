"""What a task driver is: the published protocol that docker, raw_exec, exec, java and any outside package implement.

A driver turns a ``TaskConfig`` into something that runs, tells when it ends, and can find it again after the agent was
restarted. It keeps no policy: restarts, timeouts of prestart work and what counts as failure belong to the client.

Life of one attempt: ``start_task`` returns a ``TaskHandle`` which the client stores durably before anything else
happens. ``wait_task`` returns the ``ExitResult`` when the task is over, also when it ended while no agent was running.
``stop_task`` asks politely and then insists. ``destroy_task`` removes every trace. After an agent restart the client
calls ``recover_task`` with the stored handle before any other call for that task.

Errors: ``Temporary`` when another attempt may work, ``Fatal`` when none will, ``NotFound`` when the task is unknown.
Every method may be cancelled; a cancelled ``wait_task`` leaves the task running.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from nomadpy.model.alloc import TaskResourceUsage
from nomadpy.model.naming import Noun
from nomadpy.model.resources import AllocatedPort, DNSConfig
from nomadpy.model.service import LogConfig

FS_NONE, FS_CHROOT, FS_IMAGE = "none", "chroot", "image"


class Capabilities(Noun):
    """What a driver can do. ``fs_isolation`` decides which paths a task sees in its environment."""

    send_signals: bool = True
    exec: bool = False
    fs_isolation: str = FS_NONE
    remote_tasks: bool = False
    network_modes: tuple[str, ...] = ("host",)


class Fingerprint(Noun):
    """What a driver found on this machine. ``attributes`` become node attributes (``driver.docker.version`` …)."""

    detected: bool = False
    healthy: bool = False
    health_description: str = ""
    attributes: dict[str, str] = {}


class Mount(Noun):
    """A host directory that the task sees at ``task_path``."""

    host_path: str = ""
    task_path: str = ""
    read_only: bool = False
    propagation: str = "private"


class DeviceNode(Noun):
    """A device file of the host that the task sees at ``task_path``, to read (r), write (w) and make nodes of (m)."""

    host_path: str = ""
    task_path: str = ""
    permissions: str = "rwm"


class TaskLimits(Noun):
    """What the allocation gave this task. ``cpu_shares`` in MHz of ``node_cpu_mhz`` in total; 0 or -1 memory_max_mb
    means none; ``reserved_cores`` are core ids that belong to the task alone."""

    cpu_shares: int = 100
    node_cpu_mhz: int = 0
    reserved_cores: tuple[int, ...] = ()
    memory_mb: int = 300
    memory_max_mb: int = 0


class TaskDirs(Noun):
    """Host paths of one task's part of the allocation directory (layout: semantics of Nomad's client)."""

    alloc_dir: str = ""  # <alloc_root>/<alloc id>
    shared_dir: str = ""  # …/alloc
    logs_dir: str = ""  # …/alloc/logs
    task_dir: str = ""  # …/<task>
    local_dir: str = ""  # …/<task>/local
    secrets_dir: str = ""  # …/<task>/secrets
    private_dir: str = ""  # …/<task>/private: for the driver's and the client's own files


class TaskConfig(Noun):
    """Everything a driver needs to start one attempt of a task. ``config`` and ``env`` are already interpolated."""

    id: str = ""  # unique per attempt: "<alloc id>/<task>/<8 hex>"
    alloc_id: str = ""
    job_id: str = ""
    job_name: str = ""
    parent_job_id: str = ""
    namespace: str = ""
    group_name: str = ""
    task_name: str = ""
    node_id: str = ""
    node_name: str = ""
    user: str = ""
    config: dict[str, Any] = {}
    env: dict[str, str] = {}
    limits: TaskLimits = TaskLimits()
    dirs: TaskDirs = TaskDirs()
    log_config: LogConfig = LogConfig()
    kill_signal: str = ""
    ports: tuple[AllocatedPort, ...] = ()
    host_ip: str = ""
    network_mode: str = ""
    hostname: str = ""
    dns: DNSConfig | None = None
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()


class DriverNetwork(Noun):
    """Where a task can be reached inside its own network, when it has one."""

    ip: str = ""
    port_map: dict[str, int] = {}
    auto_advertise: bool = False


class TaskHandle(Noun):
    """What the client stores so that a later agent finds the task again. ``state`` belongs to the driver and must be
    JSON-safe; ``version`` lets it change shape."""

    driver: str = ""
    task_id: str = ""
    version: int = 1
    state: dict[str, Any] = {}
    network: DriverNetwork | None = None


class ExitResult(Noun):
    """How a task ended. ``error`` is set when the driver lost it and the code is not the task's own.

    ``finished_at_ns`` is when, in Unix nanoseconds, also for an end that nobody watched; 0 when the driver cannot tell.
    """

    exit_code: int = 0
    signal: int = 0
    oom_killed: bool = False
    error: str = ""
    finished_at_ns: int = 0

    def successful(self) -> bool:
        """Exit code 0 without a signal, an OOM kill or a driver error."""
        return self.exit_code == 0 and self.signal == 0 and not self.oom_killed and not self.error


class ExecProcess(Protocol):
    """A command running beside a task, for ``alloc exec``."""

    async def send_stdin(self, data: bytes) -> None:
        """Feeds the command; empty bytes close its input."""

    async def resize(self, height: int, width: int) -> None:
        """Sets the size of its terminal."""

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """("stdout" | "stderr", data) until the command has ended."""

    async def wait(self) -> ExitResult:
        """How the command ended."""


class Driver(Protocol):
    """A way to run tasks. One instance serves every task of its kind on the node."""

    name: str
    capabilities: Capabilities

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """Every problem of a task's ``config`` block, by name and with what would be right; [] when it is fine.
        Values may still hold ``${…}`` references when called before interpolation."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Whatever the driver does in the background (event streams, clean-up); started once, cancelled at the end."""

    async def fingerprint(self) -> Fingerprint:
        """What is there now; called at start and every 30 s."""

    async def start_task(self, task: TaskConfig) -> TaskHandle:
        """Starts one attempt and returns once it runs."""

    async def recover_task(self, handle: TaskHandle) -> None:
        """Takes a task over from an earlier agent. Raises NotFound when nothing is left of it, not even its exit."""

    async def wait_task(self, task_id: str) -> ExitResult:
        """How the task ended, as soon as it has; at once when it already had."""

    async def stop_task(self, task_id: str, *, signal: str, timeout_s: float) -> None:
        """Sends ``signal`` ("" is the driver's own choice), waits up to ``timeout_s``, then kills. Returns when the
        task is over."""

    async def destroy_task(self, task_id: str, *, force: bool = False) -> None:
        """Removes what is left of a finished task; a running one only with ``force``. Unknown tasks are fine."""

    async def signal_task(self, task_id: str, signal: str) -> None:
        """Sends a signal such as SIGHUP. Raises Invalid naming it when there is no such signal ("invalid signal")."""

    async def task_stats(self, task_id: str) -> TaskResourceUsage:
        """What the task uses now."""

    def exec_task(
        self, task_id: str, command: list[str], *, tty: bool = False
    ) -> AbstractAsyncContextManager[ExecProcess]:
        """Runs a command in the task's surroundings; leaving the context ends it."""


class DriverContext(Noun):
    """What the client hands to a driver factory: the operator's ``plugin "<name>" { config {} }`` block and facts of
    the node. Factories are named by the entry-point group ``nomadpy.drivers`` and called as ``Factory(context)``."""

    plugin_config: dict[str, Any] = {}
    options: dict[str, str] = {}  # client.options, for legacy keys such as driver.docker.volumes
    data_dir: str = ""  # where the driver may keep its own files
    chroot_env: dict[str, str] = {}
    cgroup_parent: str = ""
    node_id: str = ""
    node_name: str = ""
    node_cpu_mhz: int = 0
    dev_mode: bool = False
