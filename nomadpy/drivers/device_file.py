"""Devices that a file describes: for hardware without a plugin of its own, and an example of how a plugin is written.

The file is YAML, a list of groups:

    - vendor: acme
      type: fpga
      name: a1
      attributes: {memory: 8 GiB, generation: 3}
      env: ACME_VISIBLE_DEVICES        # this variable lists the ids that the task was given
      instances:
        - id: card-0
          paths: [/dev/acme0]          # device files that the task sees
        - id: card-1
          paths: [/dev/acme1]
          healthy: false

An instance is healthy when the file does not say otherwise and all its paths exist. The file is read again at every
look, so devices come and go with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from nomadpy.drivers.contract import DeviceNode
from nomadpy.drivers.devices import DeviceContext, DeviceStats, Reservation
from nomadpy.model.errors import Invalid
from nomadpy.model.resources import DeviceAttribute, DeviceInstance, NodeDevice

_GROUP_KEYS = frozenset(("vendor", "type", "name", "attributes", "env", "instances"))
_INSTANCE_KEYS = frozenset(("id", "paths", "healthy"))
_WITH_UNIT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)\Z")


class FileDevices:
    """See the module."""

    name = "device_file"

    def __init__(self, context: DeviceContext) -> None:
        unknown = sorted(set(context.plugin_config) - {"path"})
        self._path = str(context.plugin_config.get("path") or "")
        if unknown or not os.path.isabs(self._path):
            said = f"there is no option {unknown[0]!r}" if unknown else f"path is {self._path!r}"
            raise Invalid(f'plugin "device_file" wants config {{ path = "/absolute/file.yaml" }}; {said}')
        self._groups: dict[tuple[str, str, str], dict[str, Any]] = {}

    async def fingerprint(self) -> Sequence[NodeDevice]:
        """The groups of the file as it is now. Raises Invalid naming what is wrong with it."""
        rows = await trio.to_thread.run_sync(self._read)
        groups = [_group(self._path, row) for row in rows]
        self._groups = {(g.vendor, g.type, g.name): row for g, row in zip(groups, rows, strict=True)}
        if len(self._groups) != len(groups):
            raise Invalid(f"{self._path} describes a group of devices twice")
        return groups

    def _read(self) -> list[dict[str, Any]]:
        import yaml

        try:
            rows = yaml.safe_load(Path(self._path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise Invalid(f"{self._path} cannot be read: {error}") from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise Invalid(f"{self._path} must be a list of groups of devices")
        return rows

    async def reserve(self, group: NodeDevice, ids: Sequence[str]) -> Reservation:
        """The device files of the instances, and the variable that names them. Raises Invalid for unknown ids."""
        row = self._groups.get((group.vendor, group.type, group.name), {})
        known = {str(instance["id"]): instance for instance in row.get("instances") or []}
        missing = sorted(set(ids) - set(known))
        if missing:
            raise Invalid(f"device {group.vendor}/{group.type}/{group.name} has no instance {missing[0]}")
        paths = dict.fromkeys(str(path) for ident in ids for path in known[ident].get("paths") or ())
        return Reservation(
            env={str(row["env"]): ",".join(ids)} if row.get("env") else {},
            devices=tuple(DeviceNode(host_path=path, task_path=path) for path in paths),
        )

    async def stats(self) -> Sequence[DeviceStats]:
        """Nothing is known of such devices but that they are there."""
        return [
            DeviceStats(
                vendor=vendor,
                type=kind,
                name=name,
                instance_stats={
                    str(each["id"]): {"Summary": {"StringVal": "present" if _exists(each) else "missing"}}
                    for each in row.get("instances") or []
                },
            )
            for (vendor, kind, name), row in sorted(self._groups.items())
        ]


def _group(file: str, row: dict[str, Any]) -> NodeDevice:
    for key in row:
        if key not in _GROUP_KEYS:
            raise Invalid(f'{file}: a group of devices has no key "{key}"; it has {", ".join(sorted(_GROUP_KEYS))}')
    vendor, kind, name = (str(row.get(key) or "") for key in ("vendor", "type", "name"))
    if not (vendor and kind and name):
        raise Invalid(f"{file}: a group of devices needs vendor, type and name; one has {vendor!r}, {kind!r}, {name!r}")
    instances = row.get("instances") or []
    attributes = row.get("attributes") or {}
    if not isinstance(instances, list) or not isinstance(attributes, dict):
        raise Invalid(f"{file}: instances of {vendor}/{kind}/{name} must be a list, and attributes a map")
    return NodeDevice(
        vendor=vendor,
        type=kind,
        name=name,
        attributes={str(key): attribute(value) for key, value in attributes.items()},
        instances=tuple(_instance(file, each) for each in instances),
    )


def _instance(file: str, row: Any) -> DeviceInstance:
    if not isinstance(row, dict) or not row.get("id") or set(row) - _INSTANCE_KEYS:
        raise Invalid(f"{file}: an instance has an id, perhaps paths and healthy, not {row!r}")
    healthy = row.get("healthy", True) is not False
    problem = "" if healthy else "switched off in the file"
    if healthy and not _exists(row):
        problem = "a device file is missing"
    return DeviceInstance(id=str(row["id"]), healthy=not problem, health_description=problem)


def _exists(row: dict[str, Any]) -> bool:
    return all(os.path.exists(str(path)) for path in row.get("paths") or ())


def attribute(value: Any) -> DeviceAttribute:
    """A value of the file as a typed one; a number may have a unit.

    >>> attribute("8 GiB") == DeviceAttribute(int_=8, unit="GiB"), attribute(True) == DeviceAttribute(bool_=True)
    (True, True)
    """
    if isinstance(value, bool):
        return DeviceAttribute(bool_=value)
    if isinstance(value, int):
        return DeviceAttribute(int_=value)
    if isinstance(value, float):
        return DeviceAttribute(float_=value)
    found = _WITH_UNIT.match(str(value))
    if found is None:
        return DeviceAttribute(string=str(value))
    if "." in found[1]:
        return DeviceAttribute(float_=float(found[1]), unit=found[2])
    return DeviceAttribute(int_=int(found[1]), unit=found[2])
