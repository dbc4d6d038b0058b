"""``artifact`` blocks: files, archives and repositories that are fetched before a task starts.

Each is fetched and unpacked in the task's private directory, checked there, and then moved to its destination. What is
through is remembered there too, so that neither a restart of the task nor of the agent fetches it again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import secrets
import shutil
from pathlib import Path

import msgspec
import trio

from nomadpy.client import events as ev
from nomadpy.client.getter.archive import Limits, unpack
from nomadpy.client.getter.git import fetch_git
from nomadpy.client.getter.http import fetch_http
from nomadpy.client.getter.source import GIT, Source, read_source
from nomadpy.client.hooks import HookContext, HookFailed, HookResult, PrestartOnly
from nomadpy.client.sandbox import Owner, Place, inspect_tree, install_file, install_tree, locate, real_parts
from nomadpy.model.errors import Invalid, NomadError, Temporary
from nomadpy.model.job import Task, TaskArtifact

log = logging.getLogger(__name__)

_CONCURRENT = 3
# Variables of the agent that a download needs to reach anything.
_PASSED_ON = (
    ("PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSH_AUTH_SOCK")
    + ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
    + ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
)
_DRIVERS_OF_NOBODY = ("exec", "java")


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact with everything filled in. ``mark`` is its name among those that are through."""

    source: Source
    headers: dict[str, str]
    mode: str
    insecure: bool
    place: Place
    owner: Owner
    mark: str


class ArtifactHook(PrestartOnly):
    """Fetches a task's artifacts, up to three at a time. A failure is retried under the restart policy."""

    name = "artifacts"

    def applies(self, task: Task) -> bool:
        """Tasks with artifacts."""
        return bool(task.artifacts)

    async def prestart(self, context: HookContext) -> HookResult:
        """Nothing is left to fetch once it returns."""
        base = Path(context.dirs.private_dir) / "artifacts"
        try:
            plans = [_plan(context, artifact) for artifact in context.task.artifacts]
            done = await trio.to_thread.run_sync(_prepare_base, base)
        except (Invalid, OSError) as error:
            raise _failure(context, [str(error)]) from error
        wanted = [plan for plan in plans if plan.mark not in done]
        if wanted:
            context.tell(ev.downloading_artifacts(context.now_ns()))
            failures: list[str] = []
            slots = trio.Semaphore(_CONCURRENT)
            async with trio.open_nursery() as nursery:
                for plan in wanted:
                    nursery.start_soon(_fetch_one, context, plan, base, slots, failures)
            if failures:
                raise _failure(context, failures)
        return HookResult(once=True)


def _failure(context: HookContext, failures: list[str]) -> HookFailed:
    return HookFailed(ev.failed_artifact_download(context.now_ns(), "; ".join(failures)), recoverable=True)


def _plan(context: HookContext, artifact: TaskArtifact) -> _Plan:
    names = context.names
    source = read_source(names.text(artifact.getter_source), names.texts(artifact.getter_options))
    written = artifact.relative_dest or "local/"
    place = locate(written, dirs=context.dirs, names=names, fs_isolation=context.fs_isolation)
    owner = _owner(context.task) if artifact.chown else Owner()
    headers = names.texts(artifact.getter_headers)
    mode = artifact.getter_mode or "any"
    if mode == "file" and source.getter == GIT:
        raise Invalid(f"artifact {source.shown}: a git repository is a directory; mode file cannot hold it")
    if mode == "dir" and source.getter != GIT and not source.archive:
        raise Invalid(f"artifact {source.shown}: mode dir needs an archive or a git repository")
    if source.subdir and source.getter != GIT and not source.archive:
        raise Invalid(f"artifact {source.shown}: only archives and git repositories have a subdirectory")
    identity = msgspec.json.encode([source, headers, mode, artifact.getter_insecure, place, owner])
    return _Plan(
        source=source,
        headers=headers,
        mode=mode,
        insecure=artifact.getter_insecure,
        place=place,
        owner=owner,
        mark=hashlib.sha256(identity).hexdigest(),
    )


def _owner(task: Task) -> Owner:
    """Whom ``chown`` gives files to. Raises Invalid when the host does not know the task's user."""
    user = task.user or ("nobody" if task.driver in _DRIVERS_OF_NOBODY else "")
    if not user:
        return Owner()
    name, _, group = user.partition(":")
    if name.isdecimal() and (not group or group.isdecimal()):
        return Owner(int(name), int(group) if group else -1)
    try:
        found = pwd.getpwnam(name)
    except KeyError as error:
        raise Invalid(f'artifact chown: the host has no user "{name}"') from error
    return Owner(found.pw_uid, found.pw_gid)


