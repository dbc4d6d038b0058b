"""Routes that the owner of an allocation answers: files, logs, commands, signals, figures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from agent import Agent, job, shell, task, until
from sockets import Exec

UNKNOWN = "00000000-1111-2222-3333-444444444444"
SCRIPT = """
echo one; echo oops >&2
trap 'echo got USR1' USR1
printf 'hello\\000world' > local/binary
echo '<html>hi</html>' > local/page.html
echo text > local/text
while true; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def alloc(shared_agent: Agent) -> Iterator[str]:
    """An allocation that has printed, and written a few files."""
    actions = [{"Name": "greet", "Command": "/bin/echo", "Args": ["hi", "there"]}]
    shared_agent.run(job("files", shell(SCRIPT, Actions=actions)))
    (stub,) = shared_agent.wait_allocs("files")
    stat = f"/v1/client/fs/stat/{stub['ID']}"
    until(lambda: shared_agent.http.get(stat, params={"path": "main/local/text"}).is_success, "the script")
    yield stub["ID"]
    shared_agent.delete("/v1/job/files", purge="true")


def frames(text: str) -> list[dict[str, Any]]:
    decoder, at, out = json.JSONDecoder(), 0, []
    while at < len(text):
        found, at = decoder.raw_decode(text, at)
        out.append(found)
    return out


# --- files ---


def test_listing_the_directory(dev: Agent, alloc: str) -> None:
    found = {entry["Name"]: entry for entry in dev.get(f"/v1/client/fs/ls/{alloc}")}
    assert {"alloc", "main"} <= set(found)
    assert found["main"]["IsDir"] is True
    assert found["main"]["FileMode"].startswith("d")
    assert set(found["main"]) >= {"Name", "IsDir", "Size", "FileMode", "ModTime"}


def test_one_file(dev: Agent, alloc: str) -> None:
    found = dev.get(f"/v1/client/fs/stat/{alloc}", path="main/local/text")
    assert (found["Name"], found["Size"], found["IsDir"]) == ("text", 5, False)


def test_reading_files_that_no_browser_may_run(dev: Agent, alloc: str) -> None:
    answer = dev.http.get(f"/v1/client/fs/cat/{alloc}", params={"path": "main/local/page.html"})
    assert answer.text == "<html>hi</html>\n"
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    binary = dev.http.get(f"/v1/client/fs/cat/{alloc}", params={"path": "main/local/binary"})
    assert binary.content == b"hello\0world"
    assert binary.headers["Content-Type"] == "application/octet-stream"


def test_reading_a_part(dev: Agent, alloc: str) -> None:
    path = f"/v1/client/fs/readat/{alloc}"
    assert dev.get(path, path="main/local/text", offset=1, limit=2) == "ex"
    assert dev.get(path, path="main/local/text", offset=1) == "ext\n"
    assert dev.get(path, path="main/local/text", offset=100) == ""


@pytest.mark.parametrize("number", ["x", "-1", "1.5", "9" * 30])
def test_bad_offsets(dev: Agent, alloc: str, number: str) -> None:
    for name in ("offset", "limit"):
        query = {"path": "main/local/text", "offset": "0", name: number}
        assert "error parsing" in dev.get(f"/v1/client/fs/readat/{alloc}", status=500, **query)


@pytest.mark.parametrize("operation", ["stat", "cat", "readat", "stream"])
def test_a_file_has_to_be_named(dev: Agent, alloc: str, operation: str) -> None:
    assert dev.get(f"/v1/client/fs/{operation}/{alloc}", status=400) == "must provide a file name"


@pytest.mark.parametrize(
    ("operation", "path", "status", "text"),
    [
        ("ls", "nope", 404, "no such file or directory"),
        ("stat", "nope", 404, "no such file or directory"),
        ("cat", "nope", 400, "no such file or directory"),
        ("readat", "nope", 400, "no such file or directory"),
        ("stream", "nope", 400, "no such file or directory"),
        ("cat", "main", 400, "is a directory"),
        ("stream", "main", 400, "is a directory"),
        ("ls", "../..", 0, "escapes the alloc directory"),
        ("cat", "../../../../etc/passwd", 0, "escapes the alloc directory"),
        ("cat", "main/secrets/x", 0, "prohibited"),
        ("cat", "a\0b", 0, ""),
    ],
)
def test_paths_that_are_refused(dev: Agent, alloc: str, operation: str, path: str, status: int, text: str) -> None:
    answer = dev.http.get(f"/v1/client/fs/{operation}/{alloc}", params={"path": path, "offset": "0"})
    assert answer.status_code == status or (not status and 400 <= answer.status_code <= 500), answer.text
    assert text in answer.text
    assert answer.text


