"""Job files in YAML: the same meaning as HCL, safe to read, with the place of every mistake."""

from __future__ import annotations

from typing import Any

import pytest

from nomadpy.jobspec import parse_text
from nomadpy.jobspec.hcl import to_python
from nomadpy.jobspec.hcl.evaluate import evaluate
from nomadpy.jobspec.hcl.scope import Scope
from nomadpy.model.errors import Invalid


def parsed(text: str, **options: Any) -> dict[str, Any]:
    return parse_text(text, filename="t.yaml", **options)


def complaint(text: str | bytes) -> str:
    with pytest.raises(Invalid) as caught:
        parse_text(text, filename="t.yaml")
    return caught.value.message


def meta(text: str) -> dict[str, Any]:
    return dict(parsed(f"job:\n  j:\n    meta:\n{text}")["Meta"])


def test_same_as_hcl() -> None:
    hcl = """
    job "j" {
      type = "batch"
      constraint {
        attribute = "${attr.kernel.name}"
        value     = "linux"
      }
      constraint { distinct_hosts = true }
      group "g" {
        network {
          port "a" {}
          port "b" { static = 80 }
        }
        restart { delay = "5s" }
        task "t" {
          driver = "docker"
          config {
            image = "i"
            args  = ["-c", "x y"]
            mount { type = "tmpfs" }
            mount { type = "bind" }
          }
          env { A = "${NOMAD_PORT_a}" }
        }
        task "u" {}
      }
    }"""
    yaml = """
    job:
      j:
        type: batch
        constraint:
          - attribute: ${attr.kernel.name}
            value: linux
          - distinct_hosts: true
        group:
          g:
            network:
              port:
                a:
                b: {static: 80}
            restart: {delay: 5s}
            task:
              t:
                driver: docker
                config:
                  image: i
                  args: [-c, x y]
                  mount:
                    - type: tmpfs
                    - type: bind
                env:
                  A: ${NOMAD_PORT_a}
              u:
    """
    assert parsed(yaml) == parse_text(hcl)


def test_variables_locals_and_expressions() -> None:
    text = """
    variable:
      count:
        type: number
        default: 2
        validation:
          condition: ${var.count > 0}
          error_message: There must be some.
      names:
        type: list(string)
    variables:
      team: ops
    locals:
      title: ${upper(var.team)}-${var.count}
    job:
      j:
        name: ${local.title}
        meta: {both: "${join(\\"+\\", var.names)}"}
        group:
          g:
            count: ${var.count * 2}
            dynamic:
              task:
                for_each: ${var.names}
                labels: ["t-${task.value}"]
                content:
                  driver: exec
    """
    raw = parsed(text, var_flags=['names=["a","b"]'])
    assert (raw["Name"], raw["Meta"]) == ("OPS-2", {"both": "a+b"})
    assert raw["TaskGroups"] == [
        {"Name": "g", "Count": 4, "Tasks": [{"Name": "t-a", "Driver": "exec"}, {"Name": "t-b", "Driver": "exec"}]}
    ]
    with pytest.raises(Invalid, match="There must be some"):
        parsed(text, var_flags=["names=[]", "count=0"])


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("0644", "0644"),
        ("1e3", "1000"),
        ("-1.50", "-1.5"),
        ("0x1F", "0x1F"),
        ("1:30", "1:30"),
        ("2024-01-02", "2024-01-02"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", "true"),
        ("'true'", "true"),
        ("!!str 5", "5"),
        ('"a\\tb"', "a\tb"),
        ("|-\n        x\n        y", "x\ny"),
        (">-\n        x\n        y", "x y"),
        ("${node.class}", "${node.class}"),
        ("$${x}", "${x}"),
        ("{{ env }}", None),
    ],
)
def test_scalars(written: str, value: str | None) -> None:
    if value is None:
        assert "A key must be a text" in complaint(f"job: {{j: {{meta: {{a: {written}}}}}}}")
    else:
        assert meta(f"      a: {written}") == {"a": value}


def test_keys_are_what_is_written() -> None:
    assert meta("      1: a\n      true: b\n      a.b: c") == {"1": "a", "true": "b", "a.b": "c"}


def test_nothing_means_not_said() -> None:
    assert parsed("job:\n  j:\n    name: ~\n    region: null") == {"ID": "j", "Name": "j"}


def test_an_empty_block_is_a_block() -> None:
    raw = parsed("job:\n  j:\n    group:\n      g:\n        ephemeral_disk:\n        task:\n          t:")
    assert raw["TaskGroups"] == [{"Name": "g", "EphemeralDisk": {}, "Tasks": [{"Name": "t"}]}]


