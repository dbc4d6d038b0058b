"""Asks every driver regularly what it can do, and tells changes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import trio

from nomadpy.client.fingerprint.node import driver_info, health_event
from nomadpy.drivers.contract import Driver, Fingerprint
from nomadpy.model.errors import NomadError
from nomadpy.model.node import DriverInfo, NodeEvent

log = logging.getLogger(__name__)

PERIOD_S = 30.0
_TIMEOUT_S = 20.0


class DriverWatch:
    """``infos`` is what the node says of its drivers; ``events`` yields changes of their health."""

    def __init__(
        self, drivers: Mapping[str, Driver], *, on_change: Callable[[], None], wall_ns: Callable[[], int]
    ) -> None:
        self.infos: dict[str, DriverInfo] = {}
        self._drivers = drivers
        self._on_change = on_change
        self._wall_ns = wall_ns
        self._send, self.events = trio.open_memory_channel[NodeEvent](math.inf)

    async def run(self) -> None:
        """Looks again every 30 s."""
        while True:
            await trio.sleep(PERIOD_S)
            if await self.look():
                self._on_change()

    async def look(self) -> bool:
        """Asks all drivers at once; whether the node changed."""
        before = dict(self.infos)
        async with trio.open_nursery() as nursery:
            for name, driver in self._drivers.items():
                nursery.start_soon(self._look_at, name, driver)
        return before != self.infos

    async def _look_at(self, name: str, driver: Driver) -> None:
        found = Fingerprint(detected=False, health_description=f"driver did not answer within {_TIMEOUT_S:.0f} s")
        with trio.move_on_after(_TIMEOUT_S):
            try:
                found = await driver.fingerprint()
            except Exception as error:
                log.warning("driver.fingerprint_failed", exc_info=not isinstance(error, NomadError))
                found = Fingerprint(detected=False, health_description=f"fingerprint failed: {error}")
        info, known = driver_info(found, self._wall_ns()), self.infos.get(name)
        if known is not None and known.replace(update_time_ns=0) == info.replace(update_time_ns=0):
            return
        self.infos[name] = info
        if known is not None and (event := health_event(name, known, info, self._wall_ns())) is not None:
            self._send.send_nowait(event)
