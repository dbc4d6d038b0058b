from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomadpy.client.allocdir import AllocDir, mounts_below
from nomadpy.model.errors import Invalid


@pytest.fixture
def directory(tmp_path: Path) -> AllocDir:
    made = AllocDir(str(tmp_path / "allocs"), "a-1", secrets_in_memory=False)
    made.build()
    made.build_task("web")
    return made


def test_layout_and_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = AllocDir(str(tmp_path / "allocs"), "a-1", secrets_in_memory=False)
        made.build()
        made.build_task("web")
    finally:
        os.umask(before)
    modes = {
        p: stat.S_IMODE((made.path / p).stat().st_mode) for p in ("alloc", "alloc/data", "alloc/logs", "alloc/tmp")
    }
    assert set(modes.values()) == {0o777}
    inner = {p: stat.S_IMODE((made.path / "web" / p).stat().st_mode) for p in ("local", "secrets", "private", "tmp")}
    secrets = 0o777 if os.geteuid() == 0 else 0o700
    assert inner == {"local": 0o777, "secrets": secrets, "private": 0o700, "tmp": 0o1777}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_secrets_are_in_memory_and_leave_with_the_directory(tmp_path: Path) -> None:
    made = AllocDir(str(tmp_path), "a-1")
    made.build()
    made.build_task("my web")
    if not os.path.ismount(made.path / "my web" / "secrets"):
        pytest.skip("this machine does not let us mount")
    assert mounts_below(str(made.path)) == [str(made.path / "my web" / "secrets")]
    made.build_task("my web")
    assert len(mounts_below(str(made.path))) == 1
    made.destroy()
    assert not made.path.exists()
    made.destroy()


def test_destroying_never_follows_a_link_out(directory: AllocDir, tmp_path: Path) -> None:
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("keep")
    (directory.path / "web" / "local" / "link").symlink_to(outside)
    directory.destroy()
    assert (outside / "file").read_text() == "keep"


@pytest.mark.parametrize("path", ["../x", "web/../../x", "/../../etc/passwd", "a/../../b/../..", ".."])
def test_paths_that_climb_out_are_refused(directory: AllocDir, path: str) -> None:
    with pytest.raises(Invalid, match="Path escapes the alloc directory"):
        directory.resolve(path)


def test_links_that_lead_out_are_refused(directory: AllocDir) -> None:
    (directory.path / "web" / "local" / "out").symlink_to("/etc")
    with pytest.raises(Invalid, match="Path escapes the alloc directory"):
        directory.resolve("web/local/out/passwd")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.lists(st.sampled_from(["..", ".", "", "web", "local", "alloc", "in", "up", "x\0y", "..."]), max_size=8))
def test_whatever_is_asked_for_the_answer_lies_inside(directory: AllocDir, parts: list[str]) -> None:
    inside, up = directory.path / "web" / "local" / "in", directory.path / "web" / "local" / "up"
    if not inside.is_symlink():
        inside.symlink_to("../../alloc")
        up.symlink_to("../../..")
    try:
        found = directory.resolve("/".join(parts))
    except Invalid:
        return
    root = os.path.realpath(directory.path)
    assert (os.path.realpath(found) + "/").startswith(root + "/")


@pytest.mark.parametrize("where", ["web/secrets/token", "web/local/../secrets/token", "web/local/link"])
def test_secrets_are_not_shown_by_any_way(directory: AllocDir, where: str) -> None:
    (directory.path / "web" / "secrets" / "token").write_text("s")
    (directory.path / "web" / "local" / "link").symlink_to("../secrets/token")
    path = directory.resolve(where)
    with pytest.raises(Invalid, match="Reading secret file prohibited: " + where.replace(".", r"\.")):
        directory.refuse_hidden(path, where, ["web"])


def test_an_id_is_never_a_path(tmp_path: Path) -> None:
    for wrong in ("", "..", "a/b"):
        with pytest.raises(Invalid):
            AllocDir(str(tmp_path), wrong)
