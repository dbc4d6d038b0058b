"""What a docker task and the operator's ``plugin "docker"`` block may say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from msgspec import field

from nomadpy.drivers import schema
from nomadpy.drivers.docker.reference import parse_reference
from nomadpy.drivers.schema import BLOCK, BLOCKS, BOOL, DURATION, INT, LIST, MAP, STRING, Option
from nomadpy.model.naming import Noun

DEFAULT_ENDPOINT = "unix:///var/run/docker.sock"
DEFAULT_CAPABILITIES = tuple(
    ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD"]
    + ["NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"]
)
# Nomad keeps 2 MB a file. The engine's copy is what the task's own log files are made from, and a reader that is two
# files behind loses one, so ours are larger.
DEFAULT_LOGGING: dict[str, Any] = {"Type": "json-file", "Config": {"max-file": "2", "max-size": "10m"}}

_MOUNT = {
    "type": Option(STRING, help="volume, bind or tmpfs"),
    "target": Option(STRING, required=True, help="path in the container"),
    "source": Option(STRING, help="volume name or host path"),
    "readonly": Option(BOOL),
    "bind_options": Option(BLOCK, block={"propagation": Option(STRING)}),
    "tmpfs_options": Option(BLOCK, block={"size": Option(INT, help="bytes"), "mode": Option(INT)}),
    "volume_options": Option(
        BLOCK,
        block={
            "no_copy": Option(BOOL),
            "labels": Option(MAP),
            "driver_config": Option(BLOCK, block={"name": Option(STRING), "options": Option(MAP)}),
        },
    ),
}
_LOGGING = {"type": Option(STRING), "driver": Option(STRING), "config": Option(MAP)}
_AUTH = {name: Option(STRING) for name in ("username", "password", "email", "server_address")}
_DEVICE = {
    "host_path": Option(STRING, required=True),
    "container_path": Option(STRING),
    "cgroup_permissions": Option(STRING, help="any of r, w and m"),
}


def _all(kind: str, names: str) -> dict[str, Option]:
    return {name: Option(kind) for name in names.split()}


TASK_SCHEMA: schema.Schema = {
    "image": Option(STRING, required=True, help="which image to run"),
    **_all(STRING, "command load network_mode ipv4_address ipv6_address mac_address hostname volume_driver"),
    **_all(STRING, "ipc_mode pid_mode uts_mode userns_mode cgroupns runtime work_dir isolation cpuset_cpus"),
    **_all(LIST, "args entrypoint ports network_aliases dns_servers dns_search_domains dns_options extra_hosts"),
    **_all(LIST, "volumes cap_add cap_drop security_opt group_add"),
    **_all(MAP, "port_map ulimit sysctl labels storage_opt"),
    **_all(BOOL, "auth_soft_fail force_pull advertise_ipv6_address privileged cpu_hard_limit"),
    **_all(BOOL, "readonly_rootfs init interactive tty"),
    **_all(INT, "cpu_cfs_period memory_hard_limit pids_limit shm_size oom_score_adj container_exists_attempts"),
    "image_pull_timeout": Option(DURATION),
    "auth": Option(BLOCK, block=_AUTH),
    "mount": Option(BLOCKS, block=_MOUNT),
    "mounts": Option(BLOCKS, block=_MOUNT),
    "devices": Option(BLOCKS, block=_DEVICE),
    "logging": Option(BLOCK, block=_LOGGING),
    "healthchecks": Option(BLOCK, block={"disable": Option(BOOL)}),
}

_DANGLING = {
    "enabled": Option(BOOL),
    "period": Option(DURATION),
    "creation_grace": Option(DURATION),
    "dry_run": Option(BOOL),
}
PLUGIN_SCHEMA: schema.Schema = {
    **_all(STRING, "endpoint nvidia_runtime infra_image"),
    **_all(DURATION, "image_pull_timeout infra_image_pull_timeout pull_activity_timeout"),
    **_all(BOOL, "allow_privileged disable_log_collection windows_allow_insecure_container_admin"),
    **_all(LIST, "allow_caps allow_runtimes extra_labels"),
    **_all(INT, "pids_limit container_exists_attempts oom_score_adj"),
    "auth": Option(BLOCK, block=_all(STRING, "config helper")),
    "tls": Option(BLOCK, block=_all(STRING, "cert key ca")),
    "gc": Option(
        BLOCK,
        block={
            "image": Option(BOOL),
            "image_delay": Option(DURATION),
            "container": Option(BOOL),
            "dangling_containers": Option(BLOCK, block=_DANGLING),
        },
    ),
    "volumes": Option(BLOCK, block={"enabled": Option(BOOL), "selinuxlabel": Option(STRING)}),
    "logging": Option(BLOCK, block=_LOGGING),
    "allowed_modes": Option(BLOCK, block=_all(LIST, "pid ipc userns uts")),
}


class PluginOptions(Noun):
    """The operator's rules for docker tasks, with Nomad's defaults."""

    endpoint: str = DEFAULT_ENDPOINT
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca: str = ""
    auth_config: str = ""
    auth_helper: str = ""
    gc_image: bool = True
    gc_image_delay_s: float = 180.0
    gc_container: bool = True
    dangling_enabled: bool = True
    dangling_period_s: float = 300.0
    dangling_creation_grace_s: float = 300.0
    dangling_dry_run: bool = False
    volumes_enabled: bool = False
    volumes_selinux_label: str = ""
    allow_privileged: bool = False
    allow_caps: tuple[str, ...] = DEFAULT_CAPABILITIES
    allow_runtimes: tuple[str, ...] = ("runc", "nvidia")
    allowed_modes: dict[str, tuple[str, ...]] = {}
    image_pull_timeout_s: float = 300.0
    pull_activity_timeout_s: float = 120.0
    pids_limit: int = 0
    container_exists_attempts: int = 5
    oom_score_adj: int = 0
    extra_labels: tuple[str, ...] = ()
    logging: dict[str, Any] = field(default_factory=lambda: DEFAULT_LOGGING, name="logging")
    disable_log_collection: bool = False


_RENAMED = {
    "endpoint": "endpoint",
    "tls.cert": "tls_cert",
    "tls.key": "tls_key",
    "tls.ca": "tls_ca",
    "auth.config": "auth_config",
    "auth.helper": "auth_helper",
    "gc.image": "gc_image",
    "gc.image_delay": "gc_image_delay_s",
    "gc.container": "gc_container",
    "gc.dangling_containers.enabled": "dangling_enabled",
    "gc.dangling_containers.period": "dangling_period_s",
    "gc.dangling_containers.creation_grace": "dangling_creation_grace_s",
    "gc.dangling_containers.dry_run": "dangling_dry_run",
    "volumes.enabled": "volumes_enabled",
    "volumes.selinuxlabel": "volumes_selinux_label",
    "allow_privileged": "allow_privileged",
    "image_pull_timeout": "image_pull_timeout_s",
    "pull_activity_timeout": "pull_activity_timeout_s",
    "pids_limit": "pids_limit",
    "container_exists_attempts": "container_exists_attempts",
    "oom_score_adj": "oom_score_adj",
    "disable_log_collection": "disable_log_collection",
}
_LISTS = ("allow_caps", "allow_runtimes", "extra_labels")
# Accepted because operators' files hold them; nothing here depends on them.
NOT_ACTED_ON = (
    "nvidia_runtime",
    "infra_image",
    "infra_image_pull_timeout",
    "windows_allow_insecure_container_admin",
)
# Keys of client.options from before there were plugin blocks.
_LEGACY = {
    "docker.endpoint": "endpoint",
    "docker.auth.config": "auth.config",
    "docker.auth.helper": "auth.helper",
    "docker.cleanup.image": "gc.image",
    "docker.cleanup.image.delay": "gc.image_delay",
    "docker.cleanup.container": "gc.container",
    "docker.volumes.enabled": "volumes.enabled",
    "docker.privileged.enabled": "allow_privileged",
    "driver.docker.volumes": "volumes.enabled",
}


def read_plugin_options(config: Mapping[str, Any], legacy: Mapping[str, str]) -> tuple[PluginOptions, list[str]]:
    """The operator's rules, and warnings about what is accepted without effect. ``legacy`` are ``client.options``; the
    plugin block wins. Raises ValueError naming every problem."""
    problems = schema.check(PLUGIN_SCHEMA, config)
    if problems:
        raise ValueError('plugin "docker": ' + "; ".join(problems))
    flat = _flatten(_nest({_LEGACY[key]: value for key, value in legacy.items() if key in _LEGACY}))
    read = schema.read(PLUGIN_SCHEMA, config)
    flat.update(_flatten(read))
    fields: dict[str, Any] = {_RENAMED[key]: value for key, value in flat.items() if key in _RENAMED}
    fields.update({name: tuple(read[name]) for name in _LISTS if name in read})
    if "allowed_modes" in read:
        fields["allowed_modes"] = {kind: tuple(globs) for kind, globs in read["allowed_modes"].items()}
    if "logging" in read:
        fields["logging"] = read_logging(read["logging"])
    warnings = [f'plugin "docker": option "{name}" has no effect' for name in NOT_ACTED_ON if name in read]
    return PluginOptions(**fields), warnings


def read_logging(block: Mapping[str, Any]) -> dict[str, Any]:
    """A logging block in the engine's words; ``driver`` is an older name of ``type``."""
    kind = block.get("type") or block.get("driver") or DEFAULT_LOGGING["Type"]
    config = dict(block.get("config", {}))
    if not config and kind == DEFAULT_LOGGING["Type"]:
        config = dict(DEFAULT_LOGGING["Config"])
    return {"Type": kind, "Config": config}


