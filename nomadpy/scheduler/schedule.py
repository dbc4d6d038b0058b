"""One evaluation, from the state it sees to the decision that follows.

Service and batch jobs are compared with what they have (``reconcile``), everything that stops is set free, and then
each group's allocations are placed in turn: replacements first, fresh ones next, updates last.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from nomadpy.model.alloc import UNKNOWN, Allocation
from nomadpy.model.demand import Demand
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.job import Job, TaskGroup
from nomadpy.scheduler import newcomers
from nomadpy.scheduler.decision import FOLLOW_EXPIRY, FOLLOW_RESCHEDULE, FOLLOW_STOPPING, Decision, Draft
from nomadpy.scheduler.fleet import Fleet, Taken
from nomadpy.scheduler.fresh import fresh_changes
from nomadpy.scheduler.placement import GroupPlacer, Placed, Wanted
from nomadpy.scheduler.preemption import Evictor
from nomadpy.scheduler.reconcile import (
    OUT_OF_REACH,
    RESCHEDULED,
    UPDATING,
    Cause,
    GroupChanges,
    NeedsRecords,
    Reconciler,
    Replacement,
)
from nomadpy.scheduler.reschedule import NO_PLACEMENT, next_tracker, nodes_to_avoid
from nomadpy.scheduler.rollout import Rollout
from nomadpy.scheduler.system import schedule_system
from nomadpy.scheduler.updates import IGNORE, UpdateKinds
from nomadpy.state.commands import AnnotateAlloc
from nomadpy.state.view import IntColumn, PlainAllocs, StateView


def schedule(
    view: StateView,
    evaluation: Evaluation,
    *,
    now_ns: int,
    rng: random.Random,
    fleet: Fleet | None = None,
    annotate: bool = False,
) -> Decision:
    """What to do about the evaluation's job, given the state; changes nothing.

    ``now_ns`` is the wall clock in Unix nanoseconds; ``rng`` picks ports and new ids. A ``fleet`` shared by a batch
    lets an evaluation see what earlier ones were given (``Fleet.commit``). ``annotate`` adds the desired updates to the
    evaluation, as ``job plan`` shows them.
    """
    fleet = Fleet(view) if fleet is None else fleet
    job = view.job(evaluation.namespace, evaluation.job_id)
    plain, allocs = _known(view, evaluation, job)
    annotate = annotate or evaluation.annotate_plan
    if job is not None and not (plain or allocs or annotate):
        decision = newcomers.decide(view, fleet, evaluation, job, now_ns=now_ns, rng=rng)
        if decision is not None:
            return decision
    draft = Draft(evaluation, job)
    try:
        if (job.type if job is not None else evaluation.type) in ("system", "sysbatch"):
            schedule_system(view, fleet, draft, allocs, now_ns=now_ns, rng=rng)
        else:
            _GenericScheduler(view, fleet, draft, allocs, plain, now_ns=now_ns, rng=rng).run()
    finally:
        fleet.finish()
    return draft.finish(view, fleet, now_ns=now_ns, rng=rng, annotate=annotate)


def decide(
    view: StateView, evaluation: Evaluation, *, now_ns: int, rng: random.Random, fleet: Fleet
) -> Decision | newcomers.Newcomer:
    """The same for one of many evaluations. What ``schedule`` would decide about a job that has nothing yet comes as a
    ``Newcomer``, which takes a fraction of the work and of the bytes."""
    if not evaluation.annotate_plan and view.is_untouched(evaluation.namespace, evaluation.job_id):
        job = view.job(evaluation.namespace, evaluation.job_id)
        newcomer = newcomers.look(fleet, evaluation, job, rng=rng) if job is not None else None
        if newcomer is not None:
            return newcomer
    return schedule(view, evaluation, now_ns=now_ns, rng=rng, fleet=fleet)


def _known(
    view: StateView, evaluation: Evaluation, job: Job | None
) -> tuple[Mapping[str, PlainAllocs], Sequence[Allocation]]:
    """The allocations of a job: how many there are of those that nothing is to be decided about, and the others."""
    if job is None or job.stop or job.type not in ("service", "batch"):
        return {}, view.allocs_by_job(evaluation.namespace, evaluation.job_id)
    latest = view.latest_deployment(evaluation.namespace, evaluation.job_id)
    return view.split_allocs(job, latest.id if latest is not None else "")


class _GenericScheduler:
    """The work on one service or batch evaluation."""

    def __init__(
        self,
        view: StateView,
        fleet: Fleet,
        draft: Draft,
        allocs: Sequence[Allocation],
        plain: Mapping[str, PlainAllocs],
        *,
        now_ns: int,
        rng: random.Random,
    ) -> None:
        self._view, self._fleet, self._draft, self._allocs, self._plain = view, fleet, draft, allocs, plain
        self._now_ns, self._rng = now_ns, rng

    def run(self) -> None:
        """Fills the draft."""
        draft = self._draft
        job = draft.job
        batch = (job.type if job is not None else draft.evaluation.type) == "batch"
        latest = self._view.latest_deployment(draft.evaluation.namespace, draft.evaluation.job_id)
        rollout = draft.rollout = Rollout(job, latest, paced=not batch)
        if job is not None and not job.stop and latest is None and not (self._allocs or self._plain):
            every = fresh_changes(job, rollout)
        else:
            try:
                every = self._reconcile(job, rollout, batch=batch)
            except NeedsRecords:
                self._allocs, self._plain = self._view.allocs_by_job(*job.key) if job is not None else (), {}
                rollout = draft.rollout = Rollout(job, latest, paced=not batch)
                every = self._reconcile(job, rollout, batch=batch)
        rollout.close(eval_priority=draft.evaluation.priority, now_ns=self._now_ns, rng=self._rng)
        stopped: set[str] = set()
        for changes in every:
            draft.desired[changes.name] = changes.desired
            draft.queued[changes.name] = 0
            for alloc, stop in (*changes.unreported, *changes.stops):
                draft.stops.append(stop)
                stopped.add(alloc.id)
                self._fleet.release(alloc)
            for alloc in changes.in_place:
                draft.update_in_place(alloc)
            draft.annotate += [
                AnnotateAlloc(alloc_id=alloc.id, client_status=UNKNOWN, desired_description=OUT_OF_REACH)
                for alloc in changes.unknown
            ]
            draft.annotate += [AnnotateAlloc(alloc_id=alloc.id, reconnected=True) for alloc in changes.returned]
        self._follow_up(every)
        live = [alloc for alloc in self._allocs if not alloc.client_terminal() and alloc.id not in stopped]
        if job is not None:
            self._place(job, [changes for changes in every if changes.wanted], live)

    def _reconcile(self, job: Job | None, rollout: Rollout, *, batch: bool) -> list[GroupChanges]:
        kinds = UpdateKinds(self._fleet, job) if job is not None else None
        reconciler = Reconciler(
            job,
            self._draft.evaluation,
            batch=batch,
            now_ns=self._now_ns,
            node_of=self._view.node,
            update_kind=kinds.kind if kinds is not None else lambda alloc: IGNORE,
            rollout=rollout,
        )
        return reconciler.reconcile(self._allocs, self._plain)

    def _follow_up(self, every: Sequence[GroupChanges]) -> None:
        for cause, waiting in (
            (FOLLOW_RESCHEDULE, [later for changes in every for later in changes.later]),
            (FOLLOW_EXPIRY, [later for changes in every for later in changes.expiries]),
            (FOLLOW_STOPPING, [later for changes in every for later in changes.stopping]),
        ):
            self._draft.follow_up(waiting, cause, now_ns=self._now_ns, rng=self._rng)

    def _place(self, job: Job, every: Sequence[GroupChanges], live: Sequence[Allocation]) -> None:
        earlier: list[Taken] = []
        self._evictor = Evictor(self._view, self._fleet, job)
        for changes in every:
            known = len(self._evictor.evicted)
            group = changes.group
            assert group is not None
            wanted = changes.wanted
            older = self._place_older(job, changes, live, earlier)
            placer = self._placer(job, group, live)
            placer.count_other_groups(earlier)
            for placed_older in older:
                placer.count_placed(placed_older.usage)
            placed = self._place_group(placer, changes) + sum(each.count for each in older)
            if placed < wanted:
                left = wanted - placed
                metric = placer.failure(coalesced=left - 1)
                metric = metric.replace(would_help=(*metric.would_help, *self._evictor.would_help(placer)))
                self._draft.fail(group.name, metric, placer.eligible, count=left)
            assert self._draft.rollout is not None
            deployment_id = self._draft.rollout.deployment_id_of(group.name)
            result = placer.result(eval_id=self._draft.evaluation.id, deployment_id=deployment_id)
            self._draft.add(result)
            self._draft.evict(group.name, list(self._evictor.evicted.values())[known:])
            for each in (*older, result):
                earlier.extend(each.usage)

    def _placer(self, job: Job, group: TaskGroup, live: Sequence[Allocation]) -> GroupPlacer:
        """A placer that knows where the job's allocations are."""
        placer = GroupPlacer(self._fleet, job, group, siblings=live, rng=self._rng)
        for name, plain in self._plain.items():
            held = (Taken(plain.numbers, plain.counts, Demand()),)
            if name == group.name:
                placer.count_placed(held)
            else:
                placer.count_other_groups(held)
        return placer

    def _place_older(
        self, job: Job, changes: GroupChanges, live: Sequence[Allocation], earlier: Sequence[Taken]
    ) -> list[Placed]:
        """Places what must run the version of the job that it ran before, and leaves the rest in ``changes``: also what
        ran a version that is no longer kept, for which the current one has to do."""
        by_version: dict[int, list[Replacement]] = {}
        for replacement in changes.replace:
            version = replacement.alloc.job.version if replacement.alloc.job is not None else job.version
            if replacement.same_version and version != job.version:
                by_version.setdefault(version, []).append(replacement)
        out: list[Placed] = []
        for version, replacements in sorted(by_version.items()):
            old = self._view.job_version(job.namespace, job.id, version)
            group = old.group(changes.name) if old is not None else None
            if old is None or group is None or old.create_index != job.create_index:
                continue
            placer = self._placer(old, group, live)
            placer.count_other_groups(earlier)
            for placed in out:
                placer.count_placed(placed.usage)
            self._replace_each(placer, replacements)
            tried = {replacement.alloc.id for replacement in replacements}
            changes.replace = [left for left in changes.replace if left.alloc.id not in tried]
            result = placer.result(eval_id=self._draft.evaluation.id)
            self._draft.add(result)
            out.append(result)
        return out

    def _replace_each(self, placer: GroupPlacer, replacements: Sequence[Replacement]) -> int:
        """How many replacements were placed, in order; the first that finds no node ends it."""
        for done, replacement in enumerate(replacements):
            if not self._place_one(placer, self._wanted(placer, replacement)):
                self._remember_unplaced(replacements[done:])
                return done
            self._stop_replaced(replacement)
        return len(replacements)

    def _place_one(self, placer: GroupPlacer, wanted: Wanted) -> bool:
        """Lesser jobs have to make room only where nothing is free anywhere."""
        return placer.place_one(wanted) or self._evictor.place_one(placer, wanted)

    def _place_many(self, placer: GroupPlacer, name_indexes: IntColumn) -> int:
        placed = placer.place_many(name_indexes)
        while placed < len(name_indexes) and self._place_one(placer, Wanted(name_index=int(name_indexes[placed]))):
            placed += 1
        return placed

    def _place_group(self, placer: GroupPlacer, changes: GroupChanges) -> int:
        """How many were placed. The first that finds no node ends the group: the rest asks for the same."""
        first = [r for r in changes.replace if r.cause is not Cause.UPDATE]
        placed = self._replace_each(placer, first)
        if placed < len(first):
            return placed
        for index in changes.canaries:
            if not self._place_one(placer, Wanted(name_index=index, canary=True)):
                return placed
            placed += 1
        if len(changes.fresh):
            fresh = self._place_many(placer, changes.fresh)
            placed += fresh
            if fresh < len(changes.fresh):
                return placed
        for replacement in changes.replace:
            if replacement.cause is Cause.UPDATE:
                if not self._update(placer, replacement):
                    return placed
                placed += 1
        return placed

    def _update(self, placer: GroupPlacer, replacement: Replacement) -> bool:
        """Replaces an allocation by the new version, which may use what the old one holds; all or nothing."""
        mark = self._fleet.mark
        placer.free(replacement.alloc)
        if not self._place_one(placer, self._wanted(placer, replacement)):
            placer.hold(replacement.alloc, mark)
            return False
        self._stop_replaced(replacement)
        return True

    def _wanted(self, placer: GroupPlacer, replacement: Replacement) -> Wanted:
        previous = replacement.alloc
        number = self._fleet.number
        disk = placer.group.ephemeral_disk
        tracker = previous.reschedule_tracker
        if replacement.cause in (Cause.RESCHEDULE, Cause.DISCONNECT):
            tracker = next_tracker(previous, self._now_ns)
        elif replacement.cause is Cause.UPDATE:
            tracker = None
        return Wanted(
            name_index=previous.index,
            previous=previous,
            avoid=frozenset(n for n in map(number, nodes_to_avoid(previous)) if n >= 0),
            stay=number(previous.node_id) if disk is not None and disk.sticky else -1,
            tracker=tracker,
            canary=replacement.canary,
        )

    def _stop_replaced(self, replacement: Replacement) -> None:
        """Stops of lost and migrating allocations are in the plan already."""
        alloc = replacement.alloc
        if replacement.cause is Cause.RESCHEDULE and not alloc.server_terminal():
            self._draft.stop(alloc, RESCHEDULED, rescheduled=True)
        elif replacement.cause is Cause.UPDATE:
            self._draft.stop(alloc, UPDATING)

    def _remember_unplaced(self, replacements: Sequence[Replacement]) -> None:
        """Notes on failed allocations that it was their turn, so that the next evaluation takes them up again."""
        for replacement in replacements:
            if replacement.cause is Cause.RESCHEDULE:
                self._draft.annotate.append(AnnotateAlloc(alloc_id=replacement.alloc.id, last_reschedule=NO_PLACEMENT))
