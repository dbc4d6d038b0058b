"""The agent's end of one executor: starting it, asking it, waiting for it, and telling its end from its record."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from nomadpy.drivers.cgroups import Cgroup
from nomadpy.drivers.contract import ExitResult
from nomadpy.drivers.executor import exitrecord, procfs
from nomadpy.drivers.executor import main as executor_main
from nomadpy.drivers.executor.wire import LENGTH_BYTES, Pairs, Spec, body_length, decode, encode
from nomadpy.drivers.stats import Sampler
from nomadpy.model.errors import Fatal, NotFound, Temporary

START_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 5.0
REAP_TIMEOUT_S = 5.0
EXECUTOR_ARGV = (sys.executable, "-I", "-S", "-X", "utf8", str(executor_main.__file__))
EXECUTOR_ENV = {"LC_ALL": "C.UTF-8"}


class Attempt:
    """One running or finished task as this agent sees it. ``facts`` is what the handle stores."""

    def __init__(self, facts: dict[str, Any], core_mhz: float) -> None:
        self.facts = facts
        self.run_dir = str(facts["run_dir"])
        self.pid = int(facts["pid"])
        self.cgroup = Cgroup(dict(facts["cgroup"]))
        self.result: ExitResult | None = None
        self.sampler = Sampler(self.pid, self.cgroup, core_mhz, int(facts["started_ns"]))
        self._watch: trio.socket.SocketType | None = None
        self._one_at_a_time = trio.Lock()

    def attach(self, watch: trio.socket.SocketType) -> None:
        """``watch`` is a connection that ends when the executor does."""
        self._watch = watch

    async def wait(self) -> ExitResult:
        """How the task ended, once it has. May be cancelled and may be called by many."""
        async with self._one_at_a_time:
            if self.result is None:
                await self._wait_executor_gone()
                self.result = await self._conclude()
        assert self.result is not None
        return self.result

    async def request(self, pairs: Pairs) -> bool:
        """Asks the executor; False when there is none any more, because the task is over."""
        try:
            connection = _connect(self.run_dir)
        except OSError:
            return False
        with connection:
            try:
                with trio.fail_after(REQUEST_TIMEOUT_S):
                    await _send(connection, pairs)
                    answer = Spec(decode(await receive(connection)))
            except (OSError, EOFError):
                return False
            except trio.TooSlowError as error:
                raise Temporary(f"the executor in {self.run_dir} does not answer") from error
        return answer.one("status") == "ok"

    def close(self) -> None:
        """Lets go of the executor; it goes on."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    async def _wait_executor_gone(self) -> None:
        assert self._watch is not None
        try:
            while await self._watch.recv(4096):
                continue
        except OSError:
            # A reset instead of an end: the executor is gone all the same.
            return

    async def _conclude(self) -> ExitResult:
        self.close()
        concluded: list[ExitResult] = []
        with trio.CancelScope(shield=True):
            if self.facts["executor_is_child_of"] == os.getpid():
                await reap(int(self.facts["executor_pid"]))
            concluded.append(await trio.to_thread.run_sync(conclude, self.facts))
        return concluded[0]


def conclude(facts: dict[str, Any]) -> ExitResult:
    """The recorded end. Without a record the executor was killed: then whatever it left running is killed, too, and
    that is recorded for later agents."""
    result = recorded_result(str(facts["run_dir"]))
    if result is not None:
        return result
    kill_remains(facts)
    error = "executor died without recording the exit of the task; what was left of the task was killed"
    try:
        exitrecord.write(str(facts["run_dir"]), {"exit_code": "0", "signal": "0", "oom_killed": "0", "error": error})
    except FileNotFoundError:
        # The allocation's directory is gone: nobody will ask again.
        pass
    return ExitResult(error=error)


def recorded_result(run_dir: str) -> ExitResult | None:
    """What the exit record says, None when there is none."""
    record = exitrecord.read(run_dir)
    if record is None:
        return None
    return ExitResult(
        exit_code=int(record.get("exit_code", "0")),
        signal=int(record.get("signal", "0")),
        oom_killed=record.get("oom_killed") == "1",
        error=record.get("error", ""),
        finished_at_ns=int(record.get("finished_ns", "0")),
    )


