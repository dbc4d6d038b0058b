"""What is wrong with a job, all of it at once, in Nomad's words and nesting.

The checks read a canonical job (see ``canonical``) and nothing else: whether a namespace, a pool or a volume exists is
for the servers to know.
"""

from __future__ import annotations

from nomadpy.model.job import Job
from nomadpy.model.validate.group import SYSTEM_SCALING
from nomadpy.model.validate.job import JobLimits, check_job
from nomadpy.model.validate.report import multi_error

__all__ = ["SYSTEM_SCALING", "JobLimits", "multi_error", "validate"]


def validate(job: Job, *, limits: JobLimits = JobLimits()) -> list[str]:
    """Every problem of a canonical job; an empty list means that it may run. ``multi_error`` makes one text of them."""
    return list(check_job(job, limits))
