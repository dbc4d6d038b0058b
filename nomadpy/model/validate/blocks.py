"""Rules for what a task brings along: templates, artifacts, volumes, logs, plugins."""

from __future__ import annotations

import re

from nomadpy.model.job import CSIPluginConfig, Task, TaskArtifact, TaskGroup, Template, VolumeRequest
from nomadpy.model.service import LogConfig, VolumeMount
from nomadpy.model.time import format_duration
from nomadpy.model.validate.report import QUANTITY_MAX, Problems, escapes_alloc_dir, nested

TEMPLATE_CHANGE_MODES = ("noop", "restart", "signal", "script")
CHECKSUM_DIGITS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
HOST_ACCESS_MODES = (
    "single-node-reader-only",
    "single-node-writer",
    "single-node-single-writer",
    "single-node-multi-writer",
)
CSI_ACCESS_MODES = (
    "single-node-reader-only",
    "single-node-writer",
    "multi-node-reader-only",
    "multi-node-single-writer",
    "multi-node-multi-writer",
)
READER_MODES = frozenset(("single-node-reader-only", "multi-node-reader-only"))
SINGLE_MODES = frozenset(("single-node-reader-only", "single-node-writer"))
ATTACHMENT_MODES = ("file-system", "block-device")

_OCTAL = re.compile(r"[0-7]{1,4}\Z")


# --- templates and artifacts ----------------------------------------------------------------------------------------


def check_templates(templates: tuple[Template, ...]) -> Problems:
    """Problems of a task's templates; destinations must differ."""
    destinations: dict[str, int] = {}
    for number, template in enumerate(templates, 1):
        yield from nested(f"Template {number}", _template(template))
        other = destinations.setdefault(template.dest_path, number)
        if other != number and template.dest_path:
            yield f"Template {number} has same destination as {other}"


def _template(template: Template) -> Problems:
    if not template.source_path and not template.embedded_tmpl:
        yield "Must specify a source path or have an embedded template"
    if not template.dest_path:
        yield "Must specify a destination for the template"
    elif escapes_alloc_dir(template.dest_path):
        yield "template destination escapes allocation directory"
    yield from _template_change(template)
    if template.splay_ns < 0:
        yield "Must specify positive splay value"
    if template.perms and not _OCTAL.match(template.perms):
        yield f'Failed to parse "{template.perms}" as octal: file modes have at most four digits from 0 to 7'
    wait = template.wait
    if wait is not None:
        low, high = wait.min_ns or 0, wait.max_ns
        if low < 0 or (high or 0) < 0:
            yield "wait min and max must not be negative"
        if high is not None and low > high:
            yield f"wait min {format_duration(low)} is greater than max {format_duration(high)}"


def _template_change(template: Template) -> Problems:
    mode, script = template.change_mode, template.change_script
    if mode not in TEMPLATE_CHANGE_MODES:
        yield f'Invalid change mode "{mode}". Must be one of the following: {", ".join(TEMPLATE_CHANGE_MODES)}'
    if mode == "signal":
        if not template.change_signal:
            yield "Must specify signal value when change mode is signal"
        if template.envvars:
            yield "cannot use signals with env var templates"
    if mode == "script":
        if script is None:
            yield "must specify change script configuration value when change mode is script"
        elif not script.command:
            yield "must specify script path value when change mode is script"
        elif script.timeout_ns < 0:
            yield f"script timeout must not be negative: {format_duration(script.timeout_ns)}"


def check_artifacts(artifacts: tuple[TaskArtifact, ...]) -> Problems:
    """Problems of a task's artifacts."""
    for number, artifact in enumerate(artifacts, 1):
        yield from nested(f"Artifact {number}", _artifact(artifact))


def _artifact(artifact: TaskArtifact) -> Problems:
    if not artifact.getter_source:
        yield "source must be specified"
    if artifact.getter_mode not in ("any", "file", "dir"):
        yield f'invalid artifact mode "{artifact.getter_mode}"; must be one of: any, file, dir'
    if escapes_alloc_dir(artifact.relative_dest):
        yield "artifact destination escapes allocation directory"
    checksum = artifact.getter_options.get("checksum", "")
    if checksum and "${" not in checksum:
        kind, colon, digits = checksum.partition(":")
        if not colon:
            yield f'invalid checksum value "{checksum}": it must be given as "type:value"'
        elif kind not in CHECKSUM_DIGITS:
            yield f'unsupported checksum type "{kind}": use md5, sha1, sha256 or sha512'
        elif not re.fullmatch(r"[0-9a-fA-F]+", digits) or len(digits) != CHECKSUM_DIGITS[kind]:
            yield f'invalid {kind} checksum "{digits}": it must have {CHECKSUM_DIGITS[kind]} hexadecimal digits'


# --- volumes --------------------------------------------------------------------------------------------------------


