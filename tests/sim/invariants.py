"""What must hold in every run of the simulated cluster, whatever happens. Each has a name:

state machine safety      no two servers apply different entries at an index
equal replicas            servers at the same index have the same state, restored or lived through
one leader in a term      no two servers acknowledge as leaders of one term
acknowledged is durable   what a person was told succeeded was applied, once, and is what the state ends with
order of acknowledgements an operation that began after another was acknowledged has a higher index
linearizable reads        a read sees everything that was acknowledged before it began
capacity                  allocations never take more of a node than it has
no verdict without cause  a node that ran, and that servers could reach, is not called lost
no stop without cause     an allocation on such a node is stopped only for its job, its node or its own failure
no older orders           a client never follows an order that is older than one that it followed
settled                   after the troubles every job has exactly what it wants, on live nodes; nothing else runs
gossip is quiet           nobody sees two agents of one name where there is one
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from pretend_client import ClientHost
from pretend_world import World
from state_checker import check_store

from nomadpy.model.alloc import Allocation
from nomadpy.model.demand import Demand
from nomadpy.model.evaluation import EVAL_BLOCKED
from nomadpy.model.job import Job
from nomadpy.model.node import DOWN
from nomadpy.state import commands as c
from nomadpy.state.snapshot import freeze
from nomadpy.state.store import StateStore

_FINGERPRINT_EVERY = 16
# With allocations of this size there is always room.
_ROOMY = 500
# Heartbeats are tried again after up to half a minute, and verdicts may be held back for as long.
EXCUSE_S = 75.0


class Wish(msgspec.Struct):
    """One operation of a person on a job."""

    request_id: str
    key: tuple[str, str]
    what: str
    began_at: float
    # The highest index of this job that was acknowledged before it began.
    after: int = 0
    acknowledged: int | None = None


class Checker:
    """Sees every applied entry, acknowledgement and order, and tells the world of violations."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._entries: dict[int, int] = {}
        self._prints: dict[int, tuple[int, str]] = {}
        self._leaders: dict[int, str] = {}
        self.wishes: list[Wish] = []
        self.acknowledged: dict[tuple[str, str], int] = {}
        # Job → what was done to it, in the order of the log: (index, request id, the job or None for a stop).
        self.history: dict[tuple[str, str], list[tuple[int, str, Job | None]]] = {}
        self._requests: dict[str, int] = {}
        self._newest = 0
        self.clients: dict[str, ClientHost] = {}

    # --- the log -----------------------------------------------------------------------------------------------------

    def applied(self, host: Any, index: int, data: bytes) -> None:
        """A server applied an entry."""
        known = self._entries.setdefault(index, zlib.crc32(data))
        if known != zlib.crc32(data):
            self._world.violate("state machine safety", f"{host.name} applied another entry {index}")
        store = host.server.store
        if index > self._newest:
            self._newest = index
            self._first_applied(host, index, c.decode(data), store)
        if index % _FINGERPRINT_EVERY == 0:
            self._compare(host, index, store)

    def restored(self, host: Any, index: int) -> None:
        """A server took over a snapshot."""
        if index in self._prints:
            self._compare(host, index, host.server.store)

    def _compare(self, host: Any, index: int, store: StateStore) -> None:
        mine = print_of(store)
        self._world.totals.fingerprints += 1
        known, by = self._prints.setdefault(index, (mine, host.name))
        if known != mine:
            self._world.violate("equal replicas", f"{host.name} has another state at {index} than {by}")

    def _first_applied(self, host: Any, index: int, command: c.Command, store: StateStore) -> None:
        world = self._world
        world.totals.entries += 1
        world.note(host.name, f"applies {index}: {_short(command)}")
        if command.request_id:
            if command.request_id in self._requests:
                return
            self._requests[command.request_id] = index
        match command:
            case c.RegisterJob():
                self.history.setdefault(command.job.key, []).append((index, command.request_id, command.job))
            case c.DeregisterJob():
                key = (command.namespace, command.job_id)
                self.history.setdefault(key, []).append((index, command.request_id, None))
            case c.UpdateNodeStatus(status="down"):
                self._verdict(command.node_id)
            case c.ApplyPlans() | c.ApplyDecisions():
                self._plans(store)

    # --- nodes and allocations ---------------------------------------------------------------------------------------

    def was_well(self, node_id: str) -> bool:
        """Whether nothing happened to a node for so long that nobody has an excuse."""
        client = self.clients[node_id]
        return self._world.loop.now - client.disturbed_at > EXCUSE_S

    def _verdict(self, node_id: str) -> None:
        self._world.totals.nodes_lost += 1
        if self.was_well(node_id):
            self._world.violate("no verdict without cause", f"{self.clients[node_id].name} was called lost")

    def _plans(self, store: StateStore) -> None:
        world, table = self._world, store.allocs
        self._check_capacity(store)
        changed = [row for row in table.rows() if int(table.alloc_modify_index[row]) == store.index]
        for row in changed:
            alloc = store.alloc_at(row)
            if not alloc.server_terminal():
                world.totals.placements += alloc.create_index == store.index
            elif alloc.create_index != store.index:
                self._stopped(store, alloc)

    def _check_capacity(self, store: StateStore) -> None:
        """Of what is wanted and not over, summed anew. (What a plan stops may still run while its successor waits.)"""
        columns, table = store.columns, store.allocs
        for number in range(columns.size):
            total = Demand()
            for row in table.rows_by_node(number):
                if table.is_live(row):
                    total += table.shape_of(row).demand
            there = Demand(int(columns.cpu[number]), int(columns.memory[number]), int(columns.disk[number]))
            if total.cpu > there.cpu or total.memory > there.memory or total.disk > there.disk:
                self._world.violate("capacity", f"node {number} has {there}, allocations take {total}")

    def _stopped(self, store: StateStore, alloc: Allocation) -> None:
        job, node = store.job(alloc.namespace, alloc.job_id), store.node(alloc.node_id)
        assert alloc.job is not None
        if job is None or job.stop or job.job_modify_index != alloc.job.job_modify_index:
            return
        group = job.group(alloc.task_group)
        if group is None or alloc.index >= group.count or alloc.client_terminal() or alloc.client_status == "unknown":
            return
        if node is None or not node.is_ready() or not self.was_well(node.id):
            return
        if alloc.desired_transition.migrate:
            return  # its node was drained when it was told to go
        if any(other.name == alloc.name and other.id != alloc.id for other in _wanted(store, job)):
            return  # one of two of the same name, since the other came back
        self._world.violate("no stop without cause", f"{alloc.name} {alloc.id[:8]} on {node.name} was stopped")

    def obeys(self, client: ClientHost, alloc: Allocation, known: Allocation | None) -> None:
        """A client is about to follow an order."""
        if known is not None and known.alloc_modify_index > alloc.alloc_modify_index:
            given, had = alloc.alloc_modify_index, known.alloc_modify_index
            self._world.violate("no older orders", f"{client.name} was given {alloc.name} as of {given}, knows {had}")

    def follows(self, client: ClientHost, index: int) -> None:
        """A client begins to follow the assignments of an index."""
        if index < client.obeyed:
            self._world.violate("no older orders", f"{client.name} follows index {index} after {client.obeyed}")
        client.obeyed = max(client.obeyed, index)

    # --- people ------------------------------------------------------------------------------------------------------

    def begin(self, request_id: str, key: tuple[str, str], what: str) -> Wish:
        """A person begins an operation."""
        wish = Wish(request_id, key, what, self._world.loop.now, after=self.acknowledged.get(key, 0))
        self.wishes.append(wish)
        return wish

    def acknowledge(self, wish: Wish, index: int) -> None:
        """The person was told that it succeeded, at this index."""
        self._world.totals.acknowledged += 1
        self._world.note("people", f"{wish.what} {wish.key[1]} ({wish.request_id}) acknowledged at {index}")
        wish.acknowledged = index
        if index <= wish.after:
            text = f"{wish.request_id} got index {index}, after {wish.after} was acknowledged"
            self._world.violate("order of acknowledgements", text)
        if self._requests.get(wish.request_id) != index:
            text = f"{wish.request_id} was acknowledged at {index}, applied at {self._requests.get(wish.request_id)}"
            self._world.violate("acknowledged is durable", text)
        self.acknowledged[wish.key] = max(index, self.acknowledged.get(wish.key, 0))

    def led(self, host: Any, term: int) -> None:
        """A server acknowledges as the leader of a term."""
        if self._leaders.setdefault(term, host.name) != host.name:
            text = f"{host.name} and {self._leaders[term]} acknowledge in term {term}"
            self._world.violate("one leader in a term", text)
        self._world.totals.leaders = len(self._leaders)

    def read(self, key: tuple[str, str], needed: int, seen: int) -> None:
        """A person read the job at an index; ``needed`` was acknowledged before."""
        self._world.totals.reads += 1
        if seen < needed:
            self._world.violate("linearizable reads", f"{key[1]} read at {seen}, {needed} was acknowledged")

    # --- the end -----------------------------------------------------------------------------------------------------

    def unsettled(self, servers: list[Any], clients: list[ClientHost]) -> list[str]:
        """What is still missing until the cluster is settled, as sentences; nothing when it is."""
        leaders = [host for host in servers if host.up and host.server.leading]
        if len(leaders) != 1:
            return [f"{len(leaders)} servers lead"]
        store = leaders[0].server.store
        behind = [host.name for host in servers if host.server.store.index != store.index]
        missing = [f"{name} is behind" for name in behind]
        for client in clients:
            node = store.node(client.node_id)
            if node is None or not node.is_ready():
                missing.append(f"{client.name} is not ready")
        missing += [
            f"evaluation {e.id} of {e.job_id} is {e.status}"
            for e in store.evals.values()
            if not e.terminal() and not (e.status == EVAL_BLOCKED and self._is_full(store))
        ]
        statistics = leaders[0].server.broker.statistics()
        if statistics.ready or statistics.unacked or statistics.pending:
            missing.append(f"the broker holds {statistics}")
        for job in store.jobs.current.values():
            missing += self._job_unsettled(store, job)
        return missing + self._machines_unsettled(store, clients)

    def _job_unsettled(self, store: StateStore, job: Job) -> list[str]:
        wanted = _wanted(store, job)
        deployment = store.latest_deployment(*job.key)
        if self._world.profile.cpu > _ROOMY and deployment is not None and deployment.status != "successful":
            return []  # where there is no room, deployments wait, and fail in the end
        if job.type == "batch":
            live = [alloc for alloc in wanted if not alloc.client_terminal()]
            return [f"{alloc.name} has not ended" for alloc in live]
        running = [alloc for alloc in wanted if alloc.client_status == "running"]
        count = 0 if job.stop else job.task_groups[0].count
        missing = []
        live = sum(not alloc.client_terminal() for alloc in wanted)
        waits = self._is_full(store) and any(e.status == EVAL_BLOCKED for e in store.job_evals(*job.key))
        if len(running) != live or (live != count and not (waits and live < count)):
            missing.append(f"{job.id} runs {len(running)} times, wants {count}")
        for alloc in running:
            assert alloc.job is not None
            if alloc.job.version != job.version and alloc.job.job_modify_index != job.job_modify_index:
                missing.append(f"{alloc.name} is of version {alloc.job.version}, the job of {job.version}")
            node = store.node(alloc.node_id)
            if node is None or node.status == DOWN:
                missing.append(f"{alloc.name} runs on a node that is down")
        return missing

    def _is_full(self, store: StateStore) -> bool:
        """Whether no node has room for one more allocation; they are all alike."""
        columns = store.columns
        ask = self._world.profile.cpu
        return all(columns.cpu[number] - columns.cpu_used[number] < ask for number in range(columns.size))

    def _machines_unsettled(self, store: StateStore, clients: list[ClientHost]) -> list[str]:
        missing = []
        for client in clients:
            alive = {run.alloc.id for run in client.runs.values() if run.alive}
            wanted = {
                alloc.id
                for alloc in store.allocs_by_node(client.node_id)
                if not alloc.server_terminal() and not alloc.client_terminal()
            }
            missing += [f"{client.name} runs {alloc_id}, which nobody wants" for alloc_id in sorted(alive - wanted)]
            missing += [f"{client.name} does not run {alloc_id}" for alloc_id in sorted(wanted - alive)]
        return missing

    def check_end(self, servers: list[Any]) -> None:
        """The cluster has settled: what it came to."""
        stores = [host.server.store for host in servers]
        check_store(stores[0])
        prints = {print_of(store) for store in stores}
        self._world.totals.fingerprints += len(stores)
        if len(prints) != 1:
            self._world.violate("equal replicas", "the servers end with different states")
        for wish in self.wishes:
            if wish.acknowledged is not None and self._requests.get(wish.request_id) != wish.acknowledged:
                self._world.violate("acknowledged is durable", f"{wish.request_id} is gone")
        for key, history in self.history.items():
            self._check_job(stores[0], key, history)

    def _check_job(self, store: StateStore, key: tuple[str, str], history: list[tuple[int, str, Job | None]]) -> None:
        index, request_id, last = history[-1]
        job = store.job(*key)
        stopped = job is None or job.stop
        if job is None and last is not None and last.type != "batch":
            self._world.violate("acknowledged is durable", f"{key[1]} is gone; {request_id} registered it at {index}")
        elif stopped != (last is None) and (job is not None or last is None):
            self._world.violate("acknowledged is durable", f"{key[1]}: stopped is {stopped} after {request_id}")
        elif job is not None and last is not None and _spec(job) != _spec(last):
            self._world.violate("acknowledged is durable", f"{key[1]} is {_spec(job)}, should be {_spec(last)}")


