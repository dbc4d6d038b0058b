"""What one evaluation led to, put together from what was found out about each group."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from nomadpy.model.alloc import Allocation, AllocMetric
from nomadpy.model.evaluation import (
    EVAL_BLOCKED,
    EVAL_COMPLETE,
    EVAL_PENDING,
    TRIGGER_ALLOC_RESCHEDULE,
    TRIGGER_MAX_DISCONNECT,
    TRIGGER_PREEMPTION,
    TRIGGER_QUEUED_ALLOCS,
    DesiredUpdates,
    Evaluation,
    PlanAnnotations,
)
from nomadpy.model.ids import new_uuid
from nomadpy.model.job import Job
from nomadpy.scheduler.eligibility import Eligibility
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.placement import Placed
from nomadpy.scheduler.reschedule import Later, windows
from nomadpy.scheduler.rollout import Rollout
from nomadpy.state.commands import AnnotateAlloc, PlaceBlock, PlanResult, StopAlloc, UpdateAllocInPlace
from nomadpy.state.view import Claim, StateView

FOLLOW_RESCHEDULE = (TRIGGER_ALLOC_RESCHEDULE, "created for delayed rescheduling")
FOLLOW_EXPIRY = (TRIGGER_MAX_DISCONNECT, "created for delayed disconnect timeout")
FOLLOW_STOPPING = (TRIGGER_ALLOC_RESCHEDULE, "created for the end of allocations that their node stops by itself")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to apply, and what to store of the evaluation. ``usage`` and ``evicted`` (the ids of allocations of lesser
    jobs that make room) are what ``Fleet.commit`` accounts for."""

    plan: PlanResult
    evaluation: Evaluation
    created: tuple[Evaluation, ...] = ()
    desired: dict[str, DesiredUpdates] = {}
    placed: int = 0
    usage: tuple[Taken, ...] = ()
    evicted: tuple[str, ...] = ()


