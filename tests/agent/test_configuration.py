"""Flags over files over defaults: what the agent's configuration becomes, and what is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from nomadpy.agent import main
from nomadpy.agent.config import AgentConfig
from nomadpy.agent.files import load_files
from nomadpy.agent.flags import configure
from nomadpy.agent.main import remove_made
from nomadpy.model.errors import Invalid
from nomadpy.model.time import HOUR, MINUTE

HCL = """
data_dir  = "/d"
region    = "eu"
log_level = "warn"
ports { http = 5646 }
server {
  enabled          = true
  bootstrap_expect = 1
  job_gc_threshold = "1h"
  job_max_source_size = "2M"
}
client {
  enabled    = true
  meta { rack = "r1" }
  options    = { "driver.raw_exec.enable" = "1" }
  host_volume "data" { path = "/srv" }
  reserved { cpu = 100 }
}
plugin "raw_exec" { config { enabled = true } }
telemetry { prometheus_metrics = true }
"""
JSON = """{"data_dir": "/d", "region": "eu", "log_level": "warn", "ports": {"http": 5646},
  "server": [{"enabled": true, "bootstrap_expect": 1, "job_gc_threshold": "1h", "job_max_source_size": "2M"}],
  "client": {"enabled": true, "meta": {"rack": "r1"}, "options": {"driver.raw_exec.enable": "1"},
    "host_volume": {"data": {"path": "/srv"}}, "reserved": {"cpu": 100}},
  "plugin": {"raw_exec": {"config": {"enabled": true}}}, "telemetry": {"prometheus_metrics": true}}"""
YAML = """
data_dir: /d
region: eu
log_level: warn
ports: {http: 5646}
server: {enabled: true, bootstrap_expect: 1, job_gc_threshold: 1h, job_max_source_size: 2M}
client:
  enabled: true
  meta: {rack: r1}
  options: {driver.raw_exec.enable: "1"}
  host_volume: {data: {path: /srv}}
  reserved: {cpu: 100}
