"""How much of a node one allocation of a group needs.

Source: the peak over an allocation's life. Main tasks run beside sidecar prestart and all poststart tasks; prestart
tasks run before them and poststop tasks after, so the demand is the larger of the three, dimension by dimension.
"""

from __future__ import annotations

import msgspec

from nomadpy.model.job import Task, TaskGroup


class Demand(msgspec.Struct, frozen=True):
    """MHz, MB and MB; ``cores`` whole reserved cores."""

    cpu: int = 0
    memory: int = 0
    disk: int = 0
    cores: int = 0

    def __add__(self, other: Demand) -> Demand:
        return Demand(
            self.cpu + other.cpu, self.memory + other.memory, self.disk + other.disk, self.cores + other.cores
        )

    def peak(self, other: Demand) -> Demand:
        """The larger of both in every dimension."""
        return Demand(
            max(self.cpu, other.cpu),
            max(self.memory, other.memory),
            max(self.disk, other.disk),
            max(self.cores, other.cores),
        )


def task_demand(task: Task) -> Demand:
    """What one task reserves; a secrets directory larger than the default counts as memory."""
    resources = task.resources
    return Demand(resources.cpu, resources.memory_mb + resources.secrets_mb, 0, resources.cores)


def group_demand(group: TaskGroup) -> Demand:
    """What one allocation of the group reserves on its node. Cores are summed, never shared between tasks."""
    disk = group.ephemeral_disk.size_mb if group.ephemeral_disk else 0
    if len(group.tasks) == 1:
        only = group.tasks[0].resources
        return Demand(only.cpu, only.memory_mb + only.secrets_mb, disk, only.cores)
    disk = group.ephemeral_disk.size_mb if group.ephemeral_disk else 0
    if len(group.tasks) == 1:
        alone = task_demand(group.tasks[0])  # whatever its hook
        return Demand(alone.cpu, alone.memory, disk, alone.cores)
    main, before, after, cores = Demand(), Demand(), Demand(), 0
    for task in group.tasks:
        demand = task_demand(task)
        cores += demand.cores
        hook = task.lifecycle.hook if task.lifecycle else ""
        sidecar = task.lifecycle.sidecar if task.lifecycle else False
        if hook == "prestart":
            before += demand
        if hook == "poststop":
            after += demand
        if hook in ("", "poststart") or (hook == "prestart" and sidecar):
            main += demand
    peak = main.peak(before).peak(after)
    return Demand(peak.cpu, peak.memory, disk, cores)
