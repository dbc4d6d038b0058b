"""A store that is driven by commands which all go through their bytes, and a twin that replays them."""

from __future__ import annotations

import random
from typing import Any

from cluster_builders import EPOCH_NS, make_node, node_id

from nomadpy.model.alloc import Allocation, AllocUpdate, TaskState
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job
from nomadpy.model.time import SECOND
from nomadpy.scheduler import Decision, schedule
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore


class World:
    """A store, the bytes of everything it was told, and small orders for it."""

    def __init__(self, n_nodes: int = 0, **node: Any) -> None:
        self.rng = random.Random(3)
        self.store = StateStore()
        self.log: list[bytes] = []
        self.now_ns = EPOCH_NS
        self.apply(c.InitCluster(cluster_id="c", id_key="0123456789abcdef0123456789abcdef"))
        for number in range(n_nodes):
            self.add_node(number, **node)

    def tell(self, command: c.Command) -> c.Outcome:
        """What came of a command."""
        self.now_ns += SECOND
        if command.now_ns == 0:
            command = c.msgspec.structs.replace(command, now_ns=self.now_ns)
        data = c.encode(command)
        self.log.append(data)
        return self.store.apply(self.store.index + 1, c.decode(data))

    def apply(self, command: c.Command) -> Any:
        """The value of a command that must succeed."""
        outcome = self.tell(command)
        assert outcome.ok, outcome.message
        return outcome.value

    def replayed(self) -> StateStore:
        """Another store that was told the same."""
        twin = StateStore()
        for index, data in enumerate(self.log, 1):
            twin.apply(index, c.decode(data))
        return twin

    def add_node(self, number: int = 0, **changes: Any) -> None:
        self.apply(c.RegisterNode(node=make_node(number, **changes)))
        self.set_node(number, "ready")

    def set_node(self, number: int, status: str) -> None:
        self.apply(c.UpdateNodeStatus(node_id=node_id(number), status=status))

    def evaluation(self, job_id: str = "job", **changes: Any) -> Evaluation:
        job = self.store.job("default", job_id)
        made = Evaluation(
            id=new_uuid(self.rng),
            namespace="default",
            priority=50,
            type=job.type if job else "service",
            triggered_by="job-register",
            job_id=job_id,
            status="pending",
        )
        return made.replace(**changes)

    def register(self, job: Job, *, with_eval: bool = False) -> Job:
        evals = (self.evaluation(job.id).replace(type=job.type),) if with_eval else ()
        self.apply(c.RegisterJob(job=job, evals=evals))
        stored = self.store.job(job.namespace, job.id)
        assert stored is not None
        return stored

    def decide(self, job_id: str = "job", evaluation: Evaluation | None = None) -> Decision:
        evaluation = evaluation or self.evaluation(job_id)
        return schedule(self.store, evaluation, now_ns=self.now_ns, rng=self.rng)

    def run(self, job_id: str = "job", evaluation: Evaluation | None = None) -> int:
        """Schedules a job and applies the plan; how many placements were refused."""
        decision = self.decide(job_id, evaluation)
        evals = (decision.evaluation, *decision.created)
        refused: list[int] = self.apply(c.ApplyPlans(plans=(decision.plan,), evals=evals))
        return refused[0]

    def report(self, alloc: Allocation, status: str) -> None:
        state = TaskState(state="dead" if status in ("complete", "failed") else "running", failed=status == "failed")
        update = AllocUpdate(id=alloc.id, client_status=status, task_states={"web": state})
        self.apply(c.UpdateAllocs(updates=(update,)))

    def allocs(self, job_id: str = "job") -> list[Allocation]:
        return self.store.allocs_by_job("default", job_id)

    def live(self, job_id: str = "job") -> list[Allocation]:
        return [alloc for alloc in self.allocs(job_id) if not alloc.terminal()]

    def status(self, job_id: str = "job") -> str:
        job = self.store.job("default", job_id)
        return job.status if job is not None else "gone"
