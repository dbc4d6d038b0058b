"""Views drawn to text: what stands where, at 80 and at 200 columns and in a pipe."""

from __future__ import annotations

import io
from typing import Any

import cli_payloads as p
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from nomadpy.cli.views import (
    alloc,
    base,
    deployment,
    evaluation,
    explain,
    health,
    job,
    members,
    node,
    plan,
    progress,
    top,
    why,
)

NOW = p.NOW_NS


def draw(view: RenderableType, width: int = 80) -> list[str]:
    """The lines a view gives on a terminal of this width, without colours."""
    console = Console(
        file=io.StringIO(), width=width, color_system=None, highlight=False, markup=False, emoji=False, _environ={}
    )
    console.print(view)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().split("\n")[:-1]


LONG = "a-job-with-a-name-that-is-longer-than-any-column-should-ever-be-on-a-small-terminal"

VIEWS: dict[str, RenderableType] = {
    "jobs": job.job_list([p.job_stub(), p.job_stub(LONG)], NOW, namespaces=True),
    "job": job.job_header(p.job(LONG, Periodic={"Spec": "@daily"}), NOW, NOW + p.MINUTE_NS),
    "summary": job.summary({"Summary": {"front": p.counts(running=2), LONG: p.counts()}}),
    "allocations": job.allocations([p.alloc_stub(), p.alloc_stub(TaskGroup=LONG)], NOW),
    "allocations-verbose": job.allocations([p.alloc_stub()], NOW, verbose=True),
    "history": job.history([p.job(VersionTag={"Name": "golden", "Description": LONG})], []),
    "plan": plan.job_diff(p.plan()["Diff"]),
    "dry-run": plan.dry_run({"FailedTGAllocs": {"front": p.failed_metrics()}}, p.job(), NOW),
    "alloc": base.stack(alloc.header(p.alloc(), NOW, verbose=True), alloc.addresses(p.alloc())),
    "tasks": alloc.tasks(p.alloc(), p.alloc_stats()) or "",
    "placement": alloc.placement(p.alloc()["Metrics"], verbose=True),
    "usage": alloc.usage_table(p.alloc(), p.alloc_stats(), NOW),
    "files": alloc.files([{"Name": LONG, "IsDir": True, "FileMode": "drwxr-xr-x", "Size": 9, "ModTime": p.ZERO_TIME}]),
    "nodes": node.node_list([p.node_stub(), p.node_stub(Name=LONG)], verbose=True, counts={p.NODE: 3}),
    "node": node.header(p.node(), p.host_stats(), NOW),
    "drivers": node.drivers(p.node(), NOW),
    "events": node.events(p.node(), NOW),
    "resources": node.resources(p.node(), [p.alloc()]),
    "host": node.host_usage(p.host_stats(), p.node()),
    "deployments": deployment.deployment_list([p.deployment(JobID=LONG)]),
    "deployment": deployment.detail(p.deployment(), NOW),
    "evals": evaluation.evaluation_list([p.evaluation(JobID=LONG)]),
    "eval": evaluation.detail(p.evaluation(FailedTGAllocs={"front": p.failed_metrics()}, BlockedEval=p.EVAL), NOW),
    "members": members.members([{"Name": f"{LONG}.global", "Addr": "10.0.0.1", "Port": 4648, "Status": "alive"}], {}),
    "server": members.detailed(
        [{"Name": f"{LONG}.global", "Addr": "10.0.0.1", "Status": "failed", "Tags": {"id": LONG, "build": "2.0.0"}}],
        {},
        {LONG: {"Healthy": False, "Voter": True, "LastIndex": 7}},
    ),
    "health": health.details({"Gossip": "alive", "CPU": 0.95, "Memory": 0.1, "Disk": 0.8, "IOPressure": None}),
    "keys": members.keys({"Keys": {"A" * 44: 3, "B" * 44: 2}, "PrimaryKeys": {"A" * 44: 3}, "NumNodes": 3}),
    "why": why.explanations({"front": p.explanation(), LONG: p.explanation(NodeCount=900, Unplaced=2, AfterPlan=True)}),
    "capacity": why.capacity(
        {"Groups": {"front": p.room(), LONG: p.room(Displaced=3, Exact=False)}, "Without": [p.NODE]}
    ),
    "board": progress.board(
        progress.Sight(evaluation=p.evaluation(), allocations=(p.alloc_stub(),), deployment=p.deployment()), 1, 5
    ),
}


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", VIEWS)
def test_no_view_is_wider_than_the_terminal(name: str, width: int) -> None:
    lines = draw(VIEWS[name], width)
    assert max(map(cell_len, lines)) <= width
    assert width < 80 or all(line == line.rstrip() for line in lines)


