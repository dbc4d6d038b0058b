"""Making, starting, watching and removing containers: what the driver does for one task, step by step."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from nomadpy.drivers.contract import ExitResult
from nomadpy.drivers.docker.body import ALLOC_LABEL
from nomadpy.drivers.docker.engine import Engine, EngineRefused
from nomadpy.model.errors import Fatal, NotFound, Temporary
from nomadpy.model.time import parse_moment

log = logging.getLogger(__name__)

_CONFLICT, _BAD_REQUEST = 409, 400
_RETRY_S = 0.2
START_ATTEMPTS = 3


class ContainerTask(msgspec.Struct, frozen=True, kw_only=True):
    """What a later agent needs to know of a running container; the ``state`` of its handle."""

    container_id: str
    container_name: str
    image_id: str
    task_name: str
    stop_signal: str = "SIGTERM"  # the image's own, for when the job names none
    tty: bool = False
    collect_logs: bool = True
    logs_dir: str = ""
    private_dir: str = ""
    max_files: int = 10
    max_file_size_mb: int = 10
    node_cpu_mhz: int = 0


async def create(engine: Engine, name: str, body: Mapping[str, Any], *, attempts: int) -> str:
    """The id of a new container. One of the same name that an earlier attempt left behind is removed first. Raises
    Fatal when the engine finds the request itself wrong, Temporary otherwise."""
    for attempt in range(1, attempts + 1):
        try:
            return str((await engine.call(lambda api: api.create_container_from_config(body, name)))["Id"])  # type: ignore[no-untyped-call]
        except NotFound as error:
            raise Temporary(f"the container cannot be created: {error}") from error
        except EngineRefused as error:
            if error.status_code == _BAD_REQUEST:
                raise Fatal(f"the container cannot be created: {error}") from error
            if error.status_code != _CONFLICT or attempt == attempts:
                raise Temporary(f"the container cannot be created: {error}") from error
            await _remove_leftover(engine, name)
            await trio.sleep(_RETRY_S * (attempt - 1))
    raise Temporary(f'a container named "{name}" is in the way')


async def _remove_leftover(engine: Engine, name: str) -> None:
    """Removes the container of this name when it is one of an allocation's. Raises Temporary when it is not ours."""
    try:
        found = await engine.call(lambda api: api.inspect_container(name))
    except NotFound:
        return
    if ALLOC_LABEL not in (found["Config"].get("Labels") or {}):
        raise Temporary(f'a container named "{name}" that belongs to no allocation is in the way')
    log.info("docker.container.leftover", extra={"container": found["Id"], "container_name": name})
    await remove(engine, found["Id"])


async def start(engine: Engine, container_id: str) -> None:
    """Starts it. Raises Fatal when the command cannot be run at all, Temporary otherwise."""
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            await engine.call(lambda api: api.start(container_id))
            return
        except NotFound as error:
            raise Temporary(f"the container cannot be started: {error}") from error
        except EngineRefused as error:
            if error.status_code == _BAD_REQUEST:
                raise Fatal(f"the container cannot be started: {error}") from error
            # A port of a container that has just ended may need a moment to be free.
            if attempt == START_ATTEMPTS or "already allocated" not in str(error):
                raise Temporary(f"the container cannot be started: {error}") from error
            await trio.sleep(_RETRY_S * attempt)


async def remove(engine: Engine, container_id: str) -> None:
    """Removes a container and its unnamed volumes, also when it runs; a container that is gone is fine."""
    try:
        await engine.call(lambda api: api.remove_container(container_id, v=True, force=True))
    except NotFound:
        pass
    except EngineRefused as error:
        # "Removal is already in progress": somebody is at it.
        if error.status_code != _CONFLICT:
            raise


async def kill(engine: Engine, container_id: str, signal: str) -> bool:
    """Sends a signal; whether there was somebody to receive it."""
    try:
        await engine.call(lambda api: api.kill(container_id, signal))
    except NotFound:
        return False
    except EngineRefused as error:
        if error.status_code == _CONFLICT:
            return False
        raise
    return True


def running(inspected: Mapping[str, Any]) -> bool:
    """Whether an inspected container has not ended yet, going by all the states the engine knows."""
    state = inspected["State"]
    return bool(state.get("Running") or state.get("Status") in ("created", "restarting", "paused"))


def exit_result(inspected: Mapping[str, Any]) -> ExitResult:
    """How an inspected container ended. The engine tells no signal apart from the code, so there is none."""
    state = inspected["State"]
    return ExitResult(
        exit_code=int(state.get("ExitCode", 0)),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        finished_at_ns=_moment_ns(str(state.get("FinishedAt") or "")),
    )


def _moment_ns(text: str) -> int:
    """Unix nanoseconds, 0 when the engine writes something else: an end counts with and without its time."""
    try:
        return parse_moment(text)
    except ValueError:
        return 0