@pytest.mark.parametrize("path", ["ls", "stat", "cat", "readat", "stream", "logs"])
def test_files_of_an_unknown_allocation(dev: Agent, path: str) -> None:
    query = {"path": "x", "offset": "0", "task": "main", "type": "stdout"}
    assert dev.get(f"/v1/client/fs/{path}/{UNKNOWN}", status=404, **query) == f'Unknown allocation "{UNKNOWN}"'


def test_an_unknown_operation_on_files(dev: Agent) -> None:
    for operation in ("ls", "cat", "logs"):
        assert dev.get(f"/v1/client/fs/{operation}/", status=400) == "must provide a valid alloc id"
    assert dev.get(f"/v1/client/fs/nope/{UNKNOWN}", status=404) == "Invalid method"


def test_streaming_a_file_in_frames(dev: Agent, alloc: str) -> None:
    answer = dev.http.get(f"/v1/client/fs/stream/{alloc}", params={"path": "main/local/text", "follow": "false"})
    (frame,) = [one for one in frames(answer.text) if one]
    assert base64.b64decode(frame["Data"]) == b"text\n"
    assert frame["File"].endswith("text")
    end = {"path": "main/local/text", "follow": "false", "origin": "end", "offset": "2"}
    (frame,) = [one for one in frames(dev.http.get(f"/v1/client/fs/stream/{alloc}", params=end).text) if one]
    assert base64.b64decode(frame["Data"]) == b"t\n"


def test_following_a_log_beats_while_nothing_happens(dev: Agent, alloc: str) -> None:
    query = {"task": "main", "type": "stdout", "follow": "true"}
    with dev.http.stream("GET", f"/v1/client/fs/logs/{alloc}", params=query) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            if text.endswith("{}"):
                break
    assert base64.b64decode(frames(text)[0]["Data"]).startswith(b"one\n")


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ({"type": "stdout"}, 400, "must provide task name"),
        ({"task": "main"}, 400, "must provide log type (stdout/stderr)"),
        ({"task": "main", "type": "x"}, 400, "must provide log type (stdout/stderr)"),
        ({"task": "main", "type": "stdout", "origin": "x"}, 400, "origin must be start or end"),
        ({"task": "main", "type": "stdout", "follow": "x"}, 400, "failed to parse follow field to boolean"),
        ({"task": "main", "type": "stdout", "offset": "x"}, 400, "error parsing offset"),
        ({"task": "nope", "type": "stdout"}, 400, 'unknown task name "nope"'),
    ],
)
def test_logs_that_are_refused(dev: Agent, alloc: str, query: Any, status: int, text: str) -> None:
    assert text in dev.get(f"/v1/client/fs/logs/{alloc}", status=status, **query)


def test_logs_as_text(dev: Agent, alloc: str) -> None:
    assert dev.logs(alloc).startswith("one\n")
    assert dev.logs(alloc, kind="stderr") == "oops\n"


# --- orders ---


def test_signals(dev: Agent, alloc: str) -> None:
    for one in ("main", ""):
        assert dev.put(f"/v1/client/allocation/{alloc}/signal", {"Task": one, "Signal": "SIGUSR1"}) == {"Index": 0}
    until(lambda: "got USR1" in dev.logs(alloc), "the signal")
    text = dev.put(f"/v1/client/allocation/{alloc}/signal", {"Signal": "SIGNOPE"}, status=500)
    assert "invalid signal" in text
    bad = dev.http.put(f"/v1/client/allocation/{alloc}/signal", content=b"{")
    assert bad.status_code == 400
    assert bad.text.startswith("Failed to decode body: ")
    assert dev.put(f"/v1/client/allocation/{UNKNOWN}/signal", {"Signal": "SIGHUP"}, status=404).startswith("Unknown")


def test_restarting_in_place(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, shell("echo begin; sleep 100")))
    (stub,) = dev.wait_allocs(job_id)
    path = f"/v1/client/allocation/{stub['ID']}/restart"
    assert dev.http.put(path).json() == {"Index": 0}
    until(lambda: dev.logs(stub["ID"]) == "begin\nbegin\n", "the second run")
    state = until(
        lambda: next((s for s in [dev.allocs(job_id)[0]["TaskStates"]["main"]] if s["Restarts"] == 1), None), "restart"
    )
    assert "Restart Signaled" in [event["Type"] for event in state["Events"]]
    assert "nope" in dev.put(path, {"TaskName": "nope"}, status=400)


