"""Job files: HCL, YAML and JSON in, the raw input of the model out.

>>> raw = parse_text('job "web" { group "api" { task "srv" { driver = "raw_exec" } } }')
>>> raw["ID"], raw["TaskGroups"][0]["Tasks"][0]["Driver"]
('web', 'raw_exec')

Everything heavy is imported on first use, because the command line imports this room for every command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

    from nomadpy.model.job import Job, JobSubmission

__all__ = ["JobFile", "json_schema", "load", "parse_text", "problems", "submission", "warnings"]


@dataclass(frozen=True)
class JobFile:
    """A job that was read from a file.

    ``raw`` is what the file says, ``job`` the same with all defaults. ``format`` is hcl2, yaml or json.
    ``variable_flags`` are the values of simple variables from flags and the environment, ``variables`` all others as
    the text of a variable file. ``warnings`` are about the file; ``warnings(job)`` tells those about the job.
    """

    raw: dict[str, Any]
    job: Job
    source: str
    format: str
    variable_flags: dict[str, str] = field(default_factory=dict)
    variables: str = ""
    warnings: tuple[str, ...] = ()


def parse_text(
    text: str | bytes,
    *,
    filename: str = "job.nomad.hcl",
    variables: str = "",
    var_flags: Sequence[str] = (),
    env: Mapping[str, str] = {},
    strict: bool = False,
    base_dir: str | None = None,
    rng: random.Random | None = None,
) -> dict[str, Any]:
    """The raw input dict of a job in HCL, or in HCL's JSON form when the first character is a brace.

    A ``filename`` that ends in .yaml or .yml makes it YAML.
    ``variables`` is the text of a variable file, ``var_flags`` are ``name=value`` texts, and of ``env`` only names
    that begin with NOMAD_VAR_ count. With ``strict``, values for undeclared variables are errors. File functions
    need a ``base_dir``, and ``uuidv4`` and ``bcrypt`` an ``rng``. Raises HclErrors, which is an Invalid whose message
    lists all problems with file and line.
    """
    from nomadpy.jobspec import _file

    var_files = [("variables", variables)] if variables else []
    inputs = _file.Inputs(var_files, var_flags, env, strict, base_dir, rng)
    return _file.parse_body(_file.parse_syntax(text, filename), inputs, filename).raw


def load(
    path: str,
    *,
    var_files: Sequence[str] = (),
    var_flags: Sequence[str] = (),
    env: Mapping[str, str] = {},
    strict: bool = True,
    format: str | None = None,
    stdin: bytes | None = None,
    rng: random.Random | None = None,
) -> JobFile:
    """The job in a file; the path ``-`` stands for ``stdin``, which is read if it is not given.

    ``format`` is hcl, yaml or json (the API's form). Without it, .yaml and .yml files are YAML, .json files with an
    API job are json, and all others are HCL or its JSON form. File functions read relative to the file's directory.
    Raises Invalid, for files that cannot be read too.
    """
    from nomadpy.jobspec import _file, _load

    inputs = _file.Inputs(var_flags=var_flags, env=env, strict=strict, rng=rng)
    return _load.load(path, inputs, var_files, format=format, stdin=stdin)


def submission(jobfile: JobFile) -> JobSubmission:
    """The record of the file that is stored beside the job."""
    from nomadpy.jobspec._load import escaped
    from nomadpy.model.job import JobSubmission

    return JobSubmission(
        source=jobfile.source,
        format=jobfile.format,
        variable_flags=escaped(jobfile.variable_flags),
        variables=jobfile.variables,
        namespace=jobfile.job.namespace,
        job_id=jobfile.job.id,
    )


def problems(job: Job) -> list[str]:
    """Everything that keeps a complete job from running; [] when nothing does."""
    from nomadpy.model.validate import validate

    return validate(job)


def warnings(job: Job) -> list[str]:
    """What the author of a job should know, with one warning for each part that is not acted on."""
    from nomadpy.model.admission import admit

    return list(admit(job).warnings)


def json_schema() -> dict[str, Any]:
    """A JSON Schema of YAML job files, for editors; the file job.schema.json in this package holds the same."""
    from nomadpy.jobspec import _json_schema

    return _json_schema.json_schema()