def test_anchors_and_merging() -> None:
    text = """
    job:
      j:
        group:
          a: &base {count: 2, meta: {x: y}}
          b: *base
          c: {<<: *base, count: 3}
    """
    a, b, c = parsed(text)["TaskGroups"]
    assert (a["Count"], b["Count"], c["Count"], c["Meta"]) == (2, 2, 3, {"x": "y"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b: c", "t.yaml:1,5-6: Invalid YAML; Mapping values are not allowed in this context."),
        ("job:\n  j:\n   - x\n  k: [", "t.yaml:4,"),
        ("- 1", "t.yaml:1,1-4: Invalid YAML; A job file is a mapping that begins with"),
        ("", "Invalid YAML; A job file is a mapping"),
        ("job: {j: {}}\n---\njob: {}", "t.yaml:2,1-4: Invalid YAML; A job file is a single document"),
        ("job: {j: {meta: {a: 1, a: 2}}}", 't.yaml:1,24-25: Invalid YAML; The key "a" stands twice'),
        ("job: *x", 't.yaml:1,6-8: Invalid YAML; The anchor "x" is not defined'),
        ("job: &x {j: *x}", 'The anchor "x" is not defined before this place'),
        ("job: {<<: [1]}", "Only mappings can be merged"),
        ("job: !!python/object/apply:os.system [x]", "The tag tag:yaml.org,2002:python/object/apply:os.system is not"),
        ("job: !mine x", "The tag !mine is not supported"),
        ("job: \0", "Invalid YAML; Control characters are not allowed."),
        (b"job: \xff\xfe", "t.yaml:1,6-7: Invalid character encoding"),
        ("job: \ud800", "Invalid YAML; The text is not valid Unicode."),
        ("{" * 500, "Nested too deeply"),
        ("job:\n  j:\n    groop: {}", 't.yaml:3,5-10: Unsupported argument; An argument named "groop" is not expected'),
        ("job:\n  j:\n    priority: high", 't.yaml:3,15-19: Unsuitable value type; The argument "priority" must be'),
        ("job:\n  j:\n    name: x ${var.no}", "t.yaml:3,18-21: Unsupported attribute"),
        ('job:\n  j:\n    name: "x ${var.no}"', "t.yaml:3,19-22: Unsupported attribute"),
        ("job:\n  j:\n    name: |\n      x ${var.no}", "t.yaml:4,14-17: Unsupported attribute"),
        ("job:\n  j:\n    name: ${", "t.yaml:3,"),
        ("job:\n  j: {group: {g: {task: [x]}}}", "t.yaml:2,25-28: Incorrect JSON value type"),
        ("job: {a: {}, b: {}}", "Duplicate job block"),
    ],
)
def test_mistakes(text: str | bytes, message: str) -> None:
    assert message in complaint(text)


def test_many_mistakes_at_once() -> None:
    text = "job:\n  j:\n    what: 1\n    name: ${\n    group:\n      g:\n        count: x\n"
    assert len(complaint(text).splitlines()) == 1
    assert len(complaint(text.replace("${\n", "${local.x}\n")).splitlines()) == 3


def test_aliases_cannot_grow_without_bounds() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "more than 100000 nodes, aliases counted" in complaint("\n".join(lines))


def test_merged_mappings_count_too() -> None:
    base = "a: &a {" + ", ".join(f"k{n}: 1" for n in range(200)) + "}\n"
    merges = "b:\n" + "".join(f"  m{n}: {{<<: *a}}\n" for n in range(600))
    assert "more than 100000 nodes" in complaint(base + merges)


def test_large_files_are_refused() -> None:
    assert "at most 2 Mi characters" in complaint("a: " + "x" * 3_000_000)


def test_go_templates_pass() -> None:
    text = "job:\n  j:\n    group:\n      g:\n        task:\n          t:\n            template:\n"
    text += '              data: |\n                {{ env "X" }} %%{ $${Y}\n              destination: local/x\n'
    (template,) = parsed(text)["TaskGroups"][0]["Tasks"][0]["Templates"]
    assert template["EmbeddedTmpl"] == '{{ env "X" }} %{ ${Y}\n'


def test_positions_count_characters() -> None:
    assert complaint("job:\n  é😀:\n    'näme': 1\n    x: 1").startswith("t.yaml:3,5-11")


def test_pure_python_reader_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from nomadpy.jobspec import _yaml

    text = "job: &a\n  j: {meta: {a: 1, b: 'x ${y}'}}\n  k: [1, *b]\n".replace(", *b", "")
    fast = _yaml.parse_yaml(text, "t.yaml")
    monkeypatch.setattr(_yaml, "_Loader", yaml.SafeLoader)
    slow = _yaml.parse_yaml(text, "t.yaml")
    assert fast.json is not None
    assert slow.json is not None
    assert str(fast.range) == str(slow.range)
    assert to_python(evaluate(fast.json[0], Scope())) == to_python(evaluate(slow.json[0], Scope()))
