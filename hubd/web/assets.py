"""Fetches the browser libraries the dashboard uses, at build time: `python -m hubd.web.assets`.

They are other people's files, so they are not kept in the repository: each package is pinned by
version and by the SHA-512 of its archive, fetched by `npm pack` (which knows the user's registry,
proxy and credentials), and of its files only those needed are unpacked, with their licence.
"""

import base64
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

VENDOR: Final = Path(__file__).parent / "static" / "vendor"
# Which packages the files came from: another pin makes them be fetched anew.
STAMP: Final = "packages.json"
NPM_LIMIT_S: Final = 120
FILE_LIMIT_BYTES: Final = 1 << 20


class Package(NamedTuple):
    """`files` maps names in the archive, without its leading `package/`, to names in `vendor/`."""

    name: str
    version: str
    sha512: str
    files: dict[str, str]


PACKAGES: Final = (
    Package(
        "htmx.org",
        "4.0.1",
        "oF7JgXhDW9UXCy/k1ZYFUQgzu/rm19ORWPSPNL91vPluB2PB9+MV55tyQdH/w7o2EAbTYUG5SDW1R60mdkdqGg==",
        {
            "dist/htmx.min.js": "htmx.min.js",
            "dist/ext/hx-sse.min.js": "hx-sse.min.js",
            "LICENSE": "htmx.LICENSE",
        },
    ),
    Package(
        "uplot",
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
        {
            "dist/uPlot.iife.min.js": "uPlot.min.js",
            "dist/uPlot.min.css": "uPlot.min.css",
            "LICENSE": "uPlot.LICENSE",
        },
    ),
)


class AssetError(Exception):
    """The files could not be had; the message says what to do about it."""


def are_present(vendor: Path = VENDOR) -> bool:
    stamp = vendor / STAMP
    if not stamp.is_file() or stamp.read_text() != _stamp():
        return False
    return all((vendor / file).is_file() for one in PACKAGES for file in one.files.values())


def fetch(vendor: Path = VENDOR) -> None:
    """Put the files into `vendor`; does nothing when they are there. Raises AssetError."""
    if are_present(vendor):
        return
    vendor.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        for name, content in unpack(package, _download(package)).items():
            (vendor / name).write_bytes(content)
    (vendor / STAMP).write_text(_stamp())


def unpack(package: Package, archive: bytes) -> dict[str, bytes]:
    """The wanted files of the archive, once its digest is the pinned one; raises AssetError."""
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != package.sha512:
        raise AssetError(
            f"{package.name} {package.version} is not what was pinned (sha512 {found}); "
            "do not use it, find out who changed it"
        )
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {target: _member(tar, f"package/{name}") for name, target in package.files.items()}


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        content = tar.extractfile(name)
    except KeyError:
        content = None
    if content is None:
        raise AssetError(f"the archive has no file {name}")
    return content.read(FILE_LIMIT_BYTES)


def _download(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        try:
            subprocess.run(
                command, cwd=folder, check=True, timeout=NPM_LIMIT_S, stdout=subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise AssetError("npm is not installed; on Debian: apt install npm") from error
        except subprocess.SubprocessError as error:
            raise AssetError(f"npm could not fetch {package.name}: {error}") from error
        (archive,) = Path(folder).glob("*.tgz")
        return archive.read_bytes()


def _stamp() -> str:
    return json.dumps({one.name: one.version for one in PACKAGES}, indent=1)


def main() -> int:
    try:
        fetch()
    except AssetError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
