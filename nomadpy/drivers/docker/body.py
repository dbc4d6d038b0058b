"""A task in the engine's words: the body of "create a container". No I/O but reading a seccomp profile that is named.

Source: Docker Engine API 1.41, ``ContainerCreate``; what is allowed follows Nomad's docker driver.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from nomadpy.drivers.contract import TaskConfig, TaskLimits
from nomadpy.drivers.docker import mounts, ports
from nomadpy.drivers.docker.options import DEFAULT_CAPABILITIES, PluginOptions, read_logging
from nomadpy.model.errors import Fatal

ALLOC_LABEL = "com.hashicorp.nomad.alloc_id"
# Ours alone: it keeps an agent from clearing away containers of another agent on the same engine.
NODE_LABEL = "nomadpy.node_id"
MAX_CPU_SHARES = 262_144
MIN_CPU_SHARES = 2
MIN_CPU_QUOTA_US = 1_000
DEFAULT_CFS_PERIOD_US = 100_000
_MIB = 1 << 20


def container_name(task: TaskConfig) -> str:
    """``<task>-<alloc id>``; the engine has no slashes in names.

    >>> container_name(TaskConfig(task_name="a/b", alloc_id="c0ffee"))
    'a_b-c0ffee'
    """
    return f"{task.task_name}-{task.alloc_id}".replace("/", "_")


def container_body(
    task: TaskConfig, config: Mapping[str, Any], options: PluginOptions, *, image_id: str, n_cpus: int
) -> dict[str, Any]:
    """The request body for a task whose ``config`` was read by the schema. Raises Fatal, with the reason, for what
    the operator does not allow."""
    mode = ports.network_mode(task, config)
    published = ports.published_ports(task, config) if ports.publishes(mode) else []
    bindings = ports.port_bindings(published)
    body: dict[str, Any] = {
        "Image": image_id,
        "Env": [f"{name}={value}" for name, value in sorted(task.env.items())],
        "Labels": labels(task, config, options),
        "ExposedPorts": {port: {} for port in bindings},
        "User": task.user,
        "WorkingDir": config.get("work_dir", ""),
        "Tty": config.get("tty", False),
        "OpenStdin": config.get("interactive", False),
        "StdinOnce": False,
        **_command(config),
        "HostConfig": host_config(task, config, options, mode=mode, n_cpus=n_cpus)
        | {"NetworkMode": mode, "PortBindings": bindings},
    }
    hostname = config.get("hostname") or task.hostname
    if hostname and mode != "host" and not mode.startswith("container:"):
        body["Hostname"] = hostname
    if config.get("healthchecks", {}).get("disable"):
        body["Healthcheck"] = {"Test": ["NONE"]}
    if mac_address := config.get("mac_address"):
        body["MacAddress"] = mac_address
    settings = ports.endpoint_settings(config)
    if settings and not ports.user_defined(mode):
        raise Fatal(f'network_aliases, ipv4_address and ipv6_address need a user-defined network, not "{mode}"')
    if settings:
        body["NetworkingConfig"] = {"EndpointsConfig": {mode: settings}}
    return body


def _command(config: Mapping[str, Any]) -> dict[str, Any]:
    """Command and arguments together replace the image's CMD; so do arguments alone."""
    words = ([config["command"]] if config.get("command") else []) + list(config.get("args", ()))
    result: dict[str, Any] = {"Cmd": words} if words else {}
    if config.get("entrypoint"):
        result["Entrypoint"] = list(config["entrypoint"])
    return result


def labels(task: TaskConfig, config: Mapping[str, Any], options: PluginOptions) -> dict[str, str]:
    """The task's labels, those that the operator asked for by glob, and the allocation's id."""
    facts = {
        "job_name": task.job_name,
        "job_id": task.job_id,
        "parent_job_id": task.parent_job_id,
        "task_group_name": task.group_name,
        "task_name": task.task_name,
        "namespace": task.namespace,
        "node_name": task.node_name,
        "node_id": task.node_id,
    }
    extra = {
        f"com.hashicorp.nomad.{name}": value
        for name, value in facts.items()
        if any(fnmatch.fnmatchcase(name, glob) for glob in options.extra_labels)
    }
    return {**config.get("labels", {}), **extra, ALLOC_LABEL: task.alloc_id, NODE_LABEL: task.node_id}


