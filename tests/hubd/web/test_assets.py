"""The browser's libraries are exactly those that were pinned."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from hubd.web import assets
from hubd.web.assets import AssetError, Package


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def package_for(archive: bytes) -> Package:
    digest = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    return Package("some-library", "1.2.3", digest, {"dist/lib.js": "lib.js"})


def test_only_what_is_wanted_is_unpacked() -> None:
    archive = archive_of({"package/dist/lib.js": b"js", "package/../../etc/passwd": b"no"})
    assert assets.unpack(package_for(archive), archive) == {"lib.js": b"js"}


def test_another_archive_is_refused() -> None:
    archive = archive_of({"package/dist/lib.js": b"js"})
    with pytest.raises(AssetError, match="not what was pinned"):
        assets.unpack(package_for(archive), archive + b" ")


def test_a_missing_file_is_named() -> None:
    archive = archive_of({"package/dist/other.js": b"js"})
    with pytest.raises(AssetError, match=r"lib\.js"):
        assets.unpack(package_for(archive), archive)


def test_a_missing_npm_is_told_how_to_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AssetError, match="apt install npm"):
        assets.fetch(tmp_path / "vendor")


def test_files_of_other_versions_are_fetched_again(tmp_path: Path) -> None:
    assets.fetch()
    for name in (file for one in assets.PACKAGES for file in one.files.values()):
        (tmp_path / name).write_bytes((assets.VENDOR / name).read_bytes())
    assert not assets.are_present(tmp_path)
    (tmp_path / assets.STAMP).write_text((assets.VENDOR / assets.STAMP).read_text())
    assert assets.are_present(tmp_path)
    (tmp_path / assets.STAMP).write_text("{}")
    assert not assets.are_present(tmp_path)
