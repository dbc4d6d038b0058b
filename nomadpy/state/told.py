"""What is told of a placement, as long as nobody asks: most metrics of new jobs are never read."""

from __future__ import annotations

import msgspec

from nomadpy.model.alloc import AllocMetric, ScoreMeta


class Told(msgspec.Struct, frozen=True, gc=False):
    """The metrics of a placement among nodes that held none of its group: what the placements of its batch have in
    common, and the best nodes by id with their scores. A fifth of the size of the record."""

    base: AllocMetric
    best: tuple[tuple[str, float], ...]

    def record(self) -> AllocMetric:
        """The record that people read."""
        return self.base.replace(score_meta_data=tuple(_score(node_id, score) for node_id, score in self.best))


Metric = AllocMetric | Told


def metric_record(metric: Metric | None) -> AllocMetric | None:
    """The record, whichever way it is kept."""
    return metric.record() if isinstance(metric, Told) else metric


def _score(node_id: str, score: float) -> ScoreMeta:
    scores = {"binpack": score, "job-anti-affinity": 0.0, "node-affinity": 0.0, "node-reschedule-penalty": 0.0}
    return ScoreMeta(node_id=node_id, scores=scores, norm_score=score)
