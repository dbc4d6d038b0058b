"""The regular expression engine, against Python's where the two languages agree."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.model.errors import Invalid
from nomadpy.model.linear_regexp import compile_pattern


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        ("", "", True),
        ("^$", "x", False),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("(?i)WEB", "my-web", True),
        ("(?i:W)eb", "wEb", False),
        ("(?m)^b$", "a\nb\nc", True),
        ("^b$", "a\nb\nc", False),
        (r"\bweb\b", "the web.", True),
        (r"\bweb\b", "webs", False),
        (r"\Bb", "ab", True),
        (r"\d{3,4}$", "ab1234", True),
        (r"^\d{3}$", "1234", False),
        ("[[:alpha:]]+[^[:digit:]]", "x1y!", True),
        (r"^[\d\-x]+$", "12-x", True),
        ("^[]a]+$", "]a", True),
        ("[^a-c]", "abc", False),
        (r"\Qa.b\E+", "a.bb", True),
        (r"\x41\x{42}\103", "ABC", True),
        (r"^\p{Lu}\pL+$", "Ärger", True),
        (r"\PL", "abc", False),
        ("(?P<n>a)(?<m>b)(?:c)", "abc", True),
        ("a{,2}", "a{,2}", True),
        ("x*?y+?", "xy", True),
        ("(|a)+$", "b", True),
        (r"\Aab\z", "ab", True),
        ("^(web|api)-(eu|us)-[0-9]+$", "api-us-12", True),
    ],
)
def test_means_what_re2_means(pattern: str, text: str, found: bool) -> None:
    assert compile_pattern(pattern)(text) is found


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "[", "[b-a]", "*a", "a**", r"\1", r"\k", "(?=a)", "(?<!a)", "(?P=n)", "a{2,1}", "a{1001}", "\\"]
    + [
        "[[:nope:]]",
        r"\p{Greek}",
        r"\x4",
        "(?z)",
        "((a{100}){100}){100}",
        "(" * 60 + ")" * 60,
        "((){999}){999}x{9999}",
    ],
)
def test_what_re2_refuses_is_refused(pattern: str) -> None:
    with pytest.raises(Invalid, match="regular expression"):
        compile_pattern(pattern)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a*)*b", ".*.*.*.*.*=", "((){999}){999}$b"])
def test_cunning_patterns_cost_no_more_than_others(pattern: str) -> None:
    begun = time.perf_counter()
    compile_pattern(pattern)("a" * 2000 + "!")
    assert time.perf_counter() - begun < 2


ATOMS = st.sampled_from(
    ["a", "b", ".", "[ab]", "[^a]", "^", "$", r"\b", r"\w", "(a|b)", "(ab)*", "(?:b|)", "a{2}", "b?", "a+"]
)


@given(st.lists(ATOMS, max_size=6).map("".join), st.text(alphabet="ab\n ", max_size=8))
@settings(max_examples=300)
def test_agrees_with_python(pattern: str, text: str) -> None:
    # Python's $ also matches before a last line break; RE2's does not.
    expected = re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None
    assert compile_pattern(pattern)(text) is expected


@given(st.text(alphabet="ab\\()[]{}|*+?^$.:-,01?Pi<>QEpLx", max_size=20), st.text(max_size=10))
@settings(max_examples=300)
def test_only_invalid_is_ever_raised(pattern: str, text: str) -> None:
    try:
        compile_pattern(pattern)(text)
    except Invalid as error:
        assert error.message  # noqa: PT017
