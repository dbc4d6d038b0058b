"""Namespaces, a root directory of its own and fewer capabilities for a task, by the kernel's calls through ctypes.

An isolated task is two processes. The *holder* is a child of the executor and process 1 of the task's process
namespace: it makes the mount and IPC namespaces, builds the root, and then only waits for the executor to let go of a
pipe. The task is a second child that joins the holder's namespaces. So the task keeps the signal behaviour of an
ordinary process (the kernel shields process 1 from most), orphans are reaped because the holder ignores SIGCHLD,
commands beside the task join the same holder, and when executor or holder end, the kernel ends everything.

Every mount is made in the holder's private mount namespace: the host sees none of them and needs no clean-up.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # See child.py.
import ctypes
import os

from nomadpy.drivers.executor.child import Refusal
from nomadpy.drivers.executor.wire import Spec

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x8000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC = 1, 2, 4, 8, 32, 4096, 8192, 16384
MS_PRIVATE, MS_SLAVE = 1 << 18, 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_CAPBSET_DROP = 1, 4, 8, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 38, 47, 2
_CAPABILITY_VERSION_3 = 0x20080522
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_MASKED = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats", "kpageflags")
_READ_ONLY_PROC = ("sys", "sysrq-trigger", "irq", "bus", "fs")

_libc = ctypes.CDLL(None, use_errno=True)


def start_holder(spec: Spec) -> tuple[int, int]:
    """Makes the namespaces and the root: the holder's pid and the pipe end that keeps it alive. When this returns, the
    next child of this process is in the new process namespace. Raises Refusal or OSError."""
    if spec.has("private_pids"):
        _call("unshare", CLONE_NEWPID)
    hold_reader, hold_writer = os.pipe2(os.O_CLOEXEC)
    answer_reader, answer_writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _be_holder(spec, hold_reader, answer_writer)
    os.close(hold_reader)
    os.close(answer_writer)
    answer = b""
    while not answer.endswith(b"\n") and (chunk := os.read(answer_reader, 4096)):
        answer += chunk
    os.close(answer_reader)
    if answer != b"ok\n":
        os.close(hold_writer)
        os.waitpid(pid, 0)
        kind, _, text = answer.decode(errors="replace").strip().partition(" ")
        raise Refusal(text) if kind == "fatal" else OSError(text or "the process that holds the namespaces died")
    return pid, hold_writer


def join(holder_pid: int) -> None:
    """Puts this process into the holder's mount and IPC namespaces, with the holder's root as root."""
    root = os.open(f"/proc/{holder_pid}/root", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    namespaces = [os.open(f"/proc/{holder_pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("ipc", "mnt")]
    for fd in namespaces:
        _call("setns", fd, 0)
        os.close(fd)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)


def enter_process_namespace(holder_pid: int) -> None:
    """Makes the next child of this process a member of the holder's process namespace, and end with this one."""
    fd = os.open(f"/proc/{holder_pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    _call("setns", fd, CLONE_NEWPID)
    os.close(fd)


def end_with_parent() -> None:
    """Has the kernel kill this process when its parent ends."""
    _prctl(PR_SET_PDEATHSIG, 9)


def limit_capabilities(keep: int) -> None:
    """Bounds what this process and its programs can ever have to the bits of ``keep``, for good."""
    # Read as bytes: a codec could no longer be imported, since the interpreter's library is outside this root.
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        last = int(file.read())
    for capability in range(last + 1):
        if not keep >> capability & 1:
            _prctl(PR_CAPBSET_DROP, capability)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def keep_capabilities_over_setuid() -> None:
    """Lets ``raise_capabilities`` still choose after the user has changed."""
    _prctl(PR_SET_KEEPCAPS, 1)


def raise_capabilities(capabilities: int) -> None:
    """Leaves this process and the program it becomes exactly the bits of ``capabilities``."""
    _capset(capabilities)
    for capability in range(64):
        if capabilities >> capability & 1:
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


# --- the holder -------------------------------------------------------------------------------------------------------


def _be_holder(spec: Spec, hold_reader: int, answer_writer: int) -> None:
    try:
        os.setsid()
        # Children that lost their parent come to process 1; ignoring SIGCHLD has the kernel reap them.
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
        _close_all_but(hold_reader, answer_writer)
        _call("unshare", CLONE_NEWNS | (CLONE_NEWIPC if spec.has("private_ipc") else 0))
        _build_root(spec)
        limit_capabilities(0)
        _capset(0)
        os.write(answer_writer, b"ok\n")
        os.close(answer_writer)
        # The end of the pipe comes when the executor lets go of it, also by dying.
        os.read(hold_reader, 1)
    except Refusal as error:
        os.write(answer_writer, f"fatal {error}\n".encode())
    except BaseException as error:  # noqa: BLE001 - reported to the executor; this process ends here either way.
        os.write(answer_writer, f"temporary isolation: {type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(0)


def _build_root(spec: Spec) -> None:
    root = spec.one("root")
    _mount("", "/", "", MS_REC | MS_SLAVE)
    _mount(root, root, "", MS_BIND | MS_REC)
    for line in spec.all("bind"):
        mode, source, target = line.split("\n")
        inside = f"{root}/{target.lstrip('/')}"
        if mode == "link":
            _link(source, inside)
        else:
            _bind(source, inside, read_only=mode == "ro")
    for path in spec.all("hide"):
        if os.path.isdir(f"{root}/{path}"):
            _mount("tmpfs", f"{root}/{path}", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, "mode=0,size=0")
    _mount_proc(f"{root}/proc")
    _mount_dev(f"{root}/dev")
    for line in spec.all("device"):
        mode, source, target = line.split("\n")
        _bind(source, f"{root}/{target.lstrip('/')}", read_only=mode == "ro")
    _mount_sys(f"{root}/sys")
    if spec.has("no_pivot_root"):
        os.chdir(root)
        _mount(root, "/", "", MS_MOVE)
        os.chroot(".")
        os.chdir("/")
    else:
        _pivot(root)


def _pivot(root: str) -> None:
    # With both arguments "." the old root ends up stacked on the new one and is taken off without a directory for it.
    os.chdir(root)
    machine = os.uname().machine
    if machine not in SYS_PIVOT_ROOT:
        raise Refusal(f"pivot_root is not known for {machine}; set no_pivot_root in the plugin's config")
    if _libc.syscall(SYS_PIVOT_ROOT[machine], b".", b".") != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"pivot_root: {os.strerror(number)} (on a ramdisk set no_pivot_root)")
    _call("umount2", b".", MNT_DETACH)
    os.chdir("/")


def _bind(source: str, target: str, *, read_only: bool) -> None:
    if not os.path.exists(source):
        raise Refusal(f"cannot mount {source}: it does not exist on this node")
    _make_mount_point(target, os.path.isdir(source))
    _mount(source, target, "", MS_BIND | MS_REC)
    if read_only:
        for path in _mounts_below(target):
            _mount("", path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | _locked_flags(path))


def _link(text: str, target: str) -> None:
    if not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(text, target)


def _make_mount_point(target: str, directory: bool) -> None:
    if directory:
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _mounts_below(target: str) -> list[str]:
    """``target`` and the mount points below it."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [line.split()[4].decode("unicode_escape").encode("latin-1") for line in file]
    real = os.fsencode(os.path.realpath(target))
    return [os.fsdecode(point) for point in points if point == real or point.startswith(real + b"/")]


def _locked_flags(path: str) -> int:
    """Flags a mount already has; a remount may not forget them."""
    flags = os.statvfs(path).f_flag
    return flags & (MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _mount_proc(target: str) -> None:
    os.makedirs(target, exist_ok=True)
    _mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in _READ_ONLY_PROC:
        path = f"{target}/{name}"
        if os.path.exists(path):
            _mount(path, path, "", MS_BIND | MS_REC)
            _mount("", path, "", MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in _MASKED:
        if os.path.isfile(f"{target}/{name}"):
            _mount("/dev/null", f"{target}/{name}", "", MS_BIND)


def _mount_dev(target: str) -> None:
    os.makedirs(target, exist_ok=True)
    _mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            _make_mount_point(f"{target}/{name}", False)
            _mount(f"/dev/{name}", f"{target}/{name}", "", MS_BIND)
    os.mkdir(f"{target}/pts")
    _mount("devpts", f"{target}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    os.mkdir(f"{target}/shm")
    _mount("shm", f"{target}/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k")
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, destination in links.items():
        os.symlink(destination, f"{target}/{name}")


def _mount_sys(target: str) -> None:
    os.makedirs(target, exist_ok=True)
    _mount("sysfs", target, "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _close_all_but(*kept: int) -> None:
    start = 0
    for fd in sorted(kept):
        os.closerange(start, fd)
        start = fd + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


# --- calls ------------------------------------------------------------------------------------------------------------


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    arguments = (os.fsencode(source) or None, os.fsencode(target), kind.encode() or None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind or source} on {target}: {os.strerror(number)}")


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(n) for n in (*arguments, 0, 0, 0, 0)[:4]]
    if _libc.prctl(option, *padded) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option} {arguments}: {os.strerror(number)}")


def _capset(capabilities: int) -> None:
    """Sets effective, permitted and inheritable capabilities of this process."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    if _libc.capset(header, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capset: {os.strerror(number)}")


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
