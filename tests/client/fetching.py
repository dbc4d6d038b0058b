"""What tests of templates and artifacts share: a small web server on loopback, and a context for a hook."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trio
from client_world import EPOCH_NS, make_alloc, make_config, make_task

from nomadpy.client.allocdir import AllocDir
from nomadpy.client.environment import EnvironmentSource, build_environment
from nomadpy.client.hooks import HookContext
from nomadpy.model.alloc import TaskEvent
from nomadpy.model.node import Node


class Web:
    """Files by path. ``folders`` serve directories of the disk. ``seen`` are the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: dict[str, Path] = {}
        self.redirects: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    def content(self, path: str) -> bytes | None:
        plain = path.split("?", 1)[0]
        if plain in self.files:
            return self.files[plain]
        for prefix, folder in self.folders.items():
            file = folder / plain.removeprefix(prefix).lstrip("/")
            if plain.startswith(prefix) and file.is_file():
                return file.read_bytes()
        return None

    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


@contextmanager
def web_server() -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.seen.append((self.path, dict(self.headers)))
            content = web.content(self.path)
            if self.path in web.redirects:
                self.send_response(302)
                self.send_header("Location", web.redirects[self.path])
                content = b""
            else:
                self.send_response(200 if content is not None else 404)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            """Requests are kept in ``seen`` instead."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Bench:
    """A task's directories and what its hooks tell."""

    def __init__(
        self, tmp_path: Path, *, isolation: str = "none", config: dict[str, Any] | None = None, **task: Any
    ) -> None:
        self.alloc = make_alloc(make_task(**task))
        self.config = make_config(tmp_path, host_env={"PATH": "/usr/bin:/bin"}, **(config or {}))
        self.alloc_dir = AllocDir(self.config.alloc_dir, self.alloc.id, secrets_in_memory=False)
        self.alloc_dir.build()
        self.alloc_dir.build_task("web")
        self.dirs = self.alloc_dir.task_dirs("web")
        self.local = Path(self.dirs.local_dir)
        self.shared = Path(self.dirs.shared_dir)
        self.secrets = Path(self.dirs.secrets_dir)
        self.isolation = isolation
        self.events: list[TaskEvent] = []
        self.told = trio.Event()

    def leftovers(self) -> list[str]:
        """What is left of downloads, besides the marks of those that are through."""
        base = Path(self.dirs.private_dir, "artifacts")
        return [path.name for path in base.iterdir() if path.name != "done"] if base.exists() else []

    def tell(self, event: TaskEvent) -> None:
        self.events.append(event)
        self.told.set()

    @property
    def context(self) -> HookContext:
        job = self.alloc.job
        assert job is not None
        group = job.task_groups[0]
        node = Node(id="n1", name="node-1", attributes={"cpu.arch": "amd64"}, meta={"rack": "r7"})
        source = EnvironmentSource(
            alloc=self.alloc,
            task=group.tasks[0],
            node=node,
            region="global",
            dirs=self.dirs,
            fs_isolation=self.isolation,
        )
        return HookContext(
            alloc=self.alloc,
            job=job,
            group=group,
            task=group.tasks[0],
            alloc_dir=self.alloc_dir,
            dirs=self.dirs,
            config=self.config,
            names=build_environment(source)[1],
            fs_isolation=self.isolation,
            now_ns=lambda: EPOCH_NS,
            tell=self.tell,
        )
