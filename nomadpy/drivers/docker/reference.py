"""Image references such as ``redis:7``, ``host:5000/team/app@sha256:…`` or an image id.

Source: the grammar of the distribution project's reference specification.
"""

from __future__ import annotations

import re

from docker.auth import INDEX_NAME, resolve_repository_name

from nomadpy.model.naming import Noun

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*|\[[0-9a-fA-F:]+\]"
_REFERENCE = re.compile(
    rf"(?P<repository>(?:(?:{_HOST})(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?\Z"
)
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_REPOSITORY_LENGTH = 255
LATEST = "latest"


class Reference(Noun):
    """A reference in its parts. With a digest the tag says nothing about what is meant; an id names a local image."""

    repository: str = ""
    tag: str = ""
    digest: str = ""
    image_id: str = ""

    @property
    def name(self) -> str:
        """What the engine looks the image up by.

        >>> parse_reference("redis").name
        'redis:latest'
        """
        if self.image_id:
            return self.image_id
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"

    @property
    def moving(self) -> bool:
        """Whether the same name may mean another image tomorrow, so that it is pulled even when it is here."""
        return self.tag == LATEST and not self.digest and not self.image_id

    @property
    def registry(self) -> str:
        """The key of the registry in Docker's configuration files."""
        return resolve_repository_name(self.repository)[0] if self.repository else INDEX_NAME


def parse_reference(text: str) -> Reference:
    """The parts of an image reference; the tag is ``latest`` when neither tag nor digest is given. Raises ValueError.

    >>> parse_reference("localhost:5000/a/b:1.2").tag
    '1.2'
    """
    plain = text.removeprefix("https://").removeprefix("http://")
    if _IMAGE_ID.match(plain):
        return Reference(image_id=plain)
    found = _REFERENCE.match(plain)
    if found is None or len(found["repository"]) > _MAX_REPOSITORY_LENGTH:
        raise ValueError(
            f'image "{text}" is not a valid reference; expected [host[:port]/]name[:tag][@digest] in lower case'
        )
    tag = found["tag"] or ("" if found["digest"] else LATEST)
    return Reference(repository=found["repository"], tag=tag, digest=found["digest"] or "")
