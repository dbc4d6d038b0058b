"""What Nomad fills into tasks, services, networks and the small blocks that jobs, groups and tasks share.

All functions change the dict they are given, which is ``canonical``'s own copy with exact keys and no nulls.
"""

from __future__ import annotations

import posixpath
from typing import Any

from nomadpy.model.decode import accept_input_fields, build
from nomadpy.model.service import CheckRestart, Service
from nomadpy.model.time import SECOND

Raw = dict[str, Any]

DEFAULT_AUDIENCE = "nomadproject.io"
DEFAULT_IDENTITY = "default"
KILL_TIMEOUT_NS = 5 * SECOND

accept_input_fields(Service, {"CheckRestart": CheckRestart})


def fill_if_empty(block: Raw, **values: Any) -> None:
    """Sets each key that is absent or has an empty value."""
    for key, value in values.items():
        if not block.get(key):
            block[key] = value


def fill_constraints(block: Raw) -> None:
    """Constraints without an operator compare for equality."""
    for constraint in block.get("Constraints") or ():
        constraint["Operand"] = constraint.get("Operand") or "="


def fill_affinities(block: Raw) -> None:
    """Affinities compare for equality and weigh 50 unless they say otherwise."""
    for affinity in block.get("Affinities") or ():
        affinity["Operand"] = affinity.get("Operand") or "="
        affinity.setdefault("Weight", 50)


def fill_ports(block: Raw) -> None:
    """Ports are taken from the host network named default."""
    for network in block.get("Networks") or ():
        for key in ("ReservedPorts", "DynamicPorts"):
            for port in network.get(key) or ():
                fill_if_empty(port, HostNetwork="default")


def fill_cluster(block: Raw) -> None:
    """Consul and Vault blocks mean the cluster named default."""
    consul, vault = block.get("Consul"), block.get("Vault")
    if consul is not None:
        fill_if_empty(consul, Cluster="default")
    if vault is not None:
        fill_if_empty(vault, Cluster="default", ChangeMode="restart", ChangeSignal="SIGHUP")
        vault["ChangeSignal"] = vault["ChangeSignal"].upper()


# --- task -----------------------------------------------------------------------------------------------------------


def fill_task(task: Raw, job: Raw, group: Raw) -> None:
    """Completes one task; its group must be complete already, except for its tasks."""
    fill_if_empty(task, KillTimeout=KILL_TIMEOUT_NS)
    task.setdefault("LogConfig", {})
    task["RestartPolicy"] = {**group["RestartPolicy"], **(task.get("RestartPolicy") or {})}
    fill_constraints(task)
    fill_affinities(task)
    fill_cluster(task)
    _fill_resources(task.setdefault("Resources", {}))
    _fill_identities(task)
    for service in task.get("Services") or ():
        fill_service(service, job, group, task)
    for template in task.get("Templates") or ():
        _fill_template(template)
    for artifact in task.get("Artifacts") or ():
        _fill_artifact(artifact)
    for mount in task.get("VolumeMounts") or ():
        fill_if_empty(mount, PropagationMode="private")
    for policy in task.get("ScalingPolicies") or ():
        policy["Target"] = _task_target(task, job, group)
    plugin = task.get("CSIPluginConfig")
    if plugin is not None:
        fill_if_empty(plugin, MountDir="/csi", StagePublishBaseDir="/local/csi", HealthTimeout=30 * SECOND)


def _task_target(task: Raw, job: Raw, group: Raw) -> Raw:
    names = {"Job": job.get("ID", ""), "Group": group.get("Name", ""), "Task": task.get("Name", "")}
    return {"Namespace": job["Namespace"]} | names


def _fill_resources(resources: Raw) -> None:
    resources.setdefault("CPU", 0 if resources.get("Cores") else 100)
    resources.setdefault("MemoryMB", 300)
    fill_ports(resources)
    for device in resources.get("Devices") or ():
        fill_constraints(device)
        fill_affinities(device)
    numa = resources.get("NUMA")
    if numa is not None:
        fill_if_empty(numa, Affinity="none")


