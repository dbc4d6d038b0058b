"""How agents begin, reload and end: signals, ports, directories, keys and certificates."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from agent import NOMADPY, Agent, durable, durable_config, job, running, shell, task, until


def refused(directory: Path, *flags: str, config: str = "", suffix: str = ".hcl") -> str:
    """What an agent that cannot run says before it ends with 1: one line, no traceback."""
    agent = Agent(directory, *flags, config=config, suffix=suffix)
    process = agent.spawn()
    try:
        assert process.wait(15) == 1
    finally:
        agent.close()
    said = [line for line in agent.log().splitlines() if line.startswith("nomadpy agent: ")]
    assert len(said) == 1, agent.log()
    assert "Traceback" not in agent.log()
    return said[0]


# --- agents that cannot run ---


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refused(tmp_path, "-dev", "-http-port", str(port))
    assert f"cannot listen on 127.0.0.1:{port}" in text
    assert "Is another agent running?" in text
    assert "-http-port" in text


def test_an_address_that_is_not_the_machines(tmp_path: Path) -> None:
    text = refused(tmp_path, "-dev", "-bind", "203.0.113.7", "-http-port", "4646")
    assert "203.0.113.7:4646: Cannot assign requested address; check bind_addr / addresses.http" in text
    assert "another agent" not in text


def test_a_data_dir_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    text = refused(tmp_path / "a", "-dev", "-data-dir", str(tmp_path / "file" / "x"))
    assert "data_dir" in text
    assert "cannot be written" in text


@pytest.mark.parametrize(
    ("config", "suffix", "why"),
    [
        ("serverr { enabled = true }", ".hcl", 'unknown key "serverr"; did you mean "server"?'),
        ("client { enabld = true }", ".hcl", 'unknown key "client.enabld"; did you mean "enabled"?'),
        ('{"ports": {"http": "many"}}', ".json", "ports.http"),
        ("server: [", ".yaml", "YAML"),
        ('log_level = "loud"', ".hcl", "loud"),
        ("server {", ".hcl", "agent.hcl"),
        ("tls { http = true }", ".hcl", "cert_file"),
        ('tls {\n http = true\n cert_file = "/none"\n key_file = "/none" }', ".hcl", "/none"),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, config: str, suffix: str, why: str) -> None:
    assert why in refused(tmp_path, "-dev", config=config, suffix=suffix)


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((), "needs a role"),
        (("-server",), "data_dir must be set"),
        (("-dev", "-nonsense"), "unknown flag -nonsense"),
        (("-dev", "-http-port", "x"), "-http-port takes a number"),
        (("-dev", "stray"), "unexpected argument"),
        (("-dev", "-bind", "203.0.113.7"), "cannot listen on 203.0.113.7"),
    ],
)
def test_flags_that_are_refused(tmp_path: Path, flags: tuple[str, ...], why: str) -> None:
    assert why in refused(tmp_path, *flags)


def test_a_second_agent_on_the_same_data(tmp_path: Path) -> None:
    with durable(tmp_path / "first") as first:
        text = refused(tmp_path / "second", config=durable_config(first.directory))
        assert "in use by another agent" in text
        first.run(job("still-fine", task("raw_exec")))
        first.wait_allocs("still-fine")
        first.delete("/v1/job/still-fine")
        first.wait_allocs("still-fine", 1, "complete")


def test_a_journal_that_is_no_journal(tmp_path: Path) -> None:
    journal = tmp_path / "data" / "server" / "raft" / "journal"
    journal.parent.mkdir(parents=True)
    journal.write_text("something else entirely")
    assert "journal is not a" in refused(tmp_path, config=durable_config(tmp_path))


# --- how they end ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_dev_agent_takes_its_tasks_along(tmp_path: Path, number: int) -> None:
    with running(tmp_path, "-dev") as agent:
        agent.run(job("x", shell(f"echo $$ > {tmp_path}/pid; sleep 1000")))
        agent.wait_allocs("x")
        pid = until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the task")
        assert agent.end(number) == 0
        assert not Path(f"/proc/{pid}").exists()
        assert not agent.faults()


def test_a_dev_agent_removes_the_directory_that_it_made(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with running(tmp_path, "-dev", env={"TMPDIR": str(scratch)}) as agent:
        agent.run(job("x", shell("sleep 1000")))
        agent.wait_allocs("x")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: "agent.reloaded" in agent.log(), "the reload")
        assert len(list(scratch.glob("nomadpy-dev-*"))) == 1
        assert agent.end() == 0
    assert not list(scratch.glob("nomadpy-dev-*"))


def test_a_dev_agent_keeps_a_directory_that_it_was_given(tmp_path: Path) -> None:
    given = tmp_path / "given"
    with running(tmp_path, "-dev", "-data-dir", str(given)) as agent:
        assert agent.end() == 0
    assert given.is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_durable_agent_leaves_its_tasks_running(tmp_path: Path, number: int) -> None:
    with durable(tmp_path) as agent:
        agent.run(job("x", shell(f"echo $$ > {tmp_path}/pid; sleep 1000")))
        agent.wait_allocs("x")
        pid = until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the task")
        assert agent.end(number) == 0
        assert Path(f"/proc/{pid}").exists()
        agent.start()
        agent.delete("/v1/job/x")
        until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the task")
        assert not agent.faults()


def test_a_second_signal_ends_an_agent_that_waits_for_its_tasks(tmp_path: Path) -> None:
    with running(tmp_path, "-dev") as agent:
        script = f"trap '' TERM INT; echo $$ > {tmp_path}/pid; while :; do sleep 0.2; done"
        agent.run(job("x", shell(script, KillTimeout=60 * 10**9)))
        agent.wait_allocs("x")
        pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip(), "the task"))
        assert agent.process is not None
        agent.process.send_signal(signal.SIGINT)
        until(lambda: "agent.stopping" in agent.log(), "the first signal")
        assert agent.end(signal.SIGINT, timeout_s=5) == 1
        assert "may still run" in agent.log()
        os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in agent.log()


# --- how they reload ---


def test_a_hangup_changes_the_log_level(tmp_path: Path) -> None:
    with durable(tmp_path) as agent:
        assert agent.process is not None

        def provoke() -> int:
            """A refusal, which is logged for those who want to know everything; gives how many were."""
            agent.get("/v1/jobs", status=500, region="mars")
            return agent.log().count("http.refused")

        assert provoke() == 1
        agent.config_file.write_text(agent.config_file.read_text().replace('"DEBUG"', '"INFO"'))
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: "agent.reloaded" in agent.log(), "the reload")
        assert provoke() == 1
        agent.config_file.write_text(agent.config_file.read_text().replace('"INFO"', '"LOUD"'))
        agent.process.send_signal(signal.SIGHUP)
        until(lambda: "agent.reload_failed" in agent.log(), "the refused reload")
        assert 'invalid log level \\"LOUD\\"' in agent.log()
        assert agent.get("/v1/regions") == ["global"]


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    key, cert = directory / f"{name}.key", directory / f"{name}.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-keyout",
        str(key),
        "-out",
        str(cert),
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return key, cert


def test_tls_and_new_certificates(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path, "one")
    config = f'tls {{\n http = true\n cert_file = "{cert}"\n key_file = "{key}"\n }}'
    with running(tmp_path / "agent", "-dev", config=config) as agent:
        assert agent.address.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        assert httpx.get(f"{agent.address}/v1/regions", verify=trusting).json() == ["global"]
        new_key, new_cert = certificate(tmp_path, "two")
        key.write_bytes(new_key.read_bytes())
        cert.write_bytes(new_cert.read_bytes())
        assert agent.http.put("/v1/agent/reload").status_code == 200
        assert httpx.get(f"{agent.address}/v1/regions", verify=ssl.create_default_context(cafile=str(new_cert))).json()
        cert.write_text("broken")
        assert agent.http.put("/v1/agent/reload").status_code in (400, 500)
        assert agent.http.get("/v1/regions").json() == ["global"]


def test_clients_that_have_to_show_a_certificate(tmp_path: Path) -> None:
    key, cert = certificate(tmp_path, "one")
    config = f'tls {{\n http = true\n verify_https_client = true\n ca_file = "{cert}"\n cert_file = "{cert}"\n'
    agent = Agent(tmp_path / "agent", "-dev", config=config + f' key_file = "{key}"\n }}')
    try:
        agent.spawn()
        until(lambda: "agent.started" in agent.log(), "the agent")
        address = agent.banner_file.read_text().split("Web API: ")[1].split("/v1/")[0]
        context = ssl.create_default_context(cafile=str(cert))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/v1/regions", verify=context)
        context.load_cert_chain(cert, key)
        assert httpx.get(f"{address}/v1/regions", verify=context).json() == ["global"]
    finally:
        agent.close()


def test_commands_may_be_forbidden(tmp_path: Path) -> None:
    from sockets import Exec

    with running(tmp_path, "-dev", config="client { disable_remote_exec = true }") as agent:
        agent.run(job("x", task("raw_exec")))
        (stub,) = agent.wait_allocs("x")
        session = Exec(agent.address, f"/v1/client/allocation/{stub['ID']}/exec", task="main", command='["/bin/true"]')
        assert session.finish() is None
        assert (session.code, session.reason) == (1008, "Permission denied")


def test_the_help() -> None:
    said = subprocess.run([str(NOMADPY), "agent", "-help"], capture_output=True, text=True, check=True).stdout
    assert "-data-dir" in said
