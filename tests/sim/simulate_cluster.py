"""Long runs of the simulated cluster: scripts/simulate_cluster."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import traceback

from cluster_mutations import MUTATIONS, search
from cluster_sim import add, run_seed
from pretend_world import PROFILES, Totals, Violation


def main(arguments: list[str]) -> int:
    """Runs seeds or mutations, prints what happened, and answers whether something is wrong."""
    parser = argparse.ArgumentParser(prog="simulate_cluster", prefix_chars="-")
    parser.add_argument("-seeds", type=int, default=200, help="how many of each profile (200)")
    parser.add_argument("-first", type=int, default=0, help="the first one (0)")
    parser.add_argument("-profile", choices=[*PROFILES, "long", "all"], default="all", help="long: all but brief")
    parser.add_argument("-mutations", action="store_true", help="break each rule and search a seed that notices")
    options = parser.parse_args(arguments)
    # What is loaded by now stays; the collector need not look at it again.
    gc.freeze()
    gc.set_threshold(20_000, 10, 100)
    if options.mutations:
        return _mutations(options.seeds)
    every = {"all": list(PROFILES), "long": [profile for profile in PROFILES if profile != "brief"]}
    profiles = every.get(options.profile, [options.profile])
    return max([_run(profile, options.first, options.seeds) for profile in profiles])


def _run(profile: str, first: int, seeds: int) -> int:
    totals, failed, started = Totals(), [], time.monotonic()
    for seed in range(first, first + seeds):
        try:
            run = run_seed(seed, profile=profile)
            if not run.acknowledged:
                raise Violation("not idle", f"seed {seed}: nothing was acknowledged")
            totals = add(totals, run)
        except Exception:  # noqa: BLE001 - whatever it is, it is printed with its seed and makes the run fail
            failed.append(seed)
            traceback.print_exc()
    took_s = time.monotonic() - started
    figures = ", ".join(f"{getattr(totals, name):,.0f} {name}" for name in totals.__struct_fields__)
    print(
        f"{profile}: {seeds} seeds from {first} in {took_s:.0f} s ({totals.events / took_s:,.0f} events/s); {figures}"
    )
    print(f"{profile}: {len(failed)} violations {failed[:20]}", flush=True)
    return int(bool(failed))


def _mutations(seeds: int) -> int:
    missed = 0
    for mutation in MUTATIONS:
        found = search(mutation, seeds=seeds)
        missed += found is None
        print(f"{mutation.__name__}: " + (f"seed {found[0]}: {found[1][:150]}" if found else "NOT NOTICED"), flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    if "PYTHONHASHSEED" not in os.environ:
        # A set of strings has another order in each process; a seed has to mean the same run.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main(sys.argv[1:]))
