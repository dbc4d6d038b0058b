"""exec: the command runs in a root directory and namespaces of its own, with limits, as an unprivileged user.

The root is the task's directory. Directories of the host (``chroot_env``) are mounted into it read-only, in a mount
namespace that ends with the task; nothing is copied and nothing is mounted on the host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from nomadpy.drivers import capabilities, cgroups, users
from nomadpy.drivers.contract import FS_CHROOT, Capabilities, DeviceNode, DriverContext, Fingerprint, TaskConfig
from nomadpy.drivers.executor.wire import Pairs
from nomadpy.drivers.process import Plan, ProcessDriver
from nomadpy.drivers.raw_exec import absolute_work_dir, denied_ranges
from nomadpy.drivers.schema import BOOL, LIST, STRING, Option
from nomadpy.model.errors import Fatal

DEFAULT_USER = "nobody"
DEFAULT_CHROOT = (
    *("/bin", "/etc", "/lib", "/lib32", "/lib64", "/run/resolvconf", "/run/systemd/resolve", "/sbin", "/usr"),
)
PRIVATE, HOST = "private", "host"

ISOLATION_OPTIONS = {
    "pid_mode": Option(STRING, help='"private" or "host": whose processes the task sees'),
    "ipc_mode": Option(STRING, help='"private" or "host": whose shared memory the task sees'),
    "cap_add": Option(LIST, help="capabilities to add, within the node's allow_caps"),
    "cap_drop": Option(LIST, help="capabilities to take away"),
    "work_dir": Option(STRING, help="absolute path inside the task's root to run in"),
}
OPTIONS = {
    "command": Option(STRING, required=True, help="what to run, inside the task's root"),
    "args": Option(LIST, help="its arguments"),
    **ISOLATION_OPTIONS,
}
PLUGIN_OPTIONS = {
    "no_pivot_root": Option(BOOL, help="change the root without pivot_root, for hosts that run from a ramdisk"),
    "default_pid_mode": Option(STRING, help='pid_mode of tasks that name none; "private"'),
    "default_ipc_mode": Option(STRING, help='ipc_mode of tasks that name none; "private"'),
    "allow_caps": Option(LIST, help="capabilities that tasks may have"),
    "denied_host_uids": Option(STRING, help="ranges of user ids that tasks may not have"),
    "denied_host_gids": Option(STRING, help="ranges of group ids that tasks may not have"),
}


class IsolatingDriver(ProcessDriver):
    """What exec and java share: user, capabilities, namespaces and the root directory."""

    plugin_options = PLUGIN_OPTIONS

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._denied_uids, self._denied_gids = denied_ranges(self.plugin)
        for option in ("default_pid_mode", "default_ipc_mode"):
            _require_mode(f'plugin "{self.name}": {option}', self.plugin.get(option, PRIVATE))

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """What the options' table cannot say, too: the modes."""
        problems = super().check_config(config)
        for option in ("pid_mode", "ipc_mode"):
            value = str(config.get(option) or PRIVATE)
            if "${" not in value and value not in (PRIVATE, HOST):
                problems.append(f'option "{option}" must be "private" or "host", not "{value}"')
        return problems

    def isolated(self, task: TaskConfig, options: Mapping[str, Any], plan: Plan, extra: tuple[str, ...] = ()) -> Plan:
        """``plan`` inside a root and namespaces; ``extra`` host directories are visible in it as well. Raises Fatal."""
        user = users.look_up(task.user or DEFAULT_USER)
        users.refuse_denied(user, self._denied_uids, self._denied_gids)
        allowed = self.plugin.get("allow_caps", capabilities.ALLOWED_BY_DEFAULT)
        bound, held = capabilities.grant(allowed, options.get("cap_add", ()), options.get("cap_drop", ()))
        pid_mode = options.get("pid_mode", self.plugin.get("default_pid_mode", PRIVATE))
        ipc_mode = options.get("ipc_mode", self.plugin.get("default_ipc_mode", PRIVATE))
        pairs: Pairs = [("isolate", "1"), ("root", task.dirs.task_dir)]
        pairs += [("cap_bound", str(bound)), ("cap_ambient", str(held))]
        pairs += [("private_pids", "1")] if pid_mode == PRIVATE else []
        pairs += [("private_ipc", "1")] if ipc_mode == PRIVATE else []
        pairs += [("no_pivot_root", "1")] if self.plugin.get("no_pivot_root") else []
        pairs += [("bind", line) for line in self._binds(task, extra)]
        pairs += [("device", _device_line(device)) for device in task.devices]
        if task.dirs.private_dir.startswith(task.dirs.task_dir + "/"):
            pairs.append(("hide", task.dirs.private_dir[len(task.dirs.task_dir) + 1 :]))
        _make_tmp(task.dirs.task_dir)
        return Plan(
            command=plan.command,
            args=plan.args,
            bin_dirs=("/local", "/"),
            work_dir=absolute_work_dir(options.get("work_dir", ""), "/"),
            user=user,
            isolation=pairs,
            enforce=True,
        )

    def _binds(self, task: TaskConfig, extra: tuple[str, ...]) -> list[str]:
        """One line each for the executor: mode, source and target."""
        shown = dict(self.context.chroot_env) or {path: path for path in DEFAULT_CHROOT}
        shown = {source: target for source, target in shown.items() if os.path.lexists(source)}
        shown |= {path: path for path in extra}
        lines = [_shown_line(source, target, shown) for source, target in shown.items()]
        lines.append(f"rw\n{task.dirs.shared_dir}\n/alloc")
        for directory, target in ((task.dirs.local_dir, "local"), (task.dirs.secrets_dir, "secrets")):
            if directory and directory != f"{task.dirs.task_dir}/{target}":
                lines.append(f"rw\n{directory}\n/{target}")
        lines += [f"{'ro' if m.read_only else 'rw'}\n{m.host_path}\n{m.task_path}" for m in task.mounts]
        return lines


