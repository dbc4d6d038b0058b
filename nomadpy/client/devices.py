"""The devices of a node: looks what the plugins find, and gives tasks what the scheduler chose for them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import trio

from nomadpy.client.hooks import HookContext, HookResult, PrestartOnly
from nomadpy.drivers.devices import DevicePlugin
from nomadpy.model.errors import NomadError, Temporary
from nomadpy.model.job import Task
from nomadpy.model.resources import NodeDevice
from nomadpy.model.wire import to_wire

log = logging.getLogger(__name__)

PERIOD_S = 30.0
_TIMEOUT_S = 20.0
Key = tuple[str, str, str]


class DeviceWatch:
    """``devices`` is what the node says it has. A plugin that fails keeps its devices listed, but unhealthy: what runs
    on them goes on, and nothing new gets them."""

    def __init__(self, plugins: Mapping[str, DevicePlugin], *, on_change: Callable[[], None]) -> None:
        self._plugins = plugins
        self._on_change = on_change
        self._found: dict[str, tuple[NodeDevice, ...]] = {}

    @property
    def devices(self) -> tuple[NodeDevice, ...]:
        """All groups, by vendor, type and name. The first plugin that has a group owns it."""
        groups: dict[Key, NodeDevice] = {}
        for name in sorted(self._found):
            for group in self._found[name]:
                groups.setdefault(_key(group), group)
        return tuple(groups[key] for key in sorted(groups))

    def owner(self, key: Key) -> tuple[DevicePlugin, NodeDevice] | None:
        """The plugin that has a group, with the group as it was last seen."""
        for name in sorted(self._found):
            for group in self._found[name]:
                if _key(group) == key:
                    return self._plugins[name], group
        return None

    async def run(self) -> None:
        """Looks again every 30 s."""
        while True:
            await trio.sleep(PERIOD_S)
            if await self.look():
                self._on_change()

    async def look(self) -> bool:
        """Asks all plugins at once; whether the node's devices changed."""
        before = self.devices
        async with trio.open_nursery() as nursery:
            for name, plugin in self._plugins.items():
                nursery.start_soon(self._look_at, name, plugin)
        return before != self.devices

    async def _look_at(self, name: str, plugin: DevicePlugin) -> None:
        problem = f"the plugin did not answer within {_TIMEOUT_S:.0f} s"
        with trio.move_on_after(_TIMEOUT_S):
            try:
                self._found[name] = tuple(await plugin.fingerprint())
                return
            except Exception as error:
                # A plugin may come from another package: its failure makes its devices unhealthy and nothing more.
                problem = str(error) or type(error).__name__
                foreign = not isinstance(error, NomadError)
                fields = {"plugin": name, "error": problem}
                log.warning("devices.fingerprint_failed", extra={"fields": fields}, exc_info=foreign)
        self._found[name] = tuple(_unhealthy(group, problem) for group in self._found.get(name, ()))

    async def stats(self) -> tuple[dict[str, Any], ...]:
        """What the devices are doing, in the API's words; a plugin that fails is left out and logged."""
        found: list[dict[str, Any]] = []
        for name, plugin in self._plugins.items():
            with trio.move_on_after(_TIMEOUT_S):
                try:
                    found += [to_wire(each) for each in await plugin.stats()]
                except Exception as error:
                    fields, foreign = {"plugin": name, "error": str(error)}, not isinstance(error, NomadError)
                    log.warning("devices.stats_failed", extra={"fields": fields}, exc_info=foreign)
        return tuple(found)


def _key(group: NodeDevice) -> Key:
    return group.vendor, group.type, group.name


def _unhealthy(group: NodeDevice, why: str) -> NodeDevice:
    instances = tuple(each.replace(healthy=False, health_description=why) for each in group.instances)
    return group.replace(instances=instances)


class DeviceHook(PrestartOnly):
    """Gives a task the devices that its allocation was given."""

    name = "devices"

    def __init__(self, watch: DeviceWatch) -> None:
        self._watch = watch

    def applies(self, task: Task) -> bool:
        """Only to tasks that ask for devices."""
        return bool(task.resources.devices)

    async def prestart(self, context: HookContext) -> HookResult:
        """Asks the plugins for what the task needs. Raises Temporary while a device is not there."""
        resources = context.alloc.allocated_resources
        mine = resources.tasks.get(context.task.name) if resources is not None else None
        result = HookResult()
        for given in mine.devices if mine is not None else ():
            owner = self._watch.owner((given.vendor, given.type, given.name))
            if owner is None:
                raise Temporary(f"device {given.vendor}/{given.type}/{given.name} is not on this node any more")
            plugin, group = owner
            reserved = await plugin.reserve(group, given.device_ids)
            result = HookResult(
                env={**result.env, **reserved.env},
                mounts=(*result.mounts, *reserved.mounts),
                devices=(*result.devices, *reserved.devices),
            )
        return result