@dataclass
class Draft:
    """A decision in the making."""

    evaluation: Evaluation
    job: Job | None
    stops: list[StopAlloc] = field(default_factory=list)
    in_place: list[UpdateAllocInPlace] = field(default_factory=list)
    annotate: list[AnnotateAlloc] = field(default_factory=list)
    places: list[PlaceBlock] = field(default_factory=list)
    usage: list[Taken] = field(default_factory=list)
    created: list[Evaluation] = field(default_factory=list)
    desired: dict[str, DesiredUpdates] = field(default_factory=dict)
    failed: dict[str, AllocMetric] = field(default_factory=dict)
    failed_eligibility: list[Eligibility] = field(default_factory=list)
    queued: dict[str, int] = field(default_factory=dict)
    placed: int = 0
    rollout: Rollout | None = None
    evicted: dict[str, Claim] = field(default_factory=dict)

    def stop(self, alloc: Allocation, description: str, *, rescheduled: bool = False) -> None:
        """Stops an allocation whose replacement has found a node."""
        self.stops.append(StopAlloc(alloc_id=alloc.id, description=description, rescheduled=rescheduled))

    def update_in_place(self, alloc: Allocation) -> None:
        """Lets an allocation take over the job's current version."""
        assert self.job is not None
        self.in_place.append(
            UpdateAllocInPlace(
                alloc_id=alloc.id,
                job_version=self.job.version,
                eval_id=self.evaluation.id,
                deployment_id=self.rollout.deployment_id_of(alloc.task_group) if self.rollout is not None else "",
            )
        )

    def add(self, placed: Placed) -> None:
        """Takes over a group's placements."""
        self.places.extend(placed.blocks)
        self.usage.extend(placed.usage)
        self.placed += placed.count

    def fail(self, group: str, metric: AllocMetric, eligible: Eligibility, *, count: int) -> None:
        """Notes that ``count`` allocations of a group found no node."""
        self.failed[group] = metric
        self.failed_eligibility.append(eligible)
        self.queued[group] = count

    def evict(self, group: str, victims: Sequence[Claim]) -> None:
        """Notes which allocations of lesser jobs have to go for a group's placements."""
        self.evicted.update((claim.alloc_id, claim) for claim in victims)
        desired = self.desired.get(group, DesiredUpdates())
        self.desired[group] = desired.replace(preemptions=desired.preemptions + len(victims))

    def _look_after_evicted(self, view: StateView, *, now_ns: int, rng: random.Random) -> None:
        """Each job that loses allocations to this one gets an evaluation of its own."""
        for namespace, job_id in dict.fromkeys((claim.namespace, claim.job_id) for claim in self.evicted.values()):
            job = view.job(namespace, job_id)
            if job is not None:
                self.created.append(
                    Evaluation(
                        id=new_uuid(rng),
                        namespace=namespace,
                        priority=job.priority,
                        type=job.type,
                        triggered_by=TRIGGER_PREEMPTION,
                        job_id=job_id,
                        status=EVAL_PENDING,
                        create_time_ns=now_ns,
                        modify_time_ns=now_ns,
                    )
                )

    def _annotations(self, view: StateView) -> PlanAnnotations:
        evicted = [alloc for alloc in map(view.alloc, self.evicted) if alloc is not None]
        return PlanAnnotations(
            desired_tg_updates=self.desired, preempted_allocs=tuple(alloc.stub() for alloc in evicted)
        )

    def follow_up(self, waiting: list[Later], cause: tuple[str, str], *, now_ns: int, rng: random.Random) -> None:
        """Creates the evaluations for when the delays of allocations are over. ``cause``: trigger and description."""
        trigger, description = cause
        for group in windows(waiting):
            evaluation = self._successor(now_ns, rng).replace(
                triggered_by=trigger,
                status=EVAL_PENDING,
                status_description=description,
                wait_until_ns=group[0].due_ns,
            )
            self.created.append(evaluation)
            self.annotate.extend(
                AnnotateAlloc(alloc_id=later.alloc.id, followup_eval_id=evaluation.id) for later in group
            )

    def _successor(self, now_ns: int, rng: random.Random) -> Evaluation:
        origin, job = self.evaluation, self.job
        return Evaluation(
            id=new_uuid(rng),
            namespace=origin.namespace,
            priority=origin.priority,
            type=origin.type,
            job_id=origin.job_id,
            job_modify_index=job.job_modify_index if job is not None else origin.job_modify_index,
            previous_eval=origin.id,
            create_time_ns=now_ns,
            modify_time_ns=now_ns,
        )

    def finish(self, view: StateView, fleet: Fleet, *, now_ns: int, rng: random.Random, annotate: bool) -> Decision:
        """The decision. What could not be placed makes a blocked evaluation, or blocks the same one again."""
        annotations = self._annotations(view) if annotate else None
        self._look_after_evicted(view, now_ns=now_ns, rng=rng)
        done = self.evaluation.replace(
            status=EVAL_COMPLETE,
            status_description="",
            failed_tg_allocs=self.failed,
            queued_allocations=self.queued,
            plan_annotations=annotations,
            deployment_id=self.rollout.deployment_id if self.rollout is not None else "",
            snapshot_index=view.index,
            modify_time_ns=now_ns,
        )
        if self.failed:
            waiting: dict[str, object] = {
                "status": EVAL_BLOCKED,
                "class_eligibility": self._classes(fleet),
                "escaped_computed_class": any(each.escaped for each in self.failed_eligibility),
                "snapshot_index": view.index,
            }
            if self.evaluation.status == EVAL_BLOCKED:
                done = done.replace(**waiting)
            else:
                blocked = self._successor(now_ns, rng).replace(
                    triggered_by=TRIGGER_QUEUED_ALLOCS,
                    status_description="created to place remaining allocations",
                    failed_tg_allocs=self.failed,
                    queued_allocations=self.queued,
                    **waiting,
                )
                self.created.append(blocked)
                done = done.replace(blocked_eval=blocked.id)
        return Decision(
            plan=self._plan(),
            evaluation=done,
            created=tuple(self.created),
            desired=self.desired,
            placed=self.placed,
            usage=tuple(self.usage),
            evicted=tuple(self.evicted),
        )

    def _classes(self, fleet: Fleet) -> dict[str, bool]:
        """A class is worth waking up for when any of the groups that wait could run there."""
        classes: dict[str, bool] = {}
        for eligible in self.failed_eligibility:
            for name, possible in eligible.classes(fleet.facts).items():
                classes[name] = classes.get(name, False) or possible
        return classes

    def _plan(self) -> PlanResult:
        return PlanResult(
            eval_id=self.evaluation.id,
            namespace=self.evaluation.namespace,
            job_id=self.evaluation.job_id,
            all_at_once=self.job is not None and self.job.all_at_once,
            stops=tuple(self.stops),
            in_place=tuple(self.in_place),
            annotate=tuple(self.annotate),
            places=tuple(self.places),
            deployment=self.rollout.opened if self.rollout is not None else None,
            deployment_updates=self.rollout.updates if self.rollout is not None else (),
        )
