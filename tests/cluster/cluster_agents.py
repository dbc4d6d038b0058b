"""Several real agents that form a cluster, each a process of its own, and what tests do to them.

Every machine has an address of its own, with Nomad's usual ports: loopback addresses (``Loopback``) where only
processes fail, network namespaces (``cut_network.CutNetwork``) where the network does. Everything that waits has a
deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
NOMADPY = ROOT / ".venv" / "bin" / "nomadpy"
READY_S = 40.0
FAULTS = ("Traceback", "http.app_failed", "http.connection_failed", "driver.stopped", "never retrieved", "Bug")
CLIENT_CONFIG = (
    'plugin "raw_exec" { config { enabled = true } }\nclient { options = { "driver.denylist" = "docker" } }\n'
)


def until(look: Callable[[], T | None], what: str, *, timeout_s: float = 20.0, pause_s: float = 0.03) -> T:
    """What ``look`` returns as soon as it is true. An AssertionError or no answer inside counts as "not yet"."""
    deadline, why = time.monotonic() + timeout_s, ""
    while True:
        try:
            found = look()
        except (AssertionError, NoAnswer, Failed) as error:
            found, why = None, f": {error}"
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s} s{why}")
        time.sleep(pause_s)


class NoAnswer(Exception):
    """The connection failed or nothing came in time. ``sent``: whether the request may have arrived."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Failed(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status, self.text = status, text


class Api:
    """HTTP to one agent. Every thread has a connection of its own."""

    def __init__(self, address: str, port: int = 4646) -> None:
        self.address, self.port = address, port
        self._local = threading.local()
        self._made: set[http.client.HTTPConnection] = set()

    def leave(self) -> None:
        """Closes this thread's connection."""
        if getattr(self._local, "connection", None) is not None:
            self._drop()

    def close(self) -> None:
        """Closes what the threads left open."""
        for connection in list(self._made):
            connection.close()
        self._made.clear()

    def call(self, method: str, path: str, body: Any = None, *, timeout_s: float = 15.0) -> Any:
        """The JSON of the answer. Raises NoAnswer and Failed."""
        connection, fresh = self._connection(timeout_s)
        data = None if body is None else json.dumps(body).encode()
        try:
            if fresh:
                connection.connect()
        except OSError as error:
            self._drop()
            raise NoAnswer(f"{self.address}: {error}", sent=False) from error
        try:
            connection.request(method, path, body=data)
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise NoAnswer(f"{self.address}: {error!r}", sent=True) from error
        if answer.status >= 300:
            raise Failed(answer.status, text)
        return json.loads(text) if text else None

    def get(self, path: str, **more: Any) -> Any:
        """A read."""
        return self.call("GET", path, **more)

    def put(self, path: str, body: Any = None, **more: Any) -> Any:
        """A write."""
        return self.call("PUT", path, {} if body is None else body, **more)

    def _connection(self, timeout_s: float) -> tuple[http.client.HTTPConnection, bool]:
        connection = getattr(self._local, "connection", None)
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(timeout_s)
            return connection, False
        self.leave()
        self._local.connection = connection = http.client.HTTPConnection(self.address, self.port, timeout=timeout_s)
        self._made.add(connection)
        return connection, True

    def _drop(self) -> None:
        self._local.connection.close()
        self._made.discard(self._local.connection)
        self._local.connection = None


class Net(Protocol):
    """Where machines get their addresses from."""

    def address(self, number: int) -> str:
        """The address of a machine, counted from 1."""

    def prefix(self, number: int) -> list[str]:
        """What a command begins with to run on that machine."""

    def close(self) -> None:
        """Takes everything away."""


class Loopback:
    """Addresses 127.x.y.n; nothing has to be made for them."""

    def __init__(self) -> None:
        self._prefix = f"127.{random.randint(2, 250)}.{random.randint(1, 250)}"

    def address(self, number: int) -> str:
        """127.x.y.n."""
        return f"{self._prefix}.{number}"

    def prefix(self, number: int) -> list[str]:
        """Nothing."""
        return []

    def close(self) -> None:
        """Nothing."""


