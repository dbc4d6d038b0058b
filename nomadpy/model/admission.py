"""What the servers add to a job before they store it, and what they tell its author without refusing it.

Added are the constraints that a job's own blocks imply: a signal must exist on the node, a Nomad check needs an agent
that runs checks. Nomad adds more of them for Consul and Vault; here those blocks are not acted on, so they keep no job
from running but are named in the warnings.
"""

from __future__ import annotations

from collections.abc import Iterator

from nomadpy.model.job import Job, Task, TaskGroup
from nomadpy.model.naming import Noun
from nomadpy.model.resources import Constraint
from nomadpy.model.service import Service, WorkloadIdentity
from nomadpy.model.unsupported import unsupported

__all__ = ["Admitted", "admit", "unsupported", "warnings_text"]

_CNI_PLUGINS = ("bridge", "firewall", "host-local", "loopback", "portmap")


class Admitted(Noun):
    """A job as it will be stored, and what its author should know."""

    job: Job
    warnings: tuple[str, ...] = ()


def admit(job: Job, *, oversubscription: bool = False) -> Admitted:
    """The canonical, valid job with its implied constraints, and all warnings about it.

    ``oversubscription`` says whether the scheduler's configuration lets memory_max exceed memory.
    """
    groups = tuple(_constrained(group) for group in job.task_groups)
    warnings = (*_advice(job, oversubscription=oversubscription), *unsupported(job))
    return Admitted(job=job if groups == job.task_groups else job.replace(task_groups=groups), warnings=warnings)


def without_memory_max(job: Job) -> Job:
    """The job without the ``memory_max`` of its tasks, which counts only where memory may be oversubscribed."""
    if not any(task.resources.memory_max_mb for group in job.task_groups for task in group.tasks):
        return job
    groups = tuple(
        group.replace(
            tasks=tuple(task.replace(resources=task.resources.replace(memory_max_mb=0)) for task in group.tasks)
        )
        for group in job.task_groups
    )
    return job.replace(task_groups=groups)


def warnings_text(warnings: tuple[str, ...] | list[str]) -> str:
    """The warnings as one text, "" when there are none.

    >>> warnings_text(["a", "b"])
    '2 warnings:\\n\\n* a\\n* b'
    """
    if not warnings:
        return ""
    count = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    return f"{count}:\n\n" + "\n".join(f"* {warning}" for warning in warnings)


# --- implied constraints --------------------------------------------------------------------------------------------


def _constrained(group: TaskGroup) -> TaskGroup:
    present = list(group.constraints)
    for constraint, by_target in _implied(group):
        if by_target:
            known = any(other.l_target == constraint.l_target for other in present)
        else:
            known = constraint in present
        if not known:
            present.append(constraint)
    return group if len(present) == len(group.constraints) else group.replace(constraints=tuple(present))


def _implied(group: TaskGroup) -> Iterator[tuple[Constraint, bool]]:
    """Each implied constraint, and whether any constraint on the same attribute takes its place."""
    signals = sorted(set(_signals(group)))
    if signals:
        wanted = Constraint(l_target="${attr.os.signals}", operand="set_contains", r_target=",".join(signals))
        yield wanted, False
    if any(service.provider == "nomad" for service in _services(group)):
        yield Constraint(l_target="${attr.nomad.service_discovery}", operand="=", r_target="true"), False
    if any(service.provider == "nomad" and service.checks for service in _services(group)):
        yield _agent_version(">= 1.4.0"), False
    if any(network.mode == "bridge" for network in group.networks):
        for plugin in _CNI_PLUGINS:
            target = f"${{attr.plugins.cni.version.{plugin}}}"
            yield Constraint(l_target=target, operand="semver", r_target=">= 0.4.0"), True
    if any(task.resources.numa is not None and task.resources.numa.affinity != "none" for task in group.tasks):
        yield _agent_version(">= 1.6.3-dev"), False
        yield Constraint(l_target="${attr.kernel.name}", operand="=", r_target="linux"), False
    if any(task.identities for task in group.tasks):
        yield _agent_version(">= 1.7.0-a"), False


def _agent_version(condition: str) -> Constraint:
    return Constraint(l_target="${attr.nomad.version}", operand="semver", r_target=condition)


def _services(group: TaskGroup) -> Iterator[Service]:
    yield from group.services
    for task in group.tasks:
        yield from task.services