def _prepare_base(base: Path) -> set[str]:
    """Makes the workplace, clears away what an agent that was killed has left, and tells what is through."""
    (base / "done").mkdir(parents=True, exist_ok=True, mode=0o700)
    for entry in os.scandir(base):
        if entry.name != "done":
            shutil.rmtree(entry.path)
    return set(os.listdir(base / "done"))


async def _fetch_one(context: HookContext, plan: _Plan, base: Path, slots: trio.Semaphore, failures: list[str]) -> None:
    """A failure is noted and leaves the others alone, so that what they fetch is not fetched again."""
    workplace = base / secrets.token_hex(8)
    async with slots:
        try:
            await trio.to_thread.run_sync(workplace.mkdir, 0o700)
            await _fetch(context, plan, workplace)
            await trio.to_thread.run_sync(_install, context, plan, workplace)
            await trio.to_thread.run_sync((base / "done" / plan.mark).touch)
        except NomadError as error:
            failures.append(error.message)
        except OSError as error:
            failures.append(f"artifact {plan.source.shown} could not be stored: {error}")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_clear, workplace)


def _clear(workplace: Path) -> None:
    try:
        shutil.rmtree(workplace)
    except OSError as error:
        # The next attempt begins by clearing everything away.
        log.warning("artifact.leftovers", extra={"fields": {"path": str(workplace), "error": str(error)}})


async def _fetch(context: HookContext, plan: _Plan, workplace: Path) -> None:
    config = context.config.artifact
    if plan.source.getter == GIT:
        await fetch_git(
            plan.source,
            str(workplace / "tree"),
            workplace=str(workplace),
            host_env=_download_env(context),
            insecure=plan.insecure,
            timeout_s=config.git_timeout_ns / 1e9,
        )
        return
    await fetch_http(
        plan.source,
        str(workplace / "file"),
        headers=plan.headers,
        insecure=plan.insecure,
        max_bytes=config.http_max_size,
        timeout_s=config.http_read_timeout_ns / 1e9,
    )


def _download_env(context: HookContext) -> dict[str, str]:
    host_env, more = context.config.host_env, context.config.artifact.set_environment_variables
    names = (*_PASSED_ON, *(name.strip() for name in more.split(",")))
    return {name: host_env[name] for name in names if name in host_env}


def _install(context: HookContext, plan: _Plan, workplace: Path) -> None:
    """Unpacks, checks and moves. Blocks."""
    source, tree, file = plan.source, workplace / "tree", workplace / "file"
    if source.getter != GIT and not source.archive:
        file.chmod(0o644)
        target = plan.place if plan.mode == "file" else plan.place.below(source.basename)
        install_file(str(file), target, owner=plan.owner)
        return
    if source.archive:
        tree.mkdir()
        config = context.config.artifact
        limits = Limits(n_files=config.decompression_file_count_limit, n_bytes=config.decompression_size_limit)
        name = source.filename or source.basename.removesuffix(f".{source.archive}")
        unpack(source.archive, str(file), str(tree), name=name, limits=limits)
    if plan.mode == "file":
        install_file(_only_file(tree, source), plan.place, owner=plan.owner)
        return
    wanted = _subdirectory(tree, source)
    inspect_tree(str(wanted))
    install_tree(str(wanted), plan.place, owner=plan.owner)


def _only_file(tree: Path, source: Source) -> str:
    entries = list(os.scandir(tree))
    if len(entries) != 1 or not entries[0].is_file(follow_symlinks=False):
        raise Invalid(f"artifact {source.shown}: mode file needs an archive with exactly one file")
    return entries[0].path


def _subdirectory(tree: Path, source: Source) -> Path:
    """The part of a tree that was asked for. A pattern must match exactly one. Raises Temporary."""
    if not source.subdir:
        return tree
    found = sorted(tree.glob(source.subdir)) if any(sign in source.subdir for sign in "*?[") else [tree / source.subdir]
    if len(found) != 1:
        raise Temporary(f'artifact {source.shown}: {len(found)} directories match "{source.subdir}", 1 was expected')
    below = real_parts(str(tree), os.path.relpath(found[0], tree))
    real = tree.joinpath(*below)
    if not real.is_dir():
        raise Temporary(f'artifact {source.shown} has no directory "{source.subdir}"')
    return real
