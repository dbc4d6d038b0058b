"""Knows which containers have ended, and how, for all tasks from one stream of events."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from nomadpy.drivers.contract import ExitResult
from nomadpy.drivers.docker import containers
from nomadpy.drivers.docker.body import ALLOC_LABEL, NODE_LABEL
from nomadpy.drivers.docker.engine import Engine
from nomadpy.drivers.docker.options import PluginOptions
from nomadpy.model.errors import DriverError, NotFound

log = logging.getLogger(__name__)

SWEEP_PERIOD_S = 30.0
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 3.0
# The engine is asked for the events since this long before the last one known, so that none falls between.
_OVERLAP_S = 2.0


class _End:
    """What is known of one container's end."""

    def __init__(self) -> None:
        self.event = trio.Event()
        self.result = ExitResult()


class Watch:
    """The ends of the containers that were announced with ``expect``."""

    def __init__(self, engine: Engine, options: PluginOptions, *, node_id: str) -> None:
        self._engine, self._options, self._node_id = engine, options, node_id
        self._ends: dict[str, _End] = {}
        self._started_s = time.time()
        # An operator who keeps ended containers wants to look at them.
        self._cleans_up = options.dangling_enabled and options.gc_container

    def expect(self, container_id: str) -> None:
        """Watches a container from now on; called before it is started, so that its end cannot be missed."""
        self._ends.setdefault(container_id, _End())

    def forget(self, container_id: str) -> None:
        """Stops watching. Whoever still waits is told that the container is gone."""
        end = self._ends.pop(container_id, None)
        if end is not None and not end.event.is_set():
            self._conclude(end, ExitResult(exit_code=-1, error="the container was removed"))

    def ended(self, container_id: str) -> bool:
        """Whether the end is known; containers that are not watched count as ended."""
        end = self._ends.get(container_id)
        return end is None or end.event.is_set()

    async def wait(self, container_id: str) -> ExitResult:
        """How the container ended, once it has. Raises NotFound when it is not watched."""
        end = self._ends.get(container_id)
        if end is None:
            raise NotFound(f"container {container_id[:12]} is not watched")
        await end.event.wait()
        return end.result

    def note(self, container_id: str, inspected: Mapping[str, Any]) -> None:
        """Takes in what an inspection found."""
        end = self._ends.get(container_id)
        if end is not None and not end.event.is_set() and not containers.running(inspected):
            self._conclude(end, containers.exit_result(inspected))

    async def check(self, container_id: str) -> None:
        """Asks the engine now. Raises Unreachable, EngineRefused."""
        try:
            self.note(container_id, await self._engine.call(lambda api: api.inspect_container(container_id)))
        except NotFound:
            self._gone(container_id)

    async def over(self, container_id: str) -> bool:
        """Whether the container has ended, asking the engine when that is not known. Raises as ``check``."""
        if not self.ended(container_id):
            await self.check(container_id)
        return self.ended(container_id)

    def _gone(self, container_id: str, exit_code: int | None = None) -> None:
        end = self._ends.get(container_id)
        if end is None or end.event.is_set():
            return
        if exit_code is None:
            self._conclude(end, ExitResult(exit_code=-1, error="the container was removed; its exit code is not known"))
        else:
            self._conclude(end, ExitResult(exit_code=exit_code))

    @staticmethod
    def _conclude(end: _End, result: ExitResult) -> None:
        end.result = result
        end.event.set()

    # --- background -------------------------------------------------------------------------------------------------

    async def follow_events(self) -> None:
        """Follows the engine's events for ever, reconnecting when it goes away."""
        filters = msgspec.json.encode({"type": ["container"], "event": ["die", "destroy"], "label": [ALLOC_LABEL]})
        since_s, retry_s, away = time.time() - _OVERLAP_S, _FIRST_RETRY_S, False
        while True:
            params = {"filters": filters.decode(), "since": f"{since_s:.9f}"}
            try:
                async with self._engine.stream("GET", "/events", params) as answer:
                    if away:
                        log.info("docker.engine.back")
                    retry_s, away = _FIRST_RETRY_S, False
                    await self.sweep()
                    rest = b""
                    async for data in answer.aiter_raw():
                        *lines, rest = (rest + data).split(b"\n")
                        for line in lines:
                            if line.strip():
                                since_s = await self._take_event(msgspec.json.decode(line)) - _OVERLAP_S
            except (DriverError, NotFound, msgspec.DecodeError) as error:
                if not away:
                    log.warning("docker.engine.away", extra={"error": str(error)})
                away = True
            await trio.sleep(retry_s)
            retry_s = min(_LAST_RETRY_S, retry_s * 2)

    async def _take_event(self, event: Mapping[str, Any]) -> float:
        """Acts on one event; its time in seconds since 1970."""
        container_id = str(event["Actor"]["ID"])
        if not self.ended(container_id):
            code = event["Actor"]["Attributes"].get("exitCode")
            try:
                self.note(container_id, await self._engine.call(lambda api: api.inspect_container(container_id)))
            except NotFound:
                self._gone(container_id, int(code) if code is not None else None)
        return float(event["timeNano"]) / 1e9

    async def sweep_regularly(self) -> None:
        """Looks for ends without events, for connections that died unnoticed, and for containers nobody owns."""
        next_cleanup = trio.current_time() + self._options.dangling_period_s
        while True:
            await trio.sleep(SWEEP_PERIOD_S)
            try:
                await self.sweep()
                if self._cleans_up and trio.current_time() >= next_cleanup:
                    next_cleanup = trio.current_time() + self._options.dangling_period_s
                    await self._remove_dangling()
            except (DriverError, NotFound) as error:
                log.debug("docker.sweep.failed", extra={"error": str(error)})

    async def sweep(self) -> None:
        """Finds every watched container that has ended, with one list and one inspection per end."""
        open_ids = {container_id for container_id in self._ends if not self.ended(container_id)}
        if not open_ids:
            return
        for container_id in sorted(
            open_ids - {found["Id"] for found in await self._list() if found["State"] == "running"}
        ):
            if container_id in self._ends:
                await self.check(container_id)

    async def _list(self) -> list[dict[str, Any]]:
        return list(await self._engine.call(lambda api: api.containers(all=True, filters={"label": ALLOC_LABEL})))

    async def _remove_dangling(self) -> None:
        """Removes containers of this node that no task here knows, once they are old enough to have had their chance
        to be recovered. The node's label spares containers of other agents on the same engine."""
        if not self._node_id or time.time() - self._started_s < self._options.dangling_creation_grace_s:
            return
        for found in await self._list():
            old = time.time() - found["Created"] > self._options.dangling_creation_grace_s
            if old and found["Labels"].get(NODE_LABEL) == self._node_id and found["Id"] not in self._ends:
                log.warning("docker.container.dangling", extra={"container": found["Id"], "names": found["Names"]})
                if not self._options.dangling_dry_run:
                    await containers.remove(self._engine, found["Id"])
