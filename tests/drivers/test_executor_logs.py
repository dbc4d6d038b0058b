from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nomadpy.drivers.executor import logs
from nomadpy.drivers.executor.logs import LINE_SLACK_BYTES, RotatedLog


def open_log(directory: Path, max_bytes: int, max_files: int = 1000) -> RotatedLog:
    return RotatedLog(f"{directory}/web.stdout", max_files=max_files, max_bytes=max_bytes)


def contents(directory: Path) -> list[bytes]:
    """The files' bytes, oldest first."""
    paths = sorted(directory.glob("web.stdout.*"), key=lambda path: int(path.suffix[1:]))
    return [path.read_bytes() for path in paths]


def test_a_file_ends_with_the_last_line_that_fits(tmp_path: Path) -> None:
    log = open_log(tmp_path, 10)
    log.write(b"aaa\nbbb\nccc\nd")
    log.close()
    assert contents(tmp_path) == [b"aaa\nbbb\n", b"ccc\nd"]


def test_a_line_in_the_middle_is_finished_before_the_next_file(tmp_path: Path) -> None:
    log = open_log(tmp_path, 10)
    for piece in (b"aaaa", b"bbbb", b"cccc", b"dd\ne", b"\n"):
        log.write(piece)
    log.close()
    assert contents(tmp_path) == [b"aaaabbbbccccdd\n", b"e\n"]


def test_a_line_without_end_is_cut(tmp_path: Path) -> None:
    log = open_log(tmp_path, 10)
    log.write(b"x" * (10 + LINE_SLACK_BYTES + 5))
    log.close()
    assert [len(data) for data in contents(tmp_path)] == [10 + LINE_SLACK_BYTES, 5]


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    log = open_log(tmp_path, 2, max_files=2)
    log.write(b"a\nb\nc\nd\n")
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web.stdout.2", "web.stdout.3"]


def test_it_goes_on_in_the_newest_file(tmp_path: Path) -> None:
    for text in (b"a\nb", b"c\nd\n"):
        log = open_log(tmp_path, 4)
        log.write(text)
        log.close()
    assert contents(tmp_path) == [b"a\nbc\n", b"d\n"]


def test_a_missing_directory_loses_output_and_nothing_else(tmp_path: Path) -> None:
    log = open_log(tmp_path / "gone", 4)
    log.write(b"abc\n")
    log.close()
    assert log.lost_bytes == 4


def test_a_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "web.stdout.0").symlink_to(tmp_path / "precious")
    log = open_log(tmp_path, 100)
    log.write(b"overwritten?\n")
    log.close()
    assert (tmp_path / "precious").read_bytes() == b"precious"


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=30).map(str.encode), max_size=20),
    max_bytes=st.integers(1, 20),
    slack=st.sampled_from([0, 5, 40]),
)
def test_nothing_is_lost_and_no_file_is_too_large(
    tmp_path_factory: object, pieces: list[bytes], max_bytes: int, slack: int
) -> None:
    directory: Path = tmp_path_factory.mktemp("logs")  # type: ignore[attr-defined]
    before, logs.LINE_SLACK_BYTES = logs.LINE_SLACK_BYTES, slack
    try:
        log = open_log(directory, max_bytes)
        for piece in pieces:
            log.write(piece)
        log.close()
    finally:
        logs.LINE_SLACK_BYTES = before
    files = contents(directory)
    assert b"".join(files) == b"".join(pieces)
    assert all(len(data) <= max_bytes + slack for data in files)
    # A file ends in the middle of a line only where the slack was used up.
    assert all(data.endswith(b"\n") or len(data) >= max_bytes + slack for data in files[:-1])
