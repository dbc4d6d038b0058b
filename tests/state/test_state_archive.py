"""An archive comes back as it was packed, and nothing that was changed on the way passes."""

from __future__ import annotations

import gzip
import io
import tarfile

import pytest

from nomadpy.model.errors import Invalid
from nomadpy.state.archive import SnapshotMeta, pack, unpack

META = SnapshotMeta(id="2-7", index=7, term=2, cluster_id="c")


def test_an_archive_comes_back_and_has_the_usual_layout() -> None:
    data = pack(META, b"state" * 1000)
    found = unpack(data)
    assert found.state == b"state" * 1000
    assert found.meta == META.replace(size=5000)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
        assert tar.getnames() == ["meta.json", "state.bin", "SHA256SUMS"]


def test_an_archive_that_is_cut_off_anywhere_is_refused() -> None:
    data = pack(META, bytes(range(256)) * 4)
    for length in range(0, len(data), 5):
        with pytest.raises(Invalid):
            unpack(data[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello", "no gzip archive"),
        (gzip.compress(b"hello"), "no tar archive"),
        (gzip.compress(b"\0" * 10240), "holds no meta.json"),
    ],
)
def test_what_is_no_archive_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        unpack(data)


@pytest.mark.parametrize("name", ["meta.json", "state.bin"])
def test_a_changed_file_is_refused_by_its_checksum(name: str) -> None:
    changed = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(pack(META, b"state")), mode="r:gz") as old,
        tarfile.open(fileobj=changed, mode="w:gz") as new,
    ):
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data = file.read()
            if member.name == name:
                data = data[:-1] + b"?"
            new.addfile(member, io.BytesIO(data))
    with pytest.raises(Invalid, match=f"damaged: {name} does not have the checksum"):
        unpack(changed.getvalue())
