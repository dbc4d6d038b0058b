"""Registering many jobs by one request.

Each job is registered or refused on its own, as if it had been sent alone; what is shared is the way: one body, few log
entries, and one preparation for all jobs that differ only in their ids (``alike.py``).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from nomadpy.model.admission import warnings_text
from nomadpy.model.caller import Caller
from nomadpy.model.decode import from_wire, parse
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.ids import new_uuid
from nomadpy.server.alike import Shape
from nomadpy.server.messages import JobBulkResponse, JobBulkResult, JobRegisterRequest
from nomadpy.state import commands as c

if TYPE_CHECKING:
    from nomadpy.server.server import Server

JOBS_MAX = 100_000
_TOGETHER = 256  # jobs of one log entry: applying it must not hold up the loop for long
_decode = msgspec.json.Decoder().decode


class BulkHandlers:
    """See the module's text."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def register(self, caller: Caller, data: bytes, *, namespace: str = "") -> JobBulkResponse:
        """Registers every job of a JSON array or of lines of JSON (NDJSON); each element is ``{"Job": …}`` with what
        else a registration may say. Raises Invalid when the body as a whole cannot be read; what is wrong with single
        jobs is in their results. When the log fails half way the jobs that may not be stored say so."""
        elements = _elements(data)
        if len(elements) > JOBS_MAX:
            raise Invalid(f"a request may register at most {JOBS_MAX:,} jobs; this one has {len(elements):,}")
        results: list[JobBulkResult] = []
        batch = _Batch(self._server, caller, namespace)
        for element in elements:
            if len(batch) == _TOGETHER or not batch.take(element):
                results += await batch.carry_out()
                batch = _Batch(self._server, caller, namespace)
                batch.take(element)
        results += await batch.carry_out()
        refused = sum(1 for result in results if result.error)
        return JobBulkResponse(
            results=tuple(results),
            registered=len(results) - refused,
            refused=refused,
            index=self._server.store.index,
        )


class _Place(msgspec.Struct, frozen=True):
    """Which element of the batch a result belongs to, and what it says when the job was registered."""

    number: int
    eval_id: str
    warnings: str


class _Alike:
    """Jobs of one shape."""

    def __init__(self, shape: Shape, evals: tuple[Evaluation, ...]) -> None:
        self.shape = shape
        self.eval = evals[0] if evals else None
        self.warnings = warnings_text(shape.warnings)
        self.ids: list[str] = []
        self.places: list[_Place] = []

    def add(self, job_id: str, number: int, rng: random.Random) -> None:
        """One more of them."""
        self.ids.append(job_id)
        self.places.append(_Place(number, new_uuid(rng) if self.eval is not None else "", self.warnings))

    def stored(self) -> c.AlikeJobs:
        """All of them, as they travel through the log."""
        eval_ids = tuple(place.eval_id for place in self.places) if self.eval is not None else ()
        return c.AlikeJobs(
            job=self.shape.job, ids=tuple(self.ids), named=self.shape.named, eval=self.eval, eval_ids=eval_ids
        )


class _Batch:
    """Elements of a request that go into one log entry, in which no job occurs twice."""

    def __init__(self, server: Server, caller: Caller, namespace: str) -> None:
        self._server, self._caller, self._namespace = server, caller, namespace
        self._results: list[JobBulkResult] = []
        self._single: list[c.RegisterJob] = []
        self._places: list[_Place] = []
        self._alike: dict[int, _Alike] = {}
        self._seen: set[tuple[str, str]] = set()

    def __len__(self) -> int:
        return len(self._results)

    def take(self, element: Any) -> bool:
        """Prepares an element; what is wrong with it is its result. False, with nothing taken, when its job is in the
        batch already."""
        try:
            job_id = self._take(element)
        except NomadError as error:
            self._results.append(JobBulkResult(id=_id_in(element), error=error.message, status=error.status))
            return True
        if job_id is not None:
            self._results.append(JobBulkResult(id=job_id))
        return job_id is not None

    def _take(self, element: Any) -> str | None:
        if isinstance(element, NomadError):
            raise element
        if not isinstance(element, dict):
            raise Invalid('each job has to be an object of the form {"Job": …}')
        handlers, raw = self._server.jobs, element.get("Job")
        if len(element) == 1 and isinstance(raw, dict):
            shape = handlers.shape(raw, namespace=self._namespace)
            if shape is not None:
                return self._take_alike(raw["ID"], shape)
        request = from_wire(element, JobRegisterRequest)
        job, warnings = handlers.prepare_alone(request.job, self._namespace or request.namespace)
        if job.key in self._seen:
            return None
        command, notes = handlers.registration(self._caller, request, job)
        eval_id = command.evals[0].id if command.evals else ""
        self._single.append(command)
        self._places.append(_Place(len(self), eval_id, warnings_text([*warnings, *notes])))
        self._seen.add(job.key)
        return job.id

    def _take_alike(self, job_id: str, shape: Shape) -> str | None:
        key = (shape.job.namespace, job_id)
        if key in self._seen:
            return None
        group = self._alike.get(id(shape))
        if group is None:
            handlers = self._server.jobs
            handlers.check_may_register(self._caller, shape.job)
            group = self._alike[id(shape)] = _Alike(shape, handlers.evals_for(shape.job, 0))
        group.add(job_id, len(self), self._server.rng)
        self._seen.add(key)
        return job_id

    async def carry_out(self) -> list[JobBulkResult]:
        """Proposes what was taken, and answers the results in the order of the elements."""
        groups = self._alike.values()
        places = [*self._places, *(place for group in groups for place in group.places)]
        if not places:
            await trio.lowlevel.checkpoint()
            return self._results
        command = c.RegisterJobs(
            now_ns=self._server.wall_ns(), jobs=tuple(self._single), alike=tuple(group.stored() for group in groups)
        )
        try:
            values = (await self._server.propose(command)).value
        except NomadError as error:
            values = [{"error": error.message, "status": error.status}] * len(places)
        for place, value in zip(places, values, strict=True):
            known = self._results[place.number]
            if "error" in value:
                known = JobBulkResult(id=known.id, error=value["error"], status=value["status"])
            else:
                index = value["job_modify_index"]
                known = JobBulkResult(
                    id=known.id, eval_id=place.eval_id, job_modify_index=index, warnings=place.warnings
                )
            self._results[place.number] = known
        return self._results


def _id_in(element: Any) -> str:
    raw = element.get("Job") if isinstance(element, dict) else None
    found = raw.get("ID") if isinstance(raw, dict) else None
    return found if isinstance(found, str) else ""


def _elements(data: bytes) -> list[Any]:
    """The elements of a JSON array, or of lines of JSON. A line that cannot be read stands as its error."""
    text = data.strip()
    if not text:
        raise Invalid("Request body is empty")
    if text.startswith(b"["):
        elements = parse(text)
        if not isinstance(elements, list):
            raise Invalid("a list of jobs is expected")
        return elements
    return [_line(line) for line in text.split(b"\n") if line and not line.isspace()]


def _line(line: bytes) -> Any:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        try:
            return parse(line)  # says it in Go's words, and takes what Go takes
        except Invalid as error:
            return error
