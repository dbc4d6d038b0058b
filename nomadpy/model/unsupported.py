"""The parts of a job that are read, checked and stored, but that nothing acts on yet.

One entry per part, so that an entry can be deleted in the same change that makes its part work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from nomadpy.model.canonical import UPDATE_DEFAULTS
from nomadpy.model.job import EphemeralDisk, Job, Task, TaskGroup

PLACES_MAX = 3

Finder = Callable[[Job], Iterable[str]]


class Part(NamedTuple):
    """A part of a job: its name, where a job has it, and what does not happen."""

    name: str
    places: Finder
    effect: str


def unsupported(job: Job) -> list[str]:
    """One warning for each part of the job that has no effect yet, saying where it is and what will not happen."""
    found = ((part, list(part.places(job))) for part in PARTS)
    return [_warning(part, places) for part, places in found if places]


def _warning(part: Part, places: list[str]) -> str:
    shown = ", ".join(places[:PLACES_MAX])
    if len(places) > PLACES_MAX:
        shown += f" and {len(places) - PLACES_MAX} more"
    return f"{part.name} is accepted but not acted on yet: {part.effect} ({shown})"


def _tasks(test: Callable[[Task], Any]) -> Finder:
    def find(job: Job) -> Iterator[str]:
        for group in job.task_groups:
            for task in group.tasks:
                if test(task):
                    yield f'task "{task.name}" of group "{group.name}"'

    return find


def _groups(test: Callable[[TaskGroup], Any]) -> Finder:
    def find(job: Job) -> Iterator[str]:
        return (f'group "{group.name}"' for group in job.task_groups if test(group))

    return find


def _job(test: Callable[[Job], Any]) -> Finder:
    return lambda job: ["job"] if test(job) else []


def _services(provider: str) -> Finder:
    def find(job: Job) -> Iterator[str]:
        for group in job.task_groups:
            for services in (group.services, *(task.services for task in group.tasks)):
                yield from (f'service "{service.name}"' for service in services if service.provider == provider)

    return find


def _connect(job: Job) -> Iterator[str]:
    for group in job.task_groups:
        for services in (group.services, *(task.services for task in group.tasks)):
            yield from (f'service "{service.name}"' for service in services if service.connect is not None)


def _asks_for_cni(group: TaskGroup) -> bool:
    return any(network.mode == "bridge" or network.mode.startswith("cni/") for network in group.networks)


def _no_network(group: TaskGroup) -> bool:
    return any(network.mode == "none" for network in group.networks)


def _moves_disk(group: TaskGroup) -> bool:
    disk = group.ephemeral_disk or EphemeralDisk()
    return disk.sticky or disk.migrate


def _uses_identity(task: Task) -> bool:
    default = task.identity
    return bool(task.identities) or (default is not None and (default.env or default.file))


def _needs_numa(task: Task) -> bool:
    return task.resources.numa is not None and task.resources.numa.affinity != "none"


PARTS: tuple[Part, ...] = (
    Part(
        "template change_script run_on_first_render",
        _tasks(lambda task: any(t.change_script and t.change_script.run_on_first_render for t in task.templates)),
        "the script does not run",
    ),
    Part("service with provider consul", _services("consul"), "it is not registered and its checks do not run"),
    Part("service with provider nomad", _services("nomad"), "it is not registered and its checks do not run"),
    Part("connect", _connect, "no proxy is started"),
    Part("vault", _tasks(lambda task: task.vault), "the task gets no token"),
    Part("secret", _tasks(lambda task: task.secrets), "its values are not fetched"),
    Part("consul (task)", _tasks(lambda task: task.consul), "the task gets no token"),
    Part("consul (group)", _groups(lambda group: group.consul), "its services are not registered"),
    Part(
        "volume of type csi",
        _groups(lambda group: any(volume.type == "csi" for volume in group.volumes.values())),
        "it is not mounted",
    ),
    Part("csi_plugin", _tasks(lambda task: task.csi_plugin_config), "the plugin is not used"),
    Part(
        "sticky volume",
        _groups(lambda group: any(volume.sticky for volume in group.volumes.values())),
        "replacements may get another volume",
    ),
    Part("identity", _tasks(_uses_identity), "the task gets no token"),
    Part(
        "update stagger",
        _groups(lambda group: group.update is not None and group.update.stagger_ns != UPDATE_DEFAULTS["Stagger"]),
        "updates are paced by the health of allocations",
    ),
    Part("scaling", _groups(lambda group: group.scaling), "nothing scales the group by itself"),
    Part("task scaling", _tasks(lambda task: task.scaling_policies), "nothing scales the task"),
    Part("numa", _tasks(_needs_numa), "cores are not tied to memory nodes"),
    Part("secrets (resources)", _tasks(lambda task: task.resources.secrets_mb), "its size is not limited"),
    Part(
        "network mode bridge or cni", _groups(_asks_for_cni), "no node offers CNI networks, so the group does not run"
    ),
    Part("network mode none", _groups(_no_network), "the group gets no network namespace of its own"),
    Part(
        "network (task)",
        _tasks(lambda task: task.resources.networks),
        "no ports are reserved; put the network block into the group",
    ),
    Part("ephemeral_disk sticky and migrate", _groups(_moves_disk), "data does not follow the allocation"),
    Part("multiregion", _job(lambda job: job.multiregion), "the job runs in one region"),
)
