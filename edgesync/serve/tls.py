"""TLS of doors that have a certificate of their own."""

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edgesync.errors import ConfigError
from edgesync.serve.followed import FollowedFiles


class Certified(Protocol):
    """A section of the settings that names the files, relative to the settings' folder."""

    @property
    def certificate(self) -> str: ...
    @property
    def key(self) -> str: ...


class DoorTls(FollowedFiles[ssl.SSLContext]):
    """What a door speaks TLS with, as long as its files say so; raises ConfigError.

    name      of the section, for errors
    current   for connections that come now
    """

    what = "certificates"

    def __init__(self, section: Certified, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._certificate, self._key = folder / section.certificate, folder / section.key
        super().__init__()

    @property
    def files(self) -> Sequence[Path]:
        return self._certificate, self._key

    def read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # what many devices speak
        for field, path in (("certificate", self._certificate), ("key", self._key)):
            self.expect_file(field, path)
        try:
            # Without a password the key's would be asked for on the terminal.
            context.load_cert_chain(self._certificate, self._key, password="")
        except (OSError, ssl.SSLError) as error:
            raise self.unusable(
                "certificate", error,
                "both files are in PEM format, and the key is that of the certificate",
            ) from error  # fmt: skip
        return context

    def expect_file(self, field: str, path: Path) -> None:
        if not path.is_file():
            raise ConfigError(
                file="settings", field=f"{self._name}.{field}", problem=f"{path} is not there",
                remedy="name a file in PEM format, relative to edge.toml",
            )  # fmt: skip

    def unusable(self, field: str, error: Exception, remedy: str) -> ConfigError:
        return ConfigError(
            file="settings", field=f"{self._name}.{field}", problem=f"cannot be used: {error}",
            remedy=remedy,
        )  # fmt: skip