class Machine:
    """One agent: its process, its directory, its API. ``entry`` is a script that runs instead of ``nomadpy``."""

    def __init__(self, net: Net, number: int, name: str, directory: Path, flags: Sequence[str]) -> None:
        self.name, self.directory, self.number = name, directory, number
        directory.mkdir(parents=True, exist_ok=True)
        self.address = net.address(number)
        self.api = Api(self.address)
        self.data_dir = directory / "data"
        self.flags = ["-node", name, "-bind", self.address, "-data-dir", str(self.data_dir), *flags]
        self.entry: list[str] = [str(NOMADPY)]
        self.env: dict[str, str] = {}
        self.log_file = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._prefix = net.prefix(number)

    @property
    def running(self) -> bool:
        """Whether the process exists."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> Machine:
        """Starts the process, on whatever data it has, and does not wait."""
        assert not self.running, f"{self.name} runs already"
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *self.entry, "agent", *self.flags],
                stdout=subprocess.DEVNULL,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **self.env},
                start_new_session=True,
            )
        return self

    def send(self, number: int) -> None:
        """Sends a signal to the agent, and to nothing else."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the agent alone; its tasks live on."""
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGTERM, *, timeout_s: float = 30.0) -> int:
        """Sends a signal and waits for the end; gives the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.send(number)
        return self.process.wait(timeout_s)

    def state(self) -> dict[str, str]:
        """What the agent says about its log."""
        stats: dict[str, str] = self.api.get("/v1/agent/self", timeout_s=3)["stats"]["raft"]
        return stats

    def wait_up(self, *, timeout_s: float = READY_S) -> Machine:
        """Waits until the API answers. Raises when the process ended."""

        def look() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} ended with {self.process and self.process.returncode}:\n{self.log()}")
            self.api.get("/v1/agent/self", timeout_s=3)
            return True

        until(look, f"an answer of {self.name}", timeout_s=timeout_s)
        return self

    def log(self) -> str:
        """Everything that the agent wrote."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def faults(self) -> list[str]:
        """Lines of the log that nothing in these tests may cause."""
        return [line for line in self.log().splitlines() if any(fault in line for fault in FAULTS)]

    def children(self) -> list[int]:
        """Processes that the machine runs beside the agent: executors and tasks."""
        agent = self.process.pid if self.process is not None else -1
        return [pid for pid in pids_of(self.data_dir) if pid != agent]

    def die(self) -> None:
        """The whole machine ends at once: the agent, the executors and the tasks."""
        self.kill()
        for _ in range(20):
            pids = self.children()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return
            time.sleep(0.02)  # until the kernel has taken them away
        raise AssertionError(f"{self.name} still runs {pids}")


def pids_of(directory: Path) -> list[int]:
    """Processes that name the directory in their command line, environment or working directory."""
    mark, found = os.fsencode(str(directory)) + b"/", []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            where = os.fsencode(os.readlink(entry / "cwd")) + b"/"
        except OSError:
            continue
        if mark in words or where.startswith(mark):
            found.append(int(entry.name))
    return found


