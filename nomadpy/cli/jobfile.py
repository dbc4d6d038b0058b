"""From a job file to the JSON that the API takes, with the source text to be kept beside it.

HCL and YAML are read here, by ``nomadpy.jobspec``, so that mistakes are shown with file and line and nothing needs to
be sent to be checked.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nomadpy.cli.failures import CommandFailed, UsageProblem
from nomadpy.cli.session import Session


@dataclass(frozen=True)
class JobFile:
    """A job that was read: ``job`` is API JSON, ``submission`` what is sent along to be shown later."""

    job: dict[str, Any]
    submission: dict[str, Any]


def read_source(path: str) -> str:
    """The text of a job file, or of stdin for ``-``. Raises CommandFailed when there is none."""
    if path == "-":
        return sys.stdin.read()
    if Path(path).is_dir():
        raise CommandFailed(f"{path} is a directory; a job file is expected")
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise CommandFailed(f"{path} is not a text file in UTF-8") from problem


def read(
    session: Session, path: str, *, variables: dict[str, str], var_files: list[str], as_json: bool, strict: bool = True
) -> JobFile:
    """The job in a file. Raises NomadError with the place of the mistake."""
    source = read_source(path)
    if not source.strip():
        raise CommandFailed(f"{'stdin' if path == '-' else path} is empty; a job file is expected")
    if as_json or path.endswith(".json"):
        job = _from_json(source, path)
        return JobFile(job, {"Source": source, "Format": "json"})
    texts = [read_source(name) for name in var_files]
    submission = {
        "Source": source,
        "Format": "hcl2",
        "VariableFlags": variables,
        "Variables": "\n".join(texts),
    }
    return JobFile(_parsed(session, source, submission), submission)


def _from_json(source: str, path: str) -> dict[str, Any]:
    try:
        content = json.loads(source)
    except ValueError as problem:
        raise CommandFailed(f"{path} is not JSON: {problem}") from problem
    job = content.get("Job", content) if isinstance(content, dict) else None
    if not isinstance(job, dict) or not job.get("ID"):
        raise CommandFailed(f'{path} holds no job: an object with an "ID", or one below "Job", is expected')
    return job


def _parsed(session: Session, source: str, submission: dict[str, Any]) -> dict[str, Any]:
    flags = submission["VariableFlags"]
    texts = [submission["Variables"], *(f"{name} = {json.dumps(value)}" for name, value in flags.items())]
    body = {"JobHCL": source, "Variables": "\n".join(text for text in texts if text), "Canonicalize": False}
    job = session.api.put("/v1/jobs/parse", body)
    if not isinstance(job, dict):
        raise CommandFailed("the agent could not read the job file and did not say why")
    return job


def split_variables(pairs: list[str]) -> dict[str, str]:
    """The ``-var`` flags by name. Raises UsageProblem for one that is not ``name=value``.

    >>> split_variables(["a=1", "b=x=y"])
    {'a': '1', 'b': 'x=y'}
    """
    variables = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name.strip():
            raise UsageProblem(f'-var wants name=value, not "{pair}"')
        variables[name.strip()] = value
    return variables