def test_the_job_list_at_80_columns() -> None:
    stubs = [p.job_stub(), p.job_stub("nightly-report", Type="batch", Periodic=True, Status="dead", Stop=True)]
    assert draw(job.job_list(stubs, NOW)) == [
        "ID              Type            Priority  Status          Submit Date",
        "web             service         50        running         5m ago",
        "nightly-report  batch/periodic  50        dead (stopped)  5m ago",
    ]


def test_the_allocation_table_at_80_and_200_columns() -> None:
    stubs = [p.alloc_stub(), p.alloc_stub(p.OTHER_ALLOC, ClientStatus="failed", DesiredStatus="stop", CreateIndex=31)]
    expected = [
        "ID        Node ID   Task Group  Version  Desired  Status   Created  Modified",
        "a1a1b2b2  f7b2c3d4  front       3        stop     failed   5m ago   4m ago",
        "a1a1a1a1  f7b2c3d4  front       3        run      running  5m ago   4m ago",
    ]
    assert draw(job.allocations(stubs, NOW), 80) == expected
    assert draw(job.allocations(stubs, NOW), 200) == expected


def test_details_align_and_wrap_below_themselves() -> None:
    assert draw(base.Details([("ID", "x"), ("Description", "one two three four")]), 25) == [
        "ID          = x",
        "Description = one two",
        "              three four",
    ]


def test_flexible_columns_wrap_and_others_are_cut() -> None:
    view = base.Columns(["ID", "Message"], [["0123456789" * 2, "some words that do not fit"]], flexible=["Message"])
    assert draw(view, 34) == [
        "ID                    Message",
        "01234567890123456789  some words",
        "                      that do not",
        "                      fit",
    ]


def test_a_table_that_cannot_fit_becomes_blocks() -> None:
    view = base.Columns(["ID", "Message"], [["0123456789" * 2, "hello"], ["x", "y"]], flexible=["Message"])
    assert draw(view, 26) == [
        "ID      = 0123456789012345",
        "          6789",
        "Message = hello",
        "",
        "ID      = x",
        "Message = y",
    ]


def test_a_table_that_is_cut_keeps_one_line_a_row() -> None:
    view = base.Columns(["ID", "Message"], [["0123456789" * 2, "hello"]], cut=["ID"])
    assert draw(view, 20) == ["ID           Message", "0123456789…  hello"]


@given(
    st.lists(st.lists(st.text(alphabet="ab 漢-é\n", max_size=30), min_size=3, max_size=3), max_size=5),
    st.integers(min_value=20, max_value=120),
)
def test_columns_never_overflow(rows: list[list[str]], width: int) -> None:
    lines = draw(base.Columns(["One", "Two", "Three"], rows, flexible=["Two"]), width)
    assert all(cell_len(line) <= width for line in lines)


def test_a_plan_marks_what_changes_and_what_it_forces() -> None:
    assert draw(VIEWS["plan"]) == [
        '+/- Job: "web"',
        '  +/- Priority: "50" => "60"',
        "  +   Datacenters {",
        '    +   Datacenters: "dc2"',
        "      }",
        '+/- Task Group: "front" (1 create, 2 create/destroy update)',
        '  +/- Count: "2" => "3" (forces create)',
        '  +/- Task: "httpd" (forces create/destroy update)',
        '    -   User: "nobody"',
        "    +/- Config {",
        '      +/- args[0]: "a" => "b"',
        '          command: "/bin/httpd"',
        "        }",
    ]


