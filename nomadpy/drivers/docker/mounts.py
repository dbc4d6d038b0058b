"""What a container sees of the host's file system, and the rules of which paths it may ask for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nomadpy.drivers.contract import Mount, TaskConfig, TaskDirs
from nomadpy.drivers.docker.options import PluginOptions
from nomadpy.model.errors import Fatal

ALLOC_PATH, LOCAL_PATH, SECRETS_PATH = "/alloc", "/local", "/secrets"
# Nomad's words for propagation, beside the kernel's own.
_PROPAGATION = {"": "rprivate", "private": "rprivate", "host-to-task": "rslave", "bidirectional": "rshared"}


def binds(task: TaskConfig, config: Mapping[str, Any], options: PluginOptions) -> list[str]:
    """``HostConfig.Binds``: the allocation's directories, then the task's ``volumes``. Raises Fatal for a path that
    the operator does not allow."""
    label = f",{options.volumes_selinux_label}" if options.volumes_selinux_label else ""
    selinux = f":{options.volumes_selinux_label}" if options.volumes_selinux_label else ""
    dirs = task.dirs
    result = [
        f"{dirs.shared_dir}:{ALLOC_PATH}{selinux}",
        f"{dirs.local_dir}:{LOCAL_PATH}{selinux}",
        f"{dirs.secrets_dir}:{SECRETS_PATH}{selinux}",
        # A task could otherwise rewrite what it said, and fill the disk past the limits on its logs.
        f"{dirs.logs_dir}:{ALLOC_PATH}/logs:ro{label}",
    ]
    volume_driver = config.get("volume_driver", "")
    if volume_driver and not options.volumes_enabled:
        raise Fatal("volume_driver cannot be used: volumes are not enabled on this node")
    for entry in config.get("volumes", ()):
        result.append(_volume(entry, dirs, named=bool(volume_driver), options=options) + label_of(entry, options))
    return result


def label_of(entry: str, options: PluginOptions) -> str:
    """The SELinux label to add to a ``volumes`` entry, which may already have a mode."""
    if not options.volumes_selinux_label:
        return ""
    return ("," if entry.count(":") >= 2 else ":") + options.volumes_selinux_label


def _volume(entry: str, dirs: TaskDirs, *, named: bool, options: PluginOptions) -> str:
    parts = entry.split(":")
    if not 2 <= len(parts) <= 3 or not parts[0] or not parts[1]:
        raise Fatal(f'volume "{entry}" is not host:container[:mode]')
    if not named:
        parts[0] = host_path(parts[0], dirs, options)
    parts[1] = container_path(parts[1])
    return ":".join(parts)


def container_path(path: str) -> str:
    """An absolute path in the container; a relative one counts from its root."""
    return os.path.normpath(os.path.join("/", path))


def host_path(path: str, dirs: TaskDirs, options: PluginOptions) -> str:
    """The absolute host path that a task means. Relative ones count from the task's directory. Raises Fatal when it
    lies outside the allocation and the operator has not enabled volumes. Links inside the allocation are followed
    first: a task can make one, and must not reach the host through it."""
    absolute = os.path.normpath(os.path.join(dirs.task_dir, path))
    if options.volumes_enabled:
        return absolute
    root, real = os.path.realpath(dirs.alloc_dir), os.path.realpath(absolute)
    if not dirs.alloc_dir or not (real == root or real.startswith(root + os.sep)):
        raise Fatal(
            f'volumes are not enabled on this node: cannot mount host path "{path}" outside the allocation directory'
        )
    return absolute


def mounts(task: TaskConfig, config: Mapping[str, Any], options: PluginOptions) -> list[dict[str, Any]]:
    """``HostConfig.Mounts``: the client's mounts (volumes of the group) and the task's ``mount`` blocks."""
    asked = [*config.get("mount", ()), *config.get("mounts", ())]
    return [_client_mount(mount) for mount in task.mounts] + [_mount(block, task.dirs, options) for block in asked]


def _client_mount(mount: Mount) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": mount.host_path,
        "Target": container_path(mount.task_path),
        "ReadOnly": mount.read_only,
        "BindOptions": {"Propagation": _PROPAGATION.get(mount.propagation, mount.propagation)},
    }


def _mount(block: Mapping[str, Any], dirs: TaskDirs, options: PluginOptions) -> dict[str, Any]:
    kind = block.get("type", "volume")
    mount: dict[str, Any] = {
        "Type": kind,
        "Target": container_path(block["target"]),
        "ReadOnly": block.get("readonly", False),
    }
    if kind == "bind":
        mount["Source"] = host_path(block.get("source", ""), dirs, options)
        if propagation := block.get("bind_options", {}).get("propagation"):
            mount["BindOptions"] = {"Propagation": propagation}
    elif kind == "tmpfs":
        asked = block.get("tmpfs_options", {})
        mount["TmpfsOptions"] = {"SizeBytes": asked.get("size", 0), "Mode": asked.get("mode", 0)}
    else:
        mount["Source"] = block.get("source", "")
        mount["VolumeOptions"] = _volume_options(block.get("volume_options", {}))
    return mount


def _volume_options(asked: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"NoCopy": asked.get("no_copy", False), "Labels": asked.get("labels", {})}
    if driver := asked.get("driver_config"):
        result["DriverConfig"] = {"Name": driver.get("name", ""), "Options": driver.get("options", {})}
    return result


def devices(task: TaskConfig, config: Mapping[str, Any]) -> list[dict[str, str]]:
    """``HostConfig.Devices``: those that the task's config names and those that its allocation was given."""
    given = [
        {
            "PathOnHost": device.host_path,
            "PathInContainer": device.task_path or device.host_path,
            "CgroupPermissions": device.permissions,
        }
        for device in task.devices
    ]
    return given + [
        {
            "PathOnHost": block["host_path"],
            "PathInContainer": block.get("container_path") or block["host_path"],
            "CgroupPermissions": block.get("cgroup_permissions") or "rwm",
        }
        for block in config.get("devices", ())
    ]
