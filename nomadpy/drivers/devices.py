"""What a device plugin is: the published protocol by which a node offers things that a task can have for itself.

A plugin tells which devices there are (``fingerprint``), what a task that was given some of them needs (``reserve``),
and what they are doing (``stats``). Which allocation gets which device is the scheduler's decision, by the ids that the
plugin reported: an id must mean the same device for as long as it exists, also after a restart.

Plugins are named by the entry-point group ``nomadpy.devices``, called as ``Factory(context)``, and used once their
``plugin "<name>" { … }`` block stands in the agent's configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from nomadpy.drivers.contract import DeviceNode, Mount
from nomadpy.model.naming import Noun
from nomadpy.model.resources import NodeDevice

log = logging.getLogger(__name__)

GROUP = "nomadpy.devices"


class Reservation(Noun):
    """What a task that was given devices gets: variables, directories and device files."""

    env: dict[str, str] = {}
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceNode, ...] = ()


class DeviceStats(Noun):
    """What the devices of one group are doing; ``instance_stats`` by id, in the plugin's own words."""

    vendor: str = ""
    type: str = ""
    name: str = ""
    instance_stats: dict[str, dict[str, Any]] = {}


class DeviceContext(Noun):
    """What the client hands to a plugin's factory: the operator's block, and whether tasks end with the agent."""

    plugin_config: dict[str, Any] = {}
    dev_mode: bool = False


class DevicePlugin(Protocol):
    """A kind of devices on this node. Methods may be cancelled and raise NomadError."""

    name: str

    async def fingerprint(self) -> Sequence[NodeDevice]:
        """The groups of equal devices that are there now; called at start and every 30 s. An instance that is not
        healthy stays listed and is given to nobody."""

    async def reserve(self, group: NodeDevice, ids: Sequence[str]) -> Reservation:
        """What a task needs to use these instances of a group; called before each attempt to start it. Raises Invalid
        for an id that is not there, Temporary when another attempt may work."""

    async def stats(self) -> Sequence[DeviceStats]:
        """What the devices are doing now; asked for by people, not regularly."""


def load_device_plugins(configured: Mapping[str, dict[str, Any]], *, dev_mode: bool = False) -> dict[str, DevicePlugin]:
    """The installed plugins that the configuration names, by name. One that cannot be loaded or made is logged and left
    out: the node runs everything else."""
    plugins = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name not in configured:
            continue
        plugin = _load(point, DeviceContext(plugin_config=configured[point.name], dev_mode=dev_mode))
        if plugin is not None:
            plugins[point.name] = plugin
    return plugins


def _load(point: EntryPoint, context: DeviceContext) -> DevicePlugin | None:
    try:
        factory: Callable[[DeviceContext], DevicePlugin] = point.load()
        return factory(context)
    except Exception:
        # Whatever a foreign package raises while it is imported is its own defect; it is told in full.
        log.exception("devices.not_loaded", extra={"fields": {"plugin": point.name, "entry_point": point.value}})
        return None
