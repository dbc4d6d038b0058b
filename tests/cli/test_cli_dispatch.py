"""Finding the command that was typed, and what happens when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from nomadpy import __version__
from nomadpy.cli import commands, invoke
from nomadpy.cli.failures import UsageProblem

Run = Callable[..., Any]


def modules_after(*argv: str) -> set[str]:
    """The top-level modules a fresh interpreter has imported after one command line."""
    code = f"import sys; from nomadpy.cli.main import run; run({list(argv)!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("argv", [(), ("version",), ("job",), ("jbo", "run")])
def test_quick_commands_import_nothing_heavy(argv: tuple[str, ...]) -> None:
    heavy = {"typer", "rich", "http.client", "httpx", "msgspec", "trio", "numpy"}
    assert not modules_after(*argv) & heavy


def test_a_command_imports_only_its_own_module() -> None:
    loaded = modules_after("job", "status", "-address", "http://127.0.0.1:1")
    assert "nomadpy.cli.verbs.job_read" in loaded
    assert not loaded & {"nomadpy.cli.verbs.node", "nomadpy.cli.verbs.top", "httpx", "trio", "numpy", "nomadpy.server"}


@pytest.mark.parametrize("argv", [["version"], ["-version"], ["--version"], ["-v"], ["version", "-no-color"]])
def test_version(nomadpy: Run, argv: list[str]) -> None:
    assert nomadpy(*argv).out == f"nomadpy v{__version__}\n"


def test_no_arguments_show_the_front_page(nomadpy: Run) -> None:
    seen = nomadpy()
    assert seen.code == 0
    assert "nomadpy agent" not in seen.err
    assert all(name.split()[0] in seen.out for name in commands.COMMANDS)
    assert max(map(len, seen.out.splitlines())) <= 80


def test_a_group_alone_lists_its_commands(nomadpy: Run) -> None:
    seen = nomadpy("node", "pool")
    assert (seen.code, "node pool list" in seen.out) == (1, True)
    assert nomadpy("job", "-help").code == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["jbo", "run"], 'there is no command "jbo run". Did you mean "nomadpy job run"?'),
        (["job", "statu"], 'Did you mean "nomadpy job status"?'),
        (["versoin"], 'Did you mean "nomadpy version"?'),
        (["job", "zzzz"], '"nomadpy job" lists what there is.'),
        (["zzzz"], '"nomadpy" lists what there is.'),
    ],
)
def test_unknown_commands_get_one_line(nomadpy: Run, argv: list[str], said: str) -> None:
    seen = nomadpy(*argv)
    assert seen.code == 1
    assert said in seen.err
    assert seen.err.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in commands.COMMANDS if name != "agent"])
def test_every_command_of_the_table_explains_itself(nomadpy: Run, name: str) -> None:
    seen = nomadpy(*name.split(), "-help")
    assert seen.code == 0
    assert seen.out.startswith(f"Usage: nomadpy {name}")
    assert "-address" in seen.out
    assert max(map(len, seen.out.splitlines())) <= 100


def test_help_before_the_command(nomadpy: Run) -> None:
    assert nomadpy("help", "job", "run").out == nomadpy("job", "run", "--help").out


def spell(name: str, *args: str) -> list[str]:
    command = invoke.load(name)
    assert isinstance(command, invoke.Verb)
    return command.spell(list(args))


def test_flags_are_understood_in_every_spelling() -> None:
    assert spell("job run", "--detach", "x.hcl") == ["-detach", "x.hcl"]
    assert spell("job run", "x.hcl", "-detach=true") == ["x.hcl", "-detach"]
    assert spell("job run", "-detach=false", "x.hcl") == ["x.hcl"]
    assert spell("job run", "-hcl2-strict=false", "-") == ["-no-hcl2-strict", "-"]
    assert spell("job run", "-var=a=b", "--var", "-c=-d", "x") == ["-var", "a=b", "-var", "-c=-d", "x"]
    assert spell("job run", "--", "-x") == ["--", "-x"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-detahc"], "there is no flag -detahc. Did you mean -detach?"),
        (["-qqqq"], "there is no flag -qqqq."),
        (["-var"], "the flag -var needs a value"),
        (["-detach=maybe"], 'the flag -detach is true or false, not "maybe"'),
    ],
)
def test_wrong_flags(args: list[str], said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        spell("job run", *args)
    assert str(caught.value) == said


def test_a_command_line_that_is_passed_on_keeps_its_flags() -> None:
    command = invoke.load("alloc exec")
    assert isinstance(command, invoke.Verb)
    args = ["--task", "web", "a1b2", "ls", "--color", "-l"]
    assert command.spell(args, interspersed=False) == ["-task", "web", "a1b2", "ls", "--color", "-l"]


def test_missing_arguments_are_named(nomadpy: Run) -> None:
    seen = nomadpy("job", "run")
    assert seen.code == 1
    assert "path" in seen.err.lower()
    assert "nomadpy job run -help" in seen.err
    assert "Traceback" not in seen.err


def test_nobody_at_the_address(nomadpy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMAD_ADDR", "http://127.0.0.1:1")
    seen = nomadpy("job", "status")
    assert seen.code == 1
    assert "no agent answers at http://127.0.0.1:1" in seen.err
    assert "nomadpy agent -dev" in seen.err
    assert seen.err.count("\n") == 1


def test_the_agent_is_handed_its_own_command_line(monkeypatch: pytest.MonkeyPatch, nomadpy: Run) -> None:
    import types

    seen: list[list[str]] = []
    module = types.ModuleType("nomadpy.agent.main")
    module.run = lambda args: seen.append(args) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nomadpy.agent.main", module)
    assert nomadpy("agent", "-dev", "-help").code == 7
    assert seen == [["-dev", "-help"]]


def test_a_fault_of_ours_is_one_line_unless_asked(monkeypatch: pytest.MonkeyPatch, nomadpy: Run, cluster: Any) -> None:
    del cluster
    from nomadpy.cli.verbs import job_read

    def broken(*_args: Any, **_more: Any) -> None:
        raise KeyError("Status")

    monkeypatch.setattr(job_read, "_list", broken)
    seen = nomadpy("job", "status")
    assert seen.code == 1
    assert "a fault in nomadpy itself: KeyError" in seen.err
    assert "Traceback" not in seen.err
    monkeypatch.setenv("NOMADPY_DEBUG", "1")
    with pytest.raises(KeyError):
        nomadpy("job", "status")


def test_a_reader_that_went_away_is_no_error(cluster: Any) -> None:
    script = f"{sys.executable} -m nomadpy.cli.main job status | true"
    environ = {**os.environ, "NOMAD_ADDR": cluster.address}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.stderr == ""
