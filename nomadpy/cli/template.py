"""Go templates for the ``-t`` flag: the evaluator of template blocks over what the API answered.

Its functions are Go's own and ``json``.
"""

from __future__ import annotations

import json
from typing import Any

from nomadpy.cli.failures import UsageProblem
from nomadpy.jobspec.gotemplate import Template, TemplateFailed, show

__all__ = ["render", "show"]


def render(source: str, value: Any) -> str:
    """The text that the template makes of ``value``. Raises UsageProblem when the template is wrong.

    >>> render('{{range .}}{{.ID}}={{json .DCs}} {{end}}', [{"ID": "a", "DCs": [1, 2]}])
    'a=[1, 2] '
    """
    try:
        return Template(source).render(value, {"json": lambda part: json.dumps(part, ensure_ascii=False)})
    except TemplateFailed as problem:
        raise UsageProblem(problem.message) from problem