def check_volumes(group: TaskGroup, job_type: str) -> Problems:
    """Problems of the volumes that a group asks for."""
    canaries = group.update.canary if group.update is not None else 0
    for label, volume in sorted(group.volumes.items()):
        yield from nested(f"Task group volume {label}", _volume(volume, group.count, job_type, canaries))


def _volume(volume: VolumeRequest, count: int, job_type: str, canaries: int) -> Problems:
    if not volume.source:
        yield "volume has an empty source"
    if volume.per_alloc:
        if job_type in ("system", "sysbatch"):
            yield f"volume cannot be per_alloc for {job_type} jobs"
        if canaries > 0:
            yield "volume cannot be per_alloc when canaries are in use"
        if volume.sticky:
            yield "volume cannot be per_alloc and sticky at the same time"
    if volume.type == "host":
        yield from _host_volume(volume)
    elif volume.type == "csi":
        yield from _csi_volume(volume, count)
    else:
        yield f'volume has unrecognized type "{volume.type}"'
    if volume.access_mode in READER_MODES and not volume.read_only:
        yield f"{volume.access_mode} volumes must be read-only"


def _host_volume(volume: VolumeRequest) -> Problems:
    if volume.access_mode not in ("", *HOST_ACCESS_MODES):
        yield f'host volumes have an invalid access mode "{volume.access_mode}"'
    if volume.attachment_mode not in ("", *ATTACHMENT_MODES):
        yield f'host volumes have an invalid attachment mode "{volume.attachment_mode}"'
    if volume.mount_options is not None:
        yield "host volumes cannot have mount options"


def _csi_volume(volume: VolumeRequest, count: int) -> Problems:
    if volume.sticky:
        yield "CSI volumes cannot be sticky"
    if not volume.attachment_mode:
        yield "CSI volumes must have an attachment mode"
    elif volume.attachment_mode not in ATTACHMENT_MODES:
        yield f'CSI volumes have an invalid attachment mode "{volume.attachment_mode}"'
    if not volume.access_mode:
        yield "CSI volumes must have an access mode"
    elif volume.access_mode not in CSI_ACCESS_MODES:
        yield f'CSI volumes have an invalid access mode "{volume.access_mode}"'
    elif volume.access_mode in SINGLE_MODES and count > 1 and not volume.per_alloc:
        yield f"volume with {volume.access_mode} access allows only one allocation: {count} > 1"
    if volume.mount_options is not None and volume.attachment_mode == "block-device":
        yield "block devices cannot have mount options"


def check_volume_mounts(mounts: tuple[VolumeMount, ...], group: TaskGroup) -> Problems:
    """Problems of a task's volume mounts."""
    for number, mount in enumerate(mounts):
        if not mount.volume:
            yield f"Volume Mount ({number}) references an empty volume"
        elif mount.volume not in group.volumes:
            yield f"Volume Mount ({number}) references undefined volume {mount.volume}"
        if not mount.destination:
            yield f"Volume Mount ({number}) has no destination"
        if mount.propagation_mode not in ("private", "host-to-task", "bidirectional"):
            yield f'Volume Mount ({number}) has an invalid propagation mode: "{mount.propagation_mode}"'
        if mount.selinux_label not in ("", "z", "Z"):
            yield f'Volume Mount ({number}) has an invalid SELinux label: "{mount.selinux_label}"'


# --- logs and plugins -----------------------------------------------------------------------------------------------


def check_logs(logs: LogConfig, disk_mb: int) -> Problems:
    """Problems of a task's log settings within the group's disk."""
    if logs.max_files < 1:
        yield f"minimum number of files is 1; got {logs.max_files}"
    if not 1 <= logs.max_file_size_mb <= QUANTITY_MAX:
        yield f"minimum file size is 1MB; got {logs.max_file_size_mb}"
    total = logs.max_files * logs.max_file_size_mb
    if total >= disk_mb:
        yield f"log storage ({total} MB) must be less than requested disk capacity ({disk_mb} MB)"


def check_csi_plugin(plugin: CSIPluginConfig) -> Problems:
    """Problems of a task that is itself a CSI plugin."""
    if not plugin.id:
        yield "CSIPluginConfig must have a non-empty PluginID"
    if plugin.type not in ("node", "controller", "monolith"):
        yield (f"CSIPluginConfig PluginType must be one of 'node', 'controller', or 'monolith', got: \"{plugin.type}\"")
    inside = plugin.stage_publish_base_dir.rstrip("/") + "/"
    if inside.startswith(plugin.mount_dir.rstrip("/") + "/"):
        yield "CSIPluginConfig StagePublishBaseDir must not be a subdirectory of MountDir"


def check_lifecycle(task: Task) -> Problems:
    """Problems of a task's lifecycle block."""
    if task.lifecycle is None:
        return
    if not task.lifecycle.hook:
        yield "no lifecycle hook provided"
    elif task.lifecycle.hook not in ("prestart", "poststart", "poststop"):
        yield f"invalid hook: {task.lifecycle.hook}"