def print_of(store: StateStore) -> int:
    """A number that is the same for equal states: of the snapshot that they would make, without what only says how
    often each was frozen."""
    table = store.allocs
    extras, epoch = table._extra, table._epoch
    table._extra = {row: msgspec.structs.replace(extra, epoch=0) for row, extra in extras.items()}
    try:
        return zlib.crc32(freeze(store)())
    finally:
        table._extra, table._epoch = extras, epoch


def _spec(job: Job) -> tuple[int, dict[str, str]]:
    return job.task_groups[0].count, dict(job.task_groups[0].tasks[0].env)


def _wanted(store: StateStore, job: Job) -> list[Allocation]:
    return [alloc for alloc in store.allocs_by_job(*job.key) if not alloc.server_terminal()]


def _short(command: c.Command) -> str:
    name = type(command).__name__
    match command:
        case c.RegisterJob():
            return f"{name} {command.job.id} {_spec(command.job)} {command.request_id}"
        case c.DeregisterJob():
            return f"{name} {command.job_id} {command.request_id}"
        case c.UpdateNodeStatus() | c.UpdateNodeDrain():
            return f"{name} {command.node_id[-4:]} {getattr(command, 'status', '')}"
        case c.UpdateAllocs():
            return f"{name} " + " ".join(f"{u.id[:8]}={u.client_status}" for u in command.updates)
        case c.ApplyDecisions():
            return f"{name} " + " ".join(eval_id[:8] for eval_id in command.newcomers.eval_ids)
        case c.ApplyPlans() | c.UpdateEvals():
            return f"{name} " + " ".join(f"{e.job_id}:{e.id[:8]}={e.status}/{e.triggered_by}" for e in command.evals)
    return name
