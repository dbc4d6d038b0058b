"""Registering many jobs by one request.

Each job is registered or refused on its own, as if it had been sent alone; what is shared is the way: one body, few log
entries, and one preparation for all jobs that differ only in their ids (``alike.py``).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from nomadpy.model.admission import warnings_text
from nomadpy.model.caller import Caller
from nomadpy.model.decode import from_wire, parse
from nomadpy.model.errors import Invalid, NomadError
from nomadpy.model.evaluation import Evaluation
from nomadpy.model.ids import new_uuids
from nomadpy.server.alike import Shape
from nomadpy.server.messages import JobBulkResponse, JobBulkResult, JobRegisterRequest
from nomadpy.server.skeletons import Known, Skeletons, cut, learn
from nomadpy.state import commands as c

if TYPE_CHECKING:
    from nomadpy.server.server import Server

JOBS_MAX = 100_000
# How much goes into one log entry: neither preparing nor applying it must hold up the loop for long. What is known by
# its text counts once; what has to be read takes longer.
_WORK_MAX, _WORK_READ = 2048, 8
_decode = msgspec.json.Decoder().decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class BulkHandlers:
    """See the module's text."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._skeletons = Skeletons()

    async def register(self, caller: Caller, data: bytes, *, namespace: str = "") -> JobBulkResponse:
        """Registers every job of a JSON array or of lines of JSON (NDJSON); each element is ``{"Job": …}`` with what
        else a registration may say. Raises Invalid when the body as a whole cannot be read; what is wrong with single
        jobs is in their results. When the log fails half way the jobs that may not be stored say so."""
        elements = _Elements(data)
        if len(elements) > JOBS_MAX:
            raise Invalid(f"a request may register at most {JOBS_MAX:,} jobs; this one has {len(elements):,}")
        results: list[JobBulkResult] = []
        batch = self._batch(caller, namespace)
        for number in range(len(elements)):
            if batch.work >= _WORK_MAX or not batch.take(elements, number):
                results += await batch.carry_out()
                batch = self._batch(caller, namespace)
                batch.take(elements, number)
        results += await batch.carry_out()
        refused = sum(1 for result in results if result.error)
        return JobBulkResponse(
            results=tuple(results),
            registered=len(results) - refused,
            refused=refused,
            index=self._server.store.index,
        )

    def _batch(self, caller: Caller, namespace: str) -> _Batch:
        known = self._skeletons.under(self._server.jobs.circumstances(namespace))
        return _Batch(self._server, caller, namespace, known)


class _Place(msgspec.Struct, frozen=True):
    """Which element of the batch a single job is, and what its result says when it was registered."""

    number: int
    job_id: str
    eval_id: str
    warnings: str


class _Alike:
    """Jobs of one shape, and which elements of the batch they are."""

    def __init__(self, shape: Shape, evals: tuple[Evaluation, ...]) -> None:
        self.shape = shape
        self.eval = evals[0] if evals else None
        self.warnings = warnings_text(shape.warnings)
        self.ids: list[str] = []
        self.numbers: list[int] = []

    def stored(self, eval_ids: list[str]) -> c.AlikeJobs:
        """All of them, as they travel through the log."""
        return c.AlikeJobs(
            job=self.shape.job, ids=tuple(self.ids), named=self.shape.named, eval=self.eval, eval_ids=tuple(eval_ids)
        )

    def places(self, eval_ids: list[str]) -> Iterable[_Place]:
        """Where their results go."""
        warnings = repeat(self.warnings)
        return map(_Place, self.numbers, self.ids, eval_ids or repeat(""), warnings)