def test_a_dry_run_that_fails_says_why() -> None:
    assert draw(VIEWS["dry-run"]) == [
        "Scheduler dry-run:",
        "- WARNING: Failed to place all allocations.",
        '  Task Group "front" (failed to place 2 allocations):',
        '    * No nodes are available in datacenter "dc9"',
        '    * Class "gpu": 1 nodes excluded by filter',
        '    * Constraint "${attr.kernel.name} = linux": 1 nodes excluded by filter',
        '    * Constraint "missing drivers": 1 nodes excluded by filter',
        "    * Resources exhausted on 1 nodes",
        '    * Dimension "memory" exhausted on 1 nodes',
    ]


def test_a_dry_run_that_fits() -> None:
    answer = {
        "NextPeriodicLaunch": "2026-09-21T15:00:00Z",
        "CreatedEvals": [{"TriggeredBy": "rolling-update", "Wait": 15 * 10**9}],
    }
    lines = draw(plan.dry_run(answer, p.job(), NOW), 200)
    assert lines[1] == "- All tasks successfully allocated."
    assert lines[2] == "- Rolling update, next evaluation will be in 15s."
    assert lines[3] == "- If submitted now, next periodic launch would be at 2026-09-21 15:00:00 UTC (in 46m40s)."


def test_nothing_to_choose_from() -> None:
    metrics = {"NodesEvaluated": 0, "NodesInPool": 0, "NodePool": "gpu", "QuotaExhausted": ["cpu"]}
    assert explain.reasons(metrics) == [
        "No nodes were eligible for evaluation",
        'No nodes are available in node pool "gpu"',
        'Quota limit hit "cpu"',
    ]


def test_tasks_come_in_the_order_they_start_with_the_newest_event_first() -> None:
    lines = draw(VIEWS["tasks"], 120)
    titles = [line for line in lines if line.startswith("Task ") and " is " in line]
    assert titles == ['Task "shipper" (prestart sidecar) is "running"', 'Task "httpd" is "running"']
    kinds = [line.split()[1] for line in lines[lines.index(titles[1]) :] if line.startswith("2026-")]
    assert kinds == ["Started", "Restarting", "Terminated", "Task", "Received"]
    assert "120/500 MHz  80 MiB/256 MiB  300 MiB" in lines


def test_static_and_dynamic_ports_are_told_apart() -> None:
    assert draw(alloc.addresses(p.alloc()) or "")[1:] == [
        "Label  Dynamic  Address",
        "http   yes      10.0.0.5:23456 -> 8080",
        "admin  no       10.0.0.5:9000",
    ]


def test_node_resources_count_only_what_still_runs() -> None:
    over = p.alloc(p.OTHER_ALLOC, ClientStatus="complete")
    assert draw(node.resources(p.node(), [p.alloc(), over]))[-1] == "600/4800 MHz  320 MiB/7.7 GiB  300 MiB/48.8 GiB"


def test_a_draining_node_says_until_when() -> None:
    strategy = {"Deadline": 1, "ForceDeadline": "2026-09-21T15:00:00Z", "IgnoreSystemJobs": True}
    text = "\n".join(draw(node.header(p.node(DrainStrategy=strategy), None, NOW), 200))
    assert "(in 46m40s); ignoring system jobs" in text


def test_the_leader_is_found_by_its_rpc_address() -> None:
    rows = [
        {"Name": f"s{n}.global", "Addr": f"10.0.0.{n}", "Status": "alive", "Tags": {"region": "global", "port": "4647"}}
        for n in (1, 2)
    ]
    lines = draw(members.members(rows, {"global": "10.0.0.2:4647"}), 200)
    assert [line.split()[4] for line in lines[1:]] == ["false", "true"]


