"""Disks that are full, slow or damaged, clocks that jump, power that fails: the cluster goes on, and the server that is
hit says what is wrong instead of guessing."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from call_history import DONE, WRITE, Op, indexes_are_one_order
from cluster_agents import Cluster, Machine, is_alive, until
from register_writers import Writers, check, register_job, write
from trouble import picture

FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_agent.py"))]
SNAPSHOTS_OFTEN = "server {\n raft_snapshot_threshold = 100\n raft_trailing_logs = 20\n}\n"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def shared_brittle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("brittle"), clients=1, more=SNAPSHOTS_OFTEN)
    for machine in cluster.machines:
        machine.entry = FAULTY
        machine.env["NOMADPY_FAULTS"] = str(cluster.directory / "faults")
    equip(cluster)
    with contextlib.closing(cluster):
        cluster.start()
        autopilot = cluster.get("/v1/operator/autopilot/configuration")
        autopilot["ServerStabilizationTime"] = "1s"
        cluster.ask("PUT", "/v1/operator/autopilot/configuration", autopilot)
        yield cluster


@pytest.fixture
def brittle(shared_brittle: Cluster) -> Cluster:
    """Three servers that take snapshots often, and a client, on machines whose faults can be chosen."""
    equip(shared_brittle)
    for machine in shared_brittle.machines:
        if not machine.running:
            machine.start()
    return shared_brittle.wait_whole()


def fill(cluster: Cluster, count: int) -> None:
    """So many entries in the log."""
    with Writers(cluster, 8, keys=4, name=f"fill{next(_numbers)}", reads=0) as writers:
        writers.wait_more(count)


def equip(cluster: Cluster, **faults: float) -> None:
    """Gives all machines these faults, and takes away others."""
    partial = cluster.directory / "faults.partial"
    partial.write_text(json.dumps(faults))
    partial.replace(cluster.directory / "faults")


def refuses(cluster: Cluster, server: Machine, *words: str) -> None:
    """The server ends by itself with one line that says why; the others go on meanwhile."""
    before = len(server.log())
    server.start()
    assert server.process is not None
    assert server.process.wait(30) == 1
    said = server.log()[before:]
    assert "Traceback" not in said
    last = [line for line in said.splitlines() if line.startswith("nomadpy agent: ")]
    assert last, said
    for word in words:
        assert word in last[-1], last
    assert write(cluster.wait_leader(), Op("others", WRITE, str(time.time())), timeout_s=10).outcome == DONE


def replace(cluster: Cluster, server: Machine) -> None:
    """What an operator does then: empties the directory; the server comes back as a new one and catches up."""
    shutil.rmtree(server.data_dir)
    server.start()
    cluster.wait_whole()

    def votes() -> bool:
        servers = cluster.get("/v1/operator/raft/configuration")["Servers"]
        assert [one["Voter"] for one in servers if one["Node"].startswith(server.name)].count(True) == 1, servers
        return True

    until(votes, f"a vote for {server.name}", timeout_s=60)


def test_a_damaged_log_is_refused_and_the_cluster_goes_on(brittle: Cluster) -> None:
    fill(brittle, 50)
    server = brittle.followers()[0]
    server.end(signal.SIGKILL)
    wal = max((server.data_dir / "server" / "raft" / "log").glob("*.wal"), key=lambda path: path.stat().st_size)
    data = bytearray(wal.read_bytes())
    data[len(data) // 2] ^= 0x40
    wal.write_bytes(data)
    refuses(brittle, server, wal.name, "damaged")
    replace(brittle, server)


def test_a_missing_snapshot_is_refused_and_the_cluster_goes_on(brittle: Cluster) -> None:
    fill(brittle, 250)
    server = brittle.followers()[0]
    folder = server.data_dir / "server" / "raft" / "snapshots"
    until(lambda: list(folder.iterdir()), "a snapshot", timeout_s=30)
    server.end(signal.SIGKILL)
    folder.rename(folder.with_name("elsewhere"))
    refuses(brittle, server, "snapshot")
    # What it refused it left as it was: with the snapshot in its place again it goes on.
    shutil.rmtree(folder)
    folder.with_name("elsewhere").rename(folder)
    server.start()
    brittle.wait_whole()


@pytest.mark.skipif(os.geteuid() != 0, reason="exec: not root")
def test_a_full_disk_ends_one_server_and_the_cluster_goes_on(brittle: Cluster) -> None:
    server = brittle.followers()[0]
    server.end(signal.SIGTERM)
    moved = server.directory / "moved"
    shutil.move(server.data_dir, moved)
    server.data_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(server.data_dir)], check=True)
    try:
        shutil.copytree(moved, server.data_dir, dirs_exist_ok=True)
        server.start()
        brittle.wait_whole()
        filler = server.data_dir / "filler"
        with open(filler, "wb") as file:
            subprocess.run(["dd", "if=/dev/zero", "bs=64k"], stdout=file, stderr=subprocess.DEVNULL, check=False)
        with Writers(brittle, 8, keys=4, name="full", servers=brittle.others(server)) as writers:
            until(lambda: not server.running, "the end of the server", timeout_s=30)
            writers.wait_more(50)
        assert server.process is not None
        assert server.process.returncode == 1
        assert "No space left" in server.log().splitlines()[-1]
        check(brittle, writers.history)
        filler.unlink()
        server.start()
        brittle.wait_whole()
        server.end(signal.SIGTERM)
        shutil.rmtree(moved)
        shutil.copytree(server.data_dir, moved)
    finally:
        server.end(signal.SIGKILL)
        subprocess.run(["umount", "-l", str(server.data_dir)], check=True)
    server.data_dir.rmdir()
    shutil.move(moved, server.data_dir)


def test_slow_disks_cost_time_and_no_leader(brittle: Cluster) -> None:
    equip(brittle, sync_s=0.01)
    term = brittle.wait_leader().state()["term"]
    with Writers(brittle, 16, keys=8, name="slow") as writers:
        writers.wait_more(300)
    assert brittle.wait_leader().state()["term"] == term
    check(brittle, writers.history)
    times = sorted(op.ended - op.began for op in writers.history.of(DONE, WRITE))
    print(f"FIG slow disk, 16 writers: write p50 {times[len(times) // 2] * 1000:.0f} ms")


def test_power_that_fails_everywhere_loses_nothing_acknowledged(brittle: Cluster) -> None:
    rounds = int(os.environ.get("NOMADPY_TEST_ROUNDS", "2"))
    with Writers(brittle, 16, keys=8, name="power") as writers:
        for _ in range(rounds):
            writers.wait_more(100)
            for server in brittle.servers:
                server.send(signal.SIGKILL)
            for server in brittle.servers:
                server.kill()
                server.start()
        writers.wait_more(100)
    assert indexes_are_one_order(writers.history.ops)
    brittle.wait_whole()
    check(brittle, writers.history)


def test_a_clock_that_jumps_by_an_hour_restarts_and_deposes_nobody(brittle: Cluster) -> None:
    brittle.submit(brittle.witness_job("clock", 3))
    brittle.wait_running("clock", 3)
    before = picture(brittle, "clock")
    state = brittle.wait_leader().state()
    for offset_s in (3600, -3600, 0):
        equip(brittle, clock_s=offset_s)
        time.sleep(0.1)  # until the agents have noticed
        brittle.submit(register_job(f"clock{offset_s}", "x"))
        stamped_s = brittle.get(f"/v1/job/clock{offset_s}")["SubmitTime"] / 1e9
        assert abs(stamped_s - time.time() - offset_s) < 60, "the clock did not jump"
        fill(brittle, 20)
        time.sleep(1.5)  # longer than an election takes
    assert brittle.wait_leader().state()["term"] == state["term"]
    brittle.wait_nodes(["c1"])
    assert picture(brittle, "clock") == before
    assert all(is_alive(pid) for _, pid in before["starts"])
    brittle.purge("clock")
