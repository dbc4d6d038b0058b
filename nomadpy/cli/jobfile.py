"""From a job file to the JSON that the API takes, with the source text to be kept beside it.

The file is read here, by ``nomadpy.jobspec``, so that mistakes are shown with file and line and nothing needs to be
sent to be checked.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nomadpy.cli.failures import UsageProblem


@dataclass(frozen=True)
class JobFile:
    """A job that was read: ``job`` is API JSON, ``submission`` what is sent along to be shown later."""

    job: dict[str, Any]
    submission: dict[str, Any]
    warnings: tuple[str, ...]


def read(path: str, *, variables: Sequence[str], var_files: Sequence[str], as_json: bool, strict: bool) -> JobFile:
    """The job in a file, or on stdin for ``-``. Raises NomadError with the place of the mistake."""
    from nomadpy import jobspec
    from nomadpy.model.wire import to_wire

    check_variables(variables)
    found = jobspec.load(
        path,
        var_files=var_files,
        var_flags=variables,
        env=os.environ,
        strict=strict,
        format="json" if as_json else None,
        stdin=sys.stdin.buffer.read() if path == "-" else None,
        rng=random.SystemRandom(),
    )
    return JobFile(found.raw, dict(to_wire(jobspec.submission(found))), found.warnings)


def check_variables(pairs: Sequence[str]) -> None:
    """Raise UsageProblem for a ``-var`` flag that is not ``name=value``.

    >>> check_variables(["a=1", "b=x=y", "empty="])
    >>> check_variables(["a"])
    Traceback (most recent call last):
    nomadpy.cli.failures.UsageProblem: -var wants name=value, not "a"
    """
    for pair in pairs:
        name, separator, _ = pair.partition("=")
        if not separator or not name.strip():
            raise UsageProblem(f'-var wants name=value, not "{pair}"')
