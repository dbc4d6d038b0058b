"""The page docs/job-file-reference.md with all blocks of a job file, made from the schema tables.

``python -m nomadpy.jobspec._reference`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nomadpy.jobspec.schema import rows
from nomadpy.jobspec.schema.job import JOB
from nomadpy.jobspec.schema.rows import Attribute, Block, Child

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "job-file-reference.md"
_HEAD = """<!-- Made by python -m nomadpy.jobspec._reference -->

# All blocks of a job file

Each block with its arguments and the blocks inside it. See [job files](job-files.md) for what values look like.
"""

_KINDS = {
    rows.STRINGS: "list of strings",
    rows.INTEGERS: "list of integers",
    rows.STRING_MAP: "map of strings",
    rows.STRINGS_MAP: "map of lists",
    rows.FREE_MAP: "map",
}


def text() -> str:
    """The page: each block once, in the order in which they are met from the job down."""
    sections = [line for places, block in _blocks() for line in _section(places, block)]
    return _HEAD + "\n" + "\n".join(sections)


def _blocks() -> Iterator[tuple[list[str], Block]]:
    """Each block with the places where it may stand."""
    places: dict[int, tuple[list[str], Block]] = {}
    pending = [("job", JOB)]
    while pending:
        path, block = pending.pop(0)
        seen = id(block) in places
        places.setdefault(id(block), ([], block))[0].append(path)
        if not seen:
            pending += [
                (f"{path.rsplit(' > ', 1)[-1]} > {child.name}", child.block) for child in block.children.values()
            ]
    yield from places.values()


def _section(places: list[str], block: Block) -> Iterator[str]:
    yield f"## {places[0].rsplit(' > ', 1)[-1]}\n"
    inside = ", ".join(f"`{place.rsplit(' > ', 1)[0]}`" for place in places if " > " in place)
    yield _plain(block.help) + (f" Stands in {inside}." if inside else "") + "\n"
    lines = [_attribute(row) for row in block.attributes.values()] + [_child(row) for row in block.children.values()]
    if lines:
        yield "\n".join(lines) + "\n"


def _plain(help: str) -> str:
    """Text in which Markdown finds nothing to do."""
    return help.replace("<", "&lt;").replace("*", "\\*")


def _attribute(row: Attribute) -> str:
    kind = _KINDS.get(row.kind, row.kind) + (", required" if row.required else "")
    choices = f" One of {', '.join(f'`{choice}`' for choice in row.choices)}." if row.choices else ""
    return f"- `{row.name}` ({kind}) {_plain(row.help)}{choices}".rstrip()


def _child(row: Child) -> str:
    form = f'`{row.name} "…"`' if row.n_labels else f"`{row.name}`"
    count = "block" if not row.many and not row.keyed else "block, repeatable"
    return f"- {form} ({count}) {_plain(row.block.help)}"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
