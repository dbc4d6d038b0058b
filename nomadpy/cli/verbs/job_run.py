"""``job run``, ``job plan`` and ``job validate``: a job file goes to the cluster, or is held against it."""

from __future__ import annotations

import re
import sys
import time
from typing import Annotated, Any

import typer

from nomadpy.cli import jobfile
from nomadpy.cli.failures import ApiError, CommandFailed
from nomadpy.cli.flags import Detach, JobJSON, Strict, Template, VariableFiles, Variables, Verbose, With, Without
from nomadpy.cli.http import job_path
from nomadpy.cli.session import Session

Path = Annotated[str, typer.Argument(metavar="<path>", show_default=False)]


def run(
    session: Session,
    path: Path,
    *,
    detach: Detach = False,
    check_index: Annotated[
        int | None,
        typer.Option("-check-index", help="Register only if the job is at this index; 0: only if it is new."),
    ] = None,
    preserve_counts: Annotated[
        bool, typer.Option("-preserve-counts", help="Keep the group counts of the registered version.")
    ] = False,
    preserve_resources: Annotated[
        bool, typer.Option("-preserve-resources", help="Keep cpu and memory of the registered version.")
    ] = False,
    eval_priority: Annotated[
        int | None, typer.Option("-eval-priority", help="The priority of the evaluation, 1 to 100.")
    ] = None,
    output: Annotated[bool, typer.Option("-output", help="Print the job as JSON and do not register it.")] = False,
    policy_override: Annotated[
        bool, typer.Option("-policy-override", help="Accepted; there are no policies to override.")
    ] = False,
    verbose: Verbose = False,
    as_json: JobJSON = False,
    var: Variables = None,
    var_file: VariableFiles = None,
    hcl2_strict: Strict = True,
) -> int:
    """Register the job in a file, and follow it until it runs.

    The file is HCL, YAML or (with -json) the JSON of the API; - reads it from stdin. The exit code is 0 when the job
    runs, 1 when something failed, and 2 when not everything could be placed.
    """
    del verbose, policy_override
    content = _read(path, as_json, var, var_file, hcl2_strict)
    if output:
        session.put_out({"Job": content.job}, as_json=True, template=None)
        return 0
    body: dict[str, Any] = {
        "Job": content.job,
        "Submission": content.submission,
        "PreserveCounts": preserve_counts,
        "PreserveResources": preserve_resources,
    }
    if check_index is not None:
        body.update(EnforceIndex=True, JobModifyIndex=check_index)
    if eval_priority is not None:
        body["EvalPriority"] = eval_priority
    answer = _register(session, content.job, body, check_index)
    return _after_registration(session, content.job, answer, detach)


def _register(session: Session, job: dict[str, Any], body: dict[str, Any], check_index: int | None) -> dict[str, Any]:
    try:
        answer = session.api.put("/v1/jobs", body, **scope(session, job))
    except ApiError as problem:
        if "Enforcing job modify index" in problem.body:
            raise CommandFailed(
                f"{problem.body}\nThe job was changed since index {check_index}; run `nomadpy job plan` again."
            ) from problem
        raise
    return dict(answer or {})


def scope(session: Session, job: dict[str, Any]) -> dict[str, str]:
    """The region and namespace of a request about ``job``: flags and environment win over the file."""
    region = str(job.get("Region") or "")
    return {
        "region": session.settings.region or ("" if region == "global" else region),
        "namespace": session.settings.namespace or str(job.get("Namespace") or ""),
    }


def _after_registration(session: Session, job: dict[str, Any], answer: dict[str, Any], detach: bool) -> int:
    from nomadpy.cli.views import plan as views

    warnings = views.warnings(str(answer.get("Warnings") or ""))
    if warnings is not None:
        session.show(warnings)
        session.say()
    evaluation_id = answer.get("EvalID")
    if not evaluation_id:
        session.say("Job registration successful")
        if job.get("Periodic"):
            _say_next_launch(session, job)
        elif job.get("ParameterizedJob"):
            session.say("The job is parameterized: each `nomadpy job dispatch` starts an instance.")
        return 0
    if detach:
        session.say("Job registration successful")
        session.say(f"Evaluation ID: {evaluation_id}")
        return 0
    from nomadpy.cli.follow import Follower

    return Follower(session).follow(str(evaluation_id))


def _say_next_launch(session: Session, job: dict[str, Any]) -> None:
    from nomadpy.cli.verbs.job_read import next_launch
    from nomadpy.cli.views.base import ago, date

    now_ns = time.time_ns()
    launch = next_launch(job, now_ns)
    if launch:
        session.say(f"Approximate next launch time: {date(launch)} ({ago(launch, now_ns)})")
    else:
        session.say("The schedule has no launch to come; `nomadpy job periodic force` starts the job.")


