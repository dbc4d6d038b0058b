"""Log files of containers: rotation, the engine's stream format, and resuming without loss or doubling."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.drivers.docker.logs import Demultiplexer, LogFiles, RotatingFile


def contents(directory: str, prefix: str) -> dict[int, bytes]:
    """index -> bytes of every log file."""
    return {
        int(path.name.rpartition(".")[2]): path.read_bytes()
        for path in sorted(Path(directory).iterdir())
        if path.name.startswith(prefix + ".")
    }


def joined(directory: str, prefix: str) -> bytes:
    found = contents(directory, prefix)
    return b"".join(found[index] for index in sorted(found))


def rotating(directory: Path, max_bytes: int = 20, max_files: int = 3) -> RotatingFile:
    return RotatingFile(str(directory), "web.stdout", max_bytes=max_bytes, max_files=max_files)


def test_lines_stay_whole_and_old_files_go(tmp_path: Path) -> None:
    file = rotating(tmp_path)
    for number in range(10):
        file.write(b"line %d\n" % number)
    file.close()
    assert contents(str(tmp_path), "web.stdout") == {
        2: b"line 4\nline 5\n",
        3: b"line 6\nline 7\n",
        4: b"line 8\nline 9\n",
    }


def test_a_line_longer_than_a_file_stays_whole_up_to_its_limit(tmp_path: Path) -> None:
    file = rotating(tmp_path)
    file.write(b"short\n" + b"x" * 50 + b"\nnext\n")
    file.close()
    assert contents(str(tmp_path), "web.stdout") == {0: b"short\n", 1: b"x" * 50 + b"\n", 2: b"next\n"}


def test_an_endless_line_is_cut(tmp_path: Path) -> None:
    file = rotating(tmp_path, max_bytes=500, max_files=1000)
    file.write(b"x" * 50_000)
    file.close()
    found = contents(str(tmp_path), "web.stdout")
    assert joined(str(tmp_path), "web.stdout") == b"x" * 50_000
    assert max(len(data) for data in found.values()) <= 500


def test_a_later_attempt_goes_on_in_the_newest_file(tmp_path: Path) -> None:
    for word in (b"first\n", b"second\n"):
        file = rotating(tmp_path)
        file.write(word)
        file.close()
    assert contents(str(tmp_path), "web.stdout") == {0: b"first\nsecond\n"}


@given(st.lists(st.binary(max_size=60)), st.integers(1, 40))
def test_rotation_loses_nothing_while_files_are_kept(parts: list[bytes], max_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = RotatingFile(directory, "web.stdout", max_bytes=max_bytes, max_files=10_000)
        for part in parts:
            file.write(part)
        file.close()
        assert joined(directory, "web.stdout") == b"".join(parts)


def frame(stream: str, timestamp: str, data: bytes) -> bytes:
    body = timestamp.encode() + b" " + data
    return bytes([2 if stream == "stderr" else 1, 0, 0, 0]) + len(body).to_bytes(4, "big") + body


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(max_size=30))), st.data())
def test_frames_come_out_however_they_are_cut(messages: list[tuple[str, bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(name, "2026-01-01T00:00:00.000000000Z", text) for name, text in messages)
    split, found = Demultiplexer(tty=False), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += [(name, text) for name, _, text in split.feed(stream[:size])]
        stream = stream[size:]
    assert found == messages


def test_a_terminals_lines_are_told_apart_by_their_timestamps() -> None:
    split = Demultiplexer(tty=True)
    long = b"x" * (16 * 1024)
    raw = b"T1 a b\r\nT2 " + long + b"T3 rest\r\nT4 no end"
    found = [part for at in range(0, len(raw), 100) for part in split.feed(raw[at : at + 100])]
    assert [(stamp, data) for _, stamp, data in found + list(split.rest())] == [
        ("T1", b"a b\r\n"),
        ("T2", long),
        ("T3", b"rest\r\n"),
        ("T4", b"no end"),
    ]


def stamp(ticks: int) -> str:
    """Ticks of a quarter of a second."""
    return f"2026-01-01T00:{ticks // 240:02}:{ticks // 4 % 60:02}.{ticks % 4 * 25:02}0000000Z"


def since_ticks(since: str) -> int:
    """The first tick that the engine tells for a ``since``."""
    if not since:
        return 0
    seconds, _, nanoseconds = since.partition(".")
    return (int(seconds) - 1767225600) * 4 + int(nanoseconds) // 250_000_000


def open_logs(directory: str) -> LogFiles:
    return LogFiles(
        logs_dir=directory,
        task_name="web",
        record_path=os.path.join(directory, "record"),
        container_id="c1",
        max_bytes=200,
        max_files=1000,
    )


@given(
    st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.integers(0, 3)), max_size=60),
    st.lists(st.tuples(st.integers(0, 25), st.binary(max_size=9)), max_size=6),
)
def test_nothing_is_lost_or_doubled(steps: list[tuple[str, int]], agents: list[tuple[int, bytes]]) -> None:
    """Each agent copies some messages, then is killed, perhaps with bytes written but not noted."""
    ticks, messages = 0, []
    for number, (name, later) in enumerate(steps):
        ticks += later
        # The engine may note a message up to a second after a younger one of the other stream.
        moment = max(0, ticks - 3) if name == "stderr" else ticks
        messages.append((name, moment, b"%d\n" % number))
    with tempfile.TemporaryDirectory() as directory:
        for n_copied, unnoted in [*agents, (len(messages), b"")]:
            files = open_logs(directory)
            since = since_ticks(files.resume())
            told = [(name, stamp(at), text) for name, at, text in messages if at >= since]
            for start in range(0, min(n_copied, len(told)), 4):
                files.write(iter(told[start : min(start + 4, n_copied)]))
            files._streams["stdout"].file.write(unnoted)
            files.close()
        files = open_logs(directory)
        files.resume()
        files.close()
        for name in ("stdout", "stderr"):
            assert joined(directory, f"web.{name}") == b"".join(text for which, _, text in messages if which == name)


def test_what_the_engine_tells_again_is_passed_over(tmp_path: Path) -> None:
    files = open_logs(str(tmp_path))
    told = [("stdout", stamp(at), b"%d\n" % at) for at in range(100, 140)]
    assert files.write(iter(told[:30])) == 30
    assert files.write(iter(told[10:])) == 10
    files.close()
    assert joined(str(tmp_path), "web.stdout") == b"".join(text for _, _, text in told)


def test_a_clock_that_is_set_back_loses_nothing(tmp_path: Path) -> None:
    files = open_logs(str(tmp_path))
    files.write(iter([("stdout", stamp(10_000), b"before\n"), ("stdout", stamp(5), b"after\n")]))
    files.close()
    assert joined(str(tmp_path), "web.stdout") == b"before\nafter\n"


def test_another_container_starts_from_its_beginning(tmp_path: Path) -> None:
    files = open_logs(str(tmp_path))
    files.write(iter([("stdout", stamp(100), b"old\n")]))
    files.close()
    files = LogFiles(
        logs_dir=str(tmp_path),
        task_name="web",
        record_path=str(tmp_path / "record"),
        container_id="c2",
        max_bytes=200,
        max_files=10,
    )
    assert files.resume() == ""
    files.write(iter([("stdout", stamp(50), b"new\n")]))
    files.close()
    assert joined(str(tmp_path), "web.stdout") == b"old\nnew\n"


@pytest.mark.parametrize("record", [b"", b"{", b'{"container_id": 3}', b"\xff\xfe"])
def test_a_broken_record_only_costs_the_position(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "record").write_bytes(record)
    files = open_logs(str(tmp_path))
    assert files.resume() == ""
    files.close()
