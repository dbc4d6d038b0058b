"""``nomadpy fmt``: HCL files in the standard layout."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated

import typer

from nomadpy.cli.failures import CommandFailed
from nomadpy.cli.session import Session

SUFFIXES = (".nomad", ".hcl")


def fmt(
    session: Session,
    paths: Annotated[list[str] | None, typer.Argument(metavar="<path>", show_default=False)] = None,
    *,
    check: Annotated[bool, typer.Option("-check", help="Change nothing; exit with 1 if a file would change.")] = False,
    listing: Annotated[bool, typer.Option("-list/-no-list", help="Name the files that change (default).")] = True,
    write: Annotated[bool, typer.Option("-write/-no-write", help="Write the files (default).")] = True,
    recursive: Annotated[bool, typer.Option("-recursive", help="Go into directories below.")] = False,
    diff: Annotated[bool, typer.Option("-diff", help="Show what changes.")] = False,
) -> int:
    """Rewrite HCL files in the standard layout: files, directories, or stdin for -."""
    from nomadpy.jobspec.hcl import format as standard_layout

    if paths == ["-"]:
        sys.stdout.write(standard_layout(sys.stdin.read(), "stdin"))
        return 0
    changed = 0
    for file in _files(paths or ["."], recursive):
        before = file.read_text(encoding="utf-8")
        after = standard_layout(before, str(file))
        if before == after:
            continue
        changed += 1
        if listing:
            session.say(str(file))
        if diff:
            lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"old/{file}", f"new/{file}")
            sys.stdout.writelines(lines)
        if write and not check:
            file.write_text(after, encoding="utf-8")
    return int(bool(check and changed))


def _files(paths: list[str], recursive: bool) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = path.rglob("*") if recursive else path.glob("*")
            found += sorted(file for file in inside if file.is_file() and file.suffix in SUFFIXES)
        elif path.is_file():
            found.append(path)
        else:
            raise CommandFailed(f"{path}: no such file or directory")
    return found
