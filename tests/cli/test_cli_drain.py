"""``node drain`` against an agent that answers from a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cli_payloads as p
import pytest

from nomadpy.cli.verbs import node_drain

Run = Callable[..., Any]
PATH = f"/v1/node/{p.NODE}"
STRATEGY = {"Deadline": p.MINUTE_NS, "IgnoreSystemJobs": False}


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_drain, "POLL_S", 0.01)


@pytest.fixture
def node(cluster: Any) -> Any:
    """A cluster whose node may be drained; it is not draining."""
    cluster.on("PUT", f"{PATH}/drain", {})
    return cluster


def draining(**changes: Any) -> dict[str, Any]:
    return p.node(DrainStrategy=STRATEGY, LastDrain={"Status": "draining"}, **changes)


def over(status: str = "complete") -> dict[str, Any]:
    return p.node(LastDrain={"Status": status})


def unfold(cluster: Any, *looks: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """What the node and its allocations are at each look; the last one stays."""
    left = list(looks)

    def allocations(request: Any) -> list[dict[str, Any]]:
        shown = left[0][1]
        if len(left) > 1:
            left.pop(0)
        return shown

    cluster.on("GET", PATH, lambda request: left[0][0])
    cluster.on("GET", f"{PATH}/allocations", allocations)


def lines(seen: Any) -> list[str]:
    """What was said, without the times."""
    return [line.partition(": ")[2] or line for line in seen.out.splitlines() if line.startswith("20")]


@pytest.mark.parametrize(
    ("flags", "spec"),
    [
        ((), {"Deadline": 60 * p.MINUTE_NS, "IgnoreSystemJobs": False}),
        (("-deadline", "30m"), {"Deadline": 30 * p.MINUTE_NS, "IgnoreSystemJobs": False}),
        (("-no-deadline",), {"Deadline": 0, "IgnoreSystemJobs": False}),
        (("-force", "-ignore-system"), {"Deadline": -1, "IgnoreSystemJobs": True}),
    ],
)
def test_what_is_asked_of_the_agent(nomadpy: Run, node: Any, flags: tuple[str, ...], spec: Any) -> None:
    seen = nomadpy("node", "drain", "-enable", "-detach", "-yes", *flags, "f7b2c")
    assert (seen.code, seen.out) == (0, f'Node "{p.NODE}" drain strategy set\n')
    body = node.asked("PUT", f"{PATH}/drain").body
    assert body == {"NodeID": p.NODE, "DrainSpec": spec, "MarkEligible": False, "Meta": {}}


def test_notes_are_kept_with_the_drain(nomadpy: Run, node: Any) -> None:
    nomadpy("node", "drain", "-enable", "-detach", "-m", "new disk", "-meta", "who=me", "f7b2c")
    assert node.asked("PUT", f"{PATH}/drain").body["Meta"] == {"message": "new disk", "who": "me"}


@pytest.mark.parametrize(("flags", "eligible"), [((), True), (("-keep-ineligible",), False)])
def test_a_drain_is_cancelled(nomadpy: Run, node: Any, flags: tuple[str, ...], eligible: bool) -> None:
    seen = nomadpy("node", "drain", "-disable", *flags, "f7b2c")
    assert seen.code == 0
    assert ("takes new work again" in seen.out) is eligible
    body = node.asked("PUT", f"{PATH}/drain").body
    assert (body["DrainSpec"], body["MarkEligible"]) == (None, eligible)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((), "say one of -enable, -disable and -monitor"),
        (("-enable", "-monitor"), "say one of -enable, -disable and -monitor"),
        (("-enable", "-force", "-no-deadline"), "exclude each other"),
        (("-enable", "-force", "-deadline", "1h"), "exclude each other"),
        (("-disable", "-force"), "go with -enable"),
        (("-monitor", "-detach"), "exclude each other"),
        (("-enable", "-deadline", "soon"), 'a duration such as 30m or 1h, not "soon"'),
        (("-enable", "-deadline", "0"), "more than zero"),
        (("-enable", "-meta", "x"), 'key=value, not "x"'),
        (("-enable", "-self"), "name one node, or say -self"),
    ],
)
def test_what_is_refused(nomadpy: Run, node: Any, flags: tuple[str, ...], why: str) -> None:
    seen = nomadpy("node", "drain", *flags, "f7b2c")
    assert seen.code != 0
    assert why in seen.err
    assert not any(one.method == "PUT" for one in node.requests)


def test_a_person_is_asked_about_a_shortened_id(nomadpy: Run, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "n")
    seen = nomadpy("node", "drain", "-enable", "-detach", "f7b2c")
    assert (seen.code, seen.out) == (0, "Cancelled, nothing was changed.\n")
    assert nomadpy("node", "drain", "-enable", "-detach", p.NODE).out.endswith("strategy set\n")
    assert nomadpy("node", "drain", "-enable", "-detach", "-yes", "f7b2c").out.endswith("strategy set\n")


def test_the_asked_agents_own_node(nomadpy: Run, node: Any) -> None:
    node.on("GET", "/v1/agent/self", {"stats": {"client": {"node_id": p.NODE}}})
    assert nomadpy("node", "drain", "-enable", "-detach", "-self").code == 0
    assert node.asked("PUT", f"{PATH}/drain").body["NodeID"] == p.NODE


def test_a_drain_is_followed_to_its_end(nomadpy: Run, node: Any) -> None:
    told = {"DesiredTransition": {"Migrate": True}}
    unfold(
        node,
        (draining(), [p.alloc()]),
        (draining(), [p.alloc(**told)]),
        (draining(), [p.alloc(**told, DesiredStatus="stop")]),
        (over(), [p.alloc(**told, DesiredStatus="stop", ClientStatus="complete")]),
    )
    seen = nomadpy("node", "drain", "-enable", "f7b2c")
    who = f'Alloc "{p.ALLOC[:8]}" of job web'
    assert seen.code == 0
    assert lines(seen) == [
        "Allocations on the node: 1 service",
        f"{who} is to leave",
        f"{who} is stopping",
        f"{who} has stopped (complete)",
        f'Drain complete for node "{p.NODE}"',
        "Everything that had to leave the node has stopped",
    ]


def test_after_a_deadline_the_last_stops_are_waited_for(nomadpy: Run, node: Any) -> None:
    leaving = {"DesiredTransition": {"Migrate": True}, "DesiredStatus": "stop"}
    unfold(node, (over(), [p.alloc(**leaving)]), (over(), [p.alloc(**leaving, ClientStatus="complete")]))
    said = lines(nomadpy("node", "drain", "-monitor", "f7b2c"))
    assert said[1] == f'Drain complete for node "{p.NODE}"'
    assert said[-1] == "Everything that had to leave the node has stopped"


def test_what_left_before_the_first_look_is_told_and_what_left_long_ago_is_not(nomadpy: Run, node: Any) -> None:
    leaving = {"DesiredTransition": {"Migrate": True}, "DesiredStatus": "stop", "ClientStatus": "complete"}
    began_ns = 1_700_000_000 * 10**9
    now, ago = (p.alloc(ident, **leaving, ModifyTime=began_ns + n) for ident, n in ((p.ALLOC, 5), (p.OTHER_ALLOC, -5)))
    ended = p.node(LastDrain={"Status": "complete", "StartedAt": "2023-11-14T22:13:20Z"})
    unfold(node, (ended, [now, ago]))
    assert lines(nomadpy("node", "drain", "-enable", "-force", "f7b2c"))[0] == (
        f'Alloc "{p.ALLOC[:8]}" of job web has stopped (complete)'
    )
    assert p.OTHER_ALLOC[:8] not in nomadpy("node", "drain", "-enable", "-force", "f7b2c").out


def test_a_drain_that_somebody_ends_is_no_success(nomadpy: Run, node: Any) -> None:
    unfold(node, (draining(), [p.alloc()]), (over("canceled"), [p.alloc()]))
    seen = nomadpy("node", "drain", "-monitor", "f7b2c")
    assert seen.code == 1
    assert "ended before it was complete" in seen.out


def test_there_is_nothing_to_follow_on_a_node_at_work(nomadpy: Run, node: Any) -> None:
    seen = nomadpy("node", "drain", "-monitor", "f7b2c")
    assert (seen.code, seen.out) == (0, f'Node "{p.NODE}" is not draining\n')


def test_an_unknown_node_is_said_to_be_unknown(nomadpy: Run, node: Any) -> None:
    unknown = "00000000-1111-2222-3333-444444444444"
    node.on("GET", f"/v1/node/{unknown}", (404, "node not found"))
    seen = nomadpy("node", "drain", "-monitor", unknown)
    assert seen.code == 1
    assert "node not found" in seen.err


def test_the_watching_can_be_interrupted(nomadpy: Run, node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    unfold(node, (draining(), []))
    monkeypatch.setattr(node_drain.time, "sleep", interrupt)
    seen = nomadpy("node", "drain", "-monitor", "f7b2c")
    assert (seen.code, seen.err) == (130, "Stopped watching; the drain goes on.\n")
