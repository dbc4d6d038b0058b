"""Finds the task drivers that are installed: entry points of the group ``nomadpy.drivers``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from nomadpy.drivers.contract import Driver, DriverContext

log = logging.getLogger(__name__)

GROUP = "nomadpy.drivers"


def load_drivers(context_for: Callable[[str], DriverContext]) -> dict[str, Driver]:
    """Every installed driver by name, each made with the context of its name.

    A driver that cannot be loaded or made is logged and left out: one broken package must not keep a node from
    running everything else.
    """
    drivers: dict[str, Driver] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        driver = _load(point, context_for)
        if driver is None:
            continue
        if driver.name in drivers:
            log.error("driver.name_taken", extra={"fields": {"driver": driver.name, "entry_point": point.value}})
            continue
        drivers[driver.name] = driver
    return drivers


def _load(point: EntryPoint, context_for: Callable[[str], DriverContext]) -> Driver | None:
    try:
        factory: Callable[[DriverContext], Driver] = point.load()
        return factory(context_for(point.name))
    except Exception:
        # Whatever a foreign package raises while it is imported is its own defect; it is told in full.
        log.exception("driver.not_loaded", extra={"fields": {"driver": point.name, "entry_point": point.value}})
        return None
