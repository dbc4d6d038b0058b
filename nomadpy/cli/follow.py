"""Following what a write set in motion: the evaluation, its allocations, and the deployment when there is one.

A person at a terminal sees a board that is redrawn; a pipe gets a line with the time for each thing that happens.
Interrupting stops the watching only; the job keeps running.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from rich.text import Text

from nomadpy.cli.failures import ApiError, Unreachable
from nomadpy.cli.session import Session
from nomadpy.cli.views import progress
from nomadpy.cli.views.progress import Sight

POLL_S = 0.25
SLOW_POLL_S = 1.0
QUICK_POLLS = 40
# Without a deployment nothing promises that an allocation ever starts, so the watching ends at some time.
SETTLE_LIMIT_S = 300.0
# How long an agent that answered before may stay away.
AWAY_LIMIT_S = 30.0
# A rollback that changes nothing that runs needs no deployment.
ROLLBACK_LIMIT_S = 5.0
ROLLING_BACK = " - rolling back to job version "
PLACEMENT_FAILED = 2


class Follower:
    """Watches one evaluation; ``follow`` returns the exit code."""

    def __init__(self, session: Session, *, plain: bool = False) -> None:
        self.session = session
        self.live = _Board(session) if session.is_live and not plain else None
        self.sight = Sight()
        self.polls = 0
        self.waits_for_promotion = True
        self.started_s = time.monotonic()

    def follow(self, evaluation_id: str) -> int:
        """Watch until everything runs or has failed: 0 well, 1 failed, 2 not everything could be placed."""
        self._say(f'Monitoring evaluation "{evaluation_id[:8]}"', title=True)
        return self._watch(lambda: self._evaluation(evaluation_id))

    def follow_deployment(self, found: dict[str, Any]) -> int:
        """Watch a deployment until it is over: 0 when it succeeded, 1 otherwise."""
        self._say(f'Monitoring deployment "{found["ID"][:8]}"', title=True)
        known = self._get(f"/v1/deployment/allocations/{found['ID']}") or []
        self.sight = Sight(deployment=found, allocations=tuple(known))
        if self.live:
            self.live.show(self.sight)
        return self._watch(lambda: self._deployment(found["ID"]))

    def _watch(self, look: Callable[[], int]) -> int:
        try:
            with self.live or _Nothing():
                code = look()
            self._close()
            return self._follow_rollback() or code
        except KeyboardInterrupt:
            print("Stopped watching; what was submitted goes on.", file=sys.stderr)
            return 130

    def _follow_rollback(self) -> int:
        """Where the deployment failed and goes back to an earlier version, watches that, too; 1 then."""
        failed = self.sight.deployment or {}
        if failed.get("Status") != "failed" or ROLLING_BACK not in str(failed.get("StatusDescription")):
            return 0
        deadline_s = time.monotonic() + ROLLBACK_LIMIT_S
        while time.monotonic() < deadline_s:
            latest = self._get(f"/v1/job/{quote(failed['JobID'], safe='')}/deployment", namespace=failed["Namespace"])
            if latest and latest["JobVersion"] > failed["JobVersion"]:
                self.session.say(f"Version {failed['JobVersion']} failed; following version {latest['JobVersion']}.")
                rollback = Follower(self.session, plain=self.live is None)
                rollback.waits_for_promotion = False
                rollback.follow_deployment(latest)
                break
            time.sleep(POLL_S)
        return 1

    def _get(self, path: str, **query: Any) -> Any:
        return get_patiently(self.session, path, **query)

    def _evaluation(self, evaluation_id: str) -> int:
        while True:
            evaluation = self._get(f"/v1/evaluation/{evaluation_id}")
            allocations = self._get(f"/v1/evaluation/{evaluation_id}/allocations") or []
            deployment = self._deployment_of(evaluation)
            self._see(Sight(evaluation=evaluation, allocations=tuple(allocations), deployment=deployment))
            if self.sight.is_evaluated:
                break
            self._pause()
        if evaluation["Status"] != "complete":
            return 1
        if evaluation.get("FailedTGAllocs"):
            return PLACEMENT_FAILED
        if evaluation.get("NextEval") and evaluation.get("Wait"):
            return self._evaluation(evaluation["NextEval"])
        if deployment is not None:
            return self._deployment(deployment["ID"])
        return self._settle(evaluation_id)

    def _deployment_of(self, evaluation: dict[str, Any]) -> dict[str, Any] | None:
        ident = evaluation.get("DeploymentID")
        return self._get(f"/v1/deployment/{ident}") if ident else None

    def _deployment(self, deployment_id: str) -> int:
        while True:
            deployment = self._get(f"/v1/deployment/{deployment_id}")
            allocations = self._get(f"/v1/deployment/allocations/{deployment_id}") or []
            self._see(Sight(evaluation=self.sight.evaluation, allocations=tuple(allocations), deployment=deployment))
            status = deployment.get("Status")
            if status in ("successful", "failed", "cancelled"):
                return 0 if status == "successful" else 1
            if progress.promotion_hint(deployment) and not self.waits_for_promotion:
                return 1
            self._pause()

    def _settle(self, evaluation_id: str) -> int:
        while not self.sight.is_settled and time.monotonic() - self.started_s < SETTLE_LIMIT_S:
            self._pause()
            allocations = self._get(f"/v1/evaluation/{evaluation_id}/allocations") or []
            self._see(Sight(evaluation=self.sight.evaluation, allocations=tuple(allocations)))
        return 0

    def _see(self, sight: Sight) -> None:
        before, self.sight = self.sight, sight
        if self.live:
            self.live.show(sight)
            return
        for line in progress.news(before, sight):
            self._say(line)

    def _pause(self) -> None:
        self.polls += 1
        time.sleep(POLL_S if self.polls < QUICK_POLLS else SLOW_POLL_S)

    def _say(self, line: str, title: bool = False) -> None:
        if not self.live:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self.session.say(f"{'==>' if title else '   '} {moment}: {line}")

    def _close(self) -> None:
        evaluation = self.sight.evaluation
        for part in (progress.failed_placement(evaluation), progress.blocked_note(evaluation)):
            if part is not None:
                self.session.show(part)
        if evaluation.get("StatusDescription") and evaluation.get("Status") == "failed":
            self.session.show(Text(str(evaluation["StatusDescription"]), style="red"))
        deployment = self.sight.deployment or {}
        if not self.sight.is_settled:
            self.session.say("Some allocations are still pending; `nomadpy job status` shows how they fare.")
        failing = [one for one in self.sight.allocations if one.get("ClientStatus") == "failed"]
        if failing:
            self.session.say(f"See why: nomadpy alloc status {failing[0]['ID'][:8]}")
        if deployment.get("Status") == "failed":
            self.session.say(str(deployment.get("StatusDescription") or "The deployment failed."), style="red")


def get_patiently(session: Session, path: str, **query: Any) -> Any:
    """An answer of the agent; it may be away for a while, as when it is restarted or a leader is elected."""
    deadline_s = time.monotonic() + AWAY_LIMIT_S
    while True:
        try:
            return session.api.get(path, **query)
        except (Unreachable, ApiError) as problem:
            passing = isinstance(problem, Unreachable) or "No cluster leader" in problem.body
            if not passing or time.monotonic() > deadline_s:
                raise
            time.sleep(POLL_S)


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *caught: object) -> None:
        return None


class _Board:
    """The redrawn board. Rich's own thread turns the wheel; the frame is taken from the clock of the last look."""

    def __init__(self, session: Session) -> None:
        from rich.live import Live

        self.started_s = time.monotonic()
        self.sight = Sight()
        self.live = Live(console=session.console, refresh_per_second=8, get_renderable=self._draw, transient=False)

    def show(self, sight: Sight) -> None:
        self.sight = sight

    def _draw(self) -> Any:
        elapsed_s = time.monotonic() - self.started_s
        return progress.board(self.sight, int(elapsed_s * 8), int(elapsed_s * 1e9))

    def __enter__(self) -> None:
        self.live.start(refresh=True)

    def __exit__(self, *caught: object) -> None:
        self.live.stop()
