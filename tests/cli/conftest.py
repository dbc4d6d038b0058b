"""An agent that answers from a table, and a way to run the command line against it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import cli_payloads as payloads
import pytest

from nomadpy.cli.main import run


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    body: Any
    headers: dict[str, str]


@dataclass
class FakeAgent:
    """Answers by method and path: JSON, raw bytes, (status, text), or a function of the request that gives one."""

    address: str = ""
    answers: dict[tuple[str, str], Any] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # of every answer

    def on(self, method: str, path: str, answer: Any) -> None:
        self.answers[method, path] = answer

    def asked(self, method: str, path: str) -> Request:
        """The last request of this method and path."""
        return [one for one in self.requests if (one.method, one.path) == (method, path)][-1]

    def reply(self, request: Request) -> tuple[int, bytes]:
        self.requests.append(request)
        answer = self.answers.get((request.method, request.path), (404, f"no answer for {request.path}"))
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, tuple):
            return answer[0], str(answer[1]).encode()
        return 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def _handler(agent: FakeAgent) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def answer(self) -> None:
            parts = urlsplit(self.path)
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            binary = self.path == "/v1/operator/snapshot"
            body = content if binary else json.loads(content) if content else None
            request = Request(self.command, parts.path, parse_qs(parts.query), body, dict(self.headers))
            status, answer = agent.reply(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            for name, value in agent.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_DELETE = do_POST = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Stay silent."""

    return Handler


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    """An agent that answers nothing yet; the command line is pointed at it."""
    for name in ("NOMAD_REGION", "NOMAD_NAMESPACE", "NOMAD_TOKEN", "NOMAD_HTTP_AUTH", "COLUMNS", "NOMADPY_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeAgent()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("NOMAD_ADDR", fake.address)
    yield fake
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def cluster(agent: FakeAgent) -> FakeAgent:
    """An agent of the cluster that ``cli_payloads`` describes."""
    fill(agent)
    return agent


def fill(agent: FakeAgent) -> None:
    p = payloads
    get: dict[str, Any] = {
        "/v1/jobs": lambda request: [
            stub
            for stub in (p.job_stub(), p.job_stub("web-two"), p.job_stub("nightly", Type="batch", Periodic=True))
            if stub["ID"].startswith(request.query.get("prefix", [""])[0])
        ],
        "/v1/job/web": p.job(),
        "/v1/job/web/summary": p.job_stub()["JobSummary"],
        "/v1/job/web/allocations": [p.alloc_stub(), p.alloc_stub(p.OTHER_ALLOC, ClientStatus="failed")],
        "/v1/job/web/evaluations": [p.evaluation()],
        "/v1/job/web/deployment": p.deployment(),
        "/v1/job/web/deployments": [p.deployment()],
        "/v1/allocations": [p.alloc_stub(), p.alloc_stub(p.OTHER_ALLOC)],
        f"/v1/allocation/{p.ALLOC}": p.alloc(),
        f"/v1/client/allocation/{p.ALLOC}/stats": p.alloc_stats(),
        f"/v1/client/allocation/{p.ALLOC}/checks": {},
        "/v1/nodes": [p.node_stub(), p.node_stub(p.OTHER_NODE, Name="node-2", Status="down")],
        f"/v1/node/{p.NODE}": p.node(),
        f"/v1/node/{p.NODE}/allocations": [p.alloc()],
        "/v1/client/stats": p.host_stats(),
        "/v1/deployments": [p.deployment()],
        f"/v1/deployment/{p.DEPLOYMENT}": p.deployment(),
        f"/v1/deployment/allocations/{p.DEPLOYMENT}": [p.alloc_stub()],
        "/v1/evaluations": [p.evaluation()],
        f"/v1/evaluation/{p.EVAL}": p.evaluation(),
        f"/v1/evaluation/{p.EVAL}/allocations": [p.alloc_stub()],
    }
    for path, answer in get.items():
        agent.on("GET", path, answer)
    agent.on("PUT", "/v1/jobs", {"EvalID": p.EVAL, "Warnings": "", "JobModifyIndex": 10})
    agent.on("PUT", "/v1/job/web/plan", p.plan())


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def nomadpy(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs one command line in this process and gives its exit code and output."""

    def call(*args: str) -> Outcome:
        code = run(list(args))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call
