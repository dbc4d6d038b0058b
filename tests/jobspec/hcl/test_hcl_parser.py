"""Bodies, blocks, positions, and several errors at once."""

from __future__ import annotations

import pytest

from nomadpy.jobspec import hcl


def errors_of(text: str | bytes) -> list[str]:
    with pytest.raises(hcl.HclErrors) as caught:
        hcl.parse(text, "f.hcl")
    return [f"{each.range}: {each.summary}" for each in caught.value.diagnostics]


def test_body_keeps_attributes_and_blocks_in_order() -> None:
    body = hcl.parse('b = 1\na = 2\njob "web" x {\n  task "t" {}\n}\ngroup {\n}\n', "f.hcl")
    assert list(body.attributes) == ["b", "a"]
    assert [(block.type, block.labels) for block in body.blocks] == [("job", ("web", "x")), ("group", ())]
    assert body.blocks[0].body.blocks[0].labels == ("t",)


def test_ranges_count_lines_columns_and_bytes() -> None:
    body = hcl.parse('é = "ü"\njob "x" {\n  count = 12\n}\n', "f.hcl")
    count = body.blocks[0].body.attributes["count"]
    where = count.expression.range
    assert (where.start_line, where.start_column, where.end_line, where.end_column) == (3, 11, 3, 13)
    assert where.start_byte == len('é = "ü"\njob "x" {\n  count = '.encode())
    assert str(count.range) == "f.hcl:3,3-13"
    assert str(body.blocks[0].range) == "f.hcl:2,1-8"
    assert str(body.blocks[0].body.end_range) == "f.hcl:4,1-2"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ufeffa = 1",
        "# c\n// d\n/* e\n f */ a = 1",
        "a = 1\r\nb {\r\n}\r\n",
        "a { b = 1 }",
        "a = [\n1,\n2,\n]",
        "a = {\n x = 1, y : 2\n\n (z) = 3\n 1 = 2\n}",
        "a = f(\n1,\n2...\n)",
        "a = (1 +\n 2)",
        'a "b${"c"}" {}'.replace('${"c"}', "$${c}"),
        "a = <<EOF\nEOF\n",
    ],
)
def test_valid_syntax(text: str) -> None:
    hcl.parse(text, "f.hcl")


def test_every_error_of_a_file_is_reported_once() -> None:
    text = 'a = = 1\nb = 2\nc = )\nd {\n  x = [1, 2\n  y = 3\n}\ne = "abc\nf = @\ng = 1, h = 2\n'
    assert errors_of(text) == [
        "f.hcl:1,5-6: Invalid expression",
        "f.hcl:3,5-6: Invalid expression",
        "f.hcl:6,3-4: Missing item separator",
        "f.hcl:8,5-9: Invalid multi-line string",
        "f.hcl:9,5-6: Invalid character",
        "f.hcl:10,6-7: Unexpected comma after argument",
    ]


@pytest.mark.parametrize(
    ("text", "summary"),
    [
        ("a {", "Unclosed configuration block"),
        ("}", "Argument or block definition required"),
        ("a", "Argument or block definition required"),
        ("a = 1\na = 2", "Attribute redefined"),
        ('"a" = 1', "Invalid argument name"),
        ("a = 1 b = 2", "Missing newline after argument"),
        ("a {} b {}", "Missing newline after block definition"),
        ('a "x${1}" {}', "Invalid string literal"),
        ('a = "${1 2}"', "Extra characters after interpolation expression"),
        ('a = "%{ foo }"', "Invalid template directive"),
        ('a = "%{ if true }"', "Unexpected end of template"),
        ('a = "%{ endfor }"', "Unexpected endfor directive"),
        ('a = "\\q"', "Invalid escape sequence"),
        ('a = "\\ud800"', "Invalid escape sequence"),
        ("a = <<EOF\nx\n", "Unterminated template string"),
        ('a = "x', "Unterminated string"),
        ("a = f(1 2)", "Missing argument separator"),
        ("a = {x.y = 1}", "Ambiguous attribute key"),
        ("a = [for x in y]", "Invalid 'for' expression"),
        ("a = x ? y", "Missing false expression in conditional"),
        ("a = x.", "Invalid attribute name"),
        ("a = 1e999999", "Invalid number"),
        ("/* x", "Unterminated comment"),
        ("a = 'x'", "Invalid character"),
        (b"a = \xff", "Invalid character encoding"),
        ("a = " + "[" * 5000, "Nested too deeply"),
        ("a {" * 5000, "Nested too deeply"),
        ("a = " + "-" * 5000 + "1", "Nested too deeply"),
        ("a = " + '"${' * 5000, "Nested too deeply"),
        ("a = " + "(1 + " * 5000, "Nested too deeply"),
        ("a = 1\n" * 200_000, "File too large"),
    ],
)
def test_error(text: str | bytes, summary: str) -> None:
    assert summary in errors_of(text)[0].partition(": ")[2] or summary in errors_of(text)[0]


def test_long_chains_are_not_deep() -> None:
    body = hcl.parse("a = " + " + ".join(["1"] * 5000) + "\nb = x" + ".y" * 5000, "f.hcl")
    assert hcl.evaluate(body.attributes["a"].expression, hcl.Scope()) == 5000
    assert str(hcl.evaluate(body.attributes["b"].expression, hcl.Scope())).startswith("${x.y.y")


def test_rendering_shows_the_line_with_carets() -> None:
    with pytest.raises(hcl.HclErrors) as caught:
        hcl.parse("job {\n\tcount = )\n}\n", "f.hcl")
    shown = hcl.render(caught.value.diagnostics[0])
    assert shown.splitlines()[1:] == ["  2 | \tcount = )", "    | \t        ^"]
    assert shown.startswith("f.hcl:2,10-11: Invalid expression; ")


def test_rendering_shows_a_suggestion() -> None:
    with pytest.raises(hcl.HclErrors) as caught:
        hcl.evaluate(hcl.parse_expression('uper("a")', "x"), hcl.Scope())
    line = hcl.render_line(caught.value.diagnostics[0])
    expected = 'x:1,1-5: Call to unknown function; There is no function named "uper". Did you mean "upper"?'
    assert line == expected


def test_a_long_line_is_cut_around_the_place() -> None:
    with pytest.raises(hcl.HclErrors) as caught:
        hcl.parse("a = [" + "1, " * 2000 + ")", "f.hcl")
    assert max(map(len, hcl.render(caught.value.diagnostics[0]).splitlines())) < 300