plugin: {raw_exec: {config: {enabled: true}}}
telemetry: {prometheus_metrics: true}
"""


def load(tmp_path: Path, text: str, suffix: str = ".hcl") -> AgentConfig:
    path = tmp_path / f"agent{suffix}"
    path.write_text(text)
    return load_files(AgentConfig(), [str(path)])


@pytest.mark.parametrize(("text", "suffix"), [(HCL, ".hcl"), (JSON, ".json"), (YAML, ".yaml")])
def test_one_configuration_in_three_languages(tmp_path: Path, text: str, suffix: str) -> None:
    found = load(tmp_path, text, suffix)
    assert (found.data_dir, found.region, found.log_level, found.ports.http) == ("/d", "eu", "warn", 5646)
    assert (found.server_enabled, found.client_enabled, found.prometheus_metrics) == (True, True, True)
    assert (found.server.job_gc_threshold_ns, found.server.job_max_source_bytes) == (HOUR, 2 << 20)
    assert (found.client.meta, found.client.host_volumes["data"].path) == ({"rack": "r1"}, "/srv")
    assert (found.client.reserved.cpu, found.client.plugins["raw_exec"]) == (100, {"enabled": True})


def test_bounds_of_templates_and_artifacts(tmp_path: Path) -> None:
    text = """client {
      template {
        function_denylist    = ["env"]
        disable_file_sandbox = true
      }
      artifact {
        http_max_size = "2MB"
        git_timeout   = "1m"

        decompression_file_count_limit = 9
      }
    }"""
    client = load(tmp_path, text, ".hcl").client
    assert (client.template.function_denylist, client.template.disable_file_sandbox) == (("env",), True)
    assert (client.artifact.http_max_size, client.artifact.git_timeout_ns) == (2 << 20, 60 * 10**9)
    assert client.artifact.decompression_file_count_limit == 9


def test_later_files_win_and_maps_merge(tmp_path: Path) -> None:
    (tmp_path / "1.hcl").write_text('region = "a"\nclient { meta { x = "1" } }')
    (tmp_path / "2.hcl").write_text('region = "b"\nclient { meta { y = "2" } }')
    found = load_files(AgentConfig(), [str(tmp_path)])
    assert (found.region, found.client.meta) == ("b", {"x": "1", "y": "2"})
    assert len(found.files) == 2


def test_flags_win_over_files(tmp_path: Path) -> None:
    (tmp_path / "a.hcl").write_text('region = "a"\nname = "file"\nports { http = 1 }')
    flags = ["-dev", "-config", str(tmp_path), "-region=b", "-http-port", "2", "-data-dir", str(tmp_path / "d")]
    found = configure([*flags, "-meta", "k=v=w"])
    assert (found.region, found.name, found.ports.http) == ("b", "file", 2)
    assert found.client.meta["k"] == "v=w"


def test_dev_needs_nothing(tmp_path: Path) -> None:
    found = configure(["-dev", "-data-dir", str(tmp_path)])
    assert (found.bind_addr, found.server_enabled, found.client_enabled) == ("127.0.0.1", True, True)
    assert found.client.options["driver.raw_exec.enable"] == "true"
    assert found.client.gc.interval_ns == 10 * MINUTE
    assert found.name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("regoin = 1", 'unknown key "regoin"; did you mean "region"?'),
        ("ports { http = 1.5 }", "ports.http must be a whole number"),
        ("server { enabled = 3 }", "server.enabled must be true or false"),
        ('server { job_gc_threshold = "soon" }', "server.job_gc_threshold"),
        ("server = 5", "server is a block"),
        ('client { host_volume "x" { } }', "client.host_volume.x needs a path"),
        ("client { meta = 5 }", "client.meta must be a block or a map"),
        ("tls { htttp = true }", 'unknown key "tls.htttp"; did you mean "http"?'),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Invalid) as refusal:
        load(tmp_path, text)
    assert why in refusal.value.message
    assert "agent.hcl" in refusal.value.message


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as refusal:
        load(tmp_path, 'aaa = 1\nbbb = 2\nports { http = "x" }')
    assert all(word in refusal.value.message for word in ("aaa", "bbb", "ports.http"))


def test_what_is_not_acted_on_earns_a_warning(tmp_path: Path) -> None:
    found = load(tmp_path, 'consul { address = "x" }\nserver { oidc_issuer = "k" }\ndisable_update_check = true')
    assert [warning.split(": ")[1] for warning in found.warnings] == [
        "consul is accepted but not acted on yet",
        "server.oidc_issuer is accepted but not acted on yet",
    ]


def test_where_other_agents_are_looked_for(tmp_path: Path) -> None:
    text = 'server { encrypt = "k", server_join { retry_join = ["a"] } }\nleave_on_interrupt = true'.replace(",", "\n")
    found = load(tmp_path, text)
    assert (found.encrypt, found.server_join.retry_join, found.leave_on_interrupt) == ("k", ("a",), True)
    assert not found.warnings
    given = configure(["-server", "-data-dir", str(tmp_path), "-retry-join", "a:1", "-retry-join", "b", "-retry-max=3"])
    assert (given.server_join.retry_join, given.server_join.retry_max) == (("a:1", "b"), 3)


def test_only_a_directory_that_the_agent_made_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made, given = configure(["-dev"]), configure(["-dev", "-data-dir", str(tmp_path / "given")])
    for config in (made, given):
        (Path(config.data_dir) / "alloc").mkdir()
        remove_made(config)
    assert (Path(made.data_dir).exists(), Path(given.data_dir).exists()) == (False, True)


def test_nothing_is_removed_through_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = configure(["-dev"])
    monkeypatch.setattr(main, "mounts_below", lambda path: [f"{path}/alloc/secrets"])
    remove_made(made)
    assert Path(made.data_dir).exists()


@pytest.mark.parametrize(
    ("text", "suffix", "why"),
    [
        ("{", ".json", "is not JSON"),
        ("[]", ".json", "must hold an object"),
        ("a: [", ".yaml", "is not YAML"),
        ("server {", ".hcl", "agent.hcl"),
    ],
)
def test_files_that_do_not_parse(tmp_path: Path, text: str, suffix: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        load(tmp_path, text, suffix)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="does not exist"):
        load_files(AgentConfig(), [str(tmp_path / "none.hcl")])
    (tmp_path / "x.hcl").write_bytes(b"\xff\xfe")
    with pytest.raises(Invalid, match="not UTF-8"):
        load_files(AgentConfig(), [str(tmp_path / "x.hcl")])


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["-dev", "-meta", "novalue"], "-meta takes key=value"),
        (["-dev", "-rpc-port", "70000"], "between 0 and 65535"),
        (["-dev=maybe"], "-dev is true or false"),
        (["-dev", "-region"], "needs a value"),
        (["-dev", "-htp-port", "1"], "did you mean -http-port"),
        (["-client", "-data-dir", "/tmp/x"], "a client needs servers"),
        (["-dev", "-bootstrap-expect", "3"], "leave -dev out"),
        (["-server", "-data-dir", "/tmp/x"], "set -bootstrap-expect"),
        (["-server", "-bootstrap-expect=-1", "-data-dir", "/tmp/x"], "must not be negative"),
        (["-client", "-servers", "a", "-bootstrap-expect=1", "-data-dir", "/tmp/x"], "about servers"),
        (["-dev", "-retry-interval", "soon"], "takes a duration"),
    ],
)
def test_flags_that_are_refused(flags: list[str], why: str) -> None:
    with pytest.raises(Invalid) as refusal:
        configure(flags)
    assert why in refusal.value.message


def test_flags_that_do_nothing_yet_are_accepted_and_told(tmp_path: Path) -> None:
    flags = ["-dev", "-data-dir", str(tmp_path), "-raft-protocol", "3", "-acl-enabled", "-consul-address=x:8500"]
    found = configure([*flags, "-network-speed", "2500"])
    assert found.client.network_speed == 2500
    for name in ("raft-protocol", "acl-enabled", "consul-address"):
        assert f"flag -{name} is accepted but not acted on yet" in found.warnings


def test_a_flag_that_does_nothing_still_needs_its_value() -> None:
    with pytest.raises(Invalid, match="-encrypt needs a value"):
        configure(["-dev", "-encrypt"])


def test_dev_connect_is_dev_with_a_warning(tmp_path: Path) -> None:
    found = configure(["-dev-connect", "-data-dir", str(tmp_path)])
    assert found.dev_mode
    assert any("-dev-connect" in warning for warning in found.warnings)
