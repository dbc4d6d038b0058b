"""What an agent tells about its machine, and what it keeps to itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent import Agent

from nomadpy.api.routes.host import look


def test_what_is_told(dev: Agent) -> None:
    answer = dev.http.get("/v1/agent/host")
    if dev.get("/v1/agent/self")["config"]["EnableDebug"]:
        found = answer.json()
        assert found["Hosts"] == Path("/etc/hosts").read_text()
        assert "lo" in [one["Name"] for one in found["Network"]]
    else:
        assert (answer.status_code, "enable_debug" in answer.text) == (403, True)
    unknown = "00000000-1111-2222-3333-444444444444"
    assert dev.http.get("/v1/agent/host", params={"server_id": "nobody"}).text == "unknown Nomad server nobody"
    both = dev.get("/v1/agent/host", status=400, node_id=unknown, server_id="x")
    assert both == "Cannot target node and server simultaneously"


def test_secrets_of_the_environment_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"EDITOR": "vi", "HOME_PAGE": "http://example.org/"}
    kept = {"NOMAD_TOKEN": "a", "aws_secret_access_key": "b", "DB": "postgres://me:word@host/x", "PGPASSWORD": "c"}
    for name, value in {**told, **kept}.items():
        monkeypatch.setenv(name, value)
    found = look()["Environment"]
    assert {name: found[name] for name in told} == told
    assert {found[name] for name in kept} == {"<redacted>"}