class ExecDriver(IsolatingDriver):
    """See the module."""

    name = "exec"
    capabilities = Capabilities(exec=True, fs_isolation=FS_CHROOT)
    options = OPTIONS

    async def fingerprint(self) -> Fingerprint:
        """Detected on Linux for root with cgroups."""
        reason = why_not_isolated()
        if reason:
            return Fingerprint(health_description=reason)
        return Fingerprint(detected=True, healthy=True, health_description="Healthy", attributes={"driver.exec": "1"})

    def plan(self, task: TaskConfig, options: Mapping[str, Any]) -> Plan:
        """See ``ProcessDriver``."""
        reason = why_not_isolated()
        if reason:
            raise Fatal(f"the exec driver cannot run here: {reason}")
        plain = Plan(command=options["command"], args=tuple(options.get("args", ())), bin_dirs=(), work_dir="")
        return self.isolated(task, options, plain)


def _device_line(device: DeviceNode) -> str:
    mode = "rw" if "w" in device.permissions else "ro"
    return f"{mode}\n{device.host_path}\n{device.task_path or device.host_path}"


def why_not_isolated() -> str:
    """Why tasks cannot be isolated on this machine; "" when they can."""
    if sys.platform != "linux":
        return f"exec needs Linux, this is {sys.platform}"
    if os.geteuid() != 0:
        return "exec needs the agent to run as root"
    if cgroups.version() == 0:
        return f"exec needs cgroups, and no controller is mounted below {cgroups.ROOT}"
    return ""


def _shown_line(source: str, target: str, shown: Mapping[str, str]) -> str:
    # /bin is a link to usr/bin on merged systems. When what it points to is visible, too, the link itself is shown;
    # else what it points to is mounted in its place.
    if os.path.islink(source):
        real = os.path.realpath(source)
        if any(real == other or real.startswith(other + "/") for other in shown if other != source):
            return f"link\n{os.readlink(source)}\n{target}"
    return f"ro\n{os.path.realpath(source)}\n{target}"


def _require_mode(where: str, mode: str) -> None:
    if mode not in (PRIVATE, HOST):
        raise Fatal(f'{where} must be "private" or "host", not "{mode}"')


def _make_tmp(task_dir: str) -> None:
    path = f"{task_dir}/tmp"
    if not os.path.isdir(path):
        os.mkdir(path)
        os.chmod(path, 0o1777)
