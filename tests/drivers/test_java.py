from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from process_bench import ProcessBench

from nomadpy.drivers import java
from nomadpy.drivers.contract import DriverContext, TaskLimits
from nomadpy.drivers.java import JavaDriver
from nomadpy.model.errors import Fatal

PROGRAM = """
public class Hello {
    public static void main(String[] args) {
        System.out.println(String.join(" ", args) + " " + System.getProperty("greeting"));
        System.exit(args.length);
    }
}
"""


@pytest.fixture(scope="module")
def jar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A jar whose main class prints its arguments and a property."""
    directory = tmp_path_factory.mktemp("jar")
    (directory / "Hello.java").write_text(PROGRAM)
    subprocess.run(["javac", "Hello.java"], cwd=directory, check=True, timeout=120)
    argv = ["jar", "--create", "--file", "hello.jar", "--main-class", "Hello", "Hello.class"]
    subprocess.run(argv, cwd=directory, check=True, timeout=120)
    return directory / "hello.jar"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ProcessBench]:
    place = ProcessBench(tmp_path, "java")
    yield place
    await place.clean()


@pytest.mark.java
@pytest.mark.parametrize("isolated", [pytest.param(True, marks=pytest.mark.exec), False])
async def test_a_jar_runs(bench: ProcessBench, jar: Path, isolated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isolated:
        monkeypatch.setattr(java, "why_not_isolated", lambda: "not here")
    config = {"jar_path": "local/hello.jar", "jvm_options": ["-Dgreeting=hi"], "args": ["a", "b"]}
    async with bench.running() as driver:
        task = bench.task(config, limits=TaskLimits(memory_mb=256))
        await trio.Path(task.dirs.local_dir, "hello.jar").write_bytes(await trio.Path(jar).read_bytes())
        result, output = await bench.run(task)
        assert (result.exit_code, output) == (2, "a b hi\n")
        assert driver.capabilities.fs_isolation == ("chroot" if isolated else "none")


@pytest.mark.java
@pytest.mark.exec
async def test_a_jvm_outside_the_visible_directories_is_shown_as_well(bench: ProcessBench, jar: Path) -> None:
    visible = {path: path for path in ("/lib", "/lib64", "/usr/lib/x86_64-linux-gnu", "/etc")}
    async with bench.running(chroot_env=visible):
        task = bench.task({"jar_path": "local/hello.jar"}, limits=TaskLimits(memory_mb=256))
        await trio.Path(task.dirs.local_dir, "hello.jar").write_bytes(await trio.Path(jar).read_bytes())
        assert (await bench.run(task))[1] == " null\n"


@pytest.mark.java
async def test_a_missing_jar_is_named(bench: ProcessBench) -> None:
    async with bench.running() as driver:
        with pytest.raises(Fatal, match=r'jar_path "local/none.jar" does not exist'):
            await driver.start_task(bench.task({"jar_path": "local/none.jar"}))


@pytest.mark.java
async def test_the_fingerprint_tells_the_jvm() -> None:
    fingerprint = await JavaDriver(DriverContext()).fingerprint()
    assert fingerprint.attributes["driver.java"] == "1"
    assert fingerprint.attributes["driver.java.version"][0].isdigit()
    assert "build" in fingerprint.attributes["driver.java.runtime"]
    assert "VM" in fingerprint.attributes["driver.java.vm"]


async def test_without_java_it_is_not_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java.shutil, "which", lambda name: None)
    fingerprint = await JavaDriver(DriverContext()).fingerprint()
    assert not fingerprint.detected
    assert "no java" in fingerprint.health_description
