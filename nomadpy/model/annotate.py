"""What a plan's numbers mean for the lines of a diff: which change creates, destroys or updates allocations."""

from __future__ import annotations

from collections.abc import Mapping

from nomadpy.model.evaluation import DesiredUpdates, FieldDiff, JobDiff, ObjectDiff, TaskDiff, TaskGroupDiff

FORCES_CREATE = "forces create"
FORCES_DESTROY = "forces destroy"
FORCES_IN_PLACE = "forces in-place update"
FORCES_DESTRUCTIVE = "forces create/destroy update"

_UPDATE_NAMES = (
    ("ignore", "ignore"),
    ("place", "create"),
    ("stop", "destroy"),
    ("migrate", "migrate"),
    ("canary", "canary"),
    ("in_place_update", "in-place update"),
    ("destructive_update", "create/destroy update"),
)
_HARMLESS_FIELDS = frozenset(("KillTimeout",))
# Allocations that run follow a change of the last one in place, too; Nomad does not show it at all.
_HARMLESS_OBJECTS = frozenset(("Service", "Constraint", "Affinity", "Spread", "Lifecycle"))


def annotate(diff: JobDiff, desired: Mapping[str, DesiredUpdates]) -> JobDiff:
    """The diff with a plan's consequences written on it; ``desired`` holds the plan's numbers per group."""
    groups = tuple(_annotate_group(group, desired.get(group.name)) for group in diff.task_groups)
    return diff.replace(task_groups=groups)


def _annotate_group(group: TaskGroupDiff, desired: DesiredUpdates | None) -> TaskGroupDiff:
    updates = {}
    if desired is not None:
        updates = {name: getattr(desired, field) for field, name in _UPDATE_NAMES if getattr(desired, field)}
    return group.replace(
        updates=updates,
        fields=tuple(_annotate_count(field) for field in group.fields),
        tasks=tuple(_annotate_task(task, group.type) for task in group.tasks),
    )


def _annotate_count(field: FieldDiff) -> FieldDiff:
    if field.name != "Count" or field.type == "None":
        return field
    rises = int(field.new or 0) > int(field.old or 0)
    return field.replace(annotations=(FORCES_CREATE if rises else FORCES_DESTROY,))


def _annotate_task(task: TaskDiff, group_type: str) -> TaskDiff:
    if task.type == "None":
        return task
    if group_type == "Added":
        return task.replace(annotations=(FORCES_CREATE,))
    if group_type == "Deleted":
        return task.replace(annotations=(FORCES_DESTROY,))
    destructive = any(field.type != "None" and field.name not in _HARMLESS_FIELDS for field in task.fields)
    destructive = destructive or any(_is_destructive(diff) for diff in task.objects)
    return task.replace(annotations=(FORCES_DESTRUCTIVE if destructive else FORCES_IN_PLACE,))


def _is_destructive(diff: ObjectDiff) -> bool:
    if diff.name == "LogConfig":
        return any(field.name == "Disabled" and field.type != "None" for field in diff.fields)
    return diff.name not in _HARMLESS_OBJECTS
