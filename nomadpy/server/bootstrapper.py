"""The first start of a server: asks its ``Bootstrap``, stores and says what it decides, until there is a result."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import trio

from nomadpy.model.errors import Invalid, NomadError
from nomadpy.server.bootstrap import Answer, Ask, Ballot, Bootstrap, Candidate, FirstConfiguration

log = logging.getLogger(__name__)

METHOD = "bootstrap"
"""The rpc method that servers ask each other by; ``Bootstrapper.handle`` answers it."""

Call = Callable[[str, str, dict[str, Any]], Awaitable[Any]]
"""``call(server_id, method, params)`` → the answer; raises NomadError or OSError."""

_CALL_TIMEOUT_S = 2.0


class BallotFile:
    """The ballot of this server on disk: written anew, synced and renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Ballot:
        """What was stored, a free ballot when nothing was. Raises Invalid when it cannot be read: a server that forgot
        what it promised must not start."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Ballot()
        try:
            return msgspec.json.decode(data, type=Ballot)
        except msgspec.DecodeError as error:
            raise Invalid(
                f"{self._path} is damaged ({error}). If this server never was in a cluster, remove its whole data"
                " directory and start it again; otherwise restore the file"
            ) from error

    def store(self, ballot: Ballot) -> None:
        """Durable once this returns. Raises OSError."""
        partial = self._path.with_suffix(".partial")
        with open(partial, "wb") as file:
            file.write(json.dumps(msgspec.to_builtins(ballot), indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class Bootstrapper:
    """A ``Bootstrap`` with its file. ``handle`` has to be reachable for other servers as long as the process lives:
    those that missed the end ask for it later."""

    def __init__(self, own_id: str, expect: int, path: Path, *, rng: random.Random) -> None:
        self._file = BallotFile(path)
        self._stored = self._file.load()
        self._machine = Bootstrap(own_id, expect, self._stored, rng=rng, now=trio.current_time())
        self._saving = trio.Lock()
        self._moved = trio.Event()
        self._told: tuple[str, ...] = ()

    @property
    def result(self) -> FirstConfiguration | None:
        """The configuration that the log begins with, None while it is open."""
        return self._machine.result

    @property
    def problems(self) -> tuple[str, ...]:
        """Why there is none yet, as sentences."""
        return self._machine.problems

    async def handle(self, params: dict[str, Any]) -> dict[str, Any]:
        """Answers another server. Raises Invalid for what is no such question."""
        try:
            ask = msgspec.convert(params, Ask)
        except msgspec.ValidationError as error:
            raise Invalid(f"not a question about the first configuration: {error}") from error
        answer = self._machine.hear(ask, trio.current_time())
        await self._save()
        self._wake()
        return dict(msgspec.to_builtins(answer))

    async def learn(self, cluster_id: str) -> None:
        """A leader took this server in: remembers the cluster durably. For ``raft.links.Links``. Raises OSError."""
        self._machine.learn(cluster_id)
        await self._save()

    async def run(self, members: Callable[[], list[Candidate]], call: Call) -> FirstConfiguration:
        """Returns the first configuration once it is decided and durable."""
        async with trio.open_nursery() as nursery:
            while True:
                self._moved = trio.Event()
                self._machine.look(members(), trio.current_time())
                asks = self._machine.take_asks()
                await self._save()
                self._tell_people()
                for server, ask in asks:
                    nursery.start_soon(self._ask, call, server, ask)
                if (result := self._machine.result) is not None:
                    log.info(
                        "bootstrap.decided",
                        extra={"fields": {"cluster": result.cluster_id, "voters": list(result.voters)}},
                    )
                    return result
                with trio.move_on_at(self._machine.next_wake()):
                    await self._moved.wait()

    async def _ask(self, call: Call, server: str, ask: Ask) -> None:
        try:
            with trio.fail_after(_CALL_TIMEOUT_S):
                answer = msgspec.convert(await call(server, METHOD, msgspec.to_builtins(ask)), Answer)
        except (NomadError, OSError, trio.TooSlowError, msgspec.ValidationError) as error:
            # Asked again in the next round.
            log.debug("bootstrap.no-answer", extra={"fields": {"server": server, "error": str(error)}})
            return
        self._machine.on_answer(server, ask, answer, trio.current_time())
        self._wake()

    def _wake(self) -> None:
        self._moved.set()

    async def _save(self) -> None:
        async with self._saving:
            ballot = self._machine.ballot
            if ballot != self._stored:
                await trio.to_thread.run_sync(self._file.store, ballot)
                self._stored = ballot

    def _tell_people(self) -> None:
        problems = self._machine.problems
        if problems != self._told:
            self._told = problems
            for problem in problems:
                log.warning("bootstrap.waiting", extra={"fields": {"reason": problem}})


async def bootstrap(
    bootstrapper: Bootstrapper, *, members: Callable[[], list[Candidate]], call: Call
) -> FirstConfiguration:
    """The first configuration of this server's log; returns at once when it was decided before. ``members`` gives what
    gossip shows now (``candidates``), ``call`` reaches another server by its id."""
    return bootstrapper.result or await bootstrapper.run(members, call)
