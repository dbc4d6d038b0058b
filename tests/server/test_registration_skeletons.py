"""A registration that is known by its text leads to the job that reading it leads to."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from server_world import World, running
from trio.testing import MockClock

from nomadpy.model.caller import ANYONE
from nomadpy.model.canonical import job_from_input
from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job
from nomadpy.server import skeletons
from nomadpy.server.alike import Shapes
from nomadpy.server.handlers import bulk
from nomadpy.server.skeletons import Known, cut, learn

# Ids that occur in jobs for other reasons, too.
IDS = ("a", "b", "web", "dc1", "Name", "ID", "docker", "1", "another-id.of-the_same-shape")
# Where a text may name its id besides: in values, keys, parts of strings, twice, escaped, in another case.
PLACES = (
    '"Datacenters": ["%s"]', '"Meta": {"%s": "x"}', '"Meta": {"x": "%s"}', '"Meta": {"x": "a\\"%s"}',
    '"Meta": {"x": "\\"%s\\""}', '"Name": "%s"', '"Name" : "%s"', '"Name": "web"', '"Name": ""', '"Name": null',
    '"ID": "%s"', '"ID": "a"', '"Name": "b"', '"id": "b"', '"name": "%s"', '"Region": "global"', '"Meta": {"ID": "%s"}',
    '"Meta": {"%s": "1", "\\u0061": "2"}', '"\\u0049D": "%s"', '"%s": "b"', '"Unknown": {"ID": "a", "Name": "%s"}',
    '"TaskGroups": [{"Name": "%s", "Tasks": [{"Name": "web", "Driver": "docker"}]}]',
)  # fmt: skip


@st.composite
def templates(draw: st.DrawFn) -> str:
    """Texts of registrations with ``%s`` for the id."""
    parts = ['"ID": "%s"', *draw(st.lists(st.sampled_from(PLACES), max_size=4))]
    text = "{" + draw(st.sampled_from([", ", ",\t"])).join(draw(st.permutations(parts))) + "}"
    return draw(st.sampled_from(['{"Job": %s}', ' {"Job":%s } ', '{"Job": %s, "EnforceIndex": false}'])).replace(
        "%s", text
    )


def read(text: bytes, shapes: Shapes, known: Known) -> Job | None:
    """As the server reads a registration: by its skeleton, by its shape, or by itself."""
    parts = cut(text)
    shape = known.get(parts[1]) if parts is not None else None
    if parts is not None and shape is not None:
        return shape.as_job(parts[0])
    element = msgspec.json.decode(text)
    raw = element["Job"]
    try:
        found = shapes.find(raw, None, prepare) if len(element) == 1 else None
        if found is not None and parts is not None:
            learn(known, *parts, raw, found)
        return prepare(raw)[0]
    except Invalid:
        return None


def prepare(raw: dict[str, Any]) -> tuple[Job, list[str]]:
    return job_from_input(raw), []


@given(st.lists(st.tuples(templates(), st.lists(st.sampled_from(IDS), min_size=1, max_size=6)), min_size=1, max_size=3))
@example([('{"Job": {"ID": "%s", "Name": "%s"}}', ["a", "b", "web"]), ('{"Job": {"ID": "%s", "Name": "web"}}', IDS)])
@example([('{"Job": {"ID": "%s", "Datacenters": ["%s"]}}', ["a", "a", "a", "dc1"])])
@settings(max_examples=150, deadline=None)
def test_a_skeleton_says_what_the_text_says(history: list[tuple[str, list[str]]]) -> None:
    shapes, known = Shapes(), Known()
    for template, ids in history:
        for job_id in ids:
            text = template.replace("%s", job_id).encode()
            assert read(text, shapes, known) == read(text, Shapes(), {})


def wrapped(job_id: str, **changes: Any) -> dict[str, Any]:
    task = {"Name": "web", "Driver": "mock_driver"}
    return {"Job": {"ID": job_id, "Name": job_id, "TaskGroups": [{"Name": "g", "Tasks": [task]}], **changes}}


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines that are read as JSON from now on."""
    lines: list[bytes] = []
    line = bulk._line
    monkeypatch.setattr(bulk, "_line", lambda text: (lines.append(text), line(text))[1])
    return lines


async def send(world: World, data: bytes) -> list[str]:
    answer = await world.server.bulk.register(ANYONE, data)
    assert answer.refused == 0, answer.results
    return [result.id for result in answer.results]


@pytest.mark.parametrize("name", ["id", "another", "none"])
async def test_texts_alike_are_read_twice(
    name: str, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """The second time shows what follows from the id; all others are known by their text."""
    lines = counted(monkeypatch)
    elements = [wrapped(f"job-{number}") for number in range(9)]
    for element in elements:
        if name == "another":
            element["Job"]["Name"] = name
        elif name == "none":
            del element["Job"]["Name"]
    async with running() as world:
        sent = await send(world, b"\n".join(json.dumps(element).encode() for element in elements))
        assert sent == [element["Job"]["ID"] for element in elements]
        assert len(lines) == 2
        for job_id in sent:
            job = world.server.store.job("default", job_id)
            assert job is not None
            assert (job.id, job.name) == (job_id, "another" if name == "another" else job_id)


async def test_an_array_is_known_by_its_texts(autojump_clock: MockClock) -> None:
    async with running() as world:
        data = json.dumps([wrapped(f"job-{number}", Priority=60 + number % 2) for number in range(8)], indent=1)
        assert await send(world, data.encode()) == [f"job-{number}" for number in range(8)]
        jobs = [world.server.store.job("default", f"job-{number}") for number in range(8)]
        assert [job.priority for job in jobs if job is not None] == [60, 61] * 4


async def test_many_jobs_are_stored_in_few_entries(autojump_clock: MockClock) -> None:
    async with running() as world:
        elements = [wrapped(f"job-{number}") for number in range(3 * bulk._WORK_MAX // 2)]
        answer = await world.server.bulk.register(ANYONE, b"\n".join(json.dumps(each).encode() for each in elements))
        assert answer.registered == len(elements)
        assert len({result.job_modify_index for result in answer.results}) == 2
        assert len({result.eval_id for result in answer.results}) == len(elements)


def test_a_text_with_a_zero_byte_is_not_taken_for_a_skeleton() -> None:
    """A zero byte stands for a hole, and is no JSON; what has one is read."""
    elements = bulk._Elements(json.dumps(wrapped("a")).encode() + b'\n{"Job": {"ID": "b", "Name": "\0"}}')
    assert elements.parts(0) is None
    assert elements.parts(1) is None
    assert isinstance(elements[1], Invalid)


def test_what_is_remembered_is_bounded() -> None:
    known = skeletons.Skeletons()
    for number in range(30):
        held = known.under(number)
        shapes = Shapes()
        for job in range(1200):
            text = json.dumps({"Job": {"ID": "a", "Priority": job}}).encode() if number == 29 else b""
            if text:
                read(text, shapes, held)
                read(text, shapes, held)
    assert len(known._known) == 8
    assert 0 < len(known.under(29)) <= 512
