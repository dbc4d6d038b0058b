"""``nomadpy version``, when it is asked with flags."""

from __future__ import annotations

from typing import Annotated

import typer

from nomadpy import __version__
from nomadpy.cli.session import Session


def version(
    session: Session,
    *,
    as_json: Annotated[bool, typer.Option("-json", help="Print the version as JSON.")] = False,
) -> None:
    """Print the version of this program. No agent is asked."""
    if not session.put_out({"Version": __version__}, as_json=as_json, template=None):
        session.say(f"nomadpy v{__version__}")
