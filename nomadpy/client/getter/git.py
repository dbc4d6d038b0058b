"""Repositories through the git executable, which gets no prompt, no configuration of the host and no local files."""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import trio

from nomadpy.client.getter.source import Source
from nomadpy.model.errors import Invalid, Temporary

_KEPT_OUTPUT = 4096


async def fetch_git(
    source: Source, target: str, *, workplace: str, host_env: Mapping[str, str], insecure: bool, timeout_s: float
) -> None:
    """Clones into the directory ``target``, which must not exist, and checks the wanted commit out.

    ``workplace`` is an existing directory of ours for keys; ``host_env`` is what git may see.

    Raises:
        Temporary: git failed; a later attempt may succeed.
        Invalid: no attempt can succeed.
    """
    env = await trio.to_thread.run_sync(_environment, source, workplace, dict(host_env), insecure)
    clone = ["clone", "--quiet"]
    if source.depth:
        clone += ["--depth", str(source.depth)]
        if source.ref:
            clone += ["--branch", source.ref]
    try:
        with trio.fail_after(timeout_s):
            await _git([*clone, "--", source.url, target], env, workplace, source)
            if source.ref and not source.depth:
                await _git(["checkout", "--quiet", source.ref, "--"], env, target, source)
            depth = ["--depth", str(source.depth)] if source.depth else []
            await _git(["submodule", "--quiet", "update", "--init", "--recursive", *depth], env, target, source)
    except trio.TooSlowError as error:
        raise Temporary(f"git did not finish with {source.shown} within {timeout_s:g}s") from error


def _environment(source: Source, workplace: str, host_env: dict[str, str], insecure: bool) -> dict[str, str]:
    env = {
        "PATH": os.defpath,
        **host_env,
        "HOME": workplace,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "http:https:ssh",
        "LC_ALL": "C",
    }
    ssh = ["ssh", "-o", "BatchMode=yes"]
    if source.sshkey:
        try:
            key = base64.b64decode(source.sshkey, validate=False)
        except (binascii.Error, ValueError) as error:
            raise Invalid("artifact option sshkey must be a private key in base64") from error
        path = Path(workplace) / "sshkey"
        path.touch(mode=0o600)
        path.write_bytes(key)
        ssh += ["-i", str(path), "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=accept-new"]
    env["GIT_SSH_COMMAND"] = shlex.join(ssh)
    if insecure:
        env["GIT_SSL_NO_VERIFY"] = "1"
    return env


async def _git(arguments: list[str], env: dict[str, str], directory: str, source: Source) -> None:
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", *arguments]
    said = bytearray()
    try:
        async with trio.open_nursery() as nursery:
            process = await nursery.start(_start, command, env, directory)
            assert process.stderr is not None
            async for chunk in process.stderr:
                said += chunk
                del said[:-_KEPT_OUTPUT]
            code = await process.wait()
    except* FileNotFoundError as group:
        raise Invalid("this client has no git executable, so that it cannot fetch git:: artifacts") from group
    if code != 0:
        reason = said.decode(errors="replace").strip().replace(source.url, source.shown)
        lines = [line for line in reason.splitlines() if line.strip()]
        raise Temporary(f"git {arguments[0]} of {source.shown} failed: {'; '.join(lines[-3:]) or f'exit code {code}'}")


async def _start(
    command: list[str], env: dict[str, str], directory: str, *, task_status: trio.TaskStatus[trio.Process]
) -> None:
    """The whole group of processes ends with us: git leaves the talking to processes of its own."""

    async def kill(process: trio.Process) -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    await trio.run_process(
        command,
        env=env,
        cwd=directory,
        stdin=b"",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        start_new_session=True,
        deliver_cancel=kill,
        task_status=task_status,
    )
