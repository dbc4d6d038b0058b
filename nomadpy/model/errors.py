"""What can go wrong, and whose fault it is.

    NomadError
    ├─ Refused        the request is wrong or stale          -> fix and resend
    │   ├─ Invalid        malformed or impossible input (400, or 500 where Nomad says so)
    │   ├─ NotFound       what was named does not exist (404)
    │   ├─ Conflict       a compare-and-set failed
    │   └─ Forbidden      the caller may not (403)
    ├─ Unavailable    the world is not ready                  -> retry with the same request id
    │   ├─ NoLeader
    │   ├─ TimedOut
    │   └─ OutcomeUnknown the write may or may not have happened
    ├─ DriverError    a task's world is                       -> the restart policy decides
    │   ├─ Temporary
    │   └─ Fatal
    └─ Bug            an invariant broke                      -> stop the process

Every leaf has a stable ``code`` and the HTTP status that Nomad would answer with.
"""

from __future__ import annotations


class NomadError(Exception):
    """The base of every error that this package raises on purpose."""

    code = "error"
    status = 500

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if status is not None:
            self.status = status


class Refused(NomadError):
    """The request is wrong or stale; nothing was changed. Fix it and send it again."""

    code = "refused"


class Invalid(Refused):
    """Malformed or impossible input; nothing was changed."""

    code = "invalid"
    status = 400


class NotFound(Refused):
    """What was named does not exist; nothing was changed."""

    code = "not-found"
    status = 404


class Conflict(Refused):
    """A compare-and-set lost; nothing was changed. Nomad answers 500 for most of these."""

    code = "conflict"
    status = 500


class Forbidden(Refused):
    """The caller lacks the capability; nothing was changed."""

    code = "forbidden"
    status = 403


class Unavailable(NomadError):
    """The world is not ready. Retry with the same request id."""

    code = "unavailable"


class NoLeader(Unavailable):
    """No server leads the region at the moment; nothing was changed."""

    code = "no-leader"

    def __init__(self, message: str = "No cluster leader") -> None:
        super().__init__(message)


class TimedOut(Unavailable):
    """The deadline passed before an answer came."""

    code = "timed-out"


class OutcomeUnknown(Unavailable):
    """The write may or may not take effect; a retry with the same request id is safe."""

    code = "outcome-unknown"


class DriverError(NomadError):
    """A task could not be started, stopped or asked."""

    code = "driver"


class Temporary(DriverError):
    """The driver may succeed on another attempt; the restart policy decides."""

    code = "driver-temporary"


class Fatal(DriverError):
    """No further attempt can succeed (Nomad: "Error was unrecoverable")."""

    code = "driver-fatal"


class Bug(NomadError):
    """An invariant of this program broke. The process should stop."""

    code = "bug"