class Cluster:
    """Three servers and some clients. ``more`` is added to everybody's configuration, or to that of the servers alone
    where ``client_more`` is given. ``close`` leaves neither processes nor mounts."""

    def __init__(
        self,
        directory: Path,
        net: Net | None = None,
        *,
        servers: int = 3,
        clients: int = 0,
        more: str = "",
        client_more: str | None = None,
    ) -> None:
        self.directory, self.net = directory, net or Loopback()
        directory.mkdir(parents=True, exist_ok=True)
        self.witness_file = directory / "witnessed"
        self.witness_file.touch()
        config = directory / "server.hcl"
        config.write_text(more or 'log_level = "INFO"\n')
        joins = [word for n in range(1, servers + 1) for word in ("-retry-join", self.net.address(n))]
        flags = ["-server", "-bootstrap-expect", str(servers), *joins, "-config", str(config)]
        self.servers = [Machine(self.net, n, f"s{n}", directory / f"s{n}", flags) for n in range(1, servers + 1)]
        client_config = directory / "client.hcl"
        client_config.write_text(CLIENT_CONFIG + (more if client_more is None else client_more))
        known = ",".join(server.address for server in self.servers)
        flags = ["-client", "-servers", known, "-config", str(client_config)]
        numbers = range(servers + 1, servers + clients + 1)
        self.clients = [Machine(self.net, n, f"c{n - servers}", directory / f"c{n - servers}", flags) for n in numbers]

    @property
    def machines(self) -> list[Machine]:
        """Servers, then clients."""
        return [*self.servers, *self.clients]

    # --- life ------------------------------------------------------------------------------------------------------

    def start(self) -> Cluster:
        """Starts everybody and waits for a leader and ready nodes."""
        for machine in self.machines:
            machine.start()
        return self.wait_whole()

    def wait_whole(self, *, timeout_s: float = READY_S) -> Cluster:
        """Waits until everybody runs, somebody leads, everybody follows, and every node is ready."""
        for machine in self.machines:
            if machine.running:
                machine.wait_up()
        self.wait_leader(timeout_s=timeout_s)

        def caught_up() -> bool:
            indexes = [int(server.state()["applied_index"]) for server in self.servers if server.running]
            return min(indexes) > 0 and max(indexes) - min(indexes) < 50

        until(caught_up, "servers that know the same", timeout_s=timeout_s)
        if self.clients:
            self.wait_nodes([client.name for client in self.clients], timeout_s=timeout_s)
        return self

    def close(self) -> None:
        """Ends everything that was started, by its id, and removes the data."""
        for machine in self.machines:
            machine.api.close()
            if machine.running:
                machine.send(signal.SIGCONT)
                machine.kill()
        for _ in range(50):
            pids = pids_of(self.directory)
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                break
            time.sleep(0.05)
        points = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted((p for p in points if p.startswith(f"{self.directory}/")), reverse=True):
            subprocess.run(["umount", "-l", point], check=False, capture_output=True)
        for machine in self.machines:
            shutil.rmtree(machine.data_dir, ignore_errors=True)
        self.net.close()

    def tail(self, lines: int = 40) -> str:
        """The ends of all logs, for a failed test."""
        parts = []
        for machine in self.machines:
            parts.append(f"--- {machine.name} ({'runs' if machine.running else 'ended'})")
            parts += machine.log().splitlines()[-lines:]
        return "\n".join(parts)

    # --- who leads -------------------------------------------------------------------------------------------------

    def leader(self, among: Sequence[Machine] | None = None) -> Machine | None:
        """The one server that says it leads, with the highest term where several say so."""
        best: tuple[int, Machine] | None = None
        for server in among if among is not None else self.servers:
            if not server.running:
                continue
            try:
                state = server.state()
            except (NoAnswer, Failed):
                continue
            if state["state"] == "Leader" and (best is None or int(state["term"]) > best[0]):
                best = int(state["term"]), server
        return best[1] if best is not None else None

    def wait_leader(self, among: Sequence[Machine] | None = None, *, timeout_s: float = READY_S) -> Machine:
        """Waits until somebody leads."""
        return until(lambda: self.leader(among), "a leader", timeout_s=timeout_s)

    def followers(self) -> list[Machine]:
        """Everybody but the leader."""
        return self.others(self.wait_leader())

    def others(self, one: Machine) -> list[Machine]:
        """Every server but one."""
        return [server for server in self.servers if server is not one]

    # --- asking, with the patience of a careful client -------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
        """Asks one server after the other until one answers with a success. Raises Failed for what no other server
        would answer differently, AssertionError when nobody answers in time."""
        deadline, problem = time.monotonic() + timeout_s, ""
        for server in itertools.cycle(self.servers):
            try:
                return server.api.call(method, path, body, timeout_s=10)
            except NoAnswer as error:
                problem = str(error)
            except Failed as error:
                if error.status < 500:
                    raise
                problem = str(error)
            if time.monotonic() > deadline:
                raise AssertionError(f"{method} {path}: no success within {timeout_s} s; last: {problem}")
            time.sleep(0.05)
        raise AssertionError("there are no servers")

    def get(self, path: str, **more: Any) -> Any:
        """A read."""
        return self.ask("GET", path, **more)

    def submit(self, spec: dict[str, Any], **more: Any) -> Any:
        """Registers a job."""
        return self.ask("PUT", "/v1/jobs", {"Job": spec}, **more)

    def purge(self, *job_ids: str) -> None:
        """Removes jobs and waits until nothing of them runs."""
        for job_id in job_ids:
            self.ask("DELETE", f"/v1/job/{job_id}?purge=true")

        def over() -> bool:
            stubs = self.get("/v1/allocations")
            left = [s["Name"] for s in stubs if s["JobID"] in job_ids and s["ClientStatus"] in ("pending", "running")]
            assert not left, left
            return True

        until(over, f"the end of {job_ids}", timeout_s=30)

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Node stubs by name; of several with one name (a restored state remembers others) the one that is ready."""
        found = self.get("/v1/nodes")
        return {node["Name"]: node for node in sorted(found, key=lambda node: bool(node["Status"] == "ready"))}

    def wait_nodes(self, names: Sequence[str], status: str = "ready", *, timeout_s: float = READY_S) -> None:
        """Waits until the nodes have a status."""

        def look() -> bool:
            found = {name: node["Status"] for name, node in self.nodes().items() if name in names}
            assert found == dict.fromkeys(names, status), found
            return True

        until(look, f"nodes that are {status}", timeout_s=timeout_s)

    def allocs(self, job_id: str) -> list[dict[str, Any]]:
        """A job's allocation stubs."""
        found: list[dict[str, Any]] = self.get(f"/v1/job/{job_id}/allocations")
        return found

    def wait_running(self, job_id: str, count: int, *, timeout_s: float = 40.0) -> list[dict[str, Any]]:
        """Waits until exactly ``count`` allocations of the job run; gives them."""

        def look() -> list[dict[str, Any]]:
            stubs = self.allocs(job_id)
            found = [stub for stub in stubs if stub["ClientStatus"] == "running" and stub["DesiredStatus"] == "run"]
            assert len(found) == count, [(s["Name"], s["ClientStatus"], s["DesiredStatus"]) for s in stubs]
            return found

        return until(look, f"{count} running allocations of {job_id}", timeout_s=timeout_s)

    # --- tasks that tell that they started ---------------------------------------------------------------------------

    def witness_job(self, job_id: str, count: int, **changes: Any) -> dict[str, Any]:
        """A job whose tasks write a line to a file when they start, and then sleep."""
        script = f'echo "$NOMAD_JOB_ID $NOMAD_ALLOC_ID $$" >> {self.witness_file}; exec sleep 3600'
        task = {
            "Name": "main",
            "Driver": "raw_exec",
            "Config": {"command": "/bin/sh", "args": ["-c", script]},
            "Resources": {"CPU": 20, "MemoryMB": 16},
            "KillTimeout": 1_000_000_000,
            "LogConfig": {"MaxFiles": 1, "MaxFileSizeMB": 1},
        }
        group = {"Name": "g", "Count": count, "Tasks": [task], "EphemeralDisk": {"SizeMB": 10}}
        spec = {"ID": job_id, "Name": job_id, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [group]}
        return {**spec, **changes}

    def witnessed(self, job_id: str) -> list[tuple[str, int]]:
        """(allocation, pid) of every start of a task of the job."""
        lines = [line.split() for line in self.witness_file.read_text().splitlines()]
        return sorted((words[1], int(words[2])) for words in lines if words[0] == job_id)


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return re.sub(r"^.*\) ", "", stat)[0] != "Z"


def tidy_when_told_to_stop() -> None:
    """For scripts: SIGTERM takes the way of an error, so that nothing is left running."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(f"stopped by {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, stop)


@contextlib.contextmanager
def running_cluster(directory: Path, net: Net | None = None, **options: Any) -> Iterator[Cluster]:
    """A cluster that works, and is gone afterwards. What fails inside is shown with the ends of the logs."""
    cluster = Cluster(directory, net, **options)
    try:
        yield cluster.start()
    except BaseException:
        print(cluster.tail(), file=sys.stderr)
        raise
    finally:
        cluster.close()
