"""The command line: starts a process per workload and prints what came of it."""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scheduler_bench import world
from scheduler_bench.workloads import WORKLOADS, run


def main(arguments: list[str], script: Path) -> int:
    """Returns the exit code: 1 when a workload failed or its outcome did not hold."""
    parser = argparse.ArgumentParser(prog="bench_scheduler", add_help=True)
    parser.add_argument("-only", action="append", choices=sorted(WORKLOADS), default=None)
    parser.add_argument("-json", action="store_true")
    parser.add_argument("-runs", type=int, default=1)
    parser.add_argument("-keep", type=Path, default=None)
    parser.add_argument("-scale", type=float, default=1.0, help="a share of the jobs, for a quick look")
    parser.add_argument("-profile", action="store_true", help="where the time of the measured part goes, on stderr")
    parser.add_argument("-inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    names = options.only or list(WORKLOADS)
    if options.inside:
        return _here(names[0], options)
    failed = False
    if not options.json:
        print(f"{'workload':16} {'count':>9} {'seconds':>9} {'cpu s':>7} {'per second':>11} {'rss MB':>7}  target")
    for name in names:
        results = [_in_process(script, name, options) for _ in range(options.runs)]
        failed |= any(result is None or not result["checked"] for result in results)
        good = [result for result in results if result is not None]
        if good:
            _show(_median(good), as_json=options.json)
    return int(failed)


def _here(name: str, options: argparse.Namespace) -> int:
    if options.profile:
        world.PROFILES.append(cProfile.Profile())
    print(json.dumps(run(name, scale=options.scale, directory=options.keep)))
    for profile in world.PROFILES:
        pstats.Stats(profile, stream=sys.stderr).strip_dirs().sort_stats("tottime").print_stats(45).sort_stats(
            "cumulative"
        ).print_stats(60)
    return 0


def _in_process(script: Path, name: str, options: argparse.Namespace) -> dict[str, Any] | None:
    command = [sys.executable, str(script), "-inside", "-only", name, "-scale", str(options.scale)]
    if options.profile:
        command += ["-profile"]
    if options.keep is not None:
        command += ["-keep", str(options.keep)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{name}: failed with exit code {done.returncode}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The run whose time is the median (the lower one of two)."""
    middle = statistics.median_low([result["seconds"] for result in results])
    return next(result for result in results if result["seconds"] == middle)


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    extra = ", ".join(f"{key} {value}" for key, value in result.get("detail", {}).items())
    print(
        f"{result['workload']:16} {result['placements']:>9,} {result['seconds']:>9.3f} "
        f"{result.get('cpu_seconds', 0):>7.3f} {result['per_second']:>11,.0f} "
        f"{result['rss_mb']:>7,}  {result['target']} {'' if result['checked'] else 'CHECK FAILED '}"
        f"{'(' + extra + ')' if extra else ''}",
        flush=True,
    )
