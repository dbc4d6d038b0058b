"""The command line: runs benchmarks one after the other and prints what was measured beside what it should be."""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster_bench import catch_up, clients, commits, failover
from cluster_bench.figures import Figure

BENCHES: dict[str, Callable[[Path, bool], Iterator[Figure]]] = {
    "commits": commits.run,
    "failover": failover.run,
    "clients": clients.run,
    "catch-up": catch_up.run,
}


def main(arguments: list[str]) -> int:
    """Returns the exit code: 0 also where a target was missed, for machines differ."""
    parser = argparse.ArgumentParser(prog="bench_cluster")
    parser.add_argument("-only", action="append", choices=list(BENCHES), default=None)
    parser.add_argument("-json", action="store_true")
    parser.add_argument("-full", action="store_true")
    parser.add_argument("-clients", type=int, default=clients.CLIENTS)
    parser.add_argument("-directory", type=Path, default=Path("/var/tmp"))
    options = parser.parse_args(arguments)
    benches = {**BENCHES, "clients": functools.partial(clients.run, number=options.clients)}
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    os.nice(5)
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="bench-cluster-") as made:
        for name in options.only or BENCHES:
            for figure in benches[name](Path(made) / name, options.full):
                print(json.dumps(figure.as_dict(name)) if options.json else figure.as_line(name), flush=True)
    return 0