def _fill_identities(task: Raw) -> None:
    """Every task has an identity named default; one among the others by that name, or by none, takes its place."""
    others = task.get("Identities") or []
    named = [identity for identity in others if identity.get("Name") not in (None, "", DEFAULT_IDENTITY)]
    unnamed = [identity for identity in others if identity not in named]
    if "Identity" not in task and unnamed:
        task["Identity"] = unnamed[0]
        others = [identity for identity in others if identity is not unnamed[0]]
    task["Identities"] = others
    identity = task.setdefault("Identity", {})
    identity["Name"] = DEFAULT_IDENTITY
    identity["Audience"] = [DEFAULT_AUDIENCE]


def _fill_template(template: Raw) -> None:
    fill_if_empty(template, ChangeMode="restart", Perms="0644", LeftDelim="{{", RightDelim="}}")
    template.setdefault("Splay", 5 * SECOND)
    if template["ChangeMode"] == "signal":
        fill_if_empty(template, ChangeSignal="SIGHUP")
    if template.get("ChangeSignal"):
        template["ChangeSignal"] = template["ChangeSignal"].upper()
    script = template.get("ChangeScript")
    if script is not None:
        fill_if_empty(script, Timeout=5 * SECOND)


def _fill_artifact(artifact: Raw) -> None:
    fill_if_empty(artifact, GetterMode="any")
    if not artifact.get("RelativeDest"):
        source = artifact.get("GetterSource", "").split("?", 1)[0]
        is_file = artifact["GetterMode"] == "file"
        artifact["RelativeDest"] = "local/" + posixpath.basename(source) if is_file else "local/"


# --- service --------------------------------------------------------------------------------------------------------


def fill_service(service: Raw, job: Raw, group: Raw, task: Raw | None) -> None:
    """Completes a service of a group (``task`` None) or of a task."""
    job_name, group_name = job.get("Name", ""), group.get("Name", "")
    task_name = task.get("Name", "") if task is not None else ""
    owner = f"{job_name}-{group_name}" + (f"-{task_name}" if task is not None else "")
    fill_if_empty(
        service,
        Name=owner,
        Provider="consul",
        AddressMode="auto",
        OnUpdate="require_healthy",
        Cluster="default",
        TaskName=task_name,
    )
    base = f"{job_name}-{group_name}-{task_name}"
    names = {"JOB": job_name, "TASKGROUP": group_name, "TASK": task_name, "BASE": base}
    for name, value in names.items():
        service["Name"] = service["Name"].replace(f"${{{name}}}", value)
    service["Namespace"] = _service_namespace(service, job)
    restart = service.pop("CheckRestart", None)
    if restart is not None:
        build(restart, CheckRestart)
    for check in service.get("Checks") or ():
        _fill_check(check, service, restart)
    identity = service.get("Identity")
    if identity is not None:
        _fill_service_identity(identity, service)


def _service_namespace(service: Raw, job: Raw) -> str:
    if service["Provider"] == "nomad":
        return str(job["Namespace"])
    return str(job.get("ConsulNamespace") or "default")


def _fill_check(check: Raw, service: Raw, restart: Raw | None) -> None:
    fill_if_empty(
        check,
        Name=f'service: "{service["Name"]}" check',
        OnUpdate=service["OnUpdate"],
        TaskName=service["TaskName"],
    )
    own = check.get("CheckRestart")
    if own is not None or restart is not None:
        check["CheckRestart"] = {"Grace": SECOND, **(restart or {}), **(own or {})}


def _fill_service_identity(identity: Raw, service: Raw) -> None:
    owner = f"{service['TaskName']}-" if service["TaskName"] else ""
    fill_if_empty(identity, Name=f"consul-service_{owner}{service['Name']}-{service.get('PortLabel', '')}")
    fill_if_empty(identity, ServiceName=service["Name"])
