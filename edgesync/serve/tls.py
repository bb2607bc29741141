"""TLS of doors that have a certificate of their own."""

import ssl
from pathlib import Path
from typing import Protocol

from edgesync.errors import ConfigError


class Certified(Protocol):
    """A section of the settings that names the files, relative to the settings' folder."""

    @property
    def certificate(self) -> str: ...
    @property
    def key(self) -> str: ...


def server_tls(section: Certified, name: str, folder: Path) -> ssl.SSLContext:
    """Return what a door speaks TLS with; raises ConfigError, which names `[name]`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # what many devices speak
    certificate, key = folder / section.certificate, folder / section.key
    for field, path in (("certificate", certificate), ("key", key)):
        if not path.is_file():
            raise ConfigError(
                file="settings", field=f"{name}.{field}", problem=f"{path} is not there",
                remedy="name a file in PEM format, relative to edge.toml",
            )  # fmt: skip
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            file="settings", field=f"{name}.certificate", problem=f"cannot be used: {error}",
            remedy="both files are in PEM format, and the key is that of the certificate",
        ) from error  # fmt: skip
    return context