def _nest(flat: Mapping[str, str]) -> dict[str, Any]:
    """Legacy values by the same conversion as those of the block."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return schema.read(PLUGIN_SCHEMA, nested)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


# --- one task's config ----------------------------------------------------------------------------------------------


def check_task_config(config: Mapping[str, Any]) -> list[str]:
    """Every problem of a task's ``config``; values may still hold ``${…}``."""
    problems = schema.check(TASK_SCHEMA, config)
    problems += _problems_of_image(config.get("image"))
    problems += _problems_of_command(config.get("command"))
    for name in ("mount", "mounts"):
        problems += [problem for block in _blocks(config.get(name)) for problem in _problems_of_mount(name, block)]
    for name, value in _pairs(config.get("ulimit")):
        if "${" not in value and not re.fullmatch(r"-?\d+(:-?\d+)?", value):
            problems.append(f'option "ulimit.{name}" must be "soft" or "soft:hard" in whole numbers, not "{value}"')
    for label, value in _pairs(config.get("port_map")):
        if "${" not in value and not (value.isdigit() and 0 < int(value) < 65536):
            problems.append(f'option "port_map.{label}" must be a port between 1 and 65535, not "{value}"')
    for entry in config.get("volumes") or () if isinstance(config.get("volumes"), list | tuple) else ():
        if "${" not in str(entry) and not 2 <= len(str(entry).split(":")) <= 3:
            problems.append(f'option "volumes" has "{entry}", which is not host:container[:mode]')
    return problems


