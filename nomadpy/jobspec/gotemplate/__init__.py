"""Go's text/template over plain values: parse once, render with the functions that the caller grants.

>>> Template('{{range .}}{{.ID}} {{len .DCs}}{{"\\\\n"}}{{end}}').render([{"ID": "a", "DCs": [1, 2]}])
'a 2\\n'
>>> Template('[[if eq .Status "running"]]up[[else]]down[[end]]', left="[[", right="]]").render({"Status": "dead"})
'down'

Pure: environment, time and files come in through functions (``consul.py``). Every problem is a ``TemplateFailed`` with
the template's line. Steps, text and nesting are bounded, so that a template of a stranger ends.
"""

from nomadpy.jobspec.gotemplate.consul import MissingFile, Surroundings, consul_functions
from nomadpy.jobspec.gotemplate.evaluate import Template
from nomadpy.jobspec.gotemplate.values import TemplateFailed, show

__all__ = ["MissingFile", "Surroundings", "Template", "TemplateFailed", "consul_functions", "show"]
