"""Canonical layout."""

from __future__ import annotations

import pytest

from nomadpy.jobspec import hcl

MESSY = """job   "x"  {
datacenters=["dc1","dc2",]   # where
type  = "service" // what
  group "a" { count=1 }

      task "t" {
 config={
a=1
long_name   =   2
}
data=<<EOF
   kept   as   is ${ x  }
EOF
  z = a?b : -c
x=[for k,v in y:k if(v>1)]
o = {for k,v in y:k=>v...}
f = upper( "a" ,foo . bar[ 0 ] )
n = ! a&&b
/* block
   comment */
}
}
"""
CLEAN = """job "x" {
  datacenters = ["dc1", "dc2", ] # where
  type        = "service"        // what
  group "a" { count = 1 }

  task "t" {
    config = {
      a         = 1
      long_name = 2
    }
    data = <<EOF
   kept   as   is ${ x  }
EOF
    z = a ? b : -c
    x = [for k, v in y : k if (v > 1)]
    o = { for k, v in y : k => v... }
    f = upper("a", foo.bar[0])
    n = !a && b
    /* block
   comment */
  }
}
"""


def test_layout() -> None:
    assert hcl.format(MESSY) == CLEAN


def test_layout_is_stable() -> None:
    assert hcl.format(hcl.format(MESSY)) == hcl.format(MESSY)


def test_a_gap_ends_an_aligned_run() -> None:
    assert hcl.format("a=1\nbbb=2\n\ncc=3\n") == "a   = 1\nbbb = 2\n\ncc = 3\n"


def test_windows_line_ends_become_newlines_except_in_heredocs() -> None:
    assert hcl.format("a=1\r\nb=<<E\r\nx\r\nE\r\n") == "a = 1\nb = <<E\r\nx\r\nE\n"


def test_invalid_syntax_is_refused() -> None:
    with pytest.raises(hcl.HclErrors):
        hcl.format("a = ")
