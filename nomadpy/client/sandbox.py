"""Writing and reading below a task's directories without ever following a link out of them.

Tasks own these directories and may put links anywhere, also while we look. So every path is walked from its root with
directory descriptors and ``O_NOFOLLOW``; links that stay inside are resolved before the walk. Functions block: call
them in a worker thread.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from nomadpy.client.interpolate import Interpolator
from nomadpy.drivers.contract import FS_NONE, TaskDirs
from nomadpy.model.errors import Invalid

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
DIR_MODE = 0o755


class Owner(msgspec.Struct, frozen=True):
    """Whom a file is given to; -1 leaves it with the agent."""

    uid: int = -1
    gid: int = -1

    @property
    def is_set(self) -> bool:
        """Whether anything changes hands."""
        return self.uid >= 0 or self.gid >= 0


class Place(msgspec.Struct, frozen=True):
    """A path below one of a task's roots. ``inside`` is relative and without ``..``; "" is the root itself."""

    root: str
    inside: str

    @property
    def path(self) -> str:
        """The path on the host."""
        return os.path.join(self.root, self.inside) if self.inside else self.root

    @property
    def name(self) -> str:
        """The last part."""
        return os.path.basename(self.inside)

    def below(self, name: str) -> Place:
        """The place of a name inside of this one."""
        return Place(self.root, os.path.join(self.inside, name) if self.inside else name)


def locate(written: str, *, dirs: TaskDirs, names: Interpolator, fs_isolation: str) -> Place:
    """Where a job means by a path: ``local/x``, ``${NOMAD_ALLOC_DIR}/x``, or ``/local/x`` as the task sees it.

    Relative paths start in the task's directory. Raises Invalid when the path leaves what the task may write to.
    """
    host_names = {
        "NOMAD_ALLOC_DIR": dirs.shared_dir,
        "NOMAD_TASK_DIR": dirs.local_dir,
        "NOMAD_SECRETS_DIR": dirs.secrets_dir,
    }
    path = Interpolator({**names.env, **host_names}, names.node, names.secrets).text(written)
    if "\0" in path:
        raise Invalid(f"path {written!r} holds a zero byte")
    path = os.path.normpath(_from_inside(path, dirs, fs_isolation))
    if path == dirs.private_dir or path.startswith(dirs.private_dir + os.sep):
        raise Invalid(f'path "{written}" leads into the private directory of the client')
    for root in (dirs.shared_dir, dirs.task_dir):
        if path == root or path.startswith(root + os.sep):
            return Place(root, path[len(root) + 1 :])
    raise Invalid(f'path "{written}" escapes the task and alloc directories')


def _from_inside(path: str, dirs: TaskDirs, fs_isolation: str) -> str:
    if not os.path.isabs(path):
        return os.path.join(dirs.task_dir, path)
    if any(path == root or path.startswith(root + os.sep) for root in (dirs.shared_dir, dirs.task_dir)):
        return path
    if fs_isolation != FS_NONE and (path == "/alloc" or path.startswith("/alloc/")):
        return dirs.shared_dir + path[len("/alloc") :]
    # As in Nomad, any other absolute path is meant as the task sees it.
    return dirs.task_dir + os.sep + path.lstrip("/")


def real_parts(root: str, inside: str) -> list[str]:
    """The names from ``root`` down to ``inside`` with links resolved. Raises Invalid when a link leads out."""
    top = os.path.realpath(root)
    real = os.path.realpath(os.path.join(top, inside))
    if real != top and not real.startswith(top.rstrip(os.sep) + os.sep):
        raise Invalid(f'path "{inside}" leads out of its directory through a link')
    return [part for part in real[len(top) :].split(os.sep) if part]


@contextmanager
def opened(root: str, parts: Sequence[str], *, create: bool = False, owner: Owner = Owner()) -> Iterator[int]:
    """A descriptor of the directory ``parts`` below ``root``. Never follows a link; raises OSError at one."""
    current = os.open(os.path.realpath(root), _DIR_FLAGS)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, DIR_MODE, dir_fd=current)
                    if owner.is_set:
                        os.chown(part, owner.uid, owner.gid, dir_fd=current, follow_symlinks=False)
            inner = os.open(part, _DIR_FLAGS, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


def write_file(place: Place, content: bytes, *, mode: int, owner: Owner = Owner()) -> None:
    """Puts a whole file in place at once, with its parent directories. Raises Invalid or OSError."""
    if not place.inside:
        raise Invalid("a directory cannot be the destination of a file")
    parents = real_parts(place.root, os.path.dirname(place.inside))
    with opened(place.root, parents, create=True) as parent:
        temporary = _temporary_name()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=parent), "wb") as file:
                file.write(content)
                if owner.is_set:
                    os.fchown(file.fileno(), owner.uid, owner.gid)
                os.fchmod(file.fileno(), mode)
            _put(parent, temporary, parent, place.name)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=parent)
            raise


