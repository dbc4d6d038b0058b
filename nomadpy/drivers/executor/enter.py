"""A command beside a running task: in its cgroups, namespaces, root, environment and as its user.

``main.py enter RUN_DIR HOLDER_PID TTY COMMAND [ARGUMENT…]``; standard streams and the session are already in place.
It exits as the command does; 126 when the command could not be run, with the reason on standard error.
"""

from __future__ import annotations

import os
import sys

from nomadpy.drivers.executor.child import Refusal, become_task
from nomadpy.drivers.executor.supervise import read_spec
from nomadpy.drivers.executor.wire import Spec

TIOCSCTTY = 0x540E
NOT_RUN = 126


def main() -> None:
    """Becomes the command, or a parent that waits for it where entering a process namespace needs a fork."""
    run_dir, holder, tty, command, *args = sys.argv[2:]
    if tty == "1":
        import fcntl  # A C module of its own, needed only here.

        fcntl.ioctl(0, TIOCSCTTY, 0)
    spec = _beside(read_spec(run_dir), command, args)
    holder_pid = int(holder)
    try:
        if holder_pid:
            _enter_process_namespace(holder_pid)
        become_task(spec, holder_pid)
    except (Refusal, OSError) as error:
        print(error, file=sys.stderr, flush=True)
    os._exit(NOT_RUN)


def _enter_process_namespace(holder_pid: int) -> None:
    """Returns in a child that is a member of the namespace; the parent waits and ends as the child does."""
    from nomadpy.drivers.executor import isolate  # ctypes is loaded only for isolated tasks.

    isolate.enter_process_namespace(holder_pid)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
    isolate.end_with_parent()


def _beside(spec: Spec, command: str, args: list[str]) -> Spec:
    pairs = [(key, value) for key, value in spec.pairs() if key not in ("command", "arg", "oom_score_adj")]
    return Spec([*pairs, ("command", command), *(("arg", arg) for arg in args)])