class _Batch:
    """Elements of a request that go into one log entry, in which no job occurs twice. ``work`` says how much there is
    to do for them."""

    def __init__(self, server: Server, caller: Caller, namespace: str, known: Known) -> None:
        self.work = 0
        self._server, self._caller, self._namespace, self._known = server, caller, namespace, known
        self._results: list[JobBulkResult | None] = []
        self._single: list[c.RegisterJob] = []
        self._places: list[_Place] = []
        self._alike: dict[int, _Alike] = {}
        self._seen: set[tuple[str, str]] = set()

    def take(self, elements: _Elements, number: int) -> bool:
        """Prepares an element; what is wrong with it is its result. False, with nothing taken, when its job is in the
        batch already."""
        parts = elements.parts(number)
        shape = self._known.get(parts[1]) if parts is not None else None
        try:
            if parts is not None and shape is not None:
                self.work += 1
                taken = self._take_alike(parts[0], shape)
            else:
                self.work += _WORK_READ
                taken = self._take(elements, number, parts)
        except NomadError as error:
            found = JobBulkResult(id=_id_in(elements[number]), error=error.message, status=error.status)
            self._results.append(found)
            return True
        if taken:
            self._results.append(None)
        return taken

    def _take(self, elements: _Elements, number: int, parts: tuple[str, bytes] | None) -> bool:
        element = elements[number]
        if isinstance(element, NomadError):
            raise element
        if not isinstance(element, dict):
            raise Invalid('each job has to be an object of the form {"Job": …}')
        handlers, raw = self._server.jobs, element.get("Job")
        if len(element) == 1 and isinstance(raw, dict):
            shape = handlers.shape(raw, namespace=self._namespace)
            if shape is not None:
                if parts is not None:
                    learn(self._known, *parts, raw, shape)
                return self._take_alike(raw["ID"], shape)
        request = from_wire(element, JobRegisterRequest)
        job, warnings = handlers.prepare_alone(request.job, self._namespace or request.namespace)
        if job.key in self._seen:
            return False
        command, notes = handlers.registration(self._caller, request, job)
        eval_id = command.evals[0].id if command.evals else ""
        self._single.append(command)
        self._places.append(_Place(len(self._results), job.id, eval_id, warnings_text([*warnings, *notes])))
        self._seen.add(job.key)
        return True

    def _take_alike(self, job_id: str, shape: Shape) -> bool:
        key = (shape.job.namespace, job_id)
        if key in self._seen:
            return False
        group = self._alike.get(id(shape))
        if group is None:
            handlers = self._server.jobs
            handlers.check_may_register(self._caller, shape.job)
            group = self._alike[id(shape)] = _Alike(shape, handlers.evals_for(shape.job, 0))
        group.ids.append(job_id)
        group.numbers.append(len(self._results))
        self._seen.add(key)
        return True

    async def carry_out(self) -> list[JobBulkResult]:
        """Proposes what was taken, and answers the results in the order of the elements."""
        places, alike = self._places, []
        for group in self._alike.values():
            eval_ids = new_uuids(self._server.rng, len(group.ids)) if group.eval is not None else []
            alike.append(group.stored(eval_ids))
            places += group.places(eval_ids)
        if not places:
            await trio.lowlevel.checkpoint()
            return [result for result in self._results if result is not None]
        command = c.RegisterJobs(now_ns=self._server.wall_ns(), jobs=tuple(self._single), alike=tuple(alike))
        try:
            values = (await self._server.propose(command)).value
        except NomadError as error:
            values = [{"error": error.message, "status": error.status}] * len(places)
        for place, value in zip(places, values, strict=True):
            self._results[place.number] = _result(place, value)
        return [result for result in self._results if result is not None]


def _result(place: _Place, value: dict[str, Any]) -> JobBulkResult:
    if "error" in value:
        return JobBulkResult(id=place.job_id, error=value["error"], status=value["status"])
    index = value["job_modify_index"]
    return JobBulkResult(id=place.job_id, eval_id=place.eval_id, job_modify_index=index, warnings=place.warnings)


def _id_in(element: Any) -> str:
    raw = element.get("Job") if isinstance(element, dict) else None
    found = raw.get("ID") if isinstance(raw, dict) else None
    return found if isinstance(found, str) else ""


class _Elements:
    """The elements of a JSON array, or of lines of JSON. A line is read when it is asked for; one that cannot be read
    stands as its error."""

    def __init__(self, data: bytes) -> None:
        text = data.strip()
        if not text:
            raise Invalid("Request body is empty")
        self._texts: list[bytes] | None
        self._read: list[Any] | None = None
        if text.startswith(b"["):
            self._texts, self._read = _array(text)
        else:
            self._texts = [line for line in text.split(b"\n") if line and not line.isspace()]
        # Only what may be cut (see ``skeletons``) is worth looking at as text.
        self._may_cut = b"\0" not in text

    def __len__(self) -> int:
        return len(self._read if self._read is not None else self._texts or ())

    def __getitem__(self, number: int) -> Any:
        """An element as plain data."""
        if self._read is not None:
            return self._read[number]
        return _line(self._texts[number]) if self._texts is not None else None

    def parts(self, number: int) -> tuple[str, bytes] | None:
        """An element's text as its job's id and the rest, if it can be cut like that."""
        return cut(self._texts[number]) if self._texts is not None and self._may_cut else None


def _array(text: bytes) -> tuple[list[bytes] | None, list[Any]]:
    """The texts of an array's elements, unless only Go would read it, and what they say."""
    elements = parse(text)
    if not isinstance(elements, list):
        raise Invalid("a list of jobs is expected")
    try:
        return [bytes(each) for each in _split(text)], elements
    except msgspec.DecodeError:
        return None, elements


def _line(line: bytes) -> Any:
    try:
        return _decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        try:
            return parse(line)  # says it in Go's words, and takes what Go takes
        except Invalid as error:
            return error
