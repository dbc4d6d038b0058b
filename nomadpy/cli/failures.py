"""Why a command failed: an agent that cannot be reached, an answer that is an error, or a request that is wrong."""

from __future__ import annotations

from nomadpy.model.errors import NomadError, Refused, Unavailable


class UsageProblem(Refused):
    """The command line is wrong; the message says what would be right."""

    code = "usage"


class CommandFailed(NomadError):
    """The command could not do what was asked; ``exit_code`` is what the process leaves with."""

    code = "command-failed"

    def __init__(self, message: str, *, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Unreachable(Unavailable):
    """No agent answers at the address."""

    code = "unreachable"


class ApiError(NomadError):
    """The agent answered with an error status; ``body`` is its text."""

    code = "api"

    def __init__(self, method: str, path: str, *, status: int, body: str) -> None:
        self.body = body.strip()
        unknown = f"the agent knows no such route: {path}" if status == 404 else "no explanation was given"
        said = self.body or unknown
        super().__init__(f"{said} (HTTP {status} from {method} {path})", status=status)
