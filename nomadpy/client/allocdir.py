"""Where an allocation keeps its files, and which of them may be shown.

    <alloc_dir>/<alloc id>/
      alloc/      data/ logs/ tmp/          shared by all tasks
      <task>/     local/ secrets/ private/ tmp/

``secrets`` is a small memory file system where the machine allows it, otherwise a plain directory. A task may run as
another user than a privileged agent, so then it is open to whoever gets there; what keeps strangers out is that the
agent's data directory above is closed. All functions block; call them in a worker thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shutil
import stat
from pathlib import Path

from nomadpy.drivers.contract import TaskDirs
from nomadpy.model.errors import Invalid

log = logging.getLogger(__name__)

SHARED = "alloc"
_OCTAL = re.compile(r"\\([0-7]{3})")
_SECRETS_MB = 1
_OPEN_MODE = 0o777
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 0x2, 0x4, 0x8
_MNT_DETACH, _UMOUNT_NOFOLLOW = 0x2, 0x8


class AllocDir:
    """The directory of one allocation; nothing is touched until ``build``."""

    def __init__(self, root: str, alloc_id: str, *, secrets_in_memory: bool = True) -> None:
        if not alloc_id or "/" in alloc_id or alloc_id in (".", ".."):
            raise Invalid(f"{alloc_id!r} is not an allocation id")
        self.path = Path(root) / alloc_id
        self.shared = self.path / SHARED
        self._secrets_in_memory = secrets_in_memory

    def task_dirs(self, task: str) -> TaskDirs:
        """The host paths of a task's part."""
        base = self.path / task
        return TaskDirs(
            alloc_dir=str(self.path),
            shared_dir=str(self.shared),
            logs_dir=str(self.shared / "logs"),
            task_dir=str(base),
            local_dir=str(base / "local"),
            secrets_dir=str(base / "secrets"),
            private_dir=str(base / "private"),
        )

    def build(self) -> None:
        """Makes the shared part. Repeating it is harmless."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        _make(self.path, 0o755)
        for part in (self.shared, self.shared / "data", self.shared / "logs", self.shared / "tmp"):
            _make(part, _OPEN_MODE)

    def build_task(self, task: str, *, secrets_mb: int = 0) -> None:
        """Makes a task's part, with room for ``secrets_mb`` of secrets (0: 1 MB). Repeating it is harmless."""
        dirs = self.task_dirs(task)
        _make(Path(dirs.task_dir), _OPEN_MODE)
        _make(Path(dirs.local_dir), _OPEN_MODE)
        _make(Path(dirs.task_dir) / "tmp", 0o1777)
        _make(Path(dirs.private_dir), 0o700)
        if os.path.ismount(dirs.secrets_dir):
            return
        _make(Path(dirs.secrets_dir), _OPEN_MODE if os.geteuid() == 0 else 0o700)
        if self._secrets_in_memory and os.geteuid() == 0:
            _mount_memory(dirs.secrets_dir, secrets_mb or _SECRETS_MB)

    def exists(self) -> bool:
        """Whether it is on disk."""
        return self.path.is_dir()

    def move_from(self, previous: AllocDir, tasks: list[str]) -> None:
        """Takes ``alloc/data`` and every task's ``local`` over from a finished allocation (sticky disks)."""
        pairs = [(previous.shared / "data", self.shared / "data")]
        pairs += [(previous.path / task / "local", self.path / task / "local") for task in tasks]
        for source, target in pairs:
            if not source.is_dir() or source.is_symlink():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            shutil.move(str(source), str(target))

    def destroy(self) -> None:
        """Unmounts and removes everything. Symbolic links are removed, never followed. Raises OSError."""
        for mount in mounts_below(str(self.path)):
            _unmount(mount)
        if self.path.is_symlink():
            self.path.unlink()
        elif self.path.exists():
            shutil.rmtree(self.path)

    def resolve(self, path: str) -> Path:
        """The host path of ``path`` as the file API names it, relative to the allocation directory.

        Raises Invalid "Path escapes the alloc directory" when it, or a link on the way, leads out.
        """
        inside = os.path.normpath("/" + path.replace("\0", ""))
        if _climbs_out(path):
            raise Invalid("Path escapes the alloc directory")
        target = self.path / inside.lstrip("/")
        root = os.path.realpath(self.path)
        real = os.path.realpath(target)
        if real != root and not real.startswith(root + os.sep):
            raise Invalid("Path escapes the alloc directory")
        return target

    def refuse_hidden(self, path: Path, shown_as: str, tasks: list[str]) -> None:
        """Raises Invalid when reading ``path`` would show a task's secrets or the client's own files."""
        real = os.path.realpath(path)
        for task in tasks:
            dirs = self.task_dirs(task)
            for hidden, word in ((dirs.secrets_dir, "secret"), (dirs.private_dir, "private")):
                base = os.path.realpath(hidden)
                if real == base or real.startswith(base + os.sep):
                    raise Invalid(f"Reading {word} file prohibited: {shown_as}")


def _climbs_out(path: str) -> bool:
    depth = 0
    for part in path.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return True
    return False


def _make(path: Path, mode: int) -> None:
    path.mkdir(exist_ok=True)
    if stat.S_IMODE(path.lstat().st_mode) != mode:
        # mkdir's mode is cut by the umask, so the mode is set afterwards.
        path.chmod(mode)


def mounts_below(path: str) -> list[str]:
    """Mount points at or under ``path``, innermost first."""
    root = os.path.realpath(path)
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            # Blanks and the like in paths are written as octal escapes.
            point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), line.split(" ")[4])
            if point == root or point.startswith(root + "/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount_memory(path: str, size_mb: int) -> None:
    """A memory file system for secrets; without the right to mount, the plain directory has to do."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    options = f"size={size_mb}m,mode=0777".encode()
    if _libc().mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options) != 0:
        reason = os.strerror(ctypes.get_errno())
        log.warning("secrets.on_disk", extra={"fields": {"path": path, "reason": reason}})


def _unmount(path: str) -> None:
    if _libc().umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot unmount: {os.strerror(code)}", path)
