"""Many jobs in one request: each as if it had been sent alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_builders import make_job
from server_world import World, raw, running
from trio.testing import MockClock

from nomadpy.model.caller import ANYONE, Caller
from nomadpy.model.errors import Invalid
from nomadpy.model.job import Job
from nomadpy.model.node import NodePool
from nomadpy.server.messages import JobBulkResponse, JobRegisterRequest
from nomadpy.state import commands as c


def text(*elements: Any) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in elements)


def wrapped(job_id: str = "job", **changes: Any) -> dict[str, Any]:
    return {"Job": {**raw(make_job(job_id, cpu=10)), **changes}}


async def send(world: World, data: bytes, caller: Caller = ANYONE) -> JobBulkResponse:
    return await world.server.bulk.register(caller, data)


def plain(job: Job | None) -> Job:
    """A stored job without what tells when it was stored."""
    assert job is not None
    return job.replace(create_index=0, modify_index=0, job_modify_index=0, submit_time_ns=0, status="")


async def test_each_job_is_registered_and_placed(autojump_clock: MockClock) -> None:
    async with running() as world:
        await world.add_node(0)
        answer = await send(world, text(*(wrapped(f"job-{number}") for number in range(5))))
        assert (answer.registered, answer.refused) == (5, 0)
        assert [result.id for result in answer.results] == [f"job-{number}" for number in range(5)]
        await world.until(lambda: all(world.running(f"job-{number}") for number in range(5)))
        for result in answer.results:
            job = world.server.store.job("default", result.id)
            assert job is not None
            assert job.job_modify_index == result.job_modify_index
            assert world.server.store.evals[result.eval_id].job_id == result.id


async def test_what_is_wrong_with_one_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    async with running() as world:
        data = text(
            wrapped("a"), b"{not json", {"Job": None}, 7, wrapped("b", TaskGroups=[]), wrapped("c", Priority="high"),
            wrapped("d", Namespace="nowhere"), {"Job": wrapped("e")["Job"], "EnforceIndex": True, "JobModifyIndex": 9},
            wrapped("f"),
        )  # fmt: skip
        answer = await send(world, data)
        assert [(result.id, bool(result.error), result.status) for result in answer.results] == [
            ("a", False, 200),
            ("", True, 400),
            ("", True, 400),
            ("", True, 400),
            ("b", True, 500),
            ("c", True, 400),
            ("d", True, 500),
            ("e", True, 500),
            ("f", False, 200),
        ]
        assert "Missing job task groups" in answer.results[4].error
        assert "nonexistent namespace" in answer.results[6].error
        assert "does not exist" in answer.results[7].error
        assert (answer.registered, answer.refused) == (2, 7)
        assert sorted(key[1] for key in world.server.store.jobs.current) == ["a", "f"]


SERVICE = [{"Name": "web", "Provider": "nomad", "PortLabel": "http"}, {"Provider": "nomad", "PortLabel": "http"}]
SCALING = {"Min": 1, "Max": 9, "Enabled": True}


def with_group(**changes: Any) -> dict[str, Any]:
    (group,) = raw(make_job(port="http"))["TaskGroups"]
    return {"TaskGroups": [{**group, **changes}]}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"Name": "another name"},
        {"Meta": {"id": "job-1"}, "Unknown": 2**70},
        {"Update": {"MaxParallel": 2}},
        with_group(Services=SERVICE),
        with_group(Scaling=SCALING),
        with_group(Count=3, Constraints=[{"LTarget": "${attr.kernel.name}", "RTarget": "linux", "Operand": "="}]),
    ],
    ids=["plain", "named", "large-number", "update", "services", "scaling", "count"],
)
async def test_jobs_alike_are_stored_as_if_sent_alone(changes: dict[str, Any], autojump_clock: MockClock) -> None:
    ids = [f"job-{number}" for number in range(4)] + ["job/with-a-slash", "9"]
    elements = [wrapped(job_id, **{"Name": job_id, **changes}) for job_id in ids]
    async with running() as world, running() as other:
        answer = await send(world, text(*elements))
        for element, result in zip(elements, answer.results, strict=True):
            if result.error:
                # The name of a service follows from the job's, and must not have a slash.
                with pytest.raises(Invalid, match="alphanumeric"):
                    await other.server.jobs.register(ANYONE, JobRegisterRequest(job=element["Job"]))
                assert "with-a-slash" in result.error
                continue
            alone = await other.server.jobs.register(ANYONE, JobRegisterRequest(job=element["Job"]))
            assert result.warnings == alone.warnings
            stored = [each.server.store.job("default", result.id) for each in (world, other)]
            assert plain(stored[0]) == plain(stored[1])
        assert answer.registered >= 5


async def test_the_same_job_twice_is_registered_in_order(autojump_clock: MockClock) -> None:
    async with running() as world:
        changed = wrapped("b", Meta={"n": "2"})
        answer = await send(world, text(wrapped("a"), wrapped("b"), wrapped("c"), changed, wrapped("b"), changed))
        assert answer.refused == 0
        job = world.server.store.job("default", "b")
        assert job is not None
        assert (job.meta, job.version) == ({"n": "2"}, 3)
        indexes = [result.job_modify_index for result in answer.results if result.id == "b"]
        assert indexes == sorted(set(indexes))


async def test_an_array_is_taken_as_well(autojump_clock: MockClock) -> None:
    async with running() as world:
        answer = await send(world, json.dumps([wrapped("a"), wrapped("b")]).encode())
        assert (answer.registered, len(answer.results)) == (2, 2)
        assert (await send(world, b"[]")).results == ()


@pytest.mark.parametrize("data", [b"", b"  \n ", b"[1,"])
async def test_a_body_without_jobs_is_refused(data: bytes, autojump_clock: MockClock) -> None:
    async with running() as world:
        with pytest.raises(Invalid):
            await send(world, data)


async def test_shapes_are_kept_apart_by_circumstances(autojump_clock: MockClock) -> None:
    """What is prepared once must not outlive the switch that it was prepared by."""
    async with running() as world:
        (task,) = raw(make_job())["TaskGroups"][0]["Tasks"]
        task["Resources"]["MemoryMaxMB"] = 1000
        before = await send(world, text(*(wrapped(f"a{n}", **with_group(Tasks=[task])) for n in range(3))))
        assert all("memory_max" in result.warnings for result in before.results)
        config = world.server.store.scheduler_config.replace(memory_oversubscription_enabled=True)
        await world.server.fleet.set_scheduler_config(ANYONE, config, cas=None)
        after = await send(world, text(*(wrapped(f"b{n}", **with_group(Tasks=[task])) for n in range(3))))
        assert not any("memory_max" in result.warnings for result in after.results)


async def test_a_node_pool_has_its_own_word_on_memory(autojump_clock: MockClock) -> None:
    """Where memory may not be oversubscribed the job is stored without its memory_max."""

    def stored(world: World, job_id: str) -> int:
        return world.server.store.jobs.current["default", job_id].task_groups[0].tasks[0].resources.memory_max_mb

    async with running() as world:
        (task,) = raw(make_job())["TaskGroups"][0]["Tasks"]
        task["Resources"]["MemoryMaxMB"] = 1000
        for enabled in (True, False):
            pool = NodePool(name="big", scheduler_configuration={"MemoryOversubscriptionEnabled": enabled})
            await world.server.propose(c.UpsertNodePool(pool=pool))
            for name in ("big", "default"):
                ids = [f"{name}-{enabled}-{n}" for n in range(3)]
                jobs = [wrapped(i, **with_group(Tasks=[task]), NodePool=name) for i in ids]
                answer = await send(world, text(*jobs))
                allowed = enabled and name == "big"
                assert [stored(world, i) for i in ids] == [1000 if allowed else 0] * 3
                assert ["memory_max" in result.warnings for result in answer.results] == [not allowed] * 3
