"""A disk in memory that can be killed: what was not synced is lost, kept, cut or overwritten with zeros, by chance."""

from __future__ import annotations

import random


class PretendFile:
    """Bytes that are durable, and bytes that are only in the page cache."""

    def __init__(self, disk: PretendDirectory) -> None:
        self._disk = disk
        self.durable = b""
        self.data = b""

    def read(self) -> bytes:
        return self.data

    def read_at(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]

    def append(self, data: bytes) -> None:
        self._disk.maybe_fail("append")
        self.data += data

    def sync(self) -> None:
        self._disk.maybe_fail("sync")
        self._disk.syncs += 1
        self.durable = self.data

    def truncate(self, size: int) -> None:
        self.data = self.durable = self.data[:size]

    def close(self) -> None:
        pass

    def lose_power(self, rng: random.Random) -> None:
        """Keeps what was synced; of the rest pages reached the disk in any order."""
        tail = self.data[len(self.durable) :]
        if tail:
            tail = tail[: rng.randint(0, len(tail))]
            if tail and rng.random() < 0.3:
                start = rng.randrange(len(tail))
                end = rng.randint(start, len(tail))
                tail = tail[:start] + bytes(end - start) + tail[end:]
        self.data = self.durable = self.durable + tail


class PretendDirectory:
    """Names that are durable, and names that are not."""

    def __init__(self) -> None:
        self.files: dict[str, PretendFile] = {}
        self.durable_names: dict[str, PretendFile] = {}
        self.fail_next: str | None = None
        self.syncs = 0

    def maybe_fail(self, operation: str) -> None:
        if self.fail_next == operation:
            self.fail_next = None
            raise OSError(5, f"the disk failed to {operation}")

    def names(self) -> list[str]:
        return sorted(self.files)

    def open(self, name: str) -> PretendFile:
        return self.files.setdefault(name, PretendFile(self))

    def rename(self, old: str, new: str) -> None:
        self.maybe_fail("rename")
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        del self.files[name]

    def sync(self) -> None:
        self.maybe_fail("sync-directory")
        self.durable_names = dict(self.files)

    def lose_power(self, rng: random.Random) -> None:
        """The machine dies: names that were not synced are there or not, as it happens."""
        survivors = dict(self.durable_names)
        for name in sorted(set(self.files) | set(self.durable_names)):
            if self.files.get(name) is not self.durable_names.get(name) and rng.random() < 0.5:
                if name in self.files:
                    survivors[name] = self.files[name]
                else:
                    survivors.pop(name)
        self.files, self.durable_names = survivors, dict(survivors)
        for name in sorted(survivors):
            survivors[name].lose_power(rng)
        self.fail_next = None
