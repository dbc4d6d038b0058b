"""Blocked evaluations: which of them capacity that appeared could help.

An evaluation that could not place everything says for which computed classes of nodes it was ineligible. When room
appears on nodes of a class, those evaluations wake that are not ruled out for it; a class that an evaluation never saw
counts as one that could help. Evaluations that looked at unique attributes ("escaped") wake for any node.

A machine without I/O, on the leader only, rebuilt from the stored evaluations.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nomadpy.model.evaluation import Evaluation

Key = tuple[str, str]


class BlockedStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How many evaluations are blocked, and how many of them wake for any node."""

    blocked: int = 0
    escaped: int = 0


class BlockedEvals:
    """At most one blocked evaluation per job."""

    def __init__(self) -> None:
        self._by_job: dict[Key, Evaluation] = {}
        self._unblocked_at: dict[str, int] = {}  # computed class → index at which room last appeared
        self._duplicates: dict[str, Evaluation] = {}

    def block(self, evaluation: Evaluation) -> Evaluation | None:
        """Takes in a blocked evaluation. Returns it straight back when room that could help it appeared after the
        state it was decided on; otherwise None."""
        key = (evaluation.namespace, evaluation.job_id)
        held = self._by_job.get(key)
        if held is not None and held.id != evaluation.id:
            older, evaluation = sorted((held, evaluation), key=_newness)
            self._duplicates[older.id] = older
        self._duplicates.pop(evaluation.id, None)
        self._by_job[key] = evaluation
        for computed_class, index in self._unblocked_at.items():
            if index > evaluation.snapshot_index and _could_help(evaluation, computed_class):
                del self._by_job[key]
                return evaluation
        return None

    def unblock(self, computed_classes: Iterable[str], index: int) -> list[Evaluation]:
        """Room appeared on nodes of these classes: the evaluations that should be tried again."""
        woken: dict[Key, Evaluation] = {}
        for computed_class in computed_classes:
            self._unblocked_at[computed_class] = index
            for key, evaluation in self._by_job.items():
                if _could_help(evaluation, computed_class):
                    woken[key] = evaluation
        for key in woken:
            del self._by_job[key]
        return list(woken.values())

    def take_duplicates(self) -> list[Evaluation]:
        """Evaluations that lost their place to a newer one of their job; the caller stores them as cancelled."""
        out, self._duplicates = list(self._duplicates.values()), {}
        return out

    def forget(self, namespace: str, job_id: str, eval_id: str) -> None:
        """Drops the evaluation when it ended by other means."""
        self._duplicates.pop(eval_id, None)
        held = self._by_job.get((namespace, job_id))
        if held is not None and held.id == eval_id:
            del self._by_job[namespace, job_id]

    def clear(self) -> None:
        """Forgets everything, as when leadership is lost."""
        self._by_job.clear()
        self._unblocked_at.clear()
        self._duplicates.clear()

    def statistics(self) -> BlockedStatistics:
        """How many there are."""
        escaped = sum(1 for evaluation in self._by_job.values() if evaluation.escaped_computed_class)
        return BlockedStatistics(blocked=len(self._by_job), escaped=escaped)


def _newness(evaluation: Evaluation) -> tuple[int, int]:
    return max(evaluation.create_index, evaluation.snapshot_index), evaluation.create_index


def _could_help(evaluation: Evaluation, computed_class: str) -> bool:
    return evaluation.escaped_computed_class or evaluation.class_eligibility.get(computed_class, True)
