"""The language of templates: actions, blocks, delimiters, bounds, and where a problem is."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nomadpy.jobspec.gotemplate import Surroundings, Template, TemplateFailed, consul_functions, show
from nomadpy.jobspec.gotemplate.values import MAX_TEXT, to_bytes, to_text

DATA: dict[str, Any] = {"ID": "web", "N": 3, "Tags": ["a", "b"], "Meta": {"y": "2", "x": "1"}, "Empty": []}
FUNCTIONS = consul_functions(Surroundings(env={"A": "1"}, now_ns=0, read_file=lambda path: path.encode()))


def render(source: str, value: Any = DATA, **more: Any) -> str:
    return Template(source, **more).render(value, FUNCTIONS)


@pytest.mark.parametrize("name", ["", ".values", ".gotime", ".encodings"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"nomadpy.jobspec.gotemplate{name}"))
    assert (result.attempted > 0, result.failed) == (True, 0)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('{{ "}}" }}{{`{{`}}', "}}{{"),
        ("a\n {{- .ID -}} \n b", "awebb"),
        ("a {{-/* x */-}} b{{/* y\n */}}c", None),
        ("a {{- /* x */ -}} b{{/* y\n */}}c", "abc"),
        ("{{ .ID\n | len }}", "3"),
        ("{{if .Empty}}a{{else if eq .N 3}}b{{else}}c{{end}}", "b"),
        ("{{with .Nope}}a{{else with .ID}}{{.}}{{end}}", "web"),
        ("{{range $i, $t := .Tags}}{{if $i}},{{end}}{{$t}}{{end}}", "a,b"),
        ("{{range .Tags}}{{range $.Tags}}{{break}}{{end}}{{.}}{{end}}", "ab"),
        ('{{block "b" .ID}}[{{.}}]{{end}}{{template "b" 7}}', "[web][7]"),
        ('{{define "t"}}{{$.ID}}{{end}}{{template "t" .}}', "web"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{ 0x1F }} {{ 1_000 }} {{ 'a' }} {{ -2 }} {{ 1.50 }} {{ 010 }}", "31 1000 97 -2 1.5 10"),
        ('{{ "\\u00e9\\xc3\\xa9\\101" }}', "ééA"),
        ('{{ index .Meta "x" | printf "%s%s" "<" }}', "<1"),
        ("{{ (slice .Tags 1) }} {{ slice .ID 1 }}", "[b] eb"),
        ('{{ and 1 0 (index .Tags 9) }}{{ or "" .ID (index .Tags 9) }}', "0web"),
        (
            '{{printf "%05d|%x|%.2f|%q|%5s|%-5s|%t|%c|%T" 42 255 1.5 "a" "b" "c" true 65 .ID}}',
            '00042|ff|1.50|"a"|    b|c    |true|A|string',
        ),
        ('{{html "<a>"}} {{urlquery "a b&"}} {{js "a\'b"}}', "&lt;a&gt; a+b%26 a\\'b"),
        ("{{println 1 2}}", "1 2\n"),
        ("{{.N.}}", None),
    ],
)
def test_the_language(source: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(TemplateFailed):
            render(source)
    else:
        assert render(source) == expected


def test_other_delimiters() -> None:
    assert render("[[ .ID ]] {{ .ID }} <[[- .N ]]", left="[[", right="]]") == "web {{ .ID }} <3"


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("a\n\n{{ nope }}", 3, "there is no function nope"),
        ("{{ toLowr .ID }}", 1, "did you mean toLower?"),
        ("\n{{ if .ID }}\nx", 2, "never closed by {{end}}"),
        ("a\n{{end}}", 2, "belongs to nothing"),
        ("{{ .ID", 1, "never closed"),
        ('{{ "a\n" }}', 1, "a quotation is never closed"),
        ("{{range .Tags}}\n{{else}}\n{{else}}{{end}}", 3, "does not belong to"),
        ("\n{{break}}", 2, "outside of a range"),
        ('{{if .ID}}{{define "x"}}{{end}}{{end}}', 1, "outside of blocks"),
        ("{{ $a, $b := .ID }}", 1, "stands where it cannot"),
        ("{{$x}}", 1, "$x is not defined"),
        ("\n{{ index .Tags 5 }}", 2, "out of range"),
        ("{{ lt .ID 3 }}", 1, "have no order"),
        ("{{ .ID.x }}", 1, "was asked of a text"),
        ("{{ 99999999999999999999 }}", 1, "64 bits"),
        ('{{ "\\q" }}', 1, "unknown escape"),
        ("{{ .ID .N }}", 1, "is not a function"),
        ("{{ (.ID }}", 1, "never closed"),
        ("{{/* x }}", 1, "never closed by */"),
    ],
)
def test_problems_have_a_line(source: str, line: int, said: str) -> None:
    with pytest.raises(TemplateFailed) as caught:
        Template(source, name="x.tpl").render(DATA, FUNCTIONS)
    assert said in caught.value.message
    assert (caught.value.line, caught.value.message.startswith(f"x.tpl:{line}: ")) == (line, True)


def test_a_missing_key_prints_no_value_or_fails_when_asked() -> None:
    assert render("{{ .Nope }} {{ .Nope.More }}") == "<no value> <no value>"
    with pytest.raises(TemplateFailed, match='no key "Nope"; there are ID, N'):
        Template("{{ .Nope }}").render(DATA, missing_is_error=True)


@pytest.mark.parametrize(
    "source",
    [
        "{{range loop 9000}}{{range loop 9000}}{{end}}{{end}}",
        '{{$x := "aaaaaaaaaaaaaaaa"}}{{range loop 99}}{{$x = print $x $x}}{{end}}',
        '{{define "a"}}{{template "a"}}{{end}}{{template "a"}}',
        "{{if 1}}" * 500 + "{{end}}" * 500,
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        '{{printf "%99999999d" 1}}',
        '{{replaceAll "a" (sprig_repeat 5000 "b") (sprig_repeat 5000 "a")}}',
        '{{parseJSON (print (sprig_repeat 100000 "[") )}}',
        "{{$x := sprig_list 1}}{{range loop 99}}{{$x = sprig_list $x $x $x}}{{end}}{{toJSON $x}}",
        '{{scratch.MapSet "a" "b" 1}}{{scratch.MapSet "a" "c" (scratch.Get "a")}}{{toJSON (scratch.Get "a")}}',
        "{{$x := 3}}{{range loop 99}}{{$x = multiply $x $x}}{{end}}",
        '{{parseYAML "a: &a [*a]"}}',
    ],
)
def test_every_template_ends(source: str) -> None:
    with pytest.raises(TemplateFailed):
        render(source)


def test_a_source_may_not_be_too_large() -> None:
    with pytest.raises(TemplateFailed, match="larger than 8 MiB"):
        Template("x" * (MAX_TEXT + 1))


PARTS = st.sampled_from(
    [
        "{{",
        "}}",
        "{{-",
        "-}}",
        " ",
        "\n",
        "if ",
        "else",
        "end",
        "range ",
        "with ",
        "define ",
        "template ",
        "block ",
        '"a"',
    ]
    + [
        "$x",
        ":=",
        "=",
        "|",
        "(",
        ")",
        ".",
        ".a",
        "$.a",
        "1",
        "-1",
        "'a'",
        "`b`",
        "/*",
        "*/",
        "break",
        ",",
        "index ",
        "é",
    ]
    + [f"{name} " for name in sorted(FUNCTIONS)]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PARTS, max_size=12).map("".join), VALUES)
@example("{{define``}}", None)
@example("{{.é}}", {})
def test_any_text_is_rendered_or_refused(source: str, value: Any) -> None:
    try:
        assert isinstance(render(source, value), str)
    except TemplateFailed:
        pass


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(FUNCTIONS)), st.lists(VALUES, max_size=4))
def test_any_function_takes_or_refuses_any_values(name: str, values: list[Any]) -> None:
    source = "{{ " + name + " " + " ".join(f"(index . {number})" for number in range(len(values))) + " }}"
    try:
        assert isinstance(render(source, values), str)
    except TemplateFailed:
        pass


@given(st.binary(max_size=30))
def test_bytes_that_are_no_text_pass_unharmed(data: bytes) -> None:
    assert to_bytes(render("{{.}}", to_text(data))) == data


@given(VALUES)
def test_every_value_can_be_shown(value: Any) -> None:
    assert isinstance(show(value), str)
