"""The browser's libraries are exactly those that were pinned."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

from hubd.web import assets
from hubd.web.assets import AssetError, Package


def wheel_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def package_for(wheel: bytes) -> Package:
    digest = hashlib.sha256(wheel).hexdigest()
    return Package("some-carrier", "1.2.3", digest, {"a/lib.js": "lib.js"}, ("lib.LICENSE", "free"))


def test_only_what_is_wanted_is_unpacked() -> None:
    wheel = wheel_of({"a/lib.js": b"js", "../../etc/passwd": b"no"})
    assert assets.unpack(package_for(wheel), wheel) == {"lib.js": b"js"}


def test_another_wheel_is_refused() -> None:
    wheel = wheel_of({"a/lib.js": b"js"})
    with pytest.raises(AssetError, match="not what was pinned"):
        assets.unpack(package_for(wheel), wheel + b" ")


def test_a_missing_file_is_named() -> None:
    wheel = wheel_of({"a/other.js": b"js"})
    with pytest.raises(AssetError, match=r"lib\.js"):
        assets.unpack(package_for(wheel), wheel)


@pytest.mark.slow
def test_without_an_index_the_error_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(AssetError, match="connect to a package index"):
        assets.fetch(tmp_path / "vendor")


@pytest.mark.slow
def test_a_source_distribution_carries_the_files() -> None:
    """What a user installs from it has a dashboard that works, without fetching anything."""
    root = Path(assets.__file__).parents[2]
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--formats=tar", "--dist-dir"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*command, folder], cwd=root, check=True, capture_output=True)
        (archive,) = Path(folder).glob("*.tar")
        with tarfile.open(archive) as tar:
            names = {name.partition("/")[2] for name in tar.getnames()}
    for package in assets.PACKAGES:
        for file in (*package.files.values(), package.licence[0]):
            assert f"hubd/web/static/vendor/{file}" in names
    assert f"hubd/web/static/vendor/{assets.STAMP}" in names


def test_files_of_other_versions_are_fetched_again(tmp_path: Path) -> None:
    assets.fetch()
    for name in (file for each in assets.PACKAGES for file in each.files.values()):
        (tmp_path / name).write_bytes((assets.VENDOR / name).read_bytes())
    assert not assets.are_present(tmp_path)
    (tmp_path / assets.STAMP).write_text((assets.VENDOR / assets.STAMP).read_text())
    assert assets.are_present(tmp_path)
    (tmp_path / assets.STAMP).write_text("{}")
    assert not assets.are_present(tmp_path)
