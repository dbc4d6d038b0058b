"""Go templates: what -t understands and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.cli.failures import UsageProblem
from nomadpy.cli.template import render, show

DATA = {
    "ID": "web",
    "N": 3,
    "Empty": [],
    "Off": False,
    "None": None,
    "Tags": ["a", "b"],
    "Meta": {"y": "2", "x": "1"},
    "Groups": [{"Name": "one", "Count": 1}, {"Name": "two", "Count": 2}],
}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{.ID}}", "web"),
        ("{{ .Meta.x }}", "1"),
        ("{{ $.ID }}", "web"),
        ("{{.}}", None),
        (
            "{{.Tags}} {{.Meta}} {{.None}} {{.Off}} {{.Nope}} {{.Nope.More}}",
            "[a b] map[x:1 y:2] <nil> false <no value> <no value>",
        ),
        ("{{range .Tags}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $t := .Tags}}{{$i}}={{$t}},{{end}}", "0=a,1=b,"),
        ("{{range $k, $v := .Meta}}{{$k}}{{$v}}{{end}}", "x1y2"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ('{{range .Groups}}{{if eq .Name "two"}}{{break}}{{end}}{{.Name}}{{end}}', "one"),
        ('{{range .Groups}}{{if eq .Name "one"}}{{continue}}{{end}}{{.Name}}{{end}}', "two"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{if .Empty}}a{{else if .Off}}b{{else}}c{{end}}", "c"),
        ("{{if and .ID .Tags}}y{{end}}{{if or .Off .None}}n{{end}}", "y"),
        ("{{with .Meta}}{{.x}}{{end}}{{with .None}}x{{else}}no{{end}}", "1no"),
        ("{{with $m := index .Groups 1}}{{$m.Count}}{{end}}", "2"),
        ('{{index .Meta "x"}} {{index .Tags 1}} {{(index .Groups 0).Name}}', "1 b one"),
        ('{{printf "%-5s|%3d|%v|%q|%t|%%" .ID .N .Tags "a" true}}', 'web  |  3|[a b]|"a"|true|%'),
        ("{{len .Tags}} {{.Tags | len}} {{len .ID}}", "2 2 3"),
        ('{{.ID | printf "%s-%s" "a"}}', "a-web"),
        ("{{ne .N 4}} {{lt .N 4}} {{ge .N 4}} {{not .Off}} {{eq .N 1 3}}", "true true false true true"),
        ("{{$x := 1}}{{range .Tags}}{{$x = .}}{{end}}{{$x}}", "b"),
        ("a {{- .ID -}} b", "awebb"),
        ("{{/* note */}}x", "x"),
        ('{{print "a" 1 2 "b"}}', "a1 2b"),
        ('{{"tab\\t"}}{{`raw\\t`}}', "tab\traw\\t"),
        ("{{slice .ID 1 2}}", "e"),
        ('{{define "x"}}<{{.}}>{{end}}{{template "x" .ID}}', "<web>"),
        ("{{json .Tags}}", '["a", "b"]'),
    ],
)
def test_what_is_understood(source: str, expected: str | None) -> None:
    assert render(source, DATA) == (show(DATA) if expected is None else expected)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{.ID", "never closed"),
        ("{{range .Tags}}", "never closed by {{end}}"),
        ("{{end}}", "belongs to nothing"),
        ("{{upper .ID}}", "there is no function upper"),
        ('{{template "x"}}', 'there is no template "x"'),
        ("{{$y}}", "$y is not defined"),
        ("{{.ID.Name}}", "was asked of a text"),
        ("{{range .ID}}{{end}}", "range wants a list"),
        ("{{index .Tags 9}}", "out of range"),
        ("{{}}", "a value is missing"),
        ("{{len (.Tags}}", "never closed"),
        ("{{.ID .N}}", "is not a function"),
        ("{{lt .ID .N}}", "lt cannot be used so"),
        ("{{.ID ~ 1}}", "cannot read"),
    ],
)
def test_what_is_refused(source: str, said: str) -> None:
    with pytest.raises(UsageProblem) as caught:
        render(source, DATA)
    assert said in str(caught.value)


@given(st.text(alphabet='ab{}.$|()"`-= \n/*', max_size=40))
def test_any_text_is_rendered_or_refused(source: str) -> None:
    try:
        assert isinstance(render(source, DATA), str)
    except UsageProblem:
        pass


@given(st.text(alphabet=st.characters(exclude_characters="{"), max_size=50))
def test_text_without_actions_stays_as_it_is(source: str) -> None:
    assert render(source, None) == source
