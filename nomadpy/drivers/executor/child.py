"""What happens between fork and exec: joining cgroups and namespaces, finding the command, dropping privileges."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # The C part of signal, without the enums that signal builds.
import os

from nomadpy.drivers.executor.wire import Spec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Refusal(Exception):
    """The task cannot run as asked; another attempt would fail alike."""


def become_task(spec: Spec, holder_pid: int = 0) -> None:
    """Turns this process into the task's command; returns only by raising. Standard streams are already in place.
    Raises Refusal with a text for the operator, or OSError."""
    join_cgroups([*spec.all("cgroup"), *spec.all("join")])
    if spec.has("oom_score_adj"):
        _write("/proc/self/oom_score_adj", spec.one("oom_score_adj"))
    if holder_pid:
        from nomadpy.drivers.executor import isolate  # ctypes is loaded only for isolated tasks.

        isolate.join(holder_pid)
    environment = dict(pair.partition("=")[::2] for pair in spec.all("env"))
    command = find_command(spec.one("command"), spec.all("bin_dir"), environment.get("PATH", DEFAULT_PATH))
    # Before the user changes: the agent's directories above the task's may be closed to others.
    _enter_work_dir(spec.one("work_dir") or "/")
    if holder_pid:
        isolate.limit_capabilities(spec.number("cap_bound"))
    _become_user(spec, keep_capabilities=bool(holder_pid))
    if holder_pid:
        isolate.raise_capabilities(spec.number("cap_bound" if spec.number("uid") == 0 else "cap_ambient"))
    reset_signals()
    try:
        os.execve(command, [spec.one("command"), *spec.all("arg")], environment)
    except OSError as error:
        raise Refusal(f'cannot run command "{command}": {error.strerror}{_exec_advice(error, command)}') from None


def join_cgroups(directories: list[str]) -> None:
    """Moves this process into the cgroups. Raises Refusal naming one that cannot be joined."""
    for directory in directories:
        try:
            _write(f"{directory}/cgroup.procs", "0")
        except OSError as error:
            raise Refusal(f"cannot join cgroup {directory}: {error.strerror}") from None


def find_command(command: str, directories: list[str], path: str) -> str:
    """The file of ``command``: below one of the task's own ``directories`` (made executable when it is not), as an
    absolute path, or on ``path``. Raises Refusal that says where it was looked for."""
    for directory in directories:
        own = os.path.normpath(f"{directory}/{command}")
        if os.path.isfile(own) and _below(own, directory):
            _make_executable(own)
            return own
    if "/" in command:
        if os.path.isfile(command):
            if not os.access(command, os.X_OK):
                raise Refusal(f'command "{command}" is not executable')
            return command
        what = "is a directory" if os.path.isdir(command) else "does not exist"
        raise Refusal(f'command "{command}" {what} (also looked below {", ".join(directories)})')
    blocked = ""
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{command}"
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            blocked = blocked or candidate
    if blocked:
        raise Refusal(f'command "{command}" is not executable: {blocked}')
    raise Refusal(f'command "{command}" not found in {", ".join(directories)} nor on PATH {path}')


def reset_signals() -> None:
    """Default dispositions and an empty mask, as a command expects them. The interpreter ignores SIGPIPE and SIGXFSZ,
    and the executor ignores what a terminal or a service manager might send it."""
    for number in range(1, 32):
        if number not in (9, 19) and _signal.getsignal(number) != _signal.SIG_DFL:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, [])


def _become_user(spec: Spec, keep_capabilities: bool) -> None:
    if not spec.has("uid"):
        return
    uid, gid = spec.number("uid"), spec.number("gid")
    if keep_capabilities and uid != 0:
        from nomadpy.drivers.executor import isolate

        isolate.keep_capabilities_over_setuid()
    try:
        os.setgroups([int(group) for group in spec.all("group")])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        raise Refusal(f"cannot become user {spec.one('user')} (uid {uid}): the agent does not run as root") from None


def _enter_work_dir(work_dir: str) -> None:
    try:
        os.chdir(work_dir)
    except OSError as error:
        raise Refusal(f'work_dir "{work_dir}": {error.strerror}') from None


def _exec_advice(error: OSError, command: str) -> str:
    if error.errno == 8:  # ENOEXEC
        return " (a script needs a first line such as #!/bin/sh; a binary must be for this machine)"
    if error.errno == 2 and os.path.exists(command):
        return " (its interpreter or loader is missing)"
    return ""


def _below(path: str, directory: str) -> bool:
    return directory == "/" or path.startswith(directory.rstrip("/") + "/")


def _make_executable(path: str) -> None:
    mode = os.stat(path).st_mode
    if not mode & 0o111:
        try:
            os.chmod(path, mode | 0o755)
        except OSError as error:
            raise Refusal(f'command "{path}" is not executable: {error.strerror}') from None


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
