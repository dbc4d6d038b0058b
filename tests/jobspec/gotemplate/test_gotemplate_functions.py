"""The functions of template blocks: results, orders of arguments, and those that are refused by name."""

from __future__ import annotations

import pytest

from nomadpy.jobspec.gotemplate import MissingFile, Surroundings, Template, TemplateFailed, consul_functions
from nomadpy.model.time import SECOND


def read_file(path: str) -> bytes:
    if path != "local/a":
        raise MissingFile(f"file({path})")
    return b"from a file\n"


AROUND = Surroundings(
    env={"NAME": "web", "EMPTY": ""},
    now_ns=1_700_000_000 * SECOND,
    read_file=read_file,
    denied=frozenset({"md5sum"}),
)


def render(source: str) -> str:
    return Template(source).render(None, consul_functions(AROUND))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('env "NAME"', "web"),
        ('env "NOPE"', ""),
        ('envOrDefault "EMPTY" "d"', "d"),
        ('mustEnv "NAME"', "web"),
        ('file "local/a" | trimSpace', "from a file"),
        ("timestamp", "2023-11-14T22:13:20Z"),
        ('timestamp "unix"', "1700000000"),
        ('timestamp "Jan 2, 2006 at 3:04pm (MST)"', "Nov 14, 2023 at 10:13pm (UTC)"),
        ('base64Encode "a?>" | base64Decode', "a?>"),
        ('base64URLEncode "a?>?" | base64URLDecode', "a?>?"),
        ('"a,b,c" | split "," | join ";"', "a;b;c"),
        ('split "," "" | len', "0"),
        ('contains "b" (split "," "a,b")', "true"),
        ('in (split "," "a,b") "c"', "false"),
        ('in "abc" "b"', "true"),
        ('containsAll (split "," "a,b") (split "," "a,b,c")', "true"),
        ('regexMatch "^w.b$" "web"', "true"),
        ('"foo123bar" | regexReplaceAll "([a-z]+)([0-9]+)" "$2-${1}"', "123-foobar"),
        ('"a.b.c" | replaceAll "." "_"', "a_b_c"),
        ('toUpper "a" | printf "%s%s" (toLower "B")', "bA"),
        ('toTitle "hello world"', "Hello World"),
        ('trimPrefix "a" "ab" | trimSuffix "b" | len', "0"),
        ('"  x " | trimSpace | trim "x" | len', "0"),
        ("add 1 2 | multiply 4 | subtract 2 | divide 3 | modulo 2", "1"),
        ("minimum 1 2 | maximum 0", "1"),
        ("divide 2 7", "3"),
        ("divide 2 -7", "-3"),
        ("divide 2.0 7", "3.5"),
        ('parseInt "-5" | add 1', "-4"),
        ('parseUint "5"', "5"),
        ('parseFloat "1.5" | add 1', "2.5"),
        ('parseBool "t"', "true"),
        ('(parseJSON `{"a":{"b":[1,2.5]}}`).a.b', "[1 2.5]"),
        ('(parseYAML "a: {b: [1, x]}").a.b', "[1 x]"),
        ('parseJSON `{"b":1,"a":"<"}` | toJSON', '{"a":"\\u003c","b":1}'),
        ('parseJSON `{"b":1}` | toJSONPretty', '{\n  "b": 1\n}'),
        ('parseJSON `{"b":1,"a":[true]}` | toYAML', "a:\n- true\nb: 1"),
        ('parseJSON `{"b":1,"t":{"x":"y"}}` | toTOML', 'b = 1\n\n[t]\nx = "y"'),
        ('sha256Hex "a"', "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"),
        ('hmacSHA256Hex "a" "k" | len', "64"),
        ('indent 2 "a\nb"'.replace("\n", "\\n"), "  a\n  b"),
        ('(splitToMap "," "=" "a=1,b=2").b', "2"),
        ('explodeMap (parseJSON `{"a/b":1,"a/c":2}`) | toJSON', '{"a":{"b":1,"c":2}}'),
        ('mergeMap (parseJSON `{"a":1}`) (parseJSON `{"a":2,"b":3}`) | toJSON', '{"a":2,"b":3}'),
        ('sprig_default "d" ""', "d"),
        ('sprig_dict "a" 1 "b" 2 | toJSON', '{"a":1,"b":2}'),
        ('sprig_list 1 2 | sprig_join "-"', "1-2"),
        ('sprig_nindent 2 "x"', "\n  x"),
        ('sprig_ternary "y" "n" true', "y"),
    ],
)
def test_results(source: str, expected: str) -> None:
    assert render("{{ " + source + " }}") == expected


def test_a_notebook_lasts_for_one_rendering() -> None:
    source = '{{ scratch.MapSet "m" "b" 2 }}{{ scratch.MapSetX "m" "b" 3 }}{{ scratch.MapSet "m" "a" 1 }}'
    assert render(source + '{{ scratch.MapValues "m" }}{{ scratch.Key "m" }}') == "[1 2]true"
    assert render('{{ scratch.Key "m" }}') == "false"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ('nomadVar "nomad/jobs"', "nomadVar cannot be used: Variables"),
        ('nomadService "x"', "nomadService cannot be used: services"),
        ('key "a"', "key cannot be used: there is no connection to Consul"),
        ('secret "a"', "secret cannot be used: there is no connection to Vault"),
        ('plugin "sh"', "plugin cannot be used: it is not supported"),
        ('md5sum "a"', "md5sum cannot be used: it is denied"),
        ('mustEnv "NOPE"', "NOPE is not set"),
        ("divide 0 1", "division by zero"),
        ('parseInt "x"', "not a whole number"),
        ('parseJSON "{"', "parseJSON cannot be used so"),
        ('base64Decode "%"', "not base64"),
        ('regexMatch "(" "a"', "missing )"),
        ("join", "join cannot be used so"),
        ("loop 99999999", "rounds are refused"),
    ],
)
def test_refusals(source: str, said: str) -> None:
    with pytest.raises(TemplateFailed) as caught:
        render("{{ " + source + " }}")
    assert said in caught.value.message


def test_a_file_that_is_not_there_has_an_error_of_its_own() -> None:
    with pytest.raises(MissingFile, match=r"file\(local/b\)"):
        render('{{ file "local/b" }}')
