"""A command run inside a container, for ``alloc exec`` and script checks."""

from __future__ import annotations

import logging
import os
import signal
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from nomadpy.drivers.contract import ExecProcess, ExitResult
from nomadpy.drivers.docker.engine import Engine, EngineRefused
from nomadpy.drivers.docker.logs import STDERR, STDOUT
from nomadpy.model.errors import NomadError, NotFound, Temporary

log = logging.getLogger(__name__)

_CHUNK = 65536
_EXIT_WAIT_S = 5.0


class ContainerCommand:
    """One command; see ``ExecProcess``."""

    def __init__(self, engine: Engine, exec_id: str, stream: trio.abc.HalfCloseableStream, received: bytes) -> None:
        self._engine, self._exec_id = engine, exec_id
        self._stream, self._received = stream, received
        self._buffer = bytearray()
        self._parts: deque[tuple[str, bytes]] = deque()
        self.tty = False
        self._over = trio.Event()

    async def send_stdin(self, data: bytes) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # it has ended: nobody reads this
            if data:
                await self._stream.send_all(data)
            else:
                await self._stream.send_eof()

    async def resize(self, height: int, width: int) -> None:
        await self._engine.call(lambda api: api.exec_resize(self._exec_id, height=height, width=width))

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        return self

    # An iterator of its own and no generator, because a reader may stop early and never close it.
    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        while not self._parts:
            data = await self._receive()
            if not data:
                self._over.set()
                raise StopAsyncIteration
            if self.tty:
                return STDOUT, data
            self._buffer += data
            self._parts.extend(self._frames())
        return self._parts.popleft()

    async def _receive(self) -> bytes:
        if self._received:  # what came together with the answer's head
            received, self._received = self._received, b""
            return received
        try:
            return bytes(await self._stream.receive_some(_CHUNK))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""

    def _frames(self) -> list[tuple[str, bytes]]:
        """The complete frames: a stream byte, three zeroes, four bytes of length, the data."""
        parts, at = [], 0
        while len(self._buffer) - at >= 8:
            end = at + 8 + int.from_bytes(self._buffer[at + 4 : at + 8], "big")
            if len(self._buffer) < end:
                break
            parts.append((STDERR if self._buffer[at] == 2 else STDOUT, bytes(self._buffer[at + 8 : end])))
            at = end
        del self._buffer[:at]
        return parts

    async def wait(self) -> ExitResult:
        """How the command ended; its output must be read meanwhile."""
        await self._over.wait()
        # The engine notes the exit a moment after it closed the output.
        with trio.move_on_after(_EXIT_WAIT_S):
            while True:
                found = await self._engine.call(lambda api: api.exec_inspect(self._exec_id))
                if not found["Running"] and found["ExitCode"] is not None:
                    return ExitResult(exit_code=found["ExitCode"])
                await trio.sleep(0.02)
        return ExitResult(
            exit_code=-1, error="the command's output ended, but the Docker Engine says that it still runs"
        )

    async def end(self, container_id: str) -> None:
        """Closes the connection and kills the command when it still runs. The engine has no call for that, so it is
        done from the host, where its process can be seen there."""
        await trio.aclose_forcefully(self._stream)
        with suppress(NomadError):
            while True:
                found = await self._engine.call(lambda api: api.exec_inspect(self._exec_id))
                if found["ExitCode"] is not None:
                    return
                if found.get("Pid"):
                    await trio.to_thread.run_sync(_kill_in_container, found["Pid"], container_id)
                    return
                # The engine answers before it has started the process, and calls it running without a number.
                await trio.sleep(0.02)


def _kill_in_container(pid: int, container_id: str) -> None:
    """Kills a process after making sure that it belongs to the container: the engine may be on another host, where the
    number means another process."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii", errors="replace") as file:
            ours = container_id in file.read()
        if ours:
            os.kill(pid, signal.SIGKILL)
    except OSError as error:
        log.info("docker.exec.not_killed", extra={"pid": pid, "error": str(error)})


@asynccontextmanager
async def run_command(
    engine: Engine, container_id: str, command: list[str], *, tty: bool
) -> AsyncIterator[ExecProcess]:
    """A command running in the container until the context is left. Raises NotFound, Temporary."""
    try:
        created = await engine.call(
            lambda api: api.exec_create(container_id, command, stdin=True, stdout=True, stderr=True, tty=tty)
        )
        stream, received = await engine.hijack(f"/exec/{created['Id']}/start", {"Detach": False, "Tty": tty})
    except EngineRefused as error:
        raise Temporary(f"cannot run {command[0]!r} in the container: {error}") from error
    process = ContainerCommand(engine, created["Id"], stream, received)
    process.tty = tty
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(_EXIT_WAIT_S):
            await process.end(container_id)


__all__ = ["ContainerCommand", "NotFound", "run_command"]
