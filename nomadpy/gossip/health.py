"""The health digest: how a machine does, measured here and packed into a few bytes.

>>> unpack(pack(Health(cpu=0.25, memory=0.5, disk=1.0, io_pressure=-1.0, drivers=("docker",))))
Health(cpu=0.25, memory=0.5, disk=1.0, io_pressure=-1.0, drivers=('docker',))
"""

from __future__ import annotations

from pathlib import Path

import psutil

from nomadpy.gossip.contract import Health

DIGEST_BYTES_MAX = 96
_STEPS = 200
_NOT_MEASURED = 255
PRESSURE_FILE = "/proc/pressure/io"
# A change of a share by less than this waits for the next probe or exchange.
NEWS_SHARE = 0.2


def pack(health: Health) -> bytes:
    """One byte per share (half percents), then the names of the unhealthy drivers, as many as fit."""
    shares = bytes(map(_step, (health.cpu, health.memory, health.disk, health.io_pressure)))
    names: list[bytes] = []
    room = DIGEST_BYTES_MAX - len(shares)
    for name in (driver.encode() for driver in health.drivers):
        if b"," not in name and len(name) < room:
            names.append(name)
            room -= len(name) + 1
    return shares + b",".join(names)


def unpack(digest: bytes) -> Health | None:
    """The health that was packed; None for anything else, the empty digest among it."""
    if len(digest) < 4 or any(step > _STEPS and step != _NOT_MEASURED for step in digest[:4]):
        return None
    cpu, memory, disk, pressure = (-1.0 if step == _NOT_MEASURED else step / _STEPS for step in digest[:4])
    names = digest[4:].decode(errors="replace")
    drivers = tuple(names.split(",")) if names else ()
    return Health(
        cpu=max(cpu, 0.0), memory=max(memory, 0.0), disk=max(disk, 0.0), io_pressure=pressure, drivers=drivers
    )


def is_news(old: Health | None, new: Health) -> bool:
    """Whether everybody should hear of it now: a driver's health changed, or a share moved by a fifth."""
    if old is None or old.drivers != new.drivers:
        return True
    pairs = ((old.cpu, new.cpu), (old.memory, new.memory), (old.disk, new.disk), (old.io_pressure, new.io_pressure))
    return any(abs(before - after) >= NEWS_SHARE for before, after in pairs)


def parse_pressure(text: str) -> float:
    """The share of the last ten seconds in which something waited for IO, from the kernel's pressure file; -1 when it
    is not there.

    >>> parse_pressure("some avg10=12.50 avg60=3.00 avg300=0.10 total=7\\nfull avg10=0.00 avg60=0.00")
    0.125
    """
    for line in text.splitlines():
        kind, *figures = line.split()[:5] or [""]
        if kind == "some":
            for figure in figures:
                name, _, value = figure.partition("=")
                if name == "avg10":
                    return _share_of_percent(value)
    return -1.0


def share(used: float, total: float) -> float:
    """``used`` of ``total`` as 0–1; 0 when there is no total.

    >>> share(1, 4), share(5, 4), share(1, 0)
    (0.25, 1.0, 0.0)
    """
    return min(1.0, max(0.0, used / total)) if total > 0 else 0.0


class Sampler:
    """Measures the machine. Every call looks at files and may block for a moment: call it in a thread."""

    def __init__(self, data_dir: str = "/", *, pressure_file: str = PRESSURE_FILE) -> None:
        self._data_dir, self._pressure_file = data_dir, pressure_file
        psutil.cpu_percent()  # the next call measures from here

    def sample(self, unhealthy_drivers: tuple[str, ...] = ()) -> Health:
        """The digest of now; the share of CPU is the mean since the last call. What cannot be read counts as 0 (or as
        not measured, for pressure)."""
        memory = psutil.virtual_memory()
        return Health(
            cpu=share(psutil.cpu_percent(), 100.0),
            memory=share(memory.total - memory.available, memory.total),
            disk=self._disk(),
            io_pressure=self._pressure(),
            drivers=unhealthy_drivers,
        )

    def _disk(self) -> float:
        try:
            return share(psutil.disk_usage(self._data_dir).percent, 100.0)
        except OSError:
            return 0.0

    def _pressure(self) -> float:
        try:
            return parse_pressure(Path(self._pressure_file).read_text())
        except OSError:  # kernels without it, and containers that hide it
            return -1.0


def _share_of_percent(text: str) -> float:
    try:
        return share(float(text), 100.0)
    except ValueError:
        return -1.0


def _step(value: float) -> int:
    return _NOT_MEASURED if not value >= 0 else round(min(value, 1.0) * _STEPS)
