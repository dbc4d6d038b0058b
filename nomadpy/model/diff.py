"""The difference between two versions of a job, as plans and version lists show it.

A record's plain fields become *fields*, its nested records and lists become *objects*. Which name an object has, and
which records of a list are the same one in another version, is written in the tables below; everything else follows
from the types of the model.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from nomadpy.model.annotate import annotate
from nomadpy.model.change import group_update_kind, spec_equal
from nomadpy.model.errors import Refused
from nomadpy.model.evaluation import FieldDiff, JobDiff, ObjectDiff, TaskDiff, TaskGroupDiff
from nomadpy.model.job import (
    Action,
    DisconnectStrategy,
    Job,
    MultiregionRegion,
    ScalingPolicy,
    Secret,
    Task,
    TaskGroup,
    Template,
    UpdateStrategy,
    WaitConfig,
)
from nomadpy.model.service import Service, WorkloadIdentity

__all__ = ["annotate", "diff_jobs", "group_update_kind", "spec_equal"]

NONE, ADDED, DELETED, EDITED = "None", "Added", "Deleted", "Edited"

_PLAIN = (str, int, float, bool)
_IGNORED: dict[type, frozenset[str]] = {
    Job: frozenset(
        ("id", "status", "status_description", "version", "stable", "create_index", "modify_index")
        + ("job_modify_index", "update", "submit_time_ns", "nomad_token_id")
        + ("task_groups", "spreads", "payload", "version_tag")
    ),
    TaskGroup: frozenset(("name", "tasks", "spreads")),
    Task: frozenset(("name", "restart_policy", "scaling_policies", "csi_plugin_config")),
    UpdateStrategy: frozenset(("stagger_ns",)),
    # What registration fills in.
    ScalingPolicy: frozenset(("id", "type", "target", "create_index", "modify_index")),
}
# A pointer to a plain value is not compared, with these exceptions.
_POINTERS: dict[type, frozenset[str]] = {
    TaskGroup: frozenset(("shutdown_delay_ns",)),
    DisconnectStrategy: frozenset(("stop_on_client_after_ns", "replace_")),
    WaitConfig: frozenset(("min_ns", "max_ns")),
}
_OBJECT_NAMES = {
    "constraints": "Constraint",
    "affinities": "Affinity",
    "networks": "Network",
    "reserved_ports": "Static Port",
    "dynamic_ports": "Dynamic Port",
    "cni": "CNIConfig",
    "services": "Service",
    "checks": "Check",
    "connect": "ConsulConnect",
    "upstreams": "ConsulUpstreams",
    "volumes": "Volume",
    "regions": "Region",
    "links": "Link",
    "devices": "Device",
    "artifacts": "Artifact",
    "templates": "Template",
    "identities": "Identity",
    "actions": "Action",
    "secrets": "Secret",
    "volume_mounts": "VolumeMount",
    "paths": "Paths",
}
# The field by which a record of a list is found again. Records of other types are the same only if they are equal.
_IDENTIFIED_BY: dict[type, str] = {
    Service: "name",
    Template: "dest_path",
    Secret: "name",
    Action: "name",
    WorkloadIdentity: "name",
    MultiregionRegion: "name",
}

Record = msgspec.Struct


def diff_jobs(old: Job | None, new: Job | None, *, contextual: bool) -> JobDiff:
    """What changes when ``new`` takes the place of ``old``; None stands for no job.

    ``contextual`` adds the unchanged fields of changed objects. Raises Refused when the jobs have different ids.
    """
    if old is not None and new is not None and old.id != new.id:
        raise Refused(f'can not diff jobs with different IDs: "{old.id}" and "{new.id}"')
    fields, objects = _level(old, new, contextual)
    groups = tuple(
        _group_diff(before, after, contextual)
        for before, after in _by_name(old.task_groups if old else (), new.task_groups if new else ())
    )
    changed = bool(fields or objects or any(group.type != NONE for group in groups))
    one = new or old
    return JobDiff(
        type=_kind(old, new, changed=changed),
        id=one.id if one else "",
        fields=fields,
        objects=objects,
        task_groups=groups,
    )


def _group_diff(old: TaskGroup | None, new: TaskGroup | None, contextual: bool) -> TaskGroupDiff:
    fields, objects = _level(old, new, contextual)
    tasks = tuple(
        _task_diff(before, after, contextual)
        for before, after in _by_name(old.tasks if old else (), new.tasks if new else ())
    )
    changed = bool(fields or objects or any(task.type != NONE for task in tasks))
    name = (new or old or TaskGroup()).name
    return TaskGroupDiff(type=_kind(old, new, changed=changed), name=name, fields=fields, objects=objects, tasks=tasks)


def _task_diff(old: Task | None, new: Task | None, contextual: bool) -> TaskDiff:
    fields, objects = _level(old, new, contextual)
    name = (new or old or Task()).name
    return TaskDiff(type=_kind(old, new, changed=bool(fields or objects)), name=name, fields=fields, objects=objects)


def _kind(old: Any, new: Any, *, changed: bool) -> str:
    if old is None or new is None:
        return NONE if old is new else ADDED if old is None else DELETED
    return EDITED if changed else NONE


def _by_name(old: Iterable[Any], new: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    before = {item.name: item for item in old}
    after = {item.name: item for item in new}
    return ((before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys()))


def _level(
    old: Record | None, new: Record | None, contextual: bool
) -> tuple[tuple[FieldDiff, ...], tuple[ObjectDiff, ...]]:
    """The changes of a job, group or task itself, where equal fields are never shown."""
    return _fields(_flat(old), _flat(new), contextual=False), _objects(old, new, contextual)


# --- fields ---------------------------------------------------------------------------------------------------------


def _fields(old: dict[str, str], new: dict[str, str], *, contextual: bool) -> tuple[FieldDiff, ...]:
    names = old.keys() | new.keys()
    diffs = (_field(name, old.get(name, ""), new.get(name, "")) for name in names)
    return _sorted_fields(diff for diff in diffs if contextual or diff.type != NONE)


def _field(name: str, old: str, new: str) -> FieldDiff:
    kind = NONE if old == new else ADDED if not old else DELETED if not new else EDITED
    return FieldDiff(type=kind, name=name, old=old, new=new)


def _sorted_fields(diffs: Iterable[FieldDiff]) -> tuple[FieldDiff, ...]:
    return tuple(sorted(diffs, key=lambda diff: (diff.name, diff.old, diff.new)))


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _flat(record: Record | None) -> dict[str, str]:
    """Name -> text of the plain fields of a record, with the entries of its maps."""
    if record is None:
        return {}
    flat: dict[str, str] = {}
    for field in _layout(type(record)).plain:
        flat[field.label] = _text(getattr(record, field.name))
    for field in _layout(type(record)).maps:
        for key, value in getattr(record, field.name).items():
            flat[f"{field.label}[{key}]"] = _text(value)
    return flat


def _flat_data(value: Any, name: str, flat: dict[str, str]) -> None:
    """Adds every value inside plain data under a name such as ``args[0]``."""
    if isinstance(value, dict):
        for key, item in value.items():
            _flat_data(item, f"{name}[{key}]" if name else str(key), flat)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _flat_data(item, f"{name}[{number}]", flat)
    else:
        flat[name] = "nil" if value is None else _text(value)


# --- objects --------------------------------------------------------------------------------------------------------


def _objects(old: Record | None, new: Record | None, contextual: bool) -> tuple[ObjectDiff, ...]:
    one = new if new is not None else old
    if one is None:
        return ()
    found: list[ObjectDiff] = []
    for field in _layout(type(one)).nested:
        before = getattr(old, field.name) if old is not None else None
        after = getattr(new, field.name) if new is not None else None
        if before != after:
            found.extend(_DIFFERS[field.shape](field.label, before, after, contextual))
    return _sorted_objects(found)


def _sorted_objects(diffs: Iterable[ObjectDiff]) -> tuple[ObjectDiff, ...]:
    return tuple(sorted(diffs, key=lambda diff: (diff.name, diff.type != DELETED, _order(diff))))


def _order(diff: ObjectDiff) -> list[tuple[str, str, str]]:
    return [(field.name, field.old, field.new) for field in diff.fields]


def _record_diff(name: str, old: Record | None, new: Record | None, contextual: bool) -> Iterator[ObjectDiff]:
    if old == new:
        return
    fields = _fields(_flat(old), _flat(new), contextual=contextual)
    objects = _objects(old, new, contextual)
    if old is None or new is None or objects or any(field.type != NONE for field in fields):
        yield ObjectDiff(type=_kind(old, new, changed=True), name=name, fields=fields, objects=objects)


def _list_diff(name: str, old: Any, new: Any, contextual: bool) -> Iterator[ObjectDiff]:
    """Objects for the records of a list: those that are found again are edited, others come or go."""
    before, after = list(old or ()), list(new or ())
    for record in list(before):
        if record in after:
            before.remove(record)
            after.remove(record)
    key = _IDENTIFIED_BY.get(type((before or after or [None])[0]))
    for record in before:
        same = [other for other in after if key and getattr(other, key) == getattr(record, key)]
        if same:
            after.remove(same[0])
        yield from _record_diff(name, record, same[0] if same else None, contextual)
    for record in after:
        yield from _record_diff(name, None, record, contextual)


def _map_diff(name: str, old: Any, new: Any, contextual: bool) -> Iterator[ObjectDiff]:
    before, after = old or {}, new or {}
    for key in sorted(before.keys() | after.keys()):
        yield from _record_diff(name, before.get(key), after.get(key), contextual)


def _set_diff(name: str, old: Any, new: Any, contextual: bool) -> Iterator[ObjectDiff]:
    """One object whose fields, all of the same name, are the values that come and go."""
    before, after = {_text(value) for value in old or ()}, {_text(value) for value in new or ()}
    if before == after:
        return
    fields = [_field(name, "", value) for value in after - before]
    fields += [_field(name, value, "") for value in before - after]
    if contextual:
        fields += [_field(name, value, value) for value in before & after]
    kind = ADDED if not before else DELETED if not after else EDITED
    yield ObjectDiff(type=kind, name=name, fields=_sorted_fields(fields))


def _sets_diff(name: str, old: Any, new: Any, contextual: bool) -> Iterator[ObjectDiff]:
    before, after = old or {}, new or {}
    objects = [
        diff
        for key in sorted(before.keys() | after.keys())
        for diff in _set_diff(key, before.get(key), after.get(key), contextual)
    ]
    if objects:
        kind = ADDED if not before else DELETED if not after else EDITED
        yield ObjectDiff(type=kind, name=name, objects=tuple(objects))


def _data_diff(name: str, old: Any, new: Any, contextual: bool) -> Iterator[ObjectDiff]:
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    _flat_data(old or {}, "", before)
    _flat_data(new or {}, "", after)
    fields = _fields(before, after, contextual=contextual)
    if any(field.type != NONE for field in fields):
        kind = ADDED if not before else DELETED if not after else EDITED
        yield ObjectDiff(type=kind, name=name, fields=fields)


_DIFFERS = {
    "record": _record_diff,
    "list": _list_diff,
    "map": _map_diff,
    "set": _set_diff,
    "sets": _sets_diff,
    "data": _data_diff,
}


# --- what the types say ---------------------------------------------------------------------------------------------


class _Field(NamedTuple):
    name: str
    label: str
    shape: str


class _Layout(NamedTuple):
    plain: tuple[_Field, ...]
    maps: tuple[_Field, ...]
    nested: tuple[_Field, ...]


@functools.cache
def _layout(kind: type[Record]) -> _Layout:
    """How the fields of a record type are compared."""
    fields = []
    for field in msgspec.structs.fields(kind):
        if field.name in _IGNORED.get(kind, ()):
            continue
        shape = _shape(field.type, pointer_counts=field.name in _POINTERS.get(kind, ()))
        label = field.encode_name
        if shape not in ("plain", "entries"):
            label = _OBJECT_NAMES.get(field.name, label)
        fields.append(_Field(field.name, label, shape))
    return _Layout(
        plain=tuple(field for field in fields if field.shape == "plain"),
        maps=tuple(field for field in fields if field.shape == "entries"),
        nested=tuple(field for field in fields if field.shape in _DIFFERS),
    )


def _shape(annotation: Any, *, pointer_counts: bool) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _shape(arguments[0], pointer_counts=pointer_counts)
    if origin in (types.UnionType, typing.Union):
        inner = next(arm for arm in arguments if arm is not type(None))
        shape = _shape(inner, pointer_counts=pointer_counts)
        return "ignored" if shape == "plain" and not pointer_counts else shape
    if annotation in _PLAIN:
        return "plain"
    if origin is tuple:
        return "list" if _is_record(arguments[0]) else "set"
    if origin is dict:
        value = arguments[1]
        if _is_record(value):
            return "map"
        if typing.get_origin(value) is tuple:
            return "sets"
        return "data" if value is Any else "entries"
    return "record" if _is_record(annotation) else "ignored"


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)
