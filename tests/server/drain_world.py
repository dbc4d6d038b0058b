"""A store with nodes and allocations where a test wants them, the real scheduler, and a drainer moved by hand."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from cluster_builders import EPOCH_NS, make_job, make_node, node_id

from nomadpy.model.alloc import Allocation, AllocDeploymentStatus, AllocUpdate
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, MigrateStrategy, TaskGroup
from nomadpy.model.node import DrainStrategy, Node
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.scheduler import schedule
from nomadpy.server.drainer import DrainDecision, decide_drain
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore


def migrating(job: Job, max_parallel: int = 1) -> Job:
    """The job with a pace for its groups."""
    pace = MigrateStrategy(max_parallel=max_parallel, healthy_deadline_ns=5 * MINUTE)
    return job.replace(task_groups=tuple(group.replace(migrate=pace) for group in job.task_groups))


class DrainWorld:
    """Nodes are known by number. What runs is healthy unless a test says otherwise."""

    def __init__(self, n_nodes: int = 2) -> None:
        self.rng = random.Random(11)
        self.store = StateStore(id_key=5)
        self.now_ns = EPOCH_NS
        self.told: list[Evaluation] = []
        for number in range(n_nodes):
            self.apply(c.RegisterNode(node=make_node(number)))
            self.apply(c.UpdateNodeStatus(node_id=node_id(number), status="ready"))

    def tell(self, command: c.Command) -> c.Outcome:
        stamped = command if command.now_ns else c.msgspec.structs.replace(command, now_ns=self.now_ns)
        return self.store.apply(self.store.index + 1, c.decode(c.encode(stamped)))

    def apply(self, command: c.Command) -> None:
        outcome = self.tell(command)
        assert outcome.ok, outcome.message

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    # --- jobs ------------------------------------------------------------------------------------------------------

    def put(self, job: Job, *nodes: int, healthy: bool | None = True) -> list[Allocation]:
        """Registers a job unless it is there, and places one running allocation on each of the nodes."""
        if self.store.job("default", job.id) is None:
            self.apply(c.RegisterJob(job=job))
        stored = self.store.job("default", job.id)
        assert stored is not None
        numbers = np.array([self.store.node_number(node_id(number)) for number in nodes], dtype="<u4")
        first = len(self.allocs(job.id))
        block = c.PlaceBlock(
            job_id=job.id,
            job_version=stored.version,
            group=job.task_groups[0].name,
            nodes=numbers.tobytes(),
            name_indexes=np.arange(first, first + len(nodes), dtype="<u4").tobytes(),
        )
        before = {alloc.id for alloc in self.allocs(job.id)}
        self.apply(c.ApplyPlans(plans=(c.PlanResult(job_id=job.id, places=(block,)),)))
        placed = [alloc for alloc in self.allocs(job.id) if alloc.id not in before]
        self.report("running", *placed, healthy=healthy)
        return [self.alloc(alloc) for alloc in placed]

    def report(self, status: str, *allocs: Allocation, healthy: bool | None = None) -> None:
        verdict = AllocDeploymentStatus(healthy=healthy) if healthy is not None else None
        updates = tuple(AllocUpdate(id=a.id, client_status=status, deployment_status=verdict) for a in allocs)
        self.apply(c.UpdateAllocs(updates=updates))

    def alloc(self, alloc: Allocation) -> Allocation:
        """The allocation as it is now."""
        found = self.store.alloc(alloc.id)
        assert found is not None
        return found

    def allocs(self, job_id: str = "job") -> list[Allocation]:
        return self.store.allocs_by_job("default", job_id)

    def live(self, job_id: str = "job") -> list[Allocation]:
        return [alloc for alloc in self.allocs(job_id) if not alloc.terminal()]

    # --- drains ----------------------------------------------------------------------------------------------------

    def node(self, number: int = 0) -> Node:
        found = self.store.node(node_id(number))
        assert found is not None
        return found

    def drain(self, number: int = 0, *, deadline_s: float = 3600, ignore_system: bool = False, **more: Any) -> None:
        deadline_ns = int(deadline_s * SECOND)
        limit = self.now_ns + deadline_ns if deadline_ns > 0 else 0
        drain = DrainStrategy(deadline_ns=deadline_ns, force_deadline_ns=limit, ignore_system_jobs=ignore_system)
        self.apply(c.UpdateNodeDrain(node_id=node_id(number), drain=drain, **more))

    def look(self) -> DrainDecision:
        return decide_drain(self.store, now_ns=self.now_ns, rng=self.rng)

    def step(self) -> set[str]:
        """Lets the drainer do what is due, checks that it then has nothing more to say, and gives the ids of the
        allocations that were told to leave."""
        decision, told = self.look(), set[str]()
        for command in decision.commands:
            if isinstance(command, c.UpdateAllocTransitions):
                told.update(command.transitions)
                self.told += command.evals
            self.apply(command)
        assert self.look().commands == ()
        return told

    def work(self) -> None:
        """Lets the scheduler and the nodes follow: stops are obeyed, new allocations run and are healthy."""
        while self.told:
            decision = schedule(self.store, self.told.pop(0), now_ns=self.now_ns, rng=self.rng)
            self.apply(c.ApplyPlans(plans=(decision.plan,), evals=(decision.evaluation, *decision.created)))
        for job_id in {key[1] for key in self.store.jobs.current}:
            allocs = self.allocs(job_id)
            stopping = [alloc for alloc in allocs if alloc.server_terminal() and not alloc.client_terminal()]
            starting = [alloc for alloc in allocs if alloc.client_status == "pending" and alloc not in stopping]
            self.report("complete", *stopping)
            self.report("running", *starting, healthy=True)


def service(job_id: str = "job", *, count: int = 1, max_parallel: int = 1, group: TaskGroup | None = None) -> Job:
    return migrating(make_job(job_id, group=group) if group else make_job(job_id, count=count), max_parallel)