def kill_remains(facts: dict[str, Any]) -> None:
    """Kills the processes of a task whose executor is gone; never a stranger that has inherited its number."""
    if facts.get("boot_id") != procfs.boot_id():
        return
    pid = int(facts["pid"])
    if procfs.start_ticks(pid) == int(facts["start_ticks"]):
        procfs.kill_group(pid)
    for directory in dict(facts["cgroup"]).values():
        procfs.kill_cgroup(str(directory))


async def spawn(run_dir: str) -> tuple[int, Spec, trio.socket.SocketType]:
    """Starts an executor for the specification in ``run_dir``: its pid, what it said of the task, and the connection
    that ends with it. Raises Fatal or Temporary with the reason why the task does not run."""
    ours, theirs = socket.socketpair()
    watch = trio.socket.from_stdlib_socket(ours)
    pid = 0
    try:
        with theirs:
            pid = await trio.to_thread.run_sync(_spawn, theirs.fileno(), run_dir)
        with trio.fail_after(START_TIMEOUT_S):
            answer = Spec(decode(await receive(watch)))
            if answer.one("status") != "started":
                error = Fatal if answer.one("kind") == "fatal" else Temporary
                raise error(answer.one("text"))
            # A short task may be over by now, and its executor with it: the exit record tells how.
            with suppress(BrokenPipeError, ConnectionResetError):
                await _send(watch, [("adopted", "1")])
    except BaseException as error:
        # Closing the socket of an executor that was not adopted ends its task and itself, also when cancelled here.
        watch.close()
        with trio.CancelScope(shield=True):
            await reap(pid)
        if isinstance(error, EOFError | OSError):
            raise Temporary(f"the executor ended early: {_last_words(run_dir)}") from error
        if isinstance(error, trio.TooSlowError):
            raise Temporary(f"the executor did not answer within {START_TIMEOUT_S:g} s") from error
        raise
    return pid, answer, watch


async def reconnect(run_dir: str) -> trio.socket.SocketType | None:
    """A connection to a living executor that ends with it; None when there is no such executor any more."""
    try:
        connection = _connect(run_dir)
    except OSError:
        return None
    try:
        with trio.fail_after(REQUEST_TIMEOUT_S):
            await _send(connection, [("do", "watch")])
            await receive(connection)
    except (OSError, EOFError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


async def receive(connection: trio.socket.SocketType) -> bytes:
    """The body of one message. Raises EOFError when the other side ended first."""
    head = await _receive_exactly(connection, LENGTH_BYTES)
    return await _receive_exactly(connection, body_length(head))


async def reap(pid: int) -> None:
    """Takes the exit status of a child of this process, so that no zombie stays. Others are left alone."""
    if pid <= 0:
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.move_on_after(REAP_TIMEOUT_S):
            await trio.lowlevel.wait_readable(fd)
        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait.
    except ChildProcessError:
        return
    finally:
        trio.lowlevel.notify_closing(fd)
        os.close(fd)


def require_facts(facts: dict[str, Any]) -> None:
    """Raises NotFound when a handle does not hold what ``Attempt`` needs."""
    missing = {"run_dir", "pid", "start_ticks", "cgroup", "started_ns", "executor_pid"} - set(facts)
    if missing:
        raise NotFound(f"not a handle of this driver: {', '.join(sorted(missing))} missing")


def _spawn(fd: int, run_dir: str) -> int:
    # posix_spawn neither copies the agent's page tables nor stops its threads for long, unlike fork.
    log = f"{run_dir}/executor.log"
    return os.posix_spawn(
        EXECUTOR_ARGV[0],
        [*EXECUTOR_ARGV, "supervise", run_dir],
        EXECUTOR_ENV,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, fd, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ],
        setsid=True,
        setsigmask=[],
    )


def _connect(run_dir: str) -> trio.socket.SocketType:
    """Raises OSError when nobody listens."""
    directory = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        # Through /proc, because a path in the socket's address may not be longer than 107 bytes.
        connection.connect(f"/proc/self/fd/{directory}/socket")
    except OSError:
        connection.close()
        raise
    finally:
        os.close(directory)
    return trio.socket.from_stdlib_socket(connection)


async def _send(connection: trio.socket.SocketType, pairs: Pairs) -> None:
    data = memoryview(encode(pairs))
    while data:
        data = data[await connection.send(data) :]


async def _receive_exactly(connection: trio.socket.SocketType, n: int) -> bytes:
    data = b""
    while len(data) < n:
        chunk = await connection.recv(n - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _last_words(run_dir: str) -> str:
    try:
        lines = Path(run_dir, "executor.log").read_text(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it gave no reason"
