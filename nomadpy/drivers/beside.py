"""The agent's side of a command that runs beside a task (``alloc exec``): its streams, its terminal, its end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from nomadpy.drivers.attempt import EXECUTOR_ARGV, EXECUTOR_ENV
from nomadpy.drivers.contract import ExitResult
from nomadpy.drivers.executor import procfs
from nomadpy.model.errors import Invalid

CHUNK_BYTES = 32 * 1024
_CHUNKS_AHEAD = 16


class BesideProcess:
    """See ``contract.ExecProcess``. Made by ``run_beside``."""

    def __init__(self, process: trio.Process, stdin: trio.abc.SendStream, terminal: int | None) -> None:
        self._process = process
        self._stdin = stdin
        self._terminal = terminal
        self._chunks_in, self._chunks = trio.open_memory_channel[tuple[str, bytes]](_CHUNKS_AHEAD)

    async def send_stdin(self, data: bytes) -> None:
        """See ``contract.ExecProcess``. Input for a command that has ended is dropped."""
        try:
            if data:
                await self._stdin.send_all(data)
            elif self._terminal is None:
                await self._stdin.aclose()
            else:
                # A terminal has no end; its end-of-input character is what a person would type.
                await self._stdin.send_all(b"\x04")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def resize(self, height: int, width: int) -> None:
        """See ``contract.ExecProcess``. Without a terminal there is nothing to size."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def output(self) -> AsyncIterator[tuple[str, bytes]]:
        """See ``contract.ExecProcess``. A channel rather than a generator, so that nobody has to close it."""
        return self._chunks

    async def wait(self) -> ExitResult:
        """See ``contract.ExecProcess``."""
        code = await self._process.wait()
        return ExitResult(exit_code=128 - code, signal=-code) if code < 0 else ExitResult(exit_code=code)

    def output_sink(self) -> trio.MemorySendChannel[tuple[str, bytes]]:
        """Where a pump puts what it reads; the output ends when every sink is closed."""
        return self._chunks_in.clone()

    async def pump(
        self, name: str, stream: trio.abc.ReceiveStream, sink: trio.MemorySendChannel[tuple[str, bytes]]
    ) -> None:
        """Carries one output stream to its end. Run by ``run_beside``."""
        async with sink as chunks:
            while True:
                try:
                    data = await stream.receive_some(CHUNK_BYTES)
                except trio.BrokenResourceError as error:
                    # Reading a terminal that nobody has open any more is an error instead of an end.
                    if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO:
                        return
                    raise
                if not data:
                    return
                await chunks.send((name, bytes(data)))

    def no_more_sinks(self) -> None:
        """From now on the output ends when the present sinks are closed."""
        self._chunks_in.close()

    async def end_group(self) -> None:
        """Waits for the command and then ends what it left in its group, so that its output ends, too."""
        await self._process.wait()
        procfs.kill_group(self._process.pid)


@asynccontextmanager
async def run_beside(run_dir: str, holder_pid: int, command: list[str], *, tty: bool) -> AsyncIterator[BesideProcess]:
    """Starts the command and gives its face; leaving kills it with its process group. Raises Invalid for an empty
    command."""
    if not command:
        raise Invalid("command is not present")
    argv = [*EXECUTOR_ARGV, "enter", run_dir, str(holder_pid), "1" if tty else "0", *command]
    if tty:
        terminal, line = os.openpty()
        try:
            process = await trio.lowlevel.open_process(
                argv, stdin=line, stdout=line, stderr=line, start_new_session=True, env=EXECUTOR_ENV
            )
        except BaseException:
            os.close(terminal)
            raise
        finally:
            os.close(line)
        stream = trio.lowlevel.FdStream(terminal)
        beside = BesideProcess(process, stream, terminal)
        outputs: list[tuple[str, trio.abc.ReceiveStream]] = [("stdout", stream)]
    else:
        pipe = subprocess.PIPE
        process = await trio.lowlevel.open_process(
            argv, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=EXECUTOR_ENV
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        beside = BesideProcess(process, process.stdin, None)
        outputs = [("stdout", process.stdout), ("stderr", process.stderr)]
    async with trio.open_nursery() as nursery:
        try:
            for name, source in outputs:
                nursery.start_soon(beside.pump, name, source, beside.output_sink())
            beside.no_more_sinks()
            nursery.start_soon(beside.end_group)
            yield beside
        finally:
            nursery.cancel_scope.cancel()
            if process.returncode is None:
                procfs.kill_group(process.pid, signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await process.wait()
                for _, source in outputs:
                    await source.aclose()
                if process.stdin is not None:
                    await process.stdin.aclose()