def test_news_are_what_has_changed() -> None:
    first = progress.Sight(evaluation=p.evaluation(Status="pending"))
    placed = progress.Sight(evaluation=p.evaluation(), allocations=(p.alloc_stub(ClientStatus="pending"),))
    dead = p.alloc_stub(
        ClientStatus="failed",
        DeploymentStatus={"Healthy": False},
        TaskStates={
            "httpd": {"State": "dead", "Failed": True, "Events": [p.event("Driver Failure", "no such file", 0)]}
        },
    )
    failed = progress.Sight(
        evaluation=p.evaluation(),
        allocations=(dead,),
        deployment=p.deployment(Status="failed", StatusDescription="Failed due to unhealthy allocations"),
    )
    assert progress.news(progress.Sight(), first) == ['Evaluation triggered by "job-register"']
    assert progress.news(first, placed) == [
        'Allocation "a1a1a1a1" created: node "f7b2c3d4", group "front"',
        'Evaluation status changed to "complete"',
    ]
    assert progress.news(placed, failed) == [
        'Allocation "a1a1a1a1" is failed (was pending)',
        'Allocation "a1a1a1a1" is unhealthy',
        'Evaluation within deployment "d4d4d4d4"',
        'Deployment "d4d4d4d4": Failed due to unhealthy allocations',
        "a1a1a1a1 task httpd: Driver Failure: no such file",
    ]
    assert progress.news(failed, failed) == []


def test_an_allocation_that_was_there_before_the_evaluation_is_not_news_as_created() -> None:
    old = p.alloc_stub(CreateIndex=30)
    sight = progress.Sight(evaluation=p.evaluation(CreateIndex=35), allocations=(old,))
    assert 'Allocation "a1a1a1a1" modified: node "f7b2c3d4", group "front"' in progress.news(progress.Sight(), sight)


def test_the_board_of_a_deployment_alone_has_no_line_of_an_evaluation() -> None:
    sight = progress.Sight(deployment=p.deployment(Status="running"), allocations=(p.alloc_stub(),))
    lines = draw(progress.board(sight, 0, 0), 80)
    assert not any("Evaluation" in line for line in lines)
    assert any("Deployment d4d4d4d4" in line for line in lines)


FACTS = top.Facts(
    address="http://127.0.0.1:4646",
    nodes=(p.node(), p.node(p.OTHER_NODE, Name="node-2", Status="down")),
    jobs=(p.job_stub(), p.job_stub("nightly", Type="batch")),
    allocations=tuple(p.alloc_stub(f"{n:08x}", Name=f"web.front[{n}]", ModifyIndex=n) for n in range(50)),
    now_ns=NOW,
)


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10)])
@pytest.mark.parametrize("tab", [0, 1, 2])
def test_top_fills_the_screen_exactly(size: tuple[int, int], tab: int) -> None:
    width, height = size
    lines = draw(top.View(FACTS, top.Screen(tab=tab), height), width)
    assert len(lines) == height
    assert max(map(cell_len, lines)) <= width
    assert lines[-1].startswith("q quit")


def test_top_shows_promised_shares_of_a_node() -> None:
    facts = top.Facts(nodes=(p.node(),), allocations=(p.alloc(),), now_ns=NOW)
    line = draw(top.View(facts, top.Screen(), 24))[4]
    assert line.split() == [
        "f7b2c3d4",
        "node-1",
        "dc1",
        "ready",
        "eligible",
        "█░░░░░",
        "12",
        "%",
        "░░░░░░",
        "4",
        "%",
        "1",
    ]


def press(*keys: str) -> top.Screen:
    screen = top.Screen()
    for key in keys:
        screen = screen.press(key, page=5)
    return screen


def test_keys_of_top() -> None:
    assert press("tab").tab == 1
    assert press("left").tab == 2
    assert press("3", "1").tab == 0
    assert press("j", "down", "k").offset == 1
    assert press("k").offset == 0
    assert press(" ", "j", "tab").offset == 0
    assert press("/", "q", "b", "backspace", "enter").filter == "q"
    assert press("/", "x", "escape").filter == ""
    assert press("/", "x", "enter", "escape").filter == ""
    assert press("q").is_left


def test_top_filters_rows_and_stops_at_the_last() -> None:
    text = "\n".join(draw(top.View(FACTS, top.Screen(tab=2, filter="FRONT[7]"), 24)))
    assert "web.front[7]" in text
    assert "web.front[8]" not in text
    assert "1-1 of 1" in text
    assert draw(top.View(FACTS, top.Screen(tab=2, filter="nothing"), 24))[-1].endswith(" 0 of 50")
    lines = draw(top.View(FACTS, top.Screen(tab=2, offset=1 << 30), 24))
    assert "32-50 of 50" in lines[-1]
    assert "web.front[0]" in lines[-2]


