"""The HCL2 language: text to syntax tree, expressions to values, diagnostics, and a formatter.

It knows nothing of jobs. A decoder uses it like this::

    body = hcl.parse_any(text, "web.nomad.hcl")         # raises HclErrors with every syntax error
    sources = hcl.VariableSources(environment=..., files=[(name, text)], flags=["a=b"], strict=True)
    resolved = hcl.resolve(body, sources, hcl.Surroundings(base_dir=path, rng=random.Random()))
    scope = resolved.scope                               # knows `var` and `local`; base_dir None: no files
    top = hcl.shape(body, {"job": 1})                    # a no-op for native syntax
    for each in hcl.expand_dynamic(top.blocks[0].body, scope, allowed.__contains__, labels_by_type):
        each.block, each.scope                           # an ordinary block, and where to evaluate its body
    value = hcl.evaluate(attribute.expression, scope)    # raises HclErrors with one diagnostic

Values are plain Python: None, bool, int, Decimal (only when not whole), str, tuple, dict. HclList and HclSet
are tuples, HclMap is a dict. ``to_python(value)`` gives JSON terms (lists, floats).

Why there is a parser here although python-hcl2 8.1 exists: its first parse in a process took 1570 ms and later
ones 37 ms for a job file of 275 lines (here 2.4 ms each time); it stops at the first error, raises
RecursionError at 3000 brackets, and takes 3.9 s for 120 KB.
"""

from nomadpy.jobspec.hcl.diagnostics import (
    Diagnostic,
    HclErrors,
    Source,
    SourceRange,
    error,
    render,
    render_line,
    span,
    suggest,
    warning,
)
from nomadpy.jobspec.hcl.dynamic import ScopedBlock, expand_dynamic
from nomadpy.jobspec.hcl.evaluate import evaluate, function_names
from nomadpy.jobspec.hcl.formatter import format
from nomadpy.jobspec.hcl.json_syntax import is_json, parse_any, parse_json, shape
from nomadpy.jobspec.hcl.parser import parse, parse_expression
from nomadpy.jobspec.hcl.scope import Budget, Scope, Surroundings, constant_scope
from nomadpy.jobspec.hcl.syntax import Attribute, Block, Body, Expression, Literal
from nomadpy.jobspec.hcl.types import (
    ANY,
    BOOL,
    NUMBER,
    STRING,
    ConversionError,
    Type,
    convert,
    kind_of,
    list_of,
    map_of,
    parse_type,
    set_of,
    type_of,
)
from nomadpy.jobspec.hcl.values import HclList, HclMap, HclSet, Value, elements, equal, number_text, to_python
from nomadpy.jobspec.hcl.variable_blocks import Validation, Variable
from nomadpy.jobspec.hcl.variables import Assignment, Resolved, VariableSources, resolve

__all__ = [
    "ANY",
    "BOOL",
    "NUMBER",
    "STRING",
    "Assignment",
    "Attribute",
    "Block",
    "Body",
    "Budget",
    "ConversionError",
    "Diagnostic",
    "Expression",
    "HclErrors",
    "HclList",
    "HclMap",
    "HclSet",
    "Literal",
    "Resolved",
    "Scope",
    "ScopedBlock",
    "Source",
    "SourceRange",
    "Surroundings",
    "Type",
    "Validation",
    "Value",
    "Variable",
    "VariableSources",
    "constant_scope",
    "convert",
    "elements",
    "equal",
    "error",
    "evaluate",
    "expand_dynamic",
    "format",
    "function_names",
    "is_json",
    "kind_of",
    "list_of",
    "map_of",
    "number_text",
    "parse",
    "parse_any",
    "parse_expression",
    "parse_json",
    "parse_type",
    "render",
    "render_line",
    "resolve",
    "set_of",
    "shape",
    "span",
    "suggest",
    "to_python",
    "type_of",
    "warning",
]
