"""The small process that stands between the agent and one task, so that the task outlives the agent.

One executor per attempt of a raw_exec, exec or java task. It starts the command, copies its output into rotated files,
passes signals on, and writes down how the command ended before it ends itself: from then on the exit record is the
truth, and nothing is left running. It is in a session of its own, so killing the agent, even with SIGKILL, changes
nothing for the task.

Every module in this package is imported by a bare interpreter (``python -I -S``) that must stay near 9 MB, and 200 of
them must start within seconds. Hence only ``os``, ``sys``, ``time`` and C modules are imported here (no ``socket``,
``signal``, ``json``: each pulls in ``enum`` or ``re``), ``ctypes`` only where namespaces are wanted, and nothing from
the rest of nomadpy. ``nomadpy/__init__.py`` and ``nomadpy/drivers/__init__.py`` are imported on the way and must stay
free of imports for the same reason.

What happens when something dies:

* the agent: nothing; a new agent connects to the socket in the attempt's run directory, or reads the exit record;
* the task: what is left of its process group and cgroup is killed, output is drained, the exit is recorded;
* the executor: the kernel ends an isolated task with it (its namespaces are held by a child of the executor); for a
  plain one the agent notices at once, or at its next start, kills what is left and reports an error;
* the agent between starting an executor and hearing from it: the executor was not adopted, kills the task and goes.
"""
