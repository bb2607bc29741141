"""The firmware or software a device is to have, by its shared attributes.   [sans-IO]

ThingsBoard sets them: `fw_title`, `fw_version`, `fw_checksum`, `fw_checksum_algorithm`, `fw_size`;
or `sw_…`.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

DIGITS_MAX: Final = 9  # of a chunk's number and size
INT_MAX: Final = 1 << 64
ALGORITHMS: Final[Mapping[str, str]] = {
    "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512", "MD5": "md5",
}  # fmt: skip
ATTRIBUTES: Final = ("title", "version", "checksum", "checksum_algorithm", "size")


class NoPackage(Exception):
    """There is nothing to send; the text says why."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package for a device; `kind` is fw or sw."""

    kind: str
    title: str
    version: str
    checksum: str
    algorithm: str
    size: int | None

    @classmethod
    def assigned(cls, kind: str, attributes: Mapping[str, Any]) -> "Package":
        """Return what a device's shared attributes say; raises NoPackage."""
        title, version, checksum, algorithm, size = (
            attributes.get(f"{kind}_{name}") for name in ATTRIBUTES
        )
        found = {"title": title, "version": version, "checksum": checksum}
        for name, value in found.items():
            if value is None:
                raise NoPackage(f"{kind}_{name} is no shared attribute of this device")
            if type(value) is int and abs(value) < INT_MAX:
                found[name] = str(value)
            elif type(value) is int:
                raise NoPackage(f"{kind}_{name} is a number too large; write it as text")
            elif not isinstance(value, str) or not value.isprintable():
                # A lone surrogate, say, of which no name of a file can be made.
                raise NoPackage(f"{kind}_{name} is {value!r:.40}; write it as text")
        named = algorithm or "SHA256"
        named = named.upper() if isinstance(named, str) else "NO TEXT"
        if named not in ALGORITHMS:
            raise NoPackage(
                f"{kind}_checksum_algorithm is {named[:40]!a}; known are {', '.join(ALGORITHMS)}"
            )
        if size is not None and (type(size) is not int or abs(size) >= INT_MAX):
            raise NoPackage(f"{kind}_size is no number of bytes")
        return cls(
            kind=kind, title=str(found["title"]), version=str(found["version"]),
            checksum=str(found["checksum"]).lower(), algorithm=ALGORITHMS[named], size=size,
        )  # fmt: skip


def attribute_names(kind: str) -> list[str]:
    return [f"{kind}_{name}" for name in ATTRIBUTES]
