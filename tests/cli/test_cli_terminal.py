"""Commands on a real terminal: boards are redrawn, keys are read, colours obey, and the terminal is left as it was."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import cli_payloads as p
import pytest

DEADLINE_S = 30.0


class Terminal:
    """One command on a pseudo-terminal of 80 by 24."""

    def __init__(self, address: str, *args: str, **environ: str) -> None:
        self.side, inner = pty.openpty()
        termios.tcsetwinsize(inner, (24, 80))
        self.before = termios.tcgetattr(inner)
        plain = {name: value for name, value in os.environ.items() if not name.endswith(("COLOR", "COLUMNS", "LINES"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nomadpy.cli.main", *args],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env={**plain, "TERM": "xterm-256color", "NOMAD_ADDR": address, **environ},
            # Tests that run in the background of a script inherit that this signal is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.inner = inner
        self.seen = ""

    def until(self, text: str) -> None:
        """Read until the text has appeared."""
        end_s = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert time.monotonic() < end_s, f"{text!r} did not appear in {self.seen!r}"
            if select.select([self.side], [], [], 0.1)[0]:
                self.seen += os.read(self.side, 65536).decode(errors="replace")

    def press(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def leave(self, *last_words: str) -> int:
        """The exit code, once the last words have been read: the kernel may hand them over after the exit."""
        code = self.process.wait(DEADLINE_S)
        for text in last_words:
            self.until(text)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_S)
        os.close(self.side)
        os.close(self.inner)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.close()


def opened(terminals: list[Terminal], address: str, *args: str, **environ: str) -> Terminal:
    terminals.append(Terminal(address, *args, **environ))
    return terminals[-1]


def test_top_takes_the_screen_and_gives_it_back(cluster: Any, terminals: list[Terminal]) -> None:
    terminal = opened(terminals, cluster.address, "top")
    terminal.until("q quit")
    assert "\x1b[?1049h" in terminal.seen
    terminal.press("3")
    terminal.until("web.front[0]")
    terminal.press("/nothing\r")
    terminal.until(" 0 of 2")
    terminal.press("q")
    assert terminal.leave("\x1b[?1049l") == 0
    assert termios.tcgetattr(terminal.inner) == terminal.before


@pytest.fixture
def job_file(tmp_path: Any) -> str:
    path = tmp_path / "web.json"
    path.write_text('{"ID": "web"}')
    return str(path)


def test_job_run_draws_a_board(cluster: Any, terminals: list[Terminal], job_file: str) -> None:
    terminal = opened(terminals, cluster.address, "job", "run", job_file)
    assert terminal.leave("Deployment completed successfully") == 0
    assert "\x1b[32m" in terminal.seen
    assert "==>" not in terminal.seen


def test_a_deployment_is_followed_on_a_board(cluster: Any, terminals: list[Terminal]) -> None:
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", p.deployment(Status="running", StatusDescription="going on"))
    terminal = opened(terminals, cluster.address, "deployment", "status", "-monitor", p.DEPLOYMENT)
    terminal.until("Running")
    assert "Evaluation" not in terminal.seen
    terminal.process.send_signal(2)
    assert terminal.leave("Stopped watching") == 130


@pytest.mark.parametrize("variable", ["NO_COLOR", "NOMAD_CLI_NO_COLOR"])
def test_no_colour_on_a_terminal(cluster: Any, terminals: list[Terminal], variable: str) -> None:
    terminal = opened(terminals, cluster.address, "job", "status", **{variable: "1"})
    assert terminal.leave("nightly") == 0
    assert "\x1b" not in terminal.seen


def test_interrupting_stops_the_watching_only(cluster: Any, terminals: list[Terminal], job_file: str) -> None:
    cluster.on("GET", f"/v1/deployment/{p.DEPLOYMENT}", p.deployment(Status="running", StatusDescription="going on"))
    terminal = opened(terminals, cluster.address, "run", job_file)
    terminal.until("going on")
    # The test's terminal controls no session, so a key would have nobody to send the signal to.
    terminal.process.send_signal(2)
    assert terminal.leave("Stopped watching; what was submitted goes on.") == 130
    assert "Traceback" not in terminal.seen


def test_a_dumb_terminal_gets_lines(cluster: Any, terminals: list[Terminal], job_file: str) -> None:
    terminal = opened(terminals, cluster.address, "run", job_file, TERM="dumb")
    assert terminal.leave("==>", 'status changed to "complete"') == 0
    assert "\x1b" not in terminal.seen
