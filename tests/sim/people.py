"""People who register, change, scale, stop and read jobs, with request ids, and try again until they are told."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pretend_trio as trio
from cluster_builders import make_group, make_job
from invariants import Checker
from pretend_world import World
from virtual_loop import Process

from nomadpy.model.caller import ANYONE
from nomadpy.model.errors import Refused, Unavailable
from nomadpy.model.evaluation import TRIGGER_JOB_DEREGISTER
from nomadpy.model.job import ReschedulePolicy
from nomadpy.model.time import SECOND
from nomadpy.server.messages import DrainSpec, JobRegisterRequest, NodeDrainRequest
from nomadpy.server.server import Server
from nomadpy.state import commands as c

_KEPT = ("ID", "Name", "Type", "Priority", "Datacenters", "NodePool", "TaskGroups", "Namespace")


class People:
    """Everybody who uses the cluster; their machine has no troubles of its own."""

    name = "people"

    def __init__(self, world: World, checker: Checker, servers: list[str], nodes: list[str]) -> None:
        self._world, self._checker, self._servers, self._nodes = world, checker, servers, nodes
        self.rng = random.Random(world.rng.random())
        self.process = Process(world.loop, self.name)
        self.process.on_crash = self._crashed
        self._numbers = 0
        self._open = 0
        for number in range(world.profile.jobs):
            # Some jobs belong to two people who do not wait for each other.
            for _ in range(1 + (number == 0)):
                self.process.start(self._own(f"job{number}", batch=number == 3))
        for _ in range(world.profile.readers):
            self.process.start(self._browse())
        self.process.start(self._operate())

    @property
    def idle(self) -> bool:
        """Whether nobody waits for an answer."""
        return self._open == 0

    def _crashed(self, error: BaseException) -> None:
        if self._world.violation is None:
            self._world.violation = error

    async def _own(self, job_id: str, *, batch: bool) -> None:
        rng, world = self.rng, self._world
        kind = "batch" if batch else "service"
        await trio.sleep(rng.uniform(0, world.profile.begin_s))
        await self._register(job_id, kind, count=rng.randint(1, 4))
        while True:
            await trio.sleep(rng.expovariate(world.profile.operations))
            if not world.trouble:
                return
            match rng.choices(("register", "scale", "stop", "read"), (4, 2, 1, 4))[0]:
                case "register":
                    await self._register(job_id, kind, count=rng.randint(1, 4))
                case "scale":
                    await self._register(job_id, kind, count=rng.randint(0 if kind == "service" else 1, 5), same=True)
                case "stop":
                    await self._stop(job_id)
                case "read":
                    await self._read(job_id)

    # --- what they do ------------------------------------------------------------------------------------------------

    async def _register(self, job_id: str, kind: str, *, count: int, same: bool = False) -> None:
        request_id = self._request_id()
        env = "same" if same else request_id
        raw = _raw(job_id, kind, count=count, env=env, roll=self.rng.random() < 0.5, cpu=self._world.profile.cpu)

        def command(server: Server) -> c.Command:
            job, _ = server.jobs.prepare(ANYONE, raw)
            made, _ = server.jobs.registration(ANYONE, JobRegisterRequest(job=raw), job)
            return msgspec.structs.replace(made, request_id=request_id)

        await self._insist(request_id, job_id, f"register x{count}", command)

    async def _stop(self, job_id: str) -> None:
        request_id = self._request_id()

        def command(server: Server) -> c.Command:
            job = server.store.job("default", job_id)
            evals: tuple[Any, ...] = ()
            if job is not None:
                evaluation = server.new_eval(
                    namespace="default", job_id=job_id, type=job.type, priority=50, trigger=TRIGGER_JOB_DEREGISTER
                )
                evals = (evaluation,)
            return c.DeregisterJob(now_ns=server.wall_ns(), job_id=job_id, evals=evals, request_id=request_id)

        await self._insist(request_id, job_id, "stop", command)

    async def _insist(self, request_id: str, job_id: str, what: str, command: Any) -> None:
        """Asks until it is acknowledged or refused."""
        wish = self._checker.begin(request_id, ("default", job_id), what)
        checker = self._checker
        self._open += 1

        async def act(server: Server) -> int:
            outcome = await server.propose(command(server))
            seen = server.log.leadership
            if seen.leading:
                checker.led(self._world.hosts[server.config.name], seen.term)
            return outcome.index

        while True:
            try:
                index = await self._ask(act)
                checker.acknowledge(wish, index)
                break
            except Unavailable:
                await trio.sleep(self.rng.uniform(0.1, 2.0))
            except Refused as error:
                self._world.note("people", f"{request_id} refused: {error.message}")
                break
        self._open -= 1

    async def _read(self, job_id: str) -> None:
        key = ("default", job_id)
        needed = self._checker.acknowledged.get(key, 0)

        async def act(server: Server) -> int:
            await server.consistent()
            return server.store.index

        try:
            seen = await self._ask(act)
        except Unavailable:
            return
        self._checker.read(key, needed, seen)

    async def _browse(self) -> None:
        """Somebody who only looks at jobs."""
        while self._world.trouble:
            await trio.sleep(self.rng.expovariate(2 * self._world.profile.operations))
            await self._read(f"job{self.rng.randrange(self._world.profile.jobs)}")

    async def _operate(self) -> None:
        """An operator drains nodes and lets them in again, and moves the leadership."""
        rng, world = self.rng, self._world
        while True:
            await trio.sleep(1.0)
            if not world.trouble:
                break
            if rng.random() < world.profile.drain:
                await self._drain(rng.choice(self._nodes), drain=rng.random() < 0.6)
        for node_id in self._nodes:
            while not await self._drain(node_id, drain=False):
                await trio.sleep(2.0)

    async def _drain(self, node_id: str, *, drain: bool) -> bool:
        self._open += 1
        spec = DrainSpec(deadline_ns=20 * SECOND) if drain else None
        request = NodeDrainRequest(node_id=node_id, drain_spec=spec, mark_eligible=not drain)

        async def act(server: Server) -> None:
            await server.fleet.drain_node(ANYONE, node_id, request)

        try:
            await self._ask(act)
        except (Unavailable, Refused):
            return False
        finally:
            self._open -= 1
        return True

    async def _ask(self, act: Any) -> Any:
        server = self.rng.choice(self._servers)
        return await self._world.call(self.process, server, lambda host: host.serve_user(act), 12.0)

    def _request_id(self) -> str:
        self._numbers += 1
        return f"r{self._numbers}"


def _raw(job_id: str, kind: str, *, count: int, env: str, roll: bool, cpu: int) -> dict[str, Any]:
    """A job as it arrives over HTTP."""
    policy = ReschedulePolicy(delay_ns=5 * SECOND, delay_function="constant", unlimited=True)
    group = make_group(count=count, cpu=cpu, memory_mb=256, env=env, reschedule_policy=policy)
    job = make_job(job_id, type=kind, group=group)
    made: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(job))
    raw = {key: value for key, value in made.items() if key in _KEPT and value is not None}
    if kind == "service" and roll:
        raw["Update"] = {"MaxParallel": 2, "MinHealthyTime": SECOND, "HealthyDeadline": 300 * SECOND}
        raw["TaskGroups"][0]["Update"] = raw["Update"]
    return raw