def host_config(
    task: TaskConfig, config: Mapping[str, Any], options: PluginOptions, *, mode: str, n_cpus: int
) -> dict[str, Any]:
    """Everything of the host config but the ports."""
    return {
        "Binds": mounts.binds(task, config, options),
        "Mounts": mounts.mounts(task, config, options),
        "Devices": mounts.devices(task, config),
        "VolumeDriver": config.get("volume_driver", ""),
        "RestartPolicy": {"Name": "no"},  # restarting belongs to the client
        "LogConfig": read_logging(config["logging"]) if "logging" in config else options.logging,
        "GroupAdd": config.get("group_add", []),
        "ReadonlyRootfs": config.get("readonly_rootfs", False),
        "Sysctls": config.get("sysctl", {}),
        "Ulimits": [_ulimit(name, value) for name, value in config.get("ulimit", {}).items()],
        "StorageOpt": config.get("storage_opt", {}),
        "OomScoreAdj": config.get("oom_score_adj", options.oom_score_adj),
        **({"Init": True} if config.get("init") else {}),
        **({"ShmSize": config["shm_size"]} if config.get("shm_size") else {}),
        **resources(task.limits, config, n_cpus=n_cpus),
        **pids_limit(config, options),
        **privileges(task, config, options),
        **namespaces(config, options),
        **ports.resolver(task, config, mode),
    }


def _ulimit(name: str, value: str) -> dict[str, Any]:
    soft, _, hard = value.partition(":")
    try:
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise Fatal(f'ulimit "{name}" must be "soft" or "soft:hard" in whole numbers, not "{value}"') from None


def resources(limits: TaskLimits, config: Mapping[str, Any], *, n_cpus: int) -> dict[str, Any]:
    """CPU and memory. MHz are used as shares as they are, and scaled only on nodes with more MHz than the kernel has
    shares. Memory: ``memory_max`` or ``memory_hard_limit`` is the hard limit and ``memory`` then the reservation;
    equal swap and memory limits mean no swap."""
    result: dict[str, Any] = {"CpuShares": cpu_shares(limits)}
    hard_mb = config.get("memory_hard_limit", 0) or limits.memory_max_mb
    if hard_mb == -1:
        result |= {"MemoryReservation": limits.memory_mb * _MIB}
    elif hard_mb > 0:
        if hard_mb < limits.memory_mb:
            raise Fatal(f"the hard memory limit of {hard_mb} MB is below the task's memory of {limits.memory_mb} MB")
        result |= {"Memory": hard_mb * _MIB, "MemoryReservation": limits.memory_mb * _MIB, "MemorySwap": hard_mb * _MIB}
    else:
        result |= {"Memory": limits.memory_mb * _MIB, "MemorySwap": limits.memory_mb * _MIB}
    if limits.reserved_cores:
        result["CpusetCpus"] = ",".join(str(core) for core in limits.reserved_cores)
    if config.get("cpu_hard_limit"):
        period_us = config.get("cpu_cfs_period") or DEFAULT_CFS_PERIOD_US
        if not 1_000 <= period_us <= 1_000_000:
            raise Fatal(f"cpu_cfs_period must be between 1000 and 1000000 microseconds, not {period_us}")
        share = limits.cpu_shares / limits.node_cpu_mhz if limits.node_cpu_mhz else 1.0
        result |= {"CpuPeriod": period_us, "CpuQuota": max(MIN_CPU_QUOTA_US, int(share * period_us * n_cpus))}
    return result


def cpu_shares(limits: TaskLimits) -> int:
    """The cgroup's share for a number of MHz.

    >>> cpu_shares(TaskLimits(cpu_shares=500, node_cpu_mhz=8000)), cpu_shares(TaskLimits(cpu_shares=1))
    (500, 2)
    """
    shares = limits.cpu_shares
    if limits.node_cpu_mhz >= MAX_CPU_SHARES:
        shares = shares * MAX_CPU_SHARES // limits.node_cpu_mhz
    return min(MAX_CPU_SHARES, max(MIN_CPU_SHARES, shares))


