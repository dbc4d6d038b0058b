"""Long runs of the simulation: scripts/simulate_raft."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
import time
import traceback

from reference import Reference
from sim import PROFILES, Factory, Totals, add, run_seed

from nomadpy.raft.core import Core

BESIDE = functools.partial(Core, reads_beside=True)
ENGINES: dict[str, tuple[Factory, ...]] = {
    "ours": (Core,),
    "beside": (BESIDE,),
    "reference": (Reference,),
    "mixed": (Core, Reference, BESIDE),
}


def main(arguments: list[str]) -> int:
    """Runs the seeds, prints what happened, and answers how many profiles had a violation."""
    parser = argparse.ArgumentParser(prog="simulate_raft", prefix_chars="-")
    parser.add_argument("-seeds", type=int, default=1000, help="how many (1000)")
    parser.add_argument("-from", dest="first", type=int, default=0, help="the first one (0)")
    parser.add_argument("-profile", choices=[*PROFILES, "all"], default="all")
    parser.add_argument("-engine", choices=list(ENGINES), default="ours")
    options = parser.parse_args(arguments)
    # pysyncobj logs each truncation; here they are provoked.
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL)
    profiles = list(PROFILES) if options.profile == "all" else [options.profile]
    return sum(run(profile, options) for profile in profiles)


def run(profile: str, options: argparse.Namespace) -> bool:
    """One profile; whether there was a violation."""
    totals, failed, stuck, started = Totals(), [], [], time.monotonic()
    for seed in range(options.first, options.first + options.seeds):
        try:
            one = run_seed(seed, profile=profile, factories=ENGINES[options.engine])
        except Exception:  # noqa: BLE001 - whatever it is, it is printed with its seed and makes the run fail
            failed.append(seed)
            traceback.print_exc()
        else:
            totals = add(totals, one)
            if not one.converged:
                stuck.append(seed)
    took_s = time.monotonic() - started
    print(
        f"{profile}: {options.seeds} seeds from {options.first} in {took_s:.0f} s: {len(failed)} violations "
        f"{failed[:20]}; {totals.converged} agreed in the end (not: {stuck[:20]}); {totals.acknowledged} acknowledged, "
        f"{totals.reads} reads, {totals.elections} elections, {totals.kills} kills, "
        f"{totals.installs} snapshots installed, {totals.changes} changes of members",
        flush=True,
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