def test_unknown_fields_and_missing_parts_do_not_break_a_view() -> None:
    empty: dict[str, Any] = {"ID": "x" * 36}
    for view in (
        job.job_header({"ID": "x"}, NOW),
        job.allocations([empty], NOW),
        alloc.header(empty, NOW),
        node.header(empty, None, NOW),
        deployment.detail(empty, NOW),
        evaluation.detail(empty, NOW),
        plan.job_diff({}),
        progress.board(progress.Sight(), 0, 0),
    ):
        assert draw(view)
    assert alloc.tasks(empty, None) is None


def test_names_of_strangers_do_not_steer_the_terminal() -> None:
    lines = draw(job.job_list([p.job_stub("evil\x1b[2J\x07\r")], NOW))
    assert lines[1].startswith("evil[2J  service")


def test_a_failed_task_is_told_by_its_cause_and_not_by_what_follows_from_it() -> None:
    events = [
        {"Type": "Template", "FailsTask": True, "DisplayMessage": "Template failed: no such function"},
        {"Type": "Not Restarting", "FailsTask": True, "DisplayMessage": "Error was unrecoverable"},
        {"Type": "Alloc Unhealthy", "DisplayMessage": "Unhealthy because of failed task"},
    ]
    failed = p.alloc_stub(TaskStates={"web": {"State": "dead", "Failed": True, "Events": events}})
    lines = progress.troubles(progress.Sight(allocations=(failed,)))
    assert [line.split("task ")[1] for line in lines] == ["web: Template: Template failed: no such function"]


def test_why_names_every_obstacle_and_the_scores_of_what_fits() -> None:
    lines = draw(why.explanations({"front": p.explanation()}), 100)
    assert lines == [
        'Why: Task Group "front" (placed; the nodes as the plan finds them)',
        "  Fits on 1 node, the best first:",
        "  Node  Score  Has  From",
        "  n1    0.500  0    binpack +0.5",
        "  Refused on 1 node:",
        "  Node  Has  Because",
        "  n2    1    memory: asks 512 MB, 200 free of 512 (short by 312 MB)",
        '             driver "docker" is not detected there',
    ]


def test_why_counts_what_it_does_not_show() -> None:
    told = p.explanation(NodeCount=902, FitCount=2, Unplaced=4, AfterPlan=True, WouldHelp=[{"Text": "less cpu"}])
    lines = draw(why.explanations({"front": told}), 100)
    assert lines[0] == 'Why: Task Group "front" (4 not placed; the nodes as the plan leaves them)'
    assert lines[1] == "  would help: less cpu"
    assert "  and 1 more" in lines
    assert "  Refused on 900 nodes:" in lines
    assert lines[lines.index("  Examples:") + 2].startswith("  n2")


def test_a_capacity_says_what_runs_out_and_what_is_displaced() -> None:
    answer = {"Groups": {"front": p.room(Displaced=3), "back": p.room(Fits=0, Suitable=0, Limits={})}}
    lines = draw(why.capacity(answer), 100)
    assert lines == [
        "Capacity",
        "  Task Group  Fits more  On nodes  Runs out first",
        "  back        0          2 of 0    no ready node meets the job's conditions",
        "  front       7          2 of 3    memory (2), cpu (1)",
        "  3 of group front run on what is left out and need a part of that.",
    ]


def test_passing_obstacles_and_lasting_ones_differ_in_colour() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system="standard", _environ={})
    console.print(why.explanations({"front": p.explanation()}))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "\x1b[33mmemory: asks" in drawn
    assert '\x1b[31mdriver "docker"' in drawn


def test_what_would_help_is_shown_where_a_placement_failed() -> None:
    metrics = {**p.failed_metrics(), "WouldHelp": [{"Kind": "port", "Text": "port http=80 free on n1"}]}
    for view in (
        evaluation.detail(p.evaluation(FailedTGAllocs={"front": metrics}), NOW),
        job.placement_failure({"FailedTGAllocs": {"front": metrics}}),
    ):
        assert view is not None
        assert "  * Would help: port http=80 free on n1" in draw(view, 100)
