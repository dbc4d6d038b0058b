"""Artifacts of tasks: what is fetched from a server on loopback, where it goes, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from client_world import make_alloc, make_config, make_task, running_client
from fetching import Bench, Web, web_server
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.client.artifacts import ArtifactHook
from nomadpy.client.config import ArtifactConfig
from nomadpy.client.getter.archive import Limits, unpack
from nomadpy.client.hooks import HookFailed
from nomadpy.model.errors import Invalid
from nomadpy.model.job import RestartPolicy, TaskArtifact


@pytest.fixture
def web() -> Iterator[Web]:
    with web_server() as server:
        yield server


def artifact(source: str, dest: str = "local/", **fields: Any) -> TaskArtifact:
    names = {"options": "getter_options", "headers": "getter_headers", "mode": "getter_mode"}
    return TaskArtifact(getter_source=source, relative_dest=dest, **{names.get(k, k): v for k, v in fields.items()})


async def run(bench: Bench) -> None:
    with trio.fail_after(30):
        assert (await ArtifactHook().prestart(bench.context)).once
    assert bench.leftovers() == []


async def failure(bench: Bench) -> str:
    with pytest.raises(HookFailed) as caught, trio.fail_after(30):
        await ArtifactHook().prestart(bench.context)
    assert (caught.value.event.type, caught.value.recoverable) == ("Failed Artifact Download", True)
    return caught.value.event.display_message


Member = tuple[str, bytes] | tuple[tarfile.TarInfo, bytes]


def tar_of(*members: Member, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for head, content in members:
            info = tarfile.TarInfo(head) if isinstance(head, str) else head
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info


def zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


async def test_a_file_with_options_headers_and_names_filled_in(tmp_path: Path, web: Web) -> None:
    web.files["/web/app.bin"] = b"hello"
    one = artifact(
        f"{web.url}/${{NOMAD_TASK_NAME}}/app.bin",
        "local/${NOMAD_TASK_NAME}",
        options={"v": "${NOMAD_JOB_ID}", "checksum": f"sha256:{hashlib.sha256(b'hello').hexdigest()}"},
        headers={"X-Who": "${NOMAD_GROUP_NAME}"},
    )
    bench = Bench(tmp_path, artifacts=(one,))
    await run(bench)
    assert (bench.local / "web" / "app.bin").read_bytes() == b"hello"
    path, headers = web.seen[0]
    assert (path, headers["X-Who"]) == ("/web/app.bin?v=example", "g")
    assert [event.type for event in bench.events] == ["Downloading Artifacts"]


async def test_a_file_may_be_named_by_mode_or_option(tmp_path: Path, web: Web) -> None:
    web.files |= {"/a": b"1", "/b": b"2"}
    mode = artifact(f"{web.url}/a", "${NOMAD_ALLOC_DIR}/data/x", mode="file")
    option = artifact(f"{web.url}/b", options={"filename": "y"})
    bench = Bench(tmp_path, artifacts=(mode, option))
    await run(bench)
    assert ((bench.shared / "data" / "x").read_bytes(), (bench.local / "y").read_bytes()) == (b"1", b"2")


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        ("tar", lambda data: data),
        ("tar.gz", gzip.compress),
        ("tgz", gzip.compress),
        ("tar.bz2", bz2.compress),
        ("tbz2", bz2.compress),
        ("tar.xz", lzma.compress),
        ("txz", lzma.compress),
    ],
)
async def test_archives_are_unpacked(tmp_path: Path, web: Web, ending: str, pack: Callable[[bytes], bytes]) -> None:
    script = member("bin/run", tarfile.REGTYPE, mode=0o4755)
    link = member("current", tarfile.SYMTYPE, "bin")
    hard = member("again", tarfile.LNKTYPE, "bin/run")
    web.files[f"/x.{ending}"] = pack(
        tar_of((member("bin", tarfile.DIRTYPE), b""), (script, b"go"), (link, b""), (hard, b""))
    )
    bench = Bench(tmp_path, artifacts=(artifact(f"{web.url}/x.{ending}"),))
    await run(bench)
    assert (bench.local / "current" / "run").read_bytes() == (bench.local / "again").read_bytes() == b"go"
    assert stat.S_IMODE((bench.local / "bin" / "run").stat().st_mode) == 0o755


async def test_zip_and_single_compressed_files(tmp_path: Path, web: Web) -> None:
    web.files |= {"/a.zip": zip_of({"d/e.txt": b"e", "f": b"f"}), "/notes.txt.gz": gzip.compress(b"n")}
    web.files["/one.xz"] = lzma.compress(b"o")
    one = (artifact(f"{web.url}/a.zip", "secrets/z", mode="dir"), artifact(f"{web.url}/notes.txt.gz"))
    bench = Bench(tmp_path, artifacts=(*one, artifact(f"{web.url}/one.xz", "local/two", mode="file")))
    await run(bench)
    assert (bench.secrets / "z" / "d" / "e.txt").read_bytes() == b"e"
    assert ((bench.local / "notes.txt").read_bytes(), (bench.local / "two").read_bytes()) == (b"n", b"o")


async def test_archives_stay_packed_when_told_and_subdirectories_can_be_picked(tmp_path: Path, web: Web) -> None:
    web.files["/x.tar"] = tar_of(("v1.2/bin/a", b"a"), ("v1.2/b", b"b"))
    kept = artifact(f"{web.url}/x.tar", options={"archive": "false"})
    picked = artifact(f"{web.url}/x.tar//v1.*/bin", "local/picked")
    bench = Bench(tmp_path, artifacts=(kept, picked))
    await run(bench)
    assert (bench.local / "x.tar").read_bytes() == web.files["/x.tar"]
    assert [path.name for path in (bench.local / "picked").iterdir()] == ["a"]


@pytest.mark.parametrize(
    "members",
    [
        [("../out", b"x")],
        [("a/../../out", b"x")],
        [(member("up", tarfile.SYMTYPE, "/etc"), b"")],
        [(member("up", tarfile.SYMTYPE, "../.."), b"")],
        [(member("a/up", tarfile.SYMTYPE, "../../x"), b"")],
        [(member("d/l", tarfile.SYMTYPE, ".."), b""), (member("m", tarfile.SYMTYPE, "d/l/../x"), b"")],
        [(member("l", tarfile.SYMTYPE, "d"), b""), ("l/file", b"x")],
        [(member("h", tarfile.LNKTYPE, "/etc/passwd"), b"")],
        [(member("h", tarfile.LNKTYPE, "../x"), b"")],
        [(member("null", tarfile.CHRTYPE), b"")],
        [(member("pipe", tarfile.FIFOTYPE), b"")],
        [("a", b"x"), ("a/b", b"y")],
        [("n" * 300, b"x")],
    ],
)
async def test_archives_that_are_refused(tmp_path: Path, web: Web, members: list[Any]) -> None:
    web.files["/x.tar"] = tar_of(*members)
    bench = Bench(tmp_path, artifacts=(artifact(f"{web.url}/x.tar"),))
    assert await failure(bench)
    assert list(bench.local.iterdir()) == []


async def test_an_absolute_name_stays_below_the_destination(tmp_path: Path, web: Web) -> None:
    web.files["/x.tar"] = tar_of(("/abs/a", b"x"))
    bench = Bench(tmp_path, artifacts=(artifact(f"{web.url}/x.tar"),))
    await run(bench)
    assert (bench.local / "abs" / "a").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"http_max_size": 1000}, "larger than the 1000 bytes"),
        ({"decompression_file_count_limit": 2}, "more than the 2 files"),
        ({"decompression_size_limit": 5000}, "more than the 5000 bytes"),
    ],
)
async def test_limits(tmp_path: Path, web: Web, config: dict[str, Any], said: str) -> None:
    web.files["/x.tar"] = tar_of(("a", b"x" * 3000), ("b", b"x" * 3000), ("c", b""))
    limits = {"artifact": ArtifactConfig(**config)}
    assert said in await failure(Bench(tmp_path, config=limits, artifacts=(artifact(f"{web.url}/x.tar"),)))


@pytest.mark.parametrize(
    ("source", "fields", "said"),
    [
        ("{web}/none", {}, "answers with HTTP status 404"),
        ("http://127.0.0.1:1/x", {}, "could not be read"),
        ("{web}/a", {"options": {"checksum": "md5:" + "0" * 32}}, "the md5 checksum is"),
        ("{web}/a", {"dest": "../../x"}, "escapes the task"),
        ("{web}/a", {"dest": "private/"}, "private directory"),
        ("{web}/a", {"mode": "dir"}, "mode dir needs an archive"),
        ("{web}/bad.zip", {}, "damaged"),
        ("{web}/bad.tgz", {}, "damaged"),
        ("{web}/bad.txz", {}, "damaged"),
        ("{web}/a.zst", {}, "not supported by this version"),
        ("{web}/two.zip", {"mode": "file", "dest": "local/one"}, "exactly one file"),
        ("{web}/loop", {}, "redirects"),
        ("{web}/moved", {}, "unsupported protocol"),
        ("git::{web}/none.git", {}, "git clone of"),
        ("git::{web}/r.git", {"mode": "file"}, "mode file cannot hold it"),
    ],
)
async def test_failures_say_why(tmp_path: Path, web: Web, source: str, fields: dict[str, Any], said: str) -> None:
    web.files |= dict.fromkeys(("/a", "/bad.zip", "/bad.tgz", "/bad.txz", "/a.zst"), b"plain")
    web.files["/two.zip"] = zip_of({"a": b"", "b": b""})
    web.redirects |= {"/loop": "/loop", "/moved": "file:///etc/passwd"}
    one = artifact(source.format(web=web.url), **fields)
    assert said in await failure(Bench(tmp_path, artifacts=(one,)))


async def test_a_failed_artifact_leaves_the_others_done(tmp_path: Path, web: Web) -> None:
    web.files["/a"] = b"1"
    bench = Bench(tmp_path, artifacts=(artifact(f"{web.url}/a"), artifact(f"{web.url}/b")))
    await failure(bench)
    (bench.local / "a").unlink()
    web.files["/b"] = b"2"
    await run(bench)
    assert web.paths().count("/a") == 1
    assert [path.name for path in bench.local.iterdir()] == ["b"]


async def test_links_of_the_task_are_not_followed(tmp_path: Path, web: Web) -> None:
    web.files |= {"/a": b"new", "/x.tar": tar_of(("d/f", b"x"))}
    bench = Bench(tmp_path, artifacts=(artifact(f"{web.url}/a"),))
    (tmp_path / "victim").write_text("old")
    (bench.local / "a").symlink_to(tmp_path / "victim")
    await run(bench)
    assert (tmp_path / "victim").read_text() == "old"
    other = Bench(tmp_path, artifacts=(artifact(f"{web.url}/x.tar"),))
    (other.local / "d").symlink_to(tmp_path)
    assert await failure(other)
    assert not (tmp_path / "f").exists()


async def test_everything_changes_hands_with_chown(tmp_path: Path, web: Web) -> None:
    web.files["/x.tar"] = tar_of(("d/f", b"x"))
    user = f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else "65534:65534"
    bench = Bench(tmp_path, user=user, artifacts=(artifact(f"{web.url}/x.tar", "local/n", chown=True),))
    await run(bench)
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (bench.local / "n").rglob("*")}
    assert owners == {tuple(map(int, user.split(":")))}


def git(*arguments: str, cwd: Path) -> str:
    env = {"PATH": os.environ["PATH"], "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *arguments], cwd=cwd, env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, web: Web) -> str:
    """A repository behind plain HTTP, with a tag and something newer. The answer is its URL."""
    work = tmp_path / "origin"
    (work / "conf").mkdir(parents=True)
    git("init", "-q", cwd=work)
    (work / "conf" / "a").write_text("one")
    git("add", ".", cwd=work)
    git("commit", "-qm", "one", cwd=work)
    git("tag", "v1", cwd=work)
    (work / "conf" / "a").write_text("two")
    git("commit", "-qam", "two", cwd=work)
    git("update-server-info", cwd=work)
    web.folders["/r.git"] = work / ".git"
    return f"git::{web.url}/r.git"


async def test_repositories(tmp_path: Path, repository: str) -> None:
    newest = artifact(repository, "local/new")
    tagged = artifact(f"{repository}?ref=v1", "local/old")
    part = artifact(f"{repository}//conf", "local/part", options={"ref": "main"})
    bench = Bench(tmp_path, artifacts=(newest, tagged, part))
    await run(bench)
    found = [(bench.local / name).read_text() for name in ("new/conf/a", "old/conf/a", "part/a")]
    assert found == ["two", "one", "two"]


async def test_a_repository_without_the_wanted_commit(tmp_path: Path, repository: str) -> None:
    bench = Bench(tmp_path, artifacts=(artifact(f"{repository}?ref=nope"),))
    assert "git checkout of" in await failure(bench)


async def test_a_download_can_be_called_off(tmp_path: Path, web: Web, repository: str) -> None:
    bench = Bench(tmp_path, artifacts=(artifact(repository),))
    with trio.move_on_after(0.005) as scope:
        await ArtifactHook().prestart(bench.context)
    assert scope.cancelled_caught
    assert bench.leftovers() == []
    await run(bench)


async def test_downloads_are_retried_under_the_restart_policy(tmp_path: Path, web: Web) -> None:
    async with running_client(make_config(tmp_path), task_hooks=(ArtifactHook(),)) as world:
        policy = {"restart_policy": make_policy()}
        alloc = make_alloc(make_task(artifacts=(artifact(f"{web.url}/late"),)), **policy)
        world.servers.put(alloc)
        with trio.fail_after(20):
            await world.until(lambda: bool(web.seen))
            web.files["/late"] = b"x"
            await world.until_status(alloc, "running")
        types = world.servers.types(alloc.id)
        assert types[2:5] == ["Downloading Artifacts", "Failed Artifact Download", "Restarting"]


def make_policy() -> RestartPolicy:
    return RestartPolicy(attempts=50, interval_ns=10**12, delay_ns=10**8, mode="fail")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["tar", "tgz", "txz", "tbz2", "zip", "gz", "xz", "bz2"]), st.data())
def test_damaged_archives_are_refused_or_unpacked(kind: str, data: st.DataObject) -> None:
    plain = tar_of(("a/b", b"x" * 600), (member("l", tarfile.SYMTYPE, "a"), b""))
    packed = {"tgz": gzip.compress(plain, mtime=0), "gz": gzip.compress(plain, mtime=0), "txz": lzma.compress(plain)}
    packed |= {"xz": lzma.compress(plain), "tbz2": bz2.compress(plain), "bz2": bz2.compress(plain)}
    content = bytearray({"tar": plain, "zip": zip_of({"a/b": b"x"}), **packed}[kind])
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "in").write_bytes(content)
        Path(folder, "out").mkdir()
        try:
            unpack(kind, f"{folder}/in", f"{folder}/out", name="n", limits=Limits(n_files=50, n_bytes=1 << 20))
        except Invalid:
            pass