def _signals(group: TaskGroup) -> Iterator[str]:
    for task in group.tasks:
        if task.kill_signal:
            yield task.kill_signal.upper()
        changing = [(template.change_mode, template.change_signal) for template in task.templates]
        changing += [(identity.change_mode, identity.change_signal) for identity in _identities(task)]
        if task.vault is not None:
            changing.append((task.vault.change_mode, task.vault.change_signal))
        yield from (signal.upper() for mode, signal in changing if mode == "signal" and signal)


def _identities(task: Task) -> list[WorkloadIdentity]:
    return [*task.identities, *([task.identity] if task.identity is not None else [])]


# --- advice ---------------------------------------------------------------------------------------------------------


def _advice(job: Job, *, oversubscription: bool) -> Iterator[str]:
    for group in job.task_groups:
        yield from _group_advice(group)
        for task in group.tasks:
            yield from _task_advice(task, oversubscription=oversubscription)
    canaries = [group.update for group in job.task_groups if group.update is not None and group.update.canary > 0]
    if any(update.auto_promote for update in canaries) and not all(update.auto_promote for update in canaries):
        yield "auto_promote must be true for all groups to enable automatic promotion"
    if job.periodic is not None and job.periodic.spec:
        yield "cron is deprecated and may be removed in a future release. Use crons instead"


def _group_advice(group: TaskGroup) -> Iterator[str]:
    place = f'Group "{group.name}"'
    update = group.update
    if update is not None and group.count > 1 and update.max_parallel > group.count:
        yield (
            f"{place}: update max_parallel is greater than the group's count "
            f"({update.max_parallel} > {group.count}), so a change may replace all allocations at the same time"
        )
    for name, stated in (
        ("max_client_disconnect", group.max_client_disconnect_ns is not None),
        ("stop_after_client_disconnect", group.stop_after_client_disconnect_ns is not None),
        ("prevent_reschedule_on_lost", group.prevent_reschedule_on_lost),
    ):
        if stated and group.disconnect is not None:
            yield f"{place}: {name} is ignored because of the disconnect block"
        elif stated:
            yield f"{place}: {name} is deprecated. Use the disconnect block instead"
    if any(network.mbits for network in group.networks):
        yield f"{place}: mbits has been deprecated and is ignored. Remove mbits from the network block"
    yield from _shutdown_advice(group)


def _shutdown_advice(group: TaskGroup) -> Iterator[str]:
    """Without a delay, a service's clients may still be sent to a task that is already gone."""
    if group.services and not group.shutdown_delay_ns and not any(task.shutdown_delay_ns for task in group.tasks):
        yield f'Group "{group.name}" has services but neither it nor any of its tasks has a shutdown_delay'
    named = {service.task_name for service in group.services if service.task_name}
    for task in group.tasks:
        if task.services and not task.shutdown_delay_ns:
            yield f'Task "{task.name}" of group "{group.name}" has services but no shutdown_delay'
        elif task.name in named and not task.shutdown_delay_ns and not group.shutdown_delay_ns:
            yield f'Task "{task.name}" of group "{group.name}" is named by a service but has no shutdown_delay'


def _task_advice(task: Task, *, oversubscription: bool) -> Iterator[str]:
    place = f'Task "{task.name}"'
    if task.resources.memory_max_mb and not oversubscription:
        yield f"Memory oversubscription is not enabled; {place} memory_max value will be ignored"
    if task.resources.iops:
        yield f"{place}: IOPS has been deprecated and is ignored"
    if task.resources.networks:
        yield f"{place}: task network resources have been deprecated. Configure networking in the group's network block"
    if any(template.vault_grace_ns for template in task.templates):
        yield f"{place}: vault_grace has been deprecated and is ignored. Remove vault_grace from the template block"
    for identity in task.identities:
        yield from _identity_advice(identity, task)


def _identity_advice(identity: WorkloadIdentity, task: Task) -> Iterator[str]:
    place = f'Task "{task.name}": identity "{identity.name}"'
    if not identity.audience:
        yield f"{place} has no audience"
    elif len(identity.audience) > 1:
        yield f"{place} has several audiences; a token should be for one"
    if not identity.ttl_ns:
        yield f"{place} has no ttl, so its token never expires"
    if identity.env and identity.change_mode != "restart":
        yield f"{place} sets env without change_mode restart, so the task keeps an expired token"
    if identity.name.startswith("vault_") and task.vault is None:
        yield f"{place} is meant for Vault, but the task has no vault block"
