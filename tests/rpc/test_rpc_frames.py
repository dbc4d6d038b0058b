"""Frames as bytes: round trips however they are cut, garbage, limits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model.errors import Invalid
from nomadpy.rpc import frames as f

IDS = st.integers(0, 2**53 - 1)
NAMES = st.text(max_size=20)
RAW = st.recursive(st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(), st.lists).map(
    lambda value: msgspec.Raw(msgspec.msgpack.encode(value))
)
FRAMES = st.one_of(
    st.builds(f.Hello, st.integers(0, 9), NAMES, NAMES, NAMES, NAMES, NAMES, st.integers(0, 2**31)),
    st.builds(f.Request, IDS, NAMES, st.floats(0, 1e9), RAW),
    st.builds(f.Response, IDS, RAW),
    st.builds(f.Failure, IDS, NAMES, st.integers(100, 599), NAMES),
    st.builds(f.Cancel, IDS),
    st.builds(f.Open, IDS, NAMES, RAW),
    st.builds(f.Data, IDS, st.binary(), st.booleans()),
    st.builds(f.Credit, IDS, st.integers(0, 2**31)),
    st.builds(f.End, IDS, st.booleans()),
    st.builds(f.Ping),
    st.builds(f.Pong),
    st.builds(f.Part, IDS, st.binary(), st.booleans()),
)


def _plain(frame: f.Frame) -> object:
    """Raw compares by identity of bytes; its bytes are what counts."""
    fields = [getattr(frame, name) for name in frame.__struct_fields__]
    return type(frame), [bytes(memoryview(one)) if isinstance(one, msgspec.Raw) else one for one in fields]


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(1, 50), max_size=60))
def test_frames_survive_however_the_bytes_are_cut(frames: list[f.Frame], cuts: list[int]) -> None:
    data = b"".join(map(f.pack, frames))
    reader, got, at = f.FrameReader(), [], 0
    for length in [*cuts, len(data) + 1]:
        reader.feed(data[at : at + length])
        at += length
        while (frame := reader.next_frame()) is not None:
            got.append(frame)
    assert [_plain(one) for one in got] == [_plain(one) for one in frames]


@given(st.binary(max_size=300), FRAMES, st.integers(0, 400))
def test_garbage_is_refused_or_waited_for_but_never_crashes(noise: bytes, frame: f.Frame, at: int) -> None:
    packed = f.pack(frame)
    for data in (noise, packed[:at] + noise + packed[at:], len(noise).to_bytes(4, "little") + noise):
        reader = f.FrameReader()
        reader.feed(data)
        try:
            while reader.next_frame() is not None:
                pass
        except Invalid:
            continue


def test_nesting_without_end_is_refused() -> None:
    data = b"\x95\x01\x01\xa1a\xcb" + bytes(8) + b"\x91" * 60_000
    with pytest.raises(Invalid):
        f.unpack(data)


def test_a_later_versions_fields_are_ignored() -> None:
    longer = msgspec.msgpack.encode([8, 5, True, "added later"])
    assert f.unpack(longer) == f.End(5, True)


@given(st.integers(0, 5 * f.PIECE_BYTES))
def test_long_requests_come_together_again(size: int) -> None:
    request = f.Request(7, "Some.Method", 1.5, msgspec.Raw(msgspec.msgpack.encode(b"x" * size)))
    pieces = f.cut(request)
    assert all(len(piece) <= f.PIECE_BYTES + 64 for piece in pieces)
    assembler, whole = f.Assembler(f.Limits()), None
    for piece in pieces:
        frame = f.unpack(piece[4:])
        assert whole is None
        whole = assembler.add(frame) if isinstance(frame, f.Part) else frame
    assert whole is not None
    assert _plain(whole) == _plain(request)


@pytest.mark.parametrize("idents", [[1] * 20, list(range(20))], ids=["one", "a crowd"])
def test_long_messages_have_a_limit(idents: list[int]) -> None:
    assembler = f.Assembler(f.Limits(message_bytes=100_000, assembling_bytes=150_000))

    def add_all() -> None:
        for ident in idents:
            assembler.add(f.Part(ident, b"x" * 10_000))

    with pytest.raises(Invalid, match="too long"):
        add_all()
