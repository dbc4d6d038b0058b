"""Whatever is handed in as a job file: it is read or refused, in bounded time, and nothing else."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomadpy.jobspec import parse_text, problems
from nomadpy.jobspec.schema.job import JOB
from nomadpy.model.canonical import job_from_input
from nomadpy.model.errors import Invalid

EVERYTHING = Path(__file__).with_name("everything.nomad.hcl").read_text()
# Generous: the machines that run this may be busy.
SECONDS_MAX = 20.0

NAMES = sorted(JOB.names | JOB.children["group"].block.names | JOB.children["task"].block.names)
SCRAPS = [*NAMES, "job", "dynamic", "content", "for_each", "variable", "locals", "{", "}", "[", "]", "(", ")", '"', "="]
SCRAPS += [",", ":", "\n", "  ", "${", "%{", "<<-X\n", "X\n", "var.x", "local.y", "1", "-", '"5s"', "null", "true", "#"]
SCRAPS += [
    "upper(",
    "&a",
    "*a",
    "<<: ",
    "- ",
    "|",
    ">",
    "!!str",
    "'",
    "\t",
    "é",
    "\0",
    "\ud800",
    "...",
    "=>",
    "for",
    "in",
]

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def take(text: str | bytes, filename: str) -> Any:
    """Reads a text as far as it can be read; anything but Invalid is a failure."""
    try:
        return problems(job_from_input(parse_text(text, filename=filename)))
    except Invalid as wrong:
        return wrong


@quick
@given(st.text() | st.binary(), st.sampled_from(["a.hcl", "a.yaml"]))
def test_random_text(text: str | bytes, filename: str) -> None:
    take(text, filename)


@quick
@given(st.lists(st.sampled_from(SCRAPS), max_size=60).map("".join), st.sampled_from(["a.hcl", "a.yaml"]))
def test_scraps(text: str, filename: str) -> None:
    take(text, filename)
    take('job "j" {\n group "g" {\n' + text + "\n }\n}", "a.hcl")
    take('{"job": {"j": ' + text + "}}", "a.json")


names = st.sampled_from(NAMES)
scalars = st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names
json_like = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@quick
@given(st.dictionaries(names, json_like, max_size=6))
def test_json_is_yaml(body: dict[str, Any]) -> None:
    text = json.dumps({"job": {"j": body}})
    as_json, as_yaml = take(text, "a.json"), take(text, "a.yaml")
    assert type(as_json) is type(as_yaml)
    if not isinstance(as_json, Invalid):
        assert as_json == as_yaml


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_damaged_job_files(rng: random.Random) -> None:
    text = EVERYTHING
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(text)), rng.choice((0, 1, 5, 40))
        text = text[:at] + rng.choice(("", '"', "{", "}", "\n", "x", "=", "${")) + text[at + length :]
    take(text, "a.hcl")


@pytest.mark.parametrize("filename", ["a.hcl", "a.yaml"])
@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "job\0: 1",
        b"\xff\xfe\x00",
        b'job "\xc3" {}',
        "\ufeff",
        "{" * 100_000,
        "[" * 100_000,
        "a {\n" * 50_000,
        "a: " * 50_000,
        "- " * 50_000,
        "${" * 50_000,
        "x = " + "(" * 50_000,
        "x = " + "-" * 50_000 + "1",
        "a = 1" + "0" * 100_000,
        'job "j" {' + "meta {}\n" * 20_000 + "}",
        'job "j" {\n' + "foo {}\n" * 20_000 + "}",
        "x" * 10_000_000,
        'job "j" {\n meta {\n  a = "' + "x" * 10_000_000 + '"\n }\n}',
        "# comment\n" * 1_000_000,
        'job "j" {\n meta = { ' + "a = 1, " * 500_000 + "}\n}",
    ],
    ids=lambda text: repr(text[:12]) + str(len(text)),
)
def test_hostile_text(text: str | bytes, filename: str) -> None:
    start = time.monotonic()
    take(text, filename)
    assert time.monotonic() - start < SECONDS_MAX


def test_generated_blocks_are_bounded() -> None:
    text = 'task "t${task.value}${a.value}" {}'
    text = 'job "j" {\n dynamic "group" {\n  for_each = range(1000)\n  labels = ["g${group.value}"]\n  content {\n'
    text += '   dynamic "task" {\n    for_each = range(1000)\n    labels = ["t${task.value}"]\n    content {\n'
    text += '     dynamic "service" {\n      for_each = range(1000)\n      content {}\n     }\n    }\n   }\n  }\n }\n}'
    start = time.monotonic()
    wrong = take(text, "a.hcl")
    assert isinstance(wrong, Invalid)
    assert "too large" in wrong.message
    assert time.monotonic() - start < SECONDS_MAX


@pytest.mark.parametrize(
    "text",
    [
        'job "x" { NAME = 1 }',
        'job "x" { type = NAME(1) }',
        'job "x" { NAME { } }',
        '{"job": {"x": {"NAME": 1}}}',
        'variable "NAME" { type = string }\njob "x" { type = var.NAME }',
    ],
)
def test_a_message_does_not_echo_what_is_huge(text: str) -> None:
    with pytest.raises(Invalid) as refusal:
        parse_text(text.replace("NAME", "a" * 300_000))
    assert len(refusal.value.message) < 1000
    assert "more)" in refusal.value.message
