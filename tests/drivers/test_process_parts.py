"""Small parts of the process drivers: signals, users, capabilities, messages, exit records, the JVM's words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.drivers import capabilities, signals, users
from nomadpy.drivers.contract import DriverContext
from nomadpy.drivers.executor import exitrecord, procfs, wire
from nomadpy.drivers.java import JavaDriver, command_line, parse_version
from nomadpy.model.errors import Fatal, Invalid


@pytest.mark.parametrize("name", ["SIGHUP", "HUP", "hup", " sighup ", "1"])
def test_signals_have_many_names(name: str) -> None:
    assert signals.number(name) == 1


@pytest.mark.parametrize("name", ["SIGNOPE", "", "0", "999", "-1", "SIG_DFL"])
def test_what_is_no_signal_is_named(name: str) -> None:
    with pytest.raises(Invalid, match="invalid signal"):
        signals.number(name)


def test_users_by_name_and_by_number() -> None:
    assert users.look_up("root").uid == 0
    assert users.look_up("0").name == "root"
    assert users.look_up("root:daemon").groups == (users.look_up("root:daemon").gid,)
    assert users.look_up("54321").groups == (54321,)
    with pytest.raises(Fatal, match='group "no-such-group"'):
        users.look_up("root:no-such-group")


def test_ranges_of_ids() -> None:
    assert users.parse_ranges("0, 100-102") == [range(1), range(100, 103)]
    assert users.parse_ranges("") == []
    for text in ("x", "5-3", "1-", "1-b"):
        with pytest.raises(ValueError, match="not a range"):
            users.parse_ranges(text)


def test_capabilities_are_bits_in_the_kernels_order() -> None:
    assert capabilities.bits(["chown", "net_bind_service", "checkpoint_restore"]) == 1 | 1 << 10 | 1 << 40
    assert capabilities.normalise(["CAP_CHOWN", "kill"]) == {"chown", "kill"}
    assert len(capabilities.normalise(["all"])) == 41


def test_an_ordinary_user_holds_only_what_was_asked_for() -> None:
    bound, held = capabilities.grant(capabilities.ALLOWED_BY_DEFAULT, ["chown"], [])
    assert bound == capabilities.bits(capabilities.ALLOWED_BY_DEFAULT)
    assert held == capabilities.bits(["chown", "net_bind_service"])
    assert capabilities.grant(["all"], ["sys_time"], ["all"])[0] == capabilities.bits(["sys_time"])


@given(st.lists(st.tuples(st.text("abc= \n", min_size=1), st.text("xyz\n é\udc80", max_size=5)), max_size=5))
def test_messages_come_out_as_they_went_in(pairs: list[tuple[str, str]]) -> None:
    data = wire.encode(pairs)
    assert wire.body_length(data[: wire.LENGTH_BYTES]) == len(data) - wire.LENGTH_BYTES
    assert wire.decode(data[wire.LENGTH_BYTES :]) == pairs


def test_a_length_that_is_none_is_refused() -> None:
    for head in (b"", b"\x00\x01", b"\xff\xff\xff\xff"):
        with pytest.raises(ValueError, match="not a message"):
            wire.body_length(head)


def test_an_exit_record_is_whole_or_not_there(tmp_path: Path) -> None:
    assert exitrecord.read(str(tmp_path)) is None
    exitrecord.write(str(tmp_path), {"exit_code": "3", "error": "two\nlines"})
    assert exitrecord.read(str(tmp_path)) == {"exit_code": "3", "error": "two lines"}
    torn = (tmp_path / "exit").read_bytes()[:-4]
    (tmp_path / "exit").write_bytes(torn)
    assert exitrecord.read(str(tmp_path)) is None


def test_a_process_is_named_by_its_number_and_its_start() -> None:
    assert procfs.start_ticks(os.getpid()) > procfs.start_ticks(1) >= 0
    assert procfs.start_ticks(2**22 + 1) == 0
    assert procfs.alive(os.getpid())


OLD_JAVA = """java version "1.8.0_292"
Java(TM) SE Runtime Environment (build 1.8.0_292-b10)
Java HotSpot(TM) 64-Bit Server VM (build 25.292-b10, mixed mode)
"""


def test_the_jvm_is_understood_behind_its_chatter() -> None:
    found = parse_version("Picked up JAVA_TOOL_OPTIONS: -Dx\n" + OLD_JAVA)
    assert found["driver.java.version"] == "1.8.0_292"
    assert found["driver.java.runtime"].startswith("Java(TM) SE Runtime")
    assert found["driver.java.vm"].startswith("Java HotSpot")
    assert parse_version("command not found") == {}


def test_the_jvms_command_line() -> None:
    options = {"class": "Main", "class_path": "a:b", "jvm_options": ["-Xmx1g"], "args": ["-x"]}
    assert command_line(options) == ["-Xmx1g", "-cp", "a:b", "Main", "-x"]


def test_a_class_or_a_jar_is_needed() -> None:
    assert JavaDriver(DriverContext()).check_config({"args": ["x"]}) == [
        'one of the options "jar_path" and "class" is required'
    ]
