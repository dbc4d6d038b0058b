"""The executor: starts one command, looks after it to its end, and writes the end down.

The run directory, its only argument, holds ``spec``: what to start and how. Standard input is a socket to the agent: it
gets the answer ``started`` or ``error`` and must then bring ``adopted``; an executor whose agent vanished before that
kills its task, because nobody stored its handle. Afterwards that socket only serves to notice the end. Requests come to
``socket`` in the run directory, where a connection carries one (``signal``, ``kill`` or ``watch``) and ends, at the
latest, with the executor.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # See child.py.
import _socket
import os
import select
import sys
import time

from nomadpy.drivers.executor import exitrecord, procfs
from nomadpy.drivers.executor.child import Refusal, become_task
from nomadpy.drivers.executor.logs import RotatedLog
from nomadpy.drivers.executor.wire import LENGTH_BYTES, Pairs, Spec, body_length, decode, encode

READ_BYTES = 64 * 1024
REQUEST_TIMEOUT_S = 2.0
# How long output may still trickle in after the task and everything it left behind was killed.
DRAIN_S = 1.0
# How long killing what is left may take; a process in uninterruptible sleep must not keep the exit from being recorded.
KILL_LEFTOVERS_S = 5.0
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGTSTP", "SIGTTIN", "SIGTTOU")
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


def main() -> None:
    """Runs one attempt from specification to exit record."""
    for name in _IGNORED:
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN)
    agent = _socket.socket(fileno=0)
    spec = read_spec(sys.argv[2])
    executor = Executor(spec, agent)
    try:
        executor.start()
    except (Refusal, OSError) as error:
        kind = "fatal" if isinstance(error, Refusal) else "temporary"
        executor.abandon()
        _send(agent, [("status", "error"), ("kind", kind), ("text", str(error))])
        return
    executor.loop()


class Executor:
    """One task and everything that is open on its behalf."""

    def __init__(self, spec: Spec, agent: _socket.socket) -> None:
        self._spec = spec
        self._agent: _socket.socket | None = agent
        self._adopted = False
        self._run_dir = spec.one("run_dir")
        self._poll = select.poll()
        self._logs: dict[int, RotatedLog] = {}
        self._watchers: dict[int, _socket.socket] = {}
        self._listener: _socket.socket | None = None
        self._pid = self._pidfd = self._holder_pid = self._holder_fd = -1
        self._started_ns = 0

    def start(self) -> None:
        """Starts the command and tells the agent. Raises Refusal or OSError when it does not run."""
        self._listen()
        outputs = self._open_logs()
        if self._spec.has("isolate"):
            from nomadpy.drivers.executor import isolate  # ctypes is loaded only for isolated tasks.

            self._holder_pid, self._holder_fd = isolate.start_holder(self._spec)
        self._fork(outputs)
        self._pidfd = os.pidfd_open(self._pid)
        self._poll.register(self._pidfd, select.POLLIN)
        facts = [("pid", str(self._pid)), ("start_ticks", str(procfs.start_ticks(self._pid)))]
        if self._holder_pid > 0:
            facts.append(("holder_pid", str(self._holder_pid)))
        self._write_state(facts)
        assert self._agent is not None
        self._poll.register(self._agent.fileno(), select.POLLIN)
        _send(self._agent, [("status", "started"), *facts])

    def abandon(self) -> None:
        """Leaves nothing behind of an attempt that did not start."""
        if self._pid > 0:
            self._kill_everything()
            os.waitpid(self._pid, 0)
        self._end_holder()
        self._unlink_socket()

    def loop(self) -> None:
        """Serves until the task is over, then records its exit."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._pidfd:
                    self._finish()
                    return
                self._handle(fd)

    def _handle(self, fd: int) -> None:
        if fd in self._logs:
            self._pump(fd)
        elif self._listener is not None and fd == self._listener.fileno():
            self._accept()
        elif self._agent is not None and fd == self._agent.fileno():
            self._hear_agent()
        elif fd in self._watchers:
            # A watcher has nothing to say: it went away.
            self._poll.unregister(fd)
            self._watchers.pop(fd).close()

    # --- starting -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        # Through /proc, because a path in the socket's address may not be longer than 107 bytes.
        directory = os.open(self._run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            listener.bind(f"/proc/self/fd/{directory}/socket")
            listener.listen(16)
        finally:
            os.close(directory)
        self._listener = listener
        self._poll.register(listener.fileno(), select.POLLIN)

    def _open_logs(self) -> list[int]:
        """The descriptors that become the task's standard output and error."""
        if self._spec.has("log_disabled"):
            null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            return [null, null]
        writers = []
        for key in ("stdout", "stderr"):
            reader, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(reader, False)
            self._logs[reader] = RotatedLog(
                self._spec.one(key),
                max_files=self._spec.number("log_max_files"),
                max_bytes=self._spec.number("log_max_bytes"),
            )
            self._poll.register(reader, select.POLLIN)
            writers.append(writer)
        return writers

    def _fork(self, outputs: list[int]) -> None:
        problem_reader, problem_writer = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            self._run_child(outputs, problem_writer)
        os.close(problem_writer)
        for fd in set(outputs):
            os.close(fd)
        self._started_ns = time.time_ns()
        problem = b""
        while chunk := os.read(problem_reader, 4096):
            problem += chunk
        os.close(problem_reader)
        if problem:
            os.waitpid(self._pid, 0)
            self._pid = -1
            kind, _, text = problem.decode(errors="replace").partition(" ")
            raise Refusal(text) if kind == "fatal" else OSError(text)

    def _run_child(self, outputs: list[int], problem_writer: int) -> None:
        try:
            os.setsid()
            null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            for source, target in ((null, 0), (outputs[0], 1), (outputs[1], 2)):
                os.dup2(source, target)
            become_task(self._spec, max(0, self._holder_pid))
        except Refusal as error:
            os.write(problem_writer, f"fatal {error}".encode())
        except BaseException as error:  # noqa: BLE001 - reported to the parent; this process ends here either way.
            os.write(problem_writer, f"temporary {type(error).__name__}: {error}".encode())
        finally:
            os._exit(127)

    def _write_state(self, facts: Pairs) -> None:
        lines = [*facts, ("boot_id", procfs.boot_id()), *(("cgroup", path) for path in self._spec.all("cgroup"))]
        data = "".join(f"{key} {value}\n" for key, value in lines)
        fd = os.open(f"{self._run_dir}/state", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, os.fsencode(data))
        finally:
            os.close(fd)

    # --- serving --------------------------------------------------------------------------------------------------

    def _pump(self, fd: int) -> int:
        """Copies what is there now; the number of bytes, 0 when nothing is there or the pipe has ended."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self._logs[fd].write(data)
        else:
            self._poll.unregister(fd)
            self._logs.pop(fd).close()
            os.close(fd)
        return len(data)

    def _hear_agent(self) -> None:
        assert self._agent is not None
        try:
            request = Spec(_receive(self._agent))
            self._adopted = self._adopted or request.has("adopted")
        except (OSError, ValueError, EOFError):
            self._poll.unregister(self._agent.fileno())
            self._agent.close()
            self._agent = None
            if not self._adopted:
                self._kill_everything()

    def _accept(self) -> None:
        assert self._listener is not None
        fd, _ = self._listener._accept()  # type: ignore[attr-defined]  # socket.accept() is built on this.
        connection = _socket.socket(fileno=fd)
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            request = Spec(_receive(connection))
            answer = self._answer(request)
            _send(connection, answer)
        except (OSError, ValueError, EOFError):
            connection.close()
            return
        if request.one("do") == "watch":
            self._adopted = True
            self._watchers[fd] = connection
            self._poll.register(fd, select.POLLIN)
        else:
            connection.close()

    def _answer(self, request: Spec) -> Pairs:
        match request.one("do"):
            case "signal":
                sent = procfs.kill_group(self._pid, request.number("signal"))
                return [("status", "ok" if sent else "gone")]
            case "kill":
                self._kill_everything()
                return [("status", "ok")]
            case "watch":
                return [("status", "ok"), ("pid", str(self._pid))]
            case other:
                return [("status", "error"), ("text", f"unknown request {other}")]

    # --- ending ---------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        # The dead task is not yet reaped here, so its number, which is also its group's, cannot belong to a stranger.
        oom_kills = self._oom_kills()
        procfs.kill_group(self._pid)
        if self._holder_pid > 0:
            procfs.kill(self._holder_pid)
        # Process 1 of a namespace ends only after everyone in it was reaped, so the task has to be first.
        _, status = os.waitpid(self._pid, 0)
        self._end_holder()
        self._kill_cgroups()
        self._drain()
        for log in self._logs.values():
            log.close()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        # A shell reports a death by signal as 128 + number, and so does Nomad.
        code = 128 + number if number else os.WEXITSTATUS(status)
        facts = {
            "exit_code": str(code),
            "signal": str(number),
            "oom_killed": "1" if oom_kills and code else "0",
            "started_ns": str(self._started_ns),
            "finished_ns": str(time.time_ns()),
        }
        exitrecord.write(self._run_dir, facts)
        self._unlink_socket()

    def _kill_everything(self) -> None:
        procfs.kill_group(self._pid)
        for directory in self._spec.all("cgroup"):
            procfs.kill_cgroup(directory)

    def _kill_cgroups(self) -> None:
        """Ends what the task left running in its cgroups, sessions of their own included."""
        deadline = time.monotonic() + KILL_LEFTOVERS_S
        for directory in self._spec.all("cgroup"):
            while procfs.kill_cgroup(directory) and time.monotonic() < deadline:
                time.sleep(0.005)

    def _end_holder(self) -> None:
        if self._holder_pid > 0:
            procfs.kill(self._holder_pid)
            os.waitpid(self._holder_pid, 0)
            os.close(self._holder_fd)
            self._holder_pid = -1

    def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        while self._logs and time.monotonic() < deadline:
            copied = sum(self._pump(fd) for fd in list(self._logs))
            if self._logs and not copied:
                waiting = select.poll()
                for fd in self._logs:
                    waiting.register(fd, select.POLLIN)
                waiting.poll(max(0, int((deadline - time.monotonic()) * 1000)))

    def _oom_kills(self) -> int:
        path = self._spec.one("oom_file")
        try:
            with open(path, "rb") as file:
                for line in file.read().split(b"\n"):
                    if line.startswith(b"oom_kill "):
                        return int(line.split()[1])
        except OSError:
            return 0
        return 0

    def _unlink_socket(self) -> None:
        try:
            os.unlink(f"{self._run_dir}/socket")
        except OSError:
            # The allocation's directory may already be gone.
            return


def read_spec(run_dir: str) -> Spec:
    """What the agent wrote down for this attempt."""
    with open(f"{run_dir}/spec", "rb") as file:
        return Spec(decode(file.read()[LENGTH_BYTES:]))


def _receive(connection: _socket.socket) -> Pairs:
    return decode(_receive_exactly(connection, body_length(_receive_exactly(connection, LENGTH_BYTES))))


def _receive_exactly(connection: _socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        chunk = connection.recv(min(n - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return data


def _send(connection: _socket.socket, pairs: Pairs) -> None:
    try:
        connection.sendall(encode(pairs))
    except OSError as error:
        # The other side went away; what it asked for has happened all the same.
        print(f"answer not delivered: {error}", file=sys.stderr)
