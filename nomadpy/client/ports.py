"""What every runner of a client works with: drivers, memory, clock, chance and the node's facts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio

from nomadpy.client.config import ClientConfig
from nomadpy.client.health import ChecksSource
from nomadpy.client.hooks import AllocHook, TaskHook
from nomadpy.client.ledger import Ledger
from nomadpy.drivers.contract import Driver
from nomadpy.model.errors import Fatal
from nomadpy.model.node import Node


@dataclass
class Ports:
    """The surroundings of one client. ``node`` changes as fingerprints do; ``wall_ns`` is Unix time."""

    config: ClientConfig
    drivers: Mapping[str, Driver]
    ledger: Ledger
    node: Node
    rng: random.Random
    wall_ns: Callable[[], int] = time.time_ns
    task_hooks: tuple[TaskHook, ...] = ()
    alloc_hooks: tuple[AllocHook, ...] = ()
    checks: ChecksSource | None = None
    servers_contacted: trio.Event = field(default_factory=trio.Event)

    def driver(self, name: str) -> Driver:
        """The driver of that name. Raises Fatal when this client has none."""
        driver = self.drivers.get(name)
        if driver is None:
            known = ", ".join(sorted(self.drivers)) or "none"
            raise Fatal(f'driver "{name}" is not available on this client; it has {known}')
        return driver
