"""java: a class or a jar, run by the JVM on the node; isolated like exec where exec works, else like raw_exec."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

import trio

from nomadpy.drivers import users
from nomadpy.drivers.contract import FS_CHROOT, FS_NONE, Capabilities, DriverContext, Fingerprint, TaskConfig
from nomadpy.drivers.exec import DEFAULT_CHROOT, ISOLATION_OPTIONS, IsolatingDriver, why_not_isolated
from nomadpy.drivers.process import Plan
from nomadpy.drivers.raw_exec import absolute_work_dir
from nomadpy.drivers.schema import LIST, STRING, Option
from nomadpy.model.errors import Fatal

VERSION_TIMEOUT_S = 30.0
OPTIONS = {
    "class": Option(STRING, help="the class whose main method runs"),
    "class_path": Option(STRING, help="where classes are found"),
    "jar_path": Option(STRING, help="the jar to run, relative to the task's directory"),
    "args": Option(LIST, help="arguments of the program"),
    "jvm_options": Option(LIST, help="options of the JVM, such as -Xmx512m"),
    **ISOLATION_OPTIONS,
}
_VERSION = re.compile(r'version "([^"]+)"')


class JavaDriver(IsolatingDriver):
    """See the module."""

    name = "java"
    options = OPTIONS

    def __init__(self, context: DriverContext) -> None:
        super().__init__(context)
        self._isolates = why_not_isolated() == ""
        self.capabilities = Capabilities(exec=True, fs_isolation=FS_CHROOT if self._isolates else FS_NONE)
        self._known: dict[str, Fingerprint] = {}

    async def fingerprint(self) -> Fingerprint:
        """Detected when ``java -version`` answers; asked again only when another java is found."""
        java = await trio.to_thread.run_sync(find_java)
        if not java:
            return Fingerprint(health_description="no java command on PATH")
        if java not in self._known:
            self._known = {java: await _ask_version(java)}
        return self._known[java]

    def check_config(self, config: dict[str, Any]) -> list[str]:
        """What the options' table cannot say, too: a class or a jar must be named."""
        problems = super().check_config(config)
        if not problems and not config.get("class") and not config.get("jar_path"):
            problems.append('one of the options "jar_path" and "class" is required')
        return problems

    def plan(self, task: TaskConfig, options: Mapping[str, Any]) -> Plan:
        """See ``ProcessDriver``."""
        java = find_java()
        if not java:
            raise Fatal("the java driver cannot run here: no java command on PATH")
        _require_jar(task, options)
        plan = Plan(
            command=java,
            args=tuple(command_line(options)),
            bin_dirs=(task.dirs.local_dir, task.dirs.task_dir),
            work_dir=absolute_work_dir(options.get("work_dir", ""), task.dirs.task_dir),
            user=users.look_up(task.user) if task.user else None,
        )
        if not self._isolates:
            return plan
        visible = dict(self.context.chroot_env) or {path: path for path in DEFAULT_CHROOT}
        home = os.path.dirname(os.path.dirname(java))
        inside = any(source == target and java.startswith(f"{source}/") for source, target in visible.items())
        return self.isolated(task, options, plan, () if inside else (home,))


def command_line(options: Mapping[str, Any]) -> list[str]:
    """What follows ``java``.

    >>> command_line({"jar_path": "local/a.jar", "jvm_options": ["-Xmx64m"], "args": ["x"], "class_path": "lib"})
    ['-Xmx64m', '-cp', 'lib', '-jar', 'local/a.jar', 'x']
    """
    words = list(options.get("jvm_options", ()))
    if options.get("class_path"):
        words += ["-cp", options["class_path"]]
    if options.get("jar_path"):
        words += ["-jar", options["jar_path"]]
    if options.get("class"):
        words.append(options["class"])
    return [*words, *options.get("args", ())]


def find_java() -> str:
    """The JVM's own path, links resolved so that it exists in a task's root as well; "" when there is none."""
    found = shutil.which("java")
    return os.path.realpath(found) if found else ""


def parse_version(text: str) -> dict[str, str]:
    """Node attributes from what ``java -version`` prints; {} when it cannot be understood.

    >>> parse_version('openjdk version "17.0.15" 2025-04-15\\nOpenJDK Runtime (build 17)\\nOpenJDK 64-Bit Server VM')
    {'driver.java.version': '17.0.15', 'driver.java.runtime': 'OpenJDK Runtime (build 17)', \
'driver.java.vm': 'OpenJDK 64-Bit Server VM'}
    """
    lines = [line.strip() for line in text.splitlines()]
    for n, line in enumerate(lines):
        match = _VERSION.search(line)
        if match and len(lines) > n + 2:
            runtime, vm = lines[n + 1 : n + 3]
            return {"driver.java.version": match[1], "driver.java.runtime": runtime, "driver.java.vm": vm}
    return {}


async def _ask_version(java: str) -> Fingerprint:
    answer = None
    with trio.move_on_after(VERSION_TIMEOUT_S):
        answer = await trio.run_process([java, "-version"], capture_stdout=True, capture_stderr=True, check=False)
    if answer is None:
        return Fingerprint(health_description=f"{java} -version did not end within {VERSION_TIMEOUT_S:g} s")
    text = (answer.stderr + answer.stdout).decode(errors="replace")
    attributes = parse_version(text)
    if not attributes:
        return Fingerprint(health_description=f"{java} -version was not understood: {text.strip()[:200]}")
    attributes = {"driver.java": "1", **attributes}
    return Fingerprint(detected=True, healthy=True, health_description="Healthy", attributes=attributes)


def _require_jar(task: TaskConfig, options: Mapping[str, Any]) -> None:
    jar = options.get("jar_path", "")
    if not jar or jar.startswith("/"):
        return
    work_dir = options.get("work_dir", "")
    if not work_dir and not os.path.isfile(f"{task.dirs.task_dir}/{jar}"):
        raise Fatal(f'jar_path "{jar}" does not exist in the task directory')
