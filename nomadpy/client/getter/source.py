"""What the ``source`` and ``options`` of an artifact mean: go-getter's URLs.

``[getter::]URL[//subdirectory][?options]``; a few options are for us and are taken out of the URL, all others stay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from nomadpy.model.errors import Invalid

HTTP, GIT = "http", "git"
# Longer endings first: ".tar.gz" is not a ".gz".
ARCHIVES = (
    "tar.bz2",
    "tar.gz",
    "tar.xz",
    "tar.zst",
    "tbz2",
    "tgz",
    "txz",
    "tzst",
    "tar",
    "zip",
    "bz2",
    "gz",
    "xz",
    "zst",
)
CHECKSUM_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}

_FORCED = re.compile(r"([A-Za-z0-9]+)::(.+)", re.DOTALL)
_SCP_LIKE = re.compile(r"([A-Za-z0-9_.-]+)@([A-Za-z0-9.-]+):(?!//)(.+)")
_HOSTED = re.compile(r"(github\.com|gitlab\.com|bitbucket\.org)/([^/]+)/([^/?]+)(/[^?]*)?(\?.*)?")
_OTHERS = {"s3": "s3", "gcs": "gcs", "hg": "Mercurial"}


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A source taken apart. ``archive`` is an entry of ARCHIVES or ""; ``checksum`` is (kind, hexadecimal)."""

    getter: str
    url: str
    subdir: str = ""
    archive: str = ""
    filename: str = ""
    checksum: tuple[str, str] | None = None
    ref: str = ""
    depth: int = 0
    sshkey: str = ""

    @property
    def shown(self) -> str:
        """The URL without what may be secret: password and query."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit((parts.scheme, host, parts.path, "", ""))

    @property
    def basename(self) -> str:
        """The name that a file of this source gets."""
        name = self.filename or unquote(urlsplit(self.url).path).rstrip("/").rpartition("/")[2]
        if not name or name in (".", "..") or "/" in name or "\0" in name:
            raise Invalid(f"artifact {self.shown}: the URL names no file; set the option filename")
        return name


def read_source(written: str, options: Mapping[str, str]) -> Source:
    """The source that a job wrote, with its options. Raises Invalid for what cannot be fetched, and why."""
    getter, url = _getter_of(written.strip())
    url, subdir = _split_subdir(url)
    parts = urlsplit(url)
    if not parts.hostname or parts.hostname.startswith("-"):
        raise Invalid(f'artifact source "{_without_query(written)}" names no host')
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *options.items()]
    ours = ("archive", "checksum", *_OURS[getter])
    taken = {name: dict(pairs).get(name, "") for name in ours}
    left = [(name, value) for name, value in pairs if name not in ours]
    # A query that holds nothing of ours goes out as it was written, as it may be signed.
    query = urlencode(left) if options or len(left) < len(pairs) else parts.query
    plain = urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
    if getter == GIT and taken["checksum"]:
        raise Invalid("artifact option checksum is only for files, not for git")
    return Source(
        getter=getter,
        url=plain,
        subdir=subdir,
        archive=_archive(taken["archive"], parts.path) if getter == HTTP else "",
        filename=taken.get("filename", ""),
        checksum=_checksum(taken["checksum"]),
        ref=_ref(taken.get("ref", "")),
        depth=_depth(taken.get("depth", "")),
        sshkey=taken.get("sshkey", ""),
    )


_OURS = {HTTP: ("filename",), GIT: ("ref", "depth", "sshkey")}


def _without_query(written: str) -> str:
    return written.split("?", 1)[0]


def _getter_of(written: str) -> tuple[str, str]:
    """(getter, URL with a scheme that it understands)."""
    forced = _FORCED.fullmatch(written)
    name, url = (forced[1].lower(), forced[2]) if forced else ("", written)
    if name in _OTHERS:
        raise Invalid(f"artifacts from {_OTHERS[name]} ({name}::) are not supported by this version")
    if (scp := _SCP_LIKE.fullmatch(url)) is not None and name in ("", GIT):
        return GIT, f"ssh://{scp[1]}@{scp[2]}/{scp[3].lstrip('/')}"
    if not name and (hosted := _HOSTED.fullmatch(url)) is not None:
        repository = hosted[3].removesuffix(".git")
        inner = "/" + hosted[4] if hosted[4] and hosted[4].strip("/") else ""
        return GIT, f"https://{hosted[1]}/{hosted[2]}/{repository}.git{inner}{hosted[5] or ''}"
    if not name and re.match(r"[^/]*(\.s3[.-][^/]*amazonaws\.com|s3[.-][^/]*amazonaws\.com)/", url):
        raise Invalid("artifacts from s3 are not supported by this version")
    if not name and url.startswith("www.googleapis.com/storage/"):
        raise Invalid("artifacts from gcs are not supported by this version")
    scheme = url.split("://", 1)[0].lower() if "://" in url else ""
    name = name or (HTTP if scheme in ("http", "https") else GIT if scheme in ("ssh", "git") else scheme or "file")
    return _allowed(name, scheme, written), url


def _allowed(name: str, scheme: str, written: str) -> str:
    if name == "file" or scheme == "file":
        raise Invalid(f'artifact source "{_without_query(written)}": files of the host are not permitted')
    if name in ("http", "https") and scheme in ("http", "https"):
        return HTTP
    if name == GIT and scheme in ("http", "https", "ssh"):
        return GIT
    if name in _OTHERS:
        raise Invalid(f"artifacts from {_OTHERS[name]} are not supported by this version")
    raise Invalid(
        f'artifact source "{_without_query(written)}" is of no known kind; '
        "http, https, git::http, git::https and git::ssh are supported"
    )


def _split_subdir(url: str) -> tuple[str, str]:
    """The URL and what stands behind the ``//`` in its path."""
    plain, mark, query = url.partition("?")
    start = plain.index("://") + 3 if "://" in plain else 0
    at = plain.find("//", start)
    if at < 0:
        return url, ""
    subdir = plain[at + 2 :].strip("/")
    if ".." in subdir.split("/"):
        raise Invalid(f'artifact subdirectory "{subdir}" must not contain ..')
    return plain[:at] + mark + query, subdir


def _archive(option: str, path: str) -> str:
    if option.lower() in ("false", "0", "f"):
        return ""
    if option and option.lower() not in ("true", "1", "t"):
        if option not in ARCHIVES:
            raise Invalid(f'artifact option archive = "{option}" is unknown; there are false, {", ".join(ARCHIVES)}')
        return option
    return next((ending for ending in ARCHIVES if path.endswith(f".{ending}")), "")


def _checksum(option: str) -> tuple[str, str] | None:
    if not option:
        return None
    kind, colon, digits = option.partition(":")
    if not colon:
        digits = kind
        kind = next((name for name, length in CHECKSUM_LENGTHS.items() if length == len(digits)), "")
    if kind == "file":
        raise Invalid("artifact option checksum: file: is not supported by this version; write the digits themselves")
    if CHECKSUM_LENGTHS.get(kind) != len(digits) or not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise Invalid("artifact option checksum must be md5:, sha1:, sha256: or sha512: and as many hexadecimal digits")
    return kind, digits.lower()


def _ref(option: str) -> str:
    # A name that begins with a dash would be read as an option by git.
    if option.startswith("-") or any(ord(char) < 33 for char in option):
        raise Invalid(f"artifact option ref = {option!r} is not a name of a commit, branch or tag")
    return option


def _depth(option: str) -> int:
    if option and not (option.isascii() and option.isdecimal() and len(option) < 8):
        raise Invalid(f'artifact option depth = "{option}" is not a whole number')
    return int(option or 0)