def read_file(place: Place, *, limit: int) -> bytes:
    """The content of a plain file. Raises Invalid (no plain file, too large, leads out) or OSError."""
    parts = real_parts(place.root, place.inside)
    if not parts:
        raise Invalid(f'"{place.path}" is a directory')
    with opened(place.root, parts[:-1]) as parent:
        # Without O_NONBLOCK, a pipe that a task has put there would hold us for ever.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(parts[-1], flags, dir_fd=parent), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Invalid(f'"{place.inside}" is not a plain file')
            content = file.read(limit + 1)
    if len(content) > limit:
        raise Invalid(f'"{place.inside}" is larger than {limit} bytes')
    return content


def install_file(source: str, place: Place, *, owner: Owner = Owner()) -> None:
    """Moves a file of ours to its place. Raises Invalid or OSError."""
    if not place.inside:
        raise Invalid("a directory cannot be the destination of a file")
    parents = real_parts(place.root, os.path.dirname(place.inside))
    with opened(place.root, parents, create=True, owner=owner) as parent:
        _move(source, parent, place.name, owner)


def install_tree(source: str, place: Place, *, owner: Owner = Owner()) -> None:
    """Moves what a directory of ours holds into ``place``: directories are merged, files replaced.

    The tree must have been checked (``inspect_tree``). Raises Invalid or OSError.
    """
    base = real_parts(place.root, place.inside)
    for folder, folders, files in os.walk(source):
        below = [part for part in os.path.relpath(folder, source).split(os.sep) if part != "."]
        with opened(place.root, [*base, *below], create=True, owner=owner) as target:
            if below:
                os.fchmod(target, stat.S_IMODE(os.stat(folder).st_mode) & 0o777 | 0o700)
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*files, *links):
                _move(os.path.join(folder, name), target, name, owner)


def _move(source: str, target: int, name: str, owner: Owner) -> None:
    if owner.is_set:
        os.chown(source, owner.uid, owner.gid, follow_symlinks=False)
    try:
        _put(None, source, target, name)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(source, target, name, owner)


def _put(source_dir: int | None, source: str, target_dir: int, name: str) -> None:
    try:
        os.rename(source, name, src_dir_fd=source_dir, dst_dir_fd=target_dir)
    except IsADirectoryError as error:
        raise Invalid(f'"{name}" is a directory already; a file cannot take its place') from error


def _copy(source: str, target: int, name: str, owner: Owner) -> None:
    """Onto another file system (the memory of ``secrets``), under a temporary name first."""
    temporary = _temporary_name()
    try:
        if os.path.islink(source):
            os.symlink(os.readlink(source), temporary, dir_fd=target)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(source, "rb") as old, os.fdopen(os.open(temporary, flags, 0o600, dir_fd=target), "wb") as new:
                shutil.copyfileobj(old, new, 1 << 20)
                os.fchmod(new.fileno(), stat.S_IMODE(os.fstat(old.fileno()).st_mode) & 0o777)
        if owner.is_set:
            os.chown(temporary, owner.uid, owner.gid, dir_fd=target, follow_symlinks=False)
        _put(target, temporary, target, name)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=target)
        raise


def _temporary_name() -> str:
    return f".nomadpy-{secrets.token_hex(8)}.tmp"


def inspect_tree(root: str) -> None:
    """Raises Invalid when a tree holds anything but files, directories and links that stay inside of it."""
    for folder, folders, files in os.walk(root):
        depth = len([part for part in os.path.relpath(folder, root).split(os.sep) if part != "."])
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            shown = os.path.relpath(path, root)
            if stat.S_ISLNK(mode):
                refuse_leading_out(os.readlink(path), depth, shown)
            elif not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
                raise Invalid(f'"{shown}" is neither a file, a directory nor a link')
            elif stat.S_ISREG(mode) and mode & 0o7000:
                Path(path).chmod(stat.S_IMODE(mode) & 0o777)


def refuse_leading_out(target: str, depth: int, shown: str) -> None:
    """Raises Invalid for a link, ``depth`` directories down, that could lead out of its tree.

    ``..`` may only stand in front: behind other names it would climb from wherever those lead, so a chain of links
    could leave although each of them looks harmless.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    n_up = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or n_up > depth or ".." in parts[n_up:]:
        raise Invalid(f'the link "{shown}" leads out, to "{target}"')