def _problems_of_image(image: Any) -> list[str]:
    if not isinstance(image, str) or not image or "${" in image:
        return []
    try:
        parse_reference(image)
    except ValueError as error:
        return [f'option "image": {error}']
    return []


def _problems_of_command(command: Any) -> list[str]:
    if isinstance(command, str) and command != command.strip():
        return [f'option "command" must not begin or end with white space, as "{command}" does']
    return []


def _problems_of_mount(name: str, mount: Mapping[str, Any]) -> list[str]:
    kind = mount.get("type", "volume")
    if isinstance(kind, str) and kind not in ("volume", "bind", "tmpfs") and "${" not in kind:
        return [f'option "{name}.type" must be volume, bind or tmpfs, not "{kind}"']
    if kind == "bind" and not mount.get("source"):
        return [f'option "{name}.source" is required for a bind mount']
    misplaced = [f"{other}_options" for other in ("bind", "tmpfs", "volume") if other != kind]
    return [f'option "{name}.{block}" does not fit type "{kind}"' for block in misplaced if mount.get(block)]


def _blocks(value: Any) -> list[Mapping[str, Any]]:
    """The well-formed blocks of a value; what is malformed has been reported by the schema."""
    candidates = value if isinstance(value, list | tuple) else [value]
    return [block for block in candidates if isinstance(block, Mapping)]


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(str(key), str(item)) for block in _blocks(value) for key, item in block.items()]
