"""What the HTTP API asks of a client: files, logs, statistics, orders; with Nomad's texts and codes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from client_world import make_alloc, make_config, make_task, running_client

from nomadpy.client.client import Client
from nomadpy.client.files import sniff
from nomadpy.model.alloc import Allocation
from nomadpy.model.errors import NomadError
from nomadpy.rpc.contract import StreamChunk


async def with_alloc(tmp_path: Path, test: Callable[[Client, Allocation, Path], Awaitable[None]]) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        await test(world.client, alloc, tmp_path / "alloc" / alloc.id)


async def refused(status: int, text: str, call: Awaitable[object]) -> None:
    with pytest.raises(NomadError) as caught:
        await call
    assert (caught.value.status, caught.value.message) == (status, text)


async def collect(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_files_are_listed_and_read(tmp_path: Path, jumping_clock: object) -> None:
    async def test(client: Client, alloc: Allocation, root: Path) -> None:
        (root / "web" / "local" / "f.txt").write_text("0123456789")
        assert [e.name for e in await client.fs_list(alloc.id, "/")] == ["alloc", "web"]
        names = [(e.name, e.is_dir, e.file_mode) for e in await client.fs_list(alloc.id, "web")]
        assert ("local", True, "drwxrwxrwx") in names
        info = await client.fs_stat(alloc.id, "web/local/f.txt")
        assert (info.size, info.content_type, info.is_dir) == (10, "text/plain; charset=utf-8", False)
        assert await collect(await client.fs_read(alloc.id, "web/local/f.txt")) == b"0123456789"
        assert await collect(await client.fs_read(alloc.id, "/web/local/f.txt", 3, 4)) == b"3456"

    await with_alloc(tmp_path, test)


async def test_refusals_have_nomads_words(tmp_path: Path, jumping_clock: object) -> None:
    async def test(client: Client, alloc: Allocation, root: Path) -> None:
        (root / "web" / "secrets" / "token").write_text("s")
        (root / "web" / "local" / "out").symlink_to("/etc")
        os.mkfifo(root / "web" / "local" / "pipe")
        a = alloc.id
        await refused(404, 'Unknown allocation "x"', client.fs_list("x", "/"))
        await refused(404, "open nope: no such file or directory", client.fs_list(a, "nope"))
        await refused(404, "stat nope: no such file or directory", client.fs_stat(a, "nope"))
        await refused(400, "open nope: no such file or directory", client.fs_read(a, "nope"))
        await refused(400, 'file "web" is a directory', client.fs_read(a, "web"))
        await refused(400, "Path escapes the alloc directory", client.fs_read(a, "../../etc/passwd"))
        await refused(400, "Path escapes the alloc directory", client.fs_read(a, "web/local/out/passwd"))
        await refused(400, "Path escapes the alloc directory", client.fs_list(a, "web/local/out"))
        await refused(400, "Reading secret file prohibited: web/secrets/token", client.fs_read(a, "web/secrets/token"))
        await refused(400, 'file "web/local/pipe" is not a regular file', client.fs_read(a, "web/local/pipe"))
        await refused(400, 'unknown task name "x"', client.alloc_signal(a, "x", "SIGHUP"))
        await refused(404, 'Unknown allocation "x"', client.alloc_restart("x"))

    await with_alloc(tmp_path, test)


async def read_until(stream: AsyncIterator[StreamChunk], n_bytes: int) -> tuple[bytes, StreamChunk]:
    data, last = b"", StreamChunk()
    with trio.fail_after(60):
        while len(data) < n_bytes:
            last = await anext(stream)
            data += last.data
    return data, last


async def test_a_file_is_followed_through_growth_truncation_and_deletion(tmp_path: Path, jumping_clock: object) -> None:
    async def test(client: Client, alloc: Allocation, root: Path) -> None:
        path = root / "web" / "local" / "f"
        path.write_text("abcdef")
        async with client.fs_stream(alloc.id, "web/local/f", offset=2, origin="end", follow=True) as stream:
            data, last = await read_until(stream, 2)
            assert (data, last.offset, last.file) == (b"ef", 6, "web/local/f")
            with path.open("a") as file:
                file.write("gh")
            assert (await read_until(stream, 2))[0] == b"gh"
            beat = await anext(stream)
            assert beat == StreamChunk()
            path.write_text("xy")
            while not (chunk := await anext(stream)).event:
                pass
            assert chunk.event == "file truncated"
            assert (await read_until(stream, 2))[0] == b"xy"
            path.unlink()
            events = [chunk.event async for chunk in stream if chunk != StreamChunk()]
            assert events == ["file deleted"]

    await with_alloc(tmp_path, test)


async def test_logs_are_one_text_over_rotated_files(tmp_path: Path, jumping_clock: object) -> None:
    async def test(client: Client, alloc: Allocation, root: Path) -> None:
        logs = root / "alloc" / "logs"
        (logs / "web.stdout.3").write_text("three\n")
        (logs / "web.stdout.4").write_text("four\n")
        (logs / "web.stderr.9").write_text("no\n")

        async def read(offset: int, origin: str) -> bytes:
            async with client.logs(alloc.id, "web", "stdout", offset=offset, origin=origin, follow=False) as stream:
                return b"".join([chunk.data async for chunk in stream])

        assert await read(0, "start") == b"three\nfour\n"
        assert await read(7, "start") == b"our\n"
        assert await read(7, "end") == b"e\nfour\n"
        assert await read(999, "end") == b"three\nfour\n"
        assert await read(999, "start") == b""
        async with client.logs(alloc.id, "web", "stdout", offset=0, origin="end", follow=True) as stream:
            (logs / "web.stdout.4").write_text("four\nmore\n")
            assert (await read_until(stream, 5))[0] == b"more\n"
            (logs / "web.stdout.5").write_text("five\n")
            data, last = await read_until(stream, 5)
            assert (data, last.file) == (b"five\n", "alloc/logs/web.stdout.5")

    await with_alloc(tmp_path, test)


async def test_logs_of_what_never_ran(tmp_path: Path, jumping_clock: object) -> None:
    async def open_logs(client: Client, alloc: Allocation, task: str, kind: str = "stdout") -> None:
        async with client.logs(alloc.id, task, kind, offset=0, origin="start", follow=False) as stream:
            await anext(stream)

    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc(make_task("init", hook="prestart"), make_task("web"))
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        client = world.client
        await refused(404, 'task "web" not started yet. No logs available', open_logs(client, alloc, "web"))
        await refused(400, 'unknown task name "x"', open_logs(client, alloc, "x"))
        await refused(400, "must provide log type (stdout/stderr)", open_logs(client, alloc, "web", "z"))


async def test_statistics_have_nomads_shapes(tmp_path: Path, jumping_clock: object) -> None:
    async def test(client: Client, alloc: Allocation, root: Path) -> None:
        host = await client.host_stats()
        assert set(host.memory) == {"Total", "Available", "Used", "Free"}
        assert {"CPU", "User", "System", "Idle", "TotalPercent", "TotalTicks"} <= set(host.cpu[0])
        assert host.alloc_dir_stats["Size"] > 0
        usage = await client.alloc_stats(alloc.id)
        assert set(usage.tasks) == {"web"}
        assert usage.resource_usage.cpu_stats.percent == 0

    await with_alloc(tmp_path, test)


async def test_signals_and_gc(tmp_path: Path, jumping_clock: object) -> None:
    async with running_client(make_config(tmp_path)) as world:
        alloc = make_alloc()
        world.servers.put(alloc)
        await world.until_status(alloc, "running")
        await world.client.alloc_signal(alloc.id, "", "SIGHUP")
        await refused(400, "invalid signal: SIGBOGUS", world.client.alloc_signal(alloc.id, "", "SIGBOGUS"))
        assert world.driver.attempt_of("web").signals == ["SIGHUP"]
        events = world.client.runners[alloc.id].task_states()["web"].events
        assert [event.task_signal for event in events if event.type == "Signaling"] == ["SIGHUP"]
        await refused(
            500,
            "Failed to garbage collect: allocation is not in a terminal state",
            world.client.alloc_gc(alloc.id),
        )
        world.servers.stop(alloc.id)
        await world.until_status(alloc, "complete")
        await refused(500, "Task not running", world.client.alloc_signal(alloc.id, "web", "SIGHUP"))
        await world.until(lambda: world.client.runners[alloc.id].local.acknowledged)
        await world.client.alloc_gc(alloc.id)
        assert not world.client.has_alloc(alloc.id)


@pytest.mark.parametrize(("head", "kind"), [(b"%PDF-1.7", "application/pdf"), (b"", "text/plain; charset=utf-8")])
def test_content_is_sniffed(head: bytes, kind: str) -> None:
    assert sniff(head) == kind
