"""Whatever the text, only HclErrors comes out; formatting is stable and keeps the meaning."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nomadpy.jobspec import hcl
from nomadpy.jobspec.hcl import lexer

FRAGMENTS = [
    "\n{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "=",
    "==",
    "!=",
    "<=",
    ">=",
    "&&",
    "||",
    "!",
    "?",
    ":",
    ",",
    ".",
    "...",
    "=>",
    "+",
    "-",
    "*",
    "/",
    "%",
    '"',
    "${",
    "%{",
    "~}",
    "$${",
    "%%{",
    "}",
    "for",
    "in",
    "if",
    "else",
    "endif",
    "endfor\na",
    "b",
    "local",
    "var.x",
    "node.class",
    "true",
    "null",
    "0",
    "1.5",
    "1e9",
    '"s"',
    '"a${b}c"',
    "<<EOF",
    "EOF",
    "<<-E",
    "#",
    "//",
    "/*",
    "*/",
    "\\n",
    "\\q",
    "\\",
    "~",
    "@",
    "'",
    ";\njob",
    '"x"',
    "{",
    "group",
    "dynamic",
    '"g"',
    "for_each",
    "=",
    "[",
    "content",
    "upper(",
    "range(9)",
    "[*]",
    ".*",
    ".0",
    '"%{if',
    'true}y%{endif}"',
    "x=1",
    "y={a=1}\njsonencode(",
    'format("%s%d",',
    "try(",
    'regex_replace("aab","a*","$1")',
    "é",
    "\u200d",
    "\x00\n",
]
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, "\n", "\n", "\r\n", "\t"]), max_size=40).map(" ".join) | st.lists(
    st.sampled_from([*FRAGMENTS, "\n", "\n"]), max_size=25
).map("".join)


def try_everything(text: str | bytes) -> None:
    body = hcl.shape(hcl.parse_any(text, "f"), {"job": 1, "group": 1, "dynamic": 1})
    surroundings = hcl.Surroundings(rng=random.Random(0))
    scope = hcl.resolve(body, hcl.VariableSources(flags=["x=1"], strict=False), surroundings).scope
    hcl.expand_dynamic(body, scope, lambda _: True)
    for attribute in body.attributes.values():
        hcl.to_python(hcl.evaluate(attribute.expression, scope))


def only_hcl_errors(text: str | bytes) -> None:
    try:
        try_everything(text)
    except hcl.HclErrors as wrong:
        for each in wrong.diagnostics:
            assert each.summary in hcl.render(each)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_fragments_raise_only_hcl_errors(text: str) -> None:
    only_hcl_errors(text)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_expressions_raise_only_hcl_errors(text: str) -> None:
    only_hcl_errors(f"a = {text}\nb = 1\n")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_bytes_raise_only_hcl_errors(data: bytes) -> None:
    only_hcl_errors(data)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='{}[]:,"\\truefalsn0123456789.e- $%\n', max_size=60))
def test_json_raises_only_hcl_errors(text: str) -> None:
    only_hcl_errors("{" + text)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(sorted(hcl.function_names() - {"bcrypt"})),
    st.lists(
        st.sampled_from(
            [
                '""',
                '"a"',
                '"10.0.0.0/8"',
                "0",
                "-1",
                "3",
                "1.5",
                "1e300",
                "null",
                "true",
                "[]",
                '["a", "b"]',
                "[1, [2]]",
            ]
            + ["{}", "{a = 1}", '"%s %d"', '"2020-01-01T00:00:00Z"', "range(5)", "string", "node.class", "[null]"]
        ),
        max_size=4,
    ),
)
def test_functions_raise_only_hcl_errors(name: str, arguments: list[str]) -> None:
    only_hcl_errors(f"a = {name}({', '.join(arguments)})")


def meaning(text: str) -> list[tuple[str, str]]:
    """The tokens without layout: what formatting must keep."""
    source = lexer.read_source(text, "f")
    tokens, _ = lexer.tokenize(source)
    found: list[tuple[str, str]] = []
    for token in tokens:
        word = "" if token.kind == lexer.NEWLINE else source.text[token.start : token.end].rstrip()
        if token.kind == lexer.NUMBER and "." in word and found and found[-1][0] == ".":
            # `a.0.1` and `a.0 .1` are the same two indexes, although the first has fewer tokens.
            first, _, second = word.partition(".")
            found += [(lexer.NUMBER, first), (".", "."), (lexer.NUMBER, second)]
        else:
            found.append((token.kind, word))
    return found


def check_format(text: str) -> None:
    try:
        hcl.parse(text, "f")
    except hcl.HclErrors:
        return
    formatted = hcl.format(text)
    assert meaning(formatted) == meaning(text)
    assert hcl.format(formatted) == formatted


EXPRESSIONS: st.SearchStrategy[str] = st.recursive(
    st.sampled_from(["1", "a", "-1", "true", '"s"', '"a${ b }c"', "a.b", "a[0]", "x.*.y", "z[*]", "null", "1.5"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", " - ", "*", "&&", "==", "<", "%"]), inner).map("".join),
        inner.map(lambda each: f"-{each}"),
        inner.map(lambda each: f"!{each}"),
        st.tuples(inner, inner, inner).map(lambda each: f"{each[0]} ?{each[1]}:{each[2]}"),
        st.lists(inner, max_size=3).map(lambda items: "[" + ",\n".join(items) + "]"),
        st.lists(inner, max_size=3).map(lambda items: "f(" + ",".join(items) + ")"),
        st.lists(inner, max_size=3).map(lambda items: "{" + "\n".join(f"k={each}" for each in items) + "\n}"),
        inner.map(lambda each: f"[for x in {each}:x]"),
        inner.map(lambda each: f"{{for k,v in ({each}):k=>v...if v}}"),
        inner.map(lambda each: f"( {each} )"),
    ),
    max_leaves=8,
)


@st.composite
def bodies(draw: st.DrawFn, depth: int = 2) -> str:
    lines: list[str] = []
    for number in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["attribute", "attribute", "block", "comment", "blank", "heredoc", "trailing"]))
        if kind == "attribute":
            lines.append(f"a{number}{draw(st.sampled_from(['=', '  = ', '= ']))}{draw(EXPRESSIONS)}")
        elif kind == "trailing":
            lines.append(f"  b{number} =1{draw(st.sampled_from(['#c', '   // d  ', ' /* e */']))}")
        elif kind == "heredoc":
            lines.append(f"h{number}=<<-EOF\n   x ${{ y }}\n\n  z\n  EOF")
        elif kind == "block" and depth:
            inner: Any = draw(bodies(depth=depth - 1))
            lines.append(f'b "l" {{\n{inner}\n}}' if inner else "b{}")
        else:
            lines.append({"comment": "   # note  ", "blank": "   "}.get(kind, "/* m\n n */"))
    return "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(bodies())
def test_format_is_stable_and_keeps_tokens(text: str) -> None:
    check_format(text)


@settings(max_examples=150, deadline=None)
@given(TEXTS)
def test_format_of_fragments(text: str) -> None:
    check_format(text)


def test_ten_megabytes_are_refused_or_read() -> None:
    only_hcl_errors("a = <<EOF\n" + "x" * 10_000_000 + "\nEOF\n")
    only_hcl_errors("[" * 10_000_000)
    only_hcl_errors('{"a": "' + "x" * 10_000_000 + '"}')