def pids_limit(config: Mapping[str, Any], options: PluginOptions) -> dict[str, int]:
    """The limit on processes; the operator's limit may be lowered but not passed."""
    asked = config.get("pids_limit", 0)
    if options.pids_limit > 0 and (asked < 0 or asked > options.pids_limit):
        raise Fatal(f"pids_limit {asked} is beyond this node's limit of {options.pids_limit}")
    limit = asked or options.pids_limit
    return {"PidsLimit": limit} if limit else {}


def privileges(task: TaskConfig, config: Mapping[str, Any], options: PluginOptions) -> dict[str, Any]:
    """Privileged mode, capabilities, security options and the runtime, each within what the operator allows."""
    privileged = config.get("privileged", False)
    if privileged and not options.allow_privileged:
        raise Fatal("privileged containers are not allowed on this node (plugin option allow_privileged)")
    add, drop = capabilities(config, options)
    result: dict[str, Any] = {
        "Privileged": privileged,
        "CapAdd": add,
        "CapDrop": drop,
        "SecurityOpt": [_security_option(option, task) for option in config.get("security_opt", ())],
    }
    if runtime := config.get("runtime"):
        if runtime not in options.allow_runtimes:
            allowed = ", ".join(options.allow_runtimes) or "none"
            raise Fatal(f'runtime "{runtime}" is not allowed on this node (allowed: {allowed})')
        result["Runtime"] = runtime
    return result


def capabilities(config: Mapping[str, Any], options: PluginOptions) -> tuple[list[str], list[str]]:
    """(CapAdd, CapDrop). A container starts from Docker's default set cut down to what the operator allows, then come
    the task's own drops and adds; an add that is not allowed raises Fatal."""
    allowed = {_capability(name) for name in options.allow_caps}
    everything = "ALL" in allowed
    add = [_capability(name) for name in config.get("cap_add", ())]
    drop = [_capability(name) for name in config.get("cap_drop", ())]
    refused = [name for name in add if not everything and name not in allowed]
    if refused:
        raise Fatal(f"these capabilities are not allowed on this node: {', '.join(sorted(refused))}")
    if not everything:
        # Docker's own default set is a little larger than Nomad's (NET_RAW is the difference).
        drop += [name for name in _DOCKER_DEFAULT if name not in allowed and name not in drop]
    return sorted(set(add)), sorted(set(drop))


_DOCKER_DEFAULT = (*DEFAULT_CAPABILITIES, "NET_RAW")


def _capability(name: str) -> str:
    return name.strip().upper().removeprefix("CAP_")


def _security_option(option: str, task: TaskConfig) -> str:
    """A seccomp profile is named by a file of the task; the engine wants its text."""
    key, separator, value = option.partition("=") if "=" in option else option.partition(":")
    if key != "seccomp" or not separator or value == "unconfined":
        return option
    path = os.path.join(task.dirs.task_dir, value)
    try:
        with open(path, "rb") as file:
            profile = msgspec.json.decode(file.read())
    except (OSError, msgspec.DecodeError) as error:
        raise Fatal(f'the seccomp profile "{value}" cannot be used: {error}') from error
    return f"seccomp={msgspec.json.encode(profile).decode()}"


_SHARED_MODES = {"ipc_mode": "IpcMode", "pid_mode": "PidMode", "uts_mode": "UTSMode", "userns_mode": "UsernsMode"}


def namespaces(config: Mapping[str, Any], options: PluginOptions) -> dict[str, str]:
    """The namespace modes. Leaving one of ipc, pid, uts or userns needs ``allow_privileged`` or a matching glob of
    the operator's ``allowed_modes``."""
    result = {}
    for option, name in _SHARED_MODES.items():
        mode = config.get(option, "")
        kind = option.removesuffix("_mode")
        globs = options.allowed_modes.get(kind, ())
        if mode and not options.allow_privileged and not any(fnmatch.fnmatchcase(mode, glob) for glob in globs):
            raise Fatal(f'{option} "{mode}" is not allowed on this node (plugin option allowed_modes.{kind})')
        if mode:
            result[name] = mode
    if cgroupns := config.get("cgroupns"):
        result["CgroupnsMode"] = cgroupns
    return result
