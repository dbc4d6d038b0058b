"""The flags that many commands share, so that they are spelled and explained the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

AsJSON = Annotated[bool, typer.Option("-json", help="Print the answer of the API as JSON.")]
Template = Annotated[
    str | None, typer.Option("-t", help="Print the answer through a Go template.", metavar="<template>")
]
Verbose = Annotated[bool, typer.Option("-verbose", help="Show full ids, dates and more detail.")]
Detach = Annotated[bool, typer.Option("-detach", help="Return at once, do not follow what happens.")]
Yes = Annotated[bool, typer.Option("-yes", help="Answer every question with yes.")]
Variables = Annotated[
    list[str] | None, typer.Option("-var", help="Set a variable of the job file; repeatable.", metavar="<name=value>")
]
VariableFiles = Annotated[
    list[str] | None, typer.Option("-var-file", help="Read variables from a file; repeatable.", metavar="<path>")
]
Strict = Annotated[
    bool,
    typer.Option(
        "-hcl2-strict/-no-hcl2-strict", help="Refuse variables that the job file does not declare (the default)."
    ),
]
JobJSON = Annotated[bool, typer.Option("-json", help="The file is JSON as the API takes it.")]
Without = Annotated[
    list[str] | None,
    typer.Option("-without", help="Count capacity as if this node had left; repeatable.", metavar="<node>"),
]
With = Annotated[
    list[str] | None,
    typer.Option(
        "-with",
        help="Count capacity with further nodes, such as 4000,8192x3: MHz, MB and how many; repeatable.",
        metavar="<cpu,memxN>",
    ),
]
