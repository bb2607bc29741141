"""Fetch the browser libraries the dashboard uses, at build time: `python -m hubd.web.assets`.

They are other people's files, so they are not kept in the repository. They are taken out of two
wheels that carry them, fetched by pip (which knows the user's index, proxy and certificates), each
pinned by version and by the SHA-256 of the wheel: a build needs no Node.js. A source distribution
and a wheel of edgesync have the files in them (setup.py), so installing one fetches nothing.
"""

import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

VENDOR: Final = Path(__file__).parent / "static" / "vendor"
# Which packages the files came from: another pin makes them be fetched anew.
STAMP: Final = "packages.json"
PIP_LIMIT_S: Final = 300
FILE_LIMIT_BYTES: Final = 1 << 20

MIT: Final = """\
{what}: {copyright}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or
substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM,
DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT
OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


class Package(NamedTuple):
    """A wheel that carries files of a browser library.

    files    names in the wheel, to names in `vendor/`
    licence  written beside them as NAME.LICENSE: the wheel's own licence is not the library's
    """

    name: str
    version: str
    sha256: str
    files: dict[str, str]
    licence: tuple[str, str]


PACKAGES: Final = (
    Package(
        "django-htmx",
        "1.29.0",
        "0ec5be1645ed71e6787bd75e0250624f00274ac3bb1730f07b6629a95688929b",
        {
            "django_htmx/static/django_htmx/htmx-4.min.js": "htmx.min.js",
            "django_htmx/static/django_htmx/ext/hx-sse-4.min.js": "hx-sse.min.js",
        },
        ("htmx.LICENSE", "htmx: Zero-Clause BSD, Copyright (c) 2020 Big Sky Software\n"),
    ),
    Package(
        "better-rtplot",
        "0.6.1",
        "0390a90d6dc62d45a4df1a54e5d65161b97471e86d2827e784d75f5a2e882aac",
        {
            "rtplot/static/uPlot.iife.min.js": "uPlot.min.js",
            "rtplot/static/uPlot.min.css": "uPlot.min.css",
        },
        ("uPlot.LICENSE", MIT.format(what="uPlot", copyright="Copyright (c) 2022 Leon Sorokin")),
    ),
)


class AssetError(Exception):
    """The files could not be had; the message says what to do about it."""


def are_present(vendor: Path = VENDOR) -> bool:
    stamp = vendor / STAMP
    if not stamp.is_file() or stamp.read_text() != _stamp():
        return False
    return all((vendor / file).is_file() for each in PACKAGES for file in each.files.values())


def fetch(vendor: Path = VENDOR) -> None:
    """Put the files into `vendor`; do nothing when they are there. Raises AssetError."""
    if are_present(vendor):
        return
    vendor.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        for name, content in unpack(package, _download(package)).items():
            (vendor / name).write_bytes(content)
        licence, text = package.licence
        (vendor / licence).write_text(text)
    (vendor / STAMP).write_text(_stamp())


def unpack(package: Package, wheel: bytes) -> dict[str, bytes]:
    """Return the wanted files of the wheel if its digest is the pinned one; raises AssetError."""
    digest = hashlib.sha256(wheel).hexdigest()
    if digest != package.sha256:
        raise AssetError(
            f"{package.name} {package.version} is not what was pinned (sha256 {digest}); "
            "do not use it, find out who changed it"
        )
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        return {target: _member(archive, name) for name, target in package.files.items()}


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as content:
            return content.read(FILE_LIMIT_BYTES)
    except KeyError:
        raise AssetError(f"the wheel has no file {name}") from None


def _download(package: Package) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary", ":all:", "--dest", folder),
            f"{package.name}=={package.version}",
        ]
        try:
            subprocess.run(command, check=True, timeout=PIP_LIMIT_S, stdout=subprocess.DEVNULL)
        except subprocess.SubprocessError as error:
            raise AssetError(
                f"pip could not fetch {package.name} {package.version} ({error}); "
                "connect to a package index and try again"
            ) from error
        (wheel,) = Path(folder).glob("*.whl")
        return wheel.read_bytes()


def _stamp() -> str:
    return json.dumps({each.name: each.version for each in PACKAGES}, indent=1)


def main() -> int:
    try:
        fetch()
    except AssetError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
