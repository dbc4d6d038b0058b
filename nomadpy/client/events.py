"""What happened to a task, in Nomad's words: one constructor per type of event.

Clients show ``display_message`` and read ``details``; the flat copies of the details are deprecated in Nomad's API but
still read by older tools, so both are filled.
"""

from __future__ import annotations

from typing import Any

from nomadpy.drivers.contract import ExitResult
from nomadpy.model.alloc import TaskEvent, TaskState
from nomadpy.model.time import format_duration

MAX_EVENTS = 10
WITHIN_POLICY = "Restart within policy"


def append_event(state: TaskState, event: TaskEvent) -> TaskState:
    """The state with one more event; only the ten newest are kept."""
    return state.replace(events=(*state.events, event)[-MAX_EVENTS:])


def _event(kind: str, now_ns: int, display: str, details: dict[str, str] | None = None, **flat: Any) -> TaskEvent:
    return TaskEvent(type=kind, time_ns=now_ns, display_message=display, details=details or {}, **flat)


def _plain(kind: str, now_ns: int, message: str) -> TaskEvent:
    return _event(kind, now_ns, message, {"message": message}, message=message)


def received(now_ns: int) -> TaskEvent:
    return _event("Received", now_ns, "Task received by client")


def task_setup(now_ns: int, message: str = "Building Task Directory") -> TaskEvent:
    return _plain("Task Setup", now_ns, message)


def setup_failure(now_ns: int, error: str) -> TaskEvent:
    details = {"setup_error": error, "fails_task": "true"}
    return _event("Setup Failure", now_ns, error or "Task setup failed", details, setup_error=error, fails_task=True)


def failed_validation(now_ns: int, error: str) -> TaskEvent:
    details = {"validation_error": error, "fails_task": "true"}
    display = error or "Validation of task failed"
    return _event("Failed Validation", now_ns, display, details, validation_error=error, fails_task=True)


def downloading_artifacts(now_ns: int) -> TaskEvent:
    return _event("Downloading Artifacts", now_ns, "Client is downloading artifacts")


def failed_artifact_download(now_ns: int, error: str) -> TaskEvent:
    display = error or "Failed to download artifacts"
    return _event("Failed Artifact Download", now_ns, display, {"download_error": error}, download_error=error)


def driver_failure(now_ns: int, error: str) -> TaskEvent:
    display = error or "Failed to start task"
    return _event("Driver Failure", now_ns, display, {"driver_error": error}, driver_error=error)


def driver_message(now_ns: int, message: str) -> TaskEvent:
    return _event("Driver", now_ns, message, {"driver_message": message}, driver_message=message)


def started(now_ns: int) -> TaskEvent:
    return _event("Started", now_ns, "Task started by client")


def terminated(now_ns: int, result: ExitResult) -> TaskEvent:
    details = {
        "exit_code": str(result.exit_code),
        "signal": str(result.signal),
        "oom_killed": "true" if result.oom_killed else "false",
    }
    parts = [f"Exit Code: {result.exit_code}"]
    if result.signal:
        parts.append(f"Signal: {result.signal}")
    message = result.error or ("OOM Killed" if result.oom_killed else "")
    if message:
        details["exit_message"] = message
        parts.append(f'Exit Message: "{message}"')
    return _event(
        "Terminated",
        now_ns,
        ", ".join(parts),
        details,
        exit_code=result.exit_code,
        signal=result.signal,
        message=message,
    )


def restarting(now_ns: int, reason: str, delay_ns: int) -> TaskEvent:
    display = f"Task restarting in {format_duration(delay_ns)}"
    if reason and reason != WITHIN_POLICY:
        display = f"{reason} - {display}"
    details = {"restart_reason": reason, "start_delay": str(delay_ns)}
    return _event("Restarting", now_ns, display, details, restart_reason=reason, start_delay=delay_ns)


def not_restarting(now_ns: int, reason: str) -> TaskEvent:
    details = {"restart_reason": reason, "fails_task": "true"}
    display = reason or "Task exceeded restart policy"
    return _event("Not Restarting", now_ns, display, details, restart_reason=reason, fails_task=True)


def restart_signaled(now_ns: int, reason: str) -> TaskEvent:
    display = reason or "Task signaled to restart"
    return _event("Restart Signaled", now_ns, display, {"restart_reason": reason}, restart_reason=reason)


def signaling(now_ns: int, signal: str, reason: str = "") -> TaskEvent:
    if signal:
        display = f"Task being sent signal {signal}" + (f": {reason}" if reason else "")
    else:
        display = reason or "Task being sent a signal"
    details = {"task_signal": signal, "task_signal_reason": reason}
    return _event("Signaling", now_ns, display, details, task_signal=signal, task_signal_reason=reason)


def killing(now_ns: int, kill_timeout_ns: int, reason: str = "") -> TaskEvent:
    details = {"kill_timeout": format_duration(kill_timeout_ns)}
    display = "Sent interrupt"
    if kill_timeout_ns:
        display += f". Waiting {format_duration(kill_timeout_ns)} before force killing"
    if reason:
        details["kill_reason"] = display = reason
    return _event("Killing", now_ns, display, details, kill_timeout_ns=kill_timeout_ns, kill_reason=reason)


def killed(now_ns: int, error: str = "") -> TaskEvent:
    details = {"kill_error": error} if error else {}
    return _event("Killed", now_ns, error or "Task successfully killed", details, kill_error=error)


def sibling_failed(now_ns: int, sibling: str) -> TaskEvent:
    display = f'Task\'s sibling "{sibling}" failed'
    return _event("Sibling Task Failed", now_ns, display, {"failed_sibling": sibling}, failed_sibling=sibling)


def leader_dead(now_ns: int) -> TaskEvent:
    return _event("Leader Task Dead", now_ns, "Leader Task in Group dead")


def main_tasks_dead(now_ns: int) -> TaskEvent:
    return _event("Main Tasks Dead", now_ns, "Main tasks in the group died")


def waiting_shutdown_delay(now_ns: int, delay_ns: int) -> TaskEvent:
    message = f"Waiting for shutdown_delay of {format_duration(delay_ns)} before killing the task."
    return _plain("Waiting for shutdown delay", now_ns, message)


def skipping_shutdown_delay(now_ns: int) -> TaskEvent:
    return _plain("Skipping shutdown delay", now_ns, "Skipping shutdown_delay before killing the task.")


def failed_restoring(now_ns: int, error: str) -> TaskEvent:
    return _plain(
        "Failed Restoring Task", now_ns, f"failed to restore task: {error}; will not run until server is contacted"
    )


def hook_failed(now_ns: int, hook: str, error: str) -> TaskEvent:
    details = {"message": error, "hook": hook}
    return _event("Task hook failed", now_ns, error, details, message=error)


def template(now_ns: int, message: str, *, fails_task: bool = False) -> TaskEvent:
    details = {"message": message, **({"fails_task": "true"} if fails_task else {})}
    return _event("Template", now_ns, message, details, message=message, fails_task=fails_task)


def reconnected(now_ns: int) -> TaskEvent:
    return _event("Reconnected", now_ns, "Client reconnected")


def alloc_unhealthy(now_ns: int, message: str) -> TaskEvent:
    return _plain("Alloc Unhealthy", now_ns, message)
