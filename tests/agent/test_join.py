from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from nomadpy.agent.config import Join
from nomadpy.agent.join import expand, join_at_start, keep_joining
from nomadpy.model.errors import Invalid, Unavailable


async def test_entries_stand_for_addresses(tmp_path: Path) -> None:
    listed = tmp_path / "servers"
    listed.write_text("10.0.0.1 # the first\n\n10.0.0.2:99, db\n")
    found = await expand((f"file={listed}", "exec=printf 'a b'", "10.0.0.1"), 4648)
    assert found == ["10.0.0.1:4648", "10.0.0.2:99", "db:4648", "a:4648", "b:4648"]


@pytest.mark.parametrize(
    ("entry", "kind", "why"),
    [
        ("provider=aws tag_key=x", Invalid, "exec=COMMAND"),
        ("file=/does/not/exist", Unavailable, "cannot be read"),
        ("exec=false", Unavailable, "ended with 1"),
        ("exec=/does/not/exist", Unavailable, "failed"),
        ("exec='", Unavailable, "failed"),
    ],
)
async def test_what_names_nobody_is_told(entry: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        await expand((entry,), 4648)


async def test_joining_at_the_start_must_succeed() -> None:
    async def nobody(addresses: list[str]) -> tuple[int, list[str]]:
        return 0, [f"{address} is deaf" for address in addresses]

    with pytest.raises(Unavailable, match="a:1 is deaf; b:4648 is deaf"):
        await join_at_start(Join(start_join=("a:1", "b")), 4648, nobody)


async def test_joining_goes_on_until_somebody_answers(autojump_clock: MockClock) -> None:
    tries: list[float] = []
    alone = trio.Event()

    async def third_time(addresses: list[str]) -> tuple[int, list[str]]:
        tries.append(trio.current_time())
        return (1, []) if len(tries) in (3, 4) else (0, ["deaf"])

    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: keep_joining(Join(retry_join=("a",)), 1, third_time, until_alone=alone.wait))
            await trio.sleep(50)
            assert len(tries) == 3
            alone.set()
            await trio.sleep(6)
            assert len(tries) > 3
            nursery.cancel_scope.cancel()


async def test_joining_gives_up_after_so_many_tries(autojump_clock: MockClock) -> None:
    async def nobody(addresses: list[str]) -> tuple[int, list[str]]:
        return 0, ["deaf"]

    with pytest.raises(Unavailable, match="in 2 tries: deaf"):
        await keep_joining(Join(retry_join=("a",), retry_max=2), 1, nobody, until_alone=trio.sleep_forever)
