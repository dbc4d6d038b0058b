"""Every function of the job specification, by example."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from nomadpy.jobspec import hcl

SPECIFIED = [
    "abs",
    "ceil",
    "floor",
    "signum",
    "pow",
    "log",
    "min",
    "max",
    "parseint",
    "base64encode",
    "base64decode",
    "urlencode",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "bcrypt",
    "rsadecrypt",
    "uuidv4",
    "uuidv5",
    "jsonencode",
    "jsondecode",
    "yamlencode",
    "yamldecode",
    "csvdecode",
    "format",
    "formatlist",
    "formatdate",
    "timeadd",
    "chomp",
    "indent",
    "join",
    "lower",
    "upper",
    "title",
    "trim",
    "trimprefix",
    "trimsuffix",
    "trimspace",
    "replace",
    "split",
    "strlen",
    "strrev",
    "substr",
    "regex_replace",
    "reverse",
    "length",
    "chunklist",
    "coalesce",
    "coalescelist",
    "compact",
    "concat",
    "contains",
    "distinct",
    "element",
    "flatten",
    "slice",
    "sort",
    "range",
    "index",
    "keys",
    "values",
    "lookup",
    "merge",
    "zipmap",
    "setintersection",
    "setunion",
    "setproduct",
    "can",
    "try",
    "convert",
    "cidrhost",
    "cidrnetmask",
    "cidrsubnet",
    "cidrsubnets",
    "abspath",
    "basename",
    "dirname",
    "pathexpand",
    "file",
    "filebase64",
    "fileexists",
    "fileset",
]


def value_of(text: str, *, base_dir: Path | None = None, **names: Any) -> Any:
    surroundings = hcl.Surroundings(base_dir=base_dir, rng=random.Random(1))
    return hcl.evaluate(hcl.parse_expression(text, "e"), hcl.Scope(names, surroundings))


def test_exactly_the_specified_functions_exist() -> None:
    assert hcl.function_names() == set(SPECIFIED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abs(-1.5)", Decimal("1.5")),
        ("ceil(1.2)", 2),
        ("floor(-1.2)", -2),
        ("signum(-3)", -1),
        ("pow(2, 10)", 1024),
        ("pow(4, 0.5)", 2),
        ("log(8, 2)", 3),
        ("min(3, 1, 2)", 1),
        ("max(3, 1, 2)", 3),
        ('parseint("ff", 16)', 255),
        ('parseint("-Z", 62)', -61),
        ('base64encode("héllo")', "aMOpbGxv"),
        ('base64decode("aMOpbGxv")', "héllo"),
        ('urlencode("a b&c/d~")', "a+b%26c%2Fd~"),
        ('md5("hello")', "5d41402abc4b2a76b9719d911017c592"),
        ('sha1("hello")', "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"),
        ('sha256("")', "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ('substr(sha512("hello"), 0, 8)', "9b71d224"),
        ('uuidv5("dns", "tada")', "faa898db-9b9d-5b75-86a9-149e7bb8e3b8"),
        ('jsonencode({b = [1, 1.5, null, true], a = "<é>"})', '{"a":"\\u003cé\\u003e","b":[1,1.5,null,true]}'),
        ('jsondecode("{\\"a\\": [1, 2.5, null]}")', {"a": (1, Decimal("2.5"), None)}),
        ('yamlencode({b = [1, "x"], a = {c = "l1\\nl2\\n"}})', '"a":\n  "c": |\n    l1\n    l2\n"b":\n- 1\n- "x"\n'),
        ("yamlencode([])", "[]\n"),
        ('yamldecode("a: [1, x, 2020-01-01]\\nb: ~\\n")', {"a": (1, "x", "2020-01-01"), "b": None}),
        ('csvdecode("a,b\\n1,2\\n3,\\"x,y\\"\\n")', ({"a": "1", "b": "2"}, {"a": "3", "b": "x,y"})),
        ('format("%s %d %t %v %q", "a", 5, true, [1], "x")', 'a 5 true [1] "x"'),
        ('format("%05d|%-4s|%4s|%+d|%x|%o|%b|%%", 42, "ab", "cd", 3, 255, 8, 5)', "00042|ab  |  cd|+3|ff|10|101|%"),
        ('format("%f %.2f %e %g", 1.5, 3.14159, 12345.678, 0.5)', "1.500000 3.14 1.234568e+04 0.5"),
        ('format("%[2]s %[1]s", "a", "b")', "b a"),
        ('format("%v %#v %v %v", "s", "s", null, 1e21)', 's "s" null 1e+21'),
        ('formatlist("%s-%d", ["a", "b"], 1)', ("a-1", "b-1")),
        ('formatdate("EEEE, DD MMM YYYY hh:mm:ss ZZZ", "2018-01-02T23:12:01Z")', "Tuesday, 02 Jan 2018 23:12:01 UTC"),
        ("formatdate(\"H:mm aa 'o''clock' ZZZZZ\", \"2018-01-02T23:02:01-08:00\")", "11:02 pm o'clock -08:00"),
        ('timeadd("2017-11-22T00:00:00Z", "10m")', "2017-11-22T00:10:00Z"),
        ('timeadd("2017-11-22T00:00:00+02:00", "-1h30m0.5s")', "2017-11-21T22:29:59.5+02:00"),
        ('chomp("a\\r\\n\\n")', "a"),
        ('indent(2, "a\\nb")', "a\n  b"),
        ('join("-", ["a"], ["b", 1])', "a-b-1"),
        ('lower("AÉ")', "aé"),
        ('upper("aé")', "AÉ"),
        ('title("hello wORLD it\'s")', "Hello WORLD It's"),
        ('trim("?!hello?!", "!?")', "hello"),
        ('trimprefix("foobar", "foo")', "bar"),
        ('trimsuffix("foobar", "bar")', "foo"),
        ('trimspace("  a \\n")', "a"),
        ('replace("a.b.c", ".", "-")', "a-b-c"),
        ('split(",", "a,b,")', ("a", "b", "")),
        ('strlen("e\\u0301👍🏽🇩🇪")', 3),
        ('strrev("ae\\u0301")', "e\u0301a"),
        ('reverse("abc")', "cba"),
        ('substr("hello", 1, 3)', "ell"),
        ('substr("hello", -3, -1)', "llo"),
        ('regex_replace("hello world", "(?P<first>o)", "<${first}$1>$$")', "hell<oo>$ w<oo>$rld"),
        ('regex_replace("aaa", "a{2}", "$1x")', "a"),
        ('regex_replace("baac", "a*", "X")', "XbXcX"),
        ('regex_replace("a1 b22", "([[:alpha:]])(\\\\d+)", "$2$1")', "1a 22b"),
        ('regex_replace("xAy", "(?i)a", "-")', "x-y"),
        ('regex_replace("aab", "a+?", "<$0>")', "<a><a>b"),
        ('regex_replace("a.b\\nc", "(?m)^(.)|\\\\.", "[$1]")', "[a][]b\n[c]"),
        ('regex_replace("foo bar", "\\\\b(?<w>\\\\w)", "${w}-")', "f-oo b-ar"),
        (
            'regex_replace("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "(a|aa)+$", "")',
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        ),
        ("length([1, 2])", 2),
        ("length({a = 1})", 1),
        ("chunklist([1, 2, 3], 2)", ((1, 2), (3,))),
        ('coalesce(null, "", "b")', "b"),
        ("coalescelist([], [1])", (1,)),
        ('compact(["a", "", null, "b"])', ("a", "b")),
        ('concat([1], ["a"])', (1, "a")),
        ('contains(["a", "b"], "b")', True),
        ("contains(convert([1], list(number)), 2)", False),
        ("distinct([1, 2, 1])", (1, 2)),
        ("element([1, 2, 3], 4)", 2),
        ("flatten([[1, [2]], 3])", (1, 2, 3)),
        ("slice([1, 2, 3], 1, 2)", (2,)),
        ('sort(["b", "a"])', ("a", "b")),
        ("range(3)", (0, 1, 2)),
        ("range(1, 4)", (1, 2, 3)),
        ("range(3, 0)", (3, 2, 1)),
        ("range(0, 1, 0.5)", (0, Decimal("0.5"))),
        ('index(["a", "b"], 1)', "b"),
        ('index({a = 5}, "a")', 5),
        ("keys({b = 1, a = 2})", ("a", "b")),
        ("values({b = 1, a = 2})", (2, 1)),
        ('lookup({a = 1}, "b", 7)', 7),
        ("merge({a = 1}, null, {a = 2, b = 3})", {"a": 2, "b": 3}),
        ('zipmap(["a", "b"], [1, 2])', {"a": 1, "b": 2}),
        ('setintersection(["a", "b"], ["b", "c"])', ("b",)),
        ('setunion(["a", "b"], ["b", "c"])', ("a", "b", "c")),
        ("setunion([1], [2], [1])", (1, 2)),
        ('setproduct(["a", "b"], [1, 2])', (("a", 1), ("a", 2), ("b", 1), ("b", 2))),
        ("can([][0])", False),
        ("can(1)", True),
        ('try([][0], "x")', "x"),
        ('convert(["1", 2], list(number))', (1, 2)),
        ('cidrhost("10.1.0.0/16", 258)', "10.1.1.2"),
        ('cidrhost("10.0.0.0/8", -1)', "10.255.255.255"),
        ('cidrnetmask("172.16.0.0/12")', "255.240.0.0"),
        ('cidrsubnet("172.16.0.0/12", 4, 2)', "172.18.0.0/16"),
        ('cidrsubnet("fd00:fd12:3456:7890::/56", 16, 162)', "fd00:fd12:3456:7800:a200::/72"),
        (
            'cidrsubnets("10.1.0.0/16", 4, 4, 8, 4)',
            ("10.1.0.0/20", "10.1.16.0/20", "10.1.32.0/24", "10.1.48.0/20"),
        ),
    ],
)
def test_function(text: str, expected: Any) -> None:
    found = value_of(text)
    assert found == expected
    assert isinstance(found, bool) is isinstance(expected, bool)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log(0, 2)", "parameter of log: must be greater than zero"),
        ("min()", "at least one number"),
        ('parseint("xyz", 10)', 'Invalid value for "number" parameter of parseint'),
        ('parseint("1", 99)', "between 2 and 62"),
        ('base64decode("!")', "not valid base64"),
        ('jsondecode("{")', "not valid JSON"),
        ('jsondecode("NaN")', "NaN is not valid JSON"),
        ('jsondecode(format("%s", replace(format("%05000d", 0), "0", "[")))', "nested too deeply"),
        ('yamldecode("a: &x 1\\nb: *x")', "aliases"),
        ('yamldecode("a: !!python/object:os.system {}")', "not valid YAML"),
        ('csvdecode("a,a\\n")', "duplicate column"),
        ('csvdecode("a,b\\n1\\n")', "has 1 fields"),
        ('format("%s")', "not enough arguments"),
        ('format("x", 1)', "too many arguments"),
        ('format("%d", "x")', "a number is required"),
        ('format("%z", 1)', "unsupported format verb"),
        ('formatlist("%s%s", ["a"], ["b", "c"])', "different length"),
        ('formatdate("YYYYY", "2018-01-02T23:12:01Z")', "unsupported format verb"),
        ('formatdate("YYYY", "yesterday")', "not a valid RFC 3339 timestamp"),
        ('timeadd("2017-11-22T00:00:00Z", "10 minutes")', "not a valid duration"),
        ('join("", [null])', "null"),
        ('regex_replace("a", "(", "")', "not a valid regular expression"),
        ('regex_replace("a", "(?=a)", "")', "lookaround"),
        ('regex_replace("a", "\\\\pL", "")', "not supported"),
        ('regex_replace("a", "(a{500}){500}", "")', "too large"),
        ('regex_replace(replace(format("%0300d", 0), "0", format("%0300d", 0)), "0.*=|0", "")', "too many steps"),
        ('length("a")', "use strlen"),
        ("element([], 0)", "empty list"),
        ("slice([1], 0, 5)", "end index"),
        ("range(0, 5, -1)", "step"),
        ('lookup(1, "a", 2)', "a map or object is required"),
        ('zipmap(["a"], [])', "number of keys"),
        ('cidrhost("10.0.0.0/30", 9)', "host bits"),
        ('cidrhost("10.0.0.0", 9)', "invalid CIDR"),
        ('cidrnetmask("fd00::/8")', "IPv6"),
        ('cidrsubnet("10.0.0.0/30", 4, 0)', "insufficient address space"),
        ('cidrsubnets("10.0.0.0/30", 1, 1, 1)', "not enough remaining"),
        ('bcrypt("x", 31)', "cost"),
        ('uuidv5("nope", "x")', "UUID"),
        ('rsadecrypt("aGk=", "nope")', "PEM"),
        ("try()", "At least one argument"),
        ('convert("x", number)', "a number is required"),
        ("regex(1)", 'There is no function named "regex"'),
        ("lenght([])", 'Did you mean "length"?'),
        ('file("x")', "filesystem function disabled"),
    ],
)
def test_function_error(text: str, message: str) -> None:
    with pytest.raises(hcl.HclErrors) as caught:
        value_of(text)
    assert message in str(caught.value)


def test_chance_comes_from_the_surroundings() -> None:
    assert value_of("uuidv4()") == value_of("uuidv4()")
    assert value_of("uuidv4()")[14] == "4"
    hashed = value_of('bcrypt("secret", 4)')
    assert hashed == value_of('bcrypt("secret", 4)')
    import bcrypt

    assert bcrypt.checkpw(b"secret", hashed.encode())
    with pytest.raises(hcl.HclErrors, match="chance is not available"):
        hcl.evaluate(hcl.parse_expression("uuidv4()", "e"), hcl.Scope())


def test_rsadecrypt_undoes_encryption() -> None:
    import base64

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    ).decode()
    message = base64.b64encode(key.public_key().encrypt(b"hello", padding.PKCS1v15())).decode()
    assert value_of("rsadecrypt(m, k)", m=message, k=pem) == "hello"


def test_files_are_read_below_the_base_directory(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("héllo")
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xff")
    for text, expected in {
        'file("a.txt")': "héllo",
        'filebase64("sub/b.txt")': "/w==",
        'fileexists("a.txt")': True,
        'fileexists("no.txt")': False,
        'fileset(".", "*.txt")': ("a.txt",),
        'fileset(".", "**/*.txt")': ("a.txt", "sub/b.txt"),
        'fileset(".", "{sub,x}/?.txt")': ("sub/b.txt",),
        'abspath("sub/../a.txt")': str(tmp_path / "a.txt"),
        'basename("a/b.txt")': "b.txt",
        'dirname("a/b.txt")': "a",
        'pathexpand("a")': "a",
    }.items():
        assert value_of(text, base_dir=tmp_path) == expected
    for text, message in {
        'file("no.txt")': "no file exists",
        'file("sub")': "not a regular file",
        'file("sub/b.txt")': "not valid UTF-8",
        'fileexists("sub")': "not a regular file",
    }.items():
        with pytest.raises(hcl.HclErrors, match=message):
            value_of(text, base_dir=tmp_path)
