"""Rules of the house that a reader cannot see in one file: layers, purity, size, leftovers.

Every exception is written down here with its reason, so that a new one has to be added on purpose.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nomadpy.jobspec import load

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nomadpy"

# Rooms whose answers depend on their arguments alone.
PURE_ROOMS = ("model", "jobspec", "state", "scheduler")
# Reading these makes an answer depend on the moment, on chance or on the machine.
IMPURE = frozenset(
    {"datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today"}
    | {"time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.sleep"}
    | {
        "os.environ",
        "os.environb",
        "os.getenv",
        "os.urandom",
        "uuid.uuid1",
        "uuid.uuid4",
        "trio.current_time",
        "nomadpy.model.ids.EDGE_RNG",
    }
)
# Modules of which only a class that takes a seed may be used.
CHANCE = {"random": {"Random"}, "secrets": set()}
# "file: name" -> why this one is right.
IMPURE_ALLOWED: dict[str, str] = {
    "nomadpy/model/ids.py: random.SystemRandom": "the source that edges pass to the pure rooms",
}

MAX_FUNCTION_LINES = 70
# "file::function" -> its length. A ratchet: entries may shrink or go.
LONG_FUNCTIONS: dict[str, int] = {}

# Spelled in two halves, lest this file trips over itself.
LEFTOVERS = tuple(a + b for a, b in (("TO", "DO"), ("FIX", "ME"), ("XX", "X")))
REGISTRY_HOSTS = tuple(
    a + b
    for a, b in (
        ("docker.", "io/"),
        ("index.", "docker.io"),
        ("hub.docker", ".com"),
        ("registry.", "k8s.io"),
        ("k8s.", "gcr.io"),
        ("gh", "cr.io"),
        ("quay", ".io"),
        ("mcr.", "microsoft.com"),
        ("pypi", ".org"),
        ("files.python", "hosted.org"),
        ("deb.", "debian.org"),
        ("archive.", "ubuntu.com"),
    )
)
TEXT_ROOTS = ("nomadpy", "tests", "scripts", ".ci", "Dockerfile", ".dockerignore", "pyproject.toml")


def python_files(*rooms: str) -> list[Path]:
    """The package's modules, or those of some rooms, in order."""
    roots = [PACKAGE / room for room in rooms] or [PACKAGE]
    return sorted(path for root in roots for path in root.rglob("*.py"))


def text_files() -> Iterator[tuple[str, str]]:
    """(path from the top, text) of every file that somebody wrote."""
    for root in (ROOT / name for name in TEXT_ROOTS):
        paths = sorted(root.rglob("*")) if root.is_dir() else [root]
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                try:
                    yield str(path.relative_to(ROOT)), path.read_text()
                except UnicodeDecodeError:
                    continue  # a binary fixture


def dotted(node: ast.AST) -> str:
    """``a.b.c`` for a chain of names, else ""."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def imported_names(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for, so that ``from time import time as t`` is seen through."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update({alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
    return names


def impurities(text: str) -> set[str]:
    """Impure names that a module uses, with the imports seen through."""
    tree = ast.parse(text)
    imported = imported_names(tree)
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute | ast.Name):
            continue
        head, _, rest = dotted(node).partition(".")
        if head not in imported:
            continue
        name = f"{imported[head]}.{rest}" if rest else imported[head]
        module, _, member = name.partition(".")
        if name in IMPURE or (module in CHANCE and member and member.split(".")[0] not in CHANCE[module]):
            found.add(name)
    return found


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """(file::qualified name, lines from the signature to the last one) of each function."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield prefix + child.name, (child.end_lineno or 0) - child.lineno + 1
                yield from visit(child, f"{prefix}{child.name}.")
            else:
                yield from visit(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    return visit(ast.parse(path.read_text()), f"{path.relative_to(ROOT)}::")


def test_rooms_import_downward_only() -> None:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pure_rooms_ask_neither_the_clock_nor_chance_nor_the_machine() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files(*PURE_ROOMS)
        for name in impurities(path.read_text())
    }
    assert sorted(found - set(IMPURE_ALLOWED)) == []
    assert sorted(set(IMPURE_ALLOWED) - found) == [], "these exceptions are no longer needed"


@pytest.mark.parametrize(
    "text",
    [
        "import time\ntime.time()",
        "from time import monotonic as m\nm()",
        "import random\nrandom.choice([1])",
        "from random import shuffle\nshuffle([])",
        "import os as o\no.environ['X']",
        "import datetime as dt\ndt.datetime.now()",
        "from datetime import datetime\ndatetime.now()",
        "import secrets\nsecrets.token_hex()",
    ],
)
def test_the_purity_rule_sees_through_imports(text: str) -> None:
    assert impurities(text)


@pytest.mark.parametrize(
    "text",
    [
        "import random\nrandom.Random(3).choice([1])",
        "def f(now: float, time: float) -> float:\n    return now + time",
        "import time\ntime.strftime('%Y')",
    ],
)
def test_the_purity_rule_lets_arguments_through(text: str) -> None:
    assert not impurities(text)


def test_functions_fit_on_a_screen() -> None:
    lengths = dict(entry for path in python_files() for entry in function_lengths(path))
    too_long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTIONS.get(name, MAX_FUNCTION_LINES)}
    assert too_long == {}
    relaxed = {name for name in LONG_FUNCTIONS if lengths.get(name, 0) < LONG_FUNCTIONS[name]}
    assert sorted(relaxed) == [], "these became shorter: lower or remove their entry"


def test_nothing_is_left_for_later() -> None:
    found = [
        f"{path}:{number}: {line.strip()}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if any(marker in line.replace("_", " ").split() or f"{marker}:" in line for marker in LEFTOVERS)
    ]
    assert found == []


def test_no_registry_is_named() -> None:
    found = [f"{path}: {host}" for path, text in text_files() for host in REGISTRY_HOSTS if host in text]
    assert found == []


def test_scripts_can_be_run() -> None:
    scripts = [path for path in (ROOT / "scripts").iterdir() if not path.name.startswith("_")] + [ROOT / ".ci" / "run"]
    assert [str(path) for path in scripts if path.is_file() and not os.access(path, os.X_OK)] == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").rglob("*.nomad*")), ids=lambda path: str(path.name))
def test_example_jobs_parse(path: Path) -> None:
    assert load(str(path)).job.task_groups
