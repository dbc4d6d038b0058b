"""What the sources of artifacts mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomadpy.client.getter.source import read_source
from nomadpy.model.errors import Invalid


@pytest.mark.parametrize(
    ("written", "options", "expected"),
    [
        ("https://h/a.tgz", {}, ("http", "https://h/a.tgz", "", "tgz")),
        ("https://h/a.tar.gz?x=1&sig=a%2Fb+c", {}, ("http", "https://h/a.tar.gz?x=1&sig=a%2Fb+c", "", "tar.gz")),
        ("https://h/a?archive=zip&x=1", {"y": "z"}, ("http", "https://h/a?x=1&y=z", "", "zip")),
        ("https://h/a.zip?archive=false", {}, ("http", "https://h/a.zip", "", "")),
        ("https://h/a.zip//in/side?x=1", {}, ("http", "https://h/a.zip?x=1", "in/side", "zip")),
        ("http::http://h/a", {}, ("http", "http://h/a", "", "")),
        ("git::https://h/r.git//d?ref=v1", {"depth": "2"}, ("git", "https://h/r.git", "d", "")),
        ("git::ssh://git@h:22/o/r.git", {}, ("git", "ssh://git@h:22/o/r.git", "", "")),
        ("git@h.example:o/r.git", {}, ("git", "ssh://git@h.example/o/r.git", "", "")),
        ("git::git@h:o/r.git//x", {}, ("git", "ssh://git@h/o/r.git", "x", "")),
        ("github.com/o/r", {}, ("git", "https://github.com/o/r.git", "", "")),
        ("github.com/o/r.git/d/e?ref=x", {}, ("git", "https://github.com/o/r.git", "d/e", "")),
        ("ssh://git@h/r", {}, ("git", "ssh://git@h/r", "", "")),
    ],
)
def test_sources(written: str, options: dict[str, str], expected: tuple[str, str, str, str]) -> None:
    source = read_source(written, options)
    assert (source.getter, source.url, source.subdir, source.archive) == expected


def test_what_is_for_git_is_taken_out() -> None:
    source = read_source("git::https://u:secret@h/r.git?ref=v1", {"depth": "2", "sshkey": "a2V5"})
    assert (source.ref, source.depth, source.sshkey, source.shown) == ("v1", 2, "a2V5", "https://h/r.git")


@pytest.mark.parametrize(
    ("written", "options", "said"),
    [
        ("file:///etc/passwd", {}, "not permitted"),
        ("file::/etc/passwd", {}, "not permitted"),
        ("/etc/passwd", {}, "not permitted"),
        ("../x", {}, "not permitted"),
        ("git::file:///srv/r", {}, "not permitted"),
        ("git::/srv/r", {}, "is of no known kind"),
        ("git::ext::sh -c x", {}, "is of no known kind"),
        ("git::ssh://-oProxyCommand=x/r", {}, "names no host"),
        ("s3::https://s3.amazonaws.com/b/k", {}, "s3 (s3::) are not supported by this version"),
        ("b.s3-eu-west-1.amazonaws.com/k", {}, "s3 are not supported"),
        ("gcs::https://www.googleapis.com/storage/v1/b/k", {}, "not supported by this version"),
        ("www.googleapis.com/storage/v1/b/k", {}, "not supported by this version"),
        ("hg::http://h/r", {}, "Mercurial"),
        ("ftp://h/a", {}, "is of no known kind"),
        ("https://h/a//../b", {}, "must not contain .."),
        ("https://h/a", {"checksum": "md5:12"}, "as many hexadecimal digits"),
        ("https://h/a", {"archive": "rar"}, "is unknown; there are false"),
        ("git::https://h/r", {"ref": "--upload-pack=x"}, "is not a name of a commit"),
        ("git::https://h/r", {"depth": "-1"}, "is not a whole number"),
        ("git::https://h/r", {"checksum": "md5:" + "0" * 32}, "only for files"),
    ],
)
def test_sources_that_are_refused(written: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(Invalid) as caught:
        read_source(written, options)
    assert said in caught.value.message


@given(
    st.text(alphabet="abgit:/.@-?=&#[]%\n\0é ", max_size=30), st.dictionaries(st.text(max_size=3), st.text(max_size=3))
)
def test_any_source_is_read_or_refused(written: str, options: dict[str, str]) -> None:
    try:
        assert read_source(written, options).url
    except Invalid:
        pass
