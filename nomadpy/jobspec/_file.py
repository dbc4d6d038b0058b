"""From the text of a job file in HCL, HCL's JSON form or YAML to the raw dict of its job."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nomadpy.jobspec import hcl
from nomadpy.jobspec._decode import decode_labelled, raise_if_any
from nomadpy.jobspec.schema.job import JOB
from nomadpy.jobspec.schema.rows import Child, Raw

JOB_ROW = Child("job", "Job", JOB, label_key="label")
YAML_SUFFIXES = (".yaml", ".yml")
TOP_LEVEL = {"job": 1, "variable": 1, "variables": 0, "locals": 0}


class Inputs(NamedTuple):
    """Everything besides its text that decides what a job file means.

    ``var_files`` are (name, text) pairs. ``base_dir`` None disables the file functions, ``rng`` None those that make
    random values.
    """

    var_files: Sequence[tuple[str, str | bytes]] = ()
    var_flags: Sequence[str] = ()
    env: Mapping[str, str] = {}
    strict: bool = False
    base_dir: str | None = None
    rng: random.Random | None = None


class Parsed(NamedTuple):
    """A job as the file states it, and how its variables were set."""

    raw: Raw
    resolved: hcl.Resolved


def parse_syntax(text: str | bytes, filename: str, *, is_yaml: bool | None = None) -> hcl.Body:
    """The syntax tree of a file, in YAML if so said or if its name says so. Raises HclErrors."""
    if is_yaml if is_yaml is not None else filename.endswith(YAML_SUFFIXES):
        # The YAML library takes a while to import, and most files are HCL.
        from nomadpy.jobspec._yaml import parse_yaml

        return parse_yaml(text, filename)
    # By its first character alone, a file that begins with an empty line would be taken for native syntax.
    return hcl.parse_json(text, filename) if filename.endswith(".json") else hcl.parse_any(text, filename)


def parse_body(body: hcl.Body, inputs: Inputs, filename: str) -> Parsed:
    """The job of a file's syntax tree. Raises HclErrors with every problem that can be seen at once."""
    top = hcl.shape(body, TOP_LEVEL)
    found = _problems_at_top(top, filename)
    base_dir = Path(inputs.base_dir) if inputs.base_dir is not None else None
    sources = hcl.VariableSources(
        environment=inputs.env, files=inputs.var_files, flags=inputs.var_flags, strict=inputs.strict
    )
    try:
        resolved = hcl.resolve(top, sources, hcl.Surroundings(base_dir=base_dir, rng=inputs.rng))
    except hcl.HclErrors as wrong:
        raise_if_any([*found, *wrong.diagnostics])
        raise
    raw: Raw = {}
    for block in top.blocks:
        if block.type == "job":
            raw, more = decode_labelled(block, JOB_ROW, resolved.scope)
            found += more
    raise_if_any(found)
    return Parsed(raw, resolved)


def _problems_at_top(top: hcl.Body, filename: str) -> list[hcl.Diagnostic]:
    found: list[hcl.Diagnostic] = []

    def complain(summary: str, detail: str, where: hcl.SourceRange | None, hint: str | None = None) -> None:
        found.append(hcl.Diagnostic("error", summary, detail, where, hint))

    for name, attribute in top.attributes.items():
        detail = f'An argument named "{name}" is not expected here; a job file has only blocks at its top level.'
        complain("Unsupported argument", detail, attribute.name_range, hcl.suggest(name, TOP_LEVEL))
    for block in top.blocks:
        if block.type not in TOP_LEVEL:
            detail = f'Blocks of type "{block.type}" are not expected here.'
            complain("Unsupported block type", detail, block.type_range, hcl.suggest(block.type, TOP_LEVEL))
    jobs = [block for block in top.blocks if block.type == "job"]
    for block in jobs[1:]:
        complain("Duplicate job block", f"The job was already defined at {jobs[0].range}.", block.range)
    if not jobs:
        complain("Missing job block", f'{filename} needs a job block: job "name" {{ … }}.', None)
    return found
