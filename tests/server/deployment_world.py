"""A cluster in memory whose deployments move by hand: the real state, the real scheduler, the real watcher."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from cluster_builders import EPOCH_NS, make_group, make_job, make_node, node_id

from nomadpy.model.alloc import Allocation, AllocDeploymentStatus, AllocUpdate, TaskState
from nomadpy.model.evaluation import EVAL_PENDING, TRIGGER_JOB_REGISTER, Deployment, DeploymentState, Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job, ReschedulePolicy, UpdateStrategy
from nomadpy.model.time import MINUTE, SECOND
from nomadpy.scheduler import schedule
from nomadpy.server.deployments import DeploymentWatch, Step, decide
from nomadpy.server.worker import settle
from nomadpy.state import commands as c
from nomadpy.state.store import StateStore

FOREVER = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", unlimited=True)


def paced(version: int = 0, *, count: int = 4, policy: ReschedulePolicy = FOREVER, **update: Any) -> Job:
    """A service whose versions differ enough to replace its allocations."""
    strategy = UpdateStrategy(**{"max_parallel": 2, "progress_deadline_ns": 10 * MINUTE, **update})
    group = make_group(count=count, cpu=100, env=str(version)).replace(update=strategy, reschedule_policy=policy)
    job: Job = make_job("job", group=group)
    return job


class DeploymentWorld:
    """Three nodes; nothing happens unless a test says so."""

    def __init__(self) -> None:
        self.rng = random.Random(5)
        self.store = StateStore(id_key=3)
        self.now_ns = EPOCH_NS
        self.watcher = DeploymentWatch()
        for number in range(3):
            self.apply(c.RegisterNode(node=make_node(number)))
            self.apply(c.UpdateNodeStatus(node_id=node_id(number), status="ready"))

    def tell(self, command: c.Command) -> c.Outcome:
        """Applies a command as it comes out of the log."""
        stamped = command if command.now_ns else msgspec.structs.replace(command, now_ns=self.now_ns)
        outcome = self.store.apply(self.store.index + 1, c.decode(c.encode(stamped)))
        self.watcher.note(self.store)
        return outcome

    def apply(self, command: c.Command) -> Any:
        outcome = self.tell(command)
        assert outcome.ok, outcome.message
        return outcome.value

    def wait(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)

    def register(self, job: Job) -> None:
        evaluation = Evaluation(
            id=new_uuid(self.rng),
            namespace="default",
            priority=50,
            type=job.type,
            triggered_by=TRIGGER_JOB_REGISTER,
            job_id=job.id,
            status=EVAL_PENDING,
        )
        self.apply(c.RegisterJob(job=job, evals=(evaluation,)))

    def look(self) -> Step:
        """What all deployments need."""
        return decide(self.store, now_ns=self.now_ns, rng=self.rng)

    def watch(self) -> Step:
        """Lets the watcher have its way."""
        step = self.watcher.look(self.store, now_ns=self.now_ns, rng=self.rng)
        for command in step.commands:
            self.apply(command)
        return step

    def evaluate(self) -> int:
        """Runs what is due; answers how many evaluations that were."""
        due = [e for e in self.store.evals.values() if e.status == EVAL_PENDING and e.wait_until_ns <= self.now_ns]
        for evaluation in due:
            decision = schedule(self.store, evaluation, now_ns=self.now_ns, rng=self.rng)
            self.apply(c.ApplyPlans(plans=(decision.plan,), evals=tuple(settle(self.store, decision))))
        return len(due)

    def settle(self) -> None:
        """Watches and evaluates until neither has anything to do; fails when that never happens."""
        for _ in range(20):
            if not self.evaluate() and not self.watch().commands:
                assert self.look().commands == (), "something was due that nobody looked at"
                assert self.watcher.wake_at_ns == self.look().wake_at_ns
                return
        raise AssertionError(f"the watcher never comes to rest: {self.look().commands}")

    def deploy(self, job: Job) -> None:
        """Registers a version and has it take effect as far as it goes."""
        self.register(job)
        self.settle()

    def judge(self, *allocs: Allocation, healthy: bool = True, over: bool | None = None) -> None:
        """Reports of nodes: running and well, or failed; ``over`` says otherwise whether the task has ended."""
        ended = not healthy if over is None else over
        state = TaskState(
            state="dead" if ended else "running", failed=ended, finished_at_ns=self.now_ns if ended else 0
        )
        status = AllocDeploymentStatus(healthy=healthy, timestamp_ns=self.now_ns)
        client = "failed" if ended else "running"
        updates = tuple(
            AllocUpdate(id=a.id, client_status=client, task_states={"web": state}, deployment_status=status)
            for a in allocs
        )
        self.apply(c.UpdateAllocs(updates=updates))

    def live(self) -> list[Allocation]:
        found = self.store.allocs_by_job("default", "job")
        return sorted((a for a in found if not a.terminal()), key=lambda a: a.index)

    def unjudged(self) -> list[Allocation]:
        return [a for a in self.live() if a.deployment_status is None or a.deployment_status.healthy is None]

    def versions(self) -> list[int]:
        return [a.job.version for a in self.live() if a.job is not None]

    def roll(self) -> None:
        """Lets everything become healthy, wave by wave."""
        for _ in range(20):
            self.settle()
            if not self.unjudged():
                return
            self.wait(0.1)
            self.judge(*self.unjudged())
        raise AssertionError("there is always another wave")

    @property
    def deployment(self) -> Deployment:
        found = self.store.latest_deployment("default", "job")
        assert found is not None
        return found

    @property
    def state(self) -> DeploymentState:
        return self.deployment.task_groups["app"]

    @property
    def end(self) -> tuple[str, str]:
        return self.deployment.status, self.deployment.status_description
