"""When the garbage collector walks over everything: seldom, and at a quiet moment.

Nearly everything is freed without it; only what refers back to itself needs it. A pass over all that 2,000 connections
hold takes 50 ms of CPU time and more, in which nobody is served, and left to itself Python makes one whenever there is
a quarter more: again and again while many clients come, go, or get work. So the clock decides here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable

import trio

# Seconds between passes: as a rule, and at least where much has been made.
_SELDOM_S, _SOONEST_S = 600.0, 30.0
# Objects that were made, less those that went, since the last pass: not worth one, and too many to wait.
_FEW, _MANY = 1_000, 500_000
_LOOK_S = 1.0
# So long a quiet moment is waited for.
_PATIENCE_S = 60.0


def is_due(since_s: float, n_new: int, n_known: int, *, quiet: bool) -> bool:
    """Whether to walk over everything, ``since_s`` after the last time: since then there are ``n_new`` objects more
    than the ``n_known`` that were seen then. The more are known, the longer a pass takes, and the more must be new."""
    if n_new < _FEW:
        return False
    wait_s = _SOONEST_S if n_new >= max(_MANY, n_known // 2) else _SELDOM_S
    return since_s >= wait_s + (0.0 if quiet else _PATIENCE_S)


async def collect_seldom(quiet: Callable[[], bool]) -> None:
    """Governs the collector until cancelled; what there is when it begins stays for good and is not walked over again.
    ``quiet()`` says whether the loop has little to do."""
    gc.collect()
    gc.freeze()
    n_known, last_s = 0, trio.current_time()
    try:
        while True:
            # Every time: a thread that did without it for a while may have switched it on again.
            gc.disable()
            await trio.sleep(_LOOK_S)
            n_new = gc.get_count()[0]
            if is_due(trio.current_time() - last_s, n_new, n_known, quiet=quiet()):
                gc.collect()
                n_known, last_s = n_known + n_new, trio.current_time()
    finally:
        gc.enable()
        gc.unfreeze()
