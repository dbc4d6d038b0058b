from __future__ import annotations

import pytest

from nomadpy.drivers.schema import (
    BLOCK,
    BLOCKS,
    BOOL,
    DURATION,
    INT,
    LIST,
    MAP,
    STRING,
    Option,
    check,
    duration_s,
    read,
)

SCHEMA = {
    "command": Option(STRING, required=True),
    "args": Option(LIST),
    "tty": Option(BOOL),
    "size": Option(INT),
    "wait": Option(DURATION),
    "labels": Option(MAP),
    "auth": Option(BLOCK, block={"username": Option(STRING), "password": Option(STRING, required=True)}),
    "mount": Option(BLOCKS, block={"target": Option(STRING)}),
}


def problems(**config: object) -> list[str]:
    return check(SCHEMA, {"command": "x", **config})


def test_a_misspelt_option_is_named_with_a_suggestion() -> None:
    assert check(SCHEMA, {"comand": "x"})[0] == 'unknown option "comand"; did you mean "command"?'


def test_a_strange_option_lists_what_is_known() -> None:
    assert "known options: args, auth, command" in problems(zzzzzz=1)[0]


def test_required_options_must_be_there_and_not_empty() -> None:
    assert check(SCHEMA, {}) == ['option "command" is required']
    assert check(SCHEMA, {"command": ""}) == ['option "command" is required']


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("args", "a b", 'option "args" must be a list of strings, not "a b"'),
        ("args", ["a", {"b": 1}], 'option "args" must be a list of strings, but item 1 is a block'),
        ("tty", "maybe", 'option "tty" must be true or false, not "maybe"'),
        ("size", 1.5, 'option "size" must be a whole number, not 1.5'),
        ("size", True, 'option "size" must be a whole number, not true'),
        ("wait", "soon", 'option "wait" must be a duration such as "30s", not "soon"'),
        ("labels", ["x"], 'option "labels" must be a map of strings, not a list'),
        ("command", ["x"], 'option "command" must be a string, not a list'),
        ("auth", "me", 'option "auth" must be a block, not "me"'),
        ("auth", [{"password": "a"}, {"password": "b"}], 'option "auth" may be given only once, not 2 times'),
        ("auth", [{"username": "a"}], 'option "auth.password" is required'),
        ("mount", [{"tarjet": "/x"}], 'unknown option "mount.tarjet"; did you mean "target"?'),
    ],
)
def test_a_wrong_value_says_what_would_be_right(name: str, value: object, text: str) -> None:
    assert problems(**{name: value}) == [text]


def test_what_is_not_interpolated_yet_passes_any_scalar() -> None:
    assert problems(size="${meta.size}", tty="${NOMAD_META_tty}", wait="${x}") == []


def test_blocks_read_the_same_from_hcl_and_yaml() -> None:
    from_hcl = read(SCHEMA, {"auth": [{"password": "p"}], "labels": [{"a": 1}, {"b": "2"}], "mount": {"target": "/x"}})
    from_yaml = read(SCHEMA, {"auth": {"password": "p"}, "labels": {"a": "1", "b": 2}, "mount": [{"target": "/x"}]})
    assert (
        from_hcl
        == from_yaml
        == {"auth": {"password": "p"}, "labels": {"a": "1", "b": "2"}, "mount": [{"target": "/x"}]}
    )


def test_scalars_are_converted() -> None:
    config = {"command": 7, "args": [1, True], "tty": "true", "size": "12", "wait": "1m30s", "labels": None}
    assert read(SCHEMA, config) == {"command": "7", "args": ["1", "true"], "tty": True, "size": 12, "wait": 90.0}


def test_durations() -> None:
    assert duration_s("250ms") == 0.25
    assert duration_s(1_500_000_000) == 1.5
    assert duration_s("-1h") == -3600
    with pytest.raises(ValueError, match="not a duration"):
        duration_s("1x")