def test_stopping_an_allocation(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id))
    (stub,) = dev.wait_allocs(job_id)
    answer = dev.put(f"/v1/allocation/{stub['ID']}/stop")
    assert dev.get(f"/v1/evaluation/{answer['EvalID']}")["TriggeredBy"] == "alloc-stop"
    dev.wait_allocs(job_id, 1, "complete")
    (new,) = dev.wait_allocs(job_id, 1)
    assert new["ID"] != stub["ID"]
    assert dev.put(f"/v1/allocation/{UNKNOWN}/stop", status=404) == "allocation not found"


def test_figures(dev: Agent, alloc: str) -> None:
    found = dev.get(f"/v1/client/allocation/{alloc}/stats")
    assert found["ResourceUsage"]["MemoryStats"]["RSS"] > 0
    assert found["Tasks"]["main"]["ResourceUsage"]["CpuStats"]["TotalTicks"] >= 0
    one = dev.get(f"/v1/client/allocation/{alloc}/stats", task="main")
    assert set(one["Tasks"]) == {"main"}
    host = dev.get("/v1/client/stats")
    assert host["Memory"]["Total"] > 0
    assert host["CPU"][0]["CPU"] is not None
    node_id = dev.get("/v1/nodes")[0]["ID"]
    assert dev.get("/v1/client/stats", node_id=node_id)["Uptime"] > 0
    assert dev.get("/v1/client/stats", status=404, node_id=UNKNOWN) == "No path to node"


def test_collecting_garbage(dev: Agent, job_id: str) -> None:
    dev.run(job(job_id, task(Config={"run_for": "1ms"}), type="batch"))
    (stub,) = dev.wait_allocs(job_id, 1, "complete")
    until(lambda: dev.http.get(f"/v1/client/allocation/{stub['ID']}/gc").is_success, "the collection")
    assert dev.http.get(f"/v1/client/fs/ls/{stub['ID']}").status_code == 404
    assert dev.http.get("/v1/client/gc").content == b""
    assert dev.http.put("/v1/client/gc").status_code == 200


def test_a_running_allocation_is_not_collected(dev: Agent, alloc: str) -> None:
    assert "terminal" in dev.get(f"/v1/client/allocation/{alloc}/gc", status=500)


def test_metadata(dev: Agent) -> None:
    answer = dev.put("/v1/client/metadata", {"Meta": {"colour": "red"}})
    assert answer["Dynamic"] == {"colour": "red"}
    node_id = dev.get("/v1/nodes")[0]["ID"]
    until(lambda: dev.get(f"/v1/node/{node_id}")["Meta"].get("colour") == "red", "the metadata at the server")
    dev.put("/v1/client/metadata", {"NodeID": node_id, "Meta": {"colour": None}})
    assert "colour" not in dev.get("/v1/client/metadata")["Meta"]
    assert "empty" in dev.put("/v1/client/metadata", {"Meta": {"": "x"}}, status=400)


# --- the allocation itself ---


def test_an_allocation_leaves_out_what_is_empty(dev: Agent, alloc: str) -> None:
    found = dev.get(f"/v1/allocation/{alloc}")
    assert "PreviousAllocation" not in found
    assert found["DesiredTransition"] == {} or "DesiredTransition" in found
    assert found["Job"]["ID"] == "files"
    assert found["Resources"]["MemoryMB"] == 16
    assert found["TaskResources"]["main"]["CPU"] == 20
    assert found["TaskStates"]["main"]["State"] == "running"
    assert all(event["DisplayMessage"] for event in found["TaskStates"]["main"]["Events"])


def test_stubs_with_and_without(dev: Agent, alloc: str) -> None:
    plain = next(stub for stub in dev.get("/v1/allocations") if stub["ID"] == alloc)
    assert "AllocatedResources" not in plain
    full = next(stub for stub in dev.get("/v1/allocations", resources="true") if stub["ID"] == alloc)
    assert full["AllocatedResources"]["Tasks"]["main"]["Memory"]["MemoryMB"] == 16
    bare = next(stub for stub in dev.get("/v1/allocations", task_states="false") if stub["ID"] == alloc)
    assert bare["TaskStates"] is None
    assert [stub["ID"] for stub in dev.get("/v1/allocations", prefix=alloc[:8])] == [alloc]


