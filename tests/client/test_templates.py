"""Templates of tasks: what is written where, as what, and what fails the task."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import trio
from client_world import make_alloc, make_config, make_task, running_client
from fetching import Bench

from nomadpy.client.config import TemplateConfig
from nomadpy.client.env_file import parse_env_file
from nomadpy.client.hooks import HookFailed, HookResult
from nomadpy.client.templates import TemplateHook
from nomadpy.jobspec import load
from nomadpy.model.errors import Invalid
from nomadpy.model.job import RestartPolicy, Template

SAMPLE = Path(__file__).resolve().parents[2] / "jobs" / "template.nomad.hcl"


async def run(bench: Bench) -> HookResult:
    with trio.fail_after(60):
        return await TemplateHook().prestart(bench.context)


def template(data: str = "x", dest: str = "local/out", **fields: Any) -> Template:
    return Template(embedded_tmpl=data, dest_path=dest, perms=fields.pop("perms", "0644"), **fields)


async def failure(bench: Bench) -> HookFailed:
    with pytest.raises(HookFailed) as caught:
        await run(bench)
    return caught.value


async def test_a_template_sees_the_task_and_the_node(tmp_path: Path) -> None:
    names = ("NOMAD_TASK_NAME", "attr.cpu.arch", "meta.rack", "node.unique.name")
    data = "".join(f'{{{{ env "{name}" }}}} ' for name in names) + "{{ timestamp }}"
    bench = Bench(tmp_path, templates=(template(data),))
    result = await run(bench)
    assert (bench.local / "out").read_text() == "web amd64 r7 node-1 2023-11-14T22:13:20Z"
    assert (result.once, dict(result.env), bench.events) == (True, {}, [])


@pytest.mark.parametrize(
    ("dest", "isolation", "expected"),
    [
        ("local/a/b", "none", "web/local/a/b"),
        ("${NOMAD_TASK_DIR}/x", "image", "web/local/x"),
        ("/local/x", "chroot", "web/local/x"),
        ("/alloc/x", "image", "alloc/x"),
        ("${NOMAD_ALLOC_DIR}/data/x", "none", "alloc/data/x"),
        ("../alloc/x", "none", "alloc/x"),
        ("secrets/${NOMAD_TASK_NAME}.conf", "none", "web/secrets/web.conf"),
        ("/etc/app.conf", "none", "web/etc/app.conf"),
    ],
)
async def test_destinations(tmp_path: Path, dest: str, isolation: str, expected: str) -> None:
    bench = Bench(tmp_path, isolation=isolation, templates=(template("é", dest),))
    await run(bench)
    assert (bench.alloc_dir.path / expected).read_text() == "é"


@pytest.mark.parametrize(
    "dest", ["../../x", "../other/x", "private/x", "local/../../web2/x", "", "local/up/x", "local"]
)
async def test_destinations_outside_are_refused(tmp_path: Path, dest: str) -> None:
    bench = Bench(tmp_path, templates=(template("x", dest),))
    (bench.local / "up").symlink_to(tmp_path)
    error = await failure(bench)
    assert (error.event.type, error.recoverable) == ("Task hook failed", False)
    found = [name for _, folders, files in os.walk(tmp_path) for name in (*folders, *files)]
    assert "x" not in found


async def test_a_link_in_the_place_of_the_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, templates=(template("new"),))
    victim = tmp_path / "victim"
    victim.write_text("old")
    (bench.local / "out").symlink_to(victim)
    await run(bench)
    assert (victim.read_text(), (bench.local / "out").read_text()) == ("old", "new")


async def test_permissions_and_owner(tmp_path: Path) -> None:
    bench = Bench(tmp_path, templates=(template(perms="0640", uid=os.geteuid(), gid=os.getegid()),))
    await run(bench)
    assert stat.S_IMODE((bench.local / "out").stat().st_mode) == 0o640
    assert [path.name for path in bench.local.iterdir()] == ["out"]


async def test_variables_for_the_task(tmp_path: Path) -> None:
    data = 'A={{ env "NOMAD_TASK_NAME" }}\n# note\nexport B="x\\ny"\n\nC=\'$z\' # d\n'
    bench = Bench(tmp_path, templates=(template(data, "secrets/env", envvars=True), template("A=2", envvars=True)))
    assert dict((await run(bench)).env) == {"A": "2", "B": "x\ny", "C": "$z"}


async def test_source_files_and_delimiters(tmp_path: Path) -> None:
    one = Template(source_path="local/in.tpl", dest_path="local/out", left_delim="[[", right_delim="]]", perms="600")
    bench = Bench(tmp_path, templates=(one,))
    (bench.local / "in.tpl").write_bytes(b"[[ 1 ]]{{ 2 }}\xff")
    await run(bench)
    assert (bench.local / "out").read_bytes() == b"1{{ 2 }}\xff"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": "a\n{{ nope }}"}, "template for local/out:2: there is no function nope"),
        ({"data": '{{ nomadVar "a" }}'}, "nomadVar cannot be used: Variables"),
        ({"data": "{{ (parseJSON `{}`).a }}", "err_missing_key": True}, 'there is no key "a"'),
        ({"data": "no variable", "envvars": True}, "line 1 of the variables is not KEY=VALUE"),
        ({"data": "", "source_path": "local/none"}, "local/none: the source cannot be read: No such file"),
        ({"data": '{{ file "../../../secret" }}'}, "escapes the task and alloc directories"),
        ({"data": '{{ file "local/up/secret" }}'}, "leads out of its directory through a link"),
        ({"data": '{{ file "private/x" }}'}, "private directory"),
        ({"data": '{{ file "local/pipe" }}'}, "not a plain file"),
    ],
)
async def test_what_cannot_be_rendered_fails_the_task(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (tmp_path / "secret").write_text("s")
    bench = Bench(tmp_path, templates=(template("y", "local/first"), template(**fields)))
    (bench.local / "up").symlink_to(tmp_path)
    os.mkfifo(bench.local / "pipe")
    error = await failure(bench)
    assert said in error.event.display_message
    assert (error.event.type, error.event.fails_task, error.recoverable) == ("Template", True, False)
    assert not (bench.local / "first").exists(), "nothing is written until everything is rendered"


async def test_the_operator_may_open_the_sandbox_and_deny_functions(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("h")
    config = {"template": TemplateConfig(disable_file_sandbox=True, function_denylist=("env",))}
    bench = Bench(tmp_path, config=config, templates=(template(f'{{{{ file "{tmp_path}/host" }}}}'),))
    await run(bench)
    assert (bench.local / "out").read_text() == "h"
    denied = Bench(tmp_path, config=config, templates=(template('{{ env "A" }}'),))
    assert "env cannot be used: it is denied" in (await failure(denied)).message


async def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path, jumping_clock: object) -> None:
    bench = Bench(
        tmp_path,
        isolation="image",
        templates=(template('{{ file "/alloc/a" }}'), template('{{ file "local/b" }}', "local/2")),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, bench)
        with trio.fail_after(60):
            await bench.told.wait()
        assert bench.events[0].display_message == "Missing: file(/alloc/a), file(local/b)"
        (bench.shared / "a").write_text("1")
        (bench.local / "b").write_text("2")
    assert ((bench.local / "out").read_text(), (bench.local / "2").read_text()) == ("1", "2")
    assert [event.type for event in bench.events] == ["Template"]


async def test_variables_reach_the_task_and_templates_are_rendered_again_only_when_asked(
    tmp_path: Path, jumping_clock: object
) -> None:
    for again in (False, True):
        policy = RestartPolicy(attempts=2, interval_ns=10**12, delay_ns=10**9, mode="fail", render_templates=again)
        one = template('N={{ env "NOMAD_TASK_NAME" }}', envvars=True)
        task = make_task(templates=(one,), config={"note": "${N}"}, restart_policy=policy, env={"N": "from the job"})
        async with running_client(make_config(tmp_path / str(again)), task_hooks=(TemplateHook(),)) as world:
            alloc = make_alloc(task)
            world.servers.put(alloc)
            await world.until_status(alloc, "running")
            attempt = world.driver.attempt_of("web")
            assert (attempt.config.env["N"], attempt.config.config["note"]) == ("web", "web")
            out = tmp_path / str(again) / "alloc" / alloc.id / "web" / "local" / "out"
            out.write_text("changed")
            attempt.end(exit_code=1)
            await world.until(lambda: len(world.driver.starts) == 2)
            assert out.read_text() == ("N=web" if again else "changed")
            assert world.driver.attempt_of("web").config.env["N"] == "web"


async def test_a_template_that_fails_fails_the_allocation(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path), task_hooks=(TemplateHook(),)) as world:
        alloc = make_alloc(make_task(templates=(template('{{ secret "x" }}'),)))
        world.servers.put(alloc)
        await world.until_status(alloc, "failed")
        assert world.servers.types(alloc.id)[-2:] == ["Template", "Not Restarting"]
        assert world.driver.starts == []


async def test_the_sample_job_renders(tmp_path: Path) -> None:
    bench = Bench(tmp_path, templates=load(str(SAMPLE)).job.task_groups[0].tasks[0].templates)
    result = await run(bench)
    assert (bench.local / "greeting.txt").read_text().startswith("\nHello Alice and Bob,\nthis is web of example\n")
    assert (result.env["LOG_LEVEL"], len(result.env["GREETING_SUM"])) == ("info", 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=", {"A": ""}),
        ("A = b c # d", {"A": "b c"}),
        ("A=b#c", {"A": "b#c"}),
        ("A=#c", {"A": ""}),
        ('A="b # c" # d', {"A": "b # c"}),
        ('A="\\u00e9\\"\\q"', {"A": 'é"q'}),
        ("A='b\\n'\r\nexport B.x-y=2", {"A": "b\\n", "B.x-y": "2"}),
        ("A=1=2", {"A": "1=2"}),
    ],
)
def test_env_files(text: str, expected: dict[str, str]) -> None:
    assert parse_env_file(text) == expected


@pytest.mark.parametrize("text", ["A", "=b", "A='b", 'A="b', "A='b' c", "A B=c", "A=\0"])
def test_env_files_that_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="line 1"):
        parse_env_file(text)
