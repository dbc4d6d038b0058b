"""Keeps a container's log files up to date while it runs, over one connection per container and no thread."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from nomadpy.drivers.docker.engine import Engine, EngineRefused, Unreachable
from nomadpy.drivers.docker.logs import Demultiplexer, LogFiles
from nomadpy.model.errors import NotFound

log = logging.getLogger(__name__)

_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 5.0
_NOT_IMPLEMENTED = 501


async def pump_logs(
    engine: Engine, container_id: str, files: LogFiles, *, tty: bool, over: Callable[[], Awaitable[bool]]
) -> None:
    """Copies until the container has ended and everything it wrote is copied. ``over`` says whether it has ended; the
    stream also ends when the engine is restarted, and is then taken up again."""
    retry_s, interrupted = _FIRST_RETRY_S, False
    while True:
        try:
            if await _copy(engine, container_id, files, tty=tty):
                retry_s, interrupted = _FIRST_RETRY_S, False
            if await over():
                # When a container ends, the engine may stop following before the files it rotated meanwhile.
                await _copy(engine, container_id, files, tty=tty, follow=False)
                return
        except NotFound:
            return  # removed: there is nothing left to copy
        except EngineRefused as error:
            log.warning("docker.logs.refused", extra={"container": container_id, "error": str(error)})
            if error.status_code < 500 or error.status_code == _NOT_IMPLEMENTED:
                return  # the task's logging driver keeps its messages to itself
        except Unreachable as error:
            if not interrupted:
                log.info("docker.logs.interrupted", extra={"container": container_id, "error": str(error)})
            interrupted = True
        except OSError as error:
            # A full disk must not end the task; what is missed is read again from the engine.
            log.error("docker.logs.not_written", extra={"container": container_id, "error": str(error)})
        await trio.sleep(retry_s)
        retry_s = min(_LAST_RETRY_S, retry_s * 2)


async def _copy(engine: Engine, container_id: str, files: LogFiles, *, tty: bool, follow: bool = True) -> int:
    """Copies from the noted position until the stream ends; how many messages were new."""
    params = {"stdout": "1", "stderr": "1", "follow": "1" if follow else "0", "timestamps": "1"}
    if since := files.resume():
        params["since"] = since
    split = Demultiplexer(tty=tty)
    n_new = 0
    async with engine.raw_stream(f"/containers/{container_id}/logs", params) as receive:
        while data := await receive():
            n_new += files.write(split.feed(data))
    return n_new + files.write(split.rest())