def test_parts_of_an_allocation(dev: Agent, alloc: str) -> None:
    assert dev.get(f"/v1/allocation/{alloc}/services") == []
    assert dev.get(f"/v1/allocation/{alloc}/checks") == {}
    assert dev.get(f"/v1/allocation/{alloc}/nope", status=404) == "resource not found"


# --- commands ---


def execute(dev: Agent, alloc: str, *command: str, **query: Any) -> Exec:
    path = f"/v1/client/allocation/{alloc}/exec"
    return Exec(dev.address, path, **{"task": "main", "command": json.dumps(command), **query})


def test_a_command_and_its_exit_code(dev: Agent, alloc: str) -> None:
    session = execute(dev, alloc, "/bin/sh", "-c", "echo out; echo err >&2; exit 7")
    assert session.finish() == 7
    assert (session.output(), session.output("stderr")) == (b"out\n", b"err\n")
    assert {"stdout": {"close": True}} in session.frames
    assert session.code == 1000


def test_feeding_a_command(dev: Agent, alloc: str) -> None:
    session = execute(dev, alloc, "/bin/cat")
    session.send({})
    session.type(b"hello ")
    session.type(b"world")
    session.send({"stdin": {"close": True}})
    assert session.finish() == 0
    assert session.output() == b"hello world"


def test_a_terminal(dev: Agent, alloc: str) -> None:
    session = execute(dev, alloc, "/bin/sh", "-c", "read x; stty size", tty="true")
    session.send({"tty_size": {"height": 33, "width": 77}})
    session.type(b"go\n")
    assert session.finish() == 0
    assert b"33 77" in session.output()


def test_the_first_message_may_be_a_handshake(dev: Agent, alloc: str) -> None:
    session = execute(dev, alloc, "/bin/echo", "hi", ws_handshake="true")
    session.send({"version": 1, "auth_token": ""})
    assert session.finish() == 0
    session = execute(dev, alloc, "/bin/echo", "hi", ws_handshake="true")
    session.send({"version": 2})
    assert session.finish() is None
    assert (session.code, "version" in session.reason) == (1008, True)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ({"command": "[]"}, "command is not present"),
        ({"task": ""}, "must provide task name"),
        ({"task": "nope"}, 'unknown task name "nope"'),
    ],
)
def test_commands_that_are_refused(dev: Agent, alloc: str, query: Any, reason: str) -> None:
    session = execute(dev, alloc, "/bin/true", **query)
    assert session.finish() is None
    assert reason in session.reason
    assert session.code == 1008


def test_commands_in_an_unknown_allocation(dev: Agent) -> None:
    session = execute(dev, UNKNOWN, "/bin/true")
    session.finish()
    assert (session.code, session.reason) == (1008, f'Unknown allocation "{UNKNOWN}"')


def test_what_is_wrong_before_the_upgrade(dev: Agent, alloc: str) -> None:
    for query, text in (({"command": "x"}, b"failed to marshal command into json: "), ({"tty": "x"}, b"tty value is")):
        session = execute(dev, alloc, "/bin/true", **query)
        session.finish()
        assert (session.status, session.refusal[: len(text)]) == (500, text)
    assert dev.http.get(f"/v1/client/allocation/{alloc}/exec").status_code == 400


@pytest.mark.parametrize("bad", ["not json", "[]", '{"stdin": {"data": "%"}}', '{"tty_size": {"height": -1}}'])
def test_frames_that_make_no_sense(dev: Agent, alloc: str, bad: str) -> None:
    session = execute(dev, alloc, "/bin/cat")
    session.send(bad)
    assert session.finish() is None
    assert session.code == 1008
    assert session.reason


def test_a_client_that_leaves_takes_its_command_along(dev: Agent, alloc: str) -> None:
    import subprocess

    mark = "86399.25"
    session = execute(dev, alloc, "/bin/sleep", mark)

    def lives() -> bool:
        return mark in subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout

    until(lives, "the command")
    session.socket.close()
    until(lambda: not lives(), "the end of the command")


def test_an_action_of_the_job(dev: Agent, alloc: str) -> None:
    session = Exec(dev.address, "/v1/job/files/action", task="main", action="greet", group="g")
    assert session.finish() == 0
    assert session.output() == b"hi there\n"
    session = Exec(dev.address, "/v1/job/files/action", task="main", action="nope", allocID=alloc)
    session.finish()
    assert b"action nope not found in task main" in session.refusal + session.reason.encode()
