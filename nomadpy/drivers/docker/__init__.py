"""Runs tasks as containers of a Docker Engine.

``driver`` holds the driver itself; ``body`` turns a task into the engine's words and ``options`` knows what may be
asked for, both without I/O; ``images`` pulls and forgets images; ``logs`` copies the output of containers into the
allocation's log files; ``engine`` is the only module that talks to the engine.
"""

from nomadpy.drivers.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