def plan(
    session: Session,
    path: Path,
    *,
    diff: Annotated[bool, typer.Option("-diff/-no-diff", help="Show what would change in the job (default).")] = True,
    policy_override: Annotated[
        bool, typer.Option("-policy-override", help="Accepted; there are no policies to override.")
    ] = False,
    why: Annotated[bool, typer.Option("-why", help="Show for each node why it was chosen or refused.")] = False,
    capacity: Annotated[bool, typer.Option("-capacity", help="Show how many more would fit after the plan.")] = False,
    without: Without = None,
    with_: With = None,
    answer_json: Annotated[
        bool, typer.Option("-json-output", help="Print the answer of the API as JSON (-json is about the file).")
    ] = False,
    template: Template = None,
    verbose: Verbose = False,
    as_json: JobJSON = False,
    var: Variables = None,
    var_file: VariableFiles = None,
    hcl2_strict: Strict = True,
) -> int:
    """Show what registering a job would change, without changing anything.

    The exit code is 0 when no allocation would be created or destroyed, 1 when some would, and 255 on an error.
    """
    del policy_override
    content = _read(path, as_json, var, var_file, hcl2_strict)
    job_id = str(content.job.get("ID") or "")
    body: dict[str, Any] = {"Job": content.job, "Diff": diff}
    if why:
        body["Why"] = True
    if capacity or without or with_:
        body.update(Capacity=True, Without=without or [], With=with_ or [])
    answer = session.api.put(job_path(job_id, "plan"), body, **scope(session, content.job))
    if not session.put_out(answer, as_json=answer_json, template=template):
        _show_plan(session, content.job, answer, _same_flags(path, as_json, var, var_file), verbose=verbose)
    return _plan_code(answer)


def _show_plan(session: Session, job: dict[str, Any], answer: dict[str, Any], command: str, *, verbose: bool) -> None:
    from nomadpy.cli.views import plan as views
    from nomadpy.cli.views import why

    if answer.get("Diff"):
        session.show(views.job_diff(answer["Diff"], verbose=verbose))
        session.say()
    session.show(views.dry_run(answer, job, time.time_ns()))
    session.say()
    if answer.get("Why"):
        session.show(why.explanations(answer["Why"], verbose=verbose))
        session.say()
    if answer.get("Capacity"):
        session.show(why.capacity(answer["Capacity"], "Capacity after this plan"))
        session.say()
    warnings = views.warnings(str(answer.get("Warnings") or ""))
    if warnings is not None:
        session.show(warnings)
        session.say()
    session.show(views.index_hint(int(answer.get("JobModifyIndex") or 0), command))


def _same_flags(path: str, as_json: bool, var: list[str] | None, var_file: list[str] | None) -> str:
    import shlex

    words = ["-json"] if as_json else []
    words += [f"-var={pair}" for pair in var or []] + [f"-var-file={name}" for name in var_file or []]
    return shlex.join([*words, path])


def _plan_code(answer: dict[str, Any]) -> int:
    if answer.get("FailedTGAllocs"):
        return 1
    updates = ((answer.get("Annotations") or {}).get("DesiredTGUpdates") or {}).values()
    idle = ("Ignore", "InPlaceUpdate")
    return int(any(count for update in updates for kind, count in update.items() if kind not in idle))


def validate(
    session: Session,
    path: Path,
    *,
    as_json: JobJSON = False,
    var: Variables = None,
    var_file: VariableFiles = None,
    hcl2_strict: Strict = True,
) -> int:
    """Check a job file without registering it, and print everything that is wrong with it."""
    content = _read(path, as_json, var, var_file, hcl2_strict)
    answer = session.api.put("/v1/validate/job", {"Job": content.job}, **scope(session, content.job)) or {}
    if answer.get("Warnings"):
        session.say(str(answer["Warnings"]).strip(), style="yellow")
    problems = answer.get("ValidationErrors") or ([answer["Error"]] if answer.get("Error") else [])
    if problems:
        # Nomad's lists of errors end in two empty lines at every level; one line each reads better.
        lines = "\n".join("  * " + re.sub(r"\n\s*\n", "\n", str(problem)).strip() for problem in problems)
        print(f"Error: {path} is not a valid job:\n{lines}", file=sys.stderr)
        return 1
    session.say("Job validation successful")
    return 0


def _read(path: str, as_json: bool, var: list[str] | None, var_file: list[str] | None, strict: bool) -> jobfile.JobFile:
    content = jobfile.read(path, variables=var or [], var_files=var_file or [], as_json=as_json, strict=strict)
    for warning in content.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    return content
