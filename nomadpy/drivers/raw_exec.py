"""raw_exec: the command runs as it is, as the agent's user, without file-system isolation and without limits.

Off unless the operator wants it, because any job could then do on the node what the agent can.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nomadpy.drivers import users
from nomadpy.drivers.cgroups import ROOT
from nomadpy.drivers.contract import FS_NONE, Capabilities, DriverContext, Fingerprint, TaskConfig
from nomadpy.drivers.process import Plan, ProcessDriver
from nomadpy.drivers.schema import BOOL, INT, LIST, MAP, STRING, Option
from nomadpy.model.errors import Fatal

OPTIONS = {
    "command": Option(STRING, required=True, help="what to run: absolute, on PATH, or in the task's directory"),
    "args": Option(LIST, help="its arguments"),
    "work_dir": Option(STRING, help="absolute path to run in; the task's directory when not given"),
    "oom_score_adj": Option(INT, help="how readily the kernel kills it when memory runs out; 0 or more"),
    "denied_envvars": Option(LIST, help="globs of environment variables to leave out"),
    "cgroup_v1_override": Option(MAP, help="cgroups to join instead of the task's own, by controller"),
    "cgroup_v2_override": Option(STRING, help="cgroup to join instead of the task's own"),
}
PLUGIN_OPTIONS = {
    "enabled": Option(BOOL, help="whether jobs may use the driver"),
    "denied_host_uids": Option(STRING, help="ranges of user ids that tasks may not have"),
    "denied_host_gids": Option(STRING, help="ranges of group ids that tasks may not have"),
    "denied_envvars": Option(LIST, help="globs of environment variables to leave out of every task"),
    "no_cgroups": Option(BOOL, help="older name that changes nothing any more"),
}


class RawExecDriver(ProcessDriver):
    """See the module."""

    name = "raw_exec"
    capabilities = Capabilities(exec=True, fs_isolation=FS_NONE)
    options = OPTIONS
    plugin_options = PLUGIN_OPTIONS

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        legacy = context.options.get("driver.raw_exec.enable", "").lower() in ("1", "true")
        self._enabled = bool(self.plugin.get("enabled", legacy or context.dev_mode))
        self._denied_uids, self._denied_gids = denied_ranges(self.plugin)

    async def fingerprint(self) -> Fingerprint:
        """Detected when enabled; it needs nothing else."""
        if not self._enabled:
            return Fingerprint(
                health_description='disabled; enable it with plugin "raw_exec" { config { enabled = true } }'
            )
        return Fingerprint(
            detected=True, healthy=True, health_description="Healthy", attributes={f"driver.{self.name}": "1"}
        )

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """What the options' table cannot say, too: at most one cgroup override, no negative score."""
        problems = super().check_config(config)
        if not problems and config.get("cgroup_v1_override") and config.get("cgroup_v2_override"):
            problems.append('only one of "cgroup_v1_override" and "cgroup_v2_override" may be set')
        if not problems and str(config.get("oom_score_adj") or 0).startswith("-"):
            problems.append('option "oom_score_adj" must be 0 or more')
        return problems

    def plan(self, task: TaskConfig, options: Mapping[str, Any]) -> Plan:
        """See ``ProcessDriver``."""
        if not self._enabled:
            raise Fatal("the raw_exec driver is disabled on this node")
        user = users.look_up(task.user) if task.user else None
        if user is not None:
            users.refuse_denied(user, self._denied_uids, self._denied_gids)
        elif self._denied_uids or self._denied_gids:
            users.refuse_denied(users.look_up(str(os.getuid())), self._denied_uids, self._denied_gids)
        return Plan(
            command=options["command"],
            args=tuple(options.get("args", ())),
            bin_dirs=(task.dirs.local_dir, task.dirs.task_dir),
            work_dir=absolute_work_dir(options.get("work_dir", ""), task.dirs.task_dir),
            user=user,
            join=_override(options),
            oom_score_adj=options.get("oom_score_adj"),
            denied_envvars=(*self.plugin.get("denied_envvars", ()), *options.get("denied_envvars", ())),
        )


def absolute_work_dir(work_dir: str, default: str) -> str:
    """The directory to run in. Raises Fatal for a relative one."""
    if work_dir and not work_dir.startswith("/"):
        raise Fatal(f'work_dir must be absolute: "{work_dir}"')
    return work_dir or default


def denied_ranges(plugin: Mapping[str, Any]) -> tuple[list[range], list[range]]:
    """The operator's denied user and group ids. Raises Fatal naming the option that holds no ranges."""
    ranges = []
    for option in ("denied_host_uids", "denied_host_gids"):
        try:
            ranges.append(users.parse_ranges(plugin.get(option, "")))
        except ValueError as error:
            raise Fatal(f'plugin option "{option}": {error}') from None
    return ranges[0], ranges[1]


def _override(options: Mapping[str, Any]) -> tuple[str, ...]:
    v1: dict[str, str] = options.get("cgroup_v1_override", {})
    if v1:
        return tuple(str(ROOT / controller / path.strip("/")) for controller, path in v1.items())
    v2: str = options.get("cgroup_v2_override", "")
    if v2:
        return (v2 if v2.startswith(str(ROOT)) else str(ROOT / v2.strip("/")),)
    return ()
