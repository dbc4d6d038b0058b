"""Bad conditions and policies of jobs, asked of a real agent in all three ways: register, plan, validate. All answer
the same sentences, register and plan with status 500 as Nomad does, and nothing is changed. What is valid but can not
be met is taken, waits, and says why; no pattern takes long."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent import NOMADPY, Agent, job, running, until

HOUR = 3_600_000_000_000
BATCH = {"type": "batch"}


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running(tmp_path_factory.mktemp("agent"), "-dev") as agent:
        yield agent
        assert not agent.faults()


def constraint(right: str, operand: str = "=", left: str = "${attr.kernel.name}") -> dict[str, Any]:
    return {"Constraints": [{"LTarget": left, "RTarget": right, "Operand": operand}]}


def regexp(pattern: str, left: str = "${attr.kernel.name}") -> dict[str, Any]:
    return constraint(pattern, "regexp", left)


def spread(*percents: int, weight: int = 50) -> dict[str, Any]:
    targets = [{"Value": f"dc{n}", "Percent": percent} for n, percent in enumerate(percents, 1)]
    return {"Spreads": [{"Attribute": "${node.datacenter}", "Weight": weight, "SpreadTarget": targets}]}


def of_group(**changes: Any) -> dict[str, Any]:
    return {"Group": changes}


def cron(*specs: str, **more: Any) -> dict[str, Any]:
    return {"Type": "batch", "Periodic": {"Specs": list(specs), **more}}


BROKEN_PATTERN = "Regular expression failed to compile: error parsing regexp: "
MALFORMED = "Version constraint is invalid: Malformed constraint: "
NO_UPDATE = "does not allow update block"

REFUSED: list[tuple[dict[str, Any], str]] = [
    (regexp("(("), BROKEN_PATTERN),
    (regexp("[[:foo:]]"), "unknown class [:foo:]"),
    (regexp("(?=a)"), "look-around and backreferences do not exist here"),
    (regexp(r"(a)\1"), r"unknown escape \1"),
    (regexp("(a{1000}){1000}"), "regular expression is too large: its repetitions multiply"),
    (regexp("a" * 100_000), "regular expression has 100000 characters; the limit is 500"),
    (regexp("(" * 400 + ")" * 400), BROKEN_PATTERN),
    (constraint("1", left="${nope}"), 'unsupported attribute "${nope}"'),
    (constraint("1", left="${node.colour}"), 'unsupported attribute "${node.colour}"'),
    (constraint("1", left="${attr.kernel.name"), "is missing a closing brace"),
    (constraint("b", "~"), 'Unknown constraint type "~"'),
    (constraint("> x", "version"), f"{MALFORMED}> x"),
    (constraint(">= 1, <", "version"), f"{MALFORMED}<"),
    (constraint(">= 1." + "9" * 5000, "version"), f"{MALFORMED}>= 1.999"),
    (constraint("~> 1.0.0", "semver"), "Semver constraint is invalid: Malformed constraint: ~> 1.0.0"),
    (
        constraint("0", "distinct_property", "${meta.rack}"),
        "Distinct Property must have an allowed count of 1 or greater: 0 < 1",
    ),
    ({"Affinities": [{"LTarget": "a", "RTarget": "b", "Weight": 0}]}, "Affinity weight cannot be zero"),
    ({"Affinities": [{"LTarget": "a", "RTarget": "b", "Weight": -101}]}, "within the range [-100,100]"),
    (spread(60, 60), "Sum of spread target percentages must not be greater than 100%; got 120%"),
    (spread(101), 'Spread target percentage for value "dc1" must be between 0 and 100'),
    (spread(-1), 'Spread target percentage for value "dc1" must be between 0 and 100'),
    (spread(50, weight=101), "Spread block must have a positive weight from 0 to 100"),
    ({"Priority": 101}, "job priority must be between [1, 100]"),
    ({"Priority": -1}, "job priority must be between [1, 100]"),
    ({"Priority": 1 << 40}, "job priority must be between [1, 100]"),
    (cron("61 * * * *"), 'Invalid cron spec "61 * * * *": bad minute'),
    (cron("5-1 * * * *"), 'Invalid cron spec "5-1 * * * *": bad minute'),
    (cron("*/0 * * * *"), 'Invalid cron spec "*/0 * * * *": bad minute'),
    (cron("0 0 31 2 *"), 'Invalid cron spec "0 0 31 2 *": bad day-of-month'),
    (cron("* * * * * * * * *"), "too many fields"),
    (cron("@fortnightly"), 'Invalid cron spec "@fortnightly"'),
    (cron("@daily", "every day"), 'Invalid cron spec "every day": missing field(s)'),
    (cron("@daily", TimeZone="Mars/Olympus"), 'Invalid time zone "Mars/Olympus"'),
    ({**cron("@daily"), "Type": "service"}, 'Periodic can only be used with "batch" or "sysbatch" scheduler'),
    (of_group(Update={"Canary": -1}), "Canary count can not be less than zero: -1 < 0"),
    (of_group(Update={"AutoPromote": True}), "Auto Promote requires a Canary count greater than zero"),
    (of_group(Update={"MaxParallel": -1}), "Max parallel can not be less than zero: -1 < 0"),
    (
        of_group(Update={"MinHealthyTime": HOUR}),
        "Minimum healthy time must be less than healthy deadline: 1h0m0s > 5m0s",
    ),
    ({"type": "system", **of_group(Update={"Canary": 101})}, "can not be greater than 100: 101 > 100"),
    ({**BATCH, **of_group(Update={"MaxParallel": 1})}, f'Job type "batch" {NO_UPDATE}'),
    ({**BATCH, "Update": {"MaxParallel": 1}}, f'Job type "batch" {NO_UPDATE}'),
    ({"type": "sysbatch", **of_group(Update={"MaxParallel": 1})}, f'Job type "sysbatch" {NO_UPDATE}'),
    ({**BATCH, **of_group(Migrate={"MaxParallel": 1})}, 'Job type "batch" does not allow migrate block'),
    (of_group(Disconnect={"LostAfter": -1}), "lost_after cannot be a negative duration"),
    (of_group(Disconnect={"Reconcile": "newest"}), "reconcile must be one of"),
    (
        of_group(Disconnect={"LostAfter": HOUR, "StopOnClientAfter": HOUR}),
        "lost_after and stop_on_client_after cannot be set simultaneously",
    ),
]


def world(dev: Agent) -> Any:
    """What a refusal may not change; indexes rise with every write, so that not even a hidden one passes."""
    paths = ("/v1/jobs", "/v1/evaluations", "/v1/allocations", "/v1/deployments")
    return [dev.http.get(path).headers["X-Nomad-Index"] for path in paths], [dev.get(path) for path in paths]


@pytest.mark.parametrize(("changes", "why"), REFUSED, ids=[f"{n}-{why[:40]}" for n, (_, why) in enumerate(REFUSED)])
def test_what_is_refused(dev: Agent, changes: dict[str, Any], why: str) -> None:
    before = world(dev)
    spec = job("bad", **copy.deepcopy(changes))
    registered = dev.put("/v1/jobs", {"Job": spec}, status=500)
    planned = dev.put("/v1/job/bad/plan", {"Job": spec}, status=500)
    checked = dev.put("/v1/validate/job", {"Job": spec})
    assert why in registered
    assert registered == planned == checked["Error"]
    assert len(checked["ValidationErrors"]) == int(registered.split(" ", 1)[0])
    assert registered.partition("\n")[0].endswith(" occurred:")
    assert world(dev) == before
    dev.get("/v1/job/bad", status=404)


def test_a_refused_version_leaves_the_job_as_it_is(dev: Agent) -> None:
    dev.run(job("kept"))
    (alloc,) = dev.wait_allocs("kept")
    until(lambda: all(e["Status"] == "complete" for e in dev.get("/v1/job/kept/evaluations")), "quiet")
    before = dev.get("/v1/job/kept")
    for changes, _ in REFUSED:
        dev.put("/v1/jobs", {"Job": job("kept", **copy.deepcopy(changes))}, status=500)
    assert dev.get("/v1/job/kept") == before
    assert [stub["ID"] for stub in dev.wait_allocs("kept")] == [alloc["ID"]]
    dev.delete("/v1/job/kept", purge="true")


@pytest.mark.parametrize(
    ("priority", "text"), [("high", "string"), (1.5, "number"), ([], "array"), ({}, "object"), (True, "bool")]
)
def test_a_priority_that_is_no_number_is_a_bad_request(dev: Agent, priority: Any, text: str) -> None:
    for path in ("/v1/jobs", "/v1/job/bad/plan", "/v1/validate/job"):
        answer = dev.put(path, {"Job": job("bad", Priority=priority)}, status=400)
        assert answer == f"json: cannot unmarshal {text} into Go struct field Job.Priority of type int"


# --- valid, but nothing can meet it ---

IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    (constraint("windows"), "${attr.kernel.name} = windows"),
    (constraint("1", left="${attr.nope}"), "${attr.nope} = 1"),
    (constraint("", "is_set", "${attr.nope}"), "${attr.nope} is_set "),
    (constraint(">= 1.0", "version", "no version"), "no version version >= 1.0"),
    (constraint(">= 99.0.0", "semver", "${attr.nomad.version}"), "${attr.nomad.version} semver >= 99.0.0"),
    (regexp("(a+)+$"), "${attr.kernel.name} regexp (a+)+$"),
    (regexp("(x+x+)+y", "x" * 10_000), "x" * 10_000 + " regexp (x+x+)+y"),
    (regexp("(.*)*(.*)*(.*)*=", "ab" * 5_000), "ab" * 5_000 + " regexp (.*)*(.*)*(.*)*="),
]


@pytest.mark.parametrize(("changes", "why"), IMPOSSIBLE, ids=[why[-40:] for _, why in IMPOSSIBLE])
def test_what_nothing_can_meet_waits_and_says_why(dev: Agent, changes: dict[str, Any], why: str) -> None:
    spec = job("waits", **copy.deepcopy(changes))
    assert dev.put("/v1/validate/job", {"Job": spec})["Error"] == ""
    assert dev.put("/v1/job/waits/plan", {"Job": spec})["FailedTGAllocs"]["g"]["ConstraintFiltered"] == {why: 1}
    eval_id = dev.run(spec)["EvalID"]
    done = until(lambda: (e := dev.get(f"/v1/evaluation/{eval_id}"))["Status"] == "complete" and e, "the decision")
    assert done["FailedTGAllocs"]["g"]["ConstraintFiltered"] == {why: 1}
    assert dev.get(f"/v1/evaluation/{done['BlockedEval']}")["Status"] == "blocked"
    assert dev.allocs("waits") == []
    dev.delete("/v1/job/waits", purge="true")


def test_more_canaries_than_allocations_are_allowed(dev: Agent) -> None:
    update = {"Canary": 3, "MaxParallel": 5, "HealthCheck": "task_states", "MinHealthyTime": 0}
    spec = job("birds", count=2, Group={"Update": update})
    warnings = dev.run(spec)["Warnings"]
    assert "update max_parallel is greater than the group's count (5 > 2)" in warnings
    until(lambda: (dev.get("/v1/job/birds/deployment") or {}).get("Status") == "successful", "the first version")
    dev.run(job("birds", count=2, Group={"Update": update}, Meta={"version": "2"}))
    dev.wait_allocs("birds", 5)
    found = dev.get("/v1/job/birds/deployment")
    assert found["TaskGroups"]["g"]["DesiredCanaries"] == 3
    until(lambda: dev.get("/v1/job/birds/deployment")["TaskGroups"]["g"]["HealthyAllocs"] == 3, "healthy canaries")
    dev.put(f"/v1/deployment/promote/{found['ID']}", {"DeploymentID": found["ID"], "All": True})
    until(lambda: dev.get("/v1/job/birds/deployment")["Status"] == "successful", "the promotion")
    dev.wait_allocs("birds", 2)
    dev.delete("/v1/job/birds", purge="true")


def test_the_command_line_shows_the_sentence(dev: Agent, tmp_path: Path) -> None:
    file = tmp_path / "bad.nomad.hcl"
    file.write_text('job "bad" {\n priority = 101\n group "g" {\n task "t" {\n driver = "mock_driver"\n }\n }\n}\n')
    for verb in ("run", "plan", "validate"):
        command = [str(NOMADPY), "job", verb, "-address", dev.address, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        said = done.stdout + done.stderr
        assert done.returncode == (255 if verb == "plan" else 1), said
        assert "job priority must be between [1, 100]" in said
        assert "Traceback" not in said
