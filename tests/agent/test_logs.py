"""Log lines for people and machines, and followers that the agent never waits for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import trio

from nomadpy.agent.logs import JsonFormatter, LineFormatter, LogTap, level_of, set_level, set_up
from nomadpy.model.errors import Invalid


@pytest.fixture(autouse=True)
def root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("nomadpy.client.x", level, "x.py", 7, message, None, None)
    made.created = 1_767_323_045.678
    made.fields = fields
    return made


def test_a_line_for_people() -> None:
    line = LineFormatter().format(record("alloc.started", alloc="a1", why='it "must"', empty=""))
    assert line == '2026-01-02T03:04:05.678Z [INFO]  client.x: alloc.started: alloc=a1 why="it \\"must\\"" empty=""'
    assert "(x.py:7)" in LineFormatter(include_location=True).format(record("x"))


def test_no_fact_can_forge_a_line() -> None:
    assert "\n" not in LineFormatter().format(record("x", fact="a\n2026-01-02T03:04:05.678Z [ERROR] forged"))


def test_an_object_for_machines() -> None:
    found = json.loads(JsonFormatter().format(record("x", logging.WARNING, count=3)))
    assert found == {
        "@level": "warn",
        "@message": "x",
        "@module": "client.x",
        "@timestamp": "2026-01-02T03:04:05.678Z",
        "count": 3,
    }


def test_levels() -> None:
    assert level_of("WARN") == logging.WARNING
    with pytest.raises(Invalid, match="trace, debug, info, warn, error"):
        level_of("loud")


async def test_a_follower_hears_what_the_console_does_not_print(capsys: pytest.CaptureFixture[str]) -> None:
    tap = set_up("error", as_json=False)
    logger = logging.getLogger("nomadpy.test")
    async with tap.follow("debug", as_json=True, include_location=False) as lines:
        logger.debug("quiet", extra={"fields": {"a": 1}})
        with trio.fail_after(2):
            assert json.loads(await anext(lines))["@message"] == "quiet"
    assert logging.getLogger().level == logging.ERROR
    assert "quiet" not in capsys.readouterr().err


async def test_other_threads_are_heard_too() -> None:
    tap = set_up("error", as_json=False)
    async with tap.follow("info", as_json=False, include_location=False) as lines:
        await trio.to_thread.run_sync(logging.getLogger("nomadpy.test").warning, "from a thread")
        with trio.fail_after(2):
            assert b"from a thread" in await anext(lines)


async def test_a_slow_follower_is_told_what_it_missed() -> None:
    tap = set_up("error", as_json=False)
    logger = logging.getLogger("nomadpy.test")
    async with tap.follow("info", as_json=False, include_location=False) as lines:
        for n in range(600):
            logger.info("line %d", n)
        for _ in range(512):
            await anext(lines)
        logger.info("after")
        assert await anext(lines) == b"[88 lines were lost: reading was too slow]\n"
        assert b"after" in await anext(lines)


def test_a_new_level_reaches_the_console(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(set_up("error", as_json=False), LogTap)
    set_level("info")
    logging.getLogger("nomadpy.test").info("now heard")
    assert "now heard" in capsys.readouterr().err
