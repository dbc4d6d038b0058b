"""Replacing by pattern: what is found, what is put there, and that it ends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.model import linear_replace
from nomadpy.model.errors import Invalid
from nomadpy.model.linear_replace import replace_all


@pytest.mark.parametrize(
    ("pattern", "replacement", "text", "expected"),
    [
        ("a*", "x", "baaac", "xbxcx"),
        ("(a|ab)(c|bcd)(d*)", "[$1][$2][$3]", "abcd", "[a][bcd][]"),
        ("a+?", "x", "aaa", "xxx"),
        ("(?U)a+", "x", "aaa", "xxx"),
        (r"\bfoo\b", "[$0]", "foo foobar foo", "[foo] foobar [foo]"),
        (r"(?i)FOO(\d+)", "${1}!", "foo12 Foo3", "12! 3!"),
        ("", "-", "abc", "-a-b-c-"),
        ("(a*)*b", "y", "aaab", "y"),
        ("(?P<k>[a-z]+)=(?P<v>.*)", "$v=$k$$$9", "a=b", "b=a$"),
        ("(?m)^", "> ", "a\nb", "> a\n> b"),
        ("x{2,3}?", "z", "xxxxx", "zzx"),
        ("(?:a)(b)?", "<$1>", "ab a", "<b> <>"),
    ],
)
def test_replacing(pattern: str, replacement: str, text: str, expected: str) -> None:
    assert replace_all(pattern, replacement, text) == expected


@given(st.text(alphabet="ab(|)*+?", max_size=8), st.text(alphabet="abc", max_size=12))
def test_it_replaces_what_the_backtracking_engine_finds(pattern: str, text: str) -> None:
    try:
        compiled = re.compile(pattern)
        ours = replace_all(pattern, "<$0>", text)
    except (re.error, Invalid, RecursionError):
        return
    # The rules for empty matches differ, so only patterns that never match nothing are compared.
    if compiled.search("") is None and not any(match.start() == match.end() for match in compiled.finditer(text)):
        assert ours == compiled.sub(lambda match: f"<{match[0]}>", text)


def test_too_much_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_replace, "MAX_WORK", 100_000)
    with pytest.raises(Invalid, match="too much work"):
        replace_all("a.*b|a", "", "a" * 20_000)
