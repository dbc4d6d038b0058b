"""Versions, regular expressions, cron expressions and identifiers."""

from __future__ import annotations

import datetime as dt
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.model.cron import check_cron, next_launch, next_time
from nomadpy.model.errors import Invalid
from nomadpy.model.ids import check_prefix, check_uuid, even_prefix, is_uuid, matching, new_uuid, short
from nomadpy.model.job import PeriodicConfig
from nomadpy.model.patterns import compile_regexp, parse_version_constraint
from nomadpy.model.time import SECOND, format_moment, parse_moment


@pytest.mark.parametrize(
    ("constraint", "version", "matches"),
    [
        (">= 1.2", "1.2.0", True),
        (">= 1.2, < 2.0", "2.0", False),
        ("1.0", "1.0.0", True),
        ("!= 1.0", "1.0", False),
        ("~> 1.2.3", "1.2.9", True),
        ("~> 1.2.3", "1.3.0", False),
        ("~> 1.2", "1.9", True),
        ("~> 1.2", "2.0", False),
        ("> 1.0", "1.1-beta", False),
        ("> 1.1-alpha", "1.1-beta", True),
        ("> 1.1-alpha", "1.2-beta", False),
        ("< 2.0-beta", "1.5", True),
        ("~> 2.1.0-a", "2.1.0", False),
        (">= 1.0", "v1.0.0", True),
        ("= 1.2.3", "1.2.3.0", True),
        ("= 1.2.3.0", "1.2.3", True),
        ("!= 1.2.3", "1.2.3.0", False),
        ("> 1.2.3", "1.2.3.0", False),
        (">= 1.2.3.1", "1.2.3", False),
        ("~> 1.2.3.0", "1.2.3", False),
        ("~> 1.2.3", "1.2.3.4", True),
        (">= 1.0", "5.15.0-91-generic", False),
        (">= 1.0", "not a version", False),
    ],
)
def test_lenient_versions(constraint: str, version: str, matches: bool) -> None:
    assert parse_version_constraint(constraint).matches(version) is matches


@pytest.mark.parametrize(
    ("constraint", "version", "matches"),
    [
        (">= 1.7.0-a", "1.7.0-beta.1", True),
        (">= 1.6.0", "1.7.0-beta.1", True),
        ("> 1.0.0-alpha.9", "1.0.0-alpha.10", True),
        ("> 1.0.0-alpha.1", "1.0.0-alpha.beta", True),
        ("> 1.0.0-rc", "1.0.0", True),
        ("= 1.0.0", "1.0.0+build5", True),
        (">= 1.0.0", "1.0", False),
    ],
)
def test_semantic_versions(constraint: str, version: str, matches: bool) -> None:
    assert parse_version_constraint(constraint, strict=True).matches(version) is matches


@pytest.mark.parametrize("text", ["", ">=", "=> 1.0", "1.0 2.0", "1.0,", "a.b", ">= 1." + "9" * 30])
def test_malformed_version_constraints(text: str) -> None:
    with pytest.raises(ValueError, match="Malformed constraint"):
        parse_version_constraint(text)


@settings(max_examples=200)
@given(st.text(max_size=12), st.text(st.sampled_from("0123.-v~>=<! a"), max_size=12))
def test_any_text_is_a_constraint_or_refused(version: str, text: str) -> None:
    for strict in (False, True):
        try:
            constraint = parse_version_constraint(text, strict=strict)
        except ValueError:
            continue
        constraint.matches(version)


def test_patterns_are_written_as_in_go() -> None:
    assert compile_regexp(r"^linux|darwin\z")("linux")
    assert compile_regexp("[[:digit:]]{2}")("a42")
    assert compile_regexp(r"a\++")("a++")
    assert not compile_regexp(r"^\d$")("٣")


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", r"(a)\1", "(?=a)", "(?<!a)b", "(?P=x)", "*"])
def test_patterns_that_go_refuses(pattern: str) -> None:
    with pytest.raises(ValueError, match="error parsing regexp"):
        compile_regexp(pattern)


def test_no_pattern_is_slow() -> None:
    assert not compile_regexp("(a+)+$")("a" * 5_000 + "b")


def moment(text: str) -> int:
    return parse_moment(text)


START = moment("2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("*/5 * * * *", "2026-01-01T00:05:00Z"),
        ("@daily", "2026-01-02T00:00:00Z"),
        ("@hourly", "2026-01-01T01:00:00Z"),
        ("0 0 15W * *", "2026-01-15T00:00:00Z"),
        ("0 0 1W 2 *", "2026-02-02T00:00:00Z"),
        ("0 0 31W 5 *", "2026-05-29T00:00:00Z"),
        ("0 0 LW * *", "2026-01-30T00:00:00Z"),
        ("0 0 L 2 *", "2026-02-28T00:00:00Z"),
        ("0 0 * * 5L", "2026-01-30T00:00:00Z"),
        ("0 0 * * mon#2", "2026-01-12T00:00:00Z"),
        ("0 0 13 * fri", "2026-01-02T00:00:00Z"),
        ("0 0 29 2 ?", "2028-02-29T00:00:00Z"),
        ("0 0 1 1 * 2030", "2030-01-01T00:00:00Z"),
        ("*/10 * * * * * *", "2026-01-01T00:00:10Z"),
        ("5 0 0 1 JANUARY ? 2027-2030/2", "2027-01-01T00:00:05Z"),
    ],
)
def test_the_next_time_of_a_cron_expression(spec: str, expected: str) -> None:
    assert format_moment(next_time(spec, START)) == expected


def test_an_expression_may_have_no_next_time() -> None:
    assert next_time("0 0 1 1 * 2020", START) == 0
    assert next_time("0 0 30W 2 *", START) == 0


def test_the_earliest_of_several_expressions_in_the_jobs_zone() -> None:
    periodic = PeriodicConfig(specs=("0 5 * * *", "0 3 * * *"), time_zone="America/New_York")
    assert format_moment(next_launch(periodic, START)) == "2026-01-01T08:00:00Z"
    local = PeriodicConfig(spec="0 3 * * *", time_zone="Local")
    zone = dt.timezone(dt.timedelta(hours=1))
    assert format_moment(next_launch(local, START, local=zone)) == "2026-01-01T02:00:00Z"
    assert next_launch(PeriodicConfig(), START) == 0


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123459*/,-#LW?MONJAN @daily"), max_size=18))
def test_any_text_is_a_cron_expression_or_refused(text: str) -> None:
    try:
        check_cron(text)
    except ValueError:
        return
    found = next_time(text, START)
    assert found == 0 or found >= START + SECOND


def test_uuids_come_from_the_given_source() -> None:
    first, again = new_uuid(random.Random(7)), new_uuid(random.Random(7))
    assert first == again
    assert is_uuid(first)
    assert short(first) == first[:8]
    assert not is_uuid(first.upper())


def test_prefixes_have_an_even_number_of_digits() -> None:
    assert check_prefix("") == ""
    assert check_prefix("ABCD") == "abcd"
    assert check_prefix("01234567-ab") == "01234567-ab"
    assert even_prefix("abc") == "ab"
    for bad in ("abc", "xy", "a" * 38, "------"):
        with pytest.raises(Invalid) as caught:
            check_prefix(bad)
        assert caught.value.status == 500


def test_looking_up_needs_a_whole_uuid() -> None:
    uuid = new_uuid(random.Random(1))
    assert check_uuid(uuid) == uuid
    with pytest.raises(Invalid, match="UUID must be 36 characters"):
        check_uuid(uuid[:8])
    assert matching("ab", ["abc", "b", "ab"]) == ["ab", "abc"]
